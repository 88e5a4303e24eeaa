"""Metrics in Prometheus' text format: for the role ``metrics``, and on the health listener for its machine.

What the process counts is in its tally; what is counted in the database (``service.measuring``) is written
here. No label has a value that a client or an operator made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final, get_args

from flask import Blueprint, Response
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from keybroker import __version__
from keybroker.service import measuring
from keybroker.service.measuring import KEY_BOUNDS, PROOF_BOUNDS, Figures
from keybroker.store.counted import Ages
from keybroker.tally import Tally
from keybroker.web.app import broker, peer
from keybroker.web.problems import headers
from keybroker.web.telling import gives
from keybroker.wire.records import Stage

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

measured = Blueprint("measured", __name__)
local = Blueprint("local", __name__)


@measured.get("/metrics")
@gives(None, media=TEXT)
def _metrics() -> Response:
    return _say(measuring.figures(broker(), peer()))


@local.get("/metrics")
def _local_metrics() -> Response:
    return _say(measuring.local_figures(broker()))


def _say(figures: Figures) -> Response:
    return Response(text(broker().tally, figures), 200, list(headers(TEXT)))


def text(tally: Tally, figures: Figures) -> bytes:
    """Return all metrics in Prometheus' text format 0.0.4."""
    told = CollectorRegistry()
    told.register(_Told(figures))
    ProcessCollector(registry=told)
    return generate_latest(tally.registry) + generate_latest(told)


class _Told(Collector):
    """Figures as metrics."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Yield them."""
        figures = self._figures
        yield _labelled("build_info", "The version that is running.", "version", {__version__: 1})
        yield _one("figures_timestamp_seconds", "When what is in the database was counted.", figures.at)
        yield _one("figures_seconds", "How long that took.", figures.seconds)
        yield from _volumes(figures)
        yield from _keys(figures)
        yield from _deletions(figures)
        yield from _certificates(figures)
        yield from _trail(figures)
        yield from _rewrapping(figures)
        yield _one("recovery_mode", "1 while a restored database is not dealt with.", figures.recovering)
        yield _one("volumes_ahead", "Volumes whose host knows more than the broker.", figures.ahead)


def _volumes(figures: Figures) -> Iterator[Metric]:
    stages = {stage: figures.stages.get(stage, 0) for stage in get_args(Stage)}
    yield _labelled("volumes", "Volumes by stage.", "stage", stages)
    proofs = figures.proofs
    yield _ages(
        "volumes_by_proof_age", "Volumes whose key was seen to open them so lately.", proofs, PROOF_BOUNDS
    )
    yield _one("volumes_unproven", "Volumes in use whose key was never seen to open them.", proofs.unknown)
    yield _one("oldest_proof_timestamp_seconds", "The oldest of the volumes' last proofs.", proofs.oldest)
    yield _one("newest_proof_timestamp_seconds", "The newest of the volumes' last proofs.", proofs.newest)


def _keys(figures: Figures) -> Iterator[Metric]:
    keys = figures.keys
    yield _ages("keys_by_age", "Volumes' current keys that are so new.", keys, KEY_BOUNDS)
    yield _one("oldest_key_timestamp_seconds", "When the oldest current key was made.", keys.oldest)
    yield _one("newest_key_timestamp_seconds", "When the newest current key was made.", keys.newest)
    yield _one("keys_to_destroy", "Retired keys that wait for their destruction.", figures.to_destroy)
    yield _one("next_destruction_timestamp_seconds", "When the first is due.", figures.first_destroyed)


def _deletions(figures: Figures) -> Iterator[Metric]:
    pending = {"volumes": figures.volumes_pending, "addons": figures.addons_pending}
    counts = {of: each.count for of, each in pending.items()}
    yield _labelled("deletions_pending", "Volumes and add-ons that are to be destroyed.", "of", counts)
    waiting = {of: each.sooner for of, each in pending.items()}
    yield _labelled("deletions_to_approve", "Those that wait for a second person.", "of", waiting)
    first = {of: each.first for of, each in pending.items() if each.first is not None}
    yield _labelled("next_deletion_timestamp_seconds", "When the first is due.", "of", first)


def _certificates(figures: Figures) -> Iterator[Metric]:
    names = ("enrolled", "invited", "revoked")
    yield _labelled(
        "hosts", "Hosts by how they stand.", "state", dict(zip(names, figures.hosts, strict=True))
    )
    ends = {
        "ca": figures.ca,
        "server": figures.server,
        "hosts": figures.hosts_end.soonest,
        "operators": figures.operators_end.soonest,
    }
    yield _labelled(
        "certificate_expiry_timestamp_seconds",
        "When the certificate ends; of hosts and operators, the first that is good still.",
        "of",
        {of: end for of, end in ends.items() if end is not None},
    )
    over = {"hosts": figures.hosts_end.over, "operators": figures.operators_end.over}
    yield _labelled("certificates_expired", "Those not revoked whose certificate is over.", "of", over)


def _trail(figures: Figures) -> Iterator[Metric]:
    trail = figures.trail
    yield _one("audit_records", "Records in the audit trail.", trail.records)
    yield _one("audit_unsigned_records", "Records after the last checkpoint.", trail.unsigned)
    yield _one("audit_signed_timestamp_seconds", "When the last checkpoint was signed.", trail.signed_at)
    lag = None if trail.uncopied is None else max(0, trail.uncopied)
    yield _one("audit_uncopied_records", "Records of this broker that the journal was not told yet.", lag)


def _rewrapping(figures: Figures) -> Iterator[Metric]:
    rewrap = figures.rewrap
    yield _one("rewrap_keys", "Keys that master keys wrap.", figures.wrapped)
    yield _one("rewrap_keys_left", "Of them, those that an older master key wraps.", rewrap.by_masters)
    yield _one("rewrap_records_left", "Records that an older key of their add-on wraps.", rewrap.records)
    waiting = rewrap.renewals + rewrap.stale
    yield _one(
        "rewrap_addons_left", "Add-ons that are to get a new key, or still have an older one.", waiting
    )


def _one(name: str, about: str, value: float | datetime | None) -> Metric:
    """Return a gauge without labels; one that there is no value for has no sample."""
    family = GaugeMetricFamily(f"keybroker_{name}", about)
    if value is not None:
        family.add_metric((), _number(value))
    return family


def _labelled(name: str, about: str, label: str, values: dict[str, int] | dict[str, datetime]) -> Metric:
    family = GaugeMetricFamily(f"keybroker_{name}", about, labels=(label,))
    for of, value in values.items():
        family.add_metric((of,), _number(value))
    return family


def _ages(name: str, about: str, ages: Ages, bounds: tuple[timedelta, ...]) -> Metric:
    """Return a gauge with the label ``le`` in seconds, so that histogram_quantile() can be asked of it."""
    steps = {f"{bound.total_seconds():.0f}": count for bound, count in zip(bounds, ages.within, strict=True)}
    return _labelled(name, about, "le", {**steps, "+Inf": ages.known})


def _number(value: float | datetime) -> float:
    return value.timestamp() if isinstance(value, datetime) else float(value)
