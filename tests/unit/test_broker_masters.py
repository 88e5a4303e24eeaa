"""Which master keys a broker starts with, and which ones make it refuse."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from keybroker.envelope import ENTROPY_BYTES, Context, EnvelopeError, Failure, Purpose
from keybroker.masterkey import LocalMasterKey, Ring, open_master_key
from keybroker.service.installation import open_broker
from keybroker.service.masters import new_master_key_row
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from tests.contract.broker_house import House

PLACE = Context("shop-db", "", "", 1, Purpose.ADDON_KEY)


def new_file(house: House, name: str = "master-2.key") -> str:
    """Make a master key's file beside the first; return its URI."""
    path = house.root / "etc" / name
    path.write_bytes(os.urandom(32))
    path.chmod(0o400)
    return f"file:{path}"


def configure(house: House, *uris: str) -> None:
    house.installation = replace(house.installation, master_keys=uris)


def take(house: House, uri: str) -> str:
    """Have a master key wrap, in the table alone; return its identity."""
    key = open_master_key(uri, None)
    row = new_master_key_row(key, uri, os.urandom, house.clock() + timedelta(days=1))
    house.broker.store.write(lambda writing: writing.put_master_key(row))
    return key.identity


def refused(house: House) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        open_broker(house.installation, clock=house.clock, entropy=os.urandom)
    assert caught.value.problem is Problem.CONFIGURATION
    return caught.value


def test_with_two_master_keys_the_newest_in_the_table_wraps_and_both_unwrap(house: House) -> None:
    house.addon("old-db")
    first, second = house.installation.master_keys[0], new_file(house)
    identity = take(house, second)
    for order in ((second, first), (first, second)):
        configure(house, *order)
        house.reopen()
        assert house.broker.masterkey.identity == identity
        assert len(house.broker.masterkey.identities) == 2
    house.addon("new-db")
    assert house.broker.store.read(lambda reading: reading.wrapped_by_masters())[identity] == 1
    for addon in ("old-db", "new-db"):
        house.volume(addon)


def test_a_configured_key_that_is_in_no_use_yet_does_not_keep_it_from_starting(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    configure(house, new_file(house), *house.installation.master_keys)
    house.reopen()
    assert len(house.broker.masterkey.identities) == 1
    assert "is configured and not in use" in caplog.text


def test_without_a_master_key_that_the_database_needs_it_does_not_start(house: House) -> None:
    first, second = house.installation.master_keys[0], new_file(house)
    identity = take(house, second)
    house.broker.close()
    configure(house, first)
    error = refused(house)
    assert f"master key {identity}, which was {second}, is not configured" in error.detail
    assert first in error.detail
    configure(house, second)
    assert first in refused(house).detail
    configure(house, second, first)
    house.broker = house.open()


def test_a_ring_unwraps_with_the_key_that_a_blob_names_and_tries_no_other() -> None:
    one, other = (LocalMasterKey(Secret(os.urandom(32))) for _ in range(2))
    ring = Ring([one], one.identity)
    secret = Secret(os.urandom(32))
    before = ring.wrap(secret, PLACE, os.urandom(ENTROPY_BYTES))
    ring.replace([one, other], other.identity)
    after = ring.wrap(secret, PLACE, os.urandom(ENTROPY_BYTES))
    assert ring.unwrap(before, PLACE) == ring.unwrap(after, PLACE) == secret
    ring.replace([other], other.identity)
    for blob in (before, b"", b"KBE1", os.urandom(200)):
        with pytest.raises(EnvelopeError) as caught:
            ring.unwrap(blob, PLACE)
        assert caught.value.failure in (Failure.NO_KEY, Failure.HEADER)
    with pytest.raises(ValueError, match="not on the ring"):
        ring.replace([one], other.identity)


def test_a_key_file_under_another_path_is_the_same_master_key(house: House, tmp_path: Path) -> None:
    copy = tmp_path / "copy.key"
    copy.write_bytes((house.root / "etc/master.key").read_bytes())
    copy.chmod(0o400)
    configure(house, f"file:{copy}")
    house.reopen()
