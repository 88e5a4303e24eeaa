"""Headers that cryptsetup 2.7.5 and 2.8.6 wrote: taken where they fit, else refused for the right reason.

They were made by the programs themselves (tests/vectors/luks2/make.py), so that what those write is not
only read about.
"""

from __future__ import annotations

import functools
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from agent.luks import copy
from agent.luks.acceptance import accept
from agent.luks.completion import SALT_BYTES, Completion, completed, is_complete
from agent.luks.copy import HeaderImage
from agent.luks.header import Header, read_header
from agent.luks.hotzone import hot, settled
from agent.luks.midway import accept_begun, done_bytes, new_digest
from agent.luks.table import meant
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin, Profile, adopted_profile, first_profile

VERSIONS: Final = ("2.7.5", "2.8.6")
XTS: Final = first_profile("aes-xts-plain64")
ADOPTED: Final = adopted_profile("aes-xts-plain64")
ESSIV: Final = first_profile("aes-cbc-essiv:sha256")

PBKDF2: Final = "keyslots.0.kdf.type: is argon2id, must be pbkdf2"
MIDWAY: Final = "config.requirements: is online-reencrypt-v2, must be absent"
FOREIGN: Final = "must be keybroker, or the profile has to allow others"
NOT_OURS: Final = f"tokens.0.type: is luks2-keyring, {FOREIGN}"

FITS: Final[dict[str, str | None]] = dict.fromkeys(
    (
        "as ours", "as ours, 512", "small", "pbkdf2", "sector 512", "sector 4096", "keyslots size",
        "metadata 64k", "metadata 4m", "label", "uuid", "data at 32 MiB", "three keyslots", "prefer",
        "ignore", "ours unassigned", "killed keyslot", "changed key",
    )
)  # fmt: skip
ADOPTED_ONLY: Final[dict[str, str | None]] = {
    "defaults": PBKDF2,
    "argon2id": PBKDF2,
    "argon2i": "keyslots.0.kdf.type: is argon2i, must be pbkdf2",
    "argon2 beside": "keyslots.1.kdf.type: is argon2id, must be pbkdf2",
    "sha512": "keyslots.0.af.hash: is sha512, must be sha256",
    "four keyslots": "number of keyslots: is 4, must be from 1 to 3",
    "keyring token": NOT_OURS,
    "unbound token": NOT_OURS.replace("0", "3", 1),
    "clevis token": f"tokens.0.type: is clevis, {FOREIGN}",
    "ours and clevis": f"tokens.1.type: is clevis, {FOREIGN}",
    "from LUKS1": "length of digests.0.digest: is 20, must be 32",
}
NEVER: Final[dict[str, str | None]] = {
    "label and subsystem": "subsystem: is a-subsystem, must be empty",
    "data at 64 MiB": "segments.0.offset: is 67108864, must be from 1048576 to 33554432",
    "key of 256": "keyslots.0.key_size: is 32, must be 64",
    "essiv": "segments.0.encryption: is aes-cbc-essiv:sha256, must be aes-xts-plain64",
    "capi": "segments.0.encryption: is capi:xts(aes)-plain64, must be aes-xts-plain64",
    "unbound keyslot": "number of digests: is 2, must be 1",
    "erased": "number of keyslots: is 0, must be from 1 to ",
    "begun": MIDWAY,
    "begun, journal": MIDWAY,
    "begun, none": MIDWAY,
    "begun, one of two": MIDWAY,
    "begun, no keyslots": MIDWAY,
    "encrypting": MIDWAY,
    "hot": MIDWAY,
    "complete": MIDWAY,
    "done": "tokens.0.versions: is without 1, must be of all its keyslots",
}
UNREAD: Final = {"decrypting": "JSON area: segments.0.offset: is 0, before the end of the keyslots area at"}


