"""The offline recovery key at the broker: what is encrypted to it, who sets it, how it is proven."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from sqlalchemy import text

from keybroker import age
from keybroker.service import orders, recovery
from keybroker.service.founding import create
from keybroker.service.installation import open_broker
from keybroker.service.recovery import RecoveryView
from keybroker.service.views import OrderSpec
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.recovery import CIPHERTEXT, Recovery, prove
from keybroker.wire.secret import Secret
from keybroker.wire.values import replace as changed
from tests.contract.broker_house import Clock, House, installation, plan


@pytest.fixture
def identity() -> pyrage.x25519.Identity:
    return pyrage.x25519.Identity.generate()


def set_key(house: House, *identities: pyrage.x25519.Identity) -> recovery.RecoveryKeyView:
    recipients = [str(each.to_public()) for each in identities]
    view, _ = recovery.set_key(house.broker, house.operator, recipients)
    while recovery.renew(house.broker, house.operator)[1]:
        pass
    return view


def opened(house: House, volume: VolumeId, identity: pyrage.x25519.Identity) -> tuple[KeyVersion, Secret]:
    """Return what the offline key finds in the record's ciphertext."""
    sealed = house.record(volume).recovery
    assert sealed is not None
    assert CIPHERTEXT.fullmatch(sealed.ciphertext)
    return sealed.version, Secret(pyrage.decrypt(base64.b64decode(sealed.ciphertext), [identity]))


def refused(call: Callable[[], object]) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        call()
    return caught.value


def test_without_a_recovery_key_nothing_is_encrypted_to_anybody(house: House) -> None:
    house.addon()
    assert house.volume().recovery is None
    assert recovery.show(house.broker, house.operator).number == 0
    assert recovery.renew(house.broker, house.operator) == (0, 0)
    assert recovery.renew_all(house.broker) == 0


def test_each_key_is_encrypted_to_it_when_it_is_minted(
    house: House, identity: pyrage.x25519.Identity
) -> None:
    set_key(house, identity)
    house.addon()
    peer, _ = house.enrol()
    volume = house.provision(peer, house.volume()).volume
    assert opened(house, volume, identity) == (1, house.keys(volume)[KeyVersion(1)])
    house.rotated(peer, volume, 12)
    assert opened(house, volume, identity) == (2, house.keys(volume)[KeyVersion(2)])


def test_a_migrations_successor_has_its_own(house: House, identity: pyrage.x25519.Identity) -> None:
    set_key(house, identity)
    house.addon()
    peer, _ = house.enrol()
    record = house.provision(peer, house.volume())
    view, _ = orders.order(house.broker, house.operator, "shop-db", "data", OrderSpec("migrate"))
    assert view.record.partner is not None
    assert opened(house, view.record.partner, identity)[1] == house.keys(view.record.partner)[KeyVersion(1)]
    assert house.record(view.record.partner).recovery != house.record(record.volume).recovery


def test_volumes_from_before_are_caught_up_with_and_a_second_call_finds_nothing_left(
    house: House, identity: pyrage.x25519.Identity
) -> None:
    house.addon()
    volumes = [house.volume(name=f"data{i}").volume for i in range(3)]
    revision = house.record(volumes[0]).revision
    recipients = [str(identity.to_public())]
    view, is_new = recovery.set_key(house.broker, house.operator, recipients)
    assert (is_new, view.number, view.waiting) == (True, 1, 3)
    assert recovery.renew_all(house.broker) == 3
    for volume in volumes:
        assert opened(house, volume, identity)[1] == house.keys(volume)[KeyVersion(1)]
        assert house.record(volume).revision == revision
    view, is_new = recovery.set_key(house.broker, house.operator, recipients)
    assert (is_new, view.number, view.waiting) == (False, 1, 0)
    assert recovery.renew(house.broker, house.operator) == (0, 0)


def test_another_recovery_key_takes_the_place_of_the_one_before(
    house: House, identity: pyrage.x25519.Identity
) -> None:
    house.addon()
    volume = house.volume().volume
    set_key(house, identity)
    second = pyrage.x25519.Identity.generate()
    assert set_key(house, second).number == 2
    assert opened(house, volume, second)[1] == house.keys(volume)[KeyVersion(1)]
    with pytest.raises(pyrage.DecryptError):
        opened(house, volume, identity)


def test_of_several_recipients_each_opens_alone(house: House, identity: pyrage.x25519.Identity) -> None:
    house.addon()
    volume = house.volume().volume
    second = pyrage.x25519.Identity.generate()
    set_key(house, identity, second)
    assert opened(house, volume, identity) == opened(house, volume, second)


@pytest.mark.parametrize(
    "recipients",
    [[], ["age1nonsense"], ["AGE-SECRET-KEY-1QQ"], ["ssh-ed25519 AAAA"], [""]],
)
def test_what_is_no_recipient_is_refused(house: House, recipients: list[str]) -> None:
    call = lambda: recovery.set_key(house.broker, house.operator, recipients)  # noqa: E731
    assert refused(call).problem is Problem.MALFORMED


