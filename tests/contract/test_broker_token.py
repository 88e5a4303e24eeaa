"""A master key in a token: what is refused, that no PIN is tried twice, and that a token may come back."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from keybroker.envelope import ENTROPY_BYTES, Context, Purpose
from keybroker.masterkey import create_in_token, credentials_of, cryptoki, open_master_key
from keybroker.masterkey import token as door
from keybroker.masterkey.tokenuri import TokenUri
from keybroker.service import masters, rewrap
from keybroker.service.installation import open_broker
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from tests.contract.broker_house import House
from tests.contract.softhsm import PIN, SoftToken, make_token

PLACE = Context("shop-db", "", "", 1, Purpose.ADDON_KEY)
KEY = Secret(bytes(range(32)))


@pytest.fixture
def uri(soft_token: SoftToken) -> str:
    """Return the URI of a key that the token made."""
    uri = soft_token.uri(os.urandom(8).hex())
    assert create_in_token(uri, None) is True
    return uri


@pytest.fixture
def away(soft_token: SoftToken) -> Iterator[SoftToken]:
    yield soft_token
    soft_token.bring_back()


def refused(uri: str, problem: Problem = Problem.CONFIGURATION) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        open_master_key(uri, None)
    assert caught.value.problem is problem, caught.value
    assert PIN not in str(caught.value)
    return caught.value


def test_a_key_is_made_once_and_can_never_leave_its_token(soft_token: SoftToken) -> None:
    label = os.urandom(8).hex()
    assert create_in_token(soft_token.uri(label), None) is True
    assert create_in_token(soft_token.uri(label), None) is False
    listed = soft_token.tool("--list-objects", "--type", "secrkey").split("Secret Key Object; ")
    (own,) = (each for each in listed if label in each)
    assert "AES length 32" in own
    assert "Usage:      encrypt, decrypt\n" in own
    assert "Access:     sensitive, always sensitive, never extractable, local" in own


def test_a_key_that_could_leave_its_token_is_refused(soft_token: SoftToken, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(os.urandom(32))
    soft_token.import_key(path, "leaves", private="--extractable")
    assert "can leave its token" in refused(soft_token.uri("leaves")).detail


def test_a_key_that_is_too_short_is_refused(soft_token: SoftToken, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(os.urandom(16))
    soft_token.import_key(path, "short", kind="AES:16")
    assert "is not a key for AES-256" in refused(soft_token.uri("short")).detail


def test_two_keys_of_a_label_are_refused(soft_token: SoftToken, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(os.urandom(32))
    for _ in range(2):
        soft_token.import_key(path, "twice")
    error = refused(soft_token.uri("twice"))
    assert "there are 2 such keys" in error.detail
    assert "id=" in (error.hint or "")


def test_what_is_missing_is_named(soft_token: SoftToken, tmp_path: Path) -> None:
    assert "there is no such key" in refused(soft_token.uri("nothing")).detail
    assert "the token is not there" in refused(soft_token.uri("k", token="other"), Problem.UNAVAILABLE).detail
    nowhere = refused(soft_token.uri("k", module=str(tmp_path / "no.so")))
    assert f"PKCS#11 module {tmp_path}/no.so: cannot be used" in nowhere.detail
    (tmp_path / "text.so").write_text("not a library")
    assert "cannot be used" in refused(soft_token.uri("k", module=str(tmp_path / "text.so"))).detail
    assert "cannot be read" in refused(soft_token.uri("k", pin=tmp_path / "no.pin")).detail


@pytest.mark.parametrize(("content", "mode"), [("4711\n", 0o440), ("", 0o400), ("47\n11\n", 0o400)])
def test_a_pin_is_one_line_in_a_file_of_ours_alone(
    soft_token: SoftToken, tmp_path: Path, content: str, mode: int
) -> None:
    pin = tmp_path / "pin"
    pin.write_text(content)
    pin.chmod(mode)
    error = refused(soft_token.uri("k", pin=pin))
    assert str(pin) in error.detail


def test_a_pin_may_be_a_credential(soft_token: SoftToken, uri: str, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text(PIN)
    (tmp_path / "pin").chmod(0o440)
    asked = uri.partition("pin-source=")[0] + "pin-source=credential:pin"
    assert open_master_key(asked, tmp_path).identity == open_master_key(uri, None).identity
    assert credentials_of(asked) == ("pin",)
    assert credentials_of(uri) == ()


def test_a_wrong_pin_is_given_to_the_token_once_and_never_again(tmp_path: Path) -> None:
    """In a process of its own, which is logged in nowhere yet; SoftHSM2 tells that a PIN was wrong."""
    token = make_token(tmp_path)
    wrong = tmp_path / "wrong.pin"
    wrong.write_text("0000-0000")
    wrong.chmod(0o400)
    program = """
import sys
from keybroker.masterkey import open_master_key
from keybroker.wire.problems import KeybrokerError
from keybroker.masterkey import cryptoki as door
right, wrong = sys.argv[1:]
for _ in range(5):
    try:
        open_master_key(wrong, None)
    except KeybrokerError as error:
        print(error.problem.slug, error.detail)
module = next(iter(door._modules.values()))
print(bool(module.library.get_token(token_label="keybroker").flags & 0x10000))
try:
    open_master_key(right, None)
except KeybrokerError as error:
    print(error.detail)
