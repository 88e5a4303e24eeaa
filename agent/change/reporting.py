"""What the broker is told of this machine's volumes, and how it is told while long work goes on.

Interim reports go out from a thread of their own: a broker that is down must not stop a copy, and a program
whose progress nobody reads stops too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from agent import devicemapper, opened
from agent.change.workshop import Broker
from agent.passage import Boot
from agent.world import Sighting, World
from keybroker.wire import names
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Observation, Record, Refusal
from keybroker.wire.reports import Activity, Openness, ReportReply, ReportRequest, VolumeReport
from keybroker.wire.values import dataclass, replace

EVERY_SECONDS: Final = 3.0
"""Between interim reports; a rotation is over before the first."""

HEARTBEAT_SECONDS: Final = 60.0
"""After which a report goes out though there is no news: the broker is to know that this boot is up."""

LONGEST_DETAIL: Final = 2000


@dataclass(frozen=True, slots=True)
class Standing:
    """A volume as it stands, without a key: what is reported of it, and what is on its disk."""

    report: VolumeReport
    seen: Observation


def look(world: World, record: Record, runtime: Path) -> Standing:
    """Look at a volume as far as that takes no key.

    Args:
        runtime: the agent's runtime directory, where it is written down how volumes were opened.
    """
    mapping, sighting = world.mappings.look(record), _look(world, record)
    seen = sighting.observation
    state: Openness = "foreign" if mapping.obstacle else mapping.reach
    if state == "closed" and seen.sight == "absent":
        state = "absent"
    header = seen.header
    report = VolumeReport(
        record.volume,
        state,
        _opened_by(record, runtime),
        sequence=None if header is None else header.sequence,
        recovery=None if header is None else header.recovery,
        named=sighting.named,
        revision=record.revision,
        ciphertext=sighting.carried if _is_behind(record, sighting) else None,
    )
    return Standing(report, seen)


def _look(world: World, record: Record) -> Sighting:
    """Return what is on its disk; one that cannot be looked at is that volume's trouble, and no other's."""
    try:
        return world.disks.look(record)
    except KeybrokerError as error:
        return Sighting(Observation(record.volume, "absent", detail=error.detail))
    except OSError as error:
        return Sighting(Observation(record.volume, "absent", detail=str(error)))


def _is_behind(record: Record, sighting: Sighting) -> bool:
    """Say whether the header names a key version that the broker, by its record, has never minted."""
    return sighting.named is not None and record.newest is not None and sighting.named > record.newest


def _opened_by(record: Record, runtime: Path) -> KeyVersion | None:
    crypt = names.crypt_name(record.name, record.luks_uuid)
    there = None if record.is_swap else devicemapper.mapped().get(crypt)
    fact = None if there is None else opened.recall(runtime, record.volume, there.node)
    return None if fact is None or fact.version is None else KeyVersion(fact.version)


def trouble(error: KeybrokerError | None) -> Refusal | None:
    """Return an error as it is reported."""
    return None if error is None else Refusal(error.problem, error.detail[:LONGEST_DETAIL])


def send(broker: Broker, boot: Boot, reports: Sequence[VolumeReport]) -> ReportReply:
    """Report, and hear what is wanted (Raises: as ``Broker.report``)."""
    return broker.report(ReportRequest(boot.boot_id, boot.machine_id, boot.agent_version, tuple(reports)))


class Reporter:
    """Tells the broker, every few seconds, what is going on with some volumes, while it is entered.

    Args:
        broker: a way to it that nobody else waits on.
        reports: of all volumes, as they stood at the beginning.
    """

    def __init__(
        self, broker: Callable[[], Broker], boot: Boot, reports: Sequence[VolumeReport], *, every: float
    ) -> None:
        self._broker = broker
        self._boot = boot
        self._reports = {report.volume: report for report in reports}
        self._every = every
        self._news = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="reports")

    def watch(self, record: Record, activity: Activity | None) -> None:
        """Take note of what is going on (``agent.change.course.Watch``)."""
        with self._lock:
            known = self._reports.get(record.volume)
            if known is not None:
                self._reports[record.volume] = replace(known, activity=activity)
        self._news.set()

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._news.set()
        self._thread.join()

    def _run(self) -> None:
        broker: Broker | None = None
        last = time.monotonic()
        while not self._over.is_set():
            self._news.wait(HEARTBEAT_SECONDS)
            self._over.wait(max(0.0, last + self._every - time.monotonic()))
            if self._over.is_set():
                return
            self._news.clear()
            with self._lock:
                reports = tuple(self._reports.values())
            try:
                broker = broker or self._broker()
                send(broker, self._boot, reports)
                wait = 0.0
            except KeybrokerError as error:
                # The last report of the run says what is wrong with the broker; what was to be told still is,
                # no sooner than the broker said.
                wait = error.retry_after or 0.0
                self._news.set()
            last = time.monotonic() + max(0.0, wait - self._every)
