"""``Reencryption`` on files: cryptsetup's offline one, which needs root and no device-mapper."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Keys
from typing import TYPE_CHECKING, Final

from agent.luks.acceptance import judge
from agent.luks.midway import done_bytes
from agent.process import run
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.reports import Progress
from keybroker.wire.secret import Secret

if TYPE_CHECKING:
    from tests.crash.file_world import FileWorld

OFFLINE: Final = ("reencrypt", "--batch-mode", "--disable-locks", "--force-offline-reencrypt")


class FileReencryption:
    """The re-encryptions of a world's files."""

    def __init__(self, world: FileWorld) -> None:
        self._world = world

    def check(self) -> None:
        return

    def begin(self, record: Record, keys: Keys[KeyVersion, Secret], *, by: KeyVersion) -> None:
        state = self._state(record)
        if state in ("midway", "done"):
            return
        if state != "untouched":
            raise KeybrokerError(Problem.TOOL_FAILED, f"{record.name}: {state}")
        keyslot = min(self._world.luks(record).metadata.data_digest.keyslots)
        run(
            "cryptsetup", *OFFLINE, "--init-only", "--resilience", "checksum",
            "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
            "--key-slot", str(keyslot), "--key-file", keys[by], self._world.disk(record),
        )  # fmt: skip
        assert self._state(record) == "midway"

    def run(
        self,
        record: Record,
        keys: Keys[KeyVersion, Secret],
        *,
        by: KeyVersion,
        progress: Callable[[Progress], None],
    ) -> None:
        if self._state(record) == "done":
            return
        disk = self._world.disk(record)
        progress(Progress(*done_bytes(self._world.luks(record), record.size_bytes)))
        if any(segment.is_hot for segment in self._world.luks(record).segments.values()):
            run("cryptsetup", "repair", "--batch-mode", "--disable-locks", "--key-file", keys[by], disk)
        run("cryptsetup", *OFFLINE, "--resume-only", "--hotzone-size", "1M", "--key-file", keys[by], disk)
        assert self._state(record) == "done"

    def _state(self, record: Record) -> str:
        return judge(self._world.luks(record), record, record.size_bytes)
