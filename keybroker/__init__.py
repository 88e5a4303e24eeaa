"""Keybroker: a broker that keeps disk passphrases, and an agent that opens disks with them."""

__version__ = "0.1.0"
