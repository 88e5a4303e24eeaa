"""What an agent says of its volumes between boots, and what it is told in return.

    agent ── POST /v1/report: what is open, what is going on and why, what comes next, proofs ──▶ broker
    agent ◀── the records, with what is wanted of each; when to ask again ── broker

The last report wins; nothing is decided on a report alone. A report carries no key and brings none.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, cast

from keybroker.wire import names
from keybroker.wire.fields import Fields
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import Problem
from keybroker.wire.proof import GivenProof
from keybroker.wire.receipt import Receipt, given, taken
from keybroker.wire.records import Record, Refusal
from keybroker.wire.recovery import CIPHERTEXT, DIGEST, LONGEST
from keybroker.wire.values import dataclass

Openness = Literal["open", "crypt", "closed", "absent", "foreign"]
OPENNESS: Final = frozenset({"open", "crypt", "closed", "absent", "foreign"})
"""``crypt``: the dm-crypt device alone; ``absent``: no such disk; ``foreign``: its name is taken."""

_STEP: Final = re.compile(r"[A-Za-z]{1,32}")
_MOST_TEXT: Final = 500


@dataclass(frozen=True, slots=True)
class Progress:
    """How far long work is; sizes in bytes, time in seconds.

    Attributes:
        rate: bytes a second, lately; 0 while it is not known.
        seconds_left: None while it cannot be told.
    """

    done: int
    total: int
    rate: int = 0
    seconds_left: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"done": self.done, "total": self.total, "rate": self.rate, "seconds_left": self.seconds_left}

    @classmethod
    def read(cls, fields: Fields) -> Progress:
        """Read the wire form (MALFORMED otherwise)."""
        progress = cls(
            done=fields.number("done"),
            total=fields.number("total"),
            rate=fields.number("rate"),
            seconds_left=fields.optional("seconds_left", fields.number),
        )
        if progress.done > progress.total:
            raise fields.wrong("done", "must not be more than total")
        fields.end()
        return progress


@dataclass(frozen=True, slots=True)
class Activity:
    """What is going on with a volume.

    Attributes:
        step: name of the step (``agent.plan.steps``) that is being taken, or would be next.
        why: its reason.
        then: the step that is expected after it, in words; None where that is not known.
        progress: of long work only.
    """

    step: str
    why: str
    then: str | None = None
    progress: Progress | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "step": self.step,
            "why": self.why,
            "then": self.then,
            "progress": self.progress and self.progress.as_json(),
        }

    @classmethod
    def read(cls, fields: Fields) -> Activity:
        """Read the wire form (MALFORMED otherwise)."""
        activity = cls(
            step=fields.text("step", match=_STEP),
            why=fields.text("why", most=_MOST_TEXT),
            then=fields.optional("then", lambda key: fields.text(key, most=_MOST_TEXT)),
            progress=fields.optional("progress", lambda key: Progress.read(fields.object(key))),
        )
        fields.end()
        return activity


@dataclass(frozen=True, slots=True)
class VolumeReport:
    """One volume.

    Attributes:
        opened_by: the key version that opened it; None where that is not known.
        sequence: of the header on the disk now; None where none was read.
        activity: None at rest.
        trouble: what keeps it from where it is wanted; None where nothing does.
        proof: made for this report; None where no proof was due.
        recovery: digest of the recovery ciphertext in our token; None where it carries none.
        named: highest key version that our token names for a keyslot; None where it names none.
        revision: of the record that the host knew when it looked: the broker's, unless that was set back.
        ciphertext: what ``recovery`` is the digest of, where ``named`` is newer than what the broker knows.
    """

    volume: VolumeId
    state: Openness
    opened_by: KeyVersion | None = None
    sequence: int | None = None
    activity: Activity | None = None
    trouble: Refusal | None = None
    proof: GivenProof | None = None
    recovery: str | None = None
    named: KeyVersion | None = None
    revision: int | None = None
    ciphertext: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        trouble = self.trouble and {"problem": self.trouble.problem.slug, "detail": self.trouble.detail}
        return {
            "volume": self.volume,
            "state": self.state,
            "opened_by": self.opened_by,
            "sequence": self.sequence,
            "activity": self.activity and self.activity.as_json(),
            "trouble": trouble,
            "proof": self.proof and self.proof.as_json(),
            "recovery": self.recovery,
            "named": self.named,
            "revision": self.revision,
            "ciphertext": self.ciphertext,
        }

    @classmethod
    def read(cls, fields: Fields) -> VolumeReport:
        """Read the wire form (MALFORMED otherwise)."""
        report = cls(
            volume=VolumeId(fields.text("volume", match=names.VOLUME_ID)),
            state=cast(Openness, fields.choice("state", OPENNESS)),
            opened_by=fields.optional("opened_by", lambda key: KeyVersion(fields.number(key, least=1))),
            sequence=fields.optional("sequence", fields.number),
            activity=fields.optional("activity", lambda key: Activity.read(fields.object(key))),
            trouble=fields.optional("trouble", lambda key: _trouble(fields.object(key))),
            proof=fields.optional("proof", lambda key: GivenProof.read(fields.object(key))),
            recovery=fields.optional("recovery", lambda key: fields.text(key, match=DIGEST)),
            named=fields.optional("named", lambda key: KeyVersion(fields.number(key, least=1))),
            revision=fields.optional("revision", lambda key: fields.number(key, least=1)),
            ciphertext=fields.optional(
                "ciphertext", lambda key: fields.text(key, match=CIPHERTEXT, most=LONGEST)
            ),
        )
        fields.end()
        return report


def _trouble(fields: Fields) -> Refusal:
    trouble = Refusal(Problem.named(fields.text("problem")), fields.text("detail", most=2000))
    fields.end()
    return trouble


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What a machine says of all its volumes; ``boot_id`` and the others as in ``UnlockRequest``."""

    boot_id: str
    machine_id: str
    agent_version: str
    volumes: tuple[VolumeReport, ...]
    receipt: Receipt | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "boot_id": self.boot_id,
            "machine_id": self.machine_id,
            "agent_version": self.agent_version,
            "volumes": [volume.as_json() for volume in self.volumes],
            **given(self.receipt),
        }

    @classmethod
    def read(cls, fields: Fields) -> ReportRequest:
        """Read the wire form (MALFORMED otherwise)."""
        request = cls(
            boot_id=fields.text("boot_id", match=names.UUID),
            machine_id=fields.text("machine_id", match=names.MACHINE_ID),
            agent_version=fields.text("agent_version", match=names.AGENT_VERSION),
            volumes=tuple(VolumeReport.read(each) for each in fields.objects("volumes", most=64)),
            receipt=taken(fields),
        )
        if len({each.volume for each in request.volumes}) != len(request.volumes):
            raise fields.wrong("volumes", "name a volume twice")
        fields.end()
        return request


@dataclass(frozen=True, slots=True)
class ReportReply:
    """Every volume of the host, without keys.

    Attributes:
        again_seconds: when the next report is wanted; the agent spreads itself around it.
        receipt: of the last audit record; None from a broker that gives none.
        trust: SHA-256, hex, of the CA certificates (PEM) that come with a certificate at this time; None from
            a broker that does not say. A host that has others renews at once.
    """

    records: tuple[Record, ...]
    again_seconds: int
    receipt: Receipt | None = None
    trust: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "records": [record.as_json() for record in self.records],
            "again_seconds": self.again_seconds,
            **given(self.receipt),
            **({} if self.trust is None else {"trust": self.trust}),
        }

    @classmethod
    def read(cls, fields: Fields) -> ReportReply:
        """Read the wire form (MALFORMED otherwise); a newer broker's extra fields are let go."""
        reply = cls(
            records=tuple(Record.read(each) for each in fields.objects("records", most=64)),
            again_seconds=fields.number("again_seconds", least=1, most=86400),
            receipt=fields.optional("receipt", lambda key: Receipt.read(fields.object(key), calm=True)),
            trust=fields.optional("trust", lambda key: fields.text(key, most=64)),
        )
        fields.ignore_rest()
        return reply
