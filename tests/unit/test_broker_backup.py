"""A backup of a broker in use, taken apart, rehearsed, forged, and brought back."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest

from keybroker import age
from keybroker.service import archive, backup, recovery, restoring
from keybroker.service.archive import Manifest
from keybroker.service.drill import Result, rehearse
from keybroker.service.installation import open_broker
from keybroker.service.setback import standing
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import House

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENTS = (str(IDENTITY.to_public()),)


@pytest.fixture
def used(house: House) -> House:
    """A broker with a volume in use, whose passphrase is encrypted to an offline key."""
    recovery.set_key(house.broker, house.operator, list(RECIPIENTS))
    house.addon()
    peer, _ = house.enrol()
    house.rotated(peer, house.provision(peer, house.volume()).volume, 12)
    return house


@pytest.fixture
def identities(tmp_path: Path) -> age.Identities:
    file = tmp_path / "backup.key"
    file.write_text(f"{IDENTITY}\n")
    return age.Identities.read(file)


def made(house: House, **options: bool) -> bytes:
    target = io.BytesIO()
    backup.make(house.installation, target, RECIPIENTS, now=house.clock.now, who="a test", **options)
    return target.getvalue()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir(mode=0o700)
    return directory


def apart(sealed: bytes, identities: age.Identities, scratch: Path) -> Manifest:
    return archive.read(io.BytesIO(sealed), identities, scratch)


def refused(call: Callable[[], object]) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        call()
    return caught.value


def drill(house: House, scratch: Path, manifest: Manifest, *keys: str) -> dict[str, Result]:
    installation = replace(house.installation, master_keys=keys or house.installation.master_keys)
    return {result.check: result for result in rehearse(scratch, manifest, installation)}


def test_a_backup_of_a_broker_in_use_has_everything_and_every_key_in_it_opens(
    used: House, identities: age.Identities, scratch: Path
) -> None:
    manifest = apart(made(used), identities, scratch)
    results = drill(used, scratch, manifest)
    assert {result.state for result in results.values()} == {"good"}
    assert "unwrapped: 1 add-on keys, 2 passphrases, 2 header copies" in results["keys"].detail
    assert "1 add-ons, 1 volumes, 1 hosts" in results["installation"].detail
    assert set(manifest.files) == {*archive.FILES, archive.DATABASE} - {archive.FORMER_KEY}
    assert list(used.installation.database.parent.glob(".backup-*")) == []
    assert ("database.backup", "done", None) in used.audit()


def test_stock_age_and_tar_open_it(used: House, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{IDENTITY}\n")
    (tmp_path / "backup").write_bytes(made(used))
    opened = subprocess.run(
        ["age", "-d", "-i", tmp_path / "key", tmp_path / "backup"],
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(opened)) as tar:
        assert tar.getnames() == [name for name in archive.MEMBERS if name != archive.FORMER_KEY]
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        assert json.load(manifest)["trust_domain"] == "example.org"


def test_it_is_consistent_while_others_write(used: House, identities: age.Identities, scratch: Path) -> None:
    over = threading.Event()

    def busy() -> None:
        number = 0
        while not over.is_set():
            number += 1
            used.addon(f"more-{number}")

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        sealed = made(used)
    finally:
        over.set()
        thread.join()
    results = drill(used, scratch, apart(sealed, identities, scratch))
    assert {result.state for result in results.values()} == {"good"}


def test_the_master_key_is_never_in_it(used: House) -> None:
    sealed, key = made(used), (used.root / "etc/master.key").read_bytes()
    plain = pyrage.decrypt(sealed, [IDENTITY])
    assert key not in plain
    assert key.hex().encode() not in plain


@pytest.mark.parametrize("form", ["raw", "hex", "link"])
def test_a_master_key_among_what_is_backed_up_stops_it(used: House, form: str) -> None:
    key, configuration = used.root / "etc/master.key", used.root / "etc/keybroker.toml"
    if form == "link":
        configuration.unlink()
        os.link(key, configuration)
    else:
        held = key.read_bytes() if form == "raw" else key.read_bytes().hex().encode()
        configuration.write_bytes(b"# " + held + b"\n")
    error = refused(lambda: made(used))
    assert error.problem is Problem.CONFIGURATION
    assert "holds the master key" in error.detail
    assert key.read_bytes().hex() not in error.detail


def test_without_a_recipient_it_is_for_the_recovery_key_or_for_nobody(used: House, house: House) -> None:
    target = io.BytesIO()
    backup.make(used.installation, target, (), now=used.clock.now, who="a test")
    assert pyrage.decrypt(target.getvalue(), [IDENTITY])


def test_the_cas_key_can_be_left_out(used: House, identities: age.Identities, scratch: Path) -> None:
    manifest = apart(made(used, with_ca_key=False), identities, scratch)
    assert "ca.key" not in manifest.files
    assert not (scratch / "ca.key").exists()


def forged(sealed: bytes, change: Callable[[dict[str, bytes]], object]) -> bytes:
    """Encrypt other contents to the same recipient, as anybody could."""
    plain, parts = pyrage.decrypt(sealed, [IDENTITY]), {}
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            parts[member.name] = content.read()
    change(parts)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, held in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(held)
            tar.addfile(info, io.BytesIO(held))
    sealed_again: bytes = pyrage.encrypt(made.getvalue(), [IDENTITY.to_public()])
    return sealed_again


FORGERIES: dict[str, Callable[[dict[str, bytes]], object]] = {
    "another database": lambda parts: parts.update({"keybroker.db": parts["keybroker.db"] + b"\0"}),
    "another configuration": lambda parts: parts.update({"keybroker.toml": b"# mine\n"}),
    "another moment": lambda parts: parts.update(
        {"manifest.json": parts["manifest.json"].replace(b'"made": "2026', b'"made": "2025')}
    ),
    "another CA": lambda parts: parts.update({"ca.crt": parts["server.crt"]}),
    "no signature": lambda parts: parts.update({"manifest.sig": b""}),
    "a file more": lambda parts: parts.update({"../../etc/passwd": b"x"}),
    "a file less": lambda parts: parts.pop("ca.key"),
    "no manifest": lambda parts: parts.pop("manifest.json"),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_backup_that_the_broker_did_not_make_is_refused(
    used: House, identities: age.Identities, scratch: Path, case: str
) -> None:
    sealed = forged(made(used), FORGERIES[case])
    assert refused(lambda: apart(sealed, identities, scratch)).problem is Problem.CORRUPT


@pytest.mark.parametrize("cut", [1, 100, 70_000])
def test_a_backup_that_was_cut_or_changed_is_refused(
    used: House, identities: age.Identities, scratch: Path, cut: int
) -> None:
    sealed = made(used)
    assert refused(lambda: apart(sealed[:-cut], identities, scratch)).problem is Problem.CORRUPT
    for each in scratch.iterdir():
        each.unlink()
    changed = sealed[:-cut] + bytes((sealed[-cut] ^ 1,)) + sealed[len(sealed) - cut + 1 :]
    assert refused(lambda: apart(changed, identities, scratch)).problem is Problem.CORRUPT


def test_another_key_opens_nothing(used: House, tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "other").write_text(f"{pyrage.x25519.Identity.generate()}\n")
    error = refused(lambda: apart(made(used), age.Identities.read(tmp_path / "other"), scratch))
    assert "does not open with this identity" in error.detail


def test_a_drill_finds_damage_a_signature_cannot(
    used: House, identities: age.Identities, scratch: Path
) -> None:
    manifest = apart(made(used), identities, scratch)
    with closing(sqlite3.connect(scratch / "keybroker.db")) as connection, connection:
        connection.execute("UPDATE keys SET wrapped = zeroblob(149) WHERE version = 2")
    assert drill(used, scratch, manifest)["keys"].state == "wrong"
    with closing(sqlite3.connect(scratch / "keybroker.db")) as connection, connection:
        connection.execute("DROP TRIGGER audit_is_not_deleted")
        connection.execute("DELETE FROM audit WHERE sequence = 3")
    assert drill(used, scratch, manifest)["audit trail"].state == "wrong"


def test_without_the_master_key_a_drill_says_so(
    used: House, identities: age.Identities, scratch: Path, tmp_path: Path
) -> None:
    manifest = apart(made(used), identities, scratch)
    results = drill(used, scratch, manifest, f"file:{tmp_path}/nowhere")
    assert results["keys"].state == "warning"
    other = tmp_path / "other.key"
    other.write_bytes(os.urandom(32))
    other.chmod(0o400)
    results = drill(used, scratch, manifest, f"file:{other}")
    assert results["keys"].state == "wrong"


def bring_back(house: House, scratch: Path, manifest: Manifest, *keys: Path) -> restoring.Restored:
    return restoring.restore(
        scratch, manifest, house.installation, master_keys=keys, owner=None, source="backup.age", who="root",
        now=house.clock.now,
    )  # fmt: skip


def test_a_restored_installation_has_the_keys_and_begins_in_recovery(
    used: House, identities: age.Identities, scratch: Path
) -> None:
    volume = used.record_named("data").volume
    key = used.keys(volume)[KeyVersion(2)]
    manifest = apart(made(used), identities, scratch)
    used.broker.close()
    (used.root / "etc").rename(used.root / "etc.lost")
    (used.root / "var").rename(used.root / "var.lost")
    done = bring_back(used, scratch, manifest, used.root / "etc.lost/master.key")
    assert (done.missing, [path.name for path in done.master_keys]) == ((), ["master.key"])
    used.broker = open_broker(used.installation, clock=used.clock, entropy=used.random.randbytes)
    assert used.keys(volume)[KeyVersion(2)] == key
    found = used.broker.store.read(standing)
    assert found.restore is not None
    assert (found.restore.who, found.restore.source, found.is_open) == ("root", "backup.age", True)
    assert ("database.restore", "done", None) in used.audit()


def test_a_host_that_was_revoked_since_is_revoked_before_anything_is_served(
    used: House, identities: age.Identities, scratch: Path
) -> None:
    (host,) = used.broker.store.read(lambda reading: reading.hosts())
    manifest = apart(made(used), identities, scratch)
    used.broker.close()
    (used.root / "etc").rename(used.root / "etc.lost")
    (used.root / "var").rename(used.root / "var.lost")

    def bring(*revoked: str) -> restoring.Restored:
        return restoring.restore(
            scratch, manifest, used.installation, master_keys=[used.root / "etc.lost/master.key"],
            owner=None, revoked=revoked, source="backup.age", who="root", now=used.clock.now,
        )  # fmt: skip

    assert refused(lambda: bring("kbh-" + "z" * 12)).problem is Problem.UNKNOWN
    assert not (used.root / "etc").exists()
    bring(host.id)
    used.broker = open_broker(used.installation, clock=used.clock, entropy=used.random.randbytes)
    kept = used.broker.store.read(lambda reading: reading.host(host.id))
    assert kept is not None
    assert kept.revoked == used.clock.now


def test_nothing_is_restored_over_an_installation_or_with_another_master_key(
    used: House, identities: age.Identities, scratch: Path, tmp_path: Path
) -> None:
    manifest = apart(made(used), identities, scratch)
    before = {path: path.read_bytes() for path in (used.root / "etc").rglob("*") if path.is_file()}
    assert refused(lambda: bring_back(used, scratch, manifest)).problem is Problem.EXISTS
    assert {path: path.read_bytes() for path in before} == before
    used.broker.close()
    (used.root / "etc").rename(used.root / "etc.lost")
    (used.root / "var").rename(used.root / "var.lost")
    other = tmp_path / "other.key"
    other.write_bytes(os.urandom(32))
    other.chmod(0o400)
    error = refused(lambda: bring_back(used, scratch, manifest, other))
    assert (error.problem, "which the backup does not need" in error.detail) == (Problem.CONFIGURATION, True)
    assert not (used.root / "etc").exists()
    assert not (used.root / "var").exists()
    done = bring_back(used, scratch, manifest)
    assert done.missing == used.installation.master_keys
    (used.root / "etc.lost/master.key").rename(used.root / "etc/master.key")
    used.broker = open_broker(used.installation, clock=used.clock, entropy=used.random.randbytes)
