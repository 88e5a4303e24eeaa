"""The real broker (``keybroker.service`` on SQLite), called directly: everything but the network."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keybroker.model import Volume
from keybroker.policy import Peer
from keybroker.service import (
    boot,
    endings,
    enrolment,
    installation,
    inventory,
    moving,
    orders,
    provisioning,
    reports,
    rotation,
)
from keybroker.service.broker import Broker, BrokerSettings
from keybroker.service.custody import unwrap
from keybroker.service.directory import volume_named
from keybroker.service.installation import Installation, Plan
from keybroker.service.limiter import Exhausted, Limiter
from keybroker.service.views import OrderSpec, VolumeSpec
from keybroker.store import Reading
from keybroker.wire.changes import (
    AdoptionRequest,
    ErasedRequest,
    PhaseRequest,
    PromoteRequest,
    StageRequest,
    SwitchReply,
    SwitchRequest,
)
from keybroker.wire.messages import (
    Certified,
    ClaimRequest,
    DepositRequest,
    EnrolmentRequest,
    HeaderCopy,
    ReadyRequest,
    UnlockReply,
    UnlockRequest,
)
from keybroker.wire.names import Identity, KeyVersion, VolumeId
from keybroker.wire.orders import OrderKind
from keybroker.wire.records import Grant, Record
from keybroker.wire.reports import ReportReply, ReportRequest
from keybroker.wire.secret import Secret

DOMAIN = "test.example"
ADDON = "shop-db"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A volume to be declared."""

    name: str
    size_bytes: int
    filesystem: str = "ext4"
    mount: str | None = None


class ServiceBroker:
    """A whole installation in a directory, with one add-on and one enrolled host, as which it is called.

    Attributes:
        records: the volumes as the host was told when it enrolled.
        requests: what unlock was told, call by call.
        ahead: how far the broker's clock is ahead of the time: a test lets time pass with it.
        directory: what it was installed in.
    """

    def __init__(self, directory: Path, *wanted: Wanted) -> None:
        self.ahead = timedelta()
        self.directory = directory
        self.broker = _install(directory, lambda: datetime.now(UTC) + self.ahead)
        self.operator = _operator("ada", directory / "config/operators/ada.crt")
        self.requests: list[UnlockRequest] = []
        inventory.put_addon(self.broker, self.operator, ADDON, "postgresql")
        for each in wanted:
            spec = VolumeSpec(each.size_bytes, "aes-xts-plain64", each.mount, each.filesystem)
            inventory.put_volume(self.broker, self.operator, ADDON, each.name, spec)
        certified = self._enrol()
        self.records = certified.records
        leaf = x509.load_pem_x509_certificate(certified.certificate.encode())
        self.host = certified.host
        self.peer = Peer(Identity(DOMAIN, "host", certified.host), _fingerprint(leaf), "192.0.2.7")

    def unlock(self, request: UnlockRequest) -> UnlockReply:
        self.requests.append(request)
        return boot.unlock(self.broker, self.peer, request)

    def claim(self, volume: VolumeId, request: ClaimRequest) -> Grant:
        return provisioning.claim(self.broker, self.peer, volume, request)

    def deposit(self, volume: VolumeId, request: DepositRequest) -> Record:
        return provisioning.deposit(self.broker, self.peer, volume, request)

    def header_copy(self, volume: VolumeId) -> HeaderCopy:
        return provisioning.header_copy(self.broker, self.peer, volume)

    def ready(self, volume: VolumeId, request: ReadyRequest) -> Record:
        return provisioning.ready(self.broker, self.peer, volume, request)

    def report(self, request: ReportRequest) -> ReportReply:
        return reports.report(self.broker, self.peer, request)

    def stage(self, volume: VolumeId, request: StageRequest) -> Grant:
        return rotation.stage(self.broker, self.peer, volume, request)

    def promote(self, volume: VolumeId, request: PromoteRequest) -> Record:
        return rotation.promote(self.broker, self.peer, volume, request)

    def retire(self, volume: VolumeId, version: KeyVersion) -> Record:
        return rotation.retire(self.broker, self.peer, volume, version)

    def announce(self, volume: VolumeId, request: PhaseRequest) -> Record:
        return orders.announce(self.broker, self.peer, volume, request)

    def finish(self, volume: VolumeId, order: int) -> Record:
        return orders.finish(self.broker, self.peer, volume, order)

    def switch(self, volume: VolumeId, request: SwitchRequest) -> SwitchReply:
        return moving.switch(self.broker, self.peer, volume, request)

    def erased(self, volume: VolumeId, request: ErasedRequest) -> Record:
        return moving.erased(self.broker, self.peer, volume, request)

    def adopt(self, volume: VolumeId, request: AdoptionRequest) -> Record:
        return rotation.adopt(self.broker, self.peer, volume, request)

    # what an operator does

    def rotate(self, name: str = "data", *, compromised: bool = False) -> Record:
        """Ask for a new key of the volume of that name."""
        view, _ = orders.rotate(self.broker, self.operator, ADDON, name, compromised=compromised)
        return view.record

    def order(self, name: str = "data", kind: OrderKind = "reencrypt", **options: Any) -> Record:
        """Order something; options as ``OrderSpec`` has them: rate, at_boot, offline, size_bytes, serial …"""
        view, _ = orders.order(self.broker, self.operator, ADDON, name, OrderSpec(kind, **options))
        return view.record

    def cancel(self, name: str = "data") -> Record:
        """Take the open order back."""
        return orders.cancel(self.broker, self.operator, ADDON, name)[0].record

    def declare(self, name: str, size_bytes: int, **options: Any) -> Record:
        """Declare a volume later on; options as ``VolumeSpec`` has them (mount, filesystem, origin …)."""
        values = {"cipher": "aes-xts-plain64", "mount": None, "filesystem": "ext4", **options}
        spec = VolumeSpec(size_bytes, **values)
        return inventory.put_volume(self.broker, self.operator, ADDON, name, spec)[0].record

    def record(self, volume: VolumeId | str) -> Record:
        """Return a volume's record as it is now, by its id or, of the holder, by its name."""
        row = self.broker.store.read(
            lambda reading: (
                reading.volume(volume) if volume.startswith("kbv-") else volume_named(reading, ADDON, volume)
            )
        )
        assert row is not None
        return row.volume.record

    def volume(self, name: str = "data") -> Volume:
        """Return all that the broker keeps of a volume, its keyring among it."""
        return self.broker.store.read(lambda reading: volume_named(reading, ADDON, name)).volume

    def keys(self, volume: VolumeId) -> dict[KeyVersion, Secret]:
        """Return every key that the broker still has of a volume: what a test may try on a disk."""

        def unwrapped(reading: Reading) -> dict[KeyVersion, Secret]:
            row = reading.volume(volume)
            assert row is not None
            return unwrap(self.broker, reading, row, row.wrapped)

        return self.broker.store.read(unwrapped)

    def audit(self) -> list[tuple[str, str, str | None]]:
        """Return verb, outcome and volume of every audit record."""
        return [(entry.verb, entry.outcome, entry.volume) for entry in self.broker.store.audit_records()]

    def sweep(self) -> tuple[tuple[VolumeId, KeyVersion], ...]:
        """Destroy what is due by ``clock``."""
        return endings.sweep(self.broker)

    def save(self, to: Path) -> None:
        """Back the database up to a file that is not there yet."""
        _copy_database(self.directory / "state/keybroker.db", to)

    def set_back(self, saved: Path) -> None:
        """Restore a backup; the clock goes on."""
        _copy_database(saved, self.directory / "state/keybroker.db")

    def close(self) -> None:
        self.broker.close()

    def _enrol(self) -> Certified:
        invitation = inventory.invite(self.broker, self.operator, ADDON)
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = csr.public_bytes(serialization.Encoding.PEM).decode()
        return enrolment.enrol(self.broker, "192.0.2.7", EnrolmentRequest(invitation.token, pem))


