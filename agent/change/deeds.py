"""What each step of a change does: one call of the broker, or one of the workshop's.

Who adds a step adds a deed of it to ``DEEDS`` (in a module of its own, if it is more than a few lines). A
deed does that one effect, takes what it needs from the course's survey, and hands every record that the
broker replies with to ``Course.hear``; whatever it raises ends the course, but one CONFLICT a kind of step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from agent.plan import recovery, steps
from agent.plan.keyslots import Keyslots
from agent.plan.steps import (
    Announce,
    Ask,
    Backup,
    Begin,
    Clear,
    Deposit,
    Enclose,
    Evict,
    Fill,
    Finish,
    Inscribe,
    Link,
    Open,
    Promote,
    Reencrypt,
    Retire,
    Shelve,
    Stage,
    Tag,
    Unlink,
)
from keybroker.wire.changes import PhaseRequest, PromoteRequest, StageRequest
from keybroker.wire.messages import DepositRequest
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.proof import GivenProof, prove
from keybroker.wire.records import Record, SeenHeader
from keybroker.wire.secret import Secret

if TYPE_CHECKING:
    from agent.change.course import Course

Deed = Callable[["Course", Any], None]


def ask(course: Course, step: Ask) -> None:
    """Tell the broker what is there now, and get the keys that fit it."""
    course.ask()


def stage(course: Course, step: Stage) -> None:
    """Have the wanted key version minted, and get it."""
    request = StageRequest(course.record.revision, course.boot.asking())
    course.hear_grant(course.workshop.broker.stage(course.record.volume, request))


def fill(course: Course, step: Fill) -> None:
    """Add a keyslot."""
    course.workshop.headers.fill(course.record, course.grant.keys, version=step.version, by=step.by)


def tag(course: Course, step: Tag) -> None:
    """Write our token."""
    keyslots = course.survey.keyslots
    if keyslots is None:
        raise KeybrokerError(Problem.INTERNAL, f"{course.record.name}: nobody looked at its keyslots")
    enclosed = recovery.wanted(course.record, keyslots)
    course.workshop.headers.tag(course.record, keyslots.token(), enclosed)


def enclose(course: Course, step: Enclose) -> None:
    """Have our token carry the passphrase, encrypted to the offline recovery key."""
    recovery = course.record.recovery
    if recovery is None:
        raise KeybrokerError(Problem.INTERNAL, f"{course.record.name}: the record has no recovery ciphertext")
    course.workshop.headers.enclose(course.record, recovery.ciphertext)


def backup(course: Course, step: Backup) -> None:
    """Leave the broker a copy of the header, and the proof that the current key opens it."""
    record, sighting = course.record, course.sighting
    if sighting is None or sighting.copy is None or record.current is None:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: no copy of its header can be made")
    proof = proof_of(course, record.current)
    request = DepositRequest(record.revision, header_of(course), sighting.copy, proof)
    course.hear(course.workshop.broker.deposit(record.volume, request))


def promote(course: Course, step: Promote) -> None:
    """Have the staged version made current."""
    request = PromoteRequest(course.record.revision, proof_of(course, step.version))
    course.hear(course.workshop.broker.promote(course.record.volume, request))


def clear(course: Course, step: Clear) -> None:
    """Kill a keyslot."""
    course.workshop.headers.clear(course.record, course.grant.keys, keyslot=step.keyslot, by=step.by)


def retire(course: Course, step: Retire) -> None:
    """Say that a version opens nothing on the disk any more."""
    course.hear(course.workshop.broker.retire(course.record.volume, step.version))


def announce(course: Course, step: Announce) -> None:
    """Say that an order begins, or which volume key it leads to."""
    if step.digest is None:
        course.workshop.reencryption.check()
    if course.record.stage == "plain":
        course.workshop.shelving.check(course.record)
    request = PhaseRequest(course.record.revision, step.order, step.digest)
    course.hear(course.workshop.broker.announce(course.record.volume, request))


def evict(course: Course, step: Evict) -> None:
    """Kill a keyslot that is not ours, as the order says."""
    course.workshop.headers.evict(course.record, course.grant.keys, keyslot=step.keyslot, by=step.by)


def begin(course: Course, step: Begin) -> None:
    """Write a re-encryption into the header."""
    current = _current(course)
    course.workshop.reencryption.begin(course.record, course.grant.keys, by=current)


def reencrypt(course: Course, step: Reencrypt) -> None:
    """Re-encrypt all that is left."""
    current = _current(course)
    course.workshop.reencryption.run(course.record, course.grant.keys, by=current, progress=course.progress)


def finish(course: Course, step: Finish) -> None:
    """Say that an order is done."""
    course.hear(course.workshop.broker.finish(course.record.volume, step.order))


def unlink(course: Course, step: Unlink) -> None:
    """Take the stable device of a plain disk away."""
    try:
        course.workshop.legs.unlink(course.record)
    except KeybrokerError as error:
        if error.problem is not Problem.IN_USE:
            raise
        hint = "stop what uses it and unmount it; it may be used again as soon as its header is on the disk"
        raise KeybrokerError(error.problem, error.detail, hint=hint) from error


def shelve(course: Course, step: Shelve) -> None:
    """Keep the filesystem's beginning at the disk's end."""
    course.workshop.shelving.shelve(course.record)


def deposit(course: Course, step: Deposit) -> None:
    """Make the header of an encryption in place and leave it with the broker."""
    record = course.record
    made = course.workshop.world.disks.compose(record, course.grant.keys[step.version])
    request = DepositRequest(record.revision, made.header, made.copy)
    course.hear(course.workshop.broker.deposit(record.volume, request))


def inscribe(course: Course, step: Inscribe) -> None:
    """Write the broker's copy of the header to the disk."""
    copied = course.workshop.broker.header_copy(course.record.volume).copy
    course.workshop.world.disks.inscribe(course.record, copied)


