"""Sizes and durations as people write them, parsed at the border into bytes and seconds."""

from __future__ import annotations

import re
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


def show_size(size: int) -> str:
    """Write bytes the way ``parse_size`` reads them, exactly: 21474836480 is ``20G``, 1000 is ``1000``."""
    unit = ""
    for next_unit in _UNITS:
        if size == 0 or size % 1024:
            break
        size, unit = size // 1024, next_unit
    return f"{size}{unit}"


def parse_duration(text: str) -> int:
    """Read ``90s``, ``30m``, ``2h``, ``7d`` or a number of seconds.

    Raises:
        KeybrokerError: USAGE.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise KeybrokerError(Problem.USAGE, f"lifetime: {text!r} is not a duration", hint="30m, 2h or 7d")
    return int(match[1]) * _SECONDS[match[2] or "s"]
