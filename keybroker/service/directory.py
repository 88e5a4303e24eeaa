"""Add-ons and volumes by their names, and what operators are shown of a volume."""

from __future__ import annotations

from keybroker.audit import rfc3339
from keybroker.service.views import AddonView, VolumeView
from keybroker.store import Reading
from keybroker.store.rows import AddonRow, VolumeRow
from keybroker.wire.problems import KeybrokerError, Problem


def addon_named(reading: Reading, name: str) -> AddonRow:
    """Return an add-on.

    Raises:
        KeybrokerError: UNKNOWN.
    """
    row = reading.addon(name)
    if row is None:
        raise KeybrokerError(
            Problem.UNKNOWN, f"add-on {name[:40]}: there is none", hint="keybroker addon list"
        )
    return row


def lasting_addon(reading: Reading, name: str) -> AddonRow:
    """Return an add-on that something new may be made for.

    Raises:
        KeybrokerError: UNKNOWN; DELETED where it was destroyed; CONFLICT where it is to be.
    """
    row = addon_named(reading, name)
    if row.destroyed is not None:
        raise KeybrokerError(
            Problem.DELETED,
            f"add-on {name}: was destroyed at {rfc3339(row.destroyed)}, and its name is not used again",
            hint=f"keybroker addon record {name}",
        )
    if row.deletion is not None:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"add-on {name}: is to be destroyed after {rfc3339(row.deletion.due)}",
            hint=f"keybroker addon undelete {name}",
        )
    return row


def lasting_volume(reading: Reading, addon: str, name: str) -> VolumeRow:
    """Return the volume of that name, that nobody wants to be destroyed.

    Raises:
        KeybrokerError: UNKNOWN; CONFLICT where its destruction, or its add-on's, is pending; DELETED where
            its add-on was destroyed.
    """
    row = volume_named(reading, addon, name)
    if row.volume.deletion is not None:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"volume {addon}/{name}: is to be destroyed after {rfc3339(row.volume.deletion.due)}",
            hint=f"keybroker volume undelete {addon} {name}",
        )
    lasting_addon(reading, addon)
    return row


def addon_view(reading: Reading, row: AddonRow) -> AddonView:
    """Return all that there is to be shown of one add-on."""
    return AddonView.of(row, reading.volumes(row.name), reading.hosts(row.name))


def volume_named(reading: Reading, addon: str, name: str) -> VolumeRow:
    """Return the volume of that name: the one that holds the data; if there is none, the last that did.

    Raises:
        KeybrokerError: UNKNOWN.
    """
    named = [row for row in reading.volumes(addon_named(reading, addon).name) if row.volume.name == name]
    if not named:
        raise KeybrokerError(
            Problem.UNKNOWN, f"volume {addon}/{name[:40]}: there is none", hint="keybroker volume list"
        )

    def rank(row: VolumeRow) -> tuple[bool, bool, str]:
        volume = row.volume
        return volume.stage != "erased", volume.role == "holder", row.created.isoformat()

    return max(named, key=rank)


def view(reading: Reading, row: VolumeRow) -> VolumeView:
    """Return all that there is to be shown of one volume."""
    volume = row.volume
    owner = reading.addon(volume.addon)
    return VolumeView.of(
        row,
        reading.reports(volume.addon).get(volume.id),
        reading.proofs(volume.addon).get(volume.id),
        reading.headers(volume.id),
        len(reading.statements(volume.id)),
        reading.ahead().get(volume.id),
        None if owner is None else owner.deletion,
    )
