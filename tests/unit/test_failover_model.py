"""The model of ``tests.failover`` takes a good history, and finds what is wrong with doctored ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.failover.history import End, Entry, Facts, Op, Standing
from tests.failover.model import wrong

VOLUME, HOST, ADDON = "v", "h", "shop"
History = list[Op]


def op(number: int, verb: str, subject: str, facts: Facts, version: int | None = None) -> Op:
    """Return a call that took a second and came after all with a lower number."""
    began = float(2 * number)
    return Op(number, verb, subject, HOST, began, began + 1, "ok", facts, version)


HISTORY: History = [
    op(0, "host.invite", ADDON, Facts()),
    op(1, "enrol", HOST, Facts()),
    op(2, "volume.add", VOLUME, Facts(1)),
    op(3, "claim", VOLUME, Facts(2, 1, {1: "one"})),
    op(4, "ready", VOLUME, Facts(3, 1)),
    op(5, "stage", VOLUME, Facts(4, 1, {1: "one", 2: "two"})),
    op(6, "promote", VOLUME, Facts(5, 2), version=2),
    op(7, "retire", VOLUME, Facts(6, 2), version=1),
    op(8, "unlock", VOLUME, Facts(6, 2, {2: "two"}, (9, "hash"))),
    op(9, "volume.delete", VOLUME, Facts(7, 2)),
    op(10, "volume.undelete", VOLUME, Facts(8, 2)),
    op(11, "unlock", VOLUME, Facts(8, 2, {2: "two"}, (10, "hash"))),
    op(12, "host.revoke", HOST, Facts()),
]


def entry(number: int, verb: str, outcome: str = "done", revision: int | None = None, **more: int) -> Entry:
    """Return a record of the good history."""
    volume = None if verb in ("host.invite", "enrol", "host.revoke") else VOLUME
    return Entry((number, "hash"), verb, outcome, volume, HOST, revision, more.get("version"))


TRAIL = (
    entry(1, "host.invite"),
    entry(2, "enrol"),
    entry(3, "volume.add"),
    entry(4, "claim", "released", 2),
    entry(5, "ready", "done", 3),
    entry(6, "stage", "released", 4, version=2),
    entry(7, "promote", "done", 5, version=2),
    entry(8, "retire", "done", 6, version=1),
    entry(9, "unlock", "released"),
    entry(10, "unlock", "released"),
    entry(11, "host.revoke"),
)
STANDING = Standing("ready", 8, 2, deleted=False, ordered=False, keys={2: "two"})
END = End({VOLUME: STANDING}, {HOST: True}, {ADDON: 1}, TRAIL)


def test_a_good_history_has_nothing_wrong() -> None:
    assert wrong(HISTORY, END) == []


def with_op(number: int, **changed: object) -> History:
    """Return the history with one call otherwise."""
    made: History = list(HISTORY)
    made[number] = replace(made[number], **changed)  # type: ignore[arg-type]
    return made


def standing(**changed: object) -> End:
    """Return the end with the volume otherwise."""
    return replace(END, volumes={VOLUME: replace(STANDING, **changed)})  # type: ignore[arg-type]


def without(verb: str) -> End:
    """Return the end without the records of a verb."""
    return replace(END, trail=tuple(one for one in TRAIL if one.verb != verb))


def late(verb: str, facts: Facts = Facts(), **more: object) -> History:  # noqa: B008  # frozen
    """Return the history with one more call at its end."""
    return [*HISTORY, replace(op(20, verb, VOLUME, facts), **more)]  # type: ignore[arg-type]


DOCTORED: dict[str, tuple[str, Callable[[], tuple[History, End]]]] = {
    "a volume is gone": ("lost", lambda: (HISTORY, replace(END, volumes={}))),
    "a volume is at an older revision": ("lost", lambda: (HISTORY, standing(revision=5))),
    "a stage has no record": ("lost", lambda: (HISTORY, without("stage"))),
    "a host is gone": ("lost", lambda: (HISTORY, replace(END, hosts={}))),
    "an enrolment has no record": ("lost", lambda: (HISTORY, without("enrol"))),
    "a revoked host is not revoked": ("lost", lambda: (HISTORY, replace(END, hosts={HOST: False}))),
    "a deletion that was called off is pending": ("lost", lambda: (HISTORY, standing(deleted=True))),
    "a deletion is not pending": ("lost", lambda: (late("volume.delete", Facts(8)), END)),
    "an order is not there": ("lost", lambda: (late("volume.order", Facts(8)), END)),
    "a cancelled order is there": ("lost", lambda: (late("volume.cancel", Facts(8)), standing(ordered=True))),
    "a destroyed volume stands": ("lost", lambda: (late("volume.approve", Facts(8)), END)),
    "a reply is from the past": ("stale", lambda: (with_op(11, facts=Facts(5, 2)), END)),
    "a version was minted twice": (
        "minted_twice",
        lambda: (with_op(8, facts=Facts(6, 2, {2: "another"}, (9, "hash"))), END),
    ),
    "the end has another key": ("minted_twice", lambda: (HISTORY, standing(keys={2: "another"}))),
    "a forged proof was taken": ("unproven", lambda: (with_op(6, proven=False), END)),
    "a version is current that nobody promoted": ("unproven", lambda: (HISTORY, standing(current=3))),
    "a version was current before it was promoted": (
        "unproven",
        lambda: (with_op(5, facts=Facts(4, 2, {1: "one", 2: "two"})), END),
    ),
    "a key left to a revoked host": (
        "after_the_end",
        lambda: (late("unlock", Facts(8, 2, {2: "two"}, (10, "hash"))), END),
    ),
    "a retired key left": (
        "after_the_end",
        lambda: (with_op(8, facts=Facts(6, 2, {1: "one"}, (9, "hash"))), END),
    ),
    "a key left while its deletion was pending": (
        "after_the_end",
        lambda: ([one for one in HISTORY if one.verb != "volume.undelete"], standing(deleted=True)),
    ),
    "a key left without a record": ("unrecorded", lambda: (HISTORY, without("unlock"))),
    "a claim's key left without a record": ("unrecorded", lambda: (HISTORY, without("claim"))),
    "a receipt is of something else": (
        "unrecorded",
        lambda: (with_op(8, facts=Facts(6, 2, {2: "two"}, (7, "hash"))), END),
    ),
    "a revision was made twice": (
        "twice",
        lambda: (HISTORY, replace(END, trail=(*TRAIL, entry(12, "ready", "done", 4)))),
    ),
    "an invitation made two hosts": ("twice", lambda: (HISTORY, replace(END, invited={ADDON: 2}))),
    "an invited host is gone": ("twice", lambda: (HISTORY, replace(END, invited={ADDON: 0}))),
    "a host enrolled twice": (
        "twice",
        lambda: (HISTORY, replace(END, trail=(*TRAIL, entry(12, "enrol")))),
    ),
    "the current key is not handed out": ("unopened", lambda: (HISTORY, standing(keys={}))),
}


@pytest.mark.parametrize("what", list(DOCTORED))
def test_a_doctored_history_is_found_out(what: str) -> None:
    check, doctored = DOCTORED[what]
    found = wrong(*doctored())
    assert [said for said in found if said.startswith(f"{check}: ")], found


@pytest.mark.parametrize("number", [9, 12])
def test_what_is_unknown_may_have_happened_or_not(number: int) -> None:
    changed = with_op(number, outcome="unknown", facts=Facts())
    assert wrong(changed[: number + 1] + changed[number + 1 :], END) == []


def test_an_unknown_invitation_may_have_made_a_host_once() -> None:
    tried = [*HISTORY, replace(op(13, "host.invite", ADDON, Facts()), outcome="unknown")]
    for hosts in (1, 2):
        assert wrong(tried, replace(END, invited={ADDON: hosts})) == []
    assert wrong(tried, replace(END, invited={ADDON: 3}))
