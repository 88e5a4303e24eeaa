"""Rotates the master key of an installation again and again, until it is killed.

    python -m tests.contract.rotating ROOT

Prints ``begun`` once it has its broker open, and ``done`` after each rotation that came to its end. Each one
takes a new key file, has it wrap, renews every add-on's key, rewraps everything, and forgets all keys before;
a run that follows a kill goes on with whatever it finds.
"""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from keybroker.policy import Peer
from keybroker.service import masters, rewrap
from keybroker.service.broker import Broker
from keybroker.service.installation import open_broker
from keybroker.wire.names import Identity
from tests.contract.broker_house import TRUST_DOMAIN, fingerprint, installation


def uris(root: Path) -> tuple[str, ...]:
    """Return the master keys that are there, as the configuration of the next run."""
    return tuple(f"file:{path}" for path in sorted((root / "etc").glob("master*.key")))


def opened(root: Path) -> Broker:
    """Open the broker with every master key that is there."""
    place = replace(installation(root), master_keys=uris(root), reread=lambda: uris(root))
    return open_broker(place, clock=lambda: datetime.now(UTC), entropy=secrets.token_bytes)


def new_key(root: Path) -> str:
    """Make a master key's file, whole or not at all."""
    path = root / "etc" / f"master-{secrets.token_hex(8)}.key"
    made = path.with_suffix(".new")
    made.write_bytes(secrets.token_bytes(32))
    made.chmod(0o400)
    os.rename(made, path)
    return f"file:{path}"


def rotate_once(root: Path, broker: Broker, operator: Peer) -> None:
    """Rotate, rewrap, forget, all the way."""
    masters.rotate(broker, operator, new_key(root), compromised=True)
    outcome = rewrap.advance(broker)
    assert outcome.broken == [], outcome.broken
    wraps = broker.masterkey.identity
    for row in broker.store.read(lambda reading: reading.master_keys()):
        if row.identity != wraps and row.state != "forgotten":
            masters.forget(broker, operator, row.identity, backups_gone=True)


def main() -> None:
    """Rotate until somebody ends it."""
    root = Path(sys.argv[1])
    certificate = (root / "etc/operators/alice.crt").read_text()
    operator = Peer(Identity(TRUST_DOMAIN, "operator", "alice"), fingerprint(certificate), "192.0.2.9")
    broker = opened(root)
    os.write(1, b"begun\n")
    while True:
        rotate_once(root, broker, operator)
        os.write(1, b"done\n")


if __name__ == "__main__":
    main()
