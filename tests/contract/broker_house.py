"""A whole broker in a temporary directory, as ``keybroker init`` makes it, with a clock that tests set."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from keybroker.ca import new_key
from keybroker.policy import Peer
from keybroker.service import boot, enrolment, inventory, orders, provisioning, rotation
from keybroker.service.broker import Broker, BrokerSettings
from keybroker.service.custody import unwrap
from keybroker.service.installation import Created, Installation, Plan, create, open_broker
from keybroker.store import Reading
from keybroker.wire.changes import PromoteRequest, StageRequest
from keybroker.wire.messages import (
    Certified,
    ClaimRequest,
    DepositRequest,
    EnrolmentRequest,
    ReadyRequest,
    UnlockReply,
    UnlockRequest,
)
from keybroker.wire.names import HostId, Identity, KeyVersion, VolumeId
from keybroker.wire.profile import MIB, Pin
from keybroker.wire.proof import GivenProof, prove
from keybroker.wire.records import Device, Observation, Record, SeenHeader
from keybroker.wire.secret import Secret

TRUST_DOMAIN = "example.org"
GIB = 1 << 30


@dataclass
class Clock:
    """The time, which passes only when a test says so."""

    now: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


def plan(root: Path) -> Plan:
    """Return the plan of an installation in ``root``/etc and ``root``/var."""
    return Plan(
        config_directory=root / "etc",
        state_directory=root / "var",
        trust_domain=TRUST_DOMAIN,
        server_names=("broker.example.org",),
        server_addresses=("127.0.0.1",),
        operator="alice",
        configuration="# nothing\n",
        master_key=f"file:{root}/etc/master.key",
    )


def installation(root: Path) -> Installation:
    """Return where ``plan`` puts everything."""
    return Installation(
        ca_certificate=root / "etc/ca.crt",
        ca_key=root / "etc/ca.key",
        server_certificate=root / "etc/server.crt",
        server_key=root / "etc/server.key",
        database=root / "var/keybroker.db",
        master_keys=(f"file:{root}/etc/master.key",),
        settings=BrokerSettings(TRUST_DOMAIN, ("https://broker.example.org:8443",)),
        configuration=root / "etc/keybroker.toml",
    )


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of a PEM certificate's DER, hex."""
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()


