"""The one door to other programs: a flat list of arguments, keys through pipes, an end in time.

    done = run("cryptsetup", "open", "--key-file", key, device, name, expect=(0, NO_KEY))

A ``Secret`` among the arguments becomes the name of a pipe that only this child inherits; it is in no
argument, no environment, no file and no message. The environment is made anew, so that nothing of the
caller's (LD_PRELOAD, a locale, cryptsetup's token path) reaches a program that runs as root.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass

ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}

LARGEST_SECRET: Final = 64 << 10
"""In bytes: what a pipe can be made to take before anybody reads (pipe(7)). Ours have 43; vaultlocker's, with
which a volume may have to be opened once, have 5464."""

_PAGE: Final = 4096
"""Bytes that every pipe takes; to one page a pipe shrinks where a user has many."""

LONGEST_COMPLAINT: Final = 500
GRACE_SECONDS: Final = 5.0

PACKAGES: Final = {
    "blkid": "util-linux", "cryptsetup": "cryptsetup-bin", "dmsetup": "dmsetup", "fsck": "util-linux",
    "mkfs": "util-linux", "mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "mkswap": "util-linux",
    "mount": "mount", "resize2fs": "e2fsprogs", "setpriv": "util-linux", "swapoff": "mount",
    "swapon": "mount", "systemctl": "systemd", "umount": "mount", "xfs_growfs": "xfsprogs",
}  # fmt: skip

Argument = str | Path | Secret


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended.

    Attributes:
        status: its exit status; minus the signal's number where a signal ended it.
        output: its standard output.
        complaint: its standard error, for people only: decisions are made on the status.
    """

    status: int
    output: bytes
    complaint: str


class ToolFailed(KeybrokerError):
    """A program ended with a status that its caller does not know what to do with, or did not end.

    Attributes:
        status: as in ``Done``; None where there is none.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None,
        hint: str | None = None,
        problem: Problem = Problem.TOOL_FAILED,
    ) -> None:
        super().__init__(problem, detail, hint=hint)
        self.status = status


def run(
    *arguments: Argument,
    expect: Sequence[int] = (0,),
    stdin: Secret | None = None,
    pass_fds: Sequence[int] = (),
    timeout_seconds: float = 60.0,
    directory: Path | str = "/",
) -> Done:
    """Run a program to its end.

    Args:
        arguments: the program and its arguments; each ``Secret`` becomes the path of a pipe that yields it.
        expect: the exit statuses that are answers; any other is a failure.
        stdin: what it reads there; /dev/null otherwise, so that nothing ever waits for a terminal.
        pass_fds: descriptors the child inherits, under the same numbers.
        timeout_seconds: after which its whole process group is killed.
        directory: in which it works.

    Raises:
        KeybrokerError: a ``ToolFailed``: TOOL_FAILED for any other status or a program that is not there,
            TOO_SLOW where its time ran out.
    """
    # Inherited by every child, and right for this process too, which holds the same keys.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with ExitStack() as pipes:
        words: list[str] = []
        inherited = list(pass_fds)
        for argument in arguments:
            if isinstance(argument, Secret):
                inherited.append(pipes.enter_context(_pipe_of(argument)))
                # Not /dev/fd, a link that udev makes: it may not be there yet.
                words.append(f"/proc/self/fd/{inherited[-1]}")
            else:
                words.append(str(argument))
        source = subprocess.DEVNULL if stdin is None else pipes.enter_context(_pipe_of(stdin))
        done = _run(words, source, inherited, timeout_seconds, directory)
    if done.status not in expect:
        raise ToolFailed(f"{_shown(arguments)}: {_ending(done)}", status=done.status)
    return done


def _run(
    words: list[str], stdin: int, inherited: list[int], timeout_seconds: float, directory: Path | str
) -> Done:
    try:
        child = subprocess.Popen(
            words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=ENVIRONMENT, close_fds=True, pass_fds=inherited, start_new_session=True, cwd=directory,
        )  # fmt: skip
    except FileNotFoundError as error:
        package = PACKAGES.get(words[0])
        hint = package and f"apt-get install {package}"
        raise ToolFailed(f"{words[0]}: is not installed", status=None, hint=hint) from error
    with child:
        try:
            output, complaint = child.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise ToolFailed(
                f"{words[0]}: did not end within {timeout_seconds:g} seconds and was killed",
                status=None,
                problem=Problem.TOO_SLOW,  # a crowded boot: the unit tries again
            ) from error
        finally:
            _end(child)
    return Done(child.returncode, output, complaint.decode(errors="replace"))


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a child: after a time-out, and after an interrupt of ours."""
    if child.returncode is not None:
        return
    os.killpg(child.pid, signal.SIGKILL)  # it leads its own session, so the group is its and not ours
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:  # in an uninterruptible wait for a device
        child.returncode = -signal.SIGKILL  # or leaving the ``with`` would wait for it without an end
        raise ToolFailed(f"{child.args!r}: cannot be killed; its device hangs", status=None) from error


