"""The cryptsetup calls: compose a header, open from a checked one, open swap, close.

Nothing here decides whether a header may be trusted (``agent.luks.acceptance`` does, before) and nothing
here is retried. What each line guards against was seen with cryptsetup 2.6.1 (DESIGN sections 5 and 6):

| status | means | here |
|---|---|---|
| 0 | done | |
| 1 | wrong parameters, and also: not LUKS, slot empty | failure |
| 2 | no key fits | ``False`` |
| 4 | no such device | failure |
| 5 | the name is taken, or the device is in use | failure |
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent import devicemapper
from agent.devices import OpenDevice
from agent.luks.copy import HeaderImage, image_of
from agent.luks.header import read_header
from agent.luks.metadata import TOKEN_TYPE
from agent.process import ToolFailed, run
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Profile
from keybroker.wire.secret import Secret

NO_KEY: Final = 2
_BUSY: Final = 5

METADATA_BYTES: Final = 16 << 10
KEYSLOTS_BYTES: Final = 4064 << 10
DATA_OFFSET: Final = 4 << 20
"""Bytes: two copies of the metadata and the keyslots' area. cryptsetup's own 16 MiB would make every copy
of a header, every backup and every boot read four times as long, for room that 32 keyslots never fill."""

PBKDF2_ITERATIONS: Final = 1000
"""cryptsetup's least. The passphrase has 256 bits, so a slow derivation protects nothing."""

FIRST_KEYSLOT: Final = 0
NO_TOKENS: Final = ("--disable-external-tokens", "--token-type", TOKEN_TYPE)
"""Keeps tokens from being tried before the key. External ones are only one kind: 2.6.1 asks the keyring for
what a forged "luks2-keyring" token names, even beside --key-slot and --key-file. So only the type that
nobody handles, ours, is let through."""

SWAP_OFFSET: Final = 1 << 20
"""Bytes before a swap volume's encrypted part, where its identity block lies (``agent.swap``)."""

FORMAT_SECONDS: Final = 60.0
RECOVERY_SECONDS: Final = 600.0
OPEN_SECONDS: Final = 30.0
"""An accepted header opens in 0.1 s; one with absurd iteration counts never gets here."""


def compose(
    directory: Path,
    key: Secret,
    *,
    uuid: str,
    label: str,
    profile: Profile,
    sector_size: int,
    volume: VolumeId,
    version: KeyVersion,
    recovery: str | None = None,
) -> HeaderImage:
    """Make the LUKS2 header of a new volume; no device has any part in it.

    Args:
        directory: private, on a tmpfs; the file that cryptsetup works on lies there meanwhile.
        key: goes into keyslot 0, as ``version`` of the volume.
        recovery: the key, encrypted to the offline recovery key, for our token; None where there is none.
        sector_size: encryption sector size in bytes.

    Returns:
        The header as any other is read: checked for its form, not yet against ``profile``.

    Raises:
        KeybrokerError: TOOL_FAILED; HEADER_REFUSED where this cryptsetup writes what we do not understand.
    """
    file = directory / f"{volume}.header"
    fd = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        # 1 MiB of data behind the header: cryptsetup refuses a device that ends where its data begins
        os.ftruncate(fd, DATA_OFFSET + (1 << 20))
        _format(file, key, uuid, label, profile, sector_size)
        _tag(file, volume, version, recovery)

        def read(offset: int, length: int) -> bytes:
            return os.pread(fd, length, offset)

        return image_of(read_header(read, os.fstat(fd).st_size), read)
    finally:
        os.close(fd)
        file.unlink()


