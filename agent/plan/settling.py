"""Which planner is to be asked about a volume that is in use: the first that has a step has the say.

    for planner in PLANNERS: step = planner(survey); if step is not None: that is it

A planner answers None where nothing of its own is to be done, and raises where nobody may do anything. Who
adds one adds it to ``PLANNERS`` at the place that the order below gives it, and its steps to ``THEN``:

1. erasure: of what is to be destroyed, nothing is changed or backed up first;
2. an encryption in place, until the volume is open by its header;
3. a re-encryption that is in the header, or an encryption: no other step is legal until it is through;
4. rotation, and the header's copy at the broker;
5. a re-encryption that is ordered: it begins with fresh keys and a header that is backed up;
6. migration;
7. resizing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.plan import encryption, erasure, recovery, reencryption, rotation, steps
from agent.plan.steps import Change, Step
from agent.plan.survey import Survey
from keybroker.wire.records import Record, SeenHeader

Planner = Callable[[Survey], Change | Step | None]

PLANNERS: Final[tuple[Planner, ...]] = (
    encryption.next_step,
    reencryption.underway,
    rotation.next_step,
    reencryption.ordered,
)

THEN: Final[dict[type, str]] = {
    steps.Stage: "Fill: the new key goes into a keyslot of its own",
    steps.Fill: "Tag: our token is to name the keyslot",
    steps.Tag: "Ask: the key is fetched anew, and has to open the header",
    steps.Enclose: "Backup: the broker gets a copy of the header",
    steps.Promote: "Clear: the keyslot of the key before is killed",
    steps.Begin: "Announce: the broker is told of the new volume key",
    steps.Shelve: "Deposit: the broker gets the header, before the disk does",
    steps.Deposit: "Inscribe: the header is written to the disk",
    steps.Inscribe: "Open: the volume is opened by its header",
    steps.Reencrypt: "Tag: our token is to name the new keyslot",
    steps.Clear: "Backup: the broker gets a copy of the header",
    steps.Mirror: "Copy: the kernel copies to the new disk",
    steps.Copy: "Verify: what both disks hold is compared",
    steps.Verify: "Raise: the new disk's header gets a sequence that no half-copied disk had",
    steps.Raise: "Switch: the new disk is the one that counts",
    steps.Switch: "Drop: the old disk is written to no more",
    steps.Drop: "Close: the old disk is closed",
    steps.Close: "Wipe: its header and keyslots are overwritten",
    steps.Wipe: "Erased: the broker is told",
}
"""What is expected after a step; the next survey decides."""


def next_step(survey: Survey) -> Change | Step | None:
    """Name the step that brings a volume closer to what is wanted of it; None when it is there.

    Raises:
        KeybrokerError: as the planner that was asked.
    """
    for planner in PLANNERS:
        step = planner(survey)
        if step is not None:
            return step
    return None


def has_course(record: Record) -> bool:
    """Say whether a volume's keys are of any interest: a plain disk has none, one to be erased needs none."""
    has_keys = record.stage != "plain" or encryption.is_wanted(record)
    return record.role == "holder" and has_keys and not erasure.is_wanted(record)


def is_at_rest(record: Record, header: SeenHeader | None) -> bool:
    """Say whether a volume needs no look at its keyslots, so that no key leaves the broker for nothing.

    Args:
        header: on the disk; None where none can be read.
    """
    if record.is_swap or record.stage in ("new", "claimed", "deposited", "erased"):
        return record.order is None and record.role == "holder"
    if record.stage == "plain":
        return record.order is None and record.role == "holder"
    wanted = not rotation.is_at_rest(record) or record.order is not None or record.partner is not None
    backed_up = header is not None and header.sequence == record.sequence and not header.degraded
    enclosed = header is not None and recovery.is_enclosed(record, header)
    return not wanted and backed_up and enclosed and record.role == "holder"
