"""Headers that other tools made: read, refused for a volume of ours, and accepted where one is adopted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.luks import copy
from agent.luks.acceptance import accept
from agent.luks.header import Header, read_header
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.profile import CIPHERS, Profile, adopted_profile, first_profile
from tests.header import strangers
from tests.header.disks import Disk
from tests.header.strangers import STRANGERS


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with strangers.tang(tmp_path_factory.mktemp("tang")) as port:
        yield port


def header_of(path: Path) -> Header:
    held = path.read_bytes()
    return read_header(lambda offset, length: held[offset : offset + length], len(held))


@pytest.mark.parametrize("tool", STRANGERS)
def test_what_real_tools_make_is_accepted_where_it_is_adopted_and_nowhere_else(
    tool: str, tmp_path: Path, port: int
) -> None:
    made = STRANGERS[tool](tmp_path / "disk", port)
    cipher = strangers.CIPHERS.get(tool, "aes-xts-plain64")
    header = header_of(made.path)
    accept(header, adopted_profile(cipher), header.pin)
    if tool != "essiv":  # which is one of ours but for the passphrase
        with pytest.raises(KeybrokerError):
            accept(header, first_profile(cipher), header.pin)
    held = made.path.read_bytes()
    image = copy.unpack(copy.pack(header, lambda offset, length: held[offset : offset + length]))
    assert read_header(image.read, image.total).pin == header.pin
    assert made.opens()


def test_null_is_read_in_a_field_of_another_tool_s_token_and_nowhere_else(plain: Disk) -> None:
    metadata = plain.json()
    metadata["tokens"]["1"] = {"type": "Azure_Disk_Encryption", "keyslots": [], "AttestationURL": None}
    assert plain.with_json(metadata).header().tokens[1].kind == "Azure_Disk_Encryption"
    for where in ("type", "keyslots"):
        worse = json.loads(json.dumps(metadata))
        worse["tokens"]["1"][where] = None
        with pytest.raises(KeybrokerError):
            plain.with_json(worse).header()
    for name in ("volume", "versions"):
        worse = json.loads(json.dumps(metadata))
        worse["tokens"]["0"][name] = None
        with pytest.raises(KeybrokerError):
            plain.with_json(worse).header()


def test_a_short_digest_is_for_adopted_volumes_only(tmp_path: Path) -> None:
    header = header_of(strangers.converted(tmp_path / "disk", 0).path)
    strict = replace(adopted_profile("aes-xts-plain64"), digest_bytes=(32, 64))
    with pytest.raises(KeybrokerError, match=r"length of digests\.0\.digest: is 20, must be 32 or 64"):
        accept(header, strict, None)


def read(profile: Profile, **changes: object) -> Profile:
    told = {**profile.as_json(), **changes}
    return Profile.read(Fields({name: value for name, value in told.items() if value is not None}))


@pytest.mark.parametrize("cipher", CIPHERS)
def test_an_adopted_volume_s_profile_travels_whole(cipher: str) -> None:
    assert read(adopted_profile(cipher)) == adopted_profile(cipher)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_profile_that_an_older_broker_wrote_means_what_it_meant(cipher: str) -> None:
    assert read(first_profile(cipher), hashes=None, digest_bytes=None) == first_profile(cipher)
