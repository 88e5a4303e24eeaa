"""Whether a header may be opened with a volume's key: every field against the volume's profile and pin.

No cryptsetup version asks these questions. A forged header with a right checksum and a ``cipher_null``
segment opens with the *legitimate* passphrase, and the database then writes plaintext (CVE-2025-59054,
CVE-2025-58356). So nothing here is "probably fine": what the profile does not say is refused.

| part | must be |
|---|---|
| segments | exactly ``0``: crypt, dynamic, iv_tweak 0, the profile's cipher, no flags, no integrity |
| keyslots | 1 to ``most_keyslots``, type luks2, raw areas of the profile's cipher and key size |
| splitter | luks1, 4000 stripes, a hash of the profile's |
| kdf | pbkdf2 with a hash of the profile's within bounds; argon2 only within the profile's memory |
| digests | exactly one, pbkdf2 likewise, of a length of the profile's, of all keyslots and segment 0 |
| tokens | ours, once; others only where the profile says so |
| config | flags of the profile, no requirements |
| binary header | UUID and digest equal to the pin's, no subsystem |

Each refusal names the field, what was found and what is allowed.
"""

from __future__ import annotations

from typing import Final

from agent.luks.header import Digest, Header, Kdf, Keyslot, Segment
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin, Profile
from keybroker.wire.records import Record

SECTOR: Final = 512
STRIPES: Final = 4000
HASH: Final = "sha256"

MOST_ARGON2_PASSES: Final = 16
"""Over the most memory that the profile allows; cryptsetup's benchmark ends at 4 to 10 of them."""

MOST_ARGON2_CPUS: Final = 4
"""cryptsetup's own bound on what it writes (lib/libcryptsetup.h)."""

AREA_ALIGNMENT: Final = 4096


def accept(header: Header, profile: Profile, pin: Pin | None, *, told: bool = True) -> None:
    """Let a header pass, or say what is wrong with it.

    Args:
        header: as it was read from the device that is about to be opened.
        profile: of the volume.
        pin: what the broker remembers of the volume's own header; None before there is one.
        told: our token must name the key version of every keyslot that it is assigned to.

    Raises:
        KeybrokerError: HEADER_REFUSED, with the field, what was found and what is allowed.
    """
    # first of all: opened from a header copy in mid re-encryption, data rolls back (8 MiB were seen to)
    must(not header.requirements, "config.requirements", header.requirements, "absent")
    check_flags(header, profile)
    check_segment(header, profile)
    check_keyslots(header, profile, profile.most_keyslots)
    equal("number of digests", len(header.digests), 1)
    check_digest(header.metadata.data_digest, profile)
    # its keyslots and segments need no look: each belongs to exactly one digest, or the header is not read
    check_tokens(header, profile)
    if told:
        _check_told(header)
    if pin is not None:
        check_pin(header.pin, pin)


def judge(header: Header, record: Record, device_bytes: int) -> str:
    """Let a volume's header pass, by the profile that its record asks for now.

    Args:
        device_bytes: the size of the device.

    Returns:
        ``whole``, or the state of the re-encryption that was announced (``agent.luks.midway.State``).

    Raises:
        KeybrokerError: HEADER_REFUSED, with the field, what was found and what is allowed.
    """
    if record.pin is None:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: the broker has no pin for it")
    if record.order is not None and record.order.is_reencrypting:
        if record.order.kind == "encrypt":
            from agent.luks.inplace import accept_in_place

            return accept_in_place(header, record.profile, record.pin, device_bytes)
        from agent.luks.midway import accept_begun  # most boots have no use for it

        return accept_begun(header, record.profile, record.pin, record.order, device_bytes)
    accept(header, record.profile, record.pin)
    return "whole"


