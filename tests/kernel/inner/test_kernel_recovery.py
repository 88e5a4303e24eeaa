"""A day without the broker, and the day on which it comes back older than it was: on real dm-crypt.

The commands of docs/recovery-drill.md are run word for word, by the shell, with stock age and cryptsetup.
"""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent import layout
from agent.change import reporting
from agent.change.course import Course, CourseOutcome
from keybroker import age
from keybroker.service import archive, backup, recovery, restoring
from keybroker.service.installation import open_broker
from keybroker.service.setback import standing
from keybroker.wire.problems import Problem
from tests.crash.service_broker import Wanted, installation_of
from tests.kernel.killing import workshop
from tests.kernel.rig import BOOT, SIZE, Rig, rig

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[3]
ROW = "a row that must be there"


def drill() -> str:
    """Return the commands of the document, as they stand there."""
    text = (ROOT / "docs/recovery-drill.md").read_text().partition("## The drill\n")[2]
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return str(block)


class Recoverable:
    """A VM with a volume in use, its broker, and an offline key for both."""

    def __init__(self, vm: Rig) -> None:
        self.vm = vm
        self.key = vm.directory / "recovery.key"
        subprocess.run(["age-keygen", "-o", self.key], check=True, capture_output=True, timeout=60)
        self.recipients = age.Identities.read(self.key).recipients()
        recovery.set_key(vm.broker.broker, vm.broker.operator, list(self.recipients))
        recovery.renew(vm.broker.broker, vm.broker.operator)

    @property
    def disk(self) -> Path:
        return self.vm.devices[self.vm.record("data").volume]

    def settle(self) -> CourseOutcome:
        """Run the agent as its timer does: report, then what is wanted."""
        vm = self.vm
        known = layout.load(vm.state).records
        looks = [reporting.look(vm.world(), record, vm.runtime).report for record in known]
        records = reporting.send(vm.broker, BOOT, looks).records
        layout.save(vm.state, records)
        outcome = Course(workshop(vm, vm.world(), vm.broker), BOOT, vm.broker.record("data")).settle()
        layout.save(vm.state, (outcome.record,))
        return outcome

    def rotate(self) -> None:
        self.vm.broker.rotate()
        outcome = self.settle()
        assert outcome.error is None, outcome.error

    def lock(self) -> None:
        self.vm.power_cut()

    def follow_the_drill(self) -> subprocess.CompletedProcess[str]:
        """Type what the document says; no secret is in an argument, and nothing of ours is on the path."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DISK": str(self.disk), "KEY": str(self.key)}
        return subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", drill()],
            env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def rows(self) -> str:
        """Return what the drill has mounted, and take it away again."""
        found = Path("/mnt/rows").read_text()
        subprocess.run(["umount", "/mnt"], check=True)
        subprocess.run(["cryptsetup", "close", "rescued"], check=True)
        return found

    def backup(self) -> bytes:
        made = io.BytesIO()
        backup.make(
            installation_of(self.vm.broker.directory),
            made,
            self.recipients,
            now=datetime.now(UTC),
            who="root",
        )
        return made.getvalue()

    def lose_and_restore(self, saved: bytes) -> None:
        """Lose the broker's machine, and bring the installation back from a backup and the master key."""
        home, scratch = self.vm.broker.directory, self.vm.directory / "scratch"
        self.vm.broker.broker.close()
        for name in ("config", "state"):
            (home / name).rename(home / f"{name}.lost")
        scratch.mkdir(mode=0o700)
        manifest = archive.read(io.BytesIO(saved), age.Identities.read(self.key), scratch)
        whole = installation_of(home)
        restoring.restore(
            scratch, manifest, whole, master_keys=[home / "config.lost/master.key"], owner=None,
            source="a backup", who="root", now=datetime.now(UTC),
        )  # fmt: skip
        self.vm.broker.broker = open_broker(whole, clock=lambda: datetime.now(UTC), entropy=os.urandom)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Recoverable]:
    with rig(tmp_path, Wanted("data", SIZE, "ext4", "srv/data")) as vm:
        assert vm.outcome("data", vm.unlock()).error is None
        (vm.mounts["data"] / "rows").write_text(ROW)
        made = Recoverable(vm)
        assert made.settle().error is None
        yield made


def test_the_drill_opens_a_disk_with_stock_tools_and_the_offline_key_alone(site: Recoverable) -> None:
    site.lock()
    done = site.follow_the_drill()
    assert (done.returncode, done.stderr) == (0, "")
    assert site.rows() == ROW


def test_the_drill_opens_it_after_a_rotation_too_and_leaves_nothing_changed(site: Recoverable) -> None:
    site.rotate()
    site.lock()
    before = site.disk.read_bytes()
    done = site.follow_the_drill()
    assert done.returncode == 0, done.stderr
    assert site.rows() == ROW
    assert site.disk.read_bytes() == before
    assert site.vm.outcome("data", site.vm.unlock()).error is None


def test_another_key_opens_nothing(site: Recoverable) -> None:
    site.lock()
    site.key.unlink()
    subprocess.run(["age-keygen", "-o", site.key], check=True, capture_output=True, timeout=60)
    done = site.follow_the_drill()
    assert done.returncode != 0
    assert "no identity matched" in done.stderr
    assert not Path("/dev/mapper/rescued").exists()


def test_a_restored_broker_opens_the_disks_that_its_backup_knows(site: Recoverable) -> None:
    saved = site.backup()
    site.lose_and_restore(saved)
    site.lock()
    assert site.vm.outcome("data", site.vm.unlock()).error is None
    assert (site.vm.mounts["data"] / "rows").read_text() == ROW
    assert site.settle().error is None
    assert site.vm.broker.broker.store.read(standing).left == ()


def test_a_broker_that_is_behind_says_so_and_gets_the_key_back_from_the_disk(site: Recoverable) -> None:
    """The backup is from before a rotation: nothing that it has opens the disk any more."""
    saved = site.backup()
    site.rotate()
    site.lose_and_restore(saved)
    site.lock()
    failed = site.vm.outcome("data", site.vm.unlock()).error
    assert failed is not None
    assert failed.problem is Problem.LOCKED_OUT
    outcome = site.settle()
    assert outcome.error is not None
    broker = site.vm.broker.broker
    (left,) = broker.store.read(standing).left
    assert "names key version 2, and the newest here is 1" in left.why
    assert site.settle().error is not None  # the host sends the ciphertext once it knows
    ahead = broker.store.read(lambda reading: reading.ahead())[left.volume]
    assert ahead.ciphertext is not None
    assert ahead.named == 2
    found = age.Identities.read(site.key).decrypt(base64.b64decode(ahead.ciphertext))
    assert recovery.import_key(broker, site.vm.broker.operator, "shop-db", "data", ahead.named, found)
    assert site.vm.outcome("data", site.vm.unlock()).error is None
    assert (site.vm.mounts["data"] / "rows").read_text() == ROW
    assert site.settle().error is None
    assert broker.store.read(standing).left == ()
    site.rotate()
    site.lock()
    assert site.vm.outcome("data", site.vm.unlock()).error is None
