"""What the store holds for the day when something is lost: offline keys, restores, hosts that are ahead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keybroker import cursor
from keybroker.wire.names import AddonName, HostId, KeyVersion, VolumeId
from keybroker.wire.receipt import MAIN


@dataclass(frozen=True, slots=True)
class RecoveryKeyRow:
    """The public half of an offline recovery key.

    Attributes:
        number: 1, 2, 3 …; the newest counts.
        recipients: age recipients, one a line; each of them alone opens what is encrypted to them.
        wrapped: their SHA-256, by the master key called ``master``: whoever can only write to the
            database cannot have passphrases encrypted to a key of his own.
    """

    number: int
    recipients: str
    wrapped: bytes
    master: str
    created: datetime


@dataclass(frozen=True, slots=True)
class RecoveryRow:
    """A key version, encrypted to the offline recovery key.

    Attributes:
        key: number of that recovery key.
        ciphertext: as in ``wire.recovery.Recovery``.
        wrapped: its SHA-256, for this very volume and version, by the add-on's key.
    """

    volume: VolumeId
    version: KeyVersion
    key: int
    ciphertext: str
    wrapped: bytes
    created: datetime


@dataclass(frozen=True, slots=True)
class RecoveryCheckRow:
    """When the offline key was last seen to open a volume's ciphertext.

    Attributes:
        digest: of that ciphertext.
        operator: who had the offline key.
    """

    volume: VolumeId
    version: KeyVersion
    digest: str
    at: datetime
    operator: str


@dataclass(frozen=True, slots=True)
class RevealRow:
    """A passphrase that was shown to an operator.

    Attributes:
        number: 1, 2, 3 … of one volume.
        rotate_after: when the volume gets another passphrase for that.
        rotated: when that was found to be wanted, or done; None until then.
    """

    volume: VolumeId
    number: int
    version: KeyVersion
    at: datetime
    operator: str
    reason: str
    rotate_after: datetime
    rotated: datetime | None = None


@dataclass(frozen=True, slots=True)
class RestoreRow:
    """A time at which the database was set back.

    Attributes:
        number: 1, 2, 3 ….
        made: of when the backup is; None where that is not known.
        source: the backup's name and hash, or how it was recognised.
        who: who restored it, in words.
        audit: sequence number of the last audit record then, of the writer that noted this.
        finished: when nobody was behind any more, or an operator said so.
        heads: the last record of each writer then (``keybroker.cursor``); None in rows of before there were
            several.
    """

    number: int
    at: datetime
    made: datetime | None
    source: str
    who: str
    audit: int
    finished: datetime | None = None
    finished_by: str | None = None
    heads: str | None = None

    @property
    def place(self) -> dict[str, int]:
        """Where each chain of the trail ended then."""
        return {MAIN: self.audit} if self.heads is None else cursor.parse(self.heads)


@dataclass(frozen=True, slots=True)
class AheadRow:
    """A volume whose host knows more of it than this database.

    Attributes:
        volume, addon: as the host says; the database may not know the volume.
        host: that said so; None where nobody did, and the volume was accepted.
        name: None where the database does not know it.
        why: in words.
        named: highest key version that our token on the disk names; None where it names none.
        revision: of the newest record that the host has seen.
        ciphertext: the recovery ciphertext in that token, once the host has sent it.
        accepted: when an operator said to go on with what this database knows, or the key was brought back.
    """

    volume: VolumeId
    addon: AddonName
    name: str | None
    host: HostId | None
    at: datetime
    why: str
    named: KeyVersion | None = None
    revision: int | None = None
    ciphertext: str | None = None
    accepted: datetime | None = None
    accepted_by: str | None = None