@contextmanager
def _pipe_of(secret: Secret) -> Iterator[int]:
    """Make a pipe that yields ``secret`` and then ends; give its reading end."""
    if len(secret) > LARGEST_SECRET:
        raise ValueError(f"a pipe takes {LARGEST_SECRET} bytes before anyone reads, not {len(secret)}")
    # Both ends close on exec; ``pass_fds`` lets this one child have the one it needs, so a child that
    # another thread starts in between inherits neither.
    reading, writing = os.pipe()
    try:
        try:
            if len(secret) > _PAGE:
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, LARGEST_SECRET)
            os.write(writing, secret.reveal())
        finally:
            os.close(writing)
        yield reading
    finally:
        os.close(reading)


class Long:
    """A program that goes on for hours, and that its caller looks after meanwhile."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self._held = b""
        self._complaint = b""

    @property
    def status(self) -> int | None:
        """Its exit status, as in ``Done``; None while it runs."""
        return self._child.returncode

    def line(self, *, seconds: float) -> str | None:
        """Return the next line of its output; empty where none came in time, None when it has ended."""
        assert self._child.stdout is not None  # noqa: S101  # it was asked for
        while b"\n" not in self._held and b"\r" not in self._held:
            if not select.select([self._child.stdout], [], [], seconds)[0]:
                return ""
            more = os.read(self._child.stdout.fileno(), 4096)
            if not more:
                self._child.wait()
                return None
            self._held += more
        line, _, self._held = self._held.replace(b"\r", b"\n").partition(b"\n")
        return line.decode(errors="replace")

    def stop(self) -> None:
        """Ask it to come to an end where it can go on later; it is never killed."""
        self._child.send_signal(signal.SIGTERM)

    def ending(self) -> str:
        """Say how it ended, for people."""
        return _ending(Done(self.status or 0, b"", self._complaint.decode(errors="replace")))

    def close(self, stop_seconds: float) -> None:
        """See to it that it ends, however long its last stretch takes.

        Raises:
            KeybrokerError: TOOL_FAILED where it does not.
        """
        if self._child.poll() is None:
            self.stop()
            try:
                self._child.wait(stop_seconds)
            except subprocess.TimeoutExpired as error:
                pid, self._child.returncode = self._child.pid, -signal.SIGTERM  # or nobody could leave it be
                raise ToolFailed(f"process {pid} does not end", status=None) from error
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                if pipe is self._child.stderr:
                    self._complaint = pipe.read(LONGEST_COMPLAINT)
                pipe.close()


@contextmanager
def running(*arguments: Argument, stop_seconds: float = 600.0) -> Iterator[Long]:
    """Run a program that takes hours, and that must not be killed.

    Args:
        arguments: as for ``run``.
        stop_seconds: how long it may take to stop, when the block is left before it has ended.

    Raises:
        KeybrokerError: TOOL_FAILED where it is not there, or does not end.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with ExitStack() as pipes:
        words: list[str] = []
        inherited: list[int] = []
        for argument in arguments:
            if isinstance(argument, Secret):
                inherited.append(pipes.enter_context(_pipe_of(argument)))
                words.append(f"/proc/self/fd/{inherited[-1]}")
            else:
                words.append(str(argument))
        try:
            child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=ENVIRONMENT, close_fds=True, pass_fds=inherited, start_new_session=True, cwd="/",
            )  # fmt: skip
        except FileNotFoundError as error:
            raise ToolFailed(f"{words[0]}: is not installed", status=None) from error
    long = Long(child)
    try:
        yield long
    finally:
        long.close(stop_seconds)


def _shown(arguments: Sequence[Argument]) -> str:
    return " ".join(str(argument) for argument in arguments)


def _ending(done: Done) -> str:
    if done.status < 0:
        return f"ended by {signal.Signals(-done.status).name}"
    said = " ".join(done.complaint.split())[:LONGEST_COMPLAINT]
    return f"status {done.status}" + (f": {said}" if said else "")
