"""The lives of VMs: enrolled, provisioned, rotated, and then revoked, deleted or destroyed, all the time.

Each add-on has one thread that changes it, and one that only unlocks, whatever host and volume there are.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from keybroker.wire.changes import PromoteRequest, StageRequest
from keybroker.wire.messages import ClaimRequest, DepositRequest, ReadyRequest, UnlockReply, UnlockRequest
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin
from keybroker.wire.proof import GivenProof, prove
from keybroker.wire.records import Device, Observation, Record, SeenHeader
from keybroker.wire.secret import Secret
from tests.failover.clients import Enrolled, Operator, Over, Site, enrol, of_grant, of_record
from tests.tls.running import GIB

_COPY: Final = Secret(b"KBH1")
_DIGEST: Final = "sha256:" + "ab" * 32
_ROTATIONS: Final = 2
_AHEAD: Final = 100
"""A header is never older than the broker's copy for whoever only unlocks: that would bring retired keys."""


@dataclass(slots=True)
class Disk:
    """A volume's disk, as far as the broker hears of it."""

    id: VolumeId
    name: str
    uuid: str
    serial: str
    revision: int
    sequence: int = 3
    version: int = 1

    def header(self, sequence: int) -> SeenHeader:
        return SeenHeader(Pin(self.uuid, _DIGEST, 4 << 20, 4096), sequence)

    def seen(self) -> Observation:
        return Observation(self.id, "luks2", Device(self.serial, GIB), self.header(self.sequence + _AHEAD))

    def proof(self, key: Secret, version: int) -> GivenProof:
        made = prove(key, volume=self.id, version=KeyVersion(version), digest=_DIGEST, sequence=self.sequence)
        return GivenProof(KeyVersion(version), _DIGEST, self.sequence, made)


