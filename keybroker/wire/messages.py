"""The requests and replies of DESIGN section 7, each with its wire form on both sides.

Requests are read strictly (an unknown field is refused); replies are read calmly (a newer broker may say
more). Every reply about a volume holds the whole record or grant.

| call | request | reply |
|---|---|---|
| GET  /v1/enrolment | – | ``EnrolmentOffer``: the CA, to be checked against the token |
| POST /v1/enrolment | ``EnrolmentRequest`` | ``Certified`` |
| POST /v1/renewal | ``RenewalRequest`` | ``Certified`` |
| POST /v1/unlock | ``UnlockRequest`` | ``UnlockReply`` |
| PUT  /v1/volumes/{id}/device | ``ClaimRequest`` | ``Grant`` |
| PUT  /v1/volumes/{id}/header | ``DepositRequest`` | ``Record`` |
| GET  /v1/volumes/{id}/header | – | ``HeaderCopy`` |
| PUT  /v1/volumes/{id}/ready | ``ReadyRequest`` | ``Record`` |
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from keybroker.wire import names
from keybroker.wire.askingboot import AskingBoot, asking_boot, named_boot
from keybroker.wire.fields import Fields
from keybroker.wire.names import AddonName, HostId
from keybroker.wire.proof import GivenProof
from keybroker.wire.receipt import Receipt, given, taken
from keybroker.wire.records import Device, Grant, Observation, Record, SeenHeader
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass

LARGEST_HEADER_COPY: Final = 4 << 20
"""In bytes; a copy of ours (metadata and one keyslot's area) is about 300 KiB."""

LARGEST_PEM: Final = 16384

TOKEN: Final = re.compile(r"kbe1\.([A-Za-z0-9_-]{32})\.([A-Za-z0-9_-]{43})")
"""``kbe1.<24 random bytes>.<SHA-256 of the CA certificate's DER>``, both unpadded base64url."""


@dataclass(frozen=True, slots=True)
class UnlockRequest:
    """A boot: which one, and what stands at each volume's place.

    Attributes:
        boot_id: /proc/sys/kernel/random/boot_id.
        machine_id: /etc/machine-id (machine-id(5)), 32 hex digits.
        observations: one a volume that the agent knows of; volumes it does not name are in the reply too,
            without keys, so that it can look at them and ask again.
        receipt: the last one that the machine was given.
    """

    boot_id: str
    machine_id: str
    agent_version: str
    observations: tuple[Observation, ...]
    receipt: Receipt | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "boot_id": self.boot_id,
            "machine_id": self.machine_id,
            "agent_version": self.agent_version,
            "observations": [seen.as_json() for seen in self.observations],
            **given(self.receipt),
        }

    @classmethod
    def read(cls, fields: Fields) -> UnlockRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(
            boot_id=fields.text("boot_id", match=names.UUID),
            machine_id=fields.text("machine_id", match=names.MACHINE_ID),
            agent_version=fields.text("agent_version", match=names.AGENT_VERSION),
            observations=tuple(Observation.read(seen) for seen in fields.objects("observations", most=64)),
            receipt=taken(fields),
        )
        fields.end()
        if len({seen.volume for seen in request.observations}) != len(request.observations):
            raise fields.wrong("observations", "name a volume twice")
        return request


