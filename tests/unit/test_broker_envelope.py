"""KBE1 opens exactly what was sealed, at exactly its place; all else fails for the reason it should."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keybroker.envelope import (
    ENTROPY_BYTES,
    HEADER_BYTES,
    LARGEST_PLAINTEXT,
    Context,
    EnvelopeError,
    Failure,
    Purpose,
    WrappingKey,
    seal,
    unseal,
)
from keybroker.wire.problems import Problem
from keybroker.wire.secret import Secret
from tests.vectors import generate

VECTORS = sorted((Path(__file__).parents[1] / "vectors" / "envelope").glob("*.txt"))

KEY = WrappingKey(b"i" * 16, 1, Secret(b"k" * 32))
PLACE = Context("shop", "kbv-q3m5x7abcdef", "5f0e63b1-3c0f-4f0a-9d3e-2f6d3c9b1a77", 1, Purpose.PASSPHRASE)
PASSPHRASE = Secret(b"A" * 43)
BLOB = seal(KEY, PLACE, PASSPHRASE, bytes(range(ENTROPY_BYTES)))


def find(name: bytes, generation: int) -> WrappingKey | None:
    return KEY if (name, generation) == (KEY.id, KEY.generation) else None


def failure(blob: bytes, place: Context = PLACE) -> Failure | None:
    try:
        unseal(find, place, blob)
    except EnvelopeError as error:
        assert error.problem is Problem.CORRUPT
        return error.failure
    return None


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_vector_comes_out_as_it_says(path: Path) -> None:
    lines = [line.split(": ", 1) for line in path.read_text().splitlines()]
    assert lines[0][0] == "expect"
    fields = {name: value for name, value in lines if name != "key"}
    keys = {}
    for name, value in lines:
        if name == "key":
            key_id, generation, key = value.split(" ")
            named = WrappingKey(bytes.fromhex(key_id), int(generation), Secret(bytes.fromhex(key)))
            keys[named.id, named.generation] = named
    place = Context(
        fields["addon"],
        fields["volume"],
        fields["luks-uuid"],
        int(fields["version"]),
        Purpose(fields["purpose"]),
    )
    blob = bytes.fromhex(fields["blob"])
    if fields["expect"] == "success":
        opened = unseal(lambda *name: keys.get(name), place, blob)
        assert opened.reveal() == bytes.fromhex(fields["plaintext"])
    else:
        with pytest.raises(EnvelopeError) as caught:
            unseal(lambda *name: keys.get(name), place, blob)
        assert caught.value.failure.value == fields["expect"]


def test_the_vectors_are_those_that_the_generator_writes() -> None:
    written = {path.name: path.read_text() for path in VECTORS}
    assert written == {f"{vector.name}.txt": vector.text() for vector in generate.vectors()}


def test_there_are_vectors_for_every_failure() -> None:
    counted = Counter(path.read_text().splitlines()[0].removeprefix("expect: ") for path in VECTORS)
    assert set(counted) == {"success", *(failure.value for failure in Failure)}
    assert min(counted.values()) >= 7
    assert sum(counted.values()) >= 60


def test_our_own_seal_makes_the_generator_s_bytes() -> None:
    making = generate.GOOD
    key = WrappingKey(making.key_id, making.generation, Secret(making.key))
    place = Context(
        making.place.addon.decode(),
        making.place.volume.decode(),
        making.place.luks_uuid.decode(),
        making.place.version,
        Purpose.PASSPHRASE,
    )
    assert seal(key, place, Secret(making.plaintext), making.salt + making.nonce) == making.blob()


def test_no_single_bit_can_change() -> None:
    opened = [bit for bit in range(len(BLOB) * 8) if failure(generate.flipped(BLOB, bit)) is None]
    assert opened == []


def test_no_length_but_its_own_opens() -> None:
    assert all(failure(BLOB[:length]) is Failure.HEADER for length in range(len(BLOB)))
    assert all(failure(BLOB + bytes(more)) is Failure.HEADER for more in range(1, 64))


names = st.text(max_size=40)
contexts = st.builds(Context, names, names, names, st.integers(0, 2**32 - 1), st.sampled_from(list(Purpose)))


@given(contexts, contexts)
def test_two_places_never_have_the_same_bytes(one: Context, other: Context) -> None:
    assert (one == other) == (one.encode() == other.encode())


@given(contexts, st.binary(min_size=1, max_size=300), st.binary(min_size=44, max_size=44))
def test_what_is_sealed_opens_at_its_place_and_nowhere_else(
    place: Context, plaintext: bytes, entropy: bytes
) -> None:
    place = replace(place, purpose=Purpose.HEADER_COPY)
    blob = seal(KEY, place, Secret(plaintext), entropy)
    assert len(blob) == HEADER_BYTES + len(plaintext) + 16
    assert unseal(find, place, blob).reveal() == plaintext
    assert failure(blob, replace(place, volume=place.volume + "x")) is Failure.COMMITMENT


def test_a_header_copy_is_longer_than_a_u16_could_say() -> None:
    place = replace(PLACE, purpose=Purpose.HEADER_COPY)
    copy = Secret(os.urandom(300 << 10))
    assert unseal(find, place, seal(KEY, place, copy, os.urandom(ENTROPY_BYTES))) == copy


def test_the_same_entropy_at_another_place_is_another_key_stream() -> None:
    moved = replace(PLACE, version=2)
    again = seal(KEY, moved, PASSPHRASE, bytes(range(ENTROPY_BYTES)))
    assert again[HEADER_BYTES:] != BLOB[HEADER_BYTES:]


@pytest.mark.parametrize("wrong", ["id", "key", "entropy", "plaintext"])
def test_sealing_refuses_what_it_could_not_open_again(wrong: str) -> None:
    name = b"i" * (15 if wrong == "id" else 16)
    key = Secret(b"k" * (31 if wrong == "key" else 32))
    plaintext = Secret(bytes(LARGEST_PLAINTEXT + 1)) if wrong == "plaintext" else PASSPHRASE
    with pytest.raises(ValueError, match="bytes"):
        seal(WrappingKey(name, 1, key), PLACE, plaintext, bytes(43 if wrong == "entropy" else 44))


def test_an_error_says_nothing_of_what_is_inside() -> None:
    inside = os.urandom(20).hex().encode()
    blob = seal(KEY, PLACE, Secret(inside), bytes(44))
    with pytest.raises(EnvelopeError) as caught:
        unseal(find, PLACE, blob)
    assert caught.value.failure is Failure.FORM
    assert inside.decode() not in str(caught.value) + caught.value.detail + repr(caught.value.hint)
