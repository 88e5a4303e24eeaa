"""Putting an installation in its place: all of it is made beside, then come two renames, or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keybroker.wire.problems import KeybrokerError, Problem


def check_free(directory: Path) -> None:
    """Check that a directory is absent or empty, so that nothing is overwritten.

    Raises:
        KeybrokerError: CONFIGURATION for a relative path; EXISTS.
    """
    if not directory.is_absolute():
        raise KeybrokerError(Problem.CONFIGURATION, f"{directory}: must be an absolute path")
    if not os.path.lexists(directory):
        return
    if directory.is_symlink() or not directory.is_dir():
        raise KeybrokerError(Problem.EXISTS, f"{directory}: is not a directory")
    there = sorted(entry.name for entry in directory.iterdir())
    if there:
        raise KeybrokerError(
            Problem.EXISTS,
            f"{directory}: is not empty, it holds {', '.join(there[:5])}",
            hint=f"an installation is never overwritten; move it away first: mv {directory} {directory}.old",
        )


@contextmanager
def beside(directory: Path) -> Iterator[Path]:
    """Make a private directory on the same file system, and take it away again if it was not renamed."""
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.init-", dir=directory.parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


class Maker:
    """Makes files that are durable, private and the owner's."""

    def __init__(self, owner: tuple[int, int] | None) -> None:
        self._owner = owner

    def file(self, path: Path, content: bytes, mode: int) -> None:
        """Write a new file of exactly this mode."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            if self._owner is not None:
                os.fchown(descriptor, *self._owner)
            os.fsync(descriptor)

    def adopt(self, path: Path) -> None:
        """Give something that exists to the owner."""
        if self._owner is not None:
            os.chown(path, *self._owner)

    def finish(self, *directories: Path) -> None:
        """Give directories to the owner and make what they hold durable."""
        for directory in directories:
            self.adopt(directory)
            sync(directory)


def sync(directory: Path) -> None:
    """Make what a directory names durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes, mode: int) -> None:
    """Put a file in another's place, durably: that one or the new one, never half of it."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    Maker(None).file(beside, content, mode)
    beside.rename(path)
    sync(path.parent)


def put_in_place(config: Path, config_directory: Path, state: Path, state_directory: Path) -> None:
    """Rename both directories into their places, the configuration last; it makes it an installation.

    Raises:
        OSError: one of them cannot be; nothing is in place then.
    """
    # renames over an empty directory and over nothing else (rename(2), EEXIST and ENOTEMPTY)
    os.rename(state, state_directory)
    try:
        os.rename(config, config_directory)
    except OSError:
        os.rename(state_directory, state)
        raise
    for directory in {config_directory.parent, state_directory.parent}:
        sync(directory)


@contextmanager
def as_user(owner: tuple[int, int] | None) -> Iterator[None]:
    """Be a user (uid and gid) for a while, where we are root and they are not; then root again."""
    if owner is None or owner[0] == 0 or os.geteuid() != 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(owner[1])
    os.seteuid(owner[0])
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
