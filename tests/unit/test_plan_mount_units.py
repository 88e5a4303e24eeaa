"""Mount units: named as systemd names them, accepted by systemd, and written only where something changed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import mountunits
from keybroker.wire.names import MOUNT_POINT
from tests.crash.volumes import record

POSTGRES = record("data", mount="/var/lib/postgresql")
LOGS = record("pg-wal", filesystem="xfs", mount="/srv/pg-wal.d")
RECORDS = [POSTGRES, LOGS, record("swap", filesystem="swap"), record("raw", filesystem="none")]


def escaped(path: str, suffix: str) -> str:
    command = ["systemd-escape", "--path", f"--suffix={suffix}", "--", path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    "path",
    ["/", "/srv", "/var/lib/postgresql", "/a-b/c.d_e", "/.hidden/x", "/srv//double/", "/é", "/a:b", "/a b"],
)
def test_a_unit_has_the_name_that_systemd_gives_it(path: str) -> None:
    assert mountunits.unit_name(path, "mount") == escaped(path, "mount")


@given(st.lists(st.from_regex(MOUNT_POINT, fullmatch=True), min_size=5, max_size=5))
def test_any_mount_point_has_the_name_that_systemd_gives_it(points: list[str]) -> None:
    command = ["systemd-escape", "--path", "--suffix=mount", "--", *points]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [mountunits.unit_name(point, "mount") for point in points] == said


def test_a_volume_has_a_mount_unit_and_drop_ins_for_its_check_and_its_device() -> None:
    assert sorted(mountunits.units(RECORDS)) == [
        r"dev-mapper-kb\x2ddata.device.d/keybroker.conf",
        r"dev-mapper-kb\x2dpg\x2dwal.device.d/keybroker.conf",
        r"srv-pg\x2dwal.d.mount",
        r"systemd-fsck@dev-mapper-kb\x2ddata.service.d/keybroker.conf",
        "var-lib-postgresql.mount",
    ]


def test_only_a_filesystem_that_has_a_check_is_checked() -> None:
    units = mountunits.units(RECORDS)
    assert r"Requires=systemd-fsck@dev-mapper-kb\x2ddata.service" in units["var-lib-postgresql.mount"]
    assert "fsck" not in units[r"srv-pg\x2dwal.d.mount"]


def test_systemd_takes_the_units_without_a_complaint(tmp_path: Path) -> None:
    mountunits.install(RECORDS, tmp_path)
    for name, kind in (
        (mountunits.UNLOCK, "[Service]\nType=oneshot\nExecStart=/bin/true\n"),
        (mountunits.TARGET, ""),
    ):
        (tmp_path / name).write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n{kind}")
    mounts = [str(path) for path in tmp_path.glob("*.mount")]
    assert len(mounts) == 2
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", *mounts],
        check=False, capture_output=True, text=True, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_units_are_written_once_and_then_only_when_something_changed(tmp_path: Path) -> None:
    assert mountunits.install(RECORDS, tmp_path)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not mountunits.install(RECORDS, tmp_path)
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    wanted = tmp_path / f"{mountunits.TARGET}.wants" / "var-lib-postgresql.mount"
    assert wanted.resolve() == tmp_path / "var-lib-postgresql.mount"
    assert (tmp_path / "var-lib-postgresql.mount").stat().st_mode & 0o777 == 0o644


def test_a_unit_that_was_changed_by_hand_or_lost_its_link_is_put_right(tmp_path: Path) -> None:
    mountunits.install(RECORDS, tmp_path)
    unit = tmp_path / "var-lib-postgresql.mount"
    unit.write_text(unit.read_text().replace("nosuid", "suid"))
    assert mountunits.install(RECORDS, tmp_path)
    assert "nosuid" in unit.read_text()
    (tmp_path / f"{mountunits.TARGET}.wants" / unit.name).unlink()
    assert mountunits.install(RECORDS, tmp_path)
    assert (tmp_path / f"{mountunits.TARGET}.wants" / unit.name).is_symlink()


def test_units_of_volumes_that_are_gone_go_and_other_peoples_stay(tmp_path: Path) -> None:
    (tmp_path / "home.mount").write_text("[Mount]\nWhat=/dev/sda9\nWhere=/home\n")
    mountunits.install(RECORDS, tmp_path)
    assert mountunits.install([POSTGRES], tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.mount")) == [
        "home.mount", "var-lib-postgresql.mount", "var-lib-postgresql.mount",
    ]  # fmt: skip
    assert len(list(tmp_path.glob("dev-mapper-*/keybroker.conf"))) == 1
