"""What every master key provider must do, whatever holds its key."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from keybroker.envelope import ENTROPY_BYTES, Context, EnvelopeError, Failure, Purpose, wrapped_by
from keybroker.masterkey import LocalMasterKey, MasterKey, SharesMasterKey, open_master_key
from keybroker.masterkey.shares import Share
from keybroker.masterkey.splitting import split
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from tests.contract.softhsm import SoftToken

PLACE = Context("shop-db", "", "", 1, Purpose.ADDON_KEY)
KEY = Secret(bytes(range(32)))


def from_file(directory: Path, key: bytes) -> MasterKey:
    path = directory / f"master-{len(list(directory.iterdir()))}.key"
    path.write_bytes(key)
    path.chmod(0o400)
    return open_master_key(f"file:{path}", None)


def from_credential(directory: Path, key: bytes) -> MasterKey:
    name = f"master-{len(list(directory.iterdir()))}"
    (directory / name).write_bytes(key)
    (directory / name).chmod(0o400)
    return open_master_key(f"credential:{name}", directory)


def from_token(directory: Path, key: bytes) -> MasterKey:
    """Have pkcs11-tool(1) import a key into a real token, under a label of its own."""
    path = directory / f"master-{len(list(directory.iterdir()))}.key"
    path.write_bytes(key)
    label = os.urandom(8).hex()
    TOKEN[0].import_key(path, label)
    return open_master_key(TOKEN[0].uri(label), None)


def from_shares(_directory: Path, key: bytes) -> MasterKey:
    """Split a key, and give two of its three shares, typed by hand."""
    made, shares = split(Secret(key), 2, 3)
    opened = open_master_key(made.uri, None)
    assert isinstance(opened, SharesMasterKey)
    for share in (shares[2], shares[0]):
        opened.take(*opened.would_take(Share.parse(share.text())))
    return opened


TOKEN: list[SoftToken] = []
Provider = Callable[[Path, bytes], MasterKey]


@pytest.fixture(
    params=[from_file, from_credential, from_token, from_shares],
    ids=["file", "credential", "pkcs11", "shares"],
)
def provider(request: pytest.FixtureRequest, soft_token: SoftToken) -> Provider:
    TOKEN[:] = [soft_token]
    made: Provider = request.param
    return made


def wrapped(key: MasterKey) -> bytes:
    return key.wrap(KEY, PLACE, os.urandom(ENTROPY_BYTES))


def test_what_it_wraps_it_unwraps(provider: Provider, tmp_path: Path) -> None:
    key = provider(tmp_path, bytes(32))
    assert key.unwrap(wrapped(key), PLACE) == KEY


def test_the_same_key_has_the_same_name_and_opens_what_it_wrapped_before(
    provider: Provider, tmp_path: Path
) -> None:
    one, again, other = (provider(tmp_path, key) for key in (bytes(32), bytes(32), b"\x01" * 32))
    assert one.identity == again.identity != other.identity
    assert len(bytes.fromhex(one.identity)) == 16
    assert again.unwrap(wrapped(one), PLACE) == KEY


def test_another_key_does_not_open_it(provider: Provider, tmp_path: Path) -> None:
    one, other = (provider(tmp_path, key) for key in (bytes(32), b"\x01" * 32))
    with pytest.raises(EnvelopeError) as caught:
        other.unwrap(wrapped(one), PLACE)
    assert caught.value.failure is Failure.NO_KEY


@pytest.mark.parametrize(
    "place",
    [
        replace(PLACE, addon="blog-db"),
        replace(PLACE, version=2),
        replace(PLACE, purpose=Purpose.KEY_CHECK),
    ],
)
def test_it_does_not_open_at_another_place(provider: Provider, tmp_path: Path, place: Context) -> None:
    key = provider(tmp_path, bytes(32))
    with pytest.raises(EnvelopeError) as caught:
        key.unwrap(wrapped(key), place)
    assert caught.value.failure in (Failure.COMMITMENT, Failure.AUTHENTICATION)


@pytest.mark.parametrize("at", [0, 4, 5, 6, 30, 50, -40, -1])
def test_it_does_not_open_with_a_bit_flipped(provider: Provider, tmp_path: Path, at: int) -> None:
    key = provider(tmp_path, bytes(32))
    blob = bytearray(wrapped(key))
    blob[at] ^= 1
    with pytest.raises(EnvelopeError):
        key.unwrap(bytes(blob), PLACE)
    assert key.unwrap(wrapped(key), PLACE) == KEY  # and still works


def test_the_same_key_wrapped_twice_shows_no_likeness(provider: Provider, tmp_path: Path) -> None:
    key = provider(tmp_path, bytes(32))
    one, other = wrapped(key), wrapped(key)
    assert one[-64:] != other[-64:]


def test_repeated_entropy_does_not_repeat_a_key_stream(provider: Provider, tmp_path: Path) -> None:
    """As after a restored snapshot of the broker's machine: the same entropy, for another place or key."""
    key = provider(tmp_path, bytes(32))
    entropy = bytes(ENTROPY_BYTES)
    blobs = [
        key.wrap(KEY, PLACE, entropy),
        key.wrap(KEY, replace(PLACE, version=2), entropy),
        key.wrap(Secret(bytes(32)), replace(PLACE, version=3), entropy),
    ]
    assert len({blob[-48:-16] for blob in blobs}) == 3


def test_what_it_wrapped_names_it(provider: Provider, tmp_path: Path) -> None:
    key = provider(tmp_path, bytes(32))
    assert wrapped_by(wrapped(key)).hex() == key.identity


def test_threads_wrap_and_unwrap_at_the_same_time(provider: Provider, tmp_path: Path) -> None:
    key = provider(tmp_path, bytes(32))

    def work(number: int) -> bool:
        place, mine = replace(PLACE, version=number), Secret(bytes([number]) * 32)
        return key.unwrap(key.wrap(mine, place, os.urandom(ENTROPY_BYTES)), place) == mine

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(1, 200)))


def test_it_shows_nothing_of_its_key(provider: Provider, tmp_path: Path) -> None:
    secret = os.urandom(32)
    key = provider(tmp_path, secret)
    assert secret.hex() not in repr(key) + str(vars(key)) + key.identity


def refused(uri: str, directory: Path | None = None) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        open_master_key(uri, directory)
    assert caught.value.problem is Problem.CONFIGURATION
    return caught.value


@pytest.mark.parametrize("mode", [0o600, 0o440, 0o404, 0o644, 0o777])
def test_a_key_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(bytes(32))
    path.chmod(mode)
    assert refused(f"file:{path}").hint == f"chmod 0400 {path}"


def test_a_credential_may_have_the_group_bit_that_systemd_s_access_list_shows(tmp_path: Path) -> None:
    path = tmp_path / "master"
    path.write_bytes(bytes(32))
    path.chmod(0o440)
    assert open_master_key("credential:master", tmp_path).identity
    assert refused(f"file:{path}").hint
    os.chown(path, 4711, -1)
    assert refused("credential:master", tmp_path).hint


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "master.key",
        "file:",
        "file:master.key",
        "credential:",
        "credential:a/b",
        "pkcs11:token=x",
        "FILE:/x",
    ],
)
def test_a_uri_that_names_no_key_is_refused(tmp_path: Path, uri: str) -> None:
    refused(uri, tmp_path)


def test_a_credential_outside_a_unit_says_how_to_get_one() -> None:
    assert "LoadCredentialEncrypted=master" in (refused("credential:master").hint or "")


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_is_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        LocalMasterKey(Secret(bytes(size)))
