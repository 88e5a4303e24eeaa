"""Sizes and durations as people write them, parsed at the border into bytes and seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from keybroker.wire.fields import LARGEST_INTEGER
from keybroker.wire.problems import KeybrokerError, Problem

_UNITS: Final = "KMGTP"
_SIZE: Final = re.compile(r"([0-9]{1,19})([KMGTP]?)(?:iB)?", re.IGNORECASE)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd]?)")


def parse_size(text: str) -> int:
    """Read ``20G``, ``512M``, ``20GiB`` or a number of bytes; units are IEC's, powers of 1024.

    Raises:
        KeybrokerError: USAGE.
    """
    match = _SIZE.fullmatch(text)
    number = 0 if match is None else int(match[1])
    if match is not None and match[2]:
        number <<= 10 * (1 + _UNITS.index(match[2].upper()))
    if not 0 < number <= LARGEST_INTEGER:
        raise KeybrokerError(
            Problem.USAGE, f"size: {text!r} is not a size", hint="20G, 512M, or a number of bytes"
        )
    return number


def parse_disk(text: str) -> int:
    """Read a disk's size, as ``parse_size`` does; a small number without a unit has lost it.

    Raises:
        KeybrokerError: USAGE.
    """
    size = parse_size(text)
    if text.isdecimal() and size < 1 << 20:
        raise KeybrokerError(
            Problem.USAGE, f"size: {text} is so many bytes", hint=f"with a unit: {text}G, {text}M"
        )
    return size


def show_size(size: int) -> str:
    """Write bytes the way ``parse_size`` reads them, exactly: 21474836480 is ``20G``, 1000 is ``1000``."""
    unit = ""
    for next_unit in _UNITS:
        if size == 0 or size % 1024:
            break
        size, unit = size // 1024, next_unit
    return f"{size}{unit}"


def short_size(size: int) -> str:
    """Write bytes for people: 1503238553 is ``1.4G``; three digits are enough for whom it is for."""
    number, unit = float(size), ""
    for next_unit in _UNITS:
        if number < 1000:
            break
        number, unit = number / 1024, next_unit
    return f"{number:.0f}{unit}" if number >= 10 or not unit else f"{number:.1f}{unit}"


def short_duration(seconds: float) -> str:
    """Write a span for people: ``45s``, ``12m``, ``3h``, ``17d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0, seconds):.0f}s"


def parse_duration(text: str) -> int:
    """Read ``90s``, ``30m``, ``2h``, ``7d`` or a number of seconds.

    Raises:
        KeybrokerError: USAGE.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise KeybrokerError(Problem.USAGE, f"lifetime: {text!r} is not a duration", hint="30m, 2h or 7d")
    return int(match[1]) * _SECONDS[match[2] or "s"]


def parse_moment(text: str, now: datetime) -> datetime:
    """Read a time: ``2026-01-31``, ``2026-01-31T12:00Z``, or how long ago it was, ``30m``, ``2h``, ``7d``.

    Args:
        now: aware.

    Returns:
        In UTC, which is also what a time without an offset is in.

    Raises:
        KeybrokerError: USAGE.
    """
    ago = _DURATION.fullmatch(text)
    try:
        if ago is not None and ago[2]:
            return now - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise KeybrokerError(
            Problem.USAGE,
            f"time: {text!r} is not a time",
            hint="2026-01-31, 2026-01-31T12:00Z, or 2h for 2h ago",
        ) from None
