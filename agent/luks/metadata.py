"""The JSON area of a LUKS2 header, read into ``agent.luks.objects``, or a refusal that names the field.

Whoever last held the disk wrote it. It must say exactly what cryptsetup 2.6 to 2.9 write: a field that is not
known is refused, and every number and list has a bound. What it *may* say for a certain volume is
``agent.luks.acceptance``.

Source: LUKS2 On-Disk Format Specification 1.1.4, section 3.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from agent.luks.jsontext import decode, refused
from agent.luks.objects import FINAL, MOVED, Area, Digest, Kdf, Keyslot, Metadata, Segment, Token
from keybroker.wire import names, recovery
from keybroker.wire.fields import LARGEST_INTEGER, Fields
from keybroker.wire.problems import KeybrokerError, Problem

MOST_OBJECTS: Final = 32
MOST_DIGESTS: Final = 8
"""cryptsetup's own bounds (lib/luks2/luks2.h)."""

LARGEST_KEYSLOTS_AREA: Final = 128 << 20
"""In bytes (lib/luks2/luks2.h)."""

SALT_BYTES: Final = 32

_UINT32: Final = 2**32 - 1

TOKEN_TYPE: Final = "keybroker"  # noqa: S105  # a LUKS2 token's type

_OBJECT_NUMBER: Final = re.compile(r"[0-9]|[12][0-9]|3[01]")
_UINT64: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{4,128}={0,2}")
_WORD: Final = re.compile(r"[!-~]{1,64}")
_SEGMENT_SIZE: Final = re.compile(r"dynamic|0|[1-9][0-9]{0,18}")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")

_REENCRYPT_AREAS: Final = frozenset(
    {"none", "checksum", "journal", "datashift", "datashift-checksum", "datashift-journal"}
)


def read_metadata(text: bytes, header_bytes: int) -> Metadata:
    """Read the JSON text of one header copy.

    Args:
        text: the JSON area up to its first NUL.
        header_bytes: size of one copy, binary header included.

    Raises:
        KeybrokerError: HEADER_REFUSED, naming the path of the field.
    """
    try:
        return _metadata(decode(text), header_bytes)
    except KeybrokerError as error:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"JSON area: {error.detail}") from None


def _metadata(top: Any, header_bytes: int) -> Metadata:
    fields = Fields(top)
    config = fields.object("config")
    keyslots_bytes, flags, requirements = _config(config, header_bytes)
    segments = {n: _segment(n, one) for n, one in _numbered(fields, top, "segments", MOST_OBJECTS)}
    keyslots = {n: _keyslot(n, one) for n, one in _numbered(fields, top, "keyslots", MOST_OBJECTS)}
    digests = {
        n: _digest(n, one, keyslots, segments) for n, one in _numbered(fields, top, "digests", MOST_DIGESTS)
    }
    tokens = {n: _token(n, one, keyslots) for n, one in _numbered(fields, top, "tokens", MOST_OBJECTS)}
    fields.end()
    _check_bindings(keyslots, digests, segments)
    _check_places(keyslots, segments, 2 * header_bytes, keyslots_bytes)
    return Metadata(
        keyslots=MappingProxyType(keyslots),
        digests=MappingProxyType(digests),
        segments=MappingProxyType(segments),
        tokens=MappingProxyType(tokens),
        keyslots_bytes=keyslots_bytes,
        flags=flags,
        requirements=requirements,
    )


def _numbered(fields: Fields, top: Any, key: str, most: int) -> Iterator[tuple[int, Fields]]:
    """Yield the objects that are named ``0``, ``1`` …, in the order of their numbers."""
    objects = fields.object(key)
    found = list(top[key])
    if len(found) > most:
        raise refused(key, f"has {len(found)} objects, at most {most} are allowed")
    for name in found:
        if _OBJECT_NUMBER.fullmatch(name) is None:
            raise refused(key, f"{name[:20]!a} is not a number from 0 to {MOST_OBJECTS - 1}")
    for number in sorted(map(int, found)):
        yield number, objects.object(str(number))


def _uint64(fields: Fields, key: str, *, multiple: int = 1, least: int = 0) -> int:
    """Take a ``string-uint64`` of the specification's section 3, bounded by what a signed one holds."""
    value = int(fields.text(key, match=_UINT64))
    if value > LARGEST_INTEGER or value < least or value % multiple:
        raise fields.wrong(key, f"is {value}, must be a multiple of {multiple}, {least} or more")
    return value


def _base64(fields: Fields, key: str, least: int, most: int) -> bytes:
    text = fields.text(key, match=_BASE64)
    try:
        value = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise fields.wrong(key, "is not base64") from None
    if not least <= len(value) <= most:
        raise fields.wrong(key, f"has {len(value)} bytes, must have {least} to {most}")
    if binascii.b2a_base64(value, newline=False).decode() != text:
        raise fields.wrong(key, "is not base64 as an encoder writes it")
    return value


