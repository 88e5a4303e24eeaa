"""The HTTP client's calls for volumes in use (``keybroker.wire.changes``); a boot needs none of them.

A course may last for hours and a call in it only for so long: each call has a time of its own to get through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from agent.broker import PATIENCE, REAL, BrokerClient, Clockwork, Limits
from agent.broker.connection import Credentials
from agent.broker.naming import naming_boot
from agent.receipts import Receipts
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.changes import (
    AdoptionRequest,
    ErasedRequest,
    PhaseRequest,
    PromoteRequest,
    StageRequest,
    SwitchReply,
    SwitchRequest,
)
from keybroker.wire.fields import Fields
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.records import Grant, Record
from keybroker.wire.reports import ReportReply, ReportRequest

_T = TypeVar("_T")

SECONDS: Final = 60.0
"""How long a call tries to get through, unless it is told otherwise."""


class ChangeClient(BrokerClient):
    """The ``Broker`` of ``agent.change.workshop``, over the network; threads may share it.

    Args:
        brokers, credentials, boot: as of ``BrokerClient``.
        patience: seconds that each call may take until a broker answers.
    """

    def __init__(
        self,
        brokers: tuple[str, ...],
        credentials: Credentials,
        *,
        patience: float = SECONDS,
        limits: Limits = PATIENCE,
        clockwork: Clockwork = REAL,
        receipts: Receipts | None = None,
        boot: AskingBoot | None = None,
    ) -> None:
        super().__init__(
            brokers,
            credentials,
            deadline=0.0,
            limits=limits,
            clockwork=clockwork,
            receipts=receipts,
            boot=boot,
        )
        self._patience = patience

    def _call(self, method: str, path: str, request: Any, form: Callable[[Fields], _T]) -> _T:
        self._deadline = self._clockwork.monotonic() + self._patience
        return super()._call(method, path, request, form)

    def report(self, request: ReportRequest) -> ReportReply:
        """Say what is going on; hear what is wanted."""
        return self._with_receipt(
            request, lambda request: self._call("POST", "/v1/report", request, ReportReply.read)
        )

    def stage(self, volume: VolumeId, request: StageRequest) -> Grant:
        """Have the wanted key version minted; get it, and the current one."""
        path = f"/v1/volumes/{volume}/staged"
        return naming_boot(request, lambda asked: self._call("PUT", path, asked, Grant.read))

    def promote(self, volume: VolumeId, request: PromoteRequest) -> Record:
        """Have the staged version made current."""
        return self._call("PUT", f"/v1/volumes/{volume}/current", request, Record.read)

    def retire(self, volume: VolumeId, version: KeyVersion) -> Record:
        """Say that the retiring version opens nothing any more."""
        return self._call("DELETE", f"/v1/volumes/{volume}/keys/{version}", None, Record.read)

    def announce(self, volume: VolumeId, request: PhaseRequest) -> Record:
        """Say that an order begins, and which volume key it leads to."""
        return self._call("PUT", f"/v1/volumes/{volume}/order", request, Record.read)

    def finish(self, volume: VolumeId, order: int) -> Record:
        """Say that an order is done."""
        return self._call("DELETE", f"/v1/volumes/{volume}/order/{order}", None, Record.read)

    def switch(self, volume: VolumeId, request: SwitchRequest) -> SwitchReply:
        """Have a successor made the holder."""
        return self._call("PUT", f"/v1/volumes/{volume}/holder", request, SwitchReply.read)

    def erased(self, volume: VolumeId, request: ErasedRequest) -> Record:
        """Say that a disk has no header any more."""
        return self._call("PUT", f"/v1/volumes/{volume}/erased", request, Record.read)

    def adopt(self, volume: VolumeId, request: AdoptionRequest) -> Record:
        """Say that our key is in a header that somebody else made."""
        return self._call("PUT", f"/v1/volumes/{volume}/adoption", request, Record.read)
