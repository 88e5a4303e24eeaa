"""Whether a header may be opened that is on its way to another volume key: a stricter profile of its own.

Only for a volume whose re-encryption the broker was told of before the header was touched; for any other,
``agent.luks.acceptance`` refuses the first word of it (CVE-2021-4122: by a forged re-encryption, cryptsetup
decrypts a disk for whoever has the legitimate passphrase). An announced one goes through four states:

| state | header | opened from |
|---|---|---|
| untouched | as pinned | the copy |
| torn | as pinned; keyslots of a volume key without a segment: the beginning was cut | the copy |
| midway | requirement; segments of the pinned key and of the announced one | the disk itself |
| done | as pinned, but under the announced key; our token may not know the new keyslot | the copy |

Midway, beyond what every keyslot and digest must be:

| part | must be |
|---|---|
| requirements | ``online-reencrypt-v2`` alone |
| segments | from the pinned offset on, without a gap: the new key's, the hot one, the old key's |
| backup segments | ``backup-previous`` of the pinned key, ``backup-final`` of the announced one |
| all segments | crypt, the profile's cipher, the pinned sector size, iv_tweak by their place, no integrity |
| reencrypt keyslot | one: mode reencrypt, forward, checksums by sha256, no data shift |
| digests | the pinned key's, the announced one's, and the re-encryption's own, which has no segment |

Source: LUKS2 On-Disk Format Specification 1.1.4, section 3.3; cryptsetup 2.6.1, lib/luks2/luks2_reencrypt.c.
"""

from __future__ import annotations

from typing import Final, Literal

from agent.luks.acceptance import (
    HASH,
    accept,
    check_digest,
    check_flags,
    check_keyslot,
    check_keyslots,
    check_pin,
    check_segment,
    check_stretch,
    check_tokens,
    equal,
    must,
    within,
)
from agent.luks.completion import is_complete
from agent.luks.header import Digest, Header, Keyslot
from agent.luks.objects import HOT
from keybroker.wire.orders import Order
from keybroker.wire.profile import Pin, Profile

REQUIREMENT: Final = "online-reencrypt-v2"
RESILIENCE: Final = "checksum"

MORE_KEYSLOTS: Final = 2
"""What a re-encryption needs beyond the volume's own keyslots: the new key's, and its own."""

State = Literal["untouched", "torn", "midway", "done"]


def accept_begun(header: Header, profile: Profile, pin: Pin, order: Order, device_bytes: int) -> State:
    """Let a header pass whose re-encryption was announced, or say what is wrong with it.

    Args:
        header: as it was read from the device that is about to be opened.
        pin: what the broker remembers of the header before.
        order: that has begun; its digest is None while the broker does not know that of the new volume key.
        device_bytes: the size of the device.

    Raises:
        KeybrokerError: HEADER_REFUSED, with the field, what was found and what is allowed.
    """
    if header.requirements:
        _check_midway(header, profile, pin, order, device_bytes)
        return "midway"
    if order.digest is not None and header.metadata.data_digest.fingerprint == order.digest:
        accept(header, profile, under(pin, order.digest), told=False)
        return "done"
    if len(header.digests) > 1:
        _check_torn(header, profile, pin)
        return "torn"
    accept(header, profile, pin)
    return "untouched"


def under(pin: Pin, digest: str) -> Pin:
    """Return what the broker will pin when the volume is all under another volume key."""
    return Pin(pin.uuid, digest, pin.data_offset, pin.sector_size)


def new_digest(header: Header) -> str | None:
    """Return the digest of the volume key that a header leads to; None unless it is midway."""
    final = next((s.number for s in header.segments.values() if s.flags == ("backup-final",)), None)
    if not header.requirements or final is None:
        return None
    return next((d.fingerprint for d in header.digests.values() if final in d.segments), None)


def done_bytes(header: Header, device_bytes: int) -> tuple[int, int]:
    """Return how many bytes of how many are under the new volume key, what is hot apart, by the header."""
    if header.metadata.final is not None:
        from agent.luks.inplace import done_bytes as done_in_place

        return done_in_place(header)
    total = device_bytes - header.data_offset
    if not header.requirements:
        return total, total
    new = new_digest(header)
    digest = next((d for d in header.digests.values() if d.fingerprint == new), None)
    done = 0
    for segment in header.segments.values():
        if digest is not None and segment.number in digest.segments and not segment.flags:
            done += device_bytes - segment.offset if segment.size is None else segment.size
    return min(done, total), total


def _check_torn(header: Header, profile: Profile, pin: Pin) -> None:
    """Check a header whose re-encryption was cut before its first segment was written."""
    check_flags(header, profile)
    check_segment(header, profile)
    check_keyslots(header, profile, profile.most_keyslots + MORE_KEYSLOTS)
    for digest in header.digests.values():
        check_digest(digest, profile)
        equal(f"digests.{digest.number}.segments", digest.segments, (0,) if 0 in digest.segments else ())
        must(bool(digest.keyslots), f"digests.{digest.number}.keyslots", digest.keyslots, "at least one")
    check_tokens(header, profile)
    check_pin(header.pin, pin)


