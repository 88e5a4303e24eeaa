"""The real ``Headers``: a LUKS2 header on a disk in use, changed under the volume's turn, one effect a call.

Each change reads the header first, from the descriptor that cryptsetup is then given, and holds it to profile
and pin; afterwards it reads it again, and what is there must be what was there, and the change: the same
volume key, the same places, every other keyslot's area byte for byte. Keys are only ever tried on a sealed
copy of what was read (``agent.luks.copy``): no device can show one header to us and another to cryptsetup.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from collections.abc import Mapping as Keys
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from agent.devices import OpenDevice
from agent.luks import copy, cryptsetup, keyslots
from agent.luks.acceptance import judge
from agent.luks.copy import HeaderImage
from agent.luks.header import Header, read_header
from agent.luks.metadata import MOST_OBJECTS
from agent.plan.keyslots import GIVEN, Keyslot, Keyslots
from agent.turn import turn
from agent.world import Sighting
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass


class Opener(Protocol):
    """What holds a volume's disk open; ``agent.places.Places`` is one."""

    def open(self, record: Record) -> AbstractContextManager[OpenDevice]:
        """Open the disk for reading, and hold it."""


@dataclass(frozen=True, slots=True)
class Read:
    """A header as it was read from a disk just now, and accepted.

    Attributes:
        image: its bytes, and those of its keyslots' areas.
    """

    header: Header
    image: HeaderImage

    def bound(self) -> tuple[int, ...]:
        """Return the keyslots that have the volume key of the data, in order."""
        return tuple(sorted(self.header.metadata.data_digest.keyslots))

    @contextmanager
    def sealed(self) -> Iterator[int]:
        """Give a descriptor of a sealed copy."""
        fd = copy.memfd(self.image)
        try:
            yield fd
        finally:
            os.close(fd)

    def opened_by(self, key: Secret, version: KeyVersion) -> int | None:
        """Return the first keyslot that keeps the data and that a key opens; None where there is none."""
        likely = [each for each in self.bound() if self.may_hold(each, version)]
        with self.sealed() as fd:
            return next((each for each in likely if cryptsetup.opens(fd, keyslot=each, key=key)), None)

    def may_hold(self, keyslot: int, version: KeyVersion) -> bool:
        """Say whether a key is to be tried on a keyslot at all: no key of ours on one that costs too much."""
        token = self.header.token
        named = token is not None and token.version(keyslot) is not None
        return version == GIVEN or named or self.header.keyslots[keyslot].is_quick

    def areas(self) -> dict[int, bytes]:
        """Return the bytes of each keyslot's area."""
        return {
            number: self.image.read(slot.area.offset, slot.area.size)
            for number, slot in self.header.keyslots.items()
        }


