"""The table and the status of a dm-mirror over two legs, read strictly.

    0 122880 mirror core 1 4096 2 253:0 0 253:1 0 1 handle_errors
    0 122880 mirror 2 253:0 253:1 17/30 1 AA 1 core

Leg 0 is what is read while the other is being filled. ``handle_errors`` has the kernel hold a write back
that one leg did not take, instead of saying that it was done: nothing is acknowledged that only one leg has.
It is held until the table is exchanged, so whoever makes a mirror has to watch it.

Source: Linux, drivers/md/dm-raid1.c (``mirror_status``, ``device_status_char``) and dm-log.c.
"""

from __future__ import annotations

import re
from typing import Final

from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass

REGION_SECTORS: Final = 4096
"""2 MiB, LVM's own choice. The kernel copies one region at a time, in pieces of 512 KiB that run beside each
other; a write into the region that is being copied waits for it, which is 20 ms at 100 MiB a second."""

_TABLE: Final = re.compile(
    r"0 ([0-9]+) mirror core 1 ([0-9]+) 2 ([0-9]+:[0-9]+) 0 ([0-9]+:[0-9]+) 0 1 handle_errors ?\n?"
)
_STATUS: Final = re.compile(
    r"0 ([0-9]+) mirror 2 ([0-9]+:[0-9]+) ([0-9]+:[0-9]+)"
    r" ([0-9]+)/([0-9]+) 1 ([ADFSRU])([ADFSRU]) 1 core ?\n?"
)

FAILURES: Final = {
    "D": "a write failed",
    "F": "a flush failed",
    "S": "copying to it failed",
    "R": "a read failed",
    "U": "something failed",
}
"""What the letters of a leg's health mean; ``A`` is a leg without a fault."""


@dataclass(frozen=True, slots=True)
class MirrorTable:
    """A mirror of two devices.

    Attributes:
        sectors: length, in sectors of 512 bytes.
        legs: ``major:minor`` of the source and of the target.
        region: sectors that are copied as one.
    """

    sectors: int
    legs: tuple[str, str]
    region: int = REGION_SECTORS

    @property
    def line(self) -> str:
        """The table to load."""
        source, target = self.legs
        return f"0 {self.sectors} mirror core 1 {self.region} 2 {source} 0 {target} 0 1 handle_errors"


@dataclass(frozen=True, slots=True)
class MirrorStatus:
    """How far a mirror is.

    Attributes:
        copied, regions: how many regions both legs hold, and how many there are.
        health: a letter a leg.
    """

    legs: tuple[str, str]
    copied: int
    regions: int
    health: tuple[str, str]

    @property
    def in_sync(self) -> bool:
        """Say whether both legs hold everything, and neither has failed."""
        return self.copied == self.regions and self.health == ("A", "A")

    @property
    def failure(self) -> str:
        """Say in words which leg failed at what; empty where none did."""
        names = ("the source", "the target")
        said = [
            f"{name}: {FAILURES[letter]}"
            for name, letter in zip(names, self.health, strict=True)
            if letter != "A"
        ]
        return "; ".join(said)


def is_mirror(text: str) -> bool:
    """Say whether a table has a mirror in it, of whatever form."""
    return any(line.split()[2:3] == ["mirror"] for line in text.splitlines())


def read_table(text: str) -> MirrorTable:
    """Read a table (WRONG_DEVICE where it is not one mirror of the form that we make)."""
    match = _TABLE.fullmatch(text)
    if match is None:
        raise _wrong("table", text)
    return MirrorTable(int(match[1]), (match[3], match[4]), int(match[2]))


def read_status(text: str) -> MirrorStatus:
    """Read a status (WRONG_DEVICE where it is not that of one mirror of the form that we make)."""
    match = _STATUS.fullmatch(text)
    if match is None:
        raise _wrong("status", text)
    copied, regions = int(match[4]), int(match[5])
    if copied > regions:
        raise _wrong("status", text)
    return MirrorStatus((match[2], match[3]), copied, regions, (match[6], match[7]))


def _wrong(what: str, text: str) -> KeybrokerError:
    return KeybrokerError(
        Problem.WRONG_DEVICE,
        f"kernel {what}: of another form ({text[:80]!r}), must be one mirror of two legs",
    )
