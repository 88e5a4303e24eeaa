"""Statements of destruction: composed, signed by a key of their own, and kept with the volume."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keybroker import statement
from keybroker.audit import rfc3339
from keybroker.envelope import ENTROPY_BYTES, KEY_BYTES, wrapped_by
from keybroker.model import Volume
from keybroker.service.broker import Broker
from keybroker.service.keys import STATEMENT_KEY
from keybroker.statement import public_pem
from keybroker.store import Writing
from keybroker.store.rows import AddonStatementRow, SignerRow, StatementRow
from keybroker.wire.secret import Secret


def state(broker: Broker, writing: Writing, volume: Volume, now: datetime, **facts: Any) -> int:
    """Sign a statement about a volume and keep it; return its number.

    Args:
        volume: as it is after what is stated.
        facts: JSON values; what is known of the volume itself is added.

    Raises:
        KeybrokerError: CORRUPT where the signing key does not open.
    """
    keys = volume.keyring
    document = statement.compose(
        {
            "at": rfc3339(now),
            "broker": broker.settings.trust_domain,
            "addon": volume.addon,
            "volume": volume.id,
            "name": volume.name,
            "luks_uuid": volume.luks_uuid,
            "device": volume.device and volume.device.as_json(),
            "born_encrypted": volume.born_encrypted,
            "keys_kept": [
                {"version": old.version, "until": old.destroy_after and rfc3339(old.destroy_after)}
                for old in (keys.retired if keys else ())
            ]
            + [{"version": version, "until": None} for version in (keys.live if keys else ())],
            "keys_destroyed": list(keys.destroyed if keys else ()),
            **facts,
        }
    )
    public, private = signing_key(broker, writing, now)
    number = len(writing.statements(volume.id)) + 1
    signature = statement.sign(private, document)
    writing.add_statement(StatementRow(volume.id, number, now, document, signature, public))
    return number


def signing_key(broker: Broker, writing: Writing, now: datetime) -> tuple[bytes, Secret]:
    """Return the key that signs statements and checkpoints, public and private; made on first need.

    Raises:
        KeybrokerError: CORRUPT where it does not open.
    """
    signer = writing.signer() or new_signer(broker, writing, now)
    return signer.public, broker.masterkey.unwrap(signer.wrapped, STATEMENT_KEY)


def new_signer(broker: Broker, writing: Writing, now: datetime) -> SignerRow:
    """Make the key that signs from here on."""
    private = Secret(broker.entropy(KEY_BYTES))
    wrapped = broker.masterkey.wrap(private, STATEMENT_KEY, broker.entropy(ENTROPY_BYTES))
    master = wrapped_by(wrapped).hex()
    made = SignerRow(statement.public_key(private), wrapped, master, now, master)
    writing.add_signer(made)
    return made


def backup_words(until: datetime | None = None) -> str:
    """Say in words in which backups of the broker something may survive, and until when, if that is known."""
    when = "" if until is None else f"; the last of them is kept until {rfc3339(until)}"
    return f"backups of the broker's database from before: with the master key they open what they hold{when}"


def remains(volume: Volume, wiped: int | None = None, *, backups_until: datetime | None = None) -> list[str]:
    """Say in words what a destruction does not reach.

    Args:
        wiped: bytes from the start of the disk; None where no disk was touched.
        backups_until: how long backups of the broker from before are kept; None where nobody says so.
    """
    words = [
        "snapshots and backups of the disk from before: a key that is still kept, or that is in a backup"
        " of the broker, opens them",
        backup_words(backups_until),
    ]
    keys = volume.keyring
    for old in keys.retired if keys else ():
        until = (
            "until further notice" if old.destroy_after is None else (f"until {rfc3339(old.destroy_after)}")
        )
        words.append(f"key version {old.version}, wrapped, at the broker {until}")
    if wiped is None and volume.device is not None:
        words.append(f"the disk {volume.device.serial} itself, which was not touched")
    if not volume.born_encrypted and volume.pin is None and wiped is not None:
        words.append(
            f"the disk held plaintext and was never encrypted: {wiped} bytes of it were overwritten; what it"
            " keeps aside (spare blocks, remapped sectors) may still be plaintext, so destroy the disk where"
            " that matters"
        )
    elif not volume.born_encrypted:
        beyond = "" if wiped is None else f" beyond its first {wiped} bytes"
        words.append(f"on the disk{beyond}: what was ever written to it before it was encrypted by us")
    return words


@dataclass(frozen=True, slots=True)
class StatementView:
    """A signed statement, with all that checking it takes."""

    row: StatementRow

    def as_json(self) -> dict[str, Any]:
        """Return the wire form: the very text that was signed, the signature in hex, the key in PEM."""
        return {
            "volume": self.row.volume,
            "number": self.row.number,
            "at": rfc3339(self.row.at),
            "document": self.row.document,
            "signature": self.row.signature.hex(),
            "signer": public_pem(self.row.public),
        }


@dataclass(frozen=True, slots=True)
class AddonStatementView:
    """The signed statement about a whole add-on, with all that checking it takes."""

    row: AddonStatementRow

    def as_json(self) -> dict[str, Any]:
        """Return the wire form, as that of ``StatementView``."""
        return {
            "addon": self.row.addon,
            "at": rfc3339(self.row.at),
            "document": self.row.document,
            "signature": self.row.signature.hex(),
            "signer": public_pem(self.row.public),
        }
