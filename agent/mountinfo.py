"""What is mounted where, as the kernel says it (proc(5), /proc/PID/mountinfo)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount.

    Attributes:
        node: ``major:minor`` of the device that is mounted.
        point: where.
        kind: of filesystem.
    """

    node: str
    point: str
    kind: str


def mounts(*, proc: Path = PROC) -> tuple[Mounted, ...]:
    """Return all mounts that this process sees, in the order in which they were made."""
    found = []
    for line in (proc / "self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        found.append(Mounted(node=fields[2], point=_plain(fields[4]), kind=after.split()[0]))
    return tuple(found)


def _plain(text: str) -> str:
    """Undo the kernel's escapes: blank, tab, newline and backslash come as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