def _words(fields: Fields, key: str) -> tuple[str, ...]:
    """Take a list of flag-like words, none twice; an absent list is an empty one."""
    words = fields.optional(key, lambda key: fields.texts(key, most=16, each=64)) or ()
    if len(set(words)) != len(words) or not all(_WORD.fullmatch(word) for word in words):
        raise fields.wrong(key, "must be different words without spaces")
    return words


def _references(fields: Fields, key: str, known: Collection[int]) -> tuple[int, ...]:
    """Take a list of the numbers of objects that exist, none twice."""
    texts = fields.texts(key, most=MOST_OBJECTS, each=2)
    if len(set(texts)) != len(texts):
        raise fields.wrong(key, "names one of them twice")
    for text in texts:
        if _OBJECT_NUMBER.fullmatch(text) is None or int(text) not in known:
            raise fields.wrong(key, f"names {text!a}, which is not there")
    return tuple(int(text) for text in texts)


def _config(fields: Fields, header_bytes: int) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    json_bytes = _uint64(fields, "json_size")
    # the size is in the header twice, and who believes this one looks for the keyslots elsewhere
    if json_bytes != header_bytes - 4096:
        raise fields.wrong("json_size", f"is {json_bytes}, the binary header says {header_bytes - 4096}")
    keyslots_bytes = _uint64(fields, "keyslots_size", multiple=4096)
    if keyslots_bytes > LARGEST_KEYSLOTS_AREA:
        raise fields.wrong(
            "keyslots_size", f"is {keyslots_bytes}, at most {LARGEST_KEYSLOTS_AREA} is allowed"
        )
    flags = _words(fields, "flags")
    requirements: tuple[str, ...] = ()
    required = fields.optional("requirements", fields.object)
    if required is not None:
        requirements = _words(required, "mandatory")
        required.end()
    fields.end()
    return keyslots_bytes, flags, requirements


def _segment(number: int, fields: Fields) -> Segment:
    kind = fields.choice("type", {"crypt", "linear", "hw-opal", "hw-opal-crypt"})
    offset = _uint64(fields, "offset", multiple=512)
    size = _segment_size(fields)
    flags = _words(fields, "flags")
    if kind.startswith("hw-opal"):
        # read so that the refusal can say "this is an OPAL disk"; what they say is of no use to us
        fields.number("opal_segment_number")
        fields.number("opal_key_size")
        _uint64(fields, "opal_segment_size")
    if not kind.endswith("crypt"):
        fields.end()
        return Segment(number, kind, offset, size, flags)
    segment = Segment(
        number=number,
        kind=kind,
        offset=offset,
        size=size,
        flags=flags,
        iv_tweak=_uint64(fields, "iv_tweak"),
        cipher=fields.text("encryption", match=_WORD),
        sector_size=fields.number("sector_size", least=512, most=4096),
        integrity=fields.optional("integrity", lambda key: _integrity(fields.object(key))),
    )
    if segment.sector_size & (segment.sector_size - 1):
        raise fields.wrong("sector_size", f"is {segment.sector_size}, must be 512, 1024, 2048 or 4096")
    fields.end()
    return segment


def _segment_size(fields: Fields) -> int | None:
    text = fields.text("size", match=_SEGMENT_SIZE)
    if text == "dynamic":
        return None
    size = int(text)
    if not 0 < size <= LARGEST_INTEGER or size % 512:
        raise fields.wrong("size", f"is {size}, must be dynamic or a multiple of 512")
    return size


def _integrity(fields: Fields) -> str:
    kind = fields.text("type", match=_WORD)
    fields.text("journal_encryption", match=_WORD)
    fields.text("journal_integrity", match=_WORD)
    fields.optional("key_size", fields.number)
    fields.end()
    return kind


def _keyslot(number: int, fields: Fields) -> Keyslot:
    kind = fields.choice("type", {"luks2", "reencrypt"})
    key_bytes = fields.number("key_size", least=1, most=1024)
    fields.optional("priority", lambda key: fields.number(key, most=2))
    if kind == "reencrypt":
        keyslot = Keyslot(
            number=number,
            kind=kind,
            key_bytes=key_bytes,
            area=_reencrypt_area(fields.object("area")),
            mode=fields.choice("mode", {"reencrypt", "encrypt", "decrypt"}),
            direction=fields.choice("direction", {"forward", "backward"}),
        )
    else:
        splitter = fields.object("af")
        keyslot = Keyslot(
            number=number,
            kind=kind,
            key_bytes=key_bytes,
            area=_raw_area(fields.object("area")),
            kdf=_kdf(fields.object("kdf")),
            splitter=splitter.choice("type", {"luks1"}),
            splitter_hash=splitter.text("hash", match=_WORD),
            stripes=splitter.number("stripes", least=1, most=4000),
        )
        splitter.end()
    fields.end()
    return keyslot


def _raw_area(fields: Fields) -> Area:
    area = Area(
        kind=fields.choice("type", {"raw"}),
        offset=_uint64(fields, "offset", multiple=4096),
        size=_uint64(fields, "size", multiple=4096, least=4096),
        cipher=fields.text("encryption", match=_WORD),
        key_bytes=fields.number("key_size", least=1, most=1024),
    )
    fields.end()
    return area


