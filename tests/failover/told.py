"""What a history comes to, in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.failover.history import End, Op


def summary(ops: Sequence[Op], end: End) -> str:
    """Return how many calls there were and what came of them."""
    outcomes = Counter(op.outcome for op in ops)
    verbs = Counter(op.verb for op in ops if op.outcome == "ok")
    keys = sum(bool(op.facts.keys) for op in ops)
    said = ", ".join(f"{count} {verb}" for verb, count in sorted(verbs.items()))
    return (
        f"{len(ops)} calls: {outcomes['ok']} ok, {outcomes['refused']} refused, {outcomes['unknown']} unknown"
        f"; {keys} with keys, {len(end.trail)} records, {len(end.volumes)} volumes; {said}"
    )
