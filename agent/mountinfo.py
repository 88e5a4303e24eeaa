"""What is mounted where and what is swapped to, as the kernel says it (proc(5), mountinfo and swaps)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from keybroker.wire.values import dataclass

PROC: Final = Path("/proc")

_DEVICE: Final = re.compile(r"^/dm-[0-9]+$")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount.

    Attributes:
        node: ``major:minor`` of the device that is mounted.
        point: where.
        kind: of filesystem.
        source: what it was mounted from, in the filesystem's own words: mostly a path, which may be stale.
    """

    node: str
    point: str
    kind: str
    source: str


def mounts(*, proc: Path = PROC) -> tuple[Mounted, ...]:
    """Return all mounts that this process sees, in the order in which they were made."""
    found = []
    for line in (proc / "self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        kind, source = after.split(" ")[:2]
        found.append(Mounted(node=fields[2], point=_plain(fields[4]), kind=kind, source=_plain(source)))
    return tuple(found)


def swaps(*, proc: Path = PROC) -> tuple[Path, ...]:
    """Return what the kernel swaps to: devices and files.

    Swap that a unit with mounts of its own turned on, as ours does at boot, is ``/dm-0`` here and not
    ``/dev/dm-0``: the path is the one inside that unit's /dev, and from ours the kernel finds no way to that.
    """
    lines = (proc / "swaps").read_text().splitlines()[1:]
    return tuple(Path(_DEVICE.sub(r"/dev\g<0>", _plain(line.split()[0]))) for line in lines)


def _plain(text: str) -> str:
    """Undo the kernel's escapes: blank, tab, newline and backslash come as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