def _reencrypt_area(fields: Fields) -> Area:
    kind = fields.choice("type", _REENCRYPT_AREAS)
    summed, shifted = kind.endswith("checksum"), kind.startswith("datashift")
    area = Area(
        kind=kind,
        offset=_uint64(fields, "offset", multiple=4096),
        size=_uint64(fields, "size", multiple=4096, least=4096),
        hash=fields.text("hash", match=_WORD) if summed else "",
        block_bytes=fields.number("sector_size", least=512, most=1 << 20) if summed else 0,
        shift_bytes=_uint64(fields, "shift_size", multiple=512, least=512) if shifted else 0,
    )
    fields.end()
    return area


def _kdf(fields: Fields) -> Kdf:
    kind = fields.choice("type", {"pbkdf2", "argon2i", "argon2id"})
    _base64(fields, "salt", SALT_BYTES, SALT_BYTES)
    if kind == "pbkdf2":
        kdf = Kdf(kind, fields.text("hash", match=_WORD), fields.number("iterations", least=1, most=_UINT32))
    else:
        kdf = Kdf(
            kind=kind,
            hash="",
            iterations=fields.number("time", least=1, most=_UINT32),
            memory_kib=fields.number("memory", least=1, most=_UINT32),
            cpus=fields.number("cpus", least=1, most=64),
        )
    fields.end()
    return kdf


def _digest(number: int, fields: Fields, keyslots: Collection[int], segments: Collection[int]) -> Digest:
    digest = Digest(
        number=number,
        kind=fields.choice("type", {"pbkdf2"}),
        hash=fields.text("hash", match=_WORD),
        iterations=fields.number("iterations", least=1, most=_UINT32),
        salt=_base64(fields, "salt", SALT_BYTES, SALT_BYTES),
        digest=_base64(fields, "digest", 16, 64),
        keyslots=_references(fields, "keyslots", keyslots),
        segments=_references(fields, "segments", segments),
    )
    fields.end()
    return digest


def _token(number: int, fields: Fields, keyslots: Collection[int]) -> Token:
    kind = fields.text("type", match=_WORD)
    named = _references(fields, "keyslots", keyslots)
    if kind != TOKEN_TYPE:
        fields.ignore_rest()
        return Token(number, kind, named)
    volume = fields.text("volume", match=names.VOLUME_ID)
    versions: dict[int, int] = {}
    for keyslot, version in fields.pairs("versions", most=MOST_OBJECTS).items():
        if _OBJECT_NUMBER.fullmatch(keyslot) is None or _VERSION.fullmatch(version) is None:
            raise fields.wrong("versions", "must name keyslots and key versions")
        versions[int(keyslot)] = int(version)
    # A keyslot that the token is assigned to may have no version: cryptsetup assigns every token of the old
    # keyslot to the new one when a re-encryption begins, and knows nothing of our versions.
    enclosed = fields.optional(
        "recovery", lambda key: fields.text(key, match=recovery.CIPHERTEXT, most=recovery.LONGEST)
    )
    fields.end()
    return Token(number, kind, named, volume, MappingProxyType(versions), enclosed)


def _check_bindings(
    keyslots: Mapping[int, Keyslot], digests: Mapping[int, Digest], segments: Mapping[int, Segment]
) -> None:
    """A key and an encrypted segment belong to one volume key each (specification, section 3.4)."""
    for keyslot in keyslots.values():
        bound = sum(keyslot.number in digest.keyslots for digest in digests.values())
        if bound != 1 and not (keyslot.kind == "reencrypt" and bound == 0):
            raise refused(f"keyslots.{keyslot.number}", f"belongs to {bound} digests, must belong to one")
    encrypted = [s for s in segments.values() if s.is_encrypted and not s.is_backup]
    if any(MOVED in s.flags for s in segments.values()):  # of a plain disk, that it will be encrypted will do
        encrypted += [s for s in segments.values() if s.is_encrypted and FINAL in s.flags]
    if not encrypted:
        raise refused("segments", "none is encrypted")
    for segment in encrypted:
        bound = sum(segment.number in digest.segments for digest in digests.values())
        if bound != 1 and not (segment.is_hot and bound == 2):  # to both volume keys
            raise refused(f"segments.{segment.number}", f"belongs to {bound} digests, must belong to one")


def _check_places(
    keyslots: Mapping[int, Keyslot], segments: Mapping[int, Segment], start: int, keyslots_bytes: int
) -> None:
    """Both header copies, then the keyslots area with the areas in it, then the data; nothing overlaps."""
    end = start + keyslots_bytes
    for segment in segments.values():
        if segment.offset < end and not segment.is_backup:
            path = f"segments.{segment.number}.offset"
            raise refused(path, f"is {segment.offset}, before the end of the keyslots area at {end}")
    for keyslot in sorted(keyslots.values(), key=lambda keyslot: keyslot.area.offset):
        area = keyslot.area
        if area.offset < start or area.end > end:
            path = f"keyslots.{keyslot.number}.area"
            raise refused(path, f"is from {area.offset} to {area.end}, free for it is {start} to {end}")
        start = area.end
