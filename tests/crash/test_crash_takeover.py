"""The verb adopt against the real broker: what is printed, what is refused, and LUKS1."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent import takeover
from agent.devices import OpenDevice
from agent.driver import Driver
from agent.takeover import Wish
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from tests.crash.file_world import FileWorld
from tests.crash.service_broker import ServiceBroker
from tests.crash.test_crash_memory import BOOT
from tests.header import strangers
from tests.header.strangers import TYPED

DECLARED = "0f2d3c1a-5b6e-4d7c-8f90-a1b2c3d4e5f6"


@dataclass
class Site:
    """A broker at which one volume is declared, and its disk.

    Attributes:
        said: what the verb printed.
    """

    broker: ServiceBroker
    world: FileWorld
    record: Record
    said: list[str]

    def open(self, record: Record, *, writable: bool = False) -> AbstractContextManager[OpenDevice]:
        return self.world.open(record)

    @property
    def disk(self) -> Path:
        return self.world.disk(self.record)

    def adopt(self, given: bytes | None = TYPED, **wish: object) -> Record:
        asked = Wish("old", Secret(given) if given is not None else None, **wish)  # type: ignore[arg-type]
        shop = self.world.workshop(self.broker)
        return takeover.adopt(shop, self, BOOT, self.world.directory / "run", asked, self.said.append)

    def refused(self, problem: Problem, given: bytes | None = TYPED, **wish: object) -> KeybrokerError:
        before = self.disk.read_bytes()
        with pytest.raises(KeybrokerError) as caught:
            self.adopt(given, **wish)
        assert caught.value.problem is problem, caught.value.detail
        assert self.disk.read_bytes() == before
        return caught.value


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    broker = ServiceBroker(tmp_path / "broker")
    record = broker.declare(
        "old", strangers.SIZE, origin="foreign", luks_uuid=DECLARED, serial="WD-1", filesystem="none",
        argon2_memory_kib=1 << 20,
    )  # fmt: skip
    yield Site(broker, FileWorld(tmp_path, broker, [record]), record, [])
    broker.close()


def luks2(site: Site) -> None:
    quick = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    strangers.cryptsetup(
        "luksFormat",
        "-q",
        "--type",
        "luks2",
        "--uuid",
        DECLARED,
        *quick,
        "--key-file",
        "-",
        site.disk,
        given=TYPED,
    )


def luks1(site: Site, uuid: str = DECLARED) -> None:
    strangers.luks1(site.disk)
    strangers.cryptsetup("luksUUID", "-q", "--uuid", uuid, site.disk)


def test_a_volume_is_adopted_opened_rotated_and_the_others_are_taken_out_when_asked(site: Site) -> None:
    luks2(site)
    assert site.adopt().stage == "ready"
    assert any("adopted: key version 1 opens it" in line for line in site.said)
    assert any("these open it as before: keyslots 0" in line for line in site.said)
    assert any("keybroker-agent unlock" in line for line in site.said)
    assert not any(TYPED.decode() in line for line in site.said)
    report = Driver(site.world.world(), BOOT, keep=site.world.keep).unlock([])
    assert report.outcomes[0].error is None
    before = site.disk.read_bytes()
    assert site.adopt(None).stage == "ready"
    assert site.disk.read_bytes() == before
    site.adopt(None, remove_others=True)
    assert any("taking out, as asked: keyslots 0" in line for line in site.said)
    assert not strangers.takes(site.disk, TYPED)
    key = site.broker.keys(site.record.volume)
    assert all(strangers.takes(site.disk, each.reveal()) for each in key.values())
    verbs = [verb for verb, outcome, volume in site.broker.audit() if volume == site.record.volume]
    assert "adopt" in verbs


def test_a_boot_before_the_adoption_asks_for_no_key_and_names_the_way(site: Site) -> None:
    luks2(site)
    (outcome,) = Driver(site.world.world(), BOOT).unlock([site.record]).outcomes
    assert outcome.error is not None
    assert outcome.error.hint == "keybroker-agent adopt old --key-file FILE"


def test_a_passphrase_is_asked_for_where_our_key_does_not_open_it_yet(site: Site) -> None:
    luks2(site)
    site.refused(Problem.LOCKED_OUT, None)


def test_a_volume_that_is_not_declared_is_refused_with_the_way_to_declare_it(site: Site) -> None:
    with pytest.raises(KeybrokerError, match="knows no such volume") as caught:
        takeover.adopt(
            site.world.workshop(site.broker),
            site,
            BOOT,
            site.world.directory / "run",
            Wish("else", None),
            print,
        )
    assert caught.value.hint is not None
    assert "volume adopt" in caught.value.hint


def test_luks1_is_refused_with_the_way_to_convert_it(site: Site) -> None:
    luks1(site)
    error = site.refused(Problem.HEADER_REFUSED)
    assert "LUKS1" in error.detail
    assert error.hint is not None
    assert "cryptsetup convert" in error.hint
    assert "--header-backup" in error.hint


def test_luks1_is_converted_only_after_its_header_is_in_the_file_that_was_named(
    site: Site, tmp_path: Path
) -> None:
    luks1(site)
    site.refused(Problem.USAGE, convert=True)
    file = tmp_path / "old.luks1"
    file.write_bytes(b"something else")
    site.refused(Problem.EXISTS, convert=True, header_backup=file)
    file.unlink()
    assert site.adopt(convert=True, header_backup=file).stage == "ready"
    assert file.stat().st_mode & 0o777 == 0o600
    assert strangers.takes(site.disk, TYPED)
    # what was saved brings the volume back as it was, by cryptsetup alone
    strangers.cryptsetup("luksHeaderRestore", "-q", site.disk, "--header-backup-file", file)
    strangers.cryptsetup("isLuks", "--type", "luks1", site.disk)
    assert strangers.takes(site.disk, TYPED)


def test_a_conversion_that_was_cut_before_or_after_it_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    luks1(site)
    file = tmp_path / "old.luks1"
    file.write_bytes(site.disk.read_bytes()[: 2 << 20])  # saved, and the power went
    asked = {"convert": True, "header_backup": file}
    copy = tmp_path / "luks1"
    shutil.copyfile(site.disk, copy)
    subprocess.run(["cryptsetup", "convert", "-q", "--type", "luks2", copy], check=True)
    assert site.adopt(**asked).stage == "ready"  # type: ignore[arg-type]
    assert site.adopt(**asked).stage == "ready"  # type: ignore[arg-type]


def test_luks1_of_another_volume_is_not_converted(site: Site, tmp_path: Path) -> None:
    luks1(site, "6f4d3b52-7f0a-4a0e-9b6a-3d8f2c1e5a70")
    site.refused(Problem.HEADER_REFUSED, convert=True, header_backup=tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("held", [b"", b"k" * (takeover.LARGEST_PASSPHRASE + 1)])
def test_a_passphrase_that_is_none_or_too_long_is_refused(held: bytes) -> None:
    left = [held]
    with pytest.raises(KeybrokerError, match="must have 1 to"):
        takeover.read_passphrase(lambda most: left.pop()[:most] if left else b"")


def test_a_passphrase_is_read_to_its_end_newline_included() -> None:
    pieces = [b"two pie", b"ces\n"]
    assert takeover.read_passphrase(lambda most: pieces.pop(0) if pieces else b"") == Secret(b"two pieces\n")
