"""The stretch that a re-encryption was cut in, as the header says it once that stretch is settled.

cryptsetup 2.6.1 settles it itself when it opens the volume, and is never let to, for what it writes first:

| of the last stretch | it does before the header says so | after a cut there |
|---|---|---|
| encryption in place | overwrites the kept beginning | it is fetched from there: **random bytes**, status 0 |
| another volume key | overwrites the old key's keyslots | it **fails**, for ever: it wants both volume keys |

And of any stretch, it flushes the data after the header, which may reach the medium without it; so may the
header that says that a stretch is in work, without the checksums by which it is recovered: **none of it** is
done then, and all of it passes for done. But that is before the second copy of the header is written. So:

* where the second copy is whole and still says what was before, that is taken again;
* in place, the stretch is taken back: what it was read from is still there, and none of it counts as done;
* otherwise it is brought to an end by cryptsetup with a copy of the header, in memory; the data is flushed;
  then the header says so. Until then, repeating it changes nothing: the checksums say what is to be done.

Source: lib/luks2/luks2_reencrypt.c (``reencrypt_recovery``, ``reencrypt_recover_segment``,
``reencrypt_teardown_ok``) of 2.6.1; seen with tests/header/test_header_hotzone.py, and with 2.7.5 and 2.8.6.
"""

from __future__ import annotations

import json
from typing import Any

from agent.luks.completion import Completion, last_digest
from agent.luks.copies import BINARY_BYTES, Read, read_copies, renewed
from agent.luks.copy import HeaderImage
from agent.luks.header import Header, Segment, read_header
from agent.luks.inplace import layout_of
from agent.luks.jsontext import decode
from agent.luks.objects import FINAL
from keybroker.wire.problems import KeybrokerError, Problem

Stretch = tuple[dict[str, Any], int | None]
"""A segment as JSON, and the number of its digest; None for one in the clear."""


def hot(header: Header) -> Segment | None:
    """Return the stretch that was in work; there is one at most in a header that was accepted."""
    return next((each for each in header.segments.values() if each.is_hot), None)


def before(header: Header, read: Read, device_bytes: int) -> Header | None:
    """Return the header of before the stretch in work, where it was cut before anything of that was written.

    cryptsetup writes the first copy, flushes, writes the second copy, flushes, and then the first byte of
    data. A second copy that is torn was begun after a flush, and with the checksums all is well.

    Args:
        header: as it was read.
        read, device_bytes: as of ``read_header``.
    """
    first, second = read_copies(read, device_bytes)
    if first is None or second is None or second.binary.sequence >= first.binary.sequence:
        return None
    image = HeaderImage(((0, second.twin()), (header.header_bytes, second.written())), header.data_offset)
    found = read_header(image.read, device_bytes)
    return found if hot(found) is None else None


def settled(header: Header, *, salts: tuple[bytes, bytes], again: Header | None = None) -> Completion:
    """Return the header in which nothing is hot; nothing is erased for it.

    Args:
        header: that was accepted. Unless it is one of an encryption in place, or ``again`` is given, the data
            of its hot stretch is all under the last volume key, and on the medium.
        again: that was accepted, what ``before`` returned.
        salts: as of ``agent.luks.completion.completed``.

    Raises:
        KeybrokerError: CONFLICT, nothing is hot.
    """
    stretch, last = hot(header), last_digest(header)
    if stretch is None or stretch.size is None or last is None:
        raise KeybrokerError(Problem.CONFLICT, "header: no stretch of it is in work")
    said: Any = decode(header.first[BINARY_BYTES:])
    make = _brought_to_an_end if header.metadata.final is None else _taken_back
    text = _written(header, said, make(header, said["segments"], stretch, stretch.size, last.number))
    if again is not None:
        text = again.first[BINARY_BYTES:]
    return Completion(
        (),
        renewed(header.first, text, header.header_bytes, salts[0]),
        renewed(header.second, text, header.header_bytes, salts[1]),
    )


def _brought_to_an_end(
    header: Header, said: dict[str, Any], stretch: Segment, size: int, last: int
) -> list[Stretch]:
    final = next(each.number for each in header.segments.values() if each.flags == (FINAL,))
    done = {name: value for name, value in said[str(final)].items() if name != "flags"}
    rest = _after(header, said, stretch)
    if rest:
        done["size"] = str(stretch.offset + size - header.data_offset)
    return [(done, last), *rest]


def _taken_back(
    header: Header, said: dict[str, Any], stretch: Segment, size: int, last: int
) -> list[Stretch]:
    layout = layout_of(header)
    at = stretch.offset - layout.shift
    if at == 0:
        clear = [_linear(layout.shelf, size)]
    else:
        clear = [_linear(layout.shelf, layout.shift), _linear(layout.shift, at + size - layout.shift)]
    return [*((each, None) for each in clear), *_after(header, said, stretch)]


def _linear(offset: int, size: int) -> dict[str, Any]:
    return {"type": "linear", "offset": str(offset), "size": str(size)}


def _after(header: Header, said: dict[str, Any], stretch: Segment) -> list[Stretch]:
    later = [each for each in header.segments.values() if not each.is_backup and each.number > stretch.number]
    owners = {number: digest.number for digest in header.digests.values() for number in digest.segments}
    return [(said[str(each.number)], owners[each.number]) for each in sorted(later, key=lambda s: s.number)]


def _written(header: Header, said: Any, stretches: list[Stretch]) -> bytes:
    """Put the stretches in, and the backup segments after them."""
    backups = sorted(each.number for each in header.segments.values() if each.is_backup)
    places = {number: len(stretches) + index for index, number in enumerate(backups)}
    segments = {str(index): segment for index, (segment, _) in enumerate(stretches)}
    segments |= {str(places[number]): said["segments"][str(number)] for number in backups}
    said["segments"] = segments
    for digest in header.digests.values():
        own = [index for index, (_, owner) in enumerate(stretches) if owner == digest.number]
        own += sorted(places[number] for number in digest.segments if number in places)
        said["digests"][str(digest.number)]["segments"] = [str(number) for number in own]
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
