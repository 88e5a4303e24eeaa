"""What is open, from which header, by which key version, since when: facts for ``status``.

What the kernel can say (devices, tables, mounts) is asked of the kernel each time. What it cannot say (which
key version opened which keyslot, and when) is written down at opening, in the runtime directory, without
any secret, and is believed only of the dm-crypt device it was written about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from agent import devicemapper, layout
from agent.mountinfo import Mounted, mounts
from agent.plan.provision import PLAINTEXT
from agent.plan.situation import Mapping
from agent.world import Mappings
from keybroker.wire import names
from keybroker.wire.fields import Fields
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Record
from keybroker.wire.values import dataclass

DIRECTORY: Final = "opened"


@dataclass(frozen=True, slots=True)
class Fact:
    """How a volume was opened.

    Attributes:
        node: ``major:minor`` of its dm-crypt device, of a plain disk of its linear one.
        version, keyslot, sequence: of the key, where it fitted, and of the header; None for swap.
        since: seconds since 1970 by the system's clock.
    """

    volume: VolumeId
    node: str
    since: int
    version: int | None = None
    keyslot: int | None = None
    sequence: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the form that ``recall`` reads."""
        return {
            "volume": self.volume,
            "node": self.node,
            "since": self.since,
            "version": self.version,
            "keyslot": self.keyslot,
            "sequence": self.sequence,
        }


def note(runtime: Path, fact: Fact) -> None:
    """Write a fact down.

    Raises:
        OSError: the runtime directory cannot be written to.
    """
    directory = runtime / DIRECTORY
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps(fact.as_json(), sort_keys=True).encode() + b"\n"
    layout.replace(directory / f"{fact.volume}.json", text, mode=0o600)


def forget(runtime: Path, volume: VolumeId) -> None:
    """Take a fact back, after the volume was closed."""
    (runtime / DIRECTORY / f"{volume}.json").unlink(missing_ok=True)


def recall(runtime: Path, volume: VolumeId, node: str) -> Fact | None:
    """Return what was written down about the dm-crypt device ``node``, None for anything else."""
    try:
        text = (runtime / DIRECTORY / f"{volume}.json").read_bytes()
        fields = Fields.parse(text)
        fact = Fact(
            volume=VolumeId(fields.text("volume", match=names.VOLUME_ID)),
            node=fields.text("node"),
            since=fields.number("since"),
            version=fields.optional("version", fields.number),
            keyslot=fields.optional("keyslot", fields.number),
            sequence=fields.optional("sequence", fields.number),
        )
    except (OSError, KeybrokerError):
        return None
    return fact if fact.volume == volume and fact.node == node else None


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """One volume, for people and for ``--json``.

    Attributes:
        state: ``open``; ``crypt`` for half-open; ``closed``; ``foreign`` where something that is not ours has
            its name.
        detail: why it is foreign, or that it is plaintext.
        device: path of the stable device; None unless it is open.
        mounted: where it is mounted now.
        fact: how it was opened, as far as that is known.
    """

    record: Record
    state: str
    detail: str
    device: str | None
    mounted: tuple[str, ...]
    fact: Fact | None

    def as_json(self) -> dict[str, Any]:
        """Return the form of ``status --json``."""
        return {
            "volume": self.record.volume,
            "name": self.record.name,
            "stage": self.record.stage,
            "role": self.record.role,
            "filesystem": self.record.filesystem,
            "state": self.state,
            "detail": self.detail,
            "plaintext": self.record.stage == "plain",
            "device": self.device,
            "mount": self.record.mount,
            "mounted": list(self.mounted),
            "luks_uuid": None if self.record.is_swap else self.record.luks_uuid,
            "key_version": self.fact and self.fact.version,
            "keyslot": self.fact and self.fact.keyslot,
            "sequence": self.fact and self.fact.sequence,
            "since": self.fact and self.fact.since,
        }


def status(records: Sequence[Record], mappings: Mappings, *, runtime: Path) -> tuple[VolumeStatus, ...]:
    """Say what is open now.

    Args:
        records: the volumes as last heard of.
        mappings: compares what is open with what was meant.
        runtime: where the facts were written down.
    """
    there, mounted = devicemapper.mapped(), mounts()
    return tuple(_status(record, mappings.look(record), there, mounted, runtime) for record in records)


def _status(
    record: Record,
    mapping: Mapping,
    there: dict[str, devicemapper.Mapped],
    mounted: tuple[Mounted, ...],
    runtime: Path,
) -> VolumeStatus:
    stable = names.swap_crypt_name(record.name) if record.is_swap else names.mapper_name(record.name)
    crypt = stable if record.is_swap else names.crypt_name(record.name, record.luks_uuid)
    if record.is_bare:
        crypt = stable  # nothing is between the name and the disk
    is_known = crypt in there and not mapping.obstacle
    return VolumeStatus(
        record=record,
        state="foreign" if mapping.obstacle else mapping.reach,
        detail=mapping.obstacle or (PLAINTEXT if record.stage == "plain" else ""),
        device=f"/dev/mapper/{stable}" if mapping.reach == "open" else None,
        mounted=tuple(
            each.point
            for each in mounted
            if record.role == "holder" and stable in there and each.node == there[stable].node
        ),
        fact=recall(runtime, record.volume, there[crypt].node) if is_known else None,
    )
