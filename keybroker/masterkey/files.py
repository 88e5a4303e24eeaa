"""Reading a secret file: what it must be before a byte of it counts."""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path
from typing import Final

from keybroker.envelope import KEY_BYTES
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")


def _wrong(path: Path, what: str, hint: str | None = None) -> KeybrokerError:
    return KeybrokerError(Problem.CONFIGURATION, f"{path}: {what}", hint=hint)


def file_path(text: str) -> Path:
    """Return the path of a ``file:`` URI.

    Raises:
        KeybrokerError: CONFIGURATION unless it is absolute.
    """
    path = Path(text)
    if not path.is_absolute():
        raise KeybrokerError(Problem.CONFIGURATION, f"master key file:{text}: the path must be absolute")
    return path


def credential_path(name: str, directory: Path | None) -> Path:
    """Return the path of a ``credential:`` URI.

    Args:
        directory: $CREDENTIALS_DIRECTORY (systemd.exec(5)), None where it is not set.

    Raises:
        KeybrokerError: CONFIGURATION for a name that is none, or outside of a unit.
    """
    if _CREDENTIAL.fullmatch(name) is None:
        raise KeybrokerError(
            Problem.CONFIGURATION, f"master key credential:{name}: is not a credential's name"
        )
    if directory is None:
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"master key credential:{name}: there are no credentials, $CREDENTIALS_DIRECTORY is not set",
            hint=f"start it by systemd with LoadCredentialEncrypted={name} "
            f"(systemd-run -P -p LoadCredentialEncrypted={name} …)",
        )
    return directory / name


def check_private(
    path: Path, status: os.stat_result, *, uid: int, allowed: int = 0o400, credential: bool = False
) -> None:
    """Check that a secret file is one, and nobody's but ours.

    Args:
        status: of the open file, so that what was checked is what is read.
        uid: who may own it beside root.
        allowed: the most that its mode may be.
        credential: whether systemd made it: root's, with an access list that shows as group bits (acl(5)).

    Raises:
        KeybrokerError: CONFIGURATION, with the command that mends it.
    """
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise _wrong(path, "is not a regular file")
    if status.st_uid not in (0, uid):
        raise _wrong(path, f"belongs to user {status.st_uid}", f"chown {uid} {path}")
    if credential and status.st_uid == 0 and mode == 0o440:
        return
    if mode & ~allowed:
        raise _wrong(path, f"has mode {mode:04o}", f"chmod {allowed:04o} {path}")


def open_private(path: Path, *, allowed: int = 0o400, credential: bool = False) -> io.FileIO:
    """Open a secret file for reading, checked by ``check_private``.

    Raises:
        KeybrokerError: CONFIGURATION.
    """
    try:
        # O_NOFOLLOW: whoever could plant a link here could choose which file is taken for the key.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from None
    try:
        check_private(path, os.fstat(descriptor), uid=os.geteuid(), allowed=allowed, credential=credential)
    except KeybrokerError:
        os.close(descriptor)
        raise
    return io.FileIO(descriptor)


def read_key(path: Path, *, credential: bool = False) -> Secret:
    """Read a master key's 32 bytes.

    Raises:
        KeybrokerError: CONFIGURATION for a file that is missing, a link, open to others, somebody else's, or
            not exactly 32 bytes long.
    """
    with open_private(path, credential=credential) as file:
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise _wrong(path, f"is {'longer' if len(key) > KEY_BYTES else 'shorter'} than 32 bytes")
    return Secret(key)
