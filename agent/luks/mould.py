"""The header of a disk that is to be encrypted in place, made away from the disk, by cryptsetup itself.

It is made on a mould: a sparse file of the disk's size, on a tmpfs. cryptsetup looks at nothing of a disk but
its size, copies the mould's first 4 MiB (zeros) to its end, and writes the header: 8 MiB of memory. What it
would have done to the disk, in an order that a power cut can spoil, ``agent.shelf`` does in a safe one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from agent.luks.copy import HeaderImage, image_of
from agent.luks.cryptsetup import (
    DATA_OFFSET,
    FORMAT_SECONDS,
    KEYSLOTS_BYTES,
    METADATA_BYTES,
    PBKDF2_ITERATIONS,
)
from agent.luks.header import read_header
from agent.process import run
from keybroker.wire.profile import Profile
from keybroker.wire.secret import Secret

ROOM_BYTES: Final = 2 * DATA_OFFSET
"""What an encryption in place takes of a disk: the header, and the beginning that lay where it lies."""


def compose_in_place(
    directory: Path,
    key: Secret,
    *,
    uuid: str,
    label: str,
    profile: Profile,
    sector_size: int,
    size_bytes: int,
) -> HeaderImage:
    """Make the header that an encryption in place begins with; no device has any part in it.

    Args:
        directory: private, on a tmpfs; cryptsetup leaves a file of its own there meanwhile.
        key: opens its one keyslot. Our token comes later: none is taken in while something is under way.
        sector_size: encryption sector size in bytes.
        size_bytes: of the disk.

    Raises:
        KeybrokerError: TOOL_FAILED; HEADER_REFUSED where this cryptsetup writes what we do not understand.
    """
    file = directory / "mould"
    fd = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size_bytes)
        run(
            "cryptsetup", "reencrypt", "--encrypt", "--init-only", "--batch-mode", "--type", "luks2",
            "--cipher", profile.cipher, "--key-size", str(profile.key_bytes * 8), "--hash", "sha256",
            "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", str(PBKDF2_ITERATIONS),
            "--sector-size", str(sector_size), "--reduce-device-size", str(ROOM_BYTES),
            "--luks2-metadata-size", str(METADATA_BYTES), "--luks2-keyslots-size", str(KEYSLOTS_BYTES),
            "--uuid", uuid, "--label", label, "--use-urandom", "--key-file", key,
            file, timeout_seconds=FORMAT_SECONDS, directory=directory,
        )  # fmt: skip

        def read(offset: int, length: int) -> bytes:
            return os.pread(fd, length, offset)

        return image_of(read_header(read, size_bytes), read, is_beginning=True)
    finally:
        os.close(fd)
        file.unlink()
