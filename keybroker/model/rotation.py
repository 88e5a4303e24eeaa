"""The changes of a volume's keys and of its header while it is in use: pure.

| transition | the volume before | after |
|---|---|---|
| want | ready, holder | a new key version is wanted |
| stage | a version is wanted, no re-encryption has begun | it is staged |
| promote | a version is staged | it is current, the one before is retiring |
| back_up | ready; or plain, and encrypted by now | its header's sequence; after an order, its digest |
| retire | a version is retiring, and the newest header copy was left since it was promoted | it is retired |
| adopt | foreign | ready, with its header pinned |

A repeated transition returns the very volume it was given, whatever revision it names.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from keybroker.model.keyring import Keyring
from keybroker.model.volume import Volume, conflict, not_ready
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin
from keybroker.wire.records import Device, SeenHeader


def want(volume: Volume, *, compromised: bool = False) -> Volume:
    """Ask for the next key version; while one is under way already, nothing changes.

    Args:
        compromised: the key that is to go may be known to others: a header from before is not opened any
            more once the new key is in place.

    Raises:
        KeybrokerError: CONFLICT where the volume has no keys, or is not in use yet, or not any more.
    """
    keys = _keys(volume)
    if volume.role != "holder" or volume.stage != "ready":
        raise not_ready(volume, "it gets no new key")
    changed = replace(volume, keyring=keys.want(), block_older=volume.block_older or compromised)
    return volume if changed == volume else replace(changed, revision=volume.revision + 1)


def stage(volume: Volume, revision: int) -> Volume:
    """Mint the wanted key version.

    Raises:
        KeybrokerError: CONFLICT for another revision or stage, where no version is wanted, the one before is
            still retiring, or a re-encryption has begun.
    """
    keys = _keys(volume)
    if keys.staged is not None:
        return volume
    _in_use(volume)
    volume.expect(revision)
    return replace(volume, keyring=keys.stage(), revision=revision + 1)


def promote(volume: Volume, revision: int, version: KeyVersion) -> Volume:
    """Make the staged version current; whoever calls this has seen that it opens the header.

    Raises:
        KeybrokerError: CONFLICT for another revision or stage, or another version than the staged one.
    """
    keys = _keys(volume)
    if version == keys.current:
        return volume
    _in_use(volume)
    volume.expect(revision)
    return replace(volume, keyring=keys.promote(version), revision=revision + 1)


def retire(volume: Volume, version: KeyVersion, copied: KeyVersion | None, destroy_after: datetime) -> Volume:
    """Take note that a version opens nothing on the disk any more.

    Args:
        copied: the version that was current when the newest header copy was left; None where there is none.

    Raises:
        KeybrokerError: CONFLICT where the version is not retiring, or where the newest header copy is from
            before the promotion: without a copy that ``current`` opens, nothing is thrown away.
    """
    keys = _keys(volume)
    retired = keys.retire(version, destroy_after)
    if retired is keys:
        return volume
    if copied != keys.current:
        raise conflict(volume, "the newest header copy is from before the promotion; leave one first")
    return replace(volume, keyring=retired, revision=volume.revision + 1)


def bring_back(volume: Volume, version: KeyVersion, seen: int) -> Volume:
    """Take a key that was minted before the database was set back; nothing else of the volume changes.

    Args:
        seen: the newest revision of its record that its host has seen; the next one is above it.

    Raises:
        KeybrokerError: CONFLICT where the volume has no keys or is not in use, or has had that version.
    """
    keys = _keys(volume)
    if version == keys.current:
        return volume
    if volume.stage != "ready" or volume.role != "holder":
        raise conflict(volume, f"at stage {volume.stage}, as {volume.role}, no key of it is brought back")
    revision = max(volume.revision, seen) + 1
    return replace(volume, keyring=keys.bring_back(version), revision=revision)


def back_up(volume: Volume, revision: int, header: SeenHeader) -> Volume:
    """Take the header as it is on the disk now; whoever calls this has seen that ``current`` opens it.

    Returns:
        The very volume where it is pinned like that already, at this sequence.

    Raises:
        KeybrokerError: CONFLICT for another revision or stage; HEADER_REFUSED for a header that is neither
            the pinned one nor the one that an order which has begun leads to, or that has requirements.
    """
    if volume.pin == header.pin and volume.sequence == header.sequence and volume.stage == "ready":
        return volume
    if volume.stage not in ("ready", "plain") or volume.role == "former":
        raise conflict(volume, f"at stage {volume.stage}, as {volume.role}, no header copy is taken")
    volume.expect(revision)
    wrong = volume.unfit(header) or volume.incomplete(header) or _unannounced(volume, header.pin)
    if wrong is not None:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"volume {volume.id}: {wrong}")
    return replace(
        volume,
        stage="ready",
        device=volume.device or Device(volume.serial, volume.size_bytes),
        pin=header.pin,
        sequence=header.sequence,
        revision=revision + 1,
    )


def adopt(volume: Volume, revision: int, device: Device, header: SeenHeader) -> Volume:
    """Take a volume over that somebody else formatted; whoever calls this has seen that key 1 opens it.

    Raises:
        KeybrokerError: CONFLICT for another revision or stage; WRONG_DEVICE; HEADER_REFUSED.
    """
    if volume.stage == "ready" and (volume.pin, volume.sequence) == (header.pin, header.sequence):
        return volume
    if volume.stage != "foreign":
        raise conflict(volume, f"at stage {volume.stage} it is not adopted")
    volume.expect(revision)
    wrong = volume.wrong_device(device)
    if wrong is not None:
        raise KeybrokerError(Problem.WRONG_DEVICE, f"volume {volume.id}: {wrong}")
    unfit = volume.unfit(header)
    if unfit is not None:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"volume {volume.id}: {unfit}")
    return replace(
        volume,
        stage="ready",
        device=device,
        pin=header.pin,
        sequence=header.sequence,
        revision=revision + 1,
    )


def _keys(volume: Volume) -> Keyring:
    if volume.keyring is None:
        raise conflict(volume, "has no keys")
    return volume.keyring


def _in_use(volume: Volume) -> None:
    if volume.stage != "ready" or volume.role != "holder":
        raise conflict(volume, f"at stage {volume.stage}, as {volume.role}, its keys do not change")
    if volume.begun is not None:
        raise conflict(volume, "a re-encryption has begun; no key changes before it is done")


def _unannounced(volume: Volume, pin: Pin) -> str | None:
    """Return why the volume may not have this pin from now on."""
    order = volume.begun
    if volume.pin is None:
        announced = order is not None and order.digest == pin.digest
        return None if announced else "nobody has announced that it is encrypted"
    if (pin.data_offset, pin.sector_size) != (volume.pin.data_offset, volume.pin.sector_size):
        return "the header's data offset or sector size is not the pinned one"
    if pin.digest == volume.pin.digest or (order is not None and order.digest == pin.digest):
        return None
    return f"the header's volume key's digest is {pin.digest}, not {volume.pin.digest}"
