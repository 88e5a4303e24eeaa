"""Whether a header may be opened whose disk is being encrypted in place: a profile and tables of its own.

Only for a plain volume whose header the broker had before the disk did (``keybroker.model.orders.prepare``).
cryptsetup keeps the filesystem's beginning at the disk's end, because the header lies where it was, and works
from the end to the beginning, moving everything up by the size of the header:

    header | 1: in the clear, where it always was | 2: hot | 3: encrypted | free | 0: the beginning, kept

| part | must be |
|---|---|
| requirements | ``online-reencrypt-v2`` alone |
| segment 0 | linear, the kept beginning; at last hot, where it belongs; or encrypted with all the rest |
| then | linear at its old place; at most one hot; the encrypted rest, its end the data's end |
| backup segments | the kept beginning, the filesystem that was, and all of it encrypted in the end |
| encrypted segments | the profile's cipher, the pinned sector size, iv_tweak by their place, no integrity |
| reencrypt keyslot | one: mode encrypt, backward, ``datashift`` by the pinned data offset |
| digests | the pinned key's, and the encryption's own, which has no segment |

``datashift`` needs no checksums: what is being written is never where it is read from, so a cut stretch is
done again. Source: cryptsetup 2.6.1, lib/luks2/luks2_reencrypt.c; every write to its end was logged and cut
(tests/kernel/inner/test_kernel_encrypt_in_place.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from agent.luks.acceptance import (
    SECTOR,
    accept,
    check_digest,
    check_flags,
    check_keyslot,
    check_stretch,
    check_tokens,
    equal,
    must,
    within,
)
from agent.luks.header import Header, Segment
from agent.luks.layers import OVERLAY, Helper
from agent.luks.midway import MORE_KEYSLOTS, REQUIREMENT
from agent.luks.objects import FINAL, HOT, MOVED
from agent.luks.table import CryptTable, LinearTable, check_crypt_table, check_linear_table
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin, Profile
from keybroker.wire.values import dataclass, replace

PREVIOUS: Final = "backup-previous"
RESILIENCE: Final = "datashift"
BACKWARD: Final = "hotzone-backward"
MOST_TARGETS: Final = 4

State = Literal["midway", "done"]

_LINEAR: Final = re.compile(r"([0-9]{1,19}) ([0-9]{1,19}) linear (\S+) ([0-9]{1,19}) ?")
_CRYPT: Final = re.compile(
    r"([0-9]{1,19}) ([0-9]{1,19}) crypt (\S+) (\S+) ([0-9]+) (\S+) ([0-9]{1,19})(?: .*)?"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is on a disk that is being encrypted in place, in bytes.

    Attributes:
        shift: how far the data moves up: the size of the header, and of the filesystem's beginning.
        shelf: where that beginning is kept.
        length: of the data; it ends there in the clear, and ``shift`` beyond once it is encrypted.
    """

    shift: int
    shelf: int
    length: int

    def offset(self, at: int, *, encrypted: bool) -> int:
        """Return where on the disk a place of the data is."""
        if encrypted:
            return at + self.shift
        return self.shelf + at if at < self.shift else at


def accept_in_place(header: Header, profile: Profile, pin: Pin, device_bytes: int) -> State:
    """Let a header pass whose encryption in place the broker knows of, or say what is wrong with it.

    Args:
        header: as it was read from the device that is about to be opened, or from its copy.
        pin: of that very header, before it was written.
        device_bytes: the size of the device.

    Raises:
        KeybrokerError: HEADER_REFUSED, with the field, what was found and what is allowed.
    """
    if not header.requirements:
        accept(header, profile, pin, told=False)
        return "done"
    equal("config.requirements", header.requirements, (REQUIREMENT,))
    check_flags(header, profile)
    check_tokens(header, profile)
    equal("uuid", header.uuid, pin.uuid)
    own = _check_keyslots(header, profile, pin)
    _check_digests(header, profile, pin, own)
    layout = layout_of(header)
    equal("where the data begins", layout.shift, pin.data_offset)
    _check_backups(header, layout, device_bytes)
    _check_stretches(header, layout)
    for segment in header.segments.values():
        if segment.kind != "linear":
            check_stretch(segment, profile, pin)
    return "midway"


def layout_of(header: Header) -> Layout:
    """Return where everything is (Raises: HEADER_REFUSED where the header does not say)."""
    moved, previous, final = (_backup(header, flag) for flag in (MOVED, PREVIOUS, FINAL))
    must(moved.size is not None, f"segments.{moved.number}.size", "dynamic", "a number")
    must(previous.size is not None, f"segments.{previous.number}.size", "dynamic", "a number")
    return Layout(final.offset, moved.offset, previous.size or 0)


def done_bytes(header: Header) -> tuple[int, int]:
    """Return how many bytes of how many are encrypted, what is hot apart, by the header."""
    layout = layout_of(header)
    used = [s for s in header.segments.values() if s.is_encrypted and not s.is_backup and not s.is_hot]
    return min(layout.length, sum(layout.length if s.size is None else s.size for s in used)), layout.length


