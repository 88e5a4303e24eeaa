"""``/etc/keybroker-agent/agent.toml``, which nobody needs: every key has a default.

    brokers = ["https://broker1.example:8443"]   # instead of those that enrolment gave
    enrolment = ["https://broker1.example:8444"] # likewise; asked once the certificate has ended
    deadline_seconds = 600                       # how long unlock waits for disks and brokers
    mounts = "systemd"                           # or "agent": check and mount without mount units
    state_directory = "/var/lib/keybroker-agent"
    runtime_directory = "/run/keybroker-agent"

    [devices]                                    # instead of looking for a disk by its serial
    kbv-q3m5x7abcdef = "/dev/disk/by-path/…"

The deadline: 600 s bridge a broker that is restarted or a rack that comes up with everything else, while the
database's start waits; after it, the unit fails where monitoring sees it and systemd tries again every 30 s.
Nothing that a person needs to log in waits meanwhile (``keybroker-agent-unlock.service`` says why).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from keybroker.wire import names
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass, field

FILE: Final = Path("/etc/keybroker-agent/agent.toml")
LARGEST: Final = 1 << 18
LONGEST_DEADLINE: Final = 86400

Mounts = Literal["systemd", "agent"]


@dataclass(frozen=True, slots=True)
class Config:
    """What may be set for one machine.

    Attributes:
        brokers, enrolment: base URLs; empty for those that enrolment gave.
        devices: the device of a volume, where its serial does not tell.
        deadline_seconds: how long ``unlock`` waits for disks and brokers.
        mounts: who mounts the volumes.
    """

    brokers: tuple[str, ...] = ()
    enrolment: tuple[str, ...] = ()
    devices: Mapping[VolumeId, Path] = field(default_factory=dict)
    deadline_seconds: float = 600.0
    mounts: Mounts = "systemd"
    state_directory: Path = Path("/var/lib/keybroker-agent")
    runtime_directory: Path = Path("/run/keybroker-agent")


def load(path: Path | None = None) -> Config:
    """Read the configuration.

    Args:
        path: a file that must be there; None for the usual one, which need not.

    Raises:
        KeybrokerError: CONFIGURATION, with the file and the key that is wrong.
    """
    file = path or FILE
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if path is None:
            return Config()
        raise _wrong(file, "there is no such file") from None
    except OSError as error:
        raise _wrong(file, error.strerror or str(error)) from error
    with open(fd, "rb") as stream:
        about = os.fstat(fd)
        # it says which disk is which volume: whoever writes it may point a volume at another disk
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or about.st_uid not in (0, os.geteuid()):
            raise _wrong(file, "may be written by others", hint=f"chown root: {file}; chmod 0644 {file}")
        text = stream.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise _wrong(file, f"is larger than {LARGEST} bytes")
    return parse(text, file)


def parse(text: bytes, file: Path) -> Config:
    """Read the text of a configuration.

    Raises:
        KeybrokerError: CONFIGURATION.
    """
    import tomllib  # 10 ms, so only where there is a file

    try:
        table = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(file, f"not TOML: {error}") from error
    known = set(_READERS)
    for key in table:
        if key not in known:
            raise _wrong(file, f"{key[:40]}: is not known; there are {', '.join(sorted(known))}")
    values: dict[str, Any] = {}
    for key, value in table.items():
        values[key] = _READERS[key](file, key, value)
    return Config(**values)


def _brokers(file: Path, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(url, str) for url in value):
        raise _wrong(file, f'{key}: must be a list of strings, such as ["https://broker.example:8443"]')
    return tuple(value)


def _devices(file: Path, key: str, value: object) -> dict[VolumeId, Path]:
    if not isinstance(value, dict):
        raise _wrong(file, f"{key}: must be a table of volume ids and paths")
    for volume, path in value.items():
        if names.VOLUME_ID.fullmatch(volume) is None:
            raise _wrong(file, f"{key}.{volume[:40]}: is not a volume id, such as kbv-q3m5x7abcdef")
        _path(file, f"{key}.{volume}", path)
    return {VolumeId(volume): Path(path) for volume, path in value.items()}


def _deadline(file: Path, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST_DEADLINE:
        raise _wrong(file, f"{key}: must be a number of seconds from 0 to {LONGEST_DEADLINE}")
    return float(value)


def _mounts(file: Path, key: str, value: object) -> Mounts:
    if value == "systemd" or value == "agent":
        return value
    raise _wrong(file, f'{key}: must be "systemd" or "agent"')


def _path(file: Path, key: str, value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise _wrong(file, f"{key}: must be an absolute path")
    return Path(value)


_READERS: Final = {
    "brokers": _brokers,
    "enrolment": _brokers,
    "devices": _devices,
    "deadline_seconds": _deadline,
    "mounts": _mounts,
    "state_directory": _path,
    "runtime_directory": _path,
}


def _wrong(file: Path, what: str, hint: str | None = None) -> KeybrokerError:
    return KeybrokerError(Problem.CONFIGURATION, f"{file}: {what}", hint=hint)
