"""The keys of a volume at the memory broker: staged, promoted, retired as the real one decides it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keybroker.wire.changes import PromoteRequest
from keybroker.wire.messages import DepositRequest
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.proof import GivenProof, proves
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from keybroker.wire.values import replace
from tests.crash.volumes import key_of

Mint = Callable[[str, int], Secret]
"""What a volume's key of a version is; a broker that was set back mints the same version another time."""

KNOWN: Final[Mint] = key_of


def live(record: Record, mint: Mint = KNOWN) -> dict[KeyVersion, Secret]:
    """Return the keys that are handed out."""
    named = (record.current, record.staged, record.retiring)
    return {version: mint(record.name, version) for version in named if version is not None}


def wanted(record: Record) -> Record:
    """Return the record after ``keybroker volume rotate``."""
    if record.wanted != record.current:
        return record
    return replace(record, wanted=KeyVersion(newest(record) + 1))


def newest(record: Record) -> int:
    return max(record.newest or 0, *live(record))


def staged(record: Record) -> Record:
    if record.wanted == record.current or record.retiring is not None:
        raise conflict(record, "no key can be staged now")
    return replace(record, staged=record.wanted, newest=record.wanted)


def promoted(record: Record, request: PromoteRequest, mint: Mint) -> Record:
    if request.proof.version != record.staged:
        raise conflict(record, f"version {request.proof.version} is not staged")
    check_proof(record, request.proof, mint)
    if request.proof.sequence != record.sequence:
        raise conflict(record, "the newest copy is of another header")
    return replace(record, current=record.staged, staged=None, retiring=record.current)


def backed_up(record: Record, request: DepositRequest, mint: Mint) -> Record:
    order, pin = record.order, record.pin
    announced = order.digest if order is not None and order.is_reencrypting else None
    known = pin is not None and request.header.pin in (pin, replace(pin, digest=announced or pin.digest))
    if not known or request.header.degraded or request.header.requirements:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: not the pinned header, or not whole")
    proof = request.proof
    if proof is None or proof.version != record.current or proof.sequence != request.header.sequence:
        raise conflict(record, "a copy wants the proof that the current key opens it")
    check_proof(replace(record, pin=request.header.pin), proof, mint)
    return replace(record, stage="ready", sequence=request.header.sequence, pin=request.header.pin)


def check_proof(record: Record, proof: GivenProof, mint: Mint) -> None:
    key = live(record, mint)[proof.version]
    told = {"version": proof.version, "digest": proof.digest, "sequence": proof.sequence}
    assert record.pin is not None
    if proof.digest != record.pin.digest or not proves(proof.proof, key, volume=record.volume, **told):  # type: ignore[arg-type]
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: the proof is of another key or header")


def conflict(record: Record, said: str) -> KeybrokerError:
    return KeybrokerError(Problem.CONFLICT, f"{record.name}: {said}")
