"""The way from a disk to /dev/mapper/kb-NAME, each device compared with what was meant before it is used.

1. The copy of the header (never the disk's own) against the volume's profile and pin.
2. The copy goes into a sealed memfd, and cryptsetup opens from that: keyslot by keyslot, our token's first.
3. The kernel's table of the new dm-crypt device, and its DM UUID, against what the header must lead to.
   Anything off: it is closed again, and nothing was read through it or written to it.
4. Only then the linear device with the stable name.

What is found open already is held to the same comparison: adopted if equal, left alone and reported if not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from agent import devicemapper
from agent.devicemapper import Mapped
from agent.devices import BlockDevice, OpenDevice
from agent.luks import copy, cryptsetup
from agent.luks.acceptance import judge
from agent.luks.copy import Held
from agent.luks.header import Header, Token
from agent.luks.table import FLAGS, CryptTable, LinearTable, check_crypt_table, check_linear_table, meant
from keybroker.wire import names
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record, SeenHeader
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass

_SECTOR = devicemapper.SECTOR


@dataclass(frozen=True, slots=True)
class Way:
    """How a volume was opened.

    Attributes:
        version: of the key that fitted.
        keyslot: that it fitted.
        sequence: of the header it was opened from.
    """

    version: KeyVersion
    keyslot: int
    sequence: int


def notes(record: Record, way: Way, seen: SeenHeader | None) -> tuple[str, ...]:
    """Return what an operator should hear of a volume that was opened.

    Args:
        seen: the header on the disk; in the copy that was opened from, both of its copies are whole again.
    """
    said = []
    if seen is not None and seen.degraded:
        said.append("one of the two copies of its header is damaged; it was opened from the other")
    if record.sequence is not None and way.sequence < record.sequence:
        said.append(f"its header is older than the newest known one ({way.sequence} < {record.sequence})")
    if way.version != record.current:
        said.append(f"it was opened by key version {way.version}, the current one is {record.current}")
    return tuple(said)


def stable_uuid(record: Record) -> str:
    """Return the DM UUID of a volume's linear device.

    Of its name, not of its id: after a migration another volume has the name, and the device stays.
    """
    return f"KEYBROKER-{record.name}"


def crypt_uuid(luks_uuid: str, name: str) -> str:
    """Return the DM UUID that cryptsetup gives a LUKS2 mapping (libcryptsetup, ``dm_prepare_uuid``)."""
    return f"CRYPT-LUKS2-{luks_uuid.replace('-', '')}-{name}"


def ours(record: Record) -> dict[str, str]:
    """Return the DM UUIDs of a volume's own devices, by their names."""
    if record.is_swap:
        name = names.swap_crypt_name(record.name)
        return {name: f"CRYPT-PLAIN-{name}"}
    crypt = names.crypt_name(record.name, record.luks_uuid)
    return {
        names.mapper_name(record.name): stable_uuid(record),
        crypt: crypt_uuid(record.luks_uuid, crypt),
    }


def open_crypt(
    record: Record, disk: OpenDevice, keys: Mapping[KeyVersion, Secret], held: Secret | Held
) -> Way:
    """Make the dm-crypt device of a volume from a copy of its header.

    Args:
        disk: not exclusive, or cryptsetup could not claim it.
        keys: that the broker gave.
        held: the header copy, in KBH1 or as it was read; nothing is read from the disk again.

    Raises:
        KeybrokerError: HEADER_REFUSED; LOCKED_OUT where no key fits; WRONG_DEVICE where the kernel was led to
            another device than was meant; EXISTS, TOOL_FAILED. Nothing is left open then.

    Source: DESIGN section 5, 3 and 4.
    """
    held = copy.unpacked(held) if isinstance(held, Secret) else held
    header = held.header
    judge(header, record, disk.device.size_bytes)
    name = names.crypt_name(record.name, record.luks_uuid)
    fd = copy.memfd(held.image)
    try:
        version, keyslot = _unlock(record, header, disk, name, keys, fd)
    finally:
        os.close(fd)
    try:
        _check_crypt(name, header.uuid, meant(header, disk.device.node, disk.device.size_bytes))
    except KeybrokerError:
        cryptsetup.close(name)
        raise
    return Way(version, keyslot, header.sequence)


def _unlock(
    record: Record,
    header: Header,
    disk: OpenDevice,
    name: str,
    keys: Mapping[KeyVersion, Secret],
    header_fd: int,
) -> tuple[KeyVersion, int]:
    for version, keyslot in attempts(record, header, keys):
        if cryptsetup.open_volume(disk, name, header_fd=header_fd, keyslot=keyslot, key=keys[version]):
            return version, keyslot
    raise KeybrokerError(
        Problem.LOCKED_OUT,
        f"{record.name}: none of the key versions {', '.join(map(str, sorted(keys))) or '(none)'} opens"
        f" any of the keyslots {', '.join(map(str, sorted(header.keyslots)))}; nothing was changed",
    )


def attempts(
    record: Record, header: Header, keys: Mapping[KeyVersion, Secret]
) -> Iterator[tuple[KeyVersion, int]]:
    """Yield every key version with every keyslot, the likeliest first.

    Our token says which keyslot has which version. It is only a hint: it may be wrong after a cut, or forged.
    Keyslots that it does not name and that take long to try are not ours, and are not tried.
    """
    token = header.token
    told = token if token is not None and token.volume == record.volume else None
    quick = [
        number for number, slot in sorted(header.keyslots.items()) if slot.is_quick or _is_named(told, number)
    ]
    versions = sorted(keys, key=lambda version: (version != record.current, -version))
    bound = sorted(header.metadata.data_digest.keyslots)  # another one opens, and has no key to the data
    pairs = [(version, keyslot) for version in versions for keyslot in bound if keyslot in quick]
    yield from sorted(pairs, key=lambda pair: told is None or told.version(pair[1]) != pair[0])