@dataclass(frozen=True)
class Made:
    """One header: both copies of its metadata; what is behind them reads as zeros."""

    held: bytes
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Read as ``os.pread`` does, short at the end of the device."""
        end = min(offset + length, self.size)
        return self.held[offset:end].ljust(max(0, end - offset), b"\0")

    def header(self) -> Header:
        return read_header(self.read, self.size)

    def after(self, made: Completion) -> Header:
        """Read what a completion makes of it."""
        header = self.header()
        image = HeaderImage(((0, made.first), (header.header_bytes, made.second)), header.data_offset)
        return read_header(image.read, self.size)


@functools.cache
def archive(version: str) -> dict[str, Made]:
    path = Path(__file__).parents[1] / "vectors" / "luks2" / f"{version}.tar.xz"
    with tarfile.open(path) as opened:
        files = {member.name: opened.extractfile(member) for member in opened}
        held = {name: file.read() for name, file in files.items() if file is not None}
    index: dict[str, Any] = json.loads(held.pop("index.json"))
    return {name: Made(held[name], said["size"]) for name, said in index.items()}


def refusal(header: Header, profile: Profile) -> str | None:
    try:
        accept(header, profile, header.pin)
    except KeybrokerError as error:
        assert error.problem is Problem.HEADER_REFUSED
        return error.detail
    return None


CASES: Final = [(version, name) for version in VERSIONS for name in archive(version)]


def test_every_header_here_is_judged() -> None:
    known = {*FITS, *ADOPTED_ONLY, *NEVER, *UNREAD}
    assert {name for _, name in CASES} <= known
    assert {name for _, name in CASES} >= known - {"capi", "begun, no keyslots"}


@pytest.mark.parametrize(("version", "name"), CASES)
def test_a_header_is_taken_or_refused_for_its_reason(version: str, name: str) -> None:
    made = archive(version)[name]
    if name in UNREAD:
        with pytest.raises(KeybrokerError) as caught:
            made.header()
        assert caught.value.problem is Problem.HEADER_REFUSED
        assert caught.value.detail.startswith(UNREAD[name])
        return
    header = made.header()
    assert not header.degraded or name in ("hot", "complete")  # which were cut among their writes
    first, adopted = refusal(header, XTS), refusal(header, ADOPTED)
    if name in NEVER:
        reason = NEVER[name]
        assert reason is not None
        assert first is not None
        assert adopted is not None
        assert first.startswith(reason)
        assert adopted.startswith(reason)
        return
    assert first == {**FITS, **ADOPTED_ONLY}[name]
    assert adopted is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [*FITS, *ADOPTED_ONLY])
def test_what_is_taken_goes_to_the_broker_and_comes_back_and_leads_to_the_same_table(
    version: str, name: str
) -> None:
    made = archive(version)[name]
    header = made.header()
    image = copy.unpack(copy.pack(header, made.read))
    back = read_header(image.read, image.total)
    assert back.pin == header.pin
    assert meant(back, "253:0", made.size) == meant(header, "253:0", made.size)
    table = meant(header, "253:0", made.size)
    assert (table.cipher, table.key_bytes) == ("aes-xts-plain64", 64)
    assert table.offset * 512 == header.data_offset


@pytest.mark.parametrize("version", VERSIONS)
def test_essiv_is_taken_where_it_was_declared(version: str) -> None:
    header = archive(version)["essiv"].header()
    assert refusal(header, ESSIV) is None


def on_its_way(version: str, name: str) -> tuple[Header, Pin, Order, int]:
    """Return a header of a re-encryption, the pin of before, and the order that announced it."""
    made = archive(version)[name]
    header = made.header()
    segment = next(each for each in header.segments.values() if each.flags == ("backup-previous",))
    old = next(each for each in header.digests.values() if segment.number in each.segments)
    assert segment.sector_size is not None
    pin = Pin(header.uuid, old.fingerprint, segment.offset, segment.sector_size)
    return header, pin, Order(1, "reencrypt", "begun", new_digest(header)), made.size


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["begun", "begun, one of two", "hot", "complete"])
def test_an_announced_re_encryption_is_taken_at_each_of_its_states(version: str, name: str) -> None:
    header, pin, order, size = on_its_way(version, name)
    assert accept_begun(header, XTS, pin, order, size) == "midway"
    done, total = done_bytes(header, size)
    assert (done == 0) == (name != "complete")
    assert is_complete(header) == (name == "complete")
    assert (hot(header) is not None) == (name == "hot")
    assert total == size - header.data_offset


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("begun, journal", "area.type: is journal, must be checksum"),
        ("begun, none", "area.type: is none, must be checksum"),
    ],
)
def test_an_announced_one_of_weaker_resilience_is_refused(version: str, name: str, reason: str) -> None:
    header, pin, order, size = on_its_way(version, name)
    with pytest.raises(KeybrokerError, match=reason):
        accept_begun(header, XTS, pin, order, size)


def salts() -> tuple[bytes, bytes]:
    return os.urandom(SALT_BYTES), os.urandom(SALT_BYTES)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stretch_in_work_is_settled_and_what_is_complete_is_completed(version: str) -> None:
    header, pin, order, size = on_its_way(version, "hot")
    made = archive(version)["hot"]
    said = made.after(settled(header, salts=salts()))
    assert hot(said) is None
    assert accept_begun(said, XTS, pin, order, size) == "midway"
    header, pin, order, size = on_its_way(version, "complete")
    ended = archive(version)["complete"].after(completed(header, salts=salts()))
    assert accept_begun(ended, XTS, pin, order, size) == "done"
    assert not ended.requirements


@pytest.mark.parametrize("version", VERSIONS)
def test_a_re_encryption_that_nobody_announced_is_not_opened(version: str) -> None:
    header, pin, _, size = on_its_way(version, "begun")
    other = Order(1, "reencrypt", "begun", "sha256:" + "ab" * 32)
    with pytest.raises(KeybrokerError, match="digest of the new volume key"):
        accept_begun(header, XTS, pin, other, size)
