"""Whether a header may be opened with a volume's key: every field against the volume's profile and pin.

No cryptsetup version asks these questions. A forged header with a right checksum and a ``cipher_null``
segment opens with the *legitimate* passphrase, and the database then writes plaintext (CVE-2025-59054,
CVE-2025-58356). So nothing here is "probably fine": what the profile does not say is refused.

| part | must be |
|---|---|
| segments | exactly ``0``: crypt, dynamic, iv_tweak 0, the profile's cipher, no flags, no integrity |
| keyslots | 1 to ``most_keyslots``, type luks2, raw areas of the profile's cipher and key size |
| splitter | luks1, 4000 stripes, sha256 |
| kdf | pbkdf2 with sha256 within bounds; argon2 only within the profile's memory |
| digests | exactly one, pbkdf2 with sha256 within bounds, of all keyslots and segment 0; equal to the pin's |
| tokens | ours, once; others only where the profile says so |
| config | flags of the profile, no requirements |
| binary header | UUID equal to the pin's, no subsystem |

Each refusal names the field, what was found and what is allowed.
"""

from __future__ import annotations

from typing import Final

from agent.luks.header import Header, Kdf, Keyslot
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin, Profile

STRIPES: Final = 4000
HASH: Final = "sha256"
DIGEST_BYTES: Final = 32

MOST_ARGON2_PASSES: Final = 16
"""Over the most memory that the profile allows; cryptsetup's benchmark ends at 4 to 10 of them."""

MOST_ARGON2_CPUS: Final = 4
"""cryptsetup's own bound on what it writes (lib/libcryptsetup.h)."""

AREA_ALIGNMENT: Final = 4096


def accept(header: Header, profile: Profile, pin: Pin | None) -> None:
    """Let a header pass, or say what is wrong with it.

    Args:
        header: as it was read from the device that is about to be opened.
        profile: of the volume.
        pin: what the broker remembers of the volume's own header; None before there is one.

    Raises:
        KeybrokerError: HEADER_REFUSED, with the field, what was found and what is allowed.
    """
    _check_config(header, profile)
    _check_segment(header, profile)
    _check_keyslots(header, profile)
    _check_digest(header, profile)
    _check_tokens(header, profile)
    if pin is not None:
        _check_pin(header.pin, pin)


