"""Disks with LUKS2 headers, made by cryptsetup on plain files, and the means to forge them.

A forger rewrites the JSON areas and binary headers and makes the checksums right again, which is what
anyone with the disk in hand can do.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent.luks.header import Header, read_header

PASSPHRASE: Final = b"A" * 43
"""Of every disk here; the form is that of a real one."""

OUR_TOKEN: Final = {
    "type": "keybroker",
    "keyslots": ["0"],
    "volume": "kbv-q3m5x7abcdef",
    "versions": {"0": "1"},
}

MAGICS: Final = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")
BINARY: Final = 4096
KIB: Final = 1024
MIB: Final = 1 << 20

# field of the binary header: where it is, and its length
FIELDS: Final = {
    "magic": (0, 6),
    "version": (6, 2),
    "hdr_size": (8, 8),
    "seqid": (16, 8),
    "label": (24, 48),
    "csum_alg": (72, 32),
    "salt": (104, 64),
    "uuid": (168, 40),
    "subsystem": (208, 48),
    "hdr_offset": (256, 8),
    "padding": (264, 184),
    "csum": (448, 64),
    "padding4096": (512, 3584),
}


def cryptsetup(
    *arguments: str | Path, expect: int | None = 0, seconds: float = 20, pass_fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run the real cryptsetup, with the passphrase on standard input for ``--key-file -``."""
    done = subprocess.run(
        ["cryptsetup", *map(str, arguments)],
        input=PASSPHRASE,
        capture_output=True,
        timeout=seconds,
        check=False,
        preexec_fn=_modest,
        pass_fds=pass_fds,
        env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )
    assert expect is None or done.returncode == expect, (arguments, done.returncode, done.stderr)
    return done