def open_(course: Course, step: Open) -> None:
    """Make the dm-crypt device."""
    if course.sighting is None:
        raise KeybrokerError(Problem.INTERNAL, f"{course.record.name}: nobody read its header")
    course.workshop.world.mappings.open(course.record, course.grant.keys, course.sighting)


def link(course: Course, step: Link) -> None:
    """Make the linear device with the stable name."""
    course.workshop.world.mappings.link(course.record)


DEEDS: Final[dict[type, Deed]] = {
    steps.Ask: ask,
    steps.Stage: stage,
    steps.Fill: fill,
    steps.Tag: tag,
    steps.Enclose: enclose,
    steps.Backup: backup,
    steps.Promote: promote,
    steps.Clear: clear,
    steps.Retire: retire,
    steps.Announce: announce,
    steps.Evict: evict,
    steps.Begin: begin,
    steps.Reencrypt: reencrypt,
    steps.Finish: finish,
    steps.Unlink: unlink,
    steps.Shelve: shelve,
    steps.Deposit: deposit,
    steps.Inscribe: inscribe,
    steps.Open: open_,
    steps.Link: link,
}


def _current(course: Course) -> KeyVersion:
    if course.record.current is None:
        raise KeybrokerError(Problem.CORRUPT, f"{course.record.name}: the record has no current key version")
    return course.record.current


def header_of(course: Course) -> SeenHeader:
    """Return the header that the last look brought (Raises: HEADER_REFUSED where there is none)."""
    header = course.seen.header
    if header is None:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{course.record.name}: it has no header")
    return header


def proof_of(course: Course, version: KeyVersion) -> GivenProof:
    """Return the proof that a key opens the header on the disk.

    Raises:
        KeybrokerError: LOCKED_OUT where the last look did not see it open a keyslot that keeps the data.
    """
    return given_proof(
        course.record, header_of(course), course.survey.keyslots, course.grant.keys, version=version
    )


def given_proof(
    record: Record,
    header: SeenHeader,
    keyslots: Keyslots | None,
    keys: Mapping[KeyVersion, Secret],
    *,
    version: KeyVersion | None = None,
) -> GivenProof:
    """Return the proof that a key opens a header.

    Args:
        keyslots: of that header; None where nobody tried the keys on them.
        version: of the key; the current one where it is not given.

    Raises:
        KeybrokerError: LOCKED_OUT where it was not seen to open a keyslot that keeps the data.
    """
    version = version or record.current
    if version is None or keyslots is None or not keyslots.opened_by(version):
        raise KeybrokerError(
            Problem.LOCKED_OUT, f"{record.name}: key version {version} was not seen to open the header"
        )
    digest, sequence = header.pin.digest, header.sequence
    made = prove(keys[version], volume=record.volume, version=version, digest=digest, sequence=sequence)
    return GivenProof(version, digest, sequence, made)