@dataclass(frozen=True, slots=True)
class MachineHeaders:
    """The headers on this machine's disks.

    Attributes:
        places: where the disks are.
        runtime: the agent's runtime directory, in which the turns are.
    """

    places: Opener
    runtime: Path

    def probe(self, record: Record, keys: Keys[KeyVersion, Secret], seen: Sighting) -> Keyslots:
        """See ``agent.change.workshop.Headers``."""
        if seen.copy is None:
            raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: no copy of its header can be made")
        image = copy.unpack(seen.copy)
        read = _accepted(record, read_header(image.read, image.total), image)
        bound = read.bound()
        with read.sealed() as fd:
            found = tuple(
                Keyslot(
                    number, number in bound, tagged, _opener(fd, number, tagged, _likely(read, number, keys))
                )
                for number in sorted(read.header.keyslots)
                for tagged in [_tagged(record, read.header, number)]
            )
        return Keyslots(found, frozenset(keys), record.profile.most_keyslots)

    def fill(
        self, record: Record, keys: Keys[KeyVersion, Secret], *, version: KeyVersion, by: KeyVersion
    ) -> None:
        """See ``agent.change.workshop.Headers``."""
        with self._turn(record) as disk:
            before = _read(record, disk)
            if before.opened_by(keys[version], version) is not None:
                return
            opened = before.opened_by(keys[by], by)
            if opened is None:
                raise _locked_out(record, by)
            free = next(each for each in range(MOST_OBJECTS) if each not in before.header.keyslots)
            keyslots.add(
                disk, keys[version], keyslot=free, by=keys[by], opened=opened, profile=record.profile
            )
            after = _read(record, disk)
            _check_rest(record, before, after, {free})
            if set(after.header.keyslots) != {*before.header.keyslots, free} or free not in after.bound():
                raise _not_done(record, f"keyslot {free} was not filled")
            if after.header.tokens != before.header.tokens:
                raise _not_done(record, "a token was changed")

    def tag(self, record: Record, versions: Keys[int, KeyVersion], recovery: str | None = None) -> None:
        """See ``agent.change.workshop.Headers``."""
        with self._turn(record) as disk:
            before = _read(record, disk)
            ours = before.header.token
            if recovery is None and ours is not None:
                recovery = ours.recovery
            if not versions.keys() <= before.header.keyslots.keys():
                raise _not_done(record, "a keyslot that the token is to name is gone")
            _write_token(record, disk, before, versions, recovery)

    def enclose(self, record: Record, recovery: str) -> None:
        """See ``agent.change.workshop.Headers``."""
        with self._turn(record) as disk:
            before = _read(record, disk)
            if before.header.token is None:
                raise _not_done(record, "our token is gone")
            _write_token(record, disk, before, _named(record, before.header), recovery)

    def raise_sequence(self, record: Record) -> int:
        """See ``agent.change.workshop.Headers``."""
        with self._turn(record) as disk:
            before = _read(record, disk)
            ours = before.header.token
            if ours is None or ours.volume != record.volume:
                raise _not_done(record, "our token is not there to be written anew")
            named = _named(record, before.header)
            keyslots.tag(disk, record.volume, named, token=ours.number, recovery=ours.recovery)
            after = _read(record, disk)
            _check_rest(record, before, after, set())
            if after.header.tokens != before.header.tokens or after.header.degraded:
                raise _not_done(record, "a token was changed, or a copy of it is damaged")
            if after.header.sequence <= before.header.sequence:
                raise _not_done(record, "its sequence did not grow")
            return after.header.sequence

    def clear(self, record: Record, keys: Keys[KeyVersion, Secret], *, keyslot: int, by: KeyVersion) -> None:
        """See ``agent.change.workshop.Headers``."""
        with self._turn(record) as disk:
            before = _read(record, disk)
            if keyslot not in before.header.keyslots:
                return
            # The guard. cryptsetup's own would kill the last keyslot that keeps the data with status 0.
            with before.sealed() as fd:
                tagged = _tagged(record, before.header, keyslot)
                # A keyslot of a volume key without a segment keeps nothing; ``_accepted`` lets none be there
                # but those that the beginning of a re-encryption left.
                ours = keyslot not in before.bound() or tagged is not None
                if not ours and _opener(fd, keyslot, None, _likely(before, keyslot, keys)) is None:
                    raise KeybrokerError(
                        Problem.FOREIGN_KEYSLOTS, f"{record.name}: keyslot {keyslot} is not ours to clear"
                    )
                others = [n for n in before.bound() if n != keyslot and before.may_hold(n, by)]
                if not any(cryptsetup.opens(fd, keyslot=number, key=keys[by]) for number in others):
                    raise _locked_out(record, by, f" but {keyslot}")
            _kill(record, disk, before, keyslot, keys[by], by)

    def evict(self, record: Record, keys: Keys[KeyVersion, Secret], *, keyslot: int, by: KeyVersion) -> None:
        """See ``agent.change.workshop.Headers``."""
        with self._turn(record) as disk:
            before = _read(record, disk)
            if keyslot not in before.header.keyslots:
                return
            keeps = before.opened_by(keys[by], by)
            if keeps is None or keeps == keyslot or _tagged(record, before.header, keeps) != by:
                raise _locked_out(record, by, f" that our token names, but {keyslot}")
            _kill(record, disk, before, keyslot, keys[by], by)

    def detach(self, record: Record, *, token: int) -> None:
        """See ``agent.change.workshop.Headers``."""
        with self._turn(record) as disk:
            before = _read(record, disk)
            if token not in before.header.tokens:
                return
            if before.header.tokens[token].volume is not None:
                raise KeybrokerError(Problem.CONFLICT, f"{record.name}: token {token} is our own")
            keyslots.detach(disk, token=token)
            after = _read(record, disk)
            _check_rest(record, before, after, set())
            if dict(after.header.tokens) != {n: t for n, t in before.header.tokens.items() if n != token}:
                raise _not_done(record, f"token {token} was not taken out")

    @contextmanager
    def _turn(self, record: Record) -> Iterator[OpenDevice]:
        # Not exclusively: the volume is in use meanwhile, and cryptsetup opens the disk for writing itself.
        with turn(self.runtime, record.volume), self.places.open(record) as disk:
            yield disk


