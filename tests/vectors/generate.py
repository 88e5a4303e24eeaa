"""Writes tests/vectors/envelope: KBE1 blobs, each with at most one defect, and what has to come of it.

    python tests/vectors/generate.py

It knows the format from the text in keybroker/envelope.py and shares no code with it: HKDF is pyca's, bytes
are put together by hand. Everything in it is fixed, so that running it again changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HERE = Path(__file__).with_name("envelope")

SUCCESS = "success"
HEADER = "header failure"
NO_KEY = "no such key"
COMMITMENT = "commitment failure"
AUTHENTICATION = "authentication failure"
FORM = "form failure"


def fixed(name: str, length: int) -> bytes:
    """Return bytes that look random and never change."""
    return hashlib.shake_256(name.encode()).digest(length)


PASSPHRASE = b"k7Wm-Zq3vX9_bN2cR8tYpL5sD1fGhJ4kA6uE0iO-TwQ"
KEY = fixed("key", 32)
KEY_ID = fixed("key id", 16)


@dataclass(frozen=True)
class Place:
    """The context: where the blob was found."""

    addon: bytes = b"shop-db"
    volume: bytes = b"kbv-q3m5x7abcdef"
    luks_uuid: bytes = b"5f0e63b1-3c0f-4f0a-9d3e-2f6d3c9b1a77"
    version: int = 1
    purpose: bytes = b"luks-passphrase"

    def encode(self) -> bytes:
        def prefixed(value: bytes) -> bytes:
            return len(value).to_bytes(2, "big") + value

        return (
            prefixed(b"KBE1")
            + b"\x01"
            + prefixed(self.addon)
            + prefixed(self.volume)
            + prefixed(self.luks_uuid)
            + self.version.to_bytes(4, "big")
            + prefixed(self.purpose)
        )


@dataclass(frozen=True)
class Making:
    """Everything that goes into a blob, so that a defect is one field changed."""

    place: Place = field(default_factory=Place)
    plaintext: bytes = PASSPHRASE
    key: bytes = KEY
    key_id: bytes = KEY_ID
    generation: int = 1
    salt: bytes = field(default_factory=lambda: fixed("salt", 32))
    nonce: bytes = field(default_factory=lambda: fixed("nonce", 12))
    magic: bytes = b"KBE1"
    suite: int = 1
    flags: int = 0
    label_encryption: bytes = b"KBE1 enc"
    label_commitment: bytes = b"KBE1 com"
    commitment: bytes | None = None
    length: int | None = None
    aad: bytes | None = None
    used_nonce: bytes | None = None

    def derive(self, label: bytes) -> bytes:
        return HKDF(SHA512(), 32, self.salt, label + self.place.encode()).derive(self.key)

    def blob(self) -> bytes:
        length = len(self.plaintext) if self.length is None else self.length
        commitment = self.derive(self.label_commitment) if self.commitment is None else self.commitment
        header = (
            self.magic
            + bytes((self.suite, self.flags))
            + self.key_id
            + self.generation.to_bytes(4, "big")
            + self.salt
            + commitment
            + self.nonce
            + length.to_bytes(4, "big")
        )
        assert len(header) == 106
        aad = header + self.place.encode() if self.aad is None else self.aad
        cipher = AESGCM(self.derive(self.label_encryption))
        return header + cipher.encrypt(self.used_nonce or self.nonce, self.plaintext, aad)


@dataclass(frozen=True)
class Vector:
    """One file."""

    name: str
    expect: str
    about: str
    blob: bytes
    place: Place = field(default_factory=Place)
    keys: tuple[tuple[bytes, int, bytes], ...] = ((KEY_ID, 1, KEY),)
    plaintext: bytes | None = None

    def text(self) -> str:
        lines = [f"expect: {self.expect}", f"about: {self.about}"]
        lines += [f"key: {name.hex()} {generation} {key.hex()}" for name, generation, key in self.keys]
        lines += [
            f"addon: {self.place.addon.decode()}",
            f"volume: {self.place.volume.decode()}",
            f"luks-uuid: {self.place.luks_uuid.decode()}",
            f"version: {self.place.version}",
            f"purpose: {self.place.purpose.decode()}",
        ]
        if self.plaintext is not None:
            lines.append(f"plaintext: {self.plaintext.hex()}")
        lines.append(f"blob: {self.blob.hex()}")
        return "\n".join(lines) + "\n"


GOOD = Making()


def flipped(blob: bytes, bit: int) -> bytes:
    """Return ``blob`` with one bit changed, counted from its first byte's highest."""
    changed = bytearray(blob)
    changed[bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed)


