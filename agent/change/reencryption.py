"""The real ``Reencryption``: a new volume key under a mounted volume, at a pace that leaves its users room.

How far it is, the header on the disk says, before, after and while cryptsetup works. Nothing of it needs this
process: it may be killed at any moment, and another goes on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from collections.abc import Mapping as Keys
from pathlib import Path
from typing import Final

from agent import devicemapper
from agent.change.headers import Opener, Read
from agent.devices import OpenDevice
from agent.ending import complete
from agent.luks import copy, midway, reencrypt
from agent.luks.acceptance import judge
from agent.luks.header import Header, read_header
from agent.midway import clear_helpers
from agent.plan.pace import Pace
from agent.turn import turn
from keybroker.wire import names
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.reports import Progress
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass

SYS: Final = Path("/sys/dev/block")
_IO_TICKS: Final = 9
"""Of a device's ``stat``: milliseconds in which I/O was in flight (Linux, Documentation/block/stat.rst)."""


@dataclass(frozen=True, slots=True)
class MachineReencryption:
    """The re-encryptions of this machine's volumes.

    Attributes:
        places: where the disks are.
        runtime: the agent's runtime directory, in which the turns are.
    """

    places: Opener
    runtime: Path

    def check(self) -> None:
        """See ``agent.change.workshop.Reencryption``."""
        reencrypt.check_version()

    def begin(self, record: Record, keys: Keys[KeyVersion, Secret], *, by: KeyVersion) -> None:
        """See ``agent.change.workshop.Reencryption``."""
        reencrypt.check_version()
        with turn(self.runtime, record.volume), self.places.open(record) as disk:
            header, state = _read(record, disk)
            if state in ("midway", "done"):
                return
            if state != "untouched":
                raise _not_so(record, f"its header is {state}, and must be cleared first")
            keyslot = Read(header, copy.image_of(header, disk.read)).opened_by(keys[by], by)
            if keyslot is None:
                raise KeybrokerError(
                    Problem.LOCKED_OUT,
                    f"{record.name}: key version {by} opens no keyslot; nothing was changed",
                )
            reencrypt.begin(_name(record), by=keys[by], keyslot=keyslot)
            _after, state = _read(record, disk)
            if state != "midway":
                raise _not_so(record, f"cryptsetup said that it had begun, and the header is {state}")

    def run(
        self,
        record: Record,
        keys: Keys[KeyVersion, Secret],
        *,
        by: KeyVersion,
        progress: Callable[[Progress], None],
    ) -> None:
        """See ``agent.change.workshop.Reencryption``."""
        reencrypt.check_version()
        rate = record.order.rate if record.order is not None else None
        pace, account = Pace(rate), _Account(progress)
        # A turn of its own: whoever opens, looks or adds a header copy meanwhile need not wait for hours.
        with turn(self.runtime, f"{record.volume}-reencryption"), self.places.open(record) as disk:
            header, state = _read(record, disk)
            while state == "midway":
                account.tell(*midway.done_bytes(header, disk.device.size_bytes))
                clear_helpers(_name(record), record.luks_uuid)
                if complete(record, disk):  # cryptsetup would begin anew, over what is encrypted already
                    header, state = _read(record, disk)
                    continue
                piece = _Piece(pace, account, _Users(record), disk)
                hotzone = _hotzone_bytes(rate)
                reencrypt.carry_on(_name(record), by=keys[by], hotzone_bytes=hotzone, go_on=piece.go_on)
                header, state = _read(record, disk)
                done, total = midway.done_bytes(header, disk.device.size_bytes)
                account.tell(done, total)
                if state == "midway":
                    piece.rest(done)
            if state != "done":
                raise _not_so(record, f"cryptsetup said that it was through, and the header is {state}")


class _Account:
    """Says how far it is, how fast it goes, rests included, and how long it takes."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self._progress = progress
        self._first: tuple[float, int] | None = None
        self._said = 0.0
        self.done = 0
        self.total = 0

    def tell(self, done: int, total: int) -> None:
        """Say how far it is."""
        self._said = now = time.monotonic()
        self.done, self.total = min(done, total), total
        if self._first is None:
            self._first = now, done
        seconds, worked = now - self._first[0], done - self._first[1]
        rate = int(worked / seconds) if seconds >= 1.0 and worked > 0 else 0
        left = (total - self.done) // rate if rate else None
        self._progress(Progress(self.done, total, rate, left))

    def hear(self, done: int, total: int) -> None:
        """Take note of how far it is, and say so once a second."""
        self.done, self.total = min(done, total), total
        if time.monotonic() - self._said >= 1.0:
            self.tell(done, total)

    def again(self) -> None:
        """Say that it is where it was."""
        self.tell(self.done, self.total)


class _Piece:
    """One piece of work, from the start of cryptsetup to its end, and the rest after it."""

    def __init__(self, pace: Pace, account: _Account, users: _Users, disk: OpenDevice) -> None:
        self._pace, self._account, self._users, self._disk = pace, account, users, disk
        self._began = time.monotonic()
        self._from = account.done

    def go_on(self) -> bool:
        """Say whether to work on."""
        size = self._disk.device.size_bytes
        with contextlib.suppress(KeybrokerError):  # it is being written: the next look will do
            self._account.hear(*midway.done_bytes(read_header(self._disk.read, size), size))
        seconds = time.monotonic() - self._began
        busy = self._users.busy()
        return not self._pace.is_enough(seconds=seconds, done=self._account.done - self._from, busy=busy)

    def rest(self, done: int) -> None:
        """Rest as long as the pace asks for."""
        seconds = time.monotonic() - self._began
        until = time.monotonic() + self._pace.rest_seconds(seconds=seconds, done=done - self._from)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            self._account.again()


class _Users:
    """How busy the users of a volume keep it: the re-encryption's own I/O does not pass its stable device."""

    def __init__(self, record: Record) -> None:
        there = devicemapper.mapped().get(names.mapper_name(record.name))
        self._stat = SYS / there.node / "stat" if there is not None else None
        self._last = time.monotonic(), self._ticks()
        self._share = 0.0

    def busy(self) -> float:
        """Return the share of the last second or so in which I/O was in flight."""
        now, ticks = time.monotonic(), self._ticks()
        seconds, worked = now - self._last[0], ticks - self._last[1]
        if seconds >= 1.0:
            self._last = now, ticks
            self._share = min(1.0, worked / 1000 / seconds)
        return self._share

    def _ticks(self) -> int:
        try:
            return int(self._stat.read_text().split()[_IO_TICKS]) if self._stat is not None else 0
        except (OSError, ValueError, IndexError):
            return 0


def _hotzone_bytes(rate: int | None) -> int:
    """Return the size of a stretch: of a second's work at most, in whole MiB."""
    most = reencrypt.HOTZONE_BYTES if rate is None else min(reencrypt.HOTZONE_BYTES, rate)
    return max(reencrypt.LEAST_HOTZONE, most // reencrypt.LEAST_HOTZONE * reencrypt.LEAST_HOTZONE)


def _read(record: Record, disk: OpenDevice) -> tuple[Header, str]:
    header = read_header(disk.read, disk.device.size_bytes)
    return header, judge(header, record, disk.device.size_bytes)


def _name(record: Record) -> str:
    return names.crypt_name(record.name, record.luks_uuid)


def _not_so(record: Record, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.TOOL_FAILED, f"{record.name}: {what}")