def _modest() -> None:
    """A forged header may ask cryptsetup for more memory than the machine has."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def opens(
    path: Path, *, header: int | None = None, keyslot: int | None = None, seconds: float = 3
) -> bool | None:
    """Say whether cryptsetup takes the passphrase; None where it was still at it when the time was up.

    ``header`` is a file descriptor that stands in for the header of the disk.
    """
    arguments: list[str | Path] = ["open", "--test-passphrase", "--type", "luks2", "--key-file", "-"]
    arguments += ["--disable-external-tokens", "--disable-locks"]
    arguments += ["--header", f"/proc/self/fd/{header}"] if header is not None else []
    arguments += ["--key-slot", str(keyslot)] if keyslot is not None else []
    fds = [header] if header is not None else []
    try:
        return cryptsetup(*arguments, path, expect=None, seconds=seconds, pass_fds=fds).returncode == 0
    except subprocess.TimeoutExpired:
        return None


def luks_format(path: Path, size: int, *options: str) -> Path:
    """Make a disk as the agent makes it, unless ``options`` say otherwise."""
    with path.open("wb") as disk:
        disk.truncate(size)
    quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    cryptsetup("luksFormat", "--type", "luks2", "-q", *quick, "--key-file", "-", *options, path)
    return path


def import_token(path: Path, token: Mapping[str, Any]) -> None:
    """Have cryptsetup put a token into a header."""
    file = path.with_suffix(".token")
    file.write_text(json.dumps(token))
    cryptsetup("token", "import", "--json-file", file, path)


@dataclass(frozen=True)
class Disk:
    """The start of a disk, and its whole size; what is beyond the start reads as zeros."""

    start: bytes
    size: int

    @classmethod
    def of(cls, path: Path, length: int = 64 * KIB) -> Disk:
        """Take the first ``length`` bytes of a file."""
        with path.open("rb") as disk:
            return cls(disk.read(length), path.stat().st_size)

    def read(self, offset: int, length: int) -> bytes:
        """Read as ``os.pread`` does, short at the end of the device."""
        end = min(offset + length, self.size)
        return self.start[offset:end].ljust(max(0, end - offset), b"\0")

    def header(self) -> Header:
        """Read its header as the agent does."""
        return read_header(self.read, self.size)

    @property
    def header_bytes(self) -> int:
        """The size of one copy, as the first one says."""
        return int(struct.unpack_from(">Q", self.start, 8)[0])

    def place(self, second: bool) -> int:
        """Where a copy begins."""
        return self.header_bytes if second else 0

    def area(self, second: bool = False) -> bytes:
        """The JSON area of a copy."""
        at = self.place(second)
        return self.start[at + BINARY : at + self.header_bytes]

    def text(self) -> str:
        """The JSON text of the first copy."""
        return self.area().rstrip(b"\0").decode()

    def json(self) -> Any:
        """What the JSON area says."""
        return json.loads(self.text())

    def grown(self, header_bytes: int) -> Disk:
        """Move the second copy: a header of another size, which says so everywhere but in its JSON text."""
        metadata = self.text().encode()
        first, second = (self.start[self.place(n) :][:BINARY] for n in (False, True))
        filling = bytes(header_bytes - BINARY)
        disk = replace(self, start=first + filling + second + filling, size=max(self.size, 64 * MIB))
        disk = disk.with_bytes(8, header_bytes.to_bytes(8, "big"))
        disk = disk.with_bytes(header_bytes + 8, header_bytes.to_bytes(8, "big"))
        return disk.with_field("hdr_offset", header_bytes, copies=(True,)).with_text(metadata)

    def with_bytes(self, at: int, held: bytes) -> Disk:
        """Write some bytes and nothing else."""
        start = self.start[:at].ljust(at, b"\0") + held + self.start[at + len(held) :]
        return replace(self, start=start)

    def with_area(self, area: bytes, *, copies: Sequence[bool] = (False, True)) -> Disk:
        """Write JSON areas, and make the checksums right again."""
        disk = self
        for second in copies:
            held = area.ljust(self.header_bytes - BINARY, b"\0")[: self.header_bytes - BINARY]
            disk = disk.with_bytes(disk.place(second) + BINARY, held).mended(second)
        return disk

    def with_text(self, text: str | bytes, *, copies: Sequence[bool] = (False, True)) -> Disk:
        """Write a JSON text, and make the checksums right again."""
        return self.with_area(
            text.encode(errors="surrogatepass") if isinstance(text, str) else text, copies=copies
        )

    def with_json(self, value: Any, *, copies: Sequence[bool] = (False, True)) -> Disk:
        """Write what the JSON area says, as compact as cryptsetup writes it."""
        return self.with_text(json.dumps(value, separators=(",", ":")), copies=copies)

    def with_field(
        self, name: str, held: bytes | int, *, copies: Sequence[bool] = (False, True), mend: bool = True
    ) -> Disk:
        """Write a field of the binary headers, NULs behind it, and make the checksums right again."""
        at, length = FIELDS[name]
        value = held.to_bytes(length, "big") if isinstance(held, int) else held.ljust(length, b"\0")
        disk = self
        for second in copies:
            place = self.place(second)
            disk = disk.with_bytes(place + at, value)
            if mend:
                disk = disk.mended(second, place)
        return disk

    def field(self, name: str, *, second: bool = False) -> bytes:
        """Read a field of a binary header."""
        at, length = FIELDS[name]
        return self.start[self.place(second) + at :][:length]

    def mended(self, second: bool, place: int | None = None) -> Disk:
        """Make the checksum of a copy right again."""
        at = self.place(second) if place is None else place
        where, length = FIELDS["csum"]
        copy = bytearray(self.start[at : at + self.header_bytes])
        copy[where : where + length] = bytes(length)
        return self.with_bytes(at + where, hashlib.sha256(copy).digest().ljust(length, b"\0"))

    def without(self, *, second: bool) -> Disk:
        """Damage a copy for good: its signature stays, its checksum is another."""
        at, length = FIELDS["csum"]
        return self.with_bytes(self.place(second) + at, b"\x55" * length)


def on_file(disk: Disk, original: Path, target: Path) -> Path:
    """Put a forged header onto a copy of the disk that it was forged from."""
    shutil.copyfile(original, target)
    with target.open("r+b") as file:
        file.write(disk.start)
        if disk.size > target.stat().st_size:
            file.truncate(disk.size)
    return target


class Image:
    """One real file, as large as its disk, that is forged in place again and again.

    Its time of change is set back before each look, so that even a write of the very same bytes shows.
    """

    def __init__(self, original: Path, path: Path) -> None:
        self.path = path
        self._whole = original.read_bytes()
        self._start = b""
        self._rest = self._whole
        path.write_bytes(self._whole)

    def forge(self, disk: Disk) -> None:
        """Put a forged header, of the same disk, onto it."""
        if (len(disk.start), disk.size) != (len(self._start), len(self._start) + len(self._rest)):
            self._rest = self._whole[len(disk.start) :].ljust(disk.size - len(disk.start), b"\0")
            self.path.write_bytes(disk.start + self._rest)
        self._start = disk.start
        with self.path.open("r+b", buffering=0) as file:
            file.write(disk.start)
        os.utime(self.path, ns=(0, 0))

    @property
    def is_untouched(self) -> bool:
        """Whether every byte is what was forged, and nobody has written to it since."""
        with self.path.open("rb", buffering=0) as file:
            same = file.read(len(self._start)) == self._start and file.readall() == self._rest
            return same and os.fstat(file.fileno()).st_mtime_ns == 0
