"""How a VM gets its identity: a one-time token for the first certificate, that certificate for the next ones."""

from __future__ import annotations

from keybroker.policy import Peer
from keybroker.service.broker import Broker
from keybroker.wire.messages import Certified, EnrolmentOffer, EnrolmentRequest, RenewalRequest


def offer(broker: Broker) -> EnrolmentOffer:
    """Return the CA's certificate; whoever asks compares it with the fingerprint in its token."""
    raise NotImplementedError


def enrol(broker: Broker, address: str, request: EnrolmentRequest) -> Certified:
    """Spend a token on the first certificate of the host that it was made for.

    Args:
        address: where the request came from, for the record.

    Returns:
        The certificate. The same token with the same public key gives the same certificate again until the
        token's lifetime is over, so that a lost reply costs nothing.

    Raises:
        KeybrokerError: TOKEN_REFUSED for a token that is unknown, expired, used by another key, or whose host is revoked;
            MALFORMED for a request that is not a P-256 CSR with a good signature; UNAVAILABLE.
    """
    raise NotImplementedError


def renew(broker: Broker, peer: Peer, request: RenewalRequest) -> Certified:
    """Give a host its next certificate; the old one stays good until it expires.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; MALFORMED as ``enrol``.
    """
    raise NotImplementedError
