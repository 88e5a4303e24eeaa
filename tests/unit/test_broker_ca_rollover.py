"""A CA that is being changed: what is backed up meanwhile, what a restore brings back, and one at a time."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from cryptography import x509

from keybroker import age
from keybroker.ca import is_from
from keybroker.service import archive, backup, restoring, rollover
from keybroker.service.archive import FORMER_KEY
from keybroker.service.drill import rehearse
from keybroker.service.installation import ca_held, open_broker
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import House

IDENTITY = pyrage.x25519.Identity.generate()


@pytest.fixture
def moving(house: House) -> House:
    """A broker whose CA is being changed, with one host that has not moved."""
    house.addon()
    house.enrol()
    assert rollover.rotate(house.broker, house.installation, "root")
    return house


def made(house: House, *, with_ca_key: bool = True) -> bytes:
    target, recipients = io.BytesIO(), (str(IDENTITY.to_public()),)
    backup.make(
        house.installation, target, recipients, now=house.clock.now, who="root", with_ca_key=with_ca_key
    )
    return target.getvalue()


def apart(sealed: bytes, tmp_path: Path) -> tuple[Path, archive.Manifest]:
    identity, scratch = tmp_path / "backup.key", tmp_path / "scratch"
    identity.write_text(f"{IDENTITY}\n")
    scratch.mkdir(mode=0o700)
    return scratch, archive.read(io.BytesIO(sealed), age.Identities.read(identity), scratch)


def brought_back(house: House, sealed: bytes, tmp_path: Path) -> restoring.Restored:
    scratch, manifest = apart(sealed, tmp_path)
    house.broker.close()
    for name in ("etc", "var"):
        (house.root / name).rename(house.root / f"{name}.lost")
    done = restoring.restore(
        scratch, manifest, house.installation, master_keys=[house.root / "etc.lost/master.key"], owner=None,
        source="backup.age", who="root", now=house.clock.now,
    )  # fmt: skip
    house.broker = open_broker(house.installation, clock=house.clock, entropy=house.random.randbytes)
    return done


def authority_drill(house: House, scratch: Path, manifest: archive.Manifest) -> tuple[str, str]:
    (found,) = (one for one in rehearse(scratch, manifest, house.installation) if one.check == "CA")
    return found.state, found.detail


def conflict(call: Callable[[], object]) -> str:
    with pytest.raises(KeybrokerError) as caught:
        call()
    assert caught.value.problem is Problem.CONFLICT
    return str(caught.value)


def test_a_backup_in_mid_rotation_has_both_cas_and_the_keys_of_both(moving: House, tmp_path: Path) -> None:
    scratch, manifest = apart(made(moving), tmp_path)
    assert FORMER_KEY in manifest.files
    home = moving.installation.ca_key.parent
    for name in ("ca.crt", "ca.key", FORMER_KEY):
        assert (scratch / name).read_bytes() == (home / name).read_bytes()
    assert authority_drill(moving, scratch, manifest) == ("good", "two are trusted, with the keys of both")


def test_neither_key_is_in_it_where_the_ca_s_is_left_out(moving: House, tmp_path: Path) -> None:
    scratch, manifest = apart(made(moving, with_ca_key=False), tmp_path)
    assert not {"ca.key", FORMER_KEY} & set(manifest.files)
    assert authority_drill(moving, scratch, manifest)[0] == "warning"


def test_a_drill_says_so_where_the_key_of_the_ca_before_is_not_there_or_another(
    moving: House, tmp_path: Path
) -> None:
    scratch, manifest = apart(made(moving), tmp_path)
    (scratch / FORMER_KEY).write_bytes((scratch / "ca.key").read_bytes())
    assert authority_drill(moving, scratch, manifest)[0] == "wrong"
    (scratch / FORMER_KEY).unlink()
    state, detail = authority_drill(moving, scratch, manifest)
    assert (state, "ca renew-server" in detail) == ("warning", True)


def test_a_restored_rotation_goes_on_where_it_was(moving: House, tmp_path: Path) -> None:
    before = rollover.trust(moving.broker, moving.installation)
    done = brought_back(moving, made(moving), tmp_path)
    assert done.ca_changing
    found = rollover.trust(moving.broker, moving.installation)
    assert found == before
    assert [each.split()[0] for each in found.waiting] == ["host", "operator"]
    assert found.server == found.authorities[1][0], "hosts that were off trust no other"
    rollover.renew_server(moving.broker, moving.installation, "root")
    renewed = x509.load_pem_x509_certificate(moving.installation.server_certificate.read_bytes())
    assert moving.broker.authority.before is not None
    assert is_from(renewed, moving.broker.authority.before)
    said = conflict(lambda: rollover.retire(moving.broker, moving.installation, "root", force=False))
    assert "2 have not come" in said
    assert rollover.retire(moving.broker, moving.installation, "root", force=True)
    found = rollover.trust(moving.broker, moving.installation)
    assert (found.is_changing, found.server) == (False, found.authorities[0][0])
    assert not moving.installation.former_ca_key.exists()
    assert moving.broker.authority.before is None


def test_a_backup_from_after_the_rotation_has_one_ca(moving: House, tmp_path: Path) -> None:
    assert rollover.retire(moving.broker, moving.installation, "root", force=True)
    assert not brought_back(moving, made(moving), tmp_path).ca_changing
    assert not rollover.retire(moving.broker, moving.installation, "root", force=True)


def test_a_rotation_that_was_cut_is_not_backed_up(moving: House) -> None:
    home = moving.installation.ca_key.parent
    moving.installation.ca_key.rename(moving.installation.next_ca_key)
    (home / FORMER_KEY).rename(moving.installation.ca_key)
    assert "cut short" in conflict(lambda: made(moving))


def test_neither_a_backup_nor_another_change_is_made_while_the_ca_is_changed(moving: House) -> None:
    with ca_held(moving.installation, to_change=True):
        assert "under way" in conflict(lambda: made(moving))
    with ca_held(moving.installation, to_change=False), ca_held(moving.installation, to_change=False):
        assert made(moving), "those who only read are in nobody's way"
        with pytest.raises(KeybrokerError), ca_held(moving.installation, to_change=True):
            pass


def test_without_the_key_of_the_ca_before_a_new_server_certificate_waits_for_retire(moving: House) -> None:
    moving.installation.former_ca_key.unlink()
    with pytest.raises(KeybrokerError, match="is not here") as caught:
        rollover.renew_server(moving.broker, moving.installation, "root")
    assert "ca retire" in str(caught.value.hint)


@pytest.mark.parametrize("cut", ["server", "key"])
def test_a_retirement_that_was_cut_goes_on_and_leaves_no_key(moving: House, cut: str) -> None:
    files = moving.installation
    bundle, kept = files.ca_certificate.read_bytes(), files.former_ca_key.read_bytes()
    assert rollover.retire(moving.broker, files, "root", force=True)
    files.ca_certificate.unlink()
    files.ca_certificate.write_bytes(bundle)
    files.ca_certificate.chmod(0o444)
    if cut == "server":
        files.former_ca_key.write_bytes(kept)
        files.former_ca_key.chmod(0o400)
    moving.broker.close()
    moving.broker = open_broker(files, clock=moving.clock, entropy=moving.random.randbytes)
    assert rollover.retire(moving.broker, files, "root", force=True)
    assert not files.former_ca_key.exists()
    assert len(x509.load_pem_x509_certificates(files.ca_certificate.read_bytes())) == 1