print(bool(module.library.get_token(token_label="keybroker").flags & 0x10000))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, token.uri("k"), token.uri("k", pin=wrong)],
        env=os.environ | token.environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert (
        lines[:5] == ["configuration token keybroker: key k: the PIN was refused, and is not tried again"] * 5
    )
    assert lines[5:] == ["True", "token keybroker: key k: there is no such key", "False"]


@pytest.mark.parametrize("flags", [0x20000, 0x40000])
def test_no_pin_is_given_where_a_wrong_one_would_lock_the_token_or_has(
    soft_token: SoftToken, flags: int
) -> None:
    class Token:
        serial = b"1"

        def __init__(self) -> None:
            self.flags = flags

        def open(self, **_options: object) -> None:
            raise AssertionError("a PIN was given")

    class Library:
        def get_token(self, **_wanted: object) -> Token:
            return Token()

    named = TokenUri.parse(soft_token.uri("k"))
    with pytest.raises(KeybrokerError) as caught:
        door.log_in(cryptoki.Module(Library), named, lambda: Secret(PIN.encode()))
    assert caught.value.problem is Problem.CONFIGURATION


def test_a_token_that_went_away_is_unavailable_and_comes_back_by_itself(away: SoftToken, uri: str) -> None:
    key = open_master_key(uri, None)
    wrapped = key.wrap(KEY, PLACE, os.urandom(ENTROPY_BYTES))
    away.take_away()
    for _ in range(3):
        with pytest.raises(KeybrokerError) as caught:
            key.unwrap(wrapped, PLACE)
        assert caught.value.problem is Problem.UNAVAILABLE
        assert caught.value.retry_after
    away.bring_back()
    time.sleep(2.1)
    assert key.unwrap(wrapped, PLACE) == KEY


def test_keys_behind_one_module_never_stand_in_for_each_other_after_it_was_away(
    away: SoftToken, uri: str
) -> None:
    """Handles are numbers, and after an initialisation the same number may be another key."""
    other_uri = away.uri(os.urandom(8).hex())
    create_in_token(other_uri, None)
    one, other = open_master_key(uri, None), open_master_key(other_uri, None)
    blobs = [key.wrap(KEY, PLACE, os.urandom(ENTROPY_BYTES)) for key in (one, other)]
    away.take_away()
    with pytest.raises(KeybrokerError):
        other.unwrap(blobs[1], PLACE)
    away.bring_back()
    time.sleep(2.1)
    for key, blob in ((other, blobs[1]), (one, blobs[0])):
        assert key.unwrap(blob, PLACE) == KEY
        again = key.wrap(KEY, PLACE, os.urandom(ENTROPY_BYTES))
        assert open_master_key(uri if key is one else other_uri, None).unwrap(again, PLACE) == KEY


def test_a_key_that_was_exchanged_under_its_label_is_not_used(soft_token: SoftToken, uri: str) -> None:
    key = open_master_key(uri, None)
    label = uri.partition("object=")[2].partition("?")[0]
    wrapped = key.wrap(KEY, PLACE, os.urandom(ENTROPY_BYTES))
    soft_token.tool("--delete-object", "--type", "secrkey", "--label", label)
    soft_token.tool("--keygen", "--key-type", "AES:32", "--label", label, "--sensitive")
    with pytest.raises(KeybrokerError) as caught:
        key.unwrap(wrapped, PLACE)
    assert caught.value.problem is Problem.UNAVAILABLE
    assert "another key" in caught.value.detail


def test_a_broker_rotates_to_a_token_and_back(house: House, uri: str) -> None:
    house.addon()
    record = house.volume()
    peer, _certified = house.enrol("shop-db")
    record = house.provision(peer, record)
    keys = house.keys(record.volume)
    first = house.installation.master_keys[0]
    for to in (uri, first):
        house.installation = replace(
            house.installation, master_keys=(to, *house.installation.master_keys[:1])
        )
        house.reopen()
        view = masters.rotate(house.broker, house.operator, to)
        while view.left.anything:
            rewrap.advance(house.broker, lambda: False)
            view = masters.show(house.broker, house.operator)
        assert next(row.uri for row, _count in view.rows if row.state == "wraps") == to
        assert house.keys(record.volume) == keys
    house.broker.close()
    house.installation = replace(house.installation, master_keys=(first,))
    with pytest.raises(KeybrokerError, match="is not configured"):
        open_broker(house.installation, clock=house.clock, entropy=os.urandom)


def test_a_token_that_hangs_is_unavailable_after_some_seconds(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = open_master_key(uri, None)
    wrapped = key.wrap(KEY, PLACE, os.urandom(ENTROPY_BYTES))
    monkeypatch.setattr(cryptoki, "_WAIT_SECONDS", 0.2)
    module = cryptoki._modules[TokenUri.parse(uri).module]
    module._jobs.put((Future(), lambda: time.sleep(1)))
    for _ in range(2):
        with pytest.raises(KeybrokerError) as caught:
            key.unwrap(wrapped, PLACE)
        assert caught.value.problem is Problem.UNAVAILABLE
        assert "does not answer" in caught.value.detail
    time.sleep(1)
    assert key.unwrap(wrapped, PLACE) == KEY


def test_what_a_module_leaves_behind_is_no_error_of_our_own_tls(soft_token: SoftToken) -> None:
    """SoftHSM2 leaves errors in OpenSSL's queue, which is the thread's; ssl would take them for its own."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    connection = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    with pytest.raises(KeybrokerError):
        open_master_key(soft_token.uri("nothing"), None)
    create_in_token(soft_token.uri(os.urandom(8).hex()), None)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
