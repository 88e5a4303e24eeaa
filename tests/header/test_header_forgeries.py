"""Each field of the JSON area, times each class of wrong value, checksums right: nothing gets through."""

from __future__ import annotations

import os
import re
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from agent.luks.acceptance import accept
from agent.luks.header import Read, read_header
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin, Profile, first_profile
from tests.header.disks import Disk, Image
from tests.header.forgeries import forge, scrambled
from tests.header.judging import destination

XTS: Final = first_profile("aes-xts-plain64")
ARGON2: Final = replace(XTS, argon2_memory_kib=64)

SCRAMBLED: Final = int(os.environ.get("KEYBROKER_FORGERIES", "3000"))
"""How many random ones; a night takes a million."""

HARMLESS: Final = re.compile(
    # another salt: the passphrase does not open it any more
    r"keyslots\.[0-9]\.kdf\.salt: in capitals"
    # argon2i for argon2id, within the same bounds: another key again
    r"|keyslots\.2\.kdf\.type: without its last character"
    # in which order keyslots are tried, when the caller does not name one as we do
    r"|keyslots\.1\.priority: (missing|zero)"
    # without our token, or with one that names another version or slot, no key or a wrong one is tried
    r"|tokens: an empty object|tokens\.0: missing"
    r"|tokens\.0\.versions(\.0)?: (itself twice|and one more|and 256 more|more in it)"
    r"|tokens\.0\.keyslots: an empty list"
    r"|tokens\.0\.keyslots\.0: (missing|nothing at all|a number in a string|and one more)"
)
"""What says something else, and opens nothing else: all that may get through."""


def verdict(read: Read, size: int, profile: Profile, pin: Pin) -> str | None:
    """Say why a disk is refused, None if it is not; an exception of another kind fails the test."""
    try:
        accept(read_header(read, size), profile, pin)
    except KeybrokerError as refusal:
        assert refusal.problem is Problem.HEADER_REFUSED
        assert 0 < len(refusal.detail) <= 1000
        assert refusal.detail.isprintable()
        return refusal.detail
    return None


def judged(image: Image, profile: Profile, pin: Pin) -> str | None:
    """Open a file as the agent opens a device, and judge its header."""
    fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return verdict(
            lambda offset, length: os.pread(fd, length, offset), os.fstat(fd).st_size, profile, pin
        )
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("kind", "copies"),
    [("plain", (False, True)), ("rich", (False, True)), ("plain", (False,))],
    ids=["one keyslot", "three keyslots", "one keyslot, the second copy damaged"],
)
def test_no_forged_field_gets_through(
    kind: str, copies: tuple[bool, ...], request: pytest.FixtureRequest
) -> None:
    """In memory. ``test_no_passphrase_for_forgeries`` has the same ones on a real file."""
    disk: Disk = request.getfixturevalue(kind)
    pin = disk.header().pin
    document = disk.json()
    document["tokens"].pop(
        "1", None
    )  # another tool's token may say anything where the profile lets it be there
    forgeries = list(forge(document))
    disk = disk if True in copies else disk.without(second=True)
    through = [
        forgery.name
        for forgery in forgeries
        if verdict(disk.with_text(forgery.text, copies=copies).read, disk.size, ARGON2, pin) is None
    ]
    print(
        f"{kind}: {len(forgeries)} forgeries, {len(forgeries) - len(through)} refused, the rest is harmless"
    )
    assert len(forgeries) > 2500
    assert [name for name in through if HARMLESS.fullmatch(name) is None] == []


@pytest.mark.limit(120 + SCRAMBLED // 500)
def test_no_scrambled_header_gets_through_that_leads_elsewhere(
    rich: Disk, rich_path: Path, tmp_path: Path
) -> None:
    """Several wrong values at once, some of them from other places of the same header."""
    good = rich.header()
    document = rich.json()
    del document["tokens"]["1"]
    image = Image(rich_path, tmp_path / "image")
    refused = 0
    for seed in range(SCRAMBLED):
        disk = rich.with_text(scrambled(document, seed))
        image.forge(disk)
        refusal = judged(image, ARGON2, good.pin)
        assert image.is_untouched, seed
        if refusal is None:
            header = disk.header()
            assert header.segments == good.segments, seed
            assert destination(header, rich.size) == destination(good, rich.size), seed
            assert header.pin == good.pin, seed
        else:
            refused += 1
    print(f"{SCRAMBLED} scrambled headers, {refused} refused, the others lead to the same volume")
    assert refused > SCRAMBLED * 0.9


BOMBS: Final = {
    "lists": b"{" + b"[" * 4_000_000,
    "objects": b'{"a":' * 800_000,
    "numbers": b'{"a":[' + b"0," * 2_000_000,
    "backslashes": b'{"' + b"\\" * 4_000_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_that_fills_the_largest_header_is_not_even_decoded(bomb: str, plain: Disk) -> None:
    disk = plain.grown(4 << 20).with_text(BOMBS[bomb])
    with pytest.raises(KeybrokerError, match="bytes, at most 262144 are read"):
        disk.header()


LARGEST: Final = 250_000
DENSE: Final = {
    "lists": b"{" + b"[" * LARGEST,
    "small lists": b'{"a":[' + b"[]," * (LARGEST // 3) + b"0]}",
    "objects": b'{"a":[' + b"{}," * (LARGEST // 3) + b"0]}",
    "keys": b"{" + b",".join(b'"%d":0' % i for i in range(LARGEST // 10)) + b"}",
    "escapes": b'{"a":"' + b"\\u0041" * (LARGEST // 6) + b'"}',
    "quotes": b'{"a":"' + b'\\"' * (LARGEST // 2) + b'"}',
    "an open string": b'{"a":"' + b'\\"' * (LARGEST // 2),
    "digits": b'{"a":' + b"9" * LARGEST + b"}",
    "spaces": b"{" + b" " * LARGEST + b"}",
}


@pytest.mark.parametrize("bomb", DENSE)
def test_the_densest_text_that_is_decoded_costs_little_time_and_memory(bomb: str, plain: Disk) -> None:
    disk = plain.grown(1 << 20).with_text(DENSE[bomb])
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(KeybrokerError) as refusal:
        disk.header()
    spent, (_, most) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refusal.value.problem is Problem.HEADER_REFUSED
    assert spent < 2
    assert most < 64 << 20
