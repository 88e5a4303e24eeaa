"""Opening a volume whose re-encryption is not through, and holding what stands open to what it may be.

The stretch that was in work is settled first, and the header on the disk says so before anything is opened:
were it only a copy that said so, the next opening would do it once more, over what was written since (8 MiB
were seen to roll back). cryptsetup would do it by itself, but not safely (``agent.luks.hotzone``).

A header that is complete but for cryptsetup's last writes is completed first, and then opened as any other:
cryptsetup does not always open that (``agent.luks.completion``).

So the header is read before, held to its stricter profile, and read once more afterwards; and the kernel's
table is held to that. Nothing stands above it before both agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent import devicemapper, dmcontrol
from agent.devicemapper import Mapped
from agent.devices import OpenDevice
from agent.ending import settle, whole
from agent.luks import cryptsetup
from agent.luks.acceptance import judge
from agent.luks.header import Header, read_header
from agent.luks.inplace import Layout, check_layers_in_place, check_targets, meant_in_place
from agent.luks.layers import HELPERS, Helper, check_layers, helper_uuid
from agent.luks.table import CryptTable, check_crypt_tables, meant_midway
from agent.opening import Way, crypt_uuid, open_crypt
from keybroker.wire import names
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from keybroker.wire.values import replace


def open_midway(record: Record, disk: OpenDevice, keys: Mapping[KeyVersion, Secret]) -> Way:
    """Make the dm-crypt device of a volume in the middle of its re-encryption.

    Args:
        disk: not exclusive, or cryptsetup could not claim it.
        keys: that the broker gave; the current one opens the keyslots of both volume keys.

    Raises:
        KeybrokerError: HEADER_REFUSED; LOCKED_OUT where no key fits; WRONG_DEVICE where the kernel was led to
            another device than was meant; EXISTS, TOOL_FAILED. Nothing is left open then.

    Source: DESIGN section 5, 4.
    """
    name = names.crypt_name(record.name, record.luks_uuid)
    _read(record, disk)
    clear_helpers(name, record.luks_uuid)

    def recover(header_fd: int) -> None:
        _fitting(record, keys, lambda key: cryptsetup.recover(disk, header_fd=header_fd, key=key))

    settle(record, disk, recover)
    if (found := whole(record, disk)) is not None:
        known, held = found
        return open_crypt(known, disk, keys, held)
    version = _fitting(record, keys, lambda key: cryptsetup.open_midway(disk, name, key=key))
    try:
        header = _read(record, disk)
        if devicemapper.uuid(name) != crypt_uuid(header.uuid, name):
            raise KeybrokerError(Problem.WRONG_DEVICE, f"{name}: its DM UUID is {devicemapper.uuid(name)}")
        node, size = disk.device.node, disk.device.size_bytes
        text = devicemapper.table(name) or ""
        if header.metadata.final is not None:
            check_targets(text, meant_in_place(header, node, size))
        else:
            check_crypt_tables(text, meant_midway(header, node, size))
    except KeybrokerError:
        cryptsetup.close(name)
        raise
    return Way(version, min(header.metadata.data_digest.keyslots), header.sequence)


def _read(record: Record, disk: OpenDevice) -> Header:
    header = read_header(disk.read, disk.device.size_bytes)
    state = judge(header, record, disk.device.size_bytes)
    if state != "midway":
        raise KeybrokerError(
            Problem.HEADER_REFUSED, f"{record.name}: its header was midway a moment ago, and is {state} now"
        )
    return header


def _fitting(
    record: Record, keys: Mapping[KeyVersion, Secret], opens: Callable[[Secret], bool]
) -> KeyVersion:
    for version in sorted(keys, key=lambda version: (version != record.current, -version)):
        if opens(keys[version]):
            return version
    raise KeybrokerError(
        Problem.LOCKED_OUT,
        f"{record.name}: none of the key versions {', '.join(map(str, sorted(keys))) or '(none)'} opens it in"
        " the middle of its re-encryption; nothing was changed",
    )


def check_running(record: Record, crypt: Mapped, table: CryptTable) -> None:
    """Compare a volume that stands open with what it may be while a re-encryption is under way.

    Args:
        table: what it is as a whole.

    Raises:
        KeybrokerError: WRONG_DEVICE, HEADER_REFUSED, with the difference.
    """
    assert record.pin is not None  # noqa: S101  # the caller made the table of it
    whole = replace(table, key=f":{record.profile.key_bytes}:logon:cryptsetup:{record.pin.uuid}-d")
    for attempt in (1, 2, 3):
        text = devicemapper.table(crypt.name) or ""
        try:
            _check_layers(record, text, whole, _helpers(crypt.name, record.luks_uuid))
        except KeybrokerError:
            if attempt == 3:
                raise  # a work in progress changes one device after the other, but not for that long
        else:
            return


def _check_layers(record: Record, text: str, whole: CryptTable, helpers: dict[str, Helper]) -> None:
    if record.order is None or record.order.kind != "encrypt":
        check_layers(text, whole, helpers)
        return
    shift, length = whole.offset * devicemapper.SECTOR, whole.sectors * devicemapper.SECTOR
    check_layers_in_place(text, whole, Layout(shift, length + shift, length), helpers)


def _helpers(name: str, luks_uuid: str) -> dict[str, Helper]:
    there = devicemapper.mapped()
    found = {}
    for helper in HELPERS:
        device = there.get(f"{name}-{helper}")
        if device is not None and device.uuid == helper_uuid(luks_uuid, name, helper):
            found[helper] = Helper(device.node, devicemapper.table(device.name) or "")
    return found


def clear_helpers(name: str, luks_uuid: str) -> None:
    """Take away what a cryptsetup that was killed has left beside a volume's dm-crypt device.

    Raises:
        KeybrokerError: WRONG_DEVICE where it is in use: by a re-encryption that is running, or by the volume,
            which then has to be closed and opened; TOOL_FAILED.
    """
    for helper in _helpers(name, luks_uuid):
        device = f"{name}-{helper}"
        if dmcontrol.open_count(device):
            raise KeybrokerError(
                Problem.WRONG_DEVICE,
                f"{devicemapper.path(device)}: is in use: a re-encryption is running, or the program that"
                " did it was killed",
                hint="if none is running: keybroker-agent lock and unlock, or a reboot, brings it to an end",
            )
        devicemapper.remove(device)
