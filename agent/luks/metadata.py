"""The JSON area of a LUKS2 header as frozen values, or a refusal that names the field.

Whoever last held the disk wrote this text. It is read here once, with a bound on every number, list,
string and depth, and it must say exactly what cryptsetup 2.6 to 2.9 write: a field that is not known, null,
a fraction, or a key that is there twice is refused, since json-c and this reader could take them differently.
What it *may* say for a certain volume is ``agent.luks.acceptance``.

Source: LUKS2 On-Disk Format Specification 1.1.4, section 3.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from keybroker.wire import names
from keybroker.wire.fields import LARGEST_INTEGER, Fields
from keybroker.wire.problems import KeybrokerError, Problem

LARGEST_JSON: Final = 256 << 10
"""In bytes. 32 keyslots and 32 tokens of clevis or systemd make about 60 KiB; cryptsetup reads 4 MiB."""

MOST_OBJECTS: Final = 32
MOST_DIGESTS: Final = 8
"""cryptsetup's own bounds (lib/luks2/luks2.h)."""

DEEPEST: Final = 8
"""A clevis token is four deep."""

LONGEST_STRING: Final = 8192
LONGEST_KEY: Final = 64

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
_NOT_TEXT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_REENCRYPT_AREAS: Final = frozenset(
    {"none", "checksum", "journal", "datashift", "datashift-checksum", "datashift-journal"}
)


@dataclass(frozen=True, slots=True)
class Area:
    """Where a keyslot's binary data lies, in bytes from the start of the device, and its encryption."""

    kind: str
    offset: int
    size: int
    cipher: str = ""
    key_bytes: int = 0

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Kdf:
    """How a passphrase becomes a keyslot's key; ``iterations`` is argon2's ``time``."""

    kind: str
    hash: str
    iterations: int
    memory_kib: int = 0
    cpus: int = 0


@dataclass(frozen=True, slots=True)
class Keyslot:
    """A keyslot; ``reencrypt`` ones hold no key, and have no ``kdf`` and no splitter."""

    number: int
    kind: str
    key_bytes: int
    area: Area
    kdf: Kdf | None = None
    splitter: str = ""
    splitter_hash: str = ""
    stripes: int = 0


@dataclass(frozen=True, slots=True)
class Digest:
    """What a volume key is recognised by, and which keyslots and segments it belongs to."""

    number: int
    kind: str
    hash: str
    iterations: int
    salt: bytes
    digest: bytes
    keyslots: tuple[int, ...]
    segments: tuple[int, ...]

    @property
    def fingerprint(self) -> str:
        """The digest as ``keybroker.wire.profile.Pin`` has it."""
        return "sha256:" + hashlib.sha256(self.salt + self.digest).hexdigest()


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the device, in bytes; ``size`` is None for ``dynamic``, up to the device's end."""

    number: int
    kind: str
    offset: int
    size: int | None
    flags: tuple[str, ...]
    iv_tweak: int = 0
    cipher: str = ""
    sector_size: int = 0
    integrity: str | None = None

    @property
    def is_encrypted(self) -> bool:
        """Say whether dm-crypt is to stand over it."""
        return self.kind in ("crypt", "hw-opal-crypt")

    @property
    def is_backup(self) -> bool:
        """Say whether it only remembers how a re-encryption begins or ends."""
        return any(flag.startswith("backup-") for flag in self.flags)


