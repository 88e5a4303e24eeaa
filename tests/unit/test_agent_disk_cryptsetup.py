"""Composing a header and trying keys on it: real cryptsetup on files, without device-mapper."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.luks import acceptance, cryptsetup
from agent.luks.copy import HeaderImage, memfd
from agent.luks.header import Header, read_header
from agent.process import ToolFailed
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.profile import first_profile
from keybroker.wire.secret import passphrase

KEY = passphrase(b"A" * 43)
OTHER = passphrase(b"B" * 43)
VOLUME = VolumeId("kbv-q3m5x7abcdef")
UUID = "0f2d3c1a-5b6e-4d7c-8f90-a1b2c3d4e5f6"


def composed(directory: Path, cipher: str = "aes-xts-plain64", sector_size: int = 4096) -> HeaderImage:
    return cryptsetup.compose(
        directory, KEY, uuid=UUID, label="kb-q3m5x7abcdef", profile=first_profile(cipher),
        sector_size=sector_size, volume=VOLUME, version=KeyVersion(7),
    )  # fmt: skip


def header_of(image: HeaderImage) -> Header:
    return read_header(image.read, image.total)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> HeaderImage:
    return composed(tmp_path_factory.mktemp("run"))


@pytest.fixture
def header_fd(image: HeaderImage) -> Iterator[int]:
    fd = memfd(image)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("cipher", ["aes-xts-plain64", "aes-cbc-essiv:sha256"])
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_composes_a_header_that_meets_the_profile_it_was_made_for(
    tmp_path: Path, cipher: str, sector_size: int
) -> None:
    header = header_of(composed(tmp_path, cipher, sector_size))
    acceptance.accept(header, first_profile(cipher), None)
    assert header.pin.uuid == UUID
    assert header.pin.sector_size == sector_size
    assert header.pin.data_offset == 4 << 20
    assert header.label == "kb-q3m5x7abcdef"
    assert not header.degraded


def test_tags_the_keyslot_with_volume_and_version(image: HeaderImage) -> None:
    token = header_of(image).token
    assert token is not None
    assert (token.keyslots, token.volume, token.versions) == ((0,), VOLUME, {0: 7})


def test_leaves_no_file_behind(tmp_path: Path) -> None:
    composed(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_leaves_no_file_behind_when_cryptsetup_fails(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed):
        composed(tmp_path, sector_size=1000)
    assert list(tmp_path.iterdir()) == []


def test_never_composes_the_same_volume_key_twice(tmp_path: Path, image: HeaderImage) -> None:
    assert header_of(composed(tmp_path)).pin.digest != header_of(image).pin.digest


def test_the_key_opens_its_keyslot_and_no_other_key_does(header_fd: int) -> None:
    assert cryptsetup.opens(header_fd, keyslot=0, key=KEY)
    assert not cryptsetup.opens(header_fd, keyslot=0, key=OTHER)


def put_into_keyring(name: bytes, payload: bytes) -> None:
    """Add a user key to this process's session keyring, which what it starts inherits (add_key(2))."""
    session = -3
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(248, b"user", name, payload, len(payload), session) < 0:
        raise OSError(ctypes.get_errno(), "add_key")


def test_a_key_in_the_keyring_that_a_forged_token_names_is_never_tried(
    tmp_path: Path, image: HeaderImage
) -> None:
    """cryptsetup 2.6.1 tries it even with --key-slot, --key-file and --disable-external-tokens."""
    put_into_keyring(b"keybroker-test-forged", KEY.reveal())
    file = tmp_path / "header"
    file.write_bytes(image.read(0, image.total))
    token = '{"type":"luks2-keyring","keyslots":["0"],"key_description":"keybroker-test-forged"}'
    subprocess.run(["cryptsetup", "token", "import", file], input=token, text=True, check=True)
    tried = ["cryptsetup", "open", "--test-passphrase", "--disable-external-tokens", "--key-slot", "0"]
    bare = subprocess.run([*tried, "--key-file", "-", file], input=OTHER.reveal(), check=False)
    assert bare.returncode == 0, "the keyring's key is not found: this test shows nothing"
    fd = os.open(file, os.O_RDONLY)
    try:
        assert not cryptsetup.opens(fd, keyslot=0, key=OTHER)
        assert cryptsetup.opens(fd, keyslot=0, key=KEY)
    finally:
        os.close(fd)


def test_a_keyslot_that_is_empty_is_a_failure_and_not_a_wrong_key(header_fd: int) -> None:
    with pytest.raises(ToolFailed) as caught:
        cryptsetup.opens(header_fd, keyslot=3, key=KEY)
    assert caught.value.status == 1


def test_a_file_without_a_header_is_a_failure_and_not_a_wrong_key(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(4 << 20))
    fd = os.open(tmp_path / "zeros", os.O_RDONLY)
    try:
        with pytest.raises(ToolFailed):
            cryptsetup.opens(fd, keyslot=0, key=KEY)
    finally:
        os.close(fd)


def test_tells_the_version_as_numbers() -> None:
    assert cryptsetup.version() >= (2, 6, 1)