def successes() -> Iterator[Vector]:
    def good(name: str, about: str, making: Making, **more: object) -> Vector:
        made = Vector(name, SUCCESS, about, making.blob(), making.place, plaintext=making.plaintext)
        return replace(made, **more)  # type: ignore[arg-type]

    yield good("passphrase", "a passphrase, version 1", GOOD)
    yield good("passphrase-version-2", "another version", replace(GOOD, place=Place(version=2)))
    yield good(
        "passphrase-last-version",
        "the highest version there is",
        replace(GOOD, place=Place(version=2**32 - 1)),
    )
    copy = replace(GOOD, place=Place(purpose=b"header-backup"), plaintext=fixed("header", 5000))
    yield good("header-copy", "a header copy of 5000 bytes", copy)
    yield good("header-copy-one-byte", "the smallest copy", replace(copy, plaintext=b"\x00"))
    addon_key = Place(volume=b"", luks_uuid=b"", purpose=b"addon-key")
    yield good(
        "addon-key", "an add-on's key", replace(GOOD, place=addon_key, plaintext=fixed("addon key", 32))
    )
    check = Place(b"", b"", b"", 1, b"key-check")
    yield good("key-check", "a master key's check value", replace(GOOD, place=check, plaintext=bytes(32)))
    other = (fixed("other id", 16), 1, fixed("other key", 32))
    yield good("second-of-two-keys", "the blob names its key", GOOD, keys=(other, (KEY_ID, 1, KEY)))
    yield good(
        "second-generation",
        "two generations of one key",
        replace(GOOD, generation=2, key=fixed("second", 32)),
        keys=((KEY_ID, 1, KEY), (KEY_ID, 2, fixed("second", 32))),
    )
    yield good("zero-salt", "a salt is as good as any other", replace(GOOD, salt=bytes(32)))
    yield good("zero-nonce", "so is a nonce", replace(GOOD, nonce=bytes(12)))


def header_failures() -> Iterator[Vector]:
    blob = GOOD.blob()

    def bad(name: str, about: str, blob: bytes) -> Vector:
        return Vector(f"header-{name}", HEADER, about, blob)

    yield bad("empty", "nothing at all", b"")
    yield bad("one-byte", "one byte", blob[:1])
    yield bad("cut-105", "one byte less than a header", blob[:105])
    yield bad("cut-106", "a header alone", blob[:106])
    yield bad("cut-tag", "without its tag", blob[:-16])
    yield bad("cut-last", "without its last byte", blob[:-1])
    yield bad("one-more", "with a byte after its end", blob + b"\x00")
    yield bad("newline", "with a newline after its end", blob + b"\n")
    yield bad("twice", "the blob twice", blob * 2)
    yield bad("shifted", "with a byte before its beginning", b"\x00" + blob)
    yield bad("hex", "in hexadecimal", blob.hex().encode())
    for magic in (b"KBE0", b"KBE2", b"kbe1", b"\x00\x00\x00\x00", b"1EBK", b"KBH1"):
        yield bad(f"magic-{magic.hex()}", f"the magic {magic!r}", replace(GOOD, magic=magic).blob())
    for suite in (0, 2, 128, 255):
        yield bad(f"suite-{suite}", f"suite {suite}", replace(GOOD, suite=suite).blob())
    for bit in range(8):
        yield bad(f"flag-{bit}", f"flag {1 << bit:#04x}", replace(GOOD, flags=1 << bit).blob())
    for length in (0, 42, 44, 59, 4194305, 2**31, 2**32 - 1):
        yield bad(f"length-{length}", f"a length of {length}", replace(GOOD, length=length).blob())


