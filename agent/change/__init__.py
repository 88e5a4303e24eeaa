"""Changes of volumes that are in use: rotation, re-encryption, migration, erasure; one step is one effect."""