def _read(record: Record, disk: OpenDevice) -> Read:
    header = read_header(disk.read, disk.device.size_bytes)
    return _accepted(record, header, copy.image_of(header, disk.read))


def _accepted(record: Record, header: Header, image: HeaderImage) -> Read:
    judge(header, record, image.total)
    return Read(header, image)


def _kill(
    record: Record, disk: OpenDevice, before: Read, keyslot: int, key: Secret, version: KeyVersion
) -> None:
    """Kill a keyslot that may go, by the key of a version that opens another one; look at what is left."""
    keyslots.kill(disk, keyslot=keyslot, by=key)
    after = _read(record, disk)
    _check_rest(record, before, after, {keyslot})
    if set(after.header.keyslots) != set(before.header.keyslots) - {keyslot}:
        raise _not_done(record, f"keyslot {keyslot} was not killed")
    if after.opened_by(key, version) is None:
        raise _not_done(record, f"key version {version} does not open it any more")


def _tagged(record: Record, header: Header, keyslot: int) -> KeyVersion | None:
    token = header.token
    version = token.version(keyslot) if token is not None and token.volume == record.volume else None
    return None if version is None else KeyVersion(version)


def _named(record: Record, header: Header) -> dict[int, KeyVersion]:
    """Return what our token says: which keyslot has which version."""
    said = {number: _tagged(record, header, number) for number in header.keyslots}
    return {number: version for number, version in said.items() if version is not None}


def _says(record: Record, header: Header, versions: Keys[int, KeyVersion], recovery: str | None) -> bool:
    token = header.token
    return token is not None and _named(record, header) == dict(versions) and token.recovery == recovery


def _write_token(
    record: Record, disk: OpenDevice, before: Read, versions: Keys[int, KeyVersion], recovery: str | None
) -> None:
    """Write our token, unless it says just that; look at what is there then."""
    ours, tokens = before.header.token, before.header.tokens
    if _says(record, before.header, versions, recovery) and not before.header.degraded:
        return
    number = ours.number if ours else next(n for n in range(MOST_OBJECTS) if n not in tokens)
    keyslots.tag(disk, record.volume, versions, token=number, recovery=recovery)
    after = _read(record, disk)
    _check_rest(record, before, after, set())
    others = [{n: t for n, t in each.header.tokens.items() if n != number} for each in (before, after)]
    if not _says(record, after.header, versions, recovery) or others[0] != others[1]:
        raise _not_done(record, "the token does not say what it was to say")


def _likely(read: Read, keyslot: int, keys: Keys[KeyVersion, Secret]) -> dict[KeyVersion, Secret]:
    return {version: key for version, key in keys.items() if read.may_hold(keyslot, version)}


def _opener(
    fd: int, keyslot: int, tagged: KeyVersion | None, keys: Keys[KeyVersion, Secret]
) -> KeyVersion | None:
    """Return the version whose key opens a keyslot; the one that the token names is tried first."""
    likeliest = sorted(keys, key=lambda version: (version != tagged, -version))
    fits = (version for version in likeliest if cryptsetup.opens(fd, keyslot=keyslot, key=keys[version]))
    return next(fits, None)


def _check_rest(record: Record, before: Read, after: Read, changed: set[int]) -> None:
    """Hold what was not to change to what it was; ``accept`` has held the volume key's digest to the pin."""
    areas = [{number: held for number, held in read.areas().items() if number not in changed}
             for read in (before, after)]  # fmt: skip
    slots = [{number: slot for number, slot in read.header.keyslots.items() if number not in changed}
             for read in (before, after)]  # fmt: skip
    if areas[0] != areas[1] or slots[0] != slots[1]:
        raise _not_done(record, "another keyslot was changed")
    if after.header.sequence < before.header.sequence:
        raise _not_done(record, "the header on the disk is an older one")


def _locked_out(record: Record, version: KeyVersion, besides: str = "") -> KeybrokerError:
    return KeybrokerError(
        Problem.LOCKED_OUT,
        f"{record.name}: key version {version} opens no keyslot{besides}; nothing was changed",
    )


def _not_done(record: Record, what: str) -> KeybrokerError:
    return KeybrokerError(
        Problem.TOOL_FAILED,
        f"{record.name}: {what}; the header is not as cryptsetup was to leave it",
        hint="the broker has a copy of the header from before",
    )
