"""An installation is made whole or not at all, never overwritten, and opens only as tight as it was made."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from keybroker.service.installation import Plan, create, open_broker
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import Clock, House, installation, plan

MODES = {
    "etc": 0o700,
    "etc/ca.crt": 0o444,
    "etc/ca.key": 0o400,
    "etc/keybroker.toml": 0o600,
    "etc/master.key": 0o400,
    "etc/operators": 0o700,
    "etc/operators/alice.crt": 0o444,
    "etc/operators/alice.key": 0o400,
    "etc/server.crt": 0o444,
    "etc/server.key": 0o400,
    "var": 0o700,
    "var/keybroker.db": 0o600,
}


def tree(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode) for path in sorted(root.rglob("*"))
    }


def make(made: Plan, credentials: Path | None = None) -> None:
    create(made, clock=Clock(), entropy=os.urandom, credentials_directory=credentials)


def refused(ask: Callable[[], object]) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        ask()
    return caught.value


def reopening(house: House) -> Callable[[], object]:
    return lambda: open_broker(house.installation, clock=house.clock, entropy=os.urandom)


def test_it_makes_exactly_these_files_with_exactly_these_modes(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        make(plan(tmp_path))
    finally:
        os.umask(previous)
    assert tree(tmp_path) == MODES


def test_it_says_in_its_first_record_what_it_made(house: House) -> None:
    (entry,) = house.broker.store.audit_records()
    assert (entry.verb, entry.actor) == ("init", "local")
    assert house.created.ca_fingerprint in entry.detail


def test_empty_directories_that_are_there_already_are_used(tmp_path: Path) -> None:
    for name in ("etc", "var"):
        (tmp_path / name).mkdir(mode=0o755)
    make(plan(tmp_path))
    assert tree(tmp_path) == MODES


@pytest.mark.parametrize("there", ["etc/keybroker.toml", "etc/notes", "var/keybroker.db", "var/x"])
def test_what_is_there_is_never_overwritten(tmp_path: Path, there: str) -> None:
    path = tmp_path / there
    path.parent.mkdir()
    path.write_text("mine")
    before = tree(tmp_path)
    assert refused(lambda: make(plan(tmp_path))).problem is Problem.EXISTS
    assert tree(tmp_path) == before
    assert path.read_text() == "mine"


def test_a_second_init_changes_nothing(house: House) -> None:
    before = (house.root / "etc/ca.crt").read_bytes()
    assert refused(lambda: make(plan(house.root))).problem is Problem.EXISTS
    assert (house.root / "etc/ca.crt").read_bytes() == before


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "etc").symlink_to("elsewhere")
    assert refused(lambda: make(plan(tmp_path))).problem is Problem.EXISTS


@pytest.mark.parametrize(
    "changes",
    [
        {"trust_domain": "Example.org"},
        {"operator": "../alice"},
        {"operator": ""},
        {"server_names": (), "server_addresses": ()},
        {"server_names": ("bad name",)},
        {"server_addresses": ("1.2.3",)},
    ],
)
def test_names_that_are_none_are_refused_before_anything_is_made(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    made = replace(plan(tmp_path), **changes)  # type: ignore[arg-type]
    assert refused(lambda: make(made)).problem is Problem.MALFORMED
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"config_directory": Path("etc")},
        {"state_directory": "etc"},
        {"state_directory": "etc/state"},
        {"config_directory": "no/such/etc"},
        {"master_key": "file:relative"},
        {"master_key": "file:/somewhere/else/master.key"},
        {"master_key": "pkcs12:nothing"},
        {"master_key": "credential:../x"},
        {"master_key": "credential:keybroker-master"},
    ],
)
def test_what_cannot_be_made_leaves_nothing_behind(tmp_path: Path, changes: dict[str, object]) -> None:
    placed = {
        name: tmp_path / value if name.endswith("directory") and isinstance(value, str) else value
        for name, value in changes.items()
    }
    made = replace(plan(tmp_path), **placed)  # type: ignore[arg-type]
    assert refused(lambda: make(made)).problem is Problem.CONFIGURATION
    assert tree(tmp_path) == {}


def test_a_failure_at_the_very_last_step_undoes_the_one_before(tmp_path: Path) -> None:
    """The configuration's place is a mount point, which rename(2) refuses with EBUSY or EXDEV."""
    (tmp_path / "etc").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "etc"], check=True, timeout=20)
    try:
        assert refused(lambda: make(plan(tmp_path))).problem is Problem.CONFIGURATION
        assert tree(tmp_path).keys() == {"etc"}
    finally:
        subprocess.run(["umount", tmp_path / "etc"], check=True, timeout=20)


