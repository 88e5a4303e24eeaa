"""Real headers, made once for the whole tier."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.header.disks import KIB, MIB, OUR_TOKEN, Disk, cryptsetup, import_token, luks_format

SMALL = (
    *("--luks2-metadata-size", "16k", "--luks2-keyslots-size", "992k", "--offset", "2048"),
    *("--sector-size", "512"),  # what it is without a word differs between versions of cryptsetup
)
"""Data from 1 MiB on: as small as a header gets, for tests that need thousands of them."""


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for disks."""
    return tmp_path_factory.mktemp("disks")


@pytest.fixture(scope="session")
def plain_path(workshop: Path) -> Path:
    """A disk with one keyslot and our token: what the agent makes."""
    path = luks_format(workshop / "plain.img", MIB + 64 * KIB, *SMALL, "--label", "kb-q3m5x7abcdef")
    import_token(path, OUR_TOKEN)
    return path


@pytest.fixture(scope="session")
def plain(plain_path: Path) -> Disk:
    """The header of that disk."""
    return Disk.of(plain_path)


@pytest.fixture(scope="session")
def rich_path(workshop: Path) -> Path:
    """A disk with three keyslots, one of them argon2id, a keyring token beside ours, and a flag."""
    path = luks_format(workshop / "rich.img", MIB + 64 * KIB, *SMALL)
    quick = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    slow = (
        "--pbkdf",
        "argon2id",
        "--pbkdf-force-iterations",
        "4",
        "--pbkdf-memory",
        "64",
        "--pbkdf-parallel",
        "1",
    )
    for options in (quick, slow):
        key = path.with_suffix(".key")
        key.write_bytes(b"A" * 43)
        cryptsetup("luksAddKey", "-q", "--key-file", "-", *options, path, key)
    import_token(path, OUR_TOKEN)
    cryptsetup("token", "add", "--key-description", "another:key", "--key-slot", "1", path)
    cryptsetup("config", "--priority", "prefer", "--key-slot", "1", path)
    return path


@pytest.fixture(scope="session")
def rich(rich_path: Path) -> Disk:
    """The header of that disk."""
    return Disk.of(rich_path)
