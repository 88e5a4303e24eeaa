"""Inside User-Mode Linux: what re-encrypting through the agent costs against bare cryptsetup.

    python -m tests.bench.reencrypting FILE

Both in turn, several times, on one mounted volume that nobody writes to meanwhile; to FILE goes the best
time of each, in seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from agent.change.reencryption import MachineReencryption
from agent.change.workshop import Workshop
from agent.driver import Driver
from agent.luks.header import read_header
from agent.luks.midway import new_digest
from agent.places import Places
from keybroker.wire.names import KeyVersion, crypt_name
from keybroker.wire.orders import Order
from keybroker.wire.profile import MIB
from keybroker.wire.records import Record
from keybroker.wire.values import replace
from tests.crash.memory_broker import MemoryBroker
from tests.crash.volumes import key_of, record
from tests.kernel.disks import image, loop
from tests.kernel.voyage import BOOT, workshop

ROUNDS: Final = 4
SIZE: Final = 260 * MIB
ONE: Final = KeyVersion(1)


def main(file: Path) -> None:
    """Measure both, and write it down."""
    best = {"bare": float("inf"), "agent": float("inf")}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        new = record(size=SIZE, mount=str(directory / "data"))
        broker = MemoryBroker([new])
        with loop(image(directory / "disk", SIZE)) as device:
            places = Places({new.volume: device})
            shop = workshop(broker, places, directory / "run")
            (outcome,) = Driver(shop.world, BOOT).unlock((new,)).outcomes
            assert outcome.error is None, outcome.error
            (directory / "key").write_bytes(key_of("data").reveal())
            kept = broker.records[new.volume]
            for _ in range(ROUNDS):
                for who in best:
                    kept, seconds = once(who, kept, shop, places, directory, device)
                    best[who] = min(best[who], seconds)
            subprocess.run(["umount", directory / "data"], check=True)
            for mapped in ("kb-data", crypt_name(new.name, new.luks_uuid)):
                subprocess.run(["dmsetup", "remove", mapped], check=True)
    file.write_text(json.dumps(best))


def once(
    who: str, kept: Record, shop: Workshop, places: Places, directory: Path, device: Path
) -> tuple[Record, float]:
    """Begin a re-encryption, and measure the rest of it; return the record with the new pin."""
    reencryption = MachineReencryption(places, directory / "run")
    keys = {ONE: key_of("data")}
    begun = replace(kept, order=Order(1, "reencrypt", "begun"))
    reencryption.begin(begun, keys, by=ONE)
    header = read_header(lambda at, length: _read(device, at, length), SIZE)
    begun = replace(begun, order=Order(1, "reencrypt", "begun", digest=new_digest(header)))
    started = time.monotonic()
    if who == "agent":
        reencryption.run(begun, keys, by=ONE, progress=lambda progress: None)
    else:
        subprocess.run(
            ["cryptsetup", "reencrypt", "-q", "--resume-only", "--key-file", directory / "key",
             "--active-name", crypt_name(kept.name, kept.luks_uuid)],
            check=True, capture_output=True,
        )  # fmt: skip
    seconds = time.monotonic() - started
    after = read_header(lambda at, length: _read(device, at, length), SIZE)
    (slot,) = after.keyslots
    shop.headers.tag(begun, {slot: ONE})
    return replace(kept, pin=after.pin), seconds


def _read(device: Path, at: int, length: int) -> bytes:
    with device.open("rb") as file:
        file.seek(at)
        return file.read(length)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
