"""Headers that other versions of cryptsetup wrote, and how to make them again."""
