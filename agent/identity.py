"""Who this machine is: the files that enrolment left, and how a new set takes the place of an old one.

    state directory (0700)
      identity -> identity-5f2a90c1      one symbolic link, renamed over: all files change at one instant
      identity-5f2a90c1/
        host.key host.crt                made here, and never anywhere else; PEM
        ca.crt                           whom to trust
        enrolment.json                   host, brokers, the certificate's dates
        enrolment.urls                   where to go once the certificate has ended; read only then
      host.key.new                       a key whose certificate has not come yet

A key and a certificate that were renamed one after the other would not fit together after a crash in between,
and a VM that cannot show its certificate cannot open its disks. The set before the present one is kept, for a
process that is just reading it.

This module is on the boot path: it imports no cryptography. The dates are in enrolment.json for that reason.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from keybroker.wire import names
from keybroker.wire.fields import Fields
from keybroker.wire.names import HostId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass

LINK: Final = "identity"
KEY: Final = "host.key"
CERTIFICATE: Final = "host.crt"
CA: Final = "ca.crt"
ABOUT: Final = "enrolment.json"
ENROLMENT: Final = "enrolment.urls"
PENDING_KEY: Final = "host.key.new"

FORMAT: Final = 1
_ENROL: Final = "keybroker host enrol ADDON, at the broker; then keybroker-agent enrol here"


@dataclass(frozen=True, slots=True)
class Identity:
    """An enrolled machine.

    Attributes:
        directory: of the set, not of the link, so that key and certificate are read from the same one.
        key, certificate: their files, in that directory but for a certificate that could not be stored.
        brokers: base URLs of the main listeners.
        not_before, not_after: of the certificate, in seconds since 1970.
        token: hex SHA-256 of the enrolment token, so that the same one given again is recognised.
        ca: PEM.
    """

    directory: Path
    key: Path
    certificate: Path
    host: HostId
    brokers: tuple[str, ...]
    not_before: int
    not_after: int
    token: str
    ca: str

    def enrolment(self) -> tuple[str, ...]:
        """Read the base URLs of the enrolment listeners; none where the broker was older than that."""
        try:
            return tuple((self.directory / ENROLMENT).read_text().split())
        except (OSError, UnicodeDecodeError):
            return ()

    @property
    def renewable_from(self) -> float:
        """When a third of the lifetime is left, in seconds since 1970."""
        return self.not_after - (self.not_after - self.not_before) / 3


def load(state: Path) -> Identity:
    """Read who this machine is.

    Raises:
        KeybrokerError: CERTIFICATE where it is not enrolled; CORRUPT where the files cannot be read.
    """
    try:
        directory = state / os.readlink(state / LINK)
        about = Fields.parse((directory / ABOUT).read_bytes())
        ca = (directory / CA).read_text()
    except FileNotFoundError:
        raise KeybrokerError(
            Problem.CERTIFICATE, f"{state}: this machine is not enrolled", hint=_ENROL
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise KeybrokerError(Problem.CORRUPT, f"{state / LINK}: {error}", hint=_ENROL) from error
    about.number("format", least=FORMAT, most=FORMAT)
    identity = Identity(
        directory=directory,
        key=directory / KEY,
        certificate=directory / CERTIFICATE,
        host=HostId(about.text("host", match=names.HOST_ID)),
        brokers=about.texts("brokers", most=16),
        not_before=about.number("not_before"),
        not_after=about.number("not_after"),
        token=about.text("token"),
        ca=ca,
    )
    about.end()
    return identity


def store(state: Path, identity: Mapping[str, object], files: Mapping[str, bytes]) -> None:
    """Put a new set in the place of the present one, durably and at one instant.

    Args:
        identity: what ``enrolment.json`` says beside its format.
        files: the others, by name.

    Raises:
        OSError: the old set is still in place, and nothing of the new one is left.
    """
    before = os.readlink(state / LINK) if (state / LINK).is_symlink() else ""
    _clear(state, before)  # that may be the room that is wanted here
    fresh = state / f"{LINK}-{os.urandom(4).hex()}"
    about = json.dumps({"format": FORMAT, **identity}, indent=1).encode() + b"\n"
    try:
        fresh.mkdir(mode=0o700)
        for name, text in {**files, ABOUT: about}.items():
            write_new(fresh / name, text)
        sync(fresh)
        link = fresh.with_suffix(".link")
        link.symlink_to(fresh.name)
        link.rename(state / LINK)
    except OSError:
        _clear(state, before)
        raise
    sync(state)


def _clear(state: Path, present: str) -> None:
    """Remove every set but the present one: of a process that was killed, and those of before."""
    import shutil  # 1.5 ms, and not needed to read an identity at boot

    for old in state.glob(f"{LINK}-*"):
        if old.is_symlink():
            old.unlink(missing_ok=True)
        elif old.name != present:
            shutil.rmtree(old, ignore_errors=True)


def write_new(path: Path, text: bytes) -> None:
    """Write a file that nobody else can read and that was not there before, down to the disk.

    Raises:
        OSError: FileExistsError among others; nothing of it is left.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def sync(directory: Path) -> None:
    """Make the names in a directory durable (fsync(2), last paragraph of its description)."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Hold off every other enrolment and renewal on this machine; make the state directory if need be.

    Raises:
        KeybrokerError: CONFIGURATION where the directory cannot be had.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KeybrokerError(
            Problem.CONFIGURATION, f"{state}: {error.strerror}", hint="run this as root"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
