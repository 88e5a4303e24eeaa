"""A broker in memory: the stages and the releases of keys, as the real one decides them.

tests/crash/test_crash_contracts.py holds it to the same suite as ``keybroker.service`` on SQLite.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from keybroker.wire.changes import (
    AdoptionRequest,
    ErasedRequest,
    PhaseRequest,
    PromoteRequest,
    StageRequest,
    SwitchReply,
    SwitchRequest,
)
from keybroker.wire.messages import (
    ClaimRequest,
    DepositRequest,
    HeaderCopy,
    ReadyRequest,
    UnlockReply,
    UnlockRequest,
)
from keybroker.wire.names import AddonName, HostId, KeyVersion, VolumeId
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin
from keybroker.wire.receipt import Receipt
from keybroker.wire.records import Device, Grant, Observation, Record, Refusal
from keybroker.wire.reports import ReportReply, ReportRequest
from keybroker.wire.secret import Secret
from keybroker.wire.values import replace
from tests.crash import memory_keys, memory_moving, memory_orders


class MemoryBroker:
    """One host's volumes.

    Attributes:
        records: by volume; a test may set one back to an older state, as a restored database would.
        copies: the newest header copy, by volume; ``copied`` says which version was current when it was left.
        deposited: every pin that was ever accepted, by volume.
        retired: versions that are kept and handed out only for a header that is older than the known one,
            by volume.
        mint: says what a volume's key of a version is.
        backups: how many copies were left of headers in use.
        reports: what was reported, call by call.
        requests: what it was told, call by call.
        reachable: False makes every call fail as a broker that cannot be reached.
    """

    def __init__(self, records: Iterable[Record], mint: memory_keys.Mint = memory_keys.KNOWN) -> None:
        self.mint = mint
        self.records: dict[VolumeId, Record] = {record.volume: record for record in records}
        self.copies: dict[VolumeId, Secret] = {}
        self.deposited: dict[VolumeId, set[Pin]] = {}
        self.copied: dict[VolumeId, KeyVersion | None] = {}
        self.retired: dict[VolumeId, set[KeyVersion]] = {}
        self.backups = 0
        self.requests: list[UnlockRequest] = []
        self.reports: list[ReportRequest] = []
        self.reachable = True
        self._lock = threading.Lock()

    def unlock(self, request: UnlockRequest) -> UnlockReply:
        with self._entered():
            self.requests.append(request)
            self.records |= {
                name: replace(record, revision=record.revision + 1)
                for name, record in self.records.items()
                if memory_moving.is_moving(record)
            }
            seen = {observation.volume: observation for observation in request.observations}
            grants = tuple(self._grant(record, seen.get(record.volume)) for record in self.records.values())
            return UnlockReply(HostId("kbh-" + "a" * 12), AddonName("shop-db"), grants, Receipt(1, "0" * 64))

    def claim(self, volume: VolumeId, request: ClaimRequest) -> Grant:
        with self._entered():
            record = self._record(volume)
            if record.device != request.device or record.stage == "new":
                _expect(record, request.revision, "new")
                wrong = _wrong_device(record, request.device)
                if wrong:
                    raise KeybrokerError(Problem.WRONG_DEVICE, wrong)
                record = self._save(record, stage="claimed", device=request.device)
            return Grant(record, memory_keys.live(record, self.mint) if record.stage == "claimed" else {})

    def deposit(self, volume: VolumeId, request: DepositRequest) -> Record:
        with self._entered():
            record = self._record(volume)
            if record.stage == "ready" or request.proof is not None:
                return self._backup(record, request)
            if record.pin is not None and record.pin == request.header.pin:
                return record
            if record.stage == "plain":
                saved = self._replace(record, memory_orders.prepared(record, request))
                self.copies[volume], self.copied[volume] = request.copy, record.current
                return saved
            _expect(record, request.revision, "claimed")
            self.copies[volume], self.copied[volume] = request.copy, record.current
            self.deposited.setdefault(volume, set()).add(request.header.pin)
            return self._save(
                record, stage="deposited", pin=request.header.pin, sequence=request.header.sequence
            )

    def header_copy(self, volume: VolumeId) -> HeaderCopy:
        with self._entered():
            if volume not in self.copies:
                raise KeybrokerError(Problem.UNKNOWN, f"{volume}: has no header copy")
            return HeaderCopy(self._record(volume), self.copies[volume])

    def ready(self, volume: VolumeId, request: ReadyRequest) -> Record:
        with self._entered():
            record = self._record(volume)
            if record.stage == "ready":
                return record
            _expect(record, request.revision, "claimed" if record.is_swap else "deposited")
            return self._save(record, stage="ready")

    def rotate(self, volume: VolumeId) -> None:
        """Ask for a new key, as an operator does."""
        record = self._record(volume)
        wanted = memory_keys.wanted(record)
        if wanted != record:
            self._save(record, wanted=wanted.wanted)

    def report(self, request: ReportRequest) -> ReportReply:
        with self._entered():
            self.reports.append(request)
            return ReportReply(tuple(self.records.values()), 60)

    def stage(self, volume: VolumeId, request: StageRequest) -> Grant:
        with self._entered():
            record = self._record(volume)
            if record.staged is None:
                _expect(record, request.revision, "ready")
                record = self._replace(record, memory_keys.staged(record))
            return Grant(record, memory_keys.live(record, self.mint))

    def promote(self, volume: VolumeId, request: PromoteRequest) -> Record:
        with self._entered():
            record = self._record(volume)
            if request.proof.version == record.current:
                return record
            _expect(record, request.revision, "ready")
            return self._replace(record, memory_keys.promoted(record, request, self.mint))

    def retire(self, volume: VolumeId, version: KeyVersion) -> Record:
        with self._entered():
            record = self._record(volume)
            retired = self.retired.setdefault(volume, set())
            if version in retired:
                return record
            if version != record.retiring or self.copied.get(volume) != record.current:
                raise memory_keys.conflict(record, f"version {version} cannot be retired now")
            retired.add(version)
            return self._save(record, retiring=None)

    def order(self, volume: VolumeId, order: Order) -> None:
        """Want something done, as an operator does."""
        self._save(self._record(volume), order=order)

    def encrypt(self, volume: VolumeId) -> None:
        """Have a plain disk encrypted in place, as an operator does; that mints its key."""
        record, first = self._record(volume), KeyVersion(1)
        self._save(record, order=Order(1, "encrypt", backed_up=True), current=first, wanted=first)

    def announce(self, volume: VolumeId, request: PhaseRequest) -> Record:
        with self._entered():
            record = self._record(volume)
            changed = memory_orders.announced(record, request)
            return record if changed == record else self._replace(record, changed)

    def finish(self, volume: VolumeId, order: int) -> Record:
        with self._entered():
            record = self._record(volume)
            changed = memory_orders.finished(record, order)
            return record if changed == record else self._replace(record, changed)

    def switch(self, volume: VolumeId, request: SwitchRequest) -> SwitchReply:
        with self._entered():
            record = self._record(volume)
            if record.partner is None:
                raise memory_keys.conflict(record, "it is no successor")
            both = memory_moving.switched(record, self._record(record.partner), request)
            self.records.update({each.volume: each for each in both})
            return SwitchReply(*both)

    def erased(self, volume: VolumeId, request: ErasedRequest) -> Record:
        with self._entered():
            record = self._record(volume)
            changed = memory_moving.erased(record, request)
            partner = record.partner and self.records.get(record.partner)
            if changed != record and partner and partner.partner == volume:
                self._save(partner, partner=None)  # it may have another one by now: where it is moved to
            self.records[volume] = changed
            return changed

    def migrate(self, volume: VolumeId, successor: Record, *, offline: bool = False) -> None:
        """Have a volume moved to another disk, as an operator does."""
        both = memory_moving.ordered(self._record(volume), successor, offline=offline)
        self.records.update({each.volume: each for each in both})

    def cancel(self, volume: VolumeId) -> None:
        """Take a migration back."""
        record = self._record(volume)
        assert record.partner is not None
        both = memory_moving.dropped(record, self._record(record.partner))
        self.records.update({each.volume: each for each in both})

    def adopt(self, volume: VolumeId, request: AdoptionRequest) -> Record:
        with self._entered():
            record = self._record(volume)
            if record.stage == "ready" and request.header.sequence == record.sequence:
                return record
            _expect(record, request.revision, "foreign")
            memory_keys.check_proof(replace(record, pin=request.header.pin), request.proof, self.mint)
            self.copies[volume], self.copied[volume] = request.copy, record.current
            pin, sequence = request.header.pin, request.header.sequence
            return self._save(record, stage="ready", device=request.device, pin=pin, sequence=sequence)

    def _grant(self, record: Record, seen: Observation | None) -> Grant:
        if seen is None:
            return Grant(record)
        refused = _refusal(record, seen)
        if refused is not None or record.is_swap:
            return Grant(record, refused=refused)
        header = seen.header
        fits = header is not None and memory_orders.fits(record, header)
        if record.stage == "foreign":
            return Grant(record, memory_keys.live(record, self.mint))
        is_begun = record.order is not None and record.order.phase == "begun"
        if record.stage == "plain" and not is_begun:
            return Grant(record)
        if record.stage == "claimed" or (record.stage in ("deposited", "ready") and fits) or is_begun:
            keys = memory_keys.live(record, self.mint)
            if header is not None and record.sequence is not None and header.sequence < record.sequence:
                keys |= {
                    each: self.mint(record.name, each) for each in self.retired.get(record.volume, set())
                }
            return Grant(record, keys)
        return Grant(record)

    def _backup(self, record: Record, request: DepositRequest) -> Record:
        volume = record.volume
        same = request.copy == self.copies.get(volume) and self.copied.get(volume) == record.current
        if same and request.header.sequence == record.sequence:
            return record
        if request.proof is None and request.header.pin == record.pin:
            return record  # the first header once more, after its reply was lost
        _expect(record, request.revision, "plain" if record.stage == "plain" else "ready")
        saved = self._replace(record, memory_keys.backed_up(record, request, self.mint))
        self.copies[volume], self.copied[volume] = request.copy, record.current
        self.backups += 1
        return saved

    def _replace(self, record: Record, changed: Record) -> Record:
        self.records[record.volume] = replace(changed, revision=record.revision + 1)
        return self.records[record.volume]

    def _entered(self) -> threading.Lock:
        if not self.reachable:
            raise KeybrokerError(Problem.UNREACHABLE, "no broker could be reached")
        return self._lock

    def _record(self, volume: VolumeId) -> Record:
        if volume not in self.records:
            raise KeybrokerError(Problem.UNKNOWN, f"{volume}: there is no such volume")
        return self.records[volume]

    def _save(self, record: Record, **changes: object) -> Record:
        saved = replace(record, revision=record.revision + 1, **changes)  # type: ignore[arg-type]
        self.records[record.volume] = saved
        return self.records[record.volume]


def _expect(record: Record, revision: int, stage: str) -> None:
    if record.stage != stage or record.revision != revision:
        raise KeybrokerError(Problem.CONFLICT, f"{record.name}: is {record.stage} at {record.revision}")


def _wrong_device(record: Record, device: Device) -> str:
    meant = record.device or Device(record.serial, record.size_bytes)
    if device.serial != meant.serial or device.size_bytes < meant.size_bytes:
        return f"{record.name}: {device} is not the disk it lives on"
    return ""


def _refusal(record: Record, seen: Observation) -> Refusal | None:
    if seen.device is None:
        return Refusal(Problem.NO_DEVICE, f"{record.name}: no such disk")
    wrong = _wrong_device(record, seen.device)
    if wrong:
        return Refusal(Problem.WRONG_DEVICE, wrong)
    if record.is_swap:
        if record.stage == "ready" and seen.sight != "swap-mark":
            return Refusal(Problem.WRONG_DEVICE, f"{record.name}: not marked")
        return None
    if record.stage in ("new", "claimed"):
        return None if seen.sight == "blank" else Refusal(Problem.NOT_BLANK, f"{record.name}: {seen.sight}")
    if record.stage == "foreign":
        declared = seen.header is not None and seen.header.pin.uuid == record.luks_uuid
        return None if declared else Refusal(Problem.HEADER_REFUSED, f"{record.name}: {seen.sight}")
    fits = seen.header is not None and memory_orders.fits(record, seen.header)
    if seen.header is not None and seen.header.sequence < (record.complete_from or 0):
        return Refusal(Problem.HEADER_REFUSED, f"{record.name}: from the middle of the move to it")
    is_begun = record.order is not None and record.order.phase == "begun"
    if record.stage == "plain" and is_begun and seen.sight == "blank":
        return Refusal(Problem.HEADER_REFUSED, f"{record.name}: its data is lost")
    if not fits and (record.stage == "ready" or seen.header is not None):
        return Refusal(Problem.HEADER_REFUSED, f"{record.name}: {seen.sight}")
    return None