@dataclass(frozen=True, slots=True)
class Token:
    """A token of any tool; ``volume`` and ``version`` are of ours only."""

    number: int
    kind: str
    keyslots: tuple[int, ...]
    volume: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the JSON area says.

    Attributes:
        keyslots, digests, segments, tokens: by their number.
        keyslots_bytes: size of the whole keyslots area, which starts after the second copy.
        flags: persistent activation flags.
        requirements: what a reader must know to touch the volume at all.
    """

    keyslots: Mapping[int, Keyslot]
    digests: Mapping[int, Digest]
    segments: Mapping[int, Segment]
    tokens: Mapping[int, Token]
    keyslots_bytes: int
    flags: tuple[str, ...]
    requirements: tuple[str, ...]

    @property
    def data_offset(self) -> int:
        """Where the data begins, in bytes."""
        return min(segment.offset for segment in self.segments.values() if not segment.is_backup)

    @property
    def data_segment(self) -> Segment:
        """The first encrypted segment in use; there is one."""
        return next(s for s in self.segments.values() if s.is_encrypted and not s.is_backup)

    @property
    def data_digest(self) -> Digest:
        """The digest of the volume key of ``data_segment``; there is exactly one."""
        return next(d for d in self.digests.values() if self.data_segment.number in d.segments)


def read_metadata(text: bytes, header_bytes: int) -> Metadata:
    """Read the JSON text of one header copy.

    Args:
        text: the JSON area up to its first NUL.
        header_bytes: size of one copy, binary header included.

    Raises:
        KeybrokerError: HEADER_REFUSED, naming the path of the field.
    """
    try:
        top = _decode(text)
        _bounded(top)
        return _metadata(top, header_bytes)
    except KeybrokerError as error:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"JSON area: {error.detail}") from None


def _wrong(path: str, what: str) -> KeybrokerError:
    return KeybrokerError(Problem.HEADER_REFUSED, f"{path}: {what}")


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text[:20]} is not a whole number")


def _decode(text: bytes) -> object:
    # cryptsetup wants the brace first too; json.loads would skip white space
    if not text.startswith(b"{"):
        raise _wrong("text", "does not begin with a brace")
    if len(text) > LARGEST_JSON:
        raise _wrong("text", f"has {len(text)} bytes, at most {LARGEST_JSON} are read")
    try:
        # str, not bytes: for bytes json.loads would guess UTF-16 and UTF-32 too
        return json.loads(
            text.decode(),
            object_pairs_hook=_no_twice,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        raise _wrong("text", f"is not JSON as cryptsetup writes it: {str(error)[:120]!a}") from None


def _bounded(value: object, path: str = "", depth: int = 1) -> None:
    """Refuse what no field of cryptsetup's has: depth, null, long strings, control characters in them."""
    if depth > DEEPEST:
        raise _wrong(path, f"is nested deeper than {DEEPEST}")
    if value is None:
        raise _wrong(path, "is null")
    if isinstance(value, str):
        # json-c hands out C strings: one with a NUL means less to cryptsetup than to us
        if len(value) > LONGEST_STRING or _NOT_TEXT.search(value):
            raise _wrong(path, "is too long or has characters that are not text")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if len(key) > LONGEST_KEY or _NOT_TEXT.search(key):
                raise _wrong(path, f"has a key that is too long or not text: {key[:40]!a}")
            _bounded(inner, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _bounded(inner, f"{path}[{i}]", depth + 1)


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
        raise _wrong(key, f"has {len(found)} objects, at most {most} are allowed")
    for name in found:
        if _OBJECT_NUMBER.fullmatch(name) is None:
            raise _wrong(key, f"{name[:20]!a} is not a number from 0 to {MOST_OBJECTS - 1}")
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
        fields.choice("mode", {"reencrypt", "encrypt", "decrypt"})
        fields.choice("direction", {"forward", "backward"})
        keyslot = Keyslot(number, kind, key_bytes, _reencrypt_area(fields.object("area")))
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
    if kind.endswith("checksum"):
        fields.text("hash", match=_WORD)
        fields.number("sector_size", least=512, most=1 << 20)
    if kind.startswith("datashift"):
        _uint64(fields, "shift_size", multiple=512, least=512)
    offset = _uint64(fields, "offset", multiple=4096)
    area = Area(kind, offset, _uint64(fields, "size", multiple=4096, least=4096))
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
    version = int(fields.text("version", match=_VERSION))
    fields.end()
    return Token(number, kind, named, volume, version)


def _check_bindings(
    keyslots: Mapping[int, Keyslot], digests: Mapping[int, Digest], segments: Mapping[int, Segment]
) -> None:
    """A key and an encrypted segment belong to one volume key each (specification, section 3.4)."""
    for keyslot in keyslots.values():
        bound = sum(keyslot.number in digest.keyslots for digest in digests.values())
        if bound != 1 and not (keyslot.kind == "reencrypt" and bound == 0):
            raise _wrong(f"keyslots.{keyslot.number}", f"belongs to {bound} digests, must belong to one")
    encrypted = [s for s in segments.values() if s.is_encrypted and not s.is_backup]
    if not encrypted:
        raise _wrong("segments", "none is encrypted")
    for segment in encrypted:
        bound = sum(segment.number in digest.segments for digest in digests.values())
        if bound != 1:
            raise _wrong(f"segments.{segment.number}", f"belongs to {bound} digests, must belong to one")


def _check_places(
    keyslots: Mapping[int, Keyslot], segments: Mapping[int, Segment], start: int, keyslots_bytes: int
) -> None:
    """Both header copies, then the keyslots area with the areas in it, then the data; nothing overlaps."""
    end = start + keyslots_bytes
    for segment in segments.values():
        if segment.offset < end and not segment.is_backup:
            path = f"segments.{segment.number}.offset"
            raise _wrong(path, f"is {segment.offset}, before the end of the keyslots area at {end}")
    for keyslot in sorted(keyslots.values(), key=lambda keyslot: keyslot.area.offset):
        area = keyslot.area
        if area.offset < start or area.end > end:
            path = f"keyslots.{keyslot.number}.area"
            raise _wrong(path, f"is from {area.offset} to {area.end}, free for it is {start} to {end}")
        start = area.end
