"""The real broker (``keybroker.service`` on SQLite), called directly: everything but the network."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keybroker.policy import Peer
from keybroker.service import boot, enrolment, installation, inventory, provisioning
from keybroker.service.broker import Broker, BrokerSettings
from keybroker.service.installation import Installation, Plan
from keybroker.service.inventory import VolumeSpec
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
from keybroker.wire.names import Identity, VolumeId
from keybroker.wire.records import Grant, Record

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
    """

    def __init__(self, directory: Path, *wanted: Wanted) -> None:
        self.broker = _install(directory)
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

    def close(self) -> None:
        self.broker.close()

    def _enrol(self) -> Certified:
        invitation = inventory.invite(self.broker, self.operator, ADDON)
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = csr.public_bytes(serialization.Encoding.PEM).decode()
        return enrolment.enrol(self.broker, "192.0.2.7", EnrolmentRequest(invitation.token, pem))


def _install(directory: Path) -> Broker:
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
    installation.create(plan, clock=_now, entropy=os.urandom)
    whole = Installation(
        ca_certificate=config / "ca.crt",
        ca_key=config / "ca.key",
        server_certificate=config / "server.crt",
        server_key=config / "server.key",
        database=state / "keybroker.db",
        master_key=f"file:{config}/master.key",
        settings=BrokerSettings(DOMAIN, ("https://broker.test.example:8443",)),
    )
    return installation.open_broker(whole, clock=_now, entropy=os.urandom)


def _now() -> datetime:
    return datetime.now(UTC)


def _operator(name: str, certificate: Path) -> Peer:
    leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    return Peer(Identity(DOMAIN, "operator", name), _fingerprint(leaf), "local")


def _fingerprint(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
