"""Add-ons and volumes by their names, and what operators are shown of a volume."""

from __future__ import annotations

from keybroker.service.views import VolumeView
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
    return VolumeView.of(
        row,
        reading.reports(volume.addon).get(volume.id),
        reading.proofs(volume.addon).get(volume.id),
        reading.headers(volume.id),
        len(reading.statements(volume.id)),
        reading.ahead().get(volume.id),
    )
