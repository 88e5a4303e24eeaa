"""Waiting for volumes to get where they are wanted: a bar a volume on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import click

from keybroker.cli.quantities import short_duration, short_size
from keybroker.cli.screen import plain, terminal_width
from keybroker.wire.problems import KeybrokerError, Problem

_POLL_SECONDS: Final = 1.0
_BAR: Final = 20

Volumes = Mapping[str, dict[str, Any]]
"""What the broker shows of each volume, by id."""


def is_at_rest(one: dict[str, Any]) -> bool:
    """Say whether nothing is wanted of a volume any more."""
    if one["stage"] == "erased":
        return True
    rotating = one["wanted"] != one["current"] or one["staged"] or one["retiring"]
    return not rotating and one["order"] is None and one["role"] == "holder"


PLAINTEXT = "plaintext until it is encrypted"
"""What is said of a plain disk wherever its state is."""


def state_of(one: dict[str, Any]) -> str:
    """Say in a few words what is wanted of a volume: ``ready``, ``rotating to 8``, ``reencrypt (begun)`` …"""
    words = [one["stage"]] if one["role"] == "holder" else [one["role"], one["stage"]]
    if one["order"] is not None and one["stage"] != "erased":
        phase = " (begun)" if one["order"]["phase"] == "begun" else ""
        words.append(f"{one['order']['kind']}{phase}")
    if one["stage"] == "plain":
        words.append(PLAINTEXT)
    if one["stage"] == "ready" and (one["wanted"] != one["current"] or one["retiring"]):
        words.append(f"rotating to {one['wanted']}")
    if one.get("deletion") is not None:
        words.append(f"to be destroyed {one['deletion']['due'][:10]}")
    if one.get("ahead") is not None:
        words.append("ahead of the broker")
    if one["report"] is not None and one["report"]["trouble"] is not None:
        words.append(one["report"]["trouble"]["problem"])
    return ", ".join(words)


def progress_line(one: dict[str, Any]) -> str:
    """Return what is going on with a volume, in one line."""
    name = f"{one['addon']}/{one['name']}"
    if is_at_rest(one):
        return f"{name}: {'erased' if one['stage'] == 'erased' else 'done'}"
    report = one["report"] or {}
    activity = report.get("activity")
    if activity is None:
        return f"{name}: {state_of(one)}; waiting for its host"
    then = f"; then: {activity['then']}" if activity["then"] else ""
    if activity["progress"] is None:
        return plain(f"{name}: {activity['step']}: {activity['why']}{then}")
    return plain(f"{name}: {activity['step']} {_share(activity['progress'])}: {activity['why']}{then}")


def _share(progress: dict[str, Any]) -> str:
    done, total = progress["done"], max(1, progress["total"])
    full = _BAR * done // total
    words = [f"[{'#' * full}{'.' * (_BAR - full)}] {100 * done // total}%"]
    if progress["rate"]:
        words.append(f"{short_size(progress['rate'])}/s")
    if progress["seconds_left"] is not None:
        words.append(f"{short_duration(progress['seconds_left'])} left")
    return ", ".join(words)


@dataclass(slots=True)
class _Screen:
    """Lines that are drawn over each other on a terminal, and once each elsewhere."""

    live: bool
    drawn: int = 0
    said: dict[str, str] = field(default_factory=dict)

    def show(self, lines: dict[str, str]) -> None:
        if not self.live:
            for volume, line in lines.items():
                # of a long step, a line each tenth: this goes to a log
                key = _tenth(line)
                if self.said.get(volume) != key:
                    self.said[volume] = key
                    click.echo(line, err=True)
            return
        width = (terminal_width() or 80) - 1
        up = f"\x1b[{self.drawn}A" if self.drawn else ""
        body = "".join(f"\x1b[2K{line[:width]}\n" for line in lines.values())
        click.echo(up + body, nl=False, err=True)
        self.drawn = len(lines)


def _tenth(line: str) -> str:
    head, percent, rest = line.partition("%")
    if not percent:
        return line
    number = head.rpartition(" ")[2]
    words = rest.partition(": ")[2]
    return f"{head.partition('[')[0]}{int(number) // 10 if number.isdigit() else ''} {words}"


def wait(
    look: Callable[[], Volumes], wanted: Iterable[str], *, timeout_seconds: float | None
) -> list[dict[str, Any]]:
    """Wait until each of the wanted volumes is at rest, or has trouble that will not pass by itself.

    Args:
        look: asks the broker for all volumes.
        wanted: their ids; the successor of one that is migrated counts with it.
        timeout_seconds: None to wait as long as it takes.

    Returns:
        The volumes as they are then.

    Raises:
        KeybrokerError: the first trouble that stops a volume, once all others are at rest; TOO_SLOW.
    """
    began = time.time()
    ids, last = list(wanted), {}
    screen = _Screen(sys.stderr.isatty())
    while True:
        there = look()
        ids += [one["partner"] for one in map(there.get, ids) if one and one["partner"] not in (None, *ids)]
        shown = {each: there[each] for each in ids if each in there}
        last = shown
        screen.show({each: progress_line(one) for each, one in shown.items()})
        stopped = [error for one in shown.values() if (error := trouble_of(one, began)) is not None]
        waiting = [one for one in shown.values() if not is_at_rest(one) and trouble_of(one, began) is None]
        if not waiting:
            if stopped:
                raise stopped[0]
            return list(last.values())
        if timeout_seconds is not None and time.time() - began > timeout_seconds:
            names = ", ".join(f"{one['addon']}/{one['name']}" for one in waiting)
            raise KeybrokerError(
                Problem.TOO_SLOW,
                f"{names}: not done yet; it goes on by itself",
                hint="keybroker volume list",
            )
        time.sleep(_POLL_SECONDS)


def trouble_of(one: dict[str, Any], since: float) -> KeybrokerError | None:
    """Return the trouble that a volume's host has reported since, and that trying again does not end."""
    report = one["report"]
    if is_at_rest(one) or report is None or report["trouble"] is None:
        return None
    if _seconds(report["at"]) < since:
        return None
    problem = Problem.named(report["trouble"]["problem"])
    if problem.temporary:
        return None
    return KeybrokerError(problem, plain(f"{one['addon']}/{one['name']}: {report['trouble']['detail']}"))


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()
