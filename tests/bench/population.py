"""A store with as many add-ons as wanted: copies of one that the API made, each with its own keys.

Each has one host and one volume that is ready. Rows are copied with other names, so that columns which are
added later come along; what is wrapped is wrapped anew for its place, so that each key opens.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from keybroker.envelope import ENTROPY_BYTES, Context, Purpose, WrappingKey, seal
from keybroker.masterkey import open_master_key
from keybroker.wire.secret import Secret
from tests.tls.forging import Signer, name, private_pem
from tests.tls.running import BOOT, MACHINE, Broker, Host, device, header

_BATCH: Final = 5000
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Template:
    """What is copied, by table, and what was made of it through the API."""

    host: Host
    volume: dict[str, Any]
    rows: dict[str, Row]


@dataclass(frozen=True, slots=True)
class Agent:
    """One host that may boot: what it shows, and its request."""

    certificate: str
    request: bytes


def template(broker: Broker) -> Template:
    """Take one volume all the way to ready, and stop the broker."""
    broker.add_addon("shop")
    broker.change_policy("shop", rate=0, addon_rate=0)
    volume = broker.add_volume("shop", "data")
    host = broker.enrol("shop")
    broker.make_ready(host, volume)
    assert broker.stop() == 0
    rows = {}
    with closing(sqlite3.connect(broker.database)) as database:
        database.row_factory = sqlite3.Row
        for table, column, value in (
            ("addons", "name", "shop"),
            ("policies", "addon", "shop"),
            ("addon_keys", "addon", "shop"),
            ("hosts", "id", host.id),
            ("certificates", "host", host.id),
            ("volumes", "id", volume["volume"]),
            ("keys", "volume", volume["volume"]),
        ):
            (found,) = database.execute(f"SELECT * FROM {table} WHERE {column} = ?", (value,)).fetchall()  # noqa: S608
            rows[table] = dict(found)
    return Template(host, volume, rows)


def grow(
    broker: Broker, made: Template, numbers: range, certify: Callable[[int, str], Row] | None = None
) -> None:
    """Add a copy of the template for each number, while the broker is stopped.

    Args:
        certify: makes what differs in a host's certificate's row, by number and host; without it the host
            has one that nobody can show.
    """
    master = open_master_key(f"file:{broker.config.parent / 'master.key'}", None)
    with closing(sqlite3.connect(broker.database, isolation_level=None)) as database:
        # of a database for measurements only: it is thrown away
        for pragma in ("synchronous=OFF", "cache_size=-400000", "foreign_keys=OFF", "secure_delete=OFF"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("BEGIN")
        for first in range(numbers.start, numbers.stop, _BATCH):
            batch: dict[str, list[Row]] = {table: [] for table in made.rows}
            for number in range(first, min(numbers.stop, first + _BATCH)):
                for table, row in _copies(made, number, master, certify or _nobodys):
                    batch[table].append(row)
            for table, rows in batch.items():
                columns = ", ".join(f'"{column}"' for column in rows[0])
                places = ", ".join(f":{column}" for column in rows[0])
                database.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)  # noqa: S608
        database.execute("COMMIT")
        database.execute("ANALYZE")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def label(number: int) -> str:
    """Return twelve letters that no other number has, in no order that an index would like."""
    scattered = number * 0x9E3779B97F4A7C15 % (1 << 60)
    return "".join(_ALPHABET[scattered >> shift & 31] for shift in range(0, 60, 5))


def volume_of(made: Template, number: int) -> dict[str, Any]:
    """Return the volume with that number, as far as a host needs to know it."""
    uuid = f"{number:08x}-0000-4000-8000-{number:012x}"
    return made.volume | {"volume": f"kbv-{label(number)}", "luks_uuid": uuid}


def unlocking(made: Template, number: int) -> bytes:
    """Return the body of the boot's request of that number's host, which sees its header."""
    volume = volume_of(made, number)
    seen = {
        "volume": volume["volume"], "sight": "luks2", "device": device(volume),
        "header": header(volume), "detail": "",
    }  # fmt: skip
    request = {"boot_id": BOOT, "machine_id": MACHINE, "agent_version": "0.1.0", "observations": [seen]}
    return json.dumps(request).encode()


def _copies(
    made: Template, number: int, master: Any, certify: Callable[[int, str], Row]
) -> Iterator[tuple[str, Row]]:
    letters, volume = label(number), volume_of(made, number)
    addon, host, uuid = f"shop-{letters}", f"kbh-{letters}", volume["luks_uuid"]
    rows = made.rows
    yield "addons", rows["addons"] | {"name": addon}
    yield "policies", rows["policies"] | {"addon": addon}
    key = WrappingKey(os.urandom(16), 1, Secret(os.urandom(32)))
    wrapped = master.wrap(key.key, Context(addon, "", "", 1, Purpose.ADDON_KEY), os.urandom(ENTROPY_BYTES))
    yield "addon_keys", rows["addon_keys"] | {"addon": addon, "id": key.id, "wrapped": wrapped}
    yield "hosts", rows["hosts"] | {"id": host, "addon": addon}
    yield "certificates", rows["certificates"] | {"host": host} | certify(number, host)
    pin = json.loads(rows["volumes"]["pin"]) | {"uuid": uuid}
    yield (
        "volumes",
        rows["volumes"] | {"id": volume["volume"], "addon": addon, "luks_uuid": uuid, "pin": json.dumps(pin)},
    )
    place = Context(addon, volume["volume"], uuid, 1, Purpose.PASSPHRASE)
    passphrase = Secret(base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"="))
    sealed = seal(key, place, passphrase, os.urandom(ENTROPY_BYTES))
    yield "keys", rows["keys"] | {"volume": volume["volume"], "wrapped": sealed}


def _nobodys(_number: int, _host: str) -> Row:
    return {"fingerprint": os.urandom(32).hex(), "serial": os.urandom(19).hex()}


class Certifying:
    """Issues a certificate to each host, all with one key, and keeps them in ``directory``."""

    def __init__(self, signer: Signer, directory: Path) -> None:
        self._signer = signer
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.directory = directory
        directory.mkdir()
        (directory / "key.pem").write_bytes(private_pem(self._key))

    def __call__(self, number: int, host: str) -> Row:
        issued = self._signer.certificate
        uri = f"spiffe://test.internal/host/{host}"
        made = (
            x509.CertificateBuilder()
            .subject_name(name(host))
            .issuer_name(issued.subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(issued.not_valid_before_utc)
            .not_valid_after(issued.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._signer.key, hashes.SHA256())
        )
        pem = made.public_bytes(serialization.Encoding.PEM)
        (self.directory / f"{number}.crt").write_bytes(pem)
        return {
            "fingerprint": made.fingerprint(hashes.SHA256()).hex(),
            "serial": f"{made.serial_number:x}",
            "pem": pem.decode(),
        }