def area_bytes(key_bytes: int) -> int:
    """Return the size of the area that a key of ``key_bytes`` takes in the keyslots area.

    cryptsetup reads this much whatever the area's ``size`` says (lib/luks2/luks2_keyslot_luks2.c), so that
    any other size would hide an overlap.
    """
    return -(-key_bytes * STRIPES // AREA_ALIGNMENT) * AREA_ALIGNMENT


def _refused(field: str, found: object, allowed: object) -> KeybrokerError:
    said = ", ".join(map(str, found)) if isinstance(found, tuple) else str(found)
    return KeybrokerError(Problem.HEADER_REFUSED, f"{field}: is {said or 'empty'}, must be {allowed}")


def must(good: bool, field: str, found: object, allowed: object) -> None:
    """Refuse a field unless it is good."""
    if not good:
        raise _refused(field, found, allowed)


def within(field: str, found: int, bounds: tuple[int, int]) -> None:
    """Refuse a number that is out of bounds."""
    must(bounds[0] <= found <= bounds[1], field, found, f"from {bounds[0]} to {bounds[1]}")


def one_of(field: str, found: object, allowed: tuple[object, ...]) -> None:
    """Refuse any value but some."""
    must(found in allowed, field, found, " or ".join(map(str, allowed)))


def equal(field: str, found: object, allowed: object) -> None:
    """Refuse any value but one."""
    must(found == allowed, field, found, allowed)


def check_flags(header: Header, profile: Profile) -> None:
    """Refuse flags that the profile does not allow, and a subsystem."""
    foreign = tuple(flag for flag in header.metadata.flags if flag not in profile.flags)
    must(not foreign, "config.flags", foreign, ", ".join(profile.flags) or "absent")
    must(not header.subsystem, "subsystem", header.subsystem, "empty")


def check_segment(header: Header, profile: Profile) -> None:
    """Refuse any other segments than one of the profile's kind."""
    must(tuple(header.segments) == (0,), "segments", tuple(header.segments), "0 alone")
    segment = header.segments[0]
    equal("segments.0.type", segment.kind, "crypt")
    must(segment.size is None, "segments.0.size", segment.size, "dynamic")
    equal("segments.0.iv_tweak", segment.iv_tweak, 0)
    equal("segments.0.encryption", segment.cipher, profile.cipher)
    must(not segment.flags, "segments.0.flags", segment.flags, "absent")
    must(segment.integrity is None, "segments.0.integrity", segment.integrity, "absent")
    one_of("segments.0.sector_size", segment.sector_size, profile.sector_sizes)
    within("segments.0.offset", segment.offset, profile.data_offsets)


def check_stretch(segment: Segment, profile: Profile, pin: Pin) -> None:
    """Refuse a segment, of several, that is not encrypted as the pinned one is, with the IVs of its place."""
    path = f"segments.{segment.number}"
    equal(f"{path}.type", segment.kind, "crypt")
    equal(f"{path}.encryption", segment.cipher, profile.cipher)
    equal(f"{path}.sector_size", segment.sector_size, pin.sector_size)
    must(segment.integrity is None, f"{path}.integrity", segment.integrity, "absent")
    must(segment.offset >= pin.data_offset, f"{path}.offset", segment.offset, f"{pin.data_offset} or more")
    equal(f"{path}.iv_tweak", segment.iv_tweak, (segment.offset - pin.data_offset) // SECTOR)


def check_keyslots(header: Header, profile: Profile, most: int) -> None:
    """Refuse more than ``most`` keyslots, and one that the profile does not allow."""
    within("number of keyslots", len(header.keyslots), (1, most))
    for keyslot in header.keyslots.values():
        check_keyslot(keyslot, profile)


def check_keyslot(keyslot: Keyslot, profile: Profile) -> None:
    """Refuse a keyslot that holds no key, or holds one in another way than the profile allows."""
    path = f"keyslots.{keyslot.number}"
    if keyslot.kdf is None:
        raise _refused(f"{path}.type", keyslot.kind, "luks2")
    equal(f"{path}.key_size", keyslot.key_bytes, profile.key_bytes)
    equal(f"{path}.area.encryption", keyslot.area.cipher, profile.cipher)
    equal(f"{path}.area.key_size", keyslot.area.key_bytes, profile.key_bytes)
    equal(f"{path}.area.size", keyslot.area.size, area_bytes(profile.key_bytes))
    equal(f"{path}.af.stripes", keyslot.stripes, STRIPES)
    one_of(f"{path}.af.hash", keyslot.splitter_hash, profile.hashes)
    _check_kdf(f"{path}.kdf", keyslot.kdf, profile)


def _check_kdf(path: str, kdf: Kdf, profile: Profile) -> None:
    if kdf.kind == "pbkdf2":
        one_of(f"{path}.hash", kdf.hash, profile.hashes)
        within(f"{path}.iterations", kdf.iterations, profile.pbkdf2_iterations)
        return
    must(profile.argon2_memory_kib > 0, f"{path}.type", kdf.kind, "pbkdf2")
    within(f"{path}.memory", kdf.memory_kib, (1, profile.argon2_memory_kib))
    most = MOST_ARGON2_PASSES * profile.argon2_memory_kib // kdf.memory_kib
    within(f"{path}.time", kdf.iterations, (1, most))
    within(f"{path}.cpus", kdf.cpus, (1, MOST_ARGON2_CPUS))


def check_digest(digest: Digest, profile: Profile) -> None:
    """Refuse a digest that takes more or less work than the profile allows."""
    path = f"digests.{digest.number}"
    one_of(f"{path}.hash", digest.hash, profile.hashes)
    within(f"{path}.iterations", digest.iterations, profile.pbkdf2_iterations)
    one_of(f"length of {path}.digest", len(digest.digest), profile.digest_bytes)


def _check_told(header: Header) -> None:
    token = header.token
    untold = () if token is None else tuple(n for n in token.keyslots if token.version(n) is None)
    if token is not None and untold:
        raise _refused(
            f"tokens.{token.number}.versions", f"without {', '.join(map(str, untold))}", "of all its keyslots"
        )


def check_tokens(header: Header, profile: Profile) -> None:
    """Refuse a second token of ours, and tokens of others unless the profile lets them be there."""
    ours = [token for token in header.tokens.values() if token.volume is not None]
    must(len(ours) <= 1, "tokens", f"{len(ours)} of ours", "one of ours at most")
    foreign = [token for token in header.tokens.values() if token.volume is None]
    if foreign:
        path = f"tokens.{foreign[0].number}.type"
        must(profile.foreign_tokens, path, foreign[0].kind, "keybroker, or the profile has to allow others")


def check_pin(found: Pin, pin: Pin) -> None:
    """Refuse a header that is not the pinned one."""
    for field, here, pinned in (
        ("uuid", found.uuid, pin.uuid),
        ("digest of the volume key", found.digest, pin.digest),
        ("segments.0.offset", found.data_offset, pin.data_offset),
        ("segments.0.sector_size", found.sector_size, pin.sector_size),
    ):
        must(here == pinned, field, here, f"{pinned}, as pinned")
