"""A volume in the broker's hands, within one transaction: found, changed, keys minted, proofs checked."""

from __future__ import annotations

from collections.abc import Iterable

from keybroker.audit import AuditEvent
from keybroker.model import Volume
from keybroker.service.admission import Caller
from keybroker.service.broker import Broker
from keybroker.service.keys import AddonKeys, header_context, new_passphrase, passphrase_context
from keybroker.store import Reading, Writing
from keybroker.store.rows import HeaderRow, ProofRow, VolumeRow
from keybroker.wire.messages import LARGEST_HEADER_COPY
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.proof import GivenProof, proves
from keybroker.wire.records import SeenHeader
from keybroker.wire.secret import Secret

HEADERS_KEPT = 2
"""Copies of a volume's header: the newest, and the one before in case the newest is of a cut change."""


def own(reading: Reading, caller: Caller, volume: VolumeId) -> VolumeRow:
    """Return a volume of the caller's own add-on; any other is as unknown to it as one that is not there.

    Raises:
        KeybrokerError: UNKNOWN; DELETED where its destruction is pending.
    """
    _host, addon = caller.as_host()
    row = reading.volume(volume)
    if row is None or row.volume.addon != addon:
        raise KeybrokerError(Problem.UNKNOWN, f"volume {volume}: there is none")
    pending = row.volume.deletion
    if pending is not None:
        raise KeybrokerError(
            Problem.DELETED,
            f"volume {row.volume.name}: is to be destroyed after {pending.due:%F %T}Z;"
            " what is open stays open",
            hint=f"an operator can call that off: keybroker volume undelete {addon} {row.volume.name}",
        )
    return row


def save(
    writing: Writing,
    caller: Caller,
    row: VolumeRow,
    changed: Volume,
    minted: dict[KeyVersion, bytes] | None = None,
) -> VolumeRow:
    """Write a volume back if it was changed; return it as it is now.

    Args:
        minted: the wrapped keys of versions that are new in it.
    """
    if changed is row.volume:
        return row
    times = {**row.minted, **dict.fromkeys(minted or {}, caller.now)}
    kept = VolumeRow(changed, row.created, {**row.wrapped, **(minted or {})}, times)
    writing.change_volume(kept, row.volume.revision, minted or {}, caller.now)
    return kept


def mint(broker: Broker, reading: Reading, volume: Volume, version: KeyVersion) -> dict[KeyVersion, bytes]:
    """Make a key version of a volume, wrapped at once."""
    keys = AddonKeys(broker.masterkey, reading.addon_keys(volume.addon))
    wrapped = keys.wrap(new_passphrase(broker.entropy), passphrase_context(volume, version), broker.entropy)
    return {version: wrapped}


def unwrap(
    broker: Broker, reading: Reading, row: VolumeRow, versions: Iterable[KeyVersion]
) -> dict[KeyVersion, Secret]:
    """Unwrap some of a volume's keys.

    Raises:
        KeybrokerError: CORRUPT where one does not open.
    """
    keys = AddonKeys(broker.masterkey, reading.addon_keys(row.volume.addon))
    return {
        version: keys.unwrap(row.wrapped[version], passphrase_context(row.volume, version))
        for version in versions
    }


def check_proof(broker: Broker, reading: Reading, row: VolumeRow, given: GivenProof) -> None:
    """Check that a proof is the one that only this volume's key of that version makes, in constant time.

    Raises:
        KeybrokerError: HEADER_REFUSED where it is not, or where there is no such key; CORRUPT.
    """
    if given.version not in row.wrapped:
        raise _unproven(row.volume, f"there is no key {given.version}")
    key = unwrap(broker, reading, row, (given.version,))[given.version]
    if not proves(
        given.proof,
        key,
        volume=row.volume.id,
        version=given.version,
        digest=given.digest,
        sequence=given.sequence,
    ):
        raise _unproven(row.volume, f"the proof is not one of key {given.version}")


def check_opened(
    broker: Broker, reading: Reading, row: VolumeRow, given: GivenProof | None, header: SeenHeader
) -> GivenProof:
    """Check a proof that the current key opens this very header; return the proof.

    Raises:
        KeybrokerError: HEADER_REFUSED; MALFORMED without a proof; CORRUPT.
    """
    keys = row.volume.keyring
    if given is None:
        raise KeybrokerError(Problem.MALFORMED, "proof: is missing; from ready on, a header needs one")
    if keys is None or given.version != keys.current:
        raise _unproven(row.volume, f"the proof is of key {given.version}, which is not the current one")
    if (given.digest, given.sequence) != (header.pin.digest, header.sequence):
        raise _unproven(row.volume, "the proof is of another header")
    check_proof(broker, reading, row, given)
    return given


def _unproven(volume: Volume, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.HEADER_REFUSED, f"volume {volume.id}: {what}")


def note_proof(writing: Writing, caller: Caller, volume: VolumeId, given: GivenProof) -> None:
    """Keep that a proof was good."""
    writing.put_proof(ProofRow(volume, given.version, given.sequence, caller.now))


def check_copy(copy: Secret) -> None:
    """Check the size of a header copy (MALFORMED otherwise)."""
    if not 0 < len(copy) <= LARGEST_HEADER_COPY:
        raise KeybrokerError(Problem.MALFORMED, f"copy: must have 1 to {LARGEST_HEADER_COPY} bytes")


def keep_header(
    broker: Broker, writing: Writing, caller: Caller, volume: Volume, sequence: int, copy: Secret
) -> int:
    """Keep a header copy, wrapped, and let go of all but the newest; return its number."""
    newest = writing.newest_header(volume.id)
    number = newest.number + 1 if newest else 1
    keys = AddonKeys(broker.masterkey, writing.addon_keys(volume.addon))
    wrapped = keys.wrap(copy, header_context(volume, number), broker.entropy)
    assert volume.keyring is not None and volume.keyring.current is not None, "it has a header"  # noqa: S101, PT018
    writing.add_header(
        HeaderRow(
            volume=volume.id,
            number=number,
            sequence=sequence,
            key_version=volume.keyring.current,
            wrapped=wrapped,
            created=caller.now,
        ),
        keep=HEADERS_KEPT,
    )
    return number


def done(caller: Caller, volume: Volume, **facts: object) -> AuditEvent:
    """Return the record of a host's change of a volume."""
    return caller.event("done", volume=volume.id, stage=volume.stage, revision=volume.revision, **facts)
