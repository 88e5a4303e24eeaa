"""Device-mapper tables, as the kernel tells them, against what was meant.

The last look before anything is mounted: whatever a header said and whatever cryptsetup made of it, this is
what the kernel will do with each sector. A line has one legal form, and any other is refused.

    0 122880 crypt aes-xts-plain64 :64:logon:cryptsetup:<uuid>-d0 0 253:16 8192 1 sector_size:4096
    0 122880 linear 253:0 0

Source: Linux, Documentation/admin-guide/device-mapper/dm-crypt.rst and linear.rst.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from agent.luks.header import Header
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass

SECTOR: Final = 512

FLAGS: Final = {
    "allow-discards": "allow_discards",
    "same-cpu-crypt": "same_cpu_crypt",
    "submit-from-crypt-cpus": "submit_from_crypt_cpus",
    "no-read-workqueue": "no_read_workqueue",
    "no-write-workqueue": "no_write_workqueue",
    "high_priority": "high_priority",
}
"""The persistent flags of a LUKS2 header, and dm-crypt's words for them."""


_CRYPT: Final = re.compile(
    r"([0-9]+) ([0-9]+) crypt (\S+) (\S+) ([0-9]+) (\S+) ([0-9]+)(?: ([0-9]+)((?: \S+)*))? ?\n?"
)
_LINEAR: Final = re.compile(r"([0-9]+) ([0-9]+) linear (\S+) ([0-9]+) ?\n?")


@dataclass(frozen=True, slots=True)
class CryptTable:
    """What a volume's dm-crypt device must be.

    Attributes:
        sectors: its length, in sectors of 512 bytes, as are all numbers of a table.
        key_bytes: size of the volume key.
        key: how the kernel names the key; a kernel that was given the key itself shows zeros in its place.
        device: ``major:minor`` of the device below.
        offset: where the data begins, in sectors of 512 bytes.
        sector_size: encryption sector size, in bytes.
        flags: dm-crypt's words.
        start: where in the device this target begins; in a re-encryption there is more than one.
    """

    sectors: int
    cipher: str
    key_bytes: int
    key: str
    device: str
    offset: int
    sector_size: int
    flags: tuple[str, ...] = ()
    start: int = 0

    @property
    def options(self) -> tuple[str, ...]:
        """The optional words at the end of the line."""
        sectors = (f"sector_size:{self.sector_size}",) if self.sector_size != SECTOR else ()
        return self.flags + sectors


@dataclass(frozen=True, slots=True)
class LinearTable:
    """What a volume's stable device must be: all of one device below; numbers as in ``CryptTable``."""

    sectors: int
    device: str
    offset: int = 0

    @property
    def line(self) -> str:
        """The table to load."""
        return f"0 {self.sectors} linear {self.device} {self.offset}"


def meant(header: Header, device: str, device_bytes: int) -> CryptTable:
    """Return the table that a header must lead to.

    Args:
        header: that was accepted.
        device: ``major:minor`` of the device that was opened.
        device_bytes: its size.
    """
    segment = header.segments[0]
    digest = header.metadata.data_digest
    key_bytes = header.keyslots[digest.keyslots[0]].key_bytes
    return CryptTable(
        sectors=(device_bytes - segment.offset) // SECTOR,
        cipher=segment.cipher,
        key_bytes=key_bytes,
        key=f":{key_bytes}:logon:cryptsetup:{header.uuid}-d{digest.number}",
        device=device,
        offset=segment.offset // SECTOR,
        sector_size=segment.sector_size,
        flags=tuple(FLAGS[flag] for flag in header.metadata.flags if flag in FLAGS),
    )


def meant_midway(header: Header, device: str, device_bytes: int) -> tuple[CryptTable, ...]:
    """Return the tables that a header in the middle of a re-encryption must lead to, target by target.

    Args:
        header: that was accepted, with no segment hot: opening it has put that right.
        device, device_bytes: as for ``meant``.
    """
    found = []
    for segment in header.segments.values():
        if segment.is_backup:
            continue
        digest = next(each for each in header.digests.values() if segment.number in each.segments)
        key_bytes = header.keyslots[digest.keyslots[0]].key_bytes
        end = device_bytes if segment.size is None else segment.offset + segment.size
        found.append(
            CryptTable(
                sectors=(end - segment.offset) // SECTOR,
                cipher=segment.cipher,
                key_bytes=key_bytes,
                key=f":{key_bytes}:logon:cryptsetup:{header.uuid}-d{digest.number}",
                device=device,
                offset=segment.offset // SECTOR,
                sector_size=segment.sector_size,
                flags=tuple(FLAGS[flag] for flag in header.metadata.flags if flag in FLAGS),
                start=(segment.offset - header.data_offset) // SECTOR,
            )
        )
    return tuple(found)


def check_crypt_tables(text: str, tables: Sequence[CryptTable]) -> None:
    """Compare a table of several targets with what was meant (Raises: as ``check_crypt_table``)."""
    lines = text.splitlines()
    _check("number of targets", str(len(lines)), len(tables))
    for line, table in zip(lines, tables, strict=True):
        check_crypt_table(line, table)


def check_crypt_table(text: str, table: CryptTable) -> None:
    """Compare what ``dmsetup table NAME`` printed with what was meant.

    Raises:
        KeybrokerError: WRONG_DEVICE, it stands on another device, or begins elsewhere on it; HEADER_REFUSED,
            any other difference. Both name the field, what was found and what was meant.
    """
    match = _CRYPT.fullmatch(text)
    if match is None:
        raise _wrong("table", _shown(text), "one crypt target")
    start, length, cipher, key, iv_offset, device, offset, count, options = match.groups()
    _check_place(device, table.device, offset, table.offset)
    _check("start", start, table.start)
    _check("length", length, table.sectors)
    _check("cipher", cipher, table.cipher)
    if key not in (table.key, "0" * (2 * table.key_bytes)):
        raise _wrong("key", f"another than {table.key}", table.key)
    _check("iv_offset", iv_offset, table.start)
    found = sorted((options or "").split())
    _check("options", " ".join(found), " ".join(sorted(table.options)))
    _check("number of options", count or "0", len(found))


def check_linear_table(text: str, table: LinearTable) -> None:
    """Compare what ``dmsetup table NAME`` printed with what was meant (Raises: as ``check_crypt_table``)."""
    match = _LINEAR.fullmatch(text)
    if match is None:
        raise _wrong("table", _shown(text), "one linear target")
    start, length, device, offset = match.groups()
    _check_place(device, table.device, offset, table.offset)
    _check("start", start, 0)
    _check("length", length, table.sectors)


def _shown(text: str) -> str:
    # not the text itself: a crypt line of a form that is not known may hold a key
    return f"of another form ({len(text.splitlines())} lines)"


def _check_place(device: str, meant_device: str, offset: str, meant_offset: int) -> None:
    for field, found, must in (("device", device, meant_device), ("offset", offset, str(meant_offset))):
        if found != must:
            raise KeybrokerError(Problem.WRONG_DEVICE, f"kernel table: {field} is {found}, must be {must}")


def _check(field: str, found: str, must: object) -> None:
    if found != str(must):
        raise _wrong(field, found, must)


def _wrong(field: str, found: str, must: object) -> KeybrokerError:
    what = f"{field} is {found or 'none'}, must be {str(must) or 'none'}"
    return KeybrokerError(Problem.HEADER_REFUSED, f"kernel table: {what}")