def test_a_credential_takes_the_place_of_the_master_key_s_file(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    (credentials / "keybroker-master").write_bytes(os.urandom(32))
    (credentials / "keybroker-master").chmod(0o400)
    make(replace(plan(tmp_path), master_key="credential:keybroker-master"), credentials)
    assert not (tmp_path / "etc/master.key").exists()
    place = replace(
        installation(tmp_path),
        master_keys=("credential:keybroker-master",),
        credentials_directory=credentials,
    )
    open_broker(place, clock=Clock(), entropy=os.urandom).close()
    unset = replace(place, credentials_directory=None)
    error = refused(lambda: open_broker(unset, clock=Clock(), entropy=os.urandom))
    assert "LoadCredentialEncrypted" in (error.hint or "")


def test_everything_can_belong_to_another_user(tmp_path: Path) -> None:
    make(replace(plan(tmp_path), owner=(4711, 4712)))
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in tmp_path.rglob("*")}
    assert owners == {(4711, 4712)}
    error = refused(lambda: open_broker(installation(tmp_path), clock=Clock(), entropy=os.urandom))
    assert (error.problem, "4711" in error.detail) == (Problem.CONFIGURATION, True)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        for name in ("etc/ca.key", "etc/server.key", "etc/master.key")
        for mode in (0o600, 0o440, 0o404, 0o500)
    ]
    + [("var/keybroker.db", mode) for mode in (0o640, 0o604, 0o660, 0o700)]
    + [(name, mode) for name in ("etc", "var") for mode in (0o750, 0o701, 0o777)]
    + [(name, 0o664) for name in ("etc/ca.crt", "etc/server.crt", "etc/keybroker.toml")],
)
def test_a_looser_mode_is_refused_with_the_command_that_mends_it(house: House, name: str, mode: int) -> None:
    house.broker.close()
    path = house.root / name
    path.chmod(mode)
    error = refused(reopening(house))
    assert error.problem is Problem.CONFIGURATION
    assert error.hint is not None
    assert error.hint.startswith("chmod ")
    assert error.hint.endswith(str(path))
    subprocess.run(error.hint.split(), check=True, timeout=20)
    house.broker = house.open()


@pytest.mark.parametrize(
    "name",
    ["etc", "etc/ca.crt", "etc/ca.key", "etc/server.key", "etc/master.key", "var", "var/keybroker.db"],
)
def test_somebody_else_s_file_is_refused_with_the_command_that_mends_it(house: House, name: str) -> None:
    house.broker.close()
    os.chown(house.root / name, 4711, -1)
    error = refused(reopening(house))
    assert error.hint == f"chown {os.geteuid()} {house.root / name}"
    subprocess.run(error.hint.split(), check=True, timeout=20)
    house.broker = house.open()


@pytest.mark.parametrize(
    "name",
    ["etc/ca.crt", "etc/ca.key", "etc/server.crt", "etc/server.key", "etc/master.key", "var/keybroker.db"],
)
@pytest.mark.parametrize("becomes", ["missing", "link", "directory", "fifo"])
def test_a_file_that_is_none_is_refused(house: House, name: str, becomes: str) -> None:
    house.broker.close()
    path = house.root / name
    path.rename(house.root / "aside")
    if becomes == "link":
        path.symlink_to(house.root / "aside")
    elif becomes == "directory":
        path.mkdir(mode=0o400)
    elif becomes == "fifo":
        os.mkfifo(path, 0o400)
    assert refused(reopening(house)).problem is Problem.CONFIGURATION


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_master_key_of_another_length_is_refused(house: House, size: int) -> None:
    house.broker.close()
    path = house.root / "etc/master.key"
    path.unlink()
    path.write_bytes(bytes(size))
    path.chmod(0o400)
    assert "32 bytes" in refused(reopening(house)).detail


def test_another_master_key_is_found_out_before_anything_is_written(house: House) -> None:
    house.addon()
    house.broker.close()
    path = house.root / "etc/master.key"
    path.unlink()
    path.write_bytes(os.urandom(32))
    path.chmod(0o400)
    before = house.installation.database.read_bytes()
    error = refused(reopening(house))
    assert error.problem is Problem.CONFIGURATION
    assert "master key" in error.detail
    assert house.installation.database.read_bytes() == before


def test_a_tampered_key_check_value_is_found_out(house: House) -> None:
    house.broker.close()
    with closing(sqlite3.connect(house.installation.database)) as database, database:
        database.execute("UPDATE master_keys SET key_check = zeroblob(154)")
    assert "key check" in refused(reopening(house)).detail


def test_parts_of_two_installations_do_not_open_together(house: House, tmp_path: Path) -> None:
    house.broker.close()
    other = tmp_path / "other"
    other.mkdir()
    make(plan(other))
    for names in (("ca.crt",), ("ca.crt", "ca.key"), ("master.key",)):
        kept = tmp_path / "kept"
        shutil.copytree(house.root / "etc", kept)
        for name in names:
            (house.root / "etc" / name).unlink()
            shutil.copy2(other / "etc" / name, house.root / "etc" / name)
        assert refused(reopening(house)).problem is Problem.CONFIGURATION
        shutil.rmtree(house.root / "etc")
        kept.rename(house.root / "etc")
    renamed = replace(house.installation.settings, trust_domain="other.example")
    place = replace(house.installation, settings=renamed)
    error = refused(lambda: open_broker(place, clock=house.clock, entropy=os.urandom))
    assert "trust domain" in error.detail


@pytest.mark.parametrize(
    ("revision", "hint"),
    [("0000", "install the version"), (None, "keybroker init")],
)
def test_a_database_at_another_revision_is_refused(house: House, revision: str | None, hint: str) -> None:
    house.broker.close()
    with closing(sqlite3.connect(house.installation.database)) as database, database:
        database.execute("DELETE FROM alembic_version")
        if revision is not None:
            database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    error = refused(reopening(house))
    assert error.problem is Problem.CONFIGURATION
    assert hint in (error.hint or "")


def test_a_database_of_an_init_that_was_cut_short_is_refused(house: House) -> None:
    house.broker.close()
    with closing(sqlite3.connect(house.installation.database)) as database, database:
        database.execute("DELETE FROM installation")
    assert "cut short" in refused(reopening(house)).detail


def test_a_file_that_is_no_database_is_refused(house: House) -> None:
    house.broker.close()
    house.installation.database.write_bytes(os.urandom(8192))
    assert refused(reopening(house)).problem is Problem.CORRUPT