def _check_midway(header: Header, profile: Profile, pin: Pin, order: Order, device_bytes: int) -> None:
    equal("config.requirements", header.requirements, (REQUIREMENT,))
    check_flags(header, profile)
    check_tokens(header, profile)
    equal("uuid", header.uuid, pin.uuid)
    for segment in header.segments.values():
        check_stretch(segment, profile, pin)
    old, new = _check_backups(header, pin)
    _check_digests(header, profile, pin, order, old, new)
    _check_stretches(header, pin, old, new, device_bytes)
    _check_keyslots(header, profile, old, new)


def _check_backups(header: Header, pin: Pin) -> tuple[Digest, Digest]:
    """Return the digests of the old and the new volume key, which the two backup segments belong to."""
    found = []
    backups = [segment for segment in header.segments.values() if segment.is_backup]
    equal("number of backup segments", len(backups), 2)
    for flag in ("backup-previous", "backup-final"):
        segment = next((each for each in backups if each.flags == (flag,)), None)
        if segment is None:
            must(False, "segments", "without " + flag, "with it")
            raise AssertionError
        equal(f"segments.{segment.number}.offset", segment.offset, pin.data_offset)
        must(segment.size is None, f"segments.{segment.number}.size", segment.size, "dynamic")
        digests = [each for each in header.digests.values() if segment.number in each.segments]
        equal(f"number of digests of segments.{segment.number}", len(digests), 1)
        found.append(digests[0])
    return found[0], found[1]


def _check_digests(
    header: Header, profile: Profile, pin: Pin, order: Order, old: Digest, new: Digest
) -> None:
    equal("number of digests", len(header.digests), 3)
    for digest in header.digests.values():
        check_digest(digest, profile)
    equal("digest of the old volume key", old.fingerprint, pin.digest)
    must(new.number != old.number, "digest of the new volume key", "the old one's", "another")
    if order.digest is not None:
        equal("digest of the new volume key", new.fingerprint, order.digest)


def _check_stretches(header: Header, pin: Pin, old: Digest, new: Digest, device_bytes: int) -> None:
    """Check the stretches of the new key, of both (hot), and of the old key, up to the data's end."""
    stretches = [segment for segment in header.segments.values() if not segment.is_backup]
    equal("numbers of segments", tuple(each.number for each in stretches), tuple(range(len(stretches))))
    at = pin.data_offset
    for segment in stretches:
        path = f"segments.{segment.number}"
        must(segment.flags in ((), (HOT,)), f"{path}.flags", segment.flags, f"absent, or {HOT}")
        equal(f"{path}.offset", segment.offset, at)
        dynamic = segment.size is None
        must(
            not dynamic or segment is stretches[-1], f"{path}.size", "dynamic", "a number, except in the last"
        )
        at = device_bytes if segment.size is None else at + segment.size
        must(segment.offset < at <= device_bytes, f"{path}.size", segment.size, f"to end at {device_bytes}")
        both = segment.number in new.segments and segment.number in old.segments
        must(
            segment.is_hot == both, f"{path}.flags", segment.flags, f"{HOT} exactly where it is of both keys"
        )
    ranks = tuple(1 if each.is_hot else 0 if each.number in new.segments else 2 for each in stretches)
    must(ranks == tuple(sorted(set(ranks))), "segments", ranks, "the new key's, the hot one, the old key's")
    others = {n for digest in header.digests.values() if digest not in (old, new) for n in digest.segments}
    must(not others, "segments of a third digest", tuple(sorted(others)), "none")


def _check_keyslots(header: Header, profile: Profile, old: Digest, new: Digest) -> None:
    most = profile.most_keyslots + MORE_KEYSLOTS
    bare = is_complete(header)  # the old key's keyslots go before the rest of the re-encryption does
    within("number of keyslots", len(header.keyslots), (2 if bare else 3, most))
    own = [each for each in header.keyslots.values() if each.kdf is None]
    equal("number of reencrypt keyslots", len(own), 1)
    _check_own(own[0])
    for keyslot in header.keyslots.values():
        if keyslot is not own[0]:
            check_keyslot(keyslot, profile)
            must(
                keyslot.number in (*old.keyslots, *new.keyslots),
                f"keyslots.{keyslot.number}",
                "of another digest",
                "of the old or the new volume key",
            )
    third = next(each for each in header.digests.values() if each not in (old, new))
    equal(f"digests.{third.number}.keyslots", third.keyslots, (own[0].number,))
    for digest in (new,) if bare else (old, new):
        must(bool(digest.keyslots), f"digests.{digest.number}.keyslots", digest.keyslots, "at least one")


def _check_own(keyslot: Keyslot) -> None:
    path = f"keyslots.{keyslot.number}"
    equal(f"{path}.key_size", keyslot.key_bytes, 1)
    equal(f"{path}.mode", keyslot.mode, "reencrypt")
    equal(f"{path}.direction", keyslot.direction, "forward")
    equal(f"{path}.area.type", keyslot.area.kind, RESILIENCE)
    equal(f"{path}.area.hash", keyslot.area.hash, HASH)
    must(
        keyslot.area.block_bytes in (512, 1024, 2048, 4096),
        f"{path}.area.sector_size",
        keyslot.area.block_bytes,
        "a sector's size",
    )
