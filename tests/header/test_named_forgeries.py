"""Attacks that have a name, and the headers that cryptsetup itself calls invalid: every one is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from agent.luks.acceptance import accept
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import first_profile
from tests.header.disks import KIB, MIB, Disk, on_file, opens
from tests.header.named import ATTACKS, INVALID, grown

XTS: Final = first_profile("aes-xts-plain64")
PROFILE: Final = replace(XTS, argon2_memory_kib=64)
CALM: Final = replace(PROFILE, foreign_tokens=True)


@pytest.fixture
def three(rich: Disk) -> Disk:
    """Three keyslots and our token alone."""
    metadata = rich.json()
    del metadata["tokens"]["1"]
    return rich.with_json(metadata)


def test_the_header_that_is_forged_here_is_a_good_one(three: Disk) -> None:
    accept(three.header(), PROFILE, three.header().pin)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_known_attack_is_refused_for_its_reason(attack: str, three: Disk) -> None:
    make, reason = ATTACKS[attack]
    profile = replace(PROFILE, argon2_memory_kib=0) if "kdf.type" in reason else PROFILE
    with pytest.raises(KeybrokerError) as refusal:
        accept(make(three).header(), profile, three.header().pin)
    assert refusal.value.problem is Problem.HEADER_REFUSED
    assert reason in refusal.value.detail


@pytest.mark.parametrize("memory", [4 << 20, 65])
def test_argon2_with_more_memory_than_the_profile_has_is_refused_before_any_is_taken(
    memory: int, three: Disk
) -> None:
    metadata = three.json()
    metadata["keyslots"]["2"]["kdf"]["memory"] = memory
    with pytest.raises(KeybrokerError, match=r"keyslots\.2\.kdf\.memory: is [0-9]+, must be from 1 to 64"):
        accept(three.with_json(metadata).header(), PROFILE, None)


@pytest.mark.parametrize("case", INVALID)
def test_what_cryptsetup_calls_invalid_is_refused(case: str, three: Disk) -> None:
    with pytest.raises(KeybrokerError) as refusal:
        accept(INVALID[case](three).header(), CALM, three.header().pin)
    assert refusal.value.problem is Problem.HEADER_REFUSED


@pytest.mark.parametrize("kib", [16, 32, 64, 128, 256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("damaged", [None, False, True], ids=["both", "second alone", "first alone"])
def test_each_metadata_size_that_cryptsetup_allows_is_read_from_either_copy(
    kib: int, damaged: bool | None, three: Disk
) -> None:
    good = grown(kib * KIB)(three)
    disk = good if damaged is None else good.without(second=damaged)
    header = disk.header()
    accept(header, PROFILE, replace(three.header().pin, data_offset=16 * MIB))
    assert (header.header_bytes, header.degraded) == (kib * KIB, damaged is not None)
    assert header.metadata == good.header().metadata


def test_the_real_cryptsetup_takes_most_attacks_with_the_right_passphrase(
    three: Disk, rich_path: Path, tmp_path: Path
) -> None:
    """Why the agent looks for itself. What cryptsetup alone would make of every attack above."""
    assert opens(on_file(three, rich_path, tmp_path / "good"), keyslot=0)

    def verdict(name: str) -> bool | None:
        forged = on_file(ATTACKS[name][0](three), rich_path, tmp_path / name.replace("/", "-"))
        return opens(forged, keyslot=0, seconds=3)

    with ThreadPoolExecutor(max_workers=2) as pool:
        verdicts = dict(zip(ATTACKS, pool.map(verdict, ATTACKS), strict=True))
    taken = sorted(name for name, verdict in verdicts.items() if verdict)
    hung = sorted(name for name, verdict in verdicts.items() if verdict is None)
    print(f"of {len(verdicts)} attacks cryptsetup takes {len(taken)} and hangs on {len(hung)}:")
    print(*(f"  takes {name}" for name in taken), *(f"  hangs on {name}" for name in hung), sep="\n")
    assert "null cipher (CVE-2025-59054)" in taken
    assert "discards" in taken
    assert "a keyslot that hangs the boot" in hung
    assert len(taken) > 15
