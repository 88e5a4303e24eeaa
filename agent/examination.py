"""What can be told of the header on a volume's disk without a key, for ``status`` and ``doctor``."""

from __future__ import annotations

import os
from typing import Literal

from agent.luks.acceptance import accept
from agent.luks.header import NotLuks, read_header
from agent.restoration import Holder
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.values import dataclass

Health = Literal["good", "degraded", "refused", "lost"]


@dataclass(frozen=True, slots=True)
class Examined:
    """A header, from outside.

    Attributes:
        health: ``degraded`` opens, from the copy that is whole; ``refused`` is not what profile and pin
            allow; ``lost`` cannot be read at all.
        detail: what is wrong, in words; empty where nothing is.
        hint: what to do about it.
    """

    health: Health
    detail: str = ""
    hint: str = ""


def examine(record: Record, places: Holder) -> Examined | None:
    """Look at the header on a volume's disk; None where there is none to look at yet, or no disk.

    While a re-encryption is in progress it is not judged: what it must be then is the business of that.
    """
    changing = record.order is not None and record.order.phase == "begun"
    if record.is_swap or record.stage != "ready" or changing:
        return None
    try:
        with places.open(record) as disk:

            def read(offset: int, length: int) -> bytes:
                return os.pread(disk.fd, length, offset)

            header = read_header(read, disk.device.size_bytes)
            accept(header, record.profile, record.pin)
    except KeybrokerError as error:
        return _wrong(record, error)
    if header.degraded:
        return Examined("degraded", "one of the two copies of its header is damaged", _again(record))
    return Examined("good")


def _wrong(record: Record, error: KeybrokerError) -> Examined | None:
    if error.problem is not Problem.HEADER_REFUSED:
        return None  # the disk itself, which has a finding of its own
    if isinstance(error, NotLuks) or error.detail.startswith("both copies"):
        return Examined("lost", f"its header is lost: {error.detail}", _again(record))
    return Examined("refused", f"its header is not what it must be: {error.detail}", _again(record))


def _again(record: Record) -> str:
    return f"the broker has a copy: keybroker-agent restore-header {record.name}"
