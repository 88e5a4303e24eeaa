"""The last steps before the broker names another disk the holder: raise its header, and leave a copy of that.

Why the header is raised is in ``agent.plan.migration``. A mirror stands meanwhile, and writes wait for a disk
that fails; so trouble with the header is returned in words, as if the two disks differed, and not raised.
"""

from __future__ import annotations

from agent.change.deeds import given_proof
from agent.change.workshop import Workshop
from agent.plan.migration import Seen
from agent.world import Sighting
from keybroker.wire.messages import DepositRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Record
from keybroker.wire.values import replace


def look(shop: Workshop, successor: Record, seen: Seen) -> tuple[Sighting | None, Seen]:
    """Read the header of the disk that is moved to."""
    try:
        return shop.world.disks.look(successor), seen
    except (KeybrokerError, OSError) as error:
        return None, replace(seen, differs=f"the new disk's header cannot be read: {error}")


def raise_header(shop: Workshop, successor: Record, seen: Seen) -> Seen:
    """Have the header's sequence grow; only what the broker does not know yet counts as raised."""
    if successor.pin is None:  # set back to before the deposit: any header that fits the profile would pass
        return replace(seen, differs="the broker does not know the new disk's header any more")
    try:
        raised = shop.headers.raise_sequence(successor)
    except (KeybrokerError, OSError) as error:
        return replace(seen, differs=f"the new disk's header cannot be written: {error}")
    # A sequence that the broker knows is of a time since when the disk may have lacked something.
    return replace(seen, raised=raised if raised > (successor.sequence or 0) else None)


def back_up(shop: Workshop, successor: Grant, sighting: Sighting | None) -> Record:
    """Leave the broker a copy of the header that was raised, with the proof that its key opens it.

    Raises:
        KeybrokerError: HEADER_REFUSED, LOCKED_OUT; as ``Broker.deposit``.
    """
    record, header = successor.record, None if sighting is None else sighting.observation.header
    if sighting is None or sighting.copy is None or header is None:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: no copy of its header can be made")
    keyslots = shop.headers.probe(record, successor.keys, sighting)
    given = given_proof(record, header, keyslots, successor.keys)
    request = DepositRequest(record.revision, header, sighting.copy, given)
    return shop.broker.deposit(record.volume, request)
