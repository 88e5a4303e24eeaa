"""Volumes of others on a real kernel: adopted while they are mounted, and opened by the agent after that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent import devicemapper, takeover
from agent.change import outfit
from agent.places import Places
from agent.takeover import Wish
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from tests.crash.service_broker import Wanted
from tests.header import strangers
from tests.kernel.disks import MIB, fingerprint, image, loop
from tests.kernel.rig import BOOT, Rig, rig

pytestmark = pytest.mark.kernel

SIZE = 40 * MIB
ROW = "a row that somebody else's tool wrote"
DECLARED = "0f2d3c1a-5b6e-4d7c-8f90-a1b2c3d4e5f6"
CIPHERS = ["aes-xts-plain64", "aes-cbc-essiv:sha256"]
CRYPTCTL = ("--cipher", "aes-xts-plain64:PBKDF2-sha512", "--hash", "sha512", "--key-size", "512")
"""As fs/crypt.go of cryptctl gives it to cryptsetup; only a kernel with dm-crypt can format with it."""


@dataclass
class Site:
    """A VM with a disk that another tool formatted, and has open and mounted.

    Attributes:
        said: what adopt printed.
    """

    vm: Rig
    record: Record
    device: Path
    passphrase: bytes
    point: Path
    said: list[str]

    def adopt(self, given: bytes | None, **wish: object) -> Record:
        places = Places(self.vm.devices)
        shop = outfit.fitted(self.vm.world(), self.vm.broker, places, self.vm.runtime)
        asked = Wish("old", Secret(given) if given else None, **wish)  # type: ignore[arg-type]
        return takeover.adopt(shop, places, BOOT, self.vm.runtime, asked, self.said.append)

    def close(self) -> None:
        subprocess.run(["umount", self.point], check=True)
        subprocess.run(["cryptsetup", "close", "theirs"], check=True)


@pytest.fixture(params=CIPHERS)
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as stack:
        vm = stack.enter_context(rig(tmp_path, Wanted("data", 24 * MIB)))
        device = stack.enter_context(loop(image(tmp_path / "old.img", SIZE)))
        key, size = os.urandom(64), "256" if "cbc" in request.param else "512"
        theirs = (
            *strangers.QUICK, "--cipher", request.param, "--key-size", size, "--hash", "sha512",
            "--uuid", DECLARED,
        )  # fmt: skip
        strangers.cryptsetup(
            "luksFormat", "-q", "--type", "luks2", *theirs, "--key-file", "-", device, given=key
        )  # fmt: skip
        strangers.cryptsetup("open", "--key-file", "-", device, "theirs", given=key)
        point = tmp_path / "theirs"
        point.mkdir()
        subprocess.run(["mkfs.ext4", "-q", "/dev/mapper/theirs"], check=True)
        subprocess.run(["mount", "/dev/mapper/theirs", point], check=True)
        (point / "rows").write_text(ROW)
        record = vm.broker.declare(
            "old", SIZE, cipher=request.param, origin="foreign", luks_uuid=DECLARED, serial="WD-1",
            mount=str(tmp_path / "srv/old"), argon2_memory_kib=1 << 20,
        )  # fmt: skip
        vm.devices[record.volume] = device
        yield Site(vm, record, device, key, point, [])
        subprocess.run(["umount", "-q", point], check=False)
        if devicemapper.uuid("theirs"):
            subprocess.run(["cryptsetup", "close", "theirs"], check=True)


def test_a_mounted_volume_is_adopted_and_the_next_boot_opens_it_under_its_stable_name(site: Site) -> None:
    assert site.adopt(site.passphrase).stage == "ready"
    told = "\n".join(site.said)
    assert f"is open as /dev/mapper/theirs, mounted on {site.point}" in told
    assert "/dev/mapper/kb-old" in told
    assert (site.point / "rows").read_text() == ROW
    site.close()  # the machine goes down, and comes up without its crypttab's line
    assert site.vm.outcome("old", site.vm.unlock()).error is None
    mounted = site.record.mount
    assert mounted is not None
    assert (Path(mounted) / "rows").read_text() == ROW
    assert strangers.takes(site.device, site.passphrase)
    site.adopt(None, remove_others=True)
    assert not strangers.takes(site.device, site.passphrase)
    site.vm.lock()
    assert site.vm.outcome("old", site.vm.unlock()).error is None
    assert (Path(mounted) / "rows").read_text() == ROW


def test_luks1_that_is_open_is_not_converted_and_one_that_is_closed_is(tmp_path: Path) -> None:
    with rig(tmp_path, Wanted("data", 24 * MIB)) as vm, loop(image(tmp_path / "old.img", SIZE)) as device:
        key = b"typed by hand"
        old = ("--type", "luks1", "--uuid", DECLARED, *strangers.QUICK)
        strangers.cryptsetup("luksFormat", "-q", *old, "--key-file", "-", device, given=key)
        strangers.cryptsetup("open", "--key-file", "-", device, "theirs", given=key)
        record = vm.broker.declare(
            "old", SIZE, origin="foreign", luks_uuid=DECLARED, serial="WD-1", filesystem="none"
        )
        vm.devices[record.volume] = device
        site = Site(vm, record, device, key, tmp_path, [])
        before = fingerprint(device)
        file = tmp_path / "old.luks1"
        for wish, problem in (
            ({}, Problem.HEADER_REFUSED),
            ({"convert": True, "header_backup": file}, Problem.WRONG_DEVICE),
        ):
            with pytest.raises(KeybrokerError) as caught:
                site.adopt(key, **wish)
            assert caught.value.problem is problem
            assert fingerprint(device) == before
        assert not file.exists()
        subprocess.run(["cryptsetup", "close", "theirs"], check=True)
        assert site.adopt(key, convert=True, header_backup=file).stage == "ready"
        assert vm.outcome("old", vm.unlock()).error is None
        assert strangers.takes(device, key)


def test_what_cryptctl_made_is_refused_untouched_with_the_way_to_move_it(tmp_path: Path) -> None:
    with rig(tmp_path, Wanted("data", 24 * MIB)) as vm, loop(image(tmp_path / "old.img", SIZE)) as device:
        old = ("--type", "luks1", "--uuid", DECLARED, "--pbkdf-force-iterations", "1000", *CRYPTCTL)
        strangers.cryptsetup("luksFormat", "-q", *old, "--key-file", "-", device, given=b"key")
        record = vm.broker.declare(
            "old", SIZE, origin="foreign", luks_uuid=DECLARED, serial="WD-1", filesystem="none"
        )
        vm.devices[record.volume] = device
        before = fingerprint(device)
        with pytest.raises(KeybrokerError) as caught:
            Site(vm, record, device, b"key", tmp_path, []).adopt(
                b"key", convert=True, header_backup=tmp_path / "file"
            )
        assert caught.value.problem is Problem.HEADER_REFUSED
        assert "PBKDF2-sha512" in caught.value.detail
        assert fingerprint(device) == before
