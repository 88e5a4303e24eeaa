"""What this process has done, counted while it does it: the counters among the metrics.

Each label has its values from a table of ours, so that no client makes another series; all are there from the
start at zero, for an increase from nothing is seen only between two samples. Nothing here names anyone.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from keybroker.terms import PRIORITIES, Priority
from keybroker.wire.problems import Problem

Door = Literal["boot", "claim", "stage", "reveal"]
"""How a key can leave: to a host that boots, claims a disk or rotates; to an approver."""

Asker = Literal["host", "operator"]

Mistrust = Literal["no-certificate", "expired", "not-yet-valid", "untrusted", "by-client", "other"]
"""Why no connection came about: what the client's certificate is, or that the client does not trust ours."""

Work = Literal[
    "keys", "deletions", "recovery", "reveals", "restore", "rewrap", "checkpoints", "journal", "precedence"
]
"""What is done beside the requests: the sweep's duties, and those of whoever else works in the background."""

_OPERATIONS: Final = {
    ("main", "POST", "/v1/unlock"): "unlock",
    ("main", "POST", "/v1/report"): "report",
    ("enrolment", "POST", "/v1/enrolment"): "enrolment",
}
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STATUSES: Final = ("2xx", "4xx", "5xx")

# a second series beside each counter, which says when that was made: as long ago as the process
disable_created_metrics()  # type: ignore[no-untyped-call]


class Tally:
    """The counters of one process, in a registry of their own; safe for all threads.

    Attributes:
        registry: what ``web.metrics`` writes.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._deliveries = Counter(
            "keybroker_deliveries",
            "Volumes whose keys were handed out, by what for; each is durably on record before.",
            ["door"],
            registry=self.registry,
        )
        self._refusals = Counter(
            "keybroker_refusals",
            "Requests, or volumes within one, that were refused; by who asked and by the problem's slug.",
            ["asker", "reason"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "keybroker_request_seconds",
            "From a request's header fields to the beginning of its reply.",
            ["operation"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            "keybroker_requests",
            "Requests that were answered, by listener and kind of status.",
            ["listener", "status"],
            registry=self.registry,
        )
        self._handshakes = Counter(
            "keybroker_handshakes_refused",
            "Connections that were refused before any request, by listener and by why.",
            ["listener", "reason"],
            registry=self.registry,
        )
        self._sent_away = Counter(
            "keybroker_sent_away",
            "Requests that were told to come again because too many waited, by their add-on's priority.",
            ["priority"],
            registry=self.registry,
        )
        self._failures = Counter(
            "keybroker_work_failures",
            "Times that something beside the requests failed, to be tried again.",
            ["work"],
            registry=self.registry,
        )
        for priority in PRIORITIES:
            self._sent_away.labels(priority)
        for work in get_args(Work):
            self._failures.labels(work)
        for door in ("boot", "claim", "stage", "reveal"):
            self._deliveries.labels(door)
        for asker in ("host", "operator"):
            for problem in Problem:
                self._refusals.labels(asker, problem.slug)
        for operation in (*_OPERATIONS.values(), "other"):
            self._seconds.labels(operation)
        for listener in ("main", "enrolment"):
            for status in _STATUSES:
                self._requests.labels(listener, status)
            for reason in get_args(Mistrust):
                self._handshakes.labels(listener, reason)

    def delivered(self, door: Door, volumes: int = 1) -> None:
        """Count volumes whose keys are about to leave."""
        self._deliveries.labels(door).inc(volumes)

    def refused(self, asker: Asker, problem: Problem, times: int = 1) -> None:
        """Count a refusal."""
        self._refusals.labels(asker, problem.slug).inc(times)

    def turned_away(self, listener: str, reason: Mistrust) -> None:
        """Count a handshake that was refused, by either side."""
        self._handshakes.labels(listener, reason).inc()

    def sent_away(self, priority: Priority) -> None:
        """Count a request that found no place in the line."""
        self._sent_away.labels(priority).inc()

    def failed(self, work: Work) -> None:
        """Count what failed beside the requests."""
        self._failures.labels(work).inc()

    def answered(self, listener: str, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request and its time; probes of the health listener are nobody's waiting."""
        if listener == "health":
            return
        kind = f"{status // 100}xx"
        self._requests.labels(listener, kind if kind in _STATUSES else "5xx").inc()
        self._seconds.labels(_OPERATIONS.get((listener, method, path), "other")).observe(seconds)
