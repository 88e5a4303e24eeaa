"""What stands when everything is over, as operators and hosts are shown it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from keybroker.wire.messages import UnlockRequest
from tests.failover.clients import Operator, Site, enrol, fingerprint, receipt_of
from tests.failover.history import End, Entry, Standing
from tests.failover.load import Life


def gathered(site: Site, operator: Operator, lives: list[Life]) -> End:
    """Ask for everything there is; each add-on gets one more host, which is shown the keys."""
    keys = {volume: shown for life in lives for volume, shown in _handed_out(site, life).items()}
    volumes = {
        said["volume"]: Standing(
            stage=said["stage"],
            revision=said["revision"],
            current=said["current"],
            deleted=said["deletion"] is not None,
            ordered=said["order"] is not None,
            keys=keys.get(said["volume"], {}),
        )
        for said in operator.look("volumes")["volumes"]
    }
    hosts = operator.look("hosts")["hosts"]
    return End(
        volumes=volumes,
        hosts={said["host"]: said["state"] == "revoked" for said in hosts},
        invited=Counter(said["addon"] for said in hosts),
        trail=tuple(_entry(said) for said in _trail(operator)),
    )


def _handed_out(site: Site, life: Life) -> dict[str, dict[int, str]]:
    host = enrol(site, life.operator, life.addon, life.number)
    seen = tuple(disk.seen() for disk in life.disks)
    request = UnlockRequest(host.boot.boot_id, host.boot.machine_id, "0.1.0", seen)
    reply = host.client.unlock(request)
    return {
        grant.record.volume: {int(version): fingerprint(key) for version, key in grant.keys.items()}
        for grant in reply.grants
    }


def _trail(operator: Operator) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    page = operator.look("audit", limit=1000)
    while page["audit"]:
        records += page["audit"]
        page = operator.look("audit", after=page["through"], limit=1000)
    return records


def _entry(said: dict[str, Any]) -> Entry:
    detail = said["detail"]
    facts: dict[str, Any] = json.loads(detail) if isinstance(detail, str) else detail
    # a stage's record names the version as what is staged
    version = facts.get("version", facts.get("staged"))
    return Entry(
        receipt=receipt_of(said),
        verb=said["verb"],
        outcome=said["outcome"],
        volume=said["volume"],
        host=said["host"],
        revision=facts.get("revision"),
        version=version,
    )