def key_failures() -> Iterator[Vector]:
    blob = GOOD.blob()
    for name, about, bit in (("first", "id's first", 48), ("last", "id's last", 175)):
        yield Vector(f"no-key-id-{name}-bit", NO_KEY, f"the {about} bit", flipped(blob, bit))
    for generation in (0, 2, 2**32 - 1):
        made = replace(GOOD, generation=generation).blob()
        yield Vector(f"no-key-generation-{generation}", NO_KEY, f"generation {generation}", made)
    yield Vector("no-key-none", NO_KEY, "there is no key at all", blob, keys=())
    swapped = ((fixed("other id", 16), 1, KEY),)
    yield Vector("no-key-other-name", NO_KEY, "the key is there under another name", blob, keys=swapped)


def commitment_failures() -> Iterator[Vector]:
    blob = GOOD.blob()

    def bad(name: str, about: str, blob: bytes, place: Place | None = None) -> Vector:
        return Vector(f"commitment-{name}", COMMITMENT, about, blob, place or Place())

    yield bad("first-bit", "its first bit", flipped(blob, 58 * 8))
    yield bad("last-bit", "its last bit", flipped(blob, 90 * 8 - 1))
    yield bad("zero", "all zero", replace(GOOD, commitment=bytes(32)).blob())
    yield bad("label", "made with the encryption's label", replace(GOOD, label_commitment=b"KBE1 enc").blob())
    yield bad("salt-first-bit", "the salt's first bit", flipped(blob, 26 * 8))
    yield bad("salt-last-bit", "the salt's last bit", flipped(blob, 58 * 8 - 1))
    yield Vector(
        "commitment-other-key",
        COMMITMENT,
        "another key under this key's name",
        blob,
        keys=((KEY_ID, 1, fixed("other key", 32)),),
    )
    moved = {
        "addon": Place(addon=b"shop-dc"),
        "addon-empty": Place(addon=b""),
        "addon-longer": Place(addon=b"shop-db2"),
        "volume": Place(volume=b"kbv-q3m5x7abcdeg"),
        "uuid": Place(luks_uuid=b"5f0e63b1-3c0f-4f0a-9d3e-2f6d3c9b1a78"),
        "uuid-capitals": Place(luks_uuid=b"5F0E63B1-3C0F-4F0A-9D3E-2F6D3C9B1A77"),
        "version-next": Place(version=2),
        "version-zero": Place(version=0),
        "purpose-header": Place(purpose=b"header-backup"),
        "purpose-addon-key": Place(purpose=b"addon-key"),
        "purpose-check": Place(purpose=b"key-check"),
        "volume-and-uuid-swapped": Place(
            volume=b"5f0e63b1-3c0f-4f0a-9d3e-2f6d3c9b1a77", luks_uuid=b"kbv-q3m5x7abcdef"
        ),
        "boundary": Place(addon=b"shop-dbk", volume=b"bv-q3m5x7abcdef"),
    }
    for name, place in moved.items():
        yield bad(f"moved-{name}", f"found at another place: {name}", blob, place)