def _backup(header: Header, flag: str) -> Segment:
    found = [segment for segment in header.segments.values() if segment.flags == (flag,)]
    must(len(found) == 1, f"number of segments that are {flag}", len(found), 1)
    return found[0]


def _check_backups(header: Header, layout: Layout, device_bytes: int) -> None:
    equal("number of backup segments", sum(s.is_backup for s in header.segments.values()), 3)
    moved, previous, final = (_backup(header, flag) for flag in (MOVED, PREVIOUS, FINAL))
    for segment in (moved, previous):
        equal(f"segments.{segment.number}.type", segment.kind, "linear")
    equal(f"segments.{moved.number}.size", moved.size, layout.shift)
    equal(f"segments.{previous.number}.offset", previous.offset, 0)
    must(
        layout.shift < layout.length and layout.length + layout.shift == layout.shelf,
        f"segments.{previous.number}.size",
        layout.length,
        f"to end {layout.shift} before the kept beginning at {layout.shelf}",
    )
    within(f"end of segments.{moved.number}", layout.shelf + layout.shift, (1, device_bytes))
    equal(f"segments.{final.number}.type", final.kind, "crypt")
    must(final.size is None, f"segments.{final.number}.size", final.size, "dynamic")


def _check_stretches(header: Header, layout: Layout) -> None:
    """Check that every byte of the data is in one place: in the clear, then hot, then encrypted."""
    stretches = [segment for segment in header.segments.values() if not segment.is_backup]
    equal("numbers of segments", tuple(each.number for each in stretches), tuple(range(len(stretches))))
    ranks, at = [], 0
    for segment in stretches:
        path = f"segments.{segment.number}"
        must(segment.flags in ((), (HOT,)), f"{path}.flags", segment.flags, f"absent, or {HOT}")
        is_clear = segment.kind == "linear"
        must(not (is_clear and segment.is_hot), f"{path}.flags", segment.flags, "absent")
        equal(f"{path}.offset", segment.offset, layout.offset(at, encrypted=not is_clear))
        if segment.size is None:  # all is encrypted, and only the last write is missing
            equal(
                f"{path}.size", "dynamic", "dynamic" if len(stretches) == 1 and not is_clear else "a number"
            )
            return
        if is_clear and at == 0:
            equal(f"{path}.size", segment.size, layout.shift)
        at += segment.size
        ranks.append(0 if is_clear else 1 if segment.is_hot else 2)
    equal("end of the data", at, layout.length)
    must(
        ranks == sorted(ranks) and ranks.count(1) <= 1 and ranks.count(2) <= 1 and ranks.count(0) <= 2,
        "segments",
        tuple(ranks),
        "in the clear, the hot one, the encrypted one",
    )


def _check_keyslots(header: Header, profile: Profile, pin: Pin) -> int:
    within("number of keyslots", len(header.keyslots), (2, profile.most_keyslots + MORE_KEYSLOTS))
    own = [each for each in header.keyslots.values() if each.kdf is None]
    equal("number of reencrypt keyslots", len(own), 1)
    path = f"keyslots.{own[0].number}"
    equal(f"{path}.key_size", own[0].key_bytes, 1)
    equal(f"{path}.mode", own[0].mode, "encrypt")
    equal(f"{path}.direction", own[0].direction, "backward")
    equal(f"{path}.area.type", own[0].area.kind, RESILIENCE)
    equal(f"{path}.area.shift_size", own[0].area.shift_bytes, pin.data_offset)
    for keyslot in header.keyslots.values():
        if keyslot is not own[0]:
            check_keyslot(keyslot, profile)
    return own[0].number


def _check_digests(header: Header, profile: Profile, pin: Pin, own: int) -> None:
    equal("number of digests", len(header.digests), 2)
    data = header.metadata.data_digest
    other = next(digest for digest in header.digests.values() if digest is not data)
    for digest in (data, other):
        check_digest(digest, profile)
    equal("digest of the volume key", data.fingerprint, pin.digest)
    equal(f"digests.{other.number}.keyslots", other.keyslots, (own,))
    equal(f"digests.{other.number}.segments", other.segments, ())
    encrypted = {segment.number for segment in header.segments.values() if segment.kind != "linear"}
    equal(f"digests.{data.number}.segments", tuple(sorted(data.segments)), tuple(sorted(encrypted)))


