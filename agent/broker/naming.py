"""Saying which boot asks for a key, to brokers that take that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from keybroker.wire.messages import ClaimRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant
from keybroker.wire.values import replace

if TYPE_CHECKING:  # a boot does not change keys
    from keybroker.wire.changes import StageRequest

_Naming = TypeVar("_Naming", ClaimRequest, "StageRequest")


def naming_boot(request: _Naming, ask: Callable[[_Naming], Grant]) -> Grant:
    """Ask for a key, and once more without the boot's name where the broker does not take that."""
    try:
        return ask(request)
    except KeybrokerError as error:
        if request.boot is None or error.problem is not Problem.MALFORMED:
            raise
        # a broker from before boots were told apart
        return ask(replace(request, boot=None))