def test_recipients_that_somebody_wrote_into_the_database_are_never_encrypted_to(
    house: House, identity: pyrage.x25519.Identity
) -> None:
    house.addon()
    set_key(house, identity)
    thief = pyrage.x25519.Identity.generate()
    with house.broker.store._engine.connect() as connection:  # type: ignore[attr-defined]
        connection.execute(text("UPDATE recovery_keys SET recipients = :to"), {"to": str(thief.to_public())})
    assert refused(lambda: house.volume(name="more")).problem is Problem.CORRUPT


def test_a_destroyed_key_takes_its_ciphertext_along(house: House, identity: pyrage.x25519.Identity) -> None:
    from keybroker.service import endings

    house.addon()
    peer, _ = house.enrol()
    volume = house.provision(peer, house.volume()).volume
    set_key(house, identity)
    house.rotated(peer, volume, 12)
    assert house.broker.store.read(lambda reading: reading.recovery(volume, KeyVersion(1))) is not None
    house.clock.forward(days=31)
    assert endings.sweep(house.broker) == ((volume, KeyVersion(1)),)
    assert house.broker.store.read(lambda reading: reading.recovery(volume, KeyVersion(1))) is None
    assert opened(house, volume, identity)[0] == 2


def check(house: House, found: Secret, sealed: Recovery) -> bool:
    volume = house.record_named("data").volume
    proof = prove(found, volume=volume, version=sealed.version, ciphertext=sealed.ciphertext)
    return recovery.check(
        house.broker, house.operator, "shop-db", "data", sealed.version, sealed.digest, proof
    )


def seen(house: House) -> RecoveryView:
    (view,) = recovery.volumes(house.broker, house.operator)
    return view


def test_a_check_with_the_right_passphrase_is_kept_and_with_another_is_on_record_only(
    house: House, identity: pyrage.x25519.Identity
) -> None:
    house.addon()
    set_key(house, identity)
    volume = house.volume().volume
    _, found = opened(house, volume, identity)
    sealed = house.record(volume).recovery
    assert sealed is not None
    assert not check(house, Secret(b"x" * 43), sealed)
    assert seen(house).checked is None
    assert check(house, found, sealed)
    checked = seen(house).checked
    assert checked is not None
    assert (checked.digest, checked.operator, checked.at) == (sealed.digest, "alice", house.clock.now)
    assert seen(house).as_json()["checked"]["current"]
    set_key(house, pyrage.x25519.Identity.generate())
    assert not seen(house).as_json()["checked"]["current"]
    assert refused(lambda: check(house, found, sealed)).problem is Problem.CONFLICT


def test_a_ciphertext_that_was_exchanged_is_found_out(house: House, identity: pyrage.x25519.Identity) -> None:
    house.addon()
    set_key(house, identity)
    volume, other = house.volume().volume, house.volume(name="other").volume
    stolen = house.record(other).recovery
    assert stolen is not None
    with house.broker.store._engine.connect() as connection:  # type: ignore[attr-defined]
        connection.execute(
            text("UPDATE recoveries SET ciphertext = :to WHERE volume = :volume"),
            {"to": stolen.ciphertext, "volume": volume},
        )
    key = house.keys(other)[KeyVersion(1)]
    assert (
        refused(lambda: check(house, key, changed(stolen, version=KeyVersion(1)))).problem is Problem.CORRUPT
    )


def test_an_installation_can_be_made_with_one(tmp_path: Path, identity: pyrage.x25519.Identity) -> None:
    from dataclasses import replace

    clock = Clock()
    recipients = (str(identity.to_public()),)
    create(replace(plan(tmp_path), recovery=recipients), clock=clock, entropy=lambda n: b"r" * n)
    broker = open_broker(installation(tmp_path), clock=clock, entropy=lambda n: b"r" * n)
    try:
        kept = broker.store.read(lambda reading: reading.recovery_key())
        assert kept is not None
        assert kept.recipients == recipients[0]
    finally:
        broker.close()


def test_identities_are_read_as_age_keygen_writes_them(
    tmp_path: Path, identity: pyrage.x25519.Identity
) -> None:
    file = tmp_path / "key"
    file.write_text(f"# created: today\n# public key: {identity.to_public()}\n{identity}\n")
    assert age.Identities.read(file).recipients() == (str(identity.to_public()),)
    for wrong in ("", "# nothing\n", "AGE-SECRET-KEY-1NONSENSE\n"):
        file.write_text(wrong)
        error = refused(lambda: age.Identities.read(file))
        assert (error.problem, "SECRET" in error.detail) == (Problem.CONFIGURATION, False)
    assert refused(lambda: age.Identities.read(tmp_path / "none")).problem is Problem.CONFIGURATION
