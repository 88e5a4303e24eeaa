"""The cryptsetup calls that change a header on a disk in use: add a keyslot, name it in our token, kill one.

Nothing here decides whether a change is allowed, and nothing believes that it happened: the caller
(``agent.change.headers``) reads the header before and after. Seen with cryptsetup 2.6.1 (DESIGN section 6):
status 1 means that the slot is full, or empty, or that this is no LUKS; and ``luksKillSlot --batch-mode``
kills the last keyslot with status 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.devices import OpenDevice
from agent.luks import cryptsetup
from agent.process import run
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.profile import Profile
from keybroker.wire.secret import Secret

CHANGE_SECONDS: Final = 180.0


def add(disk: OpenDevice, key: Secret, *, keyslot: int, by: Secret, opened: int, profile: Profile) -> None:
    """Fill a keyslot that is free.

    Args:
        disk: held open; it may be mapped and mounted.
        key: is to open the new keyslot.
        keyslot: number of the new one.
        by: opens the keyslot ``opened``, which is the only one that is tried.

    Raises:
        KeybrokerError: TOOL_FAILED, TOO_SLOW; the keyslot may be filled all the same.

    Source: cryptsetup-luksAddKey(8): beside --new-key-slot, --key-slot is the one that is opened.
    """
    run(
        "cryptsetup", "luksAddKey", "--batch-mode", "--type", "luks2", "--disable-external-tokens",
        "--key-file", by, "--key-slot", str(opened), "--new-key-slot", str(keyslot),
        "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", str(cryptsetup.PBKDF2_ITERATIONS),
        "--hash", "sha256",
        "--keyslot-cipher", profile.cipher, "--keyslot-key-size", str(profile.key_bytes * 8),
        disk.path, key,
        pass_fds=[disk.fd], timeout_seconds=CHANGE_SECONDS,
    )  # fmt: skip


def tag(
    disk: OpenDevice,
    volume: VolumeId,
    versions: Mapping[int, KeyVersion],
    *,
    token: int,
    recovery: str | None,
) -> None:
    """Write our token, over the one that has its number.

    Args:
        versions: which keyslot has which version of the volume's key.
        token: number of our token, or a free one.
        recovery: what it is to carry for a day without a broker; None for nothing.

    Raises:
        KeybrokerError: TOOL_FAILED, TOO_SLOW.
    """
    run(
        "cryptsetup", "token", "import", "--token-id", str(token), "--token-replace", "--json-file", "-",
        disk.path,
        stdin=cryptsetup.token(volume, versions, recovery), pass_fds=[disk.fd],
        timeout_seconds=CHANGE_SECONDS,
    )  # fmt: skip


def detach(disk: OpenDevice, *, token: int) -> None:
    """Take a token out of the header, whosever it is; the keyslots that it is assigned to stay.

    Raises:
        KeybrokerError: TOOL_FAILED, TOO_SLOW.
    """
    run(
        "cryptsetup", "token", "remove", "--token-id", str(token), disk.path,
        pass_fds=[disk.fd], timeout_seconds=CHANGE_SECONDS,
    )  # fmt: skip


def kill(disk: OpenDevice, *, keyslot: int, by: Secret) -> None:
    """Overwrite a keyslot's area and take it out of the header.

    Args:
        by: opens another keyslot: with a key file, cryptsetup looks for itself that it does (status 2
            otherwise). It does not look whether that one keeps the data, and kills a last one that it opens.

    Raises:
        KeybrokerError: TOOL_FAILED, TOO_SLOW; the area may be overwritten all the same.

    Source: cryptsetup-luksKillSlot(8).
    """
    run(
        "cryptsetup", "luksKillSlot", "--batch-mode", "--type", "luks2", "--disable-external-tokens",
        "--key-file", by, disk.path, str(keyslot),
        pass_fds=[disk.fd], timeout_seconds=CHANGE_SECONDS,
    )  # fmt: skip
