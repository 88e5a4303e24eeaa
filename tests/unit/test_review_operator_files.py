"""What init makes for the operator is as private at each start as it was made; without it, all starts too."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from keybroker.service.installation import open_broker
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import House


def reopen(house: House) -> None:
    house.broker.close()
    house.broker = open_broker(house.installation, clock=house.clock, entropy=os.urandom)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("operators", 0o750), ("operators", 0o777), ("operators/alice.key", 0o440),
     ("operators/alice.key", 0o604), ("operators/alice.crt", 0o666)],
)  # fmt: skip
def test_what_is_open_to_others_is_refused_with_the_command_that_mends_it(
    house: House, name: str, mode: int
) -> None:
    path = house.root / "etc" / name
    path.chmod(mode)
    with pytest.raises(KeybrokerError) as caught:
        reopen(house)
    assert caught.value.problem is Problem.CONFIGURATION
    assert str(path) in caught.value.detail
    assert caught.value.hint is not None
    subprocess.run(caught.value.hint.split(), check=True, timeout=20)
    reopen(house)


def test_a_link_in_the_place_of_a_key_is_refused(house: House) -> None:
    key = house.root / "etc/operators/alice.key"
    key.rename(house.root / "elsewhere")
    key.symlink_to(house.root / "elsewhere")
    with pytest.raises(KeybrokerError, match="regular"):
        reopen(house)


def test_an_operator_may_take_the_files_away(house: House) -> None:
    shutil.rmtree(house.root / "etc/operators")
    reopen(house)
    (house.root / "etc/operators").mkdir(mode=0o700)
    reopen(house)
