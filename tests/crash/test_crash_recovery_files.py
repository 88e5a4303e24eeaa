"""Real headers, the real broker, and an offline key: what stock tools find in the token opens the volume."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.plan.steps import Ask, Backup, Enclose
from keybroker.service import recovery
from tests.crash.mortal import MOMENTS, Death
from tests.crash.test_crash_rotation import ROTATION
from tests.crash.test_crash_rotation_files import Rotated


class Recovered(Rotated):
    """A volume whose passphrase is encrypted to an offline key."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.identity = directory / "recovery.key"
        subprocess.run(["age-keygen", "-o", self.identity], check=True, capture_output=True, timeout=30)

    def set_key(self) -> None:
        said = subprocess.run(
            ["age-keygen", "-y", self.identity], check=True, capture_output=True, timeout=30
        )
        recovery.set_key(self.broker.broker, self.broker.operator, [said.stdout.decode().strip()])
        recovery.renew(self.broker.broker, self.broker.operator)

    def opens_with_stock_tools(self) -> bool:
        """Do what docs/recovery-drill.md says, as far as that takes no kernel."""
        disk = self.world.disk(self.record)
        token = subprocess.run(
            ["cryptsetup", "token", "export", "--token-id", "0", disk],
            check=True, capture_output=True, timeout=60,
        ).stdout  # fmt: skip
        sealed = base64.b64decode(json.loads(token)["recovery"])
        found = subprocess.run(
            ["age", "-d", "-i", self.identity], input=sealed, check=True, capture_output=True, timeout=60
        ).stdout
        return (
            subprocess.run(
                ["cryptsetup", "open", "--test-passphrase", "--key-file", "-", disk],
                input=found, check=False, capture_output=True, timeout=60,
            ).returncode
            == 0
        )  # fmt: skip


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Recovered]:
    recovered = Recovered(tmp_path)
    yield recovered
    recovered.broker.close()


def test_a_volume_from_before_the_recovery_key_gets_it_and_stock_tools_open_it(volume: Recovered) -> None:
    volume.set_key()
    assert [type(step) for step in volume.run().steps] == [Ask, Enclose, Backup]
    assert volume.opens_with_stock_tools()
    assert [type(step) for step in volume.run().steps] == [Ask]
    volume.boot()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(2, len(ROTATION)))
def test_a_rotation_that_is_cut_anywhere_leaves_a_token_that_opens_the_disk(
    volume: Recovered, effect: int, moment: str
) -> None:
    volume.set_key()
    assert volume.run().error is None
    volume.broker.rotate()
    volume.run_until_death(Death(effect, moment))
    assert volume.opens_with_stock_tools()
    volume.settle()
    assert volume.opens_with_stock_tools()
    sealed = volume.record.recovery
    assert sealed is not None
    assert sealed.version == 2


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_enclosure_that_is_cut_is_done_by_the_next_run(volume: Recovered, moment: str) -> None:
    volume.set_key()
    volume.run_until_death(Death(1, moment))
    volume.boot()
    assert volume.run().error is None
    assert volume.opens_with_stock_tools()
