"""Which boot of a host a request comes from: in its body, or in a header field beside it."""

from __future__ import annotations

import re
from typing import Any, Final

from keybroker.wire import names
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass

HEADER: Final = "Keybroker-Boot"
"""A request's header field: boot id, a space, machine id. Brokers of before let it go unread."""

WRITTEN: Final = re.compile(f"({names.UUID.pattern}) ({names.MACHINE_ID.pattern})")


@dataclass(frozen=True, slots=True)
class AskingBoot:
    """Which boot of which machine asks; attributes as in ``UnlockRequest``."""

    boot_id: str
    machine_id: str

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"boot_id": self.boot_id, "machine_id": self.machine_id}

    @property
    def written(self) -> str:
        """What stands in the header field."""
        return f"{self.boot_id} {self.machine_id}"

    @classmethod
    def parse(cls, text: str) -> AskingBoot:
        """Read the header field (MALFORMED otherwise)."""
        if WRITTEN.fullmatch(text) is None:
            raise KeybrokerError(Problem.MALFORMED, f"request: {HEADER} must be a boot id and a machine id")
        boot_id, _, machine_id = text.partition(" ")
        return cls(boot_id, machine_id)

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