def _is_named(token: Token | None, keyslot: int) -> bool:
    return token is not None and token.version(keyslot) is not None


def _check_crypt(name: str, luks_uuid: str, table: CryptTable) -> None:
    found = devicemapper.uuid(name)
    if found != crypt_uuid(luks_uuid, name):
        raise KeybrokerError(Problem.WRONG_DEVICE, f"{name}: its DM UUID is {found or 'missing'}")
    check_crypt_table(devicemapper.table(name) or "", table)


def check_opened(record: Record, crypt: Mapped, device: BlockDevice) -> None:
    """Compare a dm-crypt device that was there before us with what the record says it must be.

    Raises:
        KeybrokerError: WRONG_DEVICE or HEADER_REFUSED, with the difference.
    """
    if record.pin is None:
        raise KeybrokerError(Problem.WRONG_DEVICE, f"the broker knows of no header, but {crypt.name} is open")
    text = devicemapper.table(crypt.name) or ""
    said = re.search(rf":{record.profile.key_bytes}:logon:cryptsetup:{record.pin.uuid}-d[0-9]+", text)
    table = CryptTable(
        sectors=length(text, _sectors(record, device)),
        cipher=record.profile.cipher,
        key_bytes=record.profile.key_bytes,
        # Which digest it was is the header's affair; that the key is this volume's is in the UUID.
        key=said[0] if said else "",
        device=device.node,
        offset=record.pin.data_offset // _SECTOR,
        sector_size=record.pin.sector_size,
        flags=tuple(FLAGS[flag] for flag in record.profile.flags if FLAGS.get(flag, "") in text.split()),
    )
    if crypt.uuid != crypt_uuid(record.pin.uuid, crypt.name):
        raise KeybrokerError(Problem.WRONG_DEVICE, f"its DM UUID is {crypt.uuid or 'missing'}")
    if record.order is not None and record.order.is_reencrypting:
        from agent.midway import check_running  # most boots have no use for it

        check_running(record, crypt, table)
        return
    check_crypt_table(text, table)


def check_linked(record: Record, top: Mapped, crypt: Mapped, device: BlockDevice) -> None:
    """Compare the device under the stable name with what it must be (Raises: as ``check_opened``)."""
    if top.uuid != stable_uuid(record):
        raise KeybrokerError(Problem.WRONG_DEVICE, f"its DM UUID is {top.uuid or 'missing'}")
    text = devicemapper.table(top.name) or ""
    if " mirror " in text:
        check_mirrored(record, top, crypt.node, text)
    else:
        check_linear_table(text, LinearTable(length(text, _sectors(record, device)), crypt.node))


def check_mirrored(record: Record, top: Mapped, node: str, text: str) -> None:
    """Let a mirror of this volume's own device and another one under the same name stand for the volume.

    It is being moved: ``agent.change.legs`` made it, and looks closer. The disk that is left may be a plain
    one, which has no name by which it could be told; then what is known is that it is no mapping.

    Args:
        node: ``major:minor`` of what the volume is read from: its dm-crypt device, or its plain disk.

    Raises:
        KeybrokerError: WRONG_DEVICE.
    """
    from agent.luks import mirror  # rare, and not worth its time at every boot

    legs = mirror.read_table(text).legs
    others = {
        other.node
        for other in devicemapper.mapped().values()
        if other.name.startswith(f"{top.name}-") and other.uuid.startswith("CRYPT-LUKS2-")
    }
    strange = set(legs) - {node} - others
    if record.partner is not None and record.stage == "ready" and len(legs) == 2 and legs[1] == node:
        mappings = {other.node for other in devicemapper.mapped().values()}
        strange &= mappings
    if node not in legs or strange:
        raise KeybrokerError(Problem.WRONG_DEVICE, f"{top.name}: mirrors {' and '.join(legs)}")


def link(record: Record, crypt: Mapped, device: BlockDevice) -> None:
    """Make the linear device with the stable name over the dm-crypt device.

    Raises:
        KeybrokerError: EXISTS, TOOL_FAILED.
    """
    sectors = _sectors(record, device)
    if record.stage == "plain":  # the filesystem's beginning is kept in what is missing at the end
        sectors = length(devicemapper.table(crypt.name) or "", sectors)
    devicemapper.create_linear(
        names.mapper_name(record.name), uuid=stable_uuid(record), below=crypt.node, sectors=sectors
    )


def length(text: str, most: int) -> int:
    """Return the length that a table may have: a disk that has grown since is still the volume's disk."""
    lines = text.splitlines()  # several in the middle of a re-encryption; the last one ends it all
    found = re.match(r"([0-9]{1,19}) ([1-9][0-9]{0,18}) ", lines[-1]) if lines else None
    return min(most, int(found[1]) + int(found[2])) if found else most


def _sectors(record: Record, device: BlockDevice) -> int:
    if record.pin is None:
        raise KeybrokerError(Problem.WRONG_DEVICE, f"{record.name}: the broker has no pin for it")
    return (device.size_bytes - record.pin.data_offset) // _SECTOR
