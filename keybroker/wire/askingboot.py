"""Which boot a request for one key comes from."""

from __future__ import annotations

from typing import Any

from keybroker.wire import names
from keybroker.wire.fields import Fields
from keybroker.wire.values import dataclass


@dataclass(frozen=True, slots=True)
class AskingBoot:
    """Which boot of which machine asks for a key; attributes as in ``UnlockRequest``."""

    boot_id: str
    machine_id: str

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"boot_id": self.boot_id, "machine_id": self.machine_id}

    @classmethod
    def read(cls, fields: Fields) -> AskingBoot:
        """Read the wire form (MALFORMED otherwise)."""
        boot = cls(
            fields.text("boot_id", match=names.UUID), fields.text("machine_id", match=names.MACHINE_ID)
        )
        fields.end()
        return boot


def named_boot(boot: AskingBoot | None) -> dict[str, Any]:
    """Return the field ``boot`` of a request; nothing where it is not said."""
    return {} if boot is None else {"boot": boot.as_json()}


def asking_boot(fields: Fields) -> AskingBoot | None:
    """Take the field ``boot`` of a request; None where it is not said."""
    return fields.optional("boot", lambda key: AskingBoot.read(fields.object(key)))