def _format(file: Path, key: Secret, uuid: str, label: str, profile: Profile, sector_size: int) -> None:
    run(
        "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2",
        "--cipher", profile.cipher, "--key-size", str(profile.key_bytes * 8), "--hash", "sha256",
        "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", str(PBKDF2_ITERATIONS),
        "--sector-size", str(sector_size), "--offset", str(DATA_OFFSET // devicemapper.SECTOR),
        "--luks2-metadata-size", str(METADATA_BYTES), "--luks2-keyslots-size", str(KEYSLOTS_BYTES),
        "--uuid", uuid, "--label", label, "--use-urandom",
        "--key-slot", str(FIRST_KEYSLOT), "--key-file", key,
        file, timeout_seconds=FORMAT_SECONDS,
    )  # fmt: skip


def _tag(file: Path, volume: VolumeId, version: KeyVersion, recovery: str | None) -> None:
    """Put our one token in: which keyslot holds which version of which volume's key."""
    run(
        "cryptsetup", "token", "import", "--token-id", "0", "--json-file", "-",
        file, stdin=token(volume, {FIRST_KEYSLOT: version}, recovery),
    )  # fmt: skip


def token(volume: VolumeId, versions: Mapping[int, KeyVersion], recovery: str | None = None) -> Secret:
    """Return our token as ``cryptsetup token import`` takes it (JSON); it is no secret, but travels like one.

    Args:
        versions: which keyslot has which version of the volume's key.
        recovery: a passphrase that is encrypted to the offline recovery key; None for a token without.
    """
    said: dict[str, object] = {
        "type": TOKEN_TYPE,
        "keyslots": [str(keyslot) for keyslot in sorted(versions)],
        "volume": volume,
        "versions": {str(keyslot): str(versions[keyslot]) for keyslot in sorted(versions)},
    }
    if recovery is not None:
        said["recovery"] = recovery
    return Secret(json.dumps(said).encode())


TRY_SECONDS: Final = 180.0
"""A passphrase that is given for an adoption may be derived over 1 GiB, which takes a busy machine long."""


def opens(header_fd: int, *, keyslot: int, key: Secret) -> bool:
    """Say whether ``key`` opens ``keyslot`` of a header; nothing is mapped and nothing is written.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    done = run(
        "cryptsetup", "open", "--test-passphrase", "--batch-mode", "--type", "luks2",
        "--key-slot", str(keyslot), "--key-file", "-", *NO_TOKENS,
        f"/proc/self/fd/{header_fd}",
        stdin=key, pass_fds=[header_fd], expect=(0, NO_KEY), timeout_seconds=TRY_SECONDS,
    )  # fmt: skip
    return done.status == 0


def open_volume(disk: OpenDevice, name: str, *, header_fd: int, keyslot: int, key: Secret) -> bool:
    """Map ``name`` onto a disk by a header that was checked; say whether the key fitted.

    Args:
        disk: held open by the caller; its own header is not read.
        header_fd: a sealed memfd of the full data offset, so that what was checked is what is used.
        keyslot: the only one that is tried; without a number cryptsetup goes through all of them.

    Raises:
        KeybrokerError: EXISTS where the name is taken or the disk in use; TOOL_FAILED.
    """
    try:
        done = run(
            "cryptsetup", "open", "--batch-mode", "--type", "luks2",
            "--header", f"/proc/self/fd/{header_fd}",
            "--key-slot", str(keyslot), "--key-file", "-", *NO_TOKENS,
            disk.path, devicemapper.path(name).name,
            stdin=key, pass_fds=[header_fd, disk.fd], expect=(0, NO_KEY), timeout_seconds=OPEN_SECONDS,
        )  # fmt: skip
    except ToolFailed as error:
        raise _taken(disk, name, error) from error
    return done.status == 0


def resize(name: str, *, header_fd: int, keyslot: int, key: Secret) -> bool:
    """Have a mapping reach to the end of its disk; say whether the key fitted.

    Args:
        header_fd, keyslot: as of ``open_volume``.

    Raises:
        KeybrokerError: TOOL_FAILED.
    """
    done = run(
        "cryptsetup", "resize", "--batch-mode", "--header", f"/proc/self/fd/{header_fd}",
        "--key-slot", str(keyslot), "--key-file", "-", *NO_TOKENS,
        devicemapper.path(name).name,
        stdin=key, pass_fds=[header_fd], expect=(0, NO_KEY), timeout_seconds=OPEN_SECONDS,
    )  # fmt: skip
    return done.status == 0


def open_midway(disk: OpenDevice, name: str, *, key: Secret) -> bool:
    """Map ``name`` onto a disk in mid re-encryption, by its own header; say whether the key fitted.

    It needs both volume keys for that, so all keyslots are tried: none is named.

    Raises:
        KeybrokerError: as ``open_volume``.
    """
    try:
        done = run(
            "cryptsetup", "open", "--batch-mode", "--type", "luks2", "--key-file", "-", *NO_TOKENS,
            disk.path, devicemapper.path(name).name,
            stdin=key, pass_fds=[disk.fd], expect=(0, NO_KEY), timeout_seconds=RECOVERY_SECONDS,
        )  # fmt: skip
    except ToolFailed as error:
        raise _taken(disk, name, error) from error
    return done.status == 0


def recover(disk: OpenDevice, *, header_fd: int, key: Secret) -> bool:
    """Bring the stretch to an end that was in work when the power went; say whether the key fitted.

    Only the data is written on the disk. What else there is to write goes to ``header_fd``.

    Args:
        header_fd: of ``agent.luks.copy.draft``.

    Raises:
        KeybrokerError: TOOL_FAILED, TOO_SLOW. Repeated with another draft, it goes on.
    """
    done = run(
        "cryptsetup", "repair", "--batch-mode", "--type", "luks2", "--key-file", "-",
        "--header", f"/proc/self/fd/{header_fd}", disk.path,
        stdin=key, pass_fds=[header_fd, disk.fd], expect=(0, NO_KEY), timeout_seconds=RECOVERY_SECONDS,
    )  # fmt: skip
    return done.status == 0


def open_swap(disk: OpenDevice, name: str, *, sector_size: int) -> None:
    """Map ``name`` onto a marked swap disk by a random key that exists only in the kernel.

    Every parameter is given, because the defaults of plain mode changed with 2.7.0. A key that is read from a
    file is used as it is; /dev/urandom from standard input would be hashed (cryptsetup(8), plain mode).
    cryptsetup looks for signatures on the disk only without ``--offset``: whose disk it is must be known.

    Args:
        sector_size: encryption sector size in bytes.

    Raises:
        KeybrokerError: EXISTS where the name is taken or the disk in use; TOOL_FAILED.
    """
    try:
        run(
            "cryptsetup", "open", "--batch-mode", "--type", "plain",
            "--cipher", "aes-xts-plain64", "--key-size", "512", "--key-file", "/dev/urandom",
            "--sector-size", str(sector_size), "--offset", str(SWAP_OFFSET // devicemapper.SECTOR),
            "--skip", "0",
            disk.path, devicemapper.path(name).name,
            pass_fds=[disk.fd], timeout_seconds=OPEN_SECONDS,
        )  # fmt: skip
    except ToolFailed as error:
        raise _taken(disk, name, error) from error


def _taken(disk: OpenDevice, name: str, error: ToolFailed) -> KeybrokerError:
    if error.status != _BUSY:
        return error
    return KeybrokerError(
        Problem.EXISTS,
        f"{devicemapper.MAPPER / name}: is there already, or {disk.device.path} is in use",
        hint=f"lsblk {disk.device.path}",
    )


def close(name: str) -> None:
    """Unmap ``name`` and have the kernel forget its key; where it is not mapped all is as it should be.

    Raises:
        KeybrokerError: WRONG_DEVICE where it is in use, naming by whom; TOOL_FAILED.
    """
    if devicemapper.uuid(name) is None:
        return
    try:
        run("cryptsetup", "close", name)
    except ToolFailed as error:
        if error.status == _BUSY:
            raise devicemapper.in_use(name) from error
        if devicemapper.uuid(name) is not None:
            raise


def version() -> tuple[int, int, int]:
    """Return the version of the cryptsetup that is installed.

    Raises:
        KeybrokerError: TOOL_FAILED where there is none or it says something else.
    """
    said = run("cryptsetup", "--version").output.decode(errors="replace")
    match = re.match(r"cryptsetup (\d+)\.(\d+)\.(\d+)", said)
    if match is None:
        raise KeybrokerError(Problem.TOOL_FAILED, f"cryptsetup: its version {said[:40]!r} is not one")
    return int(match[1]), int(match[2]), int(match[3])
