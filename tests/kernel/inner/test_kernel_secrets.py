"""Every verb of the agent is run with secrets known here, on real disks, and then they are looked for.

In what the verbs say, in the arguments and the environment of every process, in all files of the agent and of
the broker, in /run and in what was left in /tmp, in the kernel's log, and in the core files that are not
there. The agent's verbs are the installed program's, the broker is a server of its own, and so is the kernel:
its device-mapper shows volume keys to root alone (``dmsetup table --showkeys``), of which it is one here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent import grammar
from tests.contract.test_agent_real_broker import PROGRAM
from tests.header import strangers
from tests.kernel.disks import MIB, image, loop
from tests.tls.marked import Marked, Watch
from tests.tls.running import Broker, running

pytestmark = [pytest.mark.kernel, pytest.mark.limit(300)]

SIZE = 48 * MIB
DECLARED = "0f2d3c1a-5b6e-4d7c-8f90-a1b2c3d4e5f6"
TYPED = "a passphrase that an operator typed"
CORES = ("sh", "-c", 'ulimit -c $(ulimit -H -c); exec "$@"', "sh")
VERBS = set(grammar.parsers()[1])


@dataclass
class Machine:
    """A machine with two disks, its broker, and all that its verbs have said."""

    broker: Broker
    directory: Path
    marked: Marked = field(default_factory=Marked)
    said: dict[str, bytes] = field(default_factory=dict)
    seen: bytes = b""
    disks: list[Path] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.directory / "agent.toml"

    @property
    def keys(self) -> set[Path]:
        """The private keys, where they belong: one by name, and one of each certificate that there was."""
        return {path for path in (self.directory / "state").rglob("host.key") if not path.is_symlink()}

    def agent(self, verb: str, *options: str, stdin: str = "") -> None:
        """Run a verb, which must end well."""
        own = () if verb in ("completion", "manual") else ("--config", str(self.config))
        done = subprocess.run(
            [PROGRAM, verb, *own, *options],
            input=stdin.encode(), capture_output=True, timeout=120, check=False,
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        print(verb, done.returncode, done.stderr.decode(), sep="\n")
        assert done.returncode == 0 or verb == "doctor", done.stderr
        self.said[verb] = self.said.get(verb, b"") + done.stdout + done.stderr

    def operate(self, method: str, path: str, body: object) -> dict[str, object]:
        reply = self.broker.ask(method, f"/v1/addons/shop{path}", body, who=self.broker.operator)
        assert reply.status < 300, reply.body
        document: dict[str, object] = reply.document
        return document

    def mark(self, name: str, device: Path) -> None:
        """Remember a volume's current passphrase, and the volume key that it opens."""
        body = {"reason": "a test", "hours": 720, "version": None}
        passphrase = str(self.operate("POST", f"/volumes/{name}/reveal", body)["passphrase"])
        self.marked.mark_passphrase("passphrase", passphrase)
        words = ("luksDump", "--batch-mode", "--dump-volume-key", "--key-file", "-")
        dump = strangers.cryptsetup(*words, device, given=passphrase.encode()).decode()
        dumped = dump.partition("MK dump:")[2] or dump.partition("Volume key dump:")[2] or dump
        digits = "".join(each for each in dumped.split() if len(each) == 2)
        self.marked.mark("volume key", bytes.fromhex(digits)[:32])


def add_volumes(made: Machine, device: Path, theirs: Path) -> None:
    made.broker.add_addon("shop")
    spec = {
        "size_bytes": SIZE, "cipher": "aes-xts-plain64", "mount": str(made.directory / "data"),
        "filesystem": "ext4", "serial": None,
    }  # fmt: skip
    new = made.operate("PUT", "/volumes/data", spec)["volume"]
    foreign = {
        **spec, "mount": None, "filesystem": "none", "serial": "WD-1", "origin": "foreign",
        "luks_uuid": DECLARED,
    }  # fmt: skip
    lent = made.operate("PUT", "/volumes/lent", foreign)["volume"]
    made.config.write_text(
        f'state_directory = "{made.directory}/state"\nruntime_directory = "{made.directory}/run"\n'
        f'mounts = "agent"\n[devices]\n{new} = "{device}"\n{lent} = "{theirs}"\n'
    )


def enrol(made: Machine) -> None:
    token = made.broker.invite("shop")
    made.marked.mark("token", token.split(".")[1])
    url = f"https://127.0.0.1:{made.broker.enrolment}"
    made.agent("enrol", "--broker", url, "--token-file", "-", stdin=token)
    made.agent("renew", "--now")
    for key in made.keys:
        made.marked.mark_key_file("host key", key)


def take_over(made: Machine, theirs: Path) -> None:
    made.marked.mark("typed passphrase", TYPED)
    made.agent("adopt", "lent", "--key-file", "-", "--remove-others", stdin=TYPED)
    made.mark("lent", theirs)


