"""kill -9 under load: every key that a client received has its record, and trail and checkpoints are whole.

KEYBROKER_KILLS=50 says how often; a few times are enough for every day.
"""

from __future__ import annotations

import os
import random
import secrets
import ssl
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path

import pytest

from keybroker.audit import AuditEntry
from keybroker.config import load
from keybroker.service import trail
from keybroker.service.installation import open_broker
from keybroker.verdict import Verdict
from tests.tls.running import Broker, Host, ask, install, unlock_request

KILLS = int(os.environ.get("KEYBROKER_KILLS", "6"))
CLIENTS = 4
LONGEST_SECONDS = 1.4


@dataclass(slots=True)
class Received:
    """What clients hold in their hands: boot id, volume, and the receipt that came with its key."""

    releases: list[tuple[str, str, int, str]] = field(default_factory=list)


def load_until_killed(broker: Broker, host: Host, volume: dict[str, object], received: Received) -> None:
    try:
        with broker.connect(host.files) as connection:
            while True:
                request = unlock_request(volume)
                reply = ask(connection, "POST", "/v1/unlock", request)
                assert reply.status == 200, reply.body
                (grant,) = reply.document["grants"]
                assert grant["keys"], "a reply without a key would show nothing"
                receipt = reply.document["receipt"]
                received.releases.append(
                    (request["boot_id"], grant["record"]["volume"], receipt["sequence"], receipt["hash"])
                )
    except (OSError, HTTPException, ssl.SSLError, ValueError):
        return  # killed in the middle


def proofread(broker: Broker) -> tuple[Verdict, dict[int, AuditEntry]]:
    """Check the trail as the broker left it, without a server."""
    opened = open_broker(
        load(broker.config).installation, clock=lambda: datetime.now(UTC), entropy=secrets.token_bytes
    )
    try:
        verdict = trail.proofread(opened.store)
        return verdict, {entry.sequence: entry for entry in opened.store.audit_records()}
    finally:
        opened.close()


@pytest.mark.limit(120 + 20 * KILLS)
def test_every_key_received_has_its_record_however_often_the_server_is_killed(tmp_path: Path) -> None:
    broker = install(tmp_path)
    with broker.config.open("a") as file:
        file.write("\n[audit]\ncheckpoint_records = 50\ncheckpoint_seconds = 1\n")
    broker.start()
    broker.add_addon("shop")
    free = broker.ask("PUT", "/v1/addons/shop/policy", {"rate": 0, "addon_rate": 0}, who=broker.operator)
    assert free.status == 200
    volume = broker.add_volume("shop", "data")
    host = broker.enrol("shop")
    broker.claim(host, volume)
    received, chance = Received(), random.Random(7)
    began = time.monotonic()
    for kill in range(KILLS):
        if kill:
            broker.start()
        clients = [
            threading.Thread(target=load_until_killed, args=(broker, host, volume, received))
            for _ in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        time.sleep(chance.uniform(0.1, LONGEST_SECONDS))
        broker.kill()
        for client in clients:
            client.join(20)
    verdict, entries = proofread(broker)
    for boot, of_volume, sequence, hash_ in received.releases:
        # the reply's receipt is that very record, which names the boot, the volume and the host
        entry = entries[sequence]
        assert (entry.hash, entry.verb, entry.outcome) == (hash_, "unlock", "released")
        assert (entry.volume, entry.host) == (of_volume, host.id)
        assert f'"boot":"{boot}"' in entry.detail
    assert len({sequence for _, _, sequence, _ in received.releases}) == len(received.releases)
    print(
        f"\n{KILLS} kills in {time.monotonic() - began:.0f} s: {len(received.releases)} keys received,"
        f" {verdict.records} records, {verdict.checkpoints} checkpoints: whole"
    )
    assert len(received.releases) > 20 * KILLS
    assert verdict.checkpoints >= KILLS // 2
    # and it goes on: the next graceful stop leaves nothing unsigned
    broker.start()
    assert broker.stop() == 0
    verdict, _ = proofread(broker)
    assert verdict.of().covered == verdict.of().last
