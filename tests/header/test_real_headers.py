"""Headers that cryptsetup wrote, or would write, are read and taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.luks.acceptance import accept
from agent.luks.header import read_header
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Profile, first_profile
from tests.header.conftest import SMALL
from tests.header.disks import KIB, MIB, OUR_TOKEN, Disk, cryptsetup, import_token, luks_format, opens

XTS = first_profile("aes-xts-plain64")
CBC = first_profile("aes-cbc-essiv:sha256")
GENEROUS = replace(XTS, argon2_memory_kib=1 << 20, most_keyslots=32, foreign_tokens=True)

AGENT = ("--luks2-metadata-size", "16k", "--luks2-keyslots-size", "4064k", "--offset", "8192")
SIXTEEN_MIB: tuple[str, ...] = ()

LAYOUTS: dict[str, tuple[Profile, int, tuple[str, ...]]] = {
    "as the agent makes it": (XTS, 5 * MIB, (*AGENT, "--sector-size", "4096")),
    "512-byte sectors": (XTS, 5 * MIB, (*AGENT, "--sector-size", "512")),
    "cryptsetup's own 16 MiB": (XTS, 17 * MIB, ("--key-size", "512")),
    "data at 32 MiB": (XTS, 33 * MIB, ("--offset", str(32 * MIB // 512), "--key-size", "512")),
    "label": (XTS, 5 * MIB, (*AGENT, "--label", "a label, ü")),
    "CBC with ESSIV": (CBC, 17 * MIB, ("--cipher", "aes-cbc-essiv:sha256", "--key-size", "256")),
    "64 KiB of metadata": (XTS, 17 * MIB, ("--luks2-metadata-size", "64k", "--key-size", "512")),
    "4 MiB of metadata": (XTS, 17 * MIB, ("--luks2-metadata-size", "4m", "--key-size", "512")),
    "a digest with the usual iterations": (XTS, 5 * MIB, (*AGENT, "--pbkdf-force-iterations", "200000")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_header_that_cryptsetup_makes_is_taken(layout: str, tmp_path: Path) -> None:
    profile, size, options = LAYOUTS[layout]
    path = luks_format(tmp_path / "disk", size, "--key-size", "512", *options)
    import_token(path, OUR_TOKEN)
    before = path.stat()
    with path.open("rb") as disk:
        header = read_header(lambda offset, length: os.pread(disk.fileno(), length, offset), size)
    accept(header, profile, header.pin)
    assert header.uuid == cryptsetup("luksUUID", path).stdout.decode().strip()
    assert (header.degraded, header.requirements) == (False, ())
    assert header.token is not None
    assert (header.token.volume, header.token.versions, header.token.keyslots) == (
        "kbv-q3m5x7abcdef",
        {0: 1},
        (0,),
    )
    assert header.pin.data_offset == header.segments[0].offset
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_each_change_gives_a_higher_sequence_and_keeps_the_pin(tmp_path: Path) -> None:
    path = luks_format(tmp_path / "disk", MIB + 64 * KIB, *SMALL)
    first = Disk.of(path).header()
    import_token(path, OUR_TOKEN)
    second = Disk.of(path).header()
    assert second.sequence > first.sequence
    assert second.pin == first.pin
    assert first.token is None


def test_another_volume_key_is_another_pin_though_the_uuid_is_the_same(tmp_path: Path) -> None:
    uuid = ("--uuid", "5ca1ab1e-0000-4000-8000-000000000001")
    pins = [
        Disk.of(luks_format(tmp_path / name, MIB + 64 * KIB, *SMALL, *uuid)).header().pin for name in "ab"
    ]
    assert pins[0].uuid == pins[1].uuid
    assert pins[0].digest != pins[1].digest


def test_many_keyslots_and_argon2_are_taken_only_where_the_profile_says_so(rich: Disk) -> None:
    header = rich.header()
    assert [slot.kdf.kind for slot in header.keyslots.values() if slot.kdf] == [
        "pbkdf2",
        "pbkdf2",
        "argon2id",
    ]
    accept(header, GENEROUS, header.pin)
    accept(header, replace(GENEROUS, argon2_memory_kib=64, most_keyslots=3), header.pin)
    for narrower, field in (
        (replace(GENEROUS, argon2_memory_kib=0), "keyslots.2.kdf.type"),
        (replace(GENEROUS, argon2_memory_kib=63), "keyslots.2.kdf.memory"),
        (replace(GENEROUS, most_keyslots=2), "number of keyslots"),
        (replace(GENEROUS, foreign_tokens=False), "tokens.1.type"),
    ):
        with pytest.raises(KeybrokerError, match=field) as refusal:
            accept(header, narrower, header.pin)
        assert refusal.value.problem is Problem.HEADER_REFUSED


def test_thirty_two_keyslots_fit(tmp_path: Path) -> None:
    path = luks_format(tmp_path / "disk", 17 * MIB, "--key-size", "512")
    key = tmp_path / "key"
    key.write_bytes(b"A" * 43)
    for _ in range(31):
        cryptsetup(
            "luksAddKey",
            "-q",
            "--key-file",
            "-",
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
            path,
            key,
        )
    header = Disk.of(path).header()
    accept(header, GENEROUS, header.pin)
    assert sorted(header.keyslots) == list(range(32))


def test_a_persistent_flag_is_taken_only_where_the_profile_says_so(plain: Disk) -> None:
    metadata = plain.json()
    metadata["config"]["flags"] = ["allow-discards"]
    header = plain.with_json(metadata).header()
    accept(header, replace(XTS, flags=("allow-discards",)), header.pin)
    with pytest.raises(KeybrokerError, match=r"config.flags: is allow-discards, must be absent"):
        accept(header, XTS, header.pin)


def test_a_header_in_mid_reencryption_is_read_and_then_refused(tmp_path: Path) -> None:
    path = luks_format(tmp_path / "disk", 3 * MIB, *SMALL)
    pin = Disk.of(path).header().pin
    cryptsetup(
        *(
            "reencrypt",
            "--init-only",
            "--force-offline-reencrypt",
            "--disable-locks",
            "-q",
            "--key-file",
            "-",
        ),
        *("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"),
        path,
    )
    header = Disk.of(path).header()
    assert header.requirements == ("online-reencrypt-v2",)
    assert header.seen().requirements == header.requirements
    assert header.pin == pin
    with pytest.raises(KeybrokerError, match=r"config.requirements: is online-reencrypt-v2, must be absent"):
        accept(header, GENEROUS, None)


def _opal(metadata: Any) -> None:
    segment = metadata["segments"]["0"]
    segment |= {"type": "hw-opal-crypt", "size": "65536"}
    segment |= {"opal_segment_number": 1, "opal_key_size": 32, "opal_segment_size": "65536"}
    metadata["config"]["requirements"] = {"mandatory": ["opal"]}


def _integrity(metadata: Any) -> None:
    metadata["segments"]["0"]["integrity"] = {
        "type": "hmac(sha256)",
        "journal_encryption": "none",
        "journal_integrity": "none",
        "key_size": 32,
    }


def _inline_tags(metadata: Any) -> None:
    _integrity(metadata)
    metadata["config"]["requirements"] = {"mandatory": ["inline-hw-tags"]}


def _priority_flag(metadata: Any) -> None:
    metadata["config"]["flags"] = ["high_priority"]


def _decryption(metadata: Any) -> None:
    """What ``reencrypt --decrypt`` of 2.7 leaves when it is interrupted (specification, section 4.9)."""
    metadata["keyslots"]["1"] = {
        "type": "reencrypt",
        "key_size": 1,
        "mode": "decrypt",
        "direction": "forward",
        "priority": 0,
        "area": {
            "type": "datashift-checksum",
            "offset": "524288",
            "size": "4096",
            "hash": "sha256",
            "sector_size": 4096,
            "shift_size": "1048576",
        },
    }
    now = metadata["segments"]["0"]
    metadata["segments"] = {
        "0": {"type": "linear", "offset": "1048576", "size": "4096"},
        "1": now | {"offset": "1052672", "iv_tweak": "8", "flags": ["in-reencryption"]},
        "2": now | {"flags": ["backup-previous"]},
        "3": {"type": "linear", "offset": "0", "size": "dynamic", "flags": ["backup-final"]},
    }
    metadata["digests"]["0"]["segments"] = ["1", "2"]
    metadata["config"]["requirements"] = {"mandatory": ["online-reencrypt-v3"]}


NEWER: dict[str, tuple[Callable[[Any], None], str]] = {
    "OPAL under dm-crypt (2.7)": (_opal, "config.requirements: is opal"),
    "data integrity, other key size (2.8)": (_integrity, "segments.0.integrity: is hmac"),
    "inline hardware tags (2.8)": (_inline_tags, "config.requirements: is inline-hw-tags"),
    "high priority (2.8)": (_priority_flag, "config.flags: is high_priority"),
    "decryption in progress (2.7)": (_decryption, "config.requirements: is online-reencrypt-v3"),
}


@pytest.mark.parametrize("layout", NEWER)
def test_a_layout_of_a_newer_cryptsetup_is_recognised_and_refused_by_name(layout: str, plain: Disk) -> None:
    change, reason = NEWER[layout]
    metadata = plain.json()
    change(metadata)
    header = plain.with_json(metadata).header()
    with pytest.raises(KeybrokerError) as refusal:
        accept(header, XTS, None)
    assert refusal.value.detail.startswith(reason)


def test_opal_without_its_requirement_is_refused_for_its_segment(plain: Disk) -> None:
    metadata = plain.json()
    _opal(metadata)
    del metadata["config"]["requirements"]
    with pytest.raises(KeybrokerError, match=r"segments.0.type: is hw-opal-crypt, must be crypt"):
        accept(plain.with_json(metadata).header(), XTS, None)


def test_what_2_7_and_later_write_for_an_ordinary_volume_is_taken(plain: Disk) -> None:
    """The order of the fields, an empty list of requirements and a priority are what differs."""
    metadata = plain.json()
    metadata["config"] = {"keyslots_size": "1015808", "requirements": {}, "flags": [], "json_size": "12288"}
    metadata["keyslots"]["0"]["priority"] = 1
    metadata = dict(reversed(metadata.items()))
    header = plain.with_json(metadata).header()
    accept(header, XTS, plain.header().pin)


def test_white_space_between_the_values_is_harmless(plain: Disk) -> None:
    text = plain.text().replace(":", ": ", 3).replace(",", ",\n\t")
    accept(plain.with_text(text).header(), XTS, plain.header().pin)


def test_every_disk_here_opens_with_its_passphrase(plain_path: Path, rich_path: Path) -> None:
    assert opens(plain_path)
    assert opens(rich_path, keyslot=2)