@dataclass(slots=True)
class Life:
    """One add-on with its host and its volume of the moment."""

    site: Site
    addon: str
    number: int
    operator: Operator
    approver: Operator
    disks: list[Disk] = field(default_factory=list)
    host: Enrolled | None = None
    at_work: tuple[Enrolled, Disk] | None = None

    def run(self) -> None:
        """Live until the site stops."""
        fates = itertools.cycle((self.revoke, self.delete, self.destroy))
        with contextlib.suppress(Over, KeybrokerError):  # what is wrong is in the site's troubles
            for turn in itertools.count():
                if self.site.stopping.is_set():
                    return
                host = self.host or enrol(self.site, self.operator, self.addon, self.number)
                self.host = host
                self.live(host, self.provision(host, f"v{turn}"), next(fates))
                self.at_work = None

    def live(self, host: Enrolled, disk: Disk, fate: Callable[[Enrolled, Disk], None]) -> None:
        """Take a volume through its life, as far as there is time."""
        self.at_work = host, disk
        for _ in range(_ROTATIONS):
            self.rotate(host, disk)
            if self.site.stopping.is_set():
                return
        for verb, method, body in (
            ("volume.order", "PUT", {"kind": "reencrypt"}),
            ("volume.cancel", "DELETE", {}),
        ):
            self.wish(disk, verb, method, "order", **body)
        fate(host, disk)

    def race(self) -> None:
        """Unlock, and nothing else, until the site stops; here any refusal will do."""
        while not self.site.stopping.wait(0.02):
            if self.at_work is not None:
                host, disk = self.at_work
                with contextlib.suppress(KeybrokerError, Over):
                    self.unlock(host, disk, may=tuple(Problem))

    # a volume

    def provision(self, host: Enrolled, name: str) -> Disk:
        spec: dict[str, Any] = {
            "size_bytes": GIB, "cipher": "aes-xts-plain64", "mount": f"/srv/{name}", "filesystem": "ext4",
            "serial": None,
        }  # fmt: skip
        path = ("addons", self.addon, "volumes", name)
        said = self.operator.ask("volume.add", "", "PUT", *path, **spec)
        disk = Disk(VolumeId(said["volume"]), name, said["luks_uuid"], said["serial"], said["revision"])
        self.disks.append(disk)
        claim = ClaimRequest(disk.revision, Device(disk.serial, GIB), host.boot)
        grant = self.site.known(
            "claim", disk.id, lambda: host.client.claim(disk.id, claim), of_grant, host=host.id
        )
        disk.revision = grant.record.revision
        deposit = DepositRequest(disk.revision, disk.header(disk.sequence), _COPY)
        self.change(host, disk, "deposit", lambda: host.client.deposit(disk.id, deposit))
        ready = ReadyRequest(disk.revision)
        self.change(host, disk, "ready", lambda: host.client.ready(disk.id, ready))
        return disk

    def change(
        self, host: Enrolled, disk: Disk, verb: str, call: Callable[[], Record], **said: Any
    ) -> Record:
        record = self.site.known(verb, disk.id, call, of_record, host=host.id, **said)
        disk.revision = record.revision
        return record

    def wish(self, disk: Disk, verb: str, method: str, *part: str, **body: Any) -> dict[str, Any]:
        path = ("addons", self.addon, "volumes", disk.name, *part)
        asking = self.approver if verb == "volume.approve" else self.operator
        said = asking.ask(verb, disk.id, method, *path, **body)
        disk.revision = said["revision"]
        return said

    def unlock(self, host: Enrolled, disk: Disk, **said: Any) -> UnlockReply:
        request = UnlockRequest(host.boot.boot_id, host.boot.machine_id, "0.1.0", (disk.seen(),))

        def facts(reply: UnlockReply) -> Any:
            (grant,) = (one for one in reply.grants if one.record.volume == disk.id)
            return of_grant(grant, reply.receipt)

        return self.site.known(
            "unlock", disk.id, lambda: host.client.unlock(request), facts, host=host.id, **said
        )

    def rotate(self, host: Enrolled, disk: Disk) -> None:
        """Take the volume to its next key version, as an agent does."""
        self.wish(disk, "volume.rotate", "PUT", "wanted")
        self.unlock(host, disk)
        asked = StageRequest(disk.revision, host.boot)
        grant = self.site.known(
            "stage", disk.id, lambda: host.client.stage(disk.id, asked), of_grant, host=host.id
        )
        disk.revision = grant.record.revision
        old, new = disk.version, int(grant.record.staged or 0)
        key = grant.keys[KeyVersion(new)]
        disk.sequence += 1
        self.promote_unproven(host, disk, new)
        promote = PromoteRequest(disk.revision, disk.proof(key, new))
        self.change(host, disk, "promote", lambda: host.client.promote(disk.id, promote), version=new)
        disk.version = new
        disk.sequence += 1
        copy = DepositRequest(disk.revision, disk.header(disk.sequence), _COPY, disk.proof(key, new))
        self.change(host, disk, "backup", lambda: host.client.deposit(disk.id, copy))
        version = KeyVersion(old)
        self.change(host, disk, "retire", lambda: host.client.retire(disk.id, version), version=old)

    def promote_unproven(self, host: Enrolled, disk: Disk, version: int) -> None:
        """Try to promote with a proof by another key."""
        forged = PromoteRequest(disk.revision, disk.proof(Secret(b"x" * 43), version))
        with contextlib.suppress(KeybrokerError):
            self.change(
                host, disk, "promote", lambda: host.client.promote(disk.id, forged),
                version=version, proven=False, may=(Problem.HEADER_REFUSED,),
            )  # fmt: skip

    # how it ends

    def revoke(self, host: Enrolled, disk: Disk) -> None:
        self.operator.ask("host.revoke", host.id, "PUT", "hosts", host.id, "revocation", reason="test")
        with contextlib.suppress(KeybrokerError):
            self.unlock(host, disk, may=(Problem.REVOKED,))
        self.host = None

    def delete(self, host: Enrolled, disk: Disk) -> None:
        self.wish(disk, "volume.delete", "PUT", "deletion", reason="test")
        self.unlock(host, disk)
        self.wish(disk, "volume.undelete", "DELETE", "deletion")
        self.unlock(host, disk)

    def destroy(self, host: Enrolled, disk: Disk) -> None:
        said = self.wish(disk, "volume.delete", "PUT", "deletion", reason="test", days=0)
        due = said["deletion"]["sooner"]
        self.wish(disk, "volume.approve", "PUT", "deletion", "approval", due=due)
        self.unlock(host, disk)


def begin(lives: list[Life]) -> list[threading.Thread]:
    """Start the threads of all lives."""
    threads = [threading.Thread(target=work, daemon=True) for life in lives for work in (life.run, life.race)]
    for thread in threads:
        thread.start()
    return threads
