"""What must hold of any history, whatever failed meanwhile. Pure; each check returns what is wrong, in words.

| check | a violation |
|---|---|
| lost | a change was acknowledged, and is not there in the end, or has no record |
| stale | a reply shows a volume as it was before a change that was acknowledged before it was asked for |
| minted_twice | one version of a volume's key has two values |
| unproven | a version was current without a promotion with a proof that is one |
| after_the_end | a key left after its host was revoked, its volume deleted or its key destroyed |
| unrecorded | a key left, and no record says so |
| twice | one call had two effects |
| unopened | a live key of a volume is not handed out in the end |

Whatever is called ``unknown`` may have happened once or not at all. A volume is changed by one client at a
time, which repeats a call until it knows; others read it all the time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from tests.failover.history import HOSTS, End, Op

FIRST: Final = 1
"""The version that a volume is made with, which nothing is promoted to."""


def wrong(ops: Iterable[Op], end: End) -> list[str]:
    """Return every violation of a history."""
    history = sorted(ops, key=lambda op: op.began)
    checks = (lost, stale, minted_twice, unproven, after_the_end, unrecorded, twice, unopened)
    return [f"{check.__name__}: {said}" for check in checks for said in check(history, end)]


def lost(history: list[Op], end: End) -> Iterator[str]:
    """Find acknowledged changes that are gone, or have no record."""
    recorded = {(entry.verb, entry.volume, entry.revision) for entry in end.trail}
    about = {(entry.verb, entry.volume) for entry in end.trail} | {
        (entry.verb, entry.host) for entry in end.trail
    }
    for op in _acknowledged(history):
        if op.verb in HOSTS or op.verb == "volume.add":
            standing = end.volumes.get(op.subject)
            if standing is None or standing.revision < (op.facts.revision or 0):
                yield f"{_named(op)}: the volume is {standing}"
        if op.verb in HOSTS and (op.verb, op.subject, op.facts.revision) not in recorded:
            yield f"{_named(op)}: has no record"
        if op.verb in ("enrol", "host.revoke"):
            if op.subject not in end.hosts or (op.verb == "host.revoke" and not end.hosts[op.subject]):
                yield f"{_named(op)}: the host is not there, or not revoked"
            if (op.verb, op.subject) not in about:
                yield f"{_named(op)}: has no record"
    yield from _undone(history, end)


def _undone(history: list[Op], end: End) -> Iterator[str]:
    """Find operators' wishes whose last word is not what stands."""
    said: dict[tuple[str, str], Op] = {}
    for op in history:
        for kind, verbs in (
            ("deleted", ("volume.delete", "volume.undelete", "volume.approve")),
            ("ordered", ("volume.order", "volume.cancel")),
        ):
            if op.verb in verbs and op.outcome != "refused":
                said[kind, op.subject] = op
    for (kind, volume), op in said.items():
        if op.outcome != "ok":
            continue
        standing = end.volumes.get(volume)
        if standing is None:
            yield f"{_named(op)}: there is no such volume"
        elif op.verb == "volume.approve":
            if standing.stage != "erased":
                yield f"{_named(op)}: the volume is {standing.stage}"
        elif kind == "deleted" and standing.deleted != (op.verb == "volume.delete"):
            yield f"{_named(op)}: deleted is {standing.deleted}"
        elif kind == "ordered" and standing.ordered != (op.verb == "volume.order"):
            yield f"{_named(op)}: ordered is {standing.ordered}"


def stale(history: list[Op], _end: End) -> Iterator[str]:
    """Find replies from before what was acknowledged already when they were asked for."""
    ends: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for op in sorted(_acknowledged(history), key=lambda op: op.ended):
        if op.facts.revision is not None:
            known = ends[op.subject]
            known.append((op.ended, max(op.facts.revision, known[-1][1] if known else 0)))
    for op in _acknowledged(history):
        if op.facts.revision is None:
            continue
        before = max((revision for ended, revision in ends[op.subject] if ended < op.began), default=0)
        if op.facts.revision < before:
            yield f"{_named(op)}: shows revision {op.facts.revision}, and {before} was acknowledged before"


def minted_twice(history: list[Op], end: End) -> Iterator[str]:
    """Find versions that are two keys."""
    values: dict[tuple[str, int], set[str]] = defaultdict(set)
    for op in history:
        for version, value in op.facts.keys.items():
            values[op.subject, version].add(value)
    for volume, standing in end.volumes.items():
        for version, value in standing.keys.items():
            values[volume, version].add(value)
    for (volume, version), found in values.items():
        if len(found) > 1:
            yield f"volume {volume}: version {version} is {len(found)} keys"


