"""The agent: opens this machine's encrypted disks at boot, and carries out what operators ask for."""
