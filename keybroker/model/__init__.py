"""What volumes, their keys and their orders may do: pure transitions, each from a value to a value."""

from keybroker.model.deletion import Deletion
from keybroker.model.keyring import Keyring, Retired
from keybroker.model.volume import Volume

__all__ = ["Deletion", "Keyring", "Retired", "Volume"]
