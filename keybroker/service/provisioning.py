"""A new volume on its way to its disk: claim the device, deposit the header, report it ready.

Each call names the state it wants; repeated, it changes nothing and gives the same reply.
"""

from __future__ import annotations

from keybroker.policy import Peer
from keybroker.service.broker import Broker
from keybroker.wire.messages import ClaimRequest, DepositRequest, HeaderCopy, ReadyRequest
from keybroker.wire.names import VolumeId
from keybroker.wire.records import Grant, Record


def claim(broker: Broker, peer: Peer, volume: VolumeId, request: ClaimRequest) -> Grant:
    """Let this one device become the volume's, and hand out the key to format it with.

    Returns:
        The record with the key while the stage is ``claimed``; the record alone once it has gone on.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN for a volume that is not its add-on's;
            WRONG_DEVICE for another serial or too small a device; CONFLICT for another revision, or where
            another device was claimed.
    """
    raise NotImplementedError


def deposit(broker: Broker, peer: Peer, volume: VolumeId, request: DepositRequest) -> Record:
    """Keep the header, wrapped, and pin it, before any of it is on the disk.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; HEADER_REFUSED for a header that the
            volume's profile does not allow; CONFLICT for another revision, stage or header.
    """
    raise NotImplementedError


def header_copy(broker: Broker, peer: Peer, volume: VolumeId) -> HeaderCopy:
    """Return the newest header that was deposited.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN for another add-on's volume, or while there is no header.
    """
    raise NotImplementedError


def ready(broker: Broker, peer: Peer, volume: VolumeId, request: ReadyRequest) -> Record:
    """Take note that the volume is on its disk with its filesystem; from here on nothing formats anything.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer; UNKNOWN; CONFLICT for another revision or stage.
    """
    raise NotImplementedError
