"""LUKS2: what a header says, whether it may be trusted, and the cryptsetup calls on it."""
