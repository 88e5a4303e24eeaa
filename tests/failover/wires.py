"""A network of our own: machines that are namespaces, each on a cable to one switch that can be pulled.

Who asks for it goes into a network namespace that it makes itself, so that nothing here has a name outside or
needs to be taken away: when the processes are gone, so is the network.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

NETWORK: Final = "10.91.0"
"""Of the switch; it is seen by nobody but those on it."""

OURS: Final = f"{NETWORK}.254"
_CLONE_NEWNET: Final = 0x40000000

_INIT: Final = (
    "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); [signal.pause() for _ in iter(int, 1)]"
)
"""A machine's first process: whatever it inherits is reaped by the kernel, since nobody waits for it."""


def run(*command: str, seconds: float = 20) -> str:
    """Run a command to its end, which must be a good one."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
    return done.stdout


def _enter(call: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")


@contextmanager
def switch() -> Iterator[None]:
    """Put this thread, and whatever it starts, on a switch of its own for a while."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter("unshare", _CLONE_NEWNET)
        for step in (
            "link set lo up",
            "link add switch type bridge forward_delay 0",
            f"address add {OURS}/24 dev switch",
            "link set switch up",
        ):
            run("ip", *step.split())
        yield
    finally:
        _enter("setns", before, _CLONE_NEWNET)
        os.close(before)


@dataclass(slots=True)
class Machine:
    """One machine: a namespace of processes and one of the network, which end with its first process."""

    number: int
    user: str
    holder: subprocess.Popen[bytes] | None = None
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def _init(self) -> int:
        assert self.holder is not None
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children")
        deadline = time.monotonic() + 10
        while not (found := children.read_text().split()):
            assert time.monotonic() < deadline, f"{self.name}: has no first process"
            time.sleep(0.01)
        return int(found[0])

    def power_on(self) -> None:
        """Start the machine, with nothing on it but its cable."""
        self.holder = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-S", "-c", _INIT),
            ]
        )
        self._init  # noqa: B018  # waits for it
        run("ip", "link", "add", self.name, "type", "veth", "peer", "eth0", "netns", str(self._init))
        run("ip", "link", "set", self.name, "master", "switch", "up")
        for step in ("link set lo up", f"address add {self.address}/24 dev eth0", "link set eth0 up"):
            run("nsenter", "--target", str(self._init), "--net", "ip", *step.split())

    def start(self, log: Path, *command: str) -> None:
        """Start a program on the machine, as its user."""
        with log.open("ab") as said:
            program = subprocess.Popen(
                [*self._inside(self.user), *command],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
            )
        self.started.append(program)

    def _inside(self, user: str) -> Sequence[str]:
        into = ("nsenter", "--target", str(self._init), "--net", "--pid", "--mount")
        who = ("setpriv", "--reuid", user, "--regid", user, "--init-groups", "--reset-env")
        return (*into, *who)

    def power_off(self) -> None:
        """Pull the plug: every process ends at once (SIGKILL), and the network stack with its connections."""
        assert self.holder is not None
        os.kill(self._init, signal.SIGKILL)
        self._wake()
        for program in self.started:
            program.wait(20)
        self.started.clear()
        self.holder.wait(20)
        self.holder = None
        deadline = time.monotonic() + 20  # the kernel takes a namespace apart in its own time
        while (
            subprocess.run(["ip", "link", "show", self.name], capture_output=True, check=False).returncode
            == 0
        ):
            assert time.monotonic() < deadline, f"{self.name}: its cable stays"
            time.sleep(0.05)

    def freeze(self) -> None:
        """Stop every process where it is (SIGSTOP), as a hypervisor does that takes a snapshot."""
        self._signal("-STOP")

    def thaw(self) -> None:
        """Let them go on, as if no time had passed."""
        self._signal("-CONT")
        self._wake()

    def _wake(self) -> None:
        # nsenter(1) stops itself when what it started is stopped, and would not reap that when it ends
        for program in self.started:
            program.send_signal(signal.SIGCONT)

    def _signal(self, which: str) -> None:
        # -1 is all of that namespace, but for its first process and kill(1) itself
        run("nsenter", "--target", str(self._init), "--pid", "--mount", "/bin/kill", which, "--", "-1")

    def cut(self) -> None:
        """Pull the cable: what is sent gets no answer, not even a refusal."""
        run("ip", "link", "set", self.name, "down")

    def mend(self) -> None:
        """Put the cable back."""
        run("ip", "link", "set", self.name, "up")
