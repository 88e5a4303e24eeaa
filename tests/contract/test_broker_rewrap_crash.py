"""kill -9 at random while the master key of many volumes is rotated: no passphrase is lost, none left behind.

KEYBROKER_KILLS and KEYBROKER_VOLUMES say how many; KEYBROKER_SEED repeats a run, whose seed is printed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from keybroker.audit import verify
from keybroker.envelope import wrapped_by
from keybroker.service import rewrap
from keybroker.service.broker import Broker
from keybroker.service.keys import AddonKeys, passphrase_context
from keybroker.service.views import VolumeSpec
from keybroker.service.volumes import new_volume
from keybroker.store import Reading, Writing
from keybroker.wire.names import VolumeId
from tests.contract.broker_house import GIB, House
from tests.contract.rotating import opened

KILLS = int(os.environ.get("KEYBROKER_KILLS", "5"))
VOLUMES = int(os.environ.get("KEYBROKER_VOLUMES", "10000"))
EACH = 100
"""Volumes an add-on."""

Passphrases = dict[VolumeId, bytes]


def fill(house: House) -> None:
    for number in range(VOLUMES // EACH):
        name = f"addon-{number}"
        house.addon(name)

        def add(writing: Writing, name: str = name) -> None:
            row = writing.addon(name)
            assert row is not None
            keys = writing.addon_keys(row.name)
            for each in range(EACH):
                spec = VolumeSpec(GIB, "aes-xts-plain64", f"/srv/v{each}", "ext4")
                writing.add_volume(new_volume(house.broker, keys, row.name, f"v{each}", spec, house.clock()))

        house.broker.store.write(add)


def passphrases(broker: Broker) -> Passphrases:
    """Return every passphrase, and see on the way that each is wrapped by a key on the ring."""

    def look(reading: Reading) -> Passphrases:
        ring = broker.masterkey.identities
        assert set(reading.wrapped_by_masters()) <= ring
        found: Passphrases = {}
        keys: dict[str, AddonKeys] = {}
        ids: dict[str, set[bytes]] = {}
        for row in reading.volumes():
            volume = row.volume
            if volume.addon not in keys:
                rows = reading.addon_keys(volume.addon)
                assert {wrapped_by(each.wrapped).hex() for each in rows} <= ring
                keys[volume.addon] = AddonKeys(broker.masterkey, rows)
                ids[volume.addon] = {each.id for each in rows}
            for version, blob in row.wrapped.items():
                assert wrapped_by(blob) in ids[volume.addon]
                secret = keys[volume.addon].unwrap(blob, passphrase_context(volume, version))
                found[volume.id] = secret.reveal()
        return found

    return broker.store.read(look)


@pytest.mark.limit(300 + 20 * KILLS)
def test_kill_9_while_rotating_loses_no_passphrase_and_leaves_none_outside_the_ring(house: House) -> None:
    seed = int(os.environ.get("KEYBROKER_SEED", str(random.randrange(1 << 32))))
    print(f"KEYBROKER_SEED={seed} KEYBROKER_KILLS={KILLS} KEYBROKER_VOLUMES={VOLUMES}")
    chance = random.Random(seed)
    fill(house)
    before = passphrases(house.broker)
    assert len(before) == VOLUMES
    first = house.broker.masterkey.identity
    house.broker.close()
    command = [sys.executable, "-m", "tests.contract.rotating", str(house.root)]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as whole:
        assert whole.stdout is not None
        assert whole.stdout.readline() == b"begun\n"
        assert whole.stdout.readline() == b"done\n"
        took = time.monotonic() - began
        whole.kill()
    finished = 0
    for _ in range(KILLS):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"begun\n"
            time.sleep(chance.uniform(0, took))
            child.kill()
            finished += child.stdout.read().count(b"done\n")
        broker = opened(house.root)
        try:
            assert passphrases(broker) == before
        finally:
            broker.close()
    print(f"a rotation took {took:.1f} s; {finished} were finished between {KILLS} kills")
    broker = house.broker = opened(house.root)
    assert rewrap.advance(broker).broken == []
    assert passphrases(broker) == before
    assert first != broker.masterkey.identity
    assert set(broker.store.read(lambda reading: reading.wrapped_by_masters())) == {broker.masterkey.identity}
    assert not broker.store.read(rewrap.left).anything
    verify(broker.store.audit_records())
