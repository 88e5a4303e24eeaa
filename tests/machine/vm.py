"""A virtual machine that a test starts, talks to over ssh, stops, and cuts the power of.

    with Machine(directory, image, tree) as machine:
        machine.start(disks={"kbv-abcdefghijkl": disk})
        machine.wait_for_login()
        machine.run("systemctl is-system-running")
        machine.power_off()

The root disk is a copy-on-write layer in ``directory``: it lasts over the boots of one Machine and no longer.
The guest reaches this machine's loopback at 10.0.2.2 (QEMU, user-mode networking).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.machine.accelerator import accelerator
from tests.machine.qmp import Qmp
from tests.machine.tree import Tree

MEMORY: Final = "1G"

KERNEL_ARGUMENTS: Final = (
    "root=/dev/nvme0n1", "rootfstype=ext4", "rw", "rootwait", "console=ttyS0", "quiet", "panic=-1",
    "systemd.show_status=false", "tsc=reliable", "no_timer_check", "mitigations=off", "net.ifnames=0",
)  # fmt: skip


class MachineError(Exception):
    """The machine did not do what was asked of it in time; the message ends with its console."""


class Machine:
    """One virtual machine with a root disk of its own.

    Args:
        directory: for its files, made here; its path must be short, sockets live in it.
        image: raw root image, never written to.
    """

    def __init__(self, directory: Path, image: Path, tree: Tree) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.console_file = directory / "console"
        self._tree = tree
        self._root = directory / "root.qcow2"
        self._qemu: subprocess.Popen[bytes] | None = None
        self._qmp: Qmp | None = None
        self._port = 0
        self._console_from = 0
        if not self._root.exists():
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image), "-F", "raw", str(self._root)],
                check=True,
            )

    def copy_to(self, directory: Path) -> Machine:
        """Return another machine whose root disk begins as this one's is now; this one must be off."""
        assert self._qemu is None, "a running machine's disk is not copied"
        directory.mkdir(parents=True)
        shutil.copyfile(self._root, directory / self._root.name)
        return Machine(directory, self._root, self._tree)

    def start(self, *, disks: Mapping[str, Path] | None = None, clock: str = "utc") -> None:
        """Switch it on.

        Args:
            disks: raw image files by serial, 20 bytes at most (virtio-blk).
            clock: what its real-time clock begins with: ``utc``, or a date as ``-rtc base=`` takes it.
        """
        assert self._qemu is None, "it is on"
        control = self.directory / "qmp"
        control.unlink(missing_ok=True)
        self._console_from = self.console_file.stat().st_size if self.console_file.exists() else 0
        with (self.directory / "qemu.log").open("wb") as log:
            self._qemu = subprocess.Popen(
                self._command(control, disks or {}, clock),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        try:
            self._qmp = Qmp(control)
            forwards = self._qmp.ask("human-monitor-command", **{"command-line": "info usernet"})
        except (OSError, RuntimeError, ValueError) as error:
            self.cut_power()
            raise MachineError(f"QEMU: {(self.directory / 'qemu.log').read_text()}") from error
        found = re.search(r"HOST_FORWARD\S*\s+\d+\s+127\.0\.0\.1\s+(\d+)", forwards)
        assert found, forwards
        self._port = int(found[1])

    def _command(self, control: Path, disks: Mapping[str, Path], clock: str) -> list[str]:
        return [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "pc", *accelerator(self._tree.kernel), "-smp", "2", "-m", MEMORY,
            "-rtc", f"base={clock}",
            "-kernel", str(self._tree.kernel), "-append", " ".join(KERNEL_ARGUMENTS),
            "-chardev", f"file,id=console,path={self.console_file},append=on",
            "-serial", "chardev:console",
            "-qmp", f"unix:{control},server=on,wait=off",
            "-netdev", "user,id=net,restrict=off,hostfwd=tcp:127.0.0.1:0-:22",
            "-device", "virtio-net-pci,netdev=net,romfile=",
            "-blockdev", _blockdev("root", self._root, "qcow2"),
            "-device", "nvme,drive=root,serial=root",
            *(word for serial, file in disks.items() for word in _disk(serial, file)),
        ]  # fmt: skip

    def wait_for_login(self, *, limit_seconds: float = 120.0) -> None:
        """Wait until root can log in over ssh.

        Raises:
            MachineError: it could not in time.
        """
        until = time.monotonic() + limit_seconds
        while time.monotonic() < until and self.is_on:
            if subprocess.run(self._ssh("true"), capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.3)
        raise MachineError(f"no login within {limit_seconds:.0f} s\n{self.console()[-6000:]}")

    def run(self, command: str, *, check: bool = True, limit_seconds: float = 90.0) -> str:
        """Run a shell command as root and return what it printed, both streams.

        Raises:
            MachineError: its status was not 0 (where ``check``), or it took too long.
        """
        status, said = self.attempt(command, limit_seconds=limit_seconds)
        if check and status != 0:
            raise MachineError(f"{command}: status {status}\n{said}\n{self.console()[-3000:]}")
        return said

    def attempt(self, command: str, *, limit_seconds: float = 90.0) -> tuple[int, str]:
        """Run a shell command as root; return its status and what it printed."""
        try:
            done = subprocess.run(
                self._ssh(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", timeout=limit_seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"{command}: no end in {limit_seconds} s\n{self.console()[-3000:]}") from error
        return done.returncode, done.stdout

    def wait_until(self, command: str, *, limit_seconds: float = 120.0) -> str:
        """Run a shell command again and again until its status is 0.

        Raises:
            MachineError: it never was in time.
        """
        until = time.monotonic() + limit_seconds
        while True:
            status, said = self.attempt(command)
            if status == 0:
                return said
            if time.monotonic() > until or not self.is_on:
                raise MachineError(f"{command}: status {status} to the end\n{said}\n{self.console()[-6000:]}")
            time.sleep(0.5)

    def wait_for_boot(self, *, limit_seconds: float = 240.0) -> str:
        """Wait until systemd has nothing left to start; return its word for the result."""
        self.wait_for_login(limit_seconds=limit_seconds)
        _, said = self.attempt("systemctl is-system-running --wait", limit_seconds=limit_seconds)
        return said.strip()

    def journal(self, unit: str) -> str:
        """Return what a unit said in this boot."""
        return self.run(f"journalctl --boot --no-pager --output=cat --unit={unit}")

    def console(self) -> str:
        """Return what the serial line carried since it was last switched on."""
        if not self.console_file.exists():
            return ""
        return self.console_file.read_bytes()[self._console_from :].decode(errors="replace")

    def plug(self, serial: str, file: Path) -> None:
        """Put a disk into the running machine."""
        assert self._qmp is not None, "it is off"
        self._qmp.ask(
            "blockdev-add", **{"driver": "raw", "node-name": serial,
                               "file": {"driver": "file", "filename": str(file)}}
        )  # fmt: skip
        self._qmp.ask(
            "device_add", driver="virtio-blk-pci", id=f"d-{serial}", drive=serial, serial=serial,
            physical_block_size=4096,
        )  # fmt: skip

    def power_off(self, *, limit_seconds: float = 120.0) -> None:
        """Shut it down as an operator would, and wait until it is off.

        Raises:
            MachineError: it was still on at the end.
        """
        assert self._qemu is not None, "it is off"
        self.attempt("systemctl poweroff --no-block")
        try:
            self._qemu.wait(limit_seconds)
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"not off after {limit_seconds} s\n{self.console()[-6000:]}") from error
        finally:
            self.cut_power()

    def cut_power(self) -> None:
        """Kill it: what was not on its disks is gone."""
        if self._port:
            subprocess.run([*self._ssh(), "-O", "exit"], capture_output=True, check=False)
        if self._qmp is not None:
            self._qmp.close()
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
        self._qemu, self._qmp, self._port = None, None, 0

    @property
    def is_on(self) -> bool:
        return self._qemu is not None and self._qemu.poll() is None

    def _ssh(self, *command: str) -> list[str]:
        options = {
            "IdentityFile": self._tree.login,
            "UserKnownHostsFile": self._tree.known_hosts,
            "HostKeyAlias": "machine",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "LogLevel": "ERROR",
            # one handshake a boot: in emulation each costs about a second
            "ControlMaster": "auto",
            "ControlPath": self.directory / "ssh",
            "ControlPersist": "yes",
            "Port": self._port,
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", *words, "root@127.0.0.1", *command]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut_power()


def _blockdev(node: str, file: Path, driver: str) -> str:
    return f"driver={driver},node-name={node},file.driver=file,file.filename={file}"


def _disk(serial: str, file: Path) -> list[str]:
    device = f"virtio-blk-pci,drive={serial},serial={serial},id=d-{serial},physical_block_size=4096"
    return ["-blockdev", _blockdev(serial, file, "raw"), "-device", device]
