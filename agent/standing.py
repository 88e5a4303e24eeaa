"""The verb ``status``: who this machine is and what of its volumes is open, for people and for programs."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from agent import identity, layout, opened
from agent.config import Config
from agent.examination import Examined, examine
from agent.identity import Identity
from agent.machine import MachineMappings
from agent.opened import VolumeStatus
from agent.places import Places
from keybroker.wire.problems import KeybrokerError

_HEAD = ("VOLUME", "STATE", "DEVICE", "MOUNTED", "KEY", "SLOT", "SEQ", "SINCE")


def report(settings: Config, *, as_json: bool) -> str:
    """Return what ``status`` prints.

    Raises:
        KeybrokerError: where the kernel cannot be asked.
    """
    known = layout.load(settings.state_directory)
    places = Places(settings.devices)
    mappings = MachineMappings(places, settings.runtime_directory, time.time)
    volumes = opened.status(known.records, mappings, runtime=settings.runtime_directory)
    headers = {volume.record.volume: examine(volume.record, places) for volume in volumes}
    who = _who(settings)
    if as_json:
        said: dict[str, Any] = {
            "host": who and who.host,
            "certificate_until": who and _day(who.not_after),
            "volumes": [
                {**volume.as_json(), "header": _health(headers[volume.record.volume])} for volume in volumes
            ],
        }
        return json.dumps(said, indent=2)
    lines = [f"{who.host}, certificate good until {_day(who.not_after)}" if who else "not enrolled"]
    if known.warning:
        lines.append(f"layout: {known.warning}")
    lines += table([_HEAD, *(_row(volume) for volume in volumes)]) if volumes else ["no volumes are known"]
    lines += [f"{volume.record.name}: {volume.detail}" for volume in volumes if volume.detail]
    for volume in volumes:
        examined = headers[volume.record.volume]
        if examined is not None and examined.detail:
            lines += [f"{volume.record.name}: {examined.detail}", f"  hint: {examined.hint}"]
    return "\n".join(lines)


def _health(examined: Examined | None) -> str | None:
    return None if examined is None else examined.health


def _who(settings: Config) -> Identity | None:
    try:
        return identity.load(settings.state_directory)
    except KeybrokerError:
        return None


def _row(volume: VolumeStatus) -> tuple[str, ...]:
    fact = volume.fact
    numbers = (fact.version, fact.keyslot, fact.sequence) if fact else (None, None, None)
    return (
        volume.record.name,
        volume.state,
        volume.device or "-",
        " ".join(volume.mounted) or "-",
        *("-" if number is None else str(number) for number in numbers),
        _day(fact.since, "%Y-%m-%d %H:%M:%S") if fact else "-",
    )


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows of texts as lines whose columns stand below each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _day(seconds: int, form: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)
