"""What operators say of destruction: have it pending, sooner, or call it off. ``destruction`` carries it out.

A volume's name stands for all volumes that hold its data, or held it: the holder, its successor and the
disks that were left go together, so that none of them keeps what the others have lost.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from keybroker.audit import rfc3339
from keybroker.model import Deletion, deletion, moving
from keybroker.policy import Peer
from keybroker.service import destruction
from keybroker.service.admission import Caller, perform
from keybroker.service.broker import Broker
from keybroker.service.custody import save
from keybroker.service.directory import addon_named, addon_view, view, volume_named
from keybroker.service.reasons import check_reason
from keybroker.service.views import AddonView, VolumeView
from keybroker.store import Writing
from keybroker.store.rows import AddonRow, VolumeRow
from keybroker.terms import MOST_DAYS, Terms
from keybroker.wire.problems import KeybrokerError, Problem


def delete_volume(
    broker: Broker, peer: Peer, addon: str, name: str, reason: str, days: int | None = None
) -> tuple[VolumeView, bool]:
    """Have a volume's destruction pending: its keys stay at the broker from here on.

    Args:
        reason: 1 to 500 printable characters, for the record.
        days: to wait; None for as many as the policy says. Fewer take a second person; 0 is at once.

    Returns:
        The volume, and whether that changed anything.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; UNKNOWN; MALFORMED; DELETED where it is
            erased; CONFLICT where a destruction is pending and is due sooner than that.
    """

    def work(writing: Writing, caller: Caller) -> tuple[VolumeView, bool]:
        _check(reason, days)
        row = _lasting(writing, addon, name)
        terms = addon_named(writing, addon).terms
        made = _scheduled(broker, caller, terms, row.volume.deletion, reason, days)
        changed = _pend(writing, caller, row, made)
        if changed:
            writing.append(caller.about("done", addon=addon, volume=row.volume.id, **_facts(made)))
        return view(writing, volume_named(writing, addon, name)), changed

    return perform(broker, peer, "volume.delete", work)


def undelete_volume(broker: Broker, peer: Peer, addon: str, name: str) -> tuple[VolumeView, bool]:
    """Call a volume's destruction off; its host gets its keys again.

    Returns:
        The volume, and whether its destruction was pending.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; UNKNOWN; DELETED where it is too late;
            CONFLICT where it is the whole add-on that is to be destroyed.
    """

    def work(writing: Writing, caller: Caller) -> tuple[VolumeView, bool]:
        row = _lasting(writing, addon, name)
        owner = addon_named(writing, addon)
        if row.volume.deletion is None and owner.deletion is not None:
            raise KeybrokerError(
                Problem.CONFLICT,
                f"volume {addon}/{name}: is to be destroyed with its add-on",
                hint=f"keybroker addon undelete {addon}",
            )
        pending = row.volume.deletion
        if pending is None:
            return view(writing, row), False
        waited = deletion.waited(pending, owner.deletion, caller.now)
        for each in destruction.named(writing, row.volume.addon, row.volume.name):
            save(writing, caller, each, moving.call_off(each.volume, waited))
        writing.append(caller.about("done", addon=addon, volume=row.volume.id, name=name))
        return view(writing, volume_named(writing, addon, name)), True

    return perform(broker, peer, "volume.undelete", work)


def approve_volume(broker: Broker, peer: Peer, addon: str, name: str, due: datetime) -> VolumeView:
    """Approve that a volume is destroyed sooner than the policy says; where that is now, it is done now.

    Args:
        due: the very time that was asked for.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; UNKNOWN; NOT_ALLOWED for the one who asked;
            CONFLICT where that time was not asked for, or while the volume is held (``setback``).
    """

    def work(writing: Writing, caller: Caller) -> VolumeView:
        row = volume_named(writing, addon, name)
        if row.volume.stage == "erased":
            return view(writing, row)
        made = _approved(caller, row.volume.deletion, due, f"volume {addon}/{name}")
        destruction.check_free(writing, destruction.named(writing, row.volume.addon, row.volume.name))
        if _pend(writing, caller, row, made):
            writing.append(caller.about("done", addon=addon, volume=row.volume.id, **_facts(made)))
        return view(writing, volume_named(writing, addon, name))

    shown = perform(broker, peer, "volume.approve", work)
    if shown.volume.deletion is None or shown.volume.deletion.due > broker.clock():
        return shown
    destruction.sweep_volumes(broker, only=(addon, name))
    return broker.store.read(lambda reading: view(reading, volume_named(reading, addon, name)))


def delete_addon(
    broker: Broker, peer: Peer, addon: str, reason: str, days: int | None = None
) -> tuple[AddonView, bool]:
    """Have an add-on's destruction pending, with all of its volumes and its own key; as ``delete_volume``.

    Raises:
        KeybrokerError: as ``delete_volume``; DELETED where it was destroyed.
    """

    def work(writing: Writing, caller: Caller) -> tuple[AddonView, bool]:
        _check(reason, days)
        row = _there(writing, addon)
        made = _scheduled(broker, caller, row.terms, row.deletion, reason, days)
        if made is row.deletion:
            return addon_view(writing, row), False
        writing.change_addon(replace(row, deletion=made))
        writing.append(caller.about("done", addon=addon, **_facts(made)))
        return addon_view(writing, addon_named(writing, addon)), True

    return perform(broker, peer, "addon.delete", work)


def undelete_addon(broker: Broker, peer: Peer, addon: str) -> tuple[AddonView, bool]:
    """Call an add-on's destruction off; that of single volumes of it stays pending.

    Returns:
        The add-on, and whether its destruction was pending.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; UNKNOWN; DELETED where it is too late.
    """

    def work(writing: Writing, caller: Caller) -> tuple[AddonView, bool]:
        row = _there(writing, addon)
        if row.deletion is None:
            return addon_view(writing, row), False
        for each in writing.volumes(row.name):
            # a volume's own goes on, and its keys wait for that too when it is called off
            waited = deletion.waited(row.deletion, each.volume.deletion, caller.now)
            save(writing, caller, each, moving.postpone(each.volume, waited))
        writing.change_addon(replace(row, deletion=None))
        writing.append(caller.about("done", addon=addon))
        return addon_view(writing, addon_named(writing, addon)), True

    return perform(broker, peer, "addon.undelete", work)


def approve_addon(broker: Broker, peer: Peer, addon: str, due: datetime) -> AddonView:
    """Approve that an add-on is destroyed sooner than the policy says; as ``approve_volume``.

    Raises:
        KeybrokerError: as ``approve_volume``.
    """

    def work(writing: Writing, caller: Caller) -> AddonView:
        row = addon_named(writing, addon)
        if row.destroyed is not None:
            return addon_view(writing, row)
        made = _approved(caller, row.deletion, due, f"add-on {addon}")
        destruction.check_free(writing, writing.volumes(row.name))
        if made is not row.deletion:
            writing.change_addon(replace(row, deletion=made))
            writing.append(caller.about("done", addon=addon, **_facts(made)))
        return addon_view(writing, addon_named(writing, addon))

    shown = perform(broker, peer, "addon.approve", work)
    if shown.deletion is None or shown.deletion.due > broker.clock():
        return shown
    destruction.sweep_addons(broker, only=addon)
    return broker.store.read(lambda reading: addon_view(reading, addon_named(reading, addon)))


def _check(reason: str, days: int | None) -> None:
    check_reason(reason)
    if days is not None and not 0 <= days <= MOST_DAYS:
        raise KeybrokerError(Problem.MALFORMED, f"days: must be from 0 to {MOST_DAYS}")


def _scheduled(
    broker: Broker, caller: Caller, terms: Terms, pending: Deletion | None, reason: str, days: int | None
) -> Deletion:
    own = timedelta(days=terms.deletion_days)
    return deletion.schedule(
        pending,
        by=caller.peer.identity.name,
        now=caller.now,
        wait=None if days is None else timedelta(days=days),
        policy=own or broker.settings.deletion_wait,
        reason=reason,
    )


def _approved(caller: Caller, pending: Deletion | None, due: datetime, what: str) -> Deletion:
    if pending is None:
        raise KeybrokerError(Problem.CONFLICT, f"{what}: no destruction is pending")
    return deletion.approve(pending, by=caller.peer.identity.name, due=due, now=caller.now)


def _pend(writing: Writing, caller: Caller, row: VolumeRow, made: Deletion) -> bool:
    """Write a deletion to all volumes of that name; say whether any was changed."""
    changed = False
    for each in destruction.named(writing, row.volume.addon, row.volume.name):
        volume = moving.pend(each.volume, made)
        changed = changed or volume is not each.volume
        save(writing, caller, each, volume)
    return changed


def _facts(made: Deletion) -> dict[str, Any]:
    sooner = {"sooner": rfc3339(made.sooner)} if made.sooner is not None else {}
    return {"due": rfc3339(made.due), "reason": made.reason, **sooner}


def _lasting(writing: Writing, addon: str, name: str) -> VolumeRow:
    row = volume_named(writing, addon, name)
    if row.volume.stage == "erased":
        raise _gone(f"volume {addon}/{name}: is erased", f"keybroker volume record {addon} {name}")
    return row


def _there(writing: Writing, addon: str) -> AddonRow:
    row = addon_named(writing, addon)
    if row.destroyed is not None:
        raise _gone(f"add-on {addon}: was destroyed", f"keybroker addon record {addon}")
    return row


def _gone(what: str, hint: str) -> KeybrokerError:
    return KeybrokerError(Problem.DELETED, what, hint=hint)
