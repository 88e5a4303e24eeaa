r"""Mount units, where systemd mounts: one a volume, on disk, so that the next boot knows them from its start.

They must outlive a boot: a database's ``RequiresMountsFor=`` binds it only to mount units that exist when its
start is planned. What the lines are for:

| line | why |
|---|---|
| ``Wants=``, ``After=`` the unlock service | not ``Requires=``: one refused volume makes it fail |
| ``DefaultDependencies=no`` | or local-fs.target, and with it the whole boot, would wait for the broker |
| ``Conflicts=``, ``Before=umount.target`` | what the default would have done at shutdown |
| the check's drop-in | or it would start when the name appears, while the filesystem is being made |
| the device's drop-in | its time-out starts to run when unlocking has ended, and is short then |

Names follow systemd.unit(5), "STRING ESCAPING FOR INCLUSION IN UNIT NAMES"; /dev/mapper/kb-data is
``dev-mapper-kb\x2ddata.device``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from agent import layout
from agent.mounts import CHECKS, OPTIONS
from agent.process import run
from keybroker.wire import names
from keybroker.wire.records import Record

DIRECTORY: Final = Path("/etc/systemd/system")
UNLOCK: Final = "keybroker-agent-unlock.service"
TARGET: Final = "keybroker-volumes.target"
OURS: Final = "# Written by keybroker-agent; changes are lost.\n"

DEVICE_SECONDS: Final = 15
"""After unlocking has ended; udev has then known an opened volume for as long as fsck and mount waited."""

MOUNT_SECONDS: Final = 300

_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.")


def unit_name(path: str, suffix: str) -> str:
    """Return the name of the unit for a path, as ``systemd-escape --path`` does.

    Args:
        path: absolute, without ``.`` and ``..`` in it.
        suffix: ``mount``, ``device``.
    """
    parts = [part for part in path.encode().split(b"/") if part]
    if not parts:
        return f"-.{suffix}"
    escaped = ["".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in part) for part in parts]
    whole = "-".join(escaped)
    return (f"\\x2e{whole[1:]}" if whole.startswith(".") else whole) + f".{suffix}"


def units(records: Sequence[Record]) -> dict[str, str]:
    """Return the files that volumes need, by their path in the units directory."""
    files: dict[str, str] = {}
    for record in records:
        # A migration's other disk has the same name and mount point, and the holder's units are for both.
        if record.mount is None or record.is_swap or record.role != "holder" or record.stage == "erased":
            continue
        device = unit_name(_what(record), "device")
        files[unit_name(record.mount, "mount")] = _mount_unit(record)
        files[f"{device}.d/keybroker.conf"] = (
            f"{OURS}[Unit]\nAfter={UNLOCK}\nJobRunningTimeoutSec={DEVICE_SECONDS}\n"
        )
        if record.filesystem in CHECKS:
            files[f"{_check(record)}.d/keybroker.conf"] = f"{OURS}[Unit]\nAfter={UNLOCK}\n"
    return files


def _mount_unit(record: Record) -> str:
    fsck = ""
    if record.filesystem in CHECKS:
        fsck = f"Requires={_check(record)}\nAfter={_check(record)}\n"
    return (
        f"{OURS}[Unit]\nDescription=Encrypted volume {record.name}\nDefaultDependencies=no\n"
        f"Wants={UNLOCK}\nAfter={UNLOCK}\n{fsck}"
        f"Before={TARGET}\nConflicts=umount.target\nBefore=umount.target\n\n"
        f"[Mount]\nWhat={_what(record)}\nWhere={record.mount}\nType={record.filesystem}\n"
        f"Options={OPTIONS}\nTimeoutSec={MOUNT_SECONDS}\n"
    )


def _check(record: Record) -> str:
    return f"systemd-fsck@{unit_name(_what(record), 'service')}"


def _what(record: Record) -> str:
    return f"/dev/mapper/{names.mapper_name(record.name)}"


def install(records: Sequence[Record], directory: Path = DIRECTORY) -> bool:
    """Bring the unit files to what ``records`` need, and take away ours that nobody needs any more.

    Returns:
        Whether anything changed, so that systemd has to read its units again.

    Raises:
        OSError: the directory cannot be written to.
    """
    wanted = units(records)
    links = {f"{TARGET}.wants/{name}": f"../{name}" for name in wanted if name.endswith(".mount")}
    changed = False
    for name, text in wanted.items():
        path = directory / name
        if _is_anothers(path):
            continue
        if not path.is_file() or path.read_bytes() != text.encode():
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            layout.replace(path, text.encode(), mode=0o644)
            changed = True
    for name, target in links.items():
        path = directory / name
        if not path.is_symlink() or os.readlink(path) != target:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(target)
            changed = True
    for path in _ours(directory):
        if str(path.relative_to(directory)) not in wanted:
            (directory / f"{TARGET}.wants" / path.name).unlink(missing_ok=True)
            path.unlink()
            changed = True
    return changed


def _is_anothers(path: Path) -> bool:
    """Say whether somebody else wrote it, or masked it; no matter in which encoding."""
    return path.is_symlink() or (path.is_file() and not path.read_bytes().startswith(OURS.encode()))


def _ours(directory: Path) -> Iterator[Path]:
    """Name the files in it that we wrote; a unit that somebody else wrote is theirs, whatever its name."""
    drop_ins = (
        "dev-mapper-kb*.device.d/keybroker.conf",
        "systemd-fsck@dev-mapper-kb*.service.d/keybroker.conf",
    )
    for pattern in ("*.mount", *drop_ins):
        for path in directory.glob(pattern):
            if path.is_file() and not _is_anothers(path):
                yield path


def stopping(records: Sequence[Record]) -> tuple[str, ...]:
    """Name the units whose stop closes these volumes; mounts are ordered after the service, so end first."""
    mounted = {unit_name(record.mount, "mount") for record in records if record.mount and not record.is_swap}
    return (*sorted(mounted), TARGET, UNLOCK)


def start(records: Sequence[Record], *, changed: bool) -> None:
    """Have systemd mount what was opened; it does so when the unlock service, which calls this, has ended.

    Args:
        records: of volumes that are open.
        changed: what ``install`` returned.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    if changed:
        run("systemctl", "daemon-reload")
    wanted = [unit_name(record.mount, "mount") for record in records if record.mount and not record.is_swap]
    if wanted:
        # --no-block: these jobs wait for the service that we are, and we would wait for them
        run("systemctl", "start", "--no-block", "--", *wanted)
