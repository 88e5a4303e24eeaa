"""What an operator wants done to a volume, beyond a new passphrase: the order, one at a time.

    operator ── PUT …/order ──▶ broker ── in every record ──▶ agent ── DELETE …/order/{number} when it is done

| kind | the agent | phases |
|---|---|---|
| reencrypt | gives the volume a new volume key, in place and online | ordered, begun |
| migrate | moves it to its successor's disk, under a new passphrase and a new volume key | ordered |
| encrypt | encrypts a plain disk in place (with a successor, it is a migration) | ordered, begun |
| resize | lets volume and filesystem take all of a disk that has grown | ordered |
| erase | destroys every keyslot and header copy; nothing opens the data any more | ordered |

``begun`` is said before the first write that leaves a header in between, and from then on such a header is
expected at a boot; before it, a header with a requirement is a forgery. Of a plain disk it is expected once
the order has the ``digest``, which comes with the header's copy: until then the disk is as plain as ever.
Rotation needs no order: it is ``wanted``, a key version, in the record itself.
"""

from __future__ import annotations

from typing import Any, Final, Literal, cast

from keybroker.wire.fields import Fields
from keybroker.wire.profile import DIGEST
from keybroker.wire.values import dataclass

OrderKind = Literal["reencrypt", "migrate", "encrypt", "resize", "erase"]
ORDER_KINDS: Final = frozenset({"reencrypt", "migrate", "encrypt", "resize", "erase"})

Phase = Literal["ordered", "begun"]
PHASES: Final = frozenset({"ordered", "begun"})

AtBoot = Literal["before", "beside"]
AT_BOOT: Final = frozenset({"before", "beside"})

ONGOING: Final = frozenset({"online-reencrypt-v2", "online-reencrypt-v3"})
"""The requirements that a re-encryption leaves in a header until it is done; cryptsetup 2.6 writes the first,
newer ones the second where they need it. An encryption in place leaves the same ones."""

SLOWEST: Final = 64 << 10
"""Bytes a second: the least that ``--rate`` may be; slower ones never end."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order for one volume.

    Attributes:
        number: 1, 2, 3 … of one volume, never used again.
        phase: how far it has gone at the broker (the table above).
        digest: of the volume key that the header is on its way to, as ``Pin.digest``; None until it is known.
        rate: most bytes a second; None for as fast as the volume's users leave room for.
        at_boot: whether what a power cut interrupted is finished before the database starts, or beside it.
        offline: migrate while nothing uses the volume, instead of under it.
        drop_foreign: let keyslots and tokens of others be lost where the order cannot keep them.
        backed_up: the operator says that there is a backup; nothing is encrypted in place without that word.
    """

    number: int
    kind: OrderKind
    phase: Phase = "ordered"
    digest: str | None = None
    rate: int | None = None
    at_boot: AtBoot = "beside"
    offline: bool = False
    drop_foreign: bool = False
    backed_up: bool = False

    @property
    def is_reencrypting(self) -> bool:
        """Say whether a re-encryption was announced, so that its traces in the header are to be expected.

        An encryption in place counts as one from the moment on that the broker has its header.
        """
        if self.phase != "begun":
            return False
        return self.kind == "reencrypt" or (self.kind == "encrypt" and self.digest is not None)

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "number": self.number,
            "kind": self.kind,
            "phase": self.phase,
            "digest": self.digest,
            "rate": self.rate,
            "at_boot": self.at_boot,
            "offline": self.offline,
            "drop_foreign": self.drop_foreign,
            "backed_up": self.backed_up,
        }

    @classmethod
    def read(cls, fields: Fields) -> Order:
        """Read the wire form (MALFORMED otherwise); a newer broker's extra fields are let go."""
        order = cls(
            number=fields.number("number", least=1),
            kind=cast(OrderKind, fields.choice("kind", ORDER_KINDS)),
            phase=cast(Phase, fields.choice("phase", PHASES)),
            digest=fields.optional("digest", lambda key: fields.text(key, match=DIGEST)),
            rate=fields.optional("rate", lambda key: fields.number(key, least=SLOWEST)),
            at_boot=cast(AtBoot, fields.choice("at_boot", AT_BOOT)),
            offline=fields.flag("offline"),
            drop_foreign=fields.flag("drop_foreign"),
            backed_up=fields.flag("backed_up"),
        )
        fields.ignore_rest()
        return order
