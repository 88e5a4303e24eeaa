"""The cryptsetup calls of a re-encryption: begin it in the header, carry it on, stop it between stretches.

What was seen with 2.6.1, under a mounted volume (tests/kernel/inner/test_kernel_reencrypt.py):

| observation | consequence |
|---|---|
| SIGTERM ends it after the stretch in work: status 1, no helper devices left | to rest is to stop |
| SIGKILL leaves helper devices, and only closing and opening heals it | it is never killed |
| the kernel holds all I/O to the stretch in work, 466 MiB of it unless told otherwise | ``HOTZONE_BYTES`` |
| ``io.max`` or SIGSTOP would hold a stretch, and with it the database | rate is kept by resting in between |
| in the middle no key fits with --key-slot; else all keyslots are tried | the profile bounds their cost |
| opening recovers what was hot, but a second cut spoils it | ``agent.luks.hotzone`` does it before |
| cryptsetup assigns our token to the new keyslot; the old keyslots go in the last write | the planner tags |

Resilience is ``checksum``, written into the header when it begins. ``none`` corrupted 6 of 12 cut runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.luks import cryptsetup
from agent.luks.cryptsetup import NO_TOKENS, PBKDF2_ITERATIONS
from agent.process import ToolFailed, run, running
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

HOTZONE_BYTES: Final = 16 << 20
"""How much is rewritten at a time, while I/O to just that waits: 0.2 s of a slow disk. It is no slower than
any larger one (tests/bench/test_bench_reencrypt.py)."""

LEAST_HOTZONE: Final = 1 << 20

BEGIN_SECONDS: Final = 120.0
ASK_SECONDS: Final = 0.2
"""Between two looks at how far it is: what a slow rate may be exceeded by, before it rests."""

INTERRUPTED: Final = 1
_TERMINATED: Final = -15

CORRUPTING: Final = ((2, 7, 0), (2, 7, 4))
"""Online re-encryption can corrupt data (cryptsetup 2.7.5's release notes); Ubuntu 24.04 has 2.7.0."""


def check_version() -> None:
    """Refuse a cryptsetup that corrupts data by re-encrypting it.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    found = cryptsetup.version()
    if CORRUPTING[0] <= found <= CORRUPTING[1]:
        raise KeybrokerError(
            Problem.TOOL_FAILED,
            f"cryptsetup {'.'.join(map(str, found))}: corrupts data in an online re-encryption",
            hint="install 2.7.5 or later",
        )


def begin(name: str, *, by: Secret, keyslot: int) -> None:
    """Write a re-encryption into the header of an open volume; nothing is encrypted yet.

    Segments and requirement come in one write; before it there is only a keyslot of a key without a segment.

    Args:
        name: of the dm-crypt device.
        by: opens ``keyslot``, and the new volume key's keyslot from then on.

    Raises:
        KeybrokerError: TOOL_FAILED, TOO_SLOW; it may have begun all the same.
    """
    run(
        "cryptsetup", "reencrypt", "--batch-mode", "--init-only", "--active-name", name,
        "--disable-external-tokens", "--key-slot", str(keyslot), "--key-file", by,
        "--resilience", "checksum", "--resilience-hash", "sha256",
        "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", str(PBKDF2_ITERATIONS), "--hash", "sha256",
        timeout_seconds=BEGIN_SECONDS,
    )  # fmt: skip


def carry_on(name: str, *, by: Secret, hotzone_bytes: int, go_on: Callable[[], bool]) -> None:
    """Re-encrypt an open volume until all is done, or until it is told to stop.

    Args:
        go_on: is asked every ``ASK_SECONDS``; False, and whatever it raises, stops the work after the stretch
            that it is at.

    Raises:
        KeybrokerError: TOOL_FAILED. How far it is then, the header says.
    """
    stopped = False
    with running(
        # should this process die, cryptsetup is to end its stretch and then itself
        "setpriv", "--pdeathsig", "TERM",
        "cryptsetup", "reencrypt", "--batch-mode", "--resume-only", "--active-name", name,
        *NO_TOKENS, "--key-file", by, "--hotzone-size", str(hotzone_bytes), "--progress-frequency", "60",
    ) as work:  # fmt: skip
        while work.line(seconds=ASK_SECONDS) is not None:
            if not stopped and not go_on():
                stopped = True
                work.stop()
    if work.status not in ((0, INTERRUPTED, _TERMINATED) if stopped else (0,)):
        raise ToolFailed(
            f"cryptsetup reencrypt {name}: {work.ending()}",
            status=work.status,
            # what waits would be written under the key of before, over what is under the new one already
            hint="if the volume does not answer, reboot; do not `dmsetup resume` what is suspended",
        )
