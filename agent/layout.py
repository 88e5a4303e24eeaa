"""The volumes as last heard of: a cache, so that a boot knows which disks to wait for before it asks.

One JSON file in the state directory, root-only, without a secret in it. It may be lost or broken at any
time: the broker says everything again, and a boot then costs one more request.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.values import dataclass

FILE: Final = "layout.json"
FORMAT: Final = 1
LARGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """What the cache held.

    Attributes:
        warning: why it could not be read, in words; empty where all is well.
    """

    records: tuple[Record, ...] = ()
    warning: str = ""


def load(state: Path) -> Layout:
    """Read the cache in directory ``state``; a cache that is not there or cannot be read is an empty one."""
    path = state / FILE
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except FileNotFoundError:
        return Layout()
    except OSError as error:
        return Layout(warning=f"{path}: {error.strerror}")
    if len(text) > LARGEST:
        return Layout(warning=f"{path}: larger than {LARGEST} bytes")
    try:
        return Layout(_read(text))
    except KeybrokerError as error:
        return Layout(warning=f"{path}: {error.detail}")


def _read(text: bytes) -> tuple[Record, ...]:
    fields = Fields.parse(text)
    fields.number("format", least=FORMAT, most=FORMAT)
    records = tuple(Record.read(record) for record in fields.objects("records", most=64))
    fields.end()
    if len({record.volume for record in records}) != len(records):
        raise fields.wrong("records", "name a volume twice")
    return records


def save(state: Path, records: tuple[Record, ...]) -> bool:
    """Write the cache durably; False, and nothing is written, where it said the same already.

    Raises:
        OSError: the directory cannot be written to.
    """
    body = {"format": FORMAT, "records": [record.as_json() for record in records]}
    text = json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"
    path = state / FILE
    try:
        if path.read_bytes() == text:  # the usual boot changes nothing: no fsync then
            return False
    except OSError:
        pass  # not there, or not readable: what follows says so if it matters
    replace(path, text, mode=0o600)
    return True


def forget(state: Path, name: str, *, sure: bool) -> tuple[Record, ...]:
    """Take the volumes of one name out of the cache: what is known of them is given up.

    Args:
        sure: False writes nothing.

    Returns:
        What was, or would be, forgotten.

    Raises:
        KeybrokerError: NO_DEVICE where there is none of that name; CONFIGURATION where the cache cannot be
            read or written.
    """
    known = load(state)
    if known.warning:
        raise KeybrokerError(Problem.CONFIGURATION, known.warning)
    gone = tuple(record for record in known.records if record.name == name)
    if not gone:
        raise KeybrokerError(Problem.NO_DEVICE, f"{name}: this machine knows of no such volume")
    if sure:
        try:
            save(state, tuple(record for record in known.records if record.name != name))
        except OSError as error:
            raise KeybrokerError(Problem.CONFIGURATION, f"{state / FILE}: {error.strerror}") from error
    return gone


def replace(path: Path, text: bytes, *, mode: int) -> None:
    """Put ``text`` at ``path`` so that after a power cut either the old or the new is there, whole.

    Raises:
        OSError: the directory cannot be written to; nothing is left behind.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)  # of an agent that was killed here and had the same number
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(text)
            file.flush()
            os.fsync(fd)
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # without it the rename itself may be lost
    finally:
        os.close(directory)