def rotate(made: Machine, device: Path) -> None:
    made.mark("data", device)
    made.operate("PUT", "/volumes/data/wanted", {})
    made.agent("plan", "--json")
    made.agent("settle")
    made.mark("data", device)
    made.agent("prove")


def restore(made: Machine, device: Path) -> None:
    """Destroy the header, and bring it back."""
    made.agent("lock")
    with device.open("r+b", buffering=0) as disk:
        disk.write(bytes(4 * MIB))
    made.agent("restore-header", "data", "--yes")
    made.agent("unlock", "--deadline", "20")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Every verb, run once or more."""
    directory = tmp_path_factory.mktemp("secrets")
    (directory / "broker").mkdir()
    Path("/proc/sys/kernel/core_pattern").write_text("core")
    disks = [image(directory / name, SIZE) for name in ("disk", "theirs")]
    with (
        Watch(every=0.05) as watch,
        running(directory / "broker") as broker,
        loop(disks[0]) as device,
        loop(disks[1]) as theirs,
    ):
        quick = (*strangers.QUICK, "--key-size", "512", "--uuid", DECLARED)
        formatting = ("luksFormat", "-q", "--type", "luks2", *quick, "--key-file", "-")
        strangers.cryptsetup(*formatting, theirs, given=TYPED.encode())
        made = Machine(broker, directory, disks=disks)
        add_volumes(made, device, theirs)
        enrol(made)
        take_over(made, theirs)
        try:
            made.agent("unlock", "--deadline", "20")
            rotate(made, device)
            restore(made, device)
            made.agent("status", "--json")
            made.agent("doctor")
            made.agent("forget", "lent")
            made.agent("completion", "bash")
            made.agent("manual", str(directory / "man"))
            made.seen = b"\0\0".join(watch.seen)
            yield made
        finally:
            made.agent("lock")
    for disk in disks:
        disk.unlink()  # pytest would keep it, and it is memory here


def test_every_verb_of_the_agent_was_run(machine: Machine) -> None:
    assert VERBS - set(machine.said) == set(), "run the others here"
    names = {"host key", "passphrase", "token", "typed passphrase", "volume key"}
    assert set(machine.marked.names) == names


def test_no_verb_says_one(machine: Machine) -> None:
    for verb, said in machine.said.items():
        assert machine.marked.found(said) == [], verb


def test_no_process_has_one_in_its_arguments_or_its_environment(machine: Machine) -> None:
    for word in (b"keybroker-agent", b"cryptsetup", b"luksAddKey", b"--key-file", b"open"):
        assert word in machine.seen, f"{word!r} was not seen, and so nothing is shown"
    assert machine.marked.found(machine.seen) == []


def test_no_file_has_one_but_the_hosts_key(machine: Machine) -> None:
    for key in machine.keys:
        assert machine.marked.found(key.read_bytes()) == ["host key"], "the search finds what is there"
    roots = (machine.directory, Path("/run"), Path("/tmp"), Path("/dev/shm"))
    files = {path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    assert {machine.broker.database, machine.broker.log, machine.directory / "state/layout.json"} <= files
    for path in sorted(files - machine.keys):
        assert machine.marked.found(path.read_bytes()) == [], path


def test_no_disk_has_one_in_the_clear(machine: Machine) -> None:
    os.sync()
    for disk in machine.disks:
        assert machine.marked.found(disk.read_bytes()) == [], disk.name


def test_the_kernels_log_has_none(machine: Machine) -> None:
    log = subprocess.run(["dmesg"], check=True, capture_output=True).stdout
    assert log
    assert machine.marked.found(log) == []


def test_a_verb_that_crashes_while_it_holds_one_leaves_no_core(machine: Machine, tmp_path: Path) -> None:
    """Where a core of another program is written, there is none of the agent."""
    assert abort(["sleep", "60"], tmp_path, b"")
    other = tmp_path / "agent.toml"
    other.write_text(f'state_directory = "{tmp_path}/state"\nruntime_directory = "{tmp_path}/run"\n')
    asks = [str(PROGRAM), "enrol", "--config", str(other), "--deadline", "60"]
    nobody = ["--broker", "https://127.0.0.1:9", "--token-file", "-"]
    assert not abort([*asks, *nobody], tmp_path, machine.broker.invite("shop").encode() + b"\n")


def abort(command: list[str], directory: Path, stdin: bytes) -> bool:
    """Abort a process that waits; say whether the kernel wrote its memory down."""
    with subprocess.Popen([*CORES, *command], cwd=directory, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.flush()
        time.sleep(2)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGABRT)
        _pid, status = os.waitpid(process.pid, 0)
        process.returncode = -signal.SIGABRT
    for path in directory.glob("core*"):
        path.unlink()
    return os.WCOREDUMP(status)
