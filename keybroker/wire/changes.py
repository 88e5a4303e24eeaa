"""The requests by which a volume that is in use changes; each names the state it wants.

| call | request | reply |
|---|---|---|
| PUT /v1/volumes/{id}/staged | ``StageRequest`` | ``Grant``: the staged key is among its keys |
| PUT /v1/volumes/{id}/current | ``PromoteRequest`` | ``Record`` |
| DELETE /v1/volumes/{id}/keys/{version} | – | ``Record``: the retiring key is retired |
| PUT /v1/volumes/{id}/order | ``PhaseRequest`` | ``Record``: the order has begun |
| DELETE /v1/volumes/{id}/order/{number} | – | ``Record``: the order is done |
| PUT /v1/volumes/{id}/holder | ``SwitchRequest`` | ``SwitchReply``: the successor holds the data now |
| PUT /v1/volumes/{id}/erased | ``ErasedRequest`` | ``Record`` |
| PUT /v1/volumes/{id}/adoption | ``AdoptionRequest`` | ``Record`` |

A request that is repeated changes nothing and gets the same reply; one that comes too late is a CONFLICT.
"""

from __future__ import annotations

import base64
from typing import Any

from keybroker.wire.askingboot import AskingBoot, asking_boot, named_boot
from keybroker.wire.fields import Fields
from keybroker.wire.messages import read_copy
from keybroker.wire.profile import DIGEST
from keybroker.wire.proof import GivenProof
from keybroker.wire.records import Device, Record, SeenHeader
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass


@dataclass(frozen=True, slots=True)
class StageRequest:
    """Mint the wanted key version, or hand out the one that is staged; ``boot`` as of ``ClaimRequest``."""

    revision: int
    boot: AskingBoot | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"revision": self.revision, **named_boot(self.boot)}

    @classmethod
    def read(cls, fields: Fields) -> StageRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(fields.number("revision", least=1), asking_boot(fields))
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class PromoteRequest:
    """Make the staged version current: it opened a keyslot on the disk after it was fetched anew."""

    revision: int
    proof: GivenProof

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"revision": self.revision, "proof": self.proof.as_json()}

    @classmethod
    def read(cls, fields: Fields) -> PromoteRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(fields.number("revision", least=1), GivenProof.read(fields.object("proof")))
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class PhaseRequest:
    """Say that an order begins, before the first write to the header; and then which volume key it leads to.

    Attributes:
        digest: of the new volume key, once the header has it; None before.
    """

    revision: int
    number: int
    digest: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"revision": self.revision, "number": self.number, "digest": self.digest}

    @classmethod
    def read(cls, fields: Fields) -> PhaseRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(
            revision=fields.number("revision", least=1),
            number=fields.number("number", least=1),
            digest=fields.optional("digest", lambda key: fields.text(key, match=DIGEST)),
        )
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class SwitchRequest:
    """Let the successor hold the data: the commit point of a migration, at the successor's own id.

    Attributes:
        revision: of the successor.
        holder_revision: of the volume that holds the data until now.
        compared: bytes that both disks were seen to hold alike.
        sequence: of the successor's header, which was written to after that; the broker has its copy. A
            header with a lower one is of a disk that does not have all of the data.
    """

    revision: int
    holder_revision: int
    compared: int
    sequence: int

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "revision": self.revision,
            "holder_revision": self.holder_revision,
            "compared": self.compared,
            "sequence": self.sequence,
        }

    @classmethod
    def read(cls, fields: Fields) -> SwitchRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(
            revision=fields.number("revision", least=1),
            holder_revision=fields.number("holder_revision", least=1),
            compared=fields.number("compared"),
            sequence=fields.number("sequence"),
        )
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class SwitchReply:
    """Both volumes after a Switch.

    Attributes:
        holder: the one that holds the data now.
        former: the one that held it before.
    """

    holder: Record
    former: Record

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"holder": self.holder.as_json(), "former": self.former.as_json()}

    @classmethod
    def read(cls, fields: Fields) -> SwitchReply:
        """Read the wire form (MALFORMED otherwise); a newer broker's extra fields are let go."""
        reply = cls(Record.read(fields.object("holder")), Record.read(fields.object("former")))
        fields.ignore_rest()
        return reply


@dataclass(frozen=True, slots=True)
class ErasedRequest:
    """Say that a disk has no keyslot and no header any more.

    Attributes:
        device: that was wiped.
        wiped: bytes from its start that were overwritten and read back.
        method: how, in words, for the record of destruction.
    """

    revision: int
    device: Device
    wiped: int
    method: str

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "revision": self.revision,
            "device": self.device.as_json(),
            "wiped": self.wiped,
            "method": self.method,
        }

    @classmethod
    def read(cls, fields: Fields) -> ErasedRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(
            revision=fields.number("revision", least=1),
            device=Device.read(fields.object("device")),
            wiped=fields.number("wiped"),
            method=fields.text("method", most=200),
        )
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class AdoptionRequest:
    """Say that a volume that somebody else formatted has our key in its header now, and leave its copy.

    Attributes:
        proof: that key version 1 opens the header.
    """

    revision: int
    device: Device
    header: SeenHeader
    copy: Secret
    proof: GivenProof

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "revision": self.revision,
            "device": self.device.as_json(),
            "header": self.header.as_json(),
            "copy": base64.b64encode(self.copy.reveal()).decode(),
            "proof": self.proof.as_json(),
        }

    @classmethod
    def read(cls, fields: Fields) -> AdoptionRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(
            revision=fields.number("revision", least=1),
            device=Device.read(fields.object("device")),
            header=SeenHeader.read(fields.object("header")),
            copy=read_copy(fields),
            proof=GivenProof.read(fields.object("proof")),
        )
        fields.end()
        return request