def meant_in_place(
    header: Header, device: str, device_bytes: int
) -> tuple[tuple[LinearTable, int] | CryptTable, ...]:
    """Return the tables that a header in the middle must lead to, target by target.

    Args:
        header: that was accepted, with no segment hot: opening it has put that right.
        device, device_bytes: as for ``agent.luks.table.meant``.

    Returns:
        Of what is in the clear, the linear table and where in the volume it begins, in sectors.
    """
    layout, found, at = layout_of(header), [], 0
    for segment in (each for each in header.segments.values() if not each.is_backup):
        size = device_bytes - layout.shift if segment.size is None else segment.size
        if segment.kind == "linear":
            table: tuple[LinearTable, int] | CryptTable = (
                LinearTable(size // SECTOR, device, segment.offset // SECTOR), at // SECTOR
            )  # fmt: skip
        else:
            table = crypt_table(header, device, size, at)
        found.append(table)
        at += size
    return tuple(found)


def crypt_table(header: Header, device: str, size: int, at: int) -> CryptTable:
    """Return the table of a stretch that is encrypted; ``size`` and ``at``, where it begins, in bytes."""
    data, segment = header.metadata.data_digest, header.metadata.data_segment
    key_bytes = header.keyslots[next(iter(data.keyslots))].key_bytes
    return CryptTable(
        sectors=size // SECTOR,
        cipher=segment.cipher,
        key_bytes=key_bytes,
        key=f":{key_bytes}:logon:cryptsetup:{header.uuid}-d{data.number}",
        device=device,
        offset=(segment.offset + at) // SECTOR,
        sector_size=segment.sector_size,
        start=at // SECTOR,
    )


def check_targets(text: str, tables: tuple[tuple[LinearTable, int] | CryptTable, ...]) -> None:
    """Compare a table of several targets with what was meant (Raises: as ``check_crypt_table``)."""
    lines = text.splitlines()
    if len(lines) != len(tables):
        raise _wrong(f"it has {len(lines)} targets, not {len(tables)}")
    for line, table in zip(lines, tables, strict=True):
        if isinstance(table, CryptTable):
            check_crypt_table(line, table)
            continue
        linear, start = table
        match = _LINEAR.fullmatch(line)
        if match is None or int(match[1]) != start:
            raise _wrong(f"where {linear.line} was meant, from sector {start} on, is another target")
        check_linear_table(f"0 {match[2]} linear {match[3]} {match[4]}", linear)


def check_layers_in_place(
    text: str, whole: CryptTable, layout: Layout, helpers: Mapping[str, Helper]
) -> None:
    """Compare a volume's tables with what they may be while it is encrypted in place.

    At whatever moment a look falls, each sector must lead to the volume's own disk: through its cipher to the
    place where it will stay, or as it is to the place where it always was.

    Args:
        text: the table of the dm-crypt device.
        whole: what the volume is in the end, over ``layout.length``; its ``key`` without the digest's number.
        helpers: those that there are, by what is behind the name.

    Raises:
        KeybrokerError: WRONG_DEVICE, HEADER_REFUSED, as ``agent.luks.table.check_crypt_table``.
    """
    places = {whole.device: whole.offset}
    overlay, hotzone = helpers.get(OVERLAY), helpers.get(BACKWARD)
    if overlay is not None and text.count("\n") <= 1 and f" linear {overlay.node} " in text:
        check_linear_table(text, LinearTable(whole.sectors, overlay.node))
        text = overlay.table
        if hotzone is not None:
            check_linear_table(hotzone.table, LinearTable(whole.sectors, whole.device, whole.offset))
            places[hotzone.node] = 0
    at, lines = 0, text.splitlines()
    if not 1 <= len(lines) <= MOST_TARGETS:
        raise _wrong(f"it has {len(lines)} targets")
    for line in lines:
        at += _check_target(line.strip(), at, whole, layout, places)
    if at != whole.sectors:
        raise _wrong(f"it ends at {at}, not {whole.sectors}")


def _check_target(line: str, at: int, whole: CryptTable, layout: Layout, places: Mapping[str, int]) -> int:
    if (clear := _LINEAR.fullmatch(line)) is not None:
        start, length, device, offset = int(clear[1]), int(clear[2]), clear[3], int(clear[4])
        meant = layout.offset(at * SECTOR, encrypted=False) // SECTOR
        beyond = at * SECTOR < layout.shift < (at + length) * SECTOR
        if (start, device, offset) != (at, whole.device, meant) or beyond:
            raise _wrong(f"sectors {start} to {start + length} lead to {offset} on {device}, not {meant}")
        return length
    match = _CRYPT.fullmatch(line)
    if match is None or int(match[1]) != at or match[6] not in places:
        raise _wrong(f"its target at sector {at} is no such one, or stands elsewhere")
    number = re.fullmatch(re.escape(whole.key) + "([0-9]+)", match[4])
    table = replace(
        whole,
        sectors=int(match[2]),
        key=whole.key + (number[1] if number else "0"),
        device=match[6],
        offset=places[match[6]] + at,
        start=at,
    )
    check_crypt_table(line, table)
    return int(match[2])


def _wrong(what: str) -> KeybrokerError:
    return KeybrokerError(Problem.WRONG_DEVICE, f"kernel table: {what}")