def area_bytes(key_bytes: int) -> int:
    """Return the size of the area that a key of ``key_bytes`` takes in the keyslots area.

    cryptsetup reads this much whatever the area's ``size`` says (lib/luks2/luks2_keyslot_luks2.c), so that
    any other size would hide an overlap.
    """
    return -(-key_bytes * STRIPES // AREA_ALIGNMENT) * AREA_ALIGNMENT


def _refused(field: str, found: object, allowed: object) -> KeybrokerError:
    said = ", ".join(map(str, found)) if isinstance(found, tuple) else str(found)
    return KeybrokerError(Problem.HEADER_REFUSED, f"{field}: is {said or 'empty'}, must be {allowed}")


def _must(good: bool, field: str, found: object, allowed: object) -> None:
    if not good:
        raise _refused(field, found, allowed)


def _within(field: str, found: int, bounds: tuple[int, int]) -> None:
    _must(bounds[0] <= found <= bounds[1], field, found, f"from {bounds[0]} to {bounds[1]}")


def _equal(field: str, found: object, allowed: object) -> None:
    _must(found == allowed, field, found, allowed)


def _check_config(header: Header, profile: Profile) -> None:
    # first of all: opened from a header copy in mid re-encryption, data rolls back (8 MiB were seen to)
    _must(not header.requirements, "config.requirements", header.requirements, "absent")
    foreign = tuple(flag for flag in header.metadata.flags if flag not in profile.flags)
    _must(not foreign, "config.flags", foreign, ", ".join(profile.flags) or "absent")
    _must(not header.subsystem, "subsystem", header.subsystem, "empty")


def _check_segment(header: Header, profile: Profile) -> None:
    _must(tuple(header.segments) == (0,), "segments", tuple(header.segments), "0 alone")
    segment = header.segments[0]
    _equal("segments.0.type", segment.kind, "crypt")
    _must(segment.size is None, "segments.0.size", segment.size, "dynamic")
    _equal("segments.0.iv_tweak", segment.iv_tweak, 0)
    _equal("segments.0.encryption", segment.cipher, profile.cipher)
    _must(not segment.flags, "segments.0.flags", segment.flags, "absent")
    _must(segment.integrity is None, "segments.0.integrity", segment.integrity, "absent")
    sizes = " or ".join(map(str, profile.sector_sizes))
    _must(segment.sector_size in profile.sector_sizes, "segments.0.sector_size", segment.sector_size, sizes)
    _within("segments.0.offset", segment.offset, profile.data_offsets)


def _check_keyslots(header: Header, profile: Profile) -> None:
    _within("number of keyslots", len(header.keyslots), (1, profile.most_keyslots))
    for keyslot in header.keyslots.values():
        _check_keyslot(f"keyslots.{keyslot.number}", keyslot, profile)


def _check_keyslot(path: str, keyslot: Keyslot, profile: Profile) -> None:
    if keyslot.kdf is None:
        raise _refused(f"{path}.type", keyslot.kind, "luks2")
    _equal(f"{path}.key_size", keyslot.key_bytes, profile.key_bytes)
    _equal(f"{path}.area.encryption", keyslot.area.cipher, profile.cipher)
    _equal(f"{path}.area.key_size", keyslot.area.key_bytes, profile.key_bytes)
    _equal(f"{path}.area.size", keyslot.area.size, area_bytes(profile.key_bytes))
    _equal(f"{path}.af.stripes", keyslot.stripes, STRIPES)
    _equal(f"{path}.af.hash", keyslot.splitter_hash, HASH)
    _check_kdf(f"{path}.kdf", keyslot.kdf, profile)


def _check_kdf(path: str, kdf: Kdf, profile: Profile) -> None:
    if kdf.kind == "pbkdf2":
        _equal(f"{path}.hash", kdf.hash, HASH)
        _within(f"{path}.iterations", kdf.iterations, profile.pbkdf2_iterations)
        return
    _must(profile.argon2_memory_kib > 0, f"{path}.type", kdf.kind, "pbkdf2")
    _within(f"{path}.memory", kdf.memory_kib, (1, profile.argon2_memory_kib))
    most = MOST_ARGON2_PASSES * profile.argon2_memory_kib // kdf.memory_kib
    _within(f"{path}.time", kdf.iterations, (1, most))
    _within(f"{path}.cpus", kdf.cpus, (1, MOST_ARGON2_CPUS))


def _check_digest(header: Header, profile: Profile) -> None:
    _equal("number of digests", len(header.digests), 1)
    digest = header.metadata.data_digest
    path = f"digests.{digest.number}"
    _equal(f"{path}.hash", digest.hash, HASH)
    _within(f"{path}.iterations", digest.iterations, profile.pbkdf2_iterations)
    _equal(f"length of {path}.digest", len(digest.digest), DIGEST_BYTES)
    # its keyslots and segments need no look: each belongs to exactly one digest, or the header is not read


def _check_tokens(header: Header, profile: Profile) -> None:
    ours = [token for token in header.tokens.values() if token.volume is not None]
    _must(len(ours) <= 1, "tokens", f"{len(ours)} of ours", "one of ours at most")
    foreign = [token for token in header.tokens.values() if token.volume is None]
    if foreign:
        path = f"tokens.{foreign[0].number}.type"
        _must(profile.foreign_tokens, path, foreign[0].kind, "keybroker, or the profile has to allow others")


def _check_pin(found: Pin, pin: Pin) -> None:
    for field, here, pinned in (
        ("uuid", found.uuid, pin.uuid),
        ("digest of the volume key", found.digest, pin.digest),
        ("segments.0.offset", found.data_offset, pin.data_offset),
        ("segments.0.sector_size", found.sector_size, pin.sector_size),
    ):
        _must(here == pinned, field, here, f"{pinned}, as pinned")