def csr(key: ec.EllipticCurvePrivateKey | None = None) -> str:
    """Return a signing request in PEM, with a new key unless one is given."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key or new_key(), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@dataclass
class House:
    """A broker, its first operator, and short ways to do what tests need done."""

    root: Path
    clock: Clock = field(default_factory=Clock)
    random: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        self.created: Created = create(plan(self.root), clock=self.clock, entropy=self.random.randbytes)
        self.installation = installation(self.root)
        self.broker: Broker = self.open()
        self.operator = Peer(
            Identity(TRUST_DOMAIN, "operator", "alice"),
            fingerprint(self.created.operator_certificate.read_text()),
            "192.0.2.9",
        )

    def open(self) -> Broker:
        return open_broker(self.installation, clock=self.clock, entropy=self.random.randbytes)

    def reopen(self) -> None:
        self.broker.close()
        self.broker = self.open()

    def addon(self, name: str = "shop-db") -> None:
        inventory.put_addon(self.broker, self.operator, name, "postgresql")

    def volume(self, addon: str = "shop-db", name: str = "data", filesystem: str = "ext4") -> Record:
        mount = f"/srv/{name}" if filesystem in ("ext4", "xfs") else None
        spec = inventory.VolumeSpec(GIB, "aes-xts-plain64", mount, filesystem)
        view, _created = inventory.put_volume(self.broker, self.operator, addon, name, spec)
        return view.record

    def enrol(
        self, addon: str = "shop-db", key: ec.EllipticCurvePrivateKey | None = None
    ) -> tuple[Peer, Certified]:
        invited = inventory.invite(self.broker, self.operator, addon)
        request = EnrolmentRequest(invited.token, csr(key))
        certified = enrolment.enrol(self.broker, "192.0.2.1", request)
        return self.peer(certified.host, certified.certificate), certified

    def peer(self, host: HostId, certificate: str) -> Peer:
        return Peer(Identity(TRUST_DOMAIN, "host", host), fingerprint(certificate), "192.0.2.1")

    def unlock(self, peer: Peer, *seen: Observation) -> UnlockReply:
        return boot.unlock(self.broker, peer, request(*seen))

    def provision(self, peer: Peer, record: Record) -> Record:
        """Take a new data volume all the way to ready."""
        claimed = provisioning.claim(
            self.broker, peer, record.volume, ClaimRequest(record.revision, device(record))
        ).record
        deposited = provisioning.deposit(self.broker, peer, record.volume, deposit_request(claimed))
        return provisioning.ready(self.broker, peer, record.volume, ReadyRequest(deposited.revision))

    def record(self, volume: VolumeId) -> Record:
        """Return a volume's record as it is now."""
        row = self.broker.store.read(lambda reading: reading.volume(volume))
        assert row is not None
        return row.volume.record

    def record_named(self, name: str, addon: str = "shop-db") -> Record:
        """Return the record of the volume of that name."""
        return inventory.volume(self.broker, self.operator, addon, name).record

    def keys(self, volume: VolumeId) -> dict[KeyVersion, Secret]:
        """Return every key that the broker still has of a volume."""

        def look(reading: Reading) -> dict[KeyVersion, Secret]:
            row = reading.volume(volume)
            assert row is not None
            return unwrap(self.broker, reading, row, row.wrapped)

        return self.broker.store.read(look)

    def proof(self, volume: VolumeId, version: int, seen: SeenHeader) -> GivenProof:
        """Return the proof that a key opens a header."""
        key, number = self.keys(volume)[KeyVersion(version)], KeyVersion(version)
        digest, sequence = seen.pin.digest, seen.sequence
        made = prove(key, volume=volume, version=number, digest=digest, sequence=sequence)
        return GivenProof(number, digest, sequence, made)

    def back_up(self, peer: Peer, volume: VolumeId, seen: SeenHeader) -> Record:
        """Leave a header copy, with the proof that the current key opens it."""
        record = self.record(volume)
        assert record.current is not None
        proof = self.proof(volume, record.current, seen)
        copy = Secret(b"KBH1 copy %d" % seen.sequence)
        return provisioning.deposit(
            self.broker, peer, volume, DepositRequest(record.revision, seen, copy, proof)
        )

    def rotated(self, peer: Peer, volume: VolumeId, sequence: int) -> Record:
        """Have a ready volume's key rotated, all the way; its header is at ``sequence`` afterwards."""
        record = self.record(volume)
        orders.rotate(self.broker, self.operator, record.addon, record.name)
        revision = self.record(volume).revision
        grant = rotation.stage(self.broker, peer, volume, StageRequest(revision))
        assert grant.record.staged is not None
        assert record.pin is not None
        retiring = grant.record.current
        assert retiring is not None
        between = SeenHeader(record.pin, sequence - 1)
        proof = self.proof(volume, grant.record.staged, between)
        revision = self.back_up(peer, volume, between).revision
        rotation.promote(self.broker, peer, volume, PromoteRequest(revision, proof))
        self.back_up(peer, volume, SeenHeader(record.pin, sequence))
        return rotation.retire(self.broker, peer, volume, retiring)

    def audit(self) -> list[tuple[str, str, str | None]]:
        """Return verb, outcome and volume of every audit record."""
        entries = self.broker.store.audit_records()
        return [(entry.verb, entry.outcome, entry.volume) for entry in entries]


def device(record: Record) -> Device:
    """Return the very device that a volume is meant for."""
    return Device(record.serial, record.size_bytes)


def header(record: Record, sequence: int = 3) -> SeenHeader:
    """Return a header that fits a volume; always the same one."""
    return SeenHeader(Pin(record.luks_uuid, "sha256:" + "ab" * 32, 4 * MIB, 4096), sequence)


def deposit_request(record: Record) -> DepositRequest:
    """Return the deposit of that header."""
    return DepositRequest(record.revision, header(record), Secret(b"KBH1 header copy"))


def blank(record: Record) -> Observation:
    """Return the sight of the volume's own device, blank."""
    return Observation(record.volume, "blank", device(record))


def luks2(record: Record, **changes: object) -> Observation:
    """Return the sight of the volume's own device with its own header, but for ``changes``."""
    seen = replace(header(record), **changes)  # type: ignore[arg-type]
    return Observation(record.volume, "luks2", device(record), seen)


def request(*seen: Observation) -> UnlockRequest:
    """Return a boot's request."""
    return UnlockRequest("00000000-0000-4000-8000-000000000000", "0" * 32, "0.1.0", seen)