def installation_of(directory: Path) -> Installation:
    """Return where the parts of a broker in a directory are."""
    config, state = directory / "config", directory / "state"
    return Installation(
        ca_certificate=config / "ca.crt",
        ca_key=config / "ca.key",
        server_certificate=config / "server.crt",
        server_key=config / "server.key",
        database=state / "keybroker.db",
        master_keys=(f"file:{config}/master.key",),
        configuration=config / "keybroker.toml",
        settings=BrokerSettings(DOMAIN, ("https://broker.test.example:8443",)),
    )


def _install(directory: Path, clock: Callable[[], datetime]) -> Broker:
    config, state = directory / "config", directory / "state"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    plan = Plan(
        config_directory=config,
        state_directory=state,
        trust_domain=DOMAIN,
        server_names=("broker.test.example",),
        server_addresses=(),
        operator="ada",
        configuration="",
        master_key=f"file:{config}/master.key",
    )
    installation.create(plan, clock=clock, entropy=os.urandom)
    whole = installation_of(directory)
    opened = installation.open_broker(whole, clock=clock, entropy=os.urandom)
    return replace(opened, limiter=Unlimited())


class Unlimited(Limiter):
    """Lets a host ask as often as a model of it does: a minute of a test is a year of a machine."""

    def draw(self, rates: Mapping[str, int], now: float) -> Exhausted | None:
        return None


def _copy_database(source: Path, target: Path) -> None:
    """Copy a database whole and consistent, whatever its log beside it holds (sqlite3_backup_init)."""
    with closing(sqlite3.connect(source)) as held, closing(sqlite3.connect(target)) as copied:
        held.backup(copied)


def _operator(name: str, certificate: Path) -> Peer:
    leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    return Peer(Identity(DOMAIN, "operator", name), _fingerprint(leaf), "local")


def _fingerprint(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