@dataclass(frozen=True, slots=True)
class UnlockReply:
    """Every volume of the host.

    Attributes:
        receipt: of the audit record that was durable before this left.
    """

    host: HostId
    addon: AddonName
    grants: tuple[Grant, ...]
    receipt: Receipt

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "host": self.host,
            "addon": self.addon,
            "grants": [grant.as_json() for grant in self.grants],
            "receipt": self.receipt.as_json(),
        }

    @classmethod
    def read(cls, fields: Fields) -> UnlockReply:
        """Read the wire form (MALFORMED otherwise)."""
        reply = cls(
            host=HostId(fields.text("host", match=names.HOST_ID)),
            addon=AddonName(fields.text("addon", match=names.ADDON_NAME)),
            grants=tuple(Grant.read(grant) for grant in fields.objects("grants", most=64)),
            receipt=Receipt.read(fields.object("receipt"), calm=True),
        )
        fields.ignore_rest()
        return reply


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Ask that this blank device become the volume's; repeated for the same device it changes nothing.

    Attributes:
        boot: which boot asks; None from an agent that does not say.
    """

    revision: int
    device: Device
    boot: AskingBoot | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"revision": self.revision, "device": self.device.as_json(), **named_boot(self.boot)}

    @classmethod
    def read(cls, fields: Fields) -> ClaimRequest:
        """Read the wire form (MALFORMED otherwise)."""
        device = Device.read(fields.object("device"))
        request = cls(fields.number("revision", least=1), device, asking_boot(fields))
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class DepositRequest:
    """Give the broker the header before it touches the disk, and its copy after each change of it.

    The same header again changes nothing.

    Attributes:
        copy: the header's metadata and used keyslot areas (``agent.luks.copy`` has the format); the broker
            keeps it wrapped and does not look inside.
        proof: that the current key opens this header; asked for from ``ready`` on, None before.
    """

    revision: int
    header: SeenHeader
    copy: Secret
    proof: GivenProof | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "revision": self.revision,
            "header": self.header.as_json(),
            "copy": base64.b64encode(self.copy.reveal()).decode(),
            "proof": self.proof and self.proof.as_json(),
        }

    @classmethod
    def read(cls, fields: Fields) -> DepositRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(
            revision=fields.number("revision", least=1),
            header=SeenHeader.read(fields.object("header")),
            copy=read_copy(fields),
            proof=fields.optional("proof", lambda key: GivenProof.read(fields.object(key))),
        )
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class HeaderCopy:
    """The newest header that was deposited for a volume."""

    record: Record
    copy: Secret

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "record": self.record.as_json(),
            "copy": base64.b64encode(self.copy.reveal()).decode(),
        }

    @classmethod
    def read(cls, fields: Fields) -> HeaderCopy:
        """Read the wire form (MALFORMED otherwise)."""
        reply = cls(Record.read(fields.object("record")), read_copy(fields))
        fields.ignore_rest()
        return reply


def read_copy(fields: Fields) -> Secret:
    """Take the field ``copy``, a header copy in base64 (MALFORMED otherwise)."""
    text = fields.text("copy", most=LARGEST_HEADER_COPY * 4 // 3 + 4)
    try:
        return Secret(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise fields.wrong("copy", "must be base64") from None


@dataclass(frozen=True, slots=True)
class ReadyRequest:
    """Say that the volume is on its disk and has its filesystem; never undone, repeated it is a no-op."""

    revision: int

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"revision": self.revision}

    @classmethod
    def read(cls, fields: Fields) -> ReadyRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(fields.number("revision", least=1))
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class EnrolmentOffer:
    """The broker's CA certificate in PEM, unproven until its fingerprint is compared with the token's."""

    ca: str

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"ca": self.ca}

    @classmethod
    def read(cls, fields: Fields) -> EnrolmentOffer:
        """Read the wire form (MALFORMED otherwise)."""
        offer = cls(fields.text("ca", most=LARGEST_PEM))
        fields.ignore_rest()
        return offer


@dataclass(frozen=True, slots=True)
class EnrolmentRequest:
    """A one-time token, and a PEM certificate signing request made with the VM's own key (RFC 2986)."""

    token: Secret
    csr: str

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"token": self.token.reveal().decode(), "csr": self.csr}

    @classmethod
    def read(cls, fields: Fields) -> EnrolmentRequest:
        """Read the wire form (MALFORMED otherwise)."""
        token = fields.text("token", match=TOKEN)
        request = cls(Secret(token.encode()), fields.text("csr", most=LARGEST_PEM))
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class RenewalRequest:
    """A PEM certificate signing request; who asks is in the certificate of the connection."""

    csr: str

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"csr": self.csr}

    @classmethod
    def read(cls, fields: Fields) -> RenewalRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(fields.text("csr", most=LARGEST_PEM))
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class LateRenewalRequest:
    """What a host sends whose certificate has ended, so that no connection can show it.

    Attributes:
        certificate: PEM, the last one that it has: it says which host this is, and proves nothing.
        csr: PEM, made with the key of the newest certificate: its signature is the proof (RFC 2986).
    """

    certificate: str
    csr: str

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"certificate": self.certificate, "csr": self.csr}

    @classmethod
    def read(cls, fields: Fields) -> LateRenewalRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(fields.text("certificate", most=LARGEST_PEM), fields.text("csr", most=LARGEST_PEM))
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate, the CA to trust, where the brokers are, and what the host's volumes look like.

    Attributes:
        certificate: PEM, the leaf alone.
        ca: PEM, one or more certificates.
        brokers: base URLs of the main listeners, in the order to try them.
        records: the host's volumes, so that its first boot knows which disks to wait for.
        enrolment: base URLs of the enrolment listeners, where a certificate that has ended is renewed.
    """

    host: HostId
    certificate: str
    ca: str
    brokers: tuple[str, ...]
    records: tuple[Record, ...]
    enrolment: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "host": self.host,
            "certificate": self.certificate,
            "ca": self.ca,
            "brokers": list(self.brokers),
            "records": [record.as_json() for record in self.records],
            "enrolment": list(self.enrolment),
        }

    @classmethod
    def read(cls, fields: Fields) -> Certified:
        """Read the wire form (MALFORMED otherwise)."""
        reply = cls(
            host=HostId(fields.text("host", match=names.HOST_ID)),
            certificate=fields.text("certificate", most=LARGEST_PEM),
            ca=fields.text("ca", most=4 * LARGEST_PEM),
            brokers=fields.texts("brokers", most=16),
            records=tuple(Record.read(record) for record in fields.objects("records", most=64)),
            # a broker of before does not say
            enrolment=fields.optional("enrolment", lambda key: fields.texts(key, most=16)) or (),
        )
        fields.ignore_rest()
        return reply