def authentication_failures() -> Iterator[Vector]:
    blob = GOOD.blob()

    def bad(name: str, about: str, blob: bytes) -> Vector:
        return Vector(f"authentication-{name}", AUTHENTICATION, about, blob)

    yield bad("nonce-first-bit", "the nonce's first bit", flipped(blob, 90 * 8))
    yield bad("nonce-last-bit", "the nonce's last bit", flipped(blob, 102 * 8 - 1))
    yield bad("first-bit", "the ciphertext's first bit", flipped(blob, 106 * 8))
    yield bad("last-bit", "the ciphertext's last bit", flipped(blob, (len(blob) - 16) * 8 - 1))
    yield bad("tag-first-bit", "the tag's first bit", flipped(blob, (len(blob) - 16) * 8))
    yield bad("tag-last-bit", "the tag's last bit", flipped(blob, len(blob) * 8 - 1))
    yield bad("tag-zero", "a tag of zeros", blob[:-16] + bytes(16))
    yield bad("ciphertext-zero", "a ciphertext of zeros", blob[:106] + bytes(43) + blob[-16:])
    yield bad("plaintext", "the plaintext itself", blob[:106] + PASSPHRASE + blob[-16:])
    yield bad("other-nonce", "sealed with another nonce", replace(GOOD, used_nonce=fixed("n", 12)).blob())
    yield bad("aad-empty", "sealed without associated data", replace(GOOD, aad=b"").blob())
    yield bad("aad-no-context", "the header alone is authenticated", replace(GOOD, aad=blob[:106]).blob())
    context = GOOD.place.encode()
    yield bad("aad-no-header", "the context alone is authenticated", replace(GOOD, aad=context).blob())
    swapped = replace(GOOD, label_encryption=b"KBE1 com")
    yield bad("label", "sealed with the commitment as its key", swapped.blob())
    other = replace(GOOD, salt=fixed("salt 2", 32)).blob()
    yield bad("other-body", "the body of another blob of the same place", blob[:106] + other[106:])
    grown = replace(GOOD, plaintext=PASSPHRASE + b"A").blob()
    cut = grown[:106][:102] + (43).to_bytes(4, "big") + grown[106:-17] + grown[-16:]
    yield bad("cut", "a longer ciphertext, cut, its length made right", cut)


def form_failures() -> Iterator[Vector]:
    passphrases = {
        "empty": b"",
        "short": PASSPHRASE[:-1],
        "long": PASSPHRASE + b"A",
        "newline": PASSPHRASE[:-1] + b"\n",
        "newline-more": PASSPHRASE + b"\n",
        "plus": b"+" + PASSPHRASE[1:],
        "slash": b"/" + PASSPHRASE[1:],
        "padded": PASSPHRASE + b"=",
        "space": b" " + PASSPHRASE[1:],
        "nul": PASSPHRASE[:-1] + b"\x00",
        "raw": fixed("raw", 32),
        "not-ascii": "é".encode() + PASSPHRASE[2:],
    }
    for name, plaintext in passphrases.items():
        about = f"no passphrase inside: {name}"
        yield Vector(f"form-passphrase-{name}", FORM, about, replace(GOOD, plaintext=plaintext).blob())
    addon_key = Place(volume=b"", luks_uuid=b"", purpose=b"addon-key")
    for size in (0, 31, 33, 64):
        made = replace(GOOD, place=addon_key, plaintext=fixed("key", size))
        about = f"an add-on's key of {size} bytes"
        yield Vector(f"form-addon-key-{size}", FORM, about, made.blob(), addon_key)
    copy = Place(purpose=b"header-backup")
    empty = replace(GOOD, place=copy, plaintext=b"")
    yield Vector("form-header-copy-empty", FORM, "an empty header copy", empty.blob(), copy)


def vectors() -> list[Vector]:
    """Return all of them."""
    return [
        *successes(),
        *header_failures(),
        *key_failures(),
        *commitment_failures(),
        *authentication_failures(),
        *form_failures(),
    ]


def main() -> None:
    """Write the files, and take away those that are none any more."""
    HERE.mkdir(exist_ok=True)
    wanted = {f"{vector.name}.txt": vector.text() for vector in vectors()}
    for path in HERE.glob("*.txt"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
