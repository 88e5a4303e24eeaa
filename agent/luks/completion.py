"""The last write of a re-encryption that cryptsetup did not get to: what it would have made of the header.

When the last stretch is encrypted, cryptsetup 2.6.1 writes that down, and takes away the rest in several more
writes: the old volume key's keyslots, the backup segments, the requirement. A power cut in between leaves a
header of one segment, under the last key, that says that a re-encryption is in progress. From there on:

| cryptsetup 2.6.1 | does |
|---|---|
| ``reencrypt --resume-only``, of another volume key | **begins anew**, by the key of before: all is spoilt |
| ``reencrypt --resume-only``, of an encryption in place | fails: no segment is left to be hot |
| ``open``, once the old volume key's keyslots are gone | fails: it wants both volume keys |

So it is never asked to: nothing is left to encrypt, and the header is completed by us. In every such state
the data is whole under the last key alone; it was flushed before the header said so.

Source: lib/luks2/luks2_reencrypt.c (``_offset_forward``, ``reencrypt_step``, ``reencrypt_teardown_ok``) of
2.6.1; seen with tests/header/test_header_completion.py, under 2.7.5 and 2.8.6 as well.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from agent.luks.copies import BINARY_BYTES, renewed
from agent.luks.header import Header
from agent.luks.jsontext import decode
from agent.luks.objects import FINAL, MOVED, Digest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass, field

SALT_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Completion:
    """What is left to write.

    Attributes:
        erased: offset and length, in bytes, of what nobody may read any more: the keyslots that go, and the
            kept beginning of a disk that was in the clear.
        first, second: both copies of the header, of their whole length.
    """

    erased: tuple[tuple[int, int], ...]
    first: bytes = field(repr=False)
    second: bytes = field(repr=False)


def is_complete(header: Header) -> bool:
    """Say whether everything is under the last volume key, and only the header still says otherwise.

    Args:
        header: that was accepted (``agent.luks.midway``, ``agent.luks.inplace``).
    """
    stretches = [each for each in header.segments.values() if not each.is_backup]
    if len(stretches) != 1 or stretches[0].flags or stretches[0].size is not None:
        return False
    last = last_digest(header)
    return last is not None and stretches[0].is_encrypted and stretches[0].number in last.segments


def completed(header: Header, *, salts: tuple[bytes, bytes]) -> Completion:
    """Return what completes a re-encryption.

    Args:
        header: that was accepted, and is complete.
        salts: of the two copies, 64 random bytes each: they only make the copies' checksums differ.

    Raises:
        KeybrokerError: CONFLICT, it is not complete.
    """
    last = last_digest(header)
    if last is None or not is_complete(header):
        raise KeybrokerError(Problem.CONFLICT, "header: its re-encryption is not complete")
    gone = [slot for number, slot in sorted(header.keyslots.items()) if number not in last.keyslots]
    erased = [(slot.area.offset, slot.area.size) for slot in gone]
    for segment in header.segments.values():
        if MOVED in segment.flags and segment.size is not None:
            erased.append((segment.offset, segment.size))
    text = _written(header, last, {slot.number for slot in gone})
    return Completion(
        tuple(erased),
        renewed(header.first, text, header.header_bytes, salts[0]),
        renewed(header.second, text, header.header_bytes, salts[1]),
    )


def last_digest(header: Header) -> Digest | None:
    """Return the digest of the volume key that everything is to be under in the end."""
    final = next((each.number for each in header.segments.values() if each.flags == (FINAL,)), None)
    return next((each for each in header.digests.values() if final in each.segments), None)


def _written(header: Header, last: Digest, gone: Collection[int]) -> bytes:
    said: Any = decode(header.first[BINARY_BYTES:])
    said["keyslots"] = {number: slot for number, slot in said["keyslots"].items() if int(number) not in gone}
    said["segments"] = {"0": said["segments"]["0"]}
    said["digests"] = {number: one for number, one in said["digests"].items() if int(number) == last.number}
    said["digests"][str(last.number)]["segments"] = ["0"]
    for token in said["tokens"].values():
        token["keyslots"] = [number for number in token["keyslots"] if int(number) not in gone]
    del said["config"]["requirements"]
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