def unproven(history: list[Op], end: End) -> Iterator[str]:
    """Find versions that are current, and nobody has proven that they open anything."""
    tried: dict[tuple[str, int], float] = {}
    for op in history:
        if op.verb != "promote":
            continue
        if not op.proven and op.outcome == "ok":
            yield f"{_named(op)}: was acknowledged without a proof"
        if op.proven and op.version is not None:
            tried.setdefault((op.subject, op.version), op.began)
    seen = [(op.subject, op.facts.current, op.ended, _named(op)) for op in _acknowledged(history)]
    seen += [(volume, one.current, float("inf"), "the end") for volume, one in end.volumes.items()]
    for volume, current, when, where in seen:
        if current is None or current == FIRST:
            continue
        if (volume, current) not in tried or tried[volume, current] > when:
            yield f"{where}: volume {volume} is at version {current}, which was not promoted"


def after_the_end(history: list[Op], _end: End) -> Iterator[str]:
    """Find keys that left although whoever had ended that had been told so."""
    closed = {op.subject: op.ended for op in history if op.verb == "host.revoke" and op.outcome == "ok"}
    for op in history:
        if not op.facts.keys:
            continue
        if closed.get(op.host, float("inf")) < op.began:
            yield f"{_named(op)}: host {op.host} was revoked before"
        if any(_forbids(one, op, history) for one in history if one.subject == op.subject):
            yield f"{_named(op)}: the volume was deleted before"
        for one in history:
            is_before = one.subject == op.subject and one.outcome == "ok" and one.ended < op.began
            if one.verb == "retire" and is_before and one.version in op.facts.keys:
                yield f"{_named(op)}: version {one.version} was retired before"


def _forbids(deletion: Op, op: Op, history: list[Op]) -> bool:
    """Say whether a deletion was acknowledged before a call, and nobody has tried since to call it off."""
    if deletion.verb not in ("volume.delete", "volume.approve") or deletion.outcome != "ok":
        return False
    if deletion.ended >= op.began:
        return False
    return not any(
        one.verb == "volume.undelete"
        and one.subject == op.subject
        and deletion.ended <= one.began <= op.ended
        for one in history
    )


def unrecorded(history: list[Op], end: End) -> Iterator[str]:
    """Find keys that left without a record, or with one of something else."""
    by_receipt = {entry.receipt: entry for entry in end.trail}
    released = {
        (entry.verb, entry.volume, entry.revision) for entry in end.trail if entry.outcome == "released"
    }
    for op in history:
        if not op.facts.keys:
            continue
        if op.facts.receipt is None:
            if (op.verb, op.subject, op.facts.revision) not in released:
                yield f"{_named(op)}: no record says that a key left"
            continue
        entry = by_receipt.get(op.facts.receipt)
        if entry is None:
            yield f"{_named(op)}: its receipt is not in the trail"
        elif (entry.verb, entry.outcome, entry.volume, entry.host) != (
            op.verb,
            "released",
            op.subject,
            op.host,
        ):
            yield f"{_named(op)}: its receipt is of another record, {entry}"


def twice(history: list[Op], end: End) -> Iterator[str]:
    """Find calls that had more than one effect, and revisions that two calls led to."""
    effects: dict[tuple[str | None, int], set[tuple[str, int | None]]] = defaultdict(set)
    for entry in end.trail:
        if entry.verb in HOSTS - {"backup"} and entry.outcome in ("done", "released") and entry.revision:
            effects[entry.volume, entry.revision].add((entry.verb, entry.version))
    for (volume, revision), made in effects.items():
        if len(made) > 1:
            yield f"volume {volume}: revision {revision} was made by {sorted(made, key=str)}"
    tried = Counter(op.subject for op in history if op.verb == "host.invite" and op.outcome != "refused")
    known = Counter(op.subject for op in history if op.verb == "host.invite" and op.outcome == "ok")
    for addon, count in end.invited.items():
        if not known[addon] <= count <= tried[addon]:
            yield f"add-on {addon}: {count} hosts, {known[addon]} known invitations, {tried[addon]} tried"
    enrolled = Counter(entry.host for entry in end.trail if entry.verb == "enrol" and entry.outcome == "done")
    asked = Counter(op.subject for op in history if op.verb == "enrol")
    for host, count in enrolled.items():
        if host is not None and host in asked and count > asked[host]:
            yield f"host {host}: enrolled {count} times, asked for {asked[host]} times"


def unopened(history: list[Op], end: End) -> Iterator[str]:
    """Find volumes that are not ended, whose host does not get the current key."""
    used = {op.subject for op in _acknowledged(history) if op.verb == "ready"}
    for volume, standing in end.volumes.items():
        if volume not in used or standing.deleted or standing.stage != "ready":
            continue
        if standing.current not in standing.keys:
            yield f"volume {volume}: its host gets {sorted(standing.keys)}, and {standing.current} is current"


def _acknowledged(history: Iterable[Op]) -> list[Op]:
    return [op for op in history if op.outcome == "ok"]


def _named(op: Op) -> str:
    return f"#{op.number} {op.verb} {op.subject} [{op.began:.2f}, {op.ended:.2f}] {op.outcome}"
