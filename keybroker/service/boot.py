"""A boot: one request, one reply with the keys of every volume that may have them, one durable record."""

from __future__ import annotations

from keybroker.policy import Peer
from keybroker.service.broker import Broker
from keybroker.wire.messages import UnlockReply, UnlockRequest


def unlock(broker: Broker, peer: Peer, request: UnlockRequest) -> UnlockReply:
    """Hand a host the keys of its own add-on's volumes, as far as what it sees allows.

    Args:
        peer: a host.
        request: what stands at each volume's place; a volume it does not name comes back without keys.

    Returns:
        Every volume of the host's add-on. A refused volume does not stop the others. Its receipt is the last
        of the audit records, all of which are durable.

    Raises:
        KeybrokerError: NOT_ALLOWED for an operator; NO_IDENTITY, REVOKED or CERTIFICATE for a host that this broker does not
            know, has revoked, or whose certificate is over; UNAVAILABLE where the record cannot be written, and
            then no key leaves; CORRUPT where a stored key does not open.
    """
    raise NotImplementedError
