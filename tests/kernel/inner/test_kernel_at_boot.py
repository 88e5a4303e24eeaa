"""What a boot does about a re-encryption that was interrupted: the real verbs, against a real broker."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent import config, devicemapper, layout
from agent.change import outfit, reporting
from agent.change.course import Course
from agent.luks.header import Header, read_header
from agent.luks.midway import done_bytes
from agent.unlocking import boot
from keybroker.wire.names import crypt_name
from keybroker.wire.orders import AtBoot
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from keybroker.wire.reports import Activity
from tests.contract.test_agent_real_broker import PROGRAM
from tests.kernel.disks import image, loop
from tests.tls.running import Broker, run_cli, running

pytestmark = [pytest.mark.kernel, pytest.mark.limit(300)]

SIZE = 68 * MIB
RATE = 6 * MIB
TRIES = 4


class Stopped(Exception):
    """The agent ends here."""


@dataclass
class Machine:
    """A machine with one volume, and the broker that it belongs to."""

    broker: Broker
    directory: Path
    device: Path

    @property
    def config(self) -> Path:
        return self.directory / "agent.toml"

    @property
    def mounted(self) -> Path:
        return self.directory / "data"

    @property
    def known(self) -> Record:
        (record,) = layout.load(self.directory / "state").records
        return record

    def agent(self, verb: str, *options: str, stdin: str = "") -> str:
        """Run the agent as its unit does; return what it said."""
        done = subprocess.run(
            [PROGRAM, verb, "--config", self.config, *options],
            input=stdin, capture_output=True, text=True, timeout=120, check=False,
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        print(verb, done.returncode, done.stderr, sep="\n")
        assert done.returncode == 0, done.stderr
        return done.stderr

    def operate(self, *arguments: str) -> None:
        done = run_cli("volume", *arguments, "--config", str(self.broker.config))
        assert done.returncode == 0, done.stderr

    def header(self) -> Header:
        with self.device.open("rb", buffering=0) as disk:
            return read_header(lambda at, length: os.pread(disk.fileno(), length, at), SIZE)

    def interrupt(self) -> None:
        """Begin what is ordered, and end as the agent in its middle."""
        settings = config.load(self.config)
        with closing(outfit.client(settings, patience=20.0, tell=lambda line, priority: None)) as client:
            shop = outfit.workshop(settings, client, lambda line, priority: None)
            this = boot()  # the one that the agent says: another would be a clone of this machine
            report = reporting.look(shop.world, self.known, settings.runtime_directory).report
            (record,) = reporting.send(client, this, [report]).records

            def watch(record: Record, activity: Activity | None) -> None:
                if activity is not None and activity.progress is not None and activity.progress.done:
                    raise Stopped

            with pytest.raises(Stopped):
                Course(shop, this, record, watch=watch).settle()

    def content(self) -> str:
        """Return the hash of what is in it, read from the disk."""
        subprocess.run(["sysctl", "-q", "vm.drop_caches=3"], check=True)
        with (self.mounted / "still").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "broker").mkdir()
    with running(tmp_path / "broker") as broker, loop(image(tmp_path / "disk", SIZE)) as device:
        made = Machine(broker, tmp_path, device)
        broker.add_addon("shop")
        spec = {
            "size_bytes": SIZE, "cipher": "aes-xts-plain64", "mount": str(made.mounted), "filesystem": "ext4",
            "serial": None,
        }  # fmt: skip
        added = broker.ask("PUT", "/v1/addons/shop/volumes/data", spec, who=broker.operator)
        assert added.status == 201, added.body
        made.config.write_text(
            f'state_directory = "{tmp_path}/state"\nruntime_directory = "{tmp_path}/run"\nmounts = "agent"\n'
            f'[devices]\n{added.document["volume"]} = "{device}"\n'
        )
        url = f"https://127.0.0.1:{broker.enrolment}"
        made.agent("enrol", "--broker", url, "--token-file", "-", stdin=broker.invite("shop"))
        try:
            made.agent("unlock", "--deadline", "20")
            yield made
        finally:
            made.agent("lock")
    (tmp_path / "disk").unlink()  # pytest would keep it, and it is memory here


@pytest.mark.parametrize("at_boot", ["before", "beside"])
def test_a_boot_finishes_an_interrupted_reencryption_before_the_database_only_where_that_is_asked_for(
    machine: Machine, at_boot: AtBoot
) -> None:
    held = random.Random(7).randbytes(16 * MIB)
    (machine.mounted / "still").write_bytes(held)
    os.sync()
    for _ in range(TRIES):
        before = machine.header().pin.digest
        machine.operate("reencrypt", "shop", "data", "--rate", str(RATE), "--at-boot", at_boot)
        machine.interrupt()
        done, total = done_bytes(machine.header(), SIZE)
        if done < total:
            break
        machine.agent("settle")  # on a busy machine nobody stopped cryptsetup in time
    assert 0 < done < total
    machine.agent("lock")
    began = time.monotonic()
    said = machine.agent("unlock", "--deadline", "20")
    print(f"{at_boot}: unlock took {time.monotonic() - began:.1f} s")
    assert machine.content() == hashlib.sha256(held).hexdigest()
    now = machine.header()
    if at_boot == "beside":
        assert done_bytes(now, SIZE)[0] < total
        assert "Reencrypt" not in said
        machine.agent("settle")
        now = machine.header()
    assert len(now.keyslots) == len(now.digests) == len(now.segments) == 1
    assert now.pin.digest != before
    shown = machine.broker.ask("GET", "/v1/addons/shop/volumes/data", who=machine.broker.operator).document
    assert (shown["order"], shown["pin"]["digest"]) == (None, now.pin.digest)
    name = crypt_name(machine.known.name, machine.known.luks_uuid)
    assert [each for each in devicemapper.mapped() if each.startswith(f"{name}-")] == []
    assert len((devicemapper.table(name) or "").splitlines()) == 1
    machine.agent("lock")
    machine.agent("unlock", "--deadline", "20")
    assert machine.content() == hashlib.sha256(held).hexdigest()
