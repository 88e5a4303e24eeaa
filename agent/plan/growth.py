"""Letting a volume take all of a disk that has grown, or of a larger one that it moved to. Pure.

From the bottom up, a layer a step, each seen to have grown before the next: dm-crypt, the stable device, the
filesystem. Each is done while the volume is in use. Nothing ever shrinks.
"""

from __future__ import annotations

from typing import Final

from agent.plan.steps import Ask, Finish, Grow
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass

SLACK_BYTES: Final = 2 << 20
"""What a filesystem may leave unused without being called too small: the last MiB, where the mark of one that
is being made lies (``agent.filesystem``), and what does not fill a block or a group."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large each layer of an open volume is, in bytes.

    Attributes:
        room: of the disk behind the header; the least multiple of the sector size.
        filesystem: None where it is not mounted here, and so is not grown, or where there is none.
    """

    room: int
    crypt: int
    linear: int
    filesystem: int | None


def next_step(sizes: Sizes) -> Grow | None:
    """Name the lowest layer that is smaller than what is below it; None where none is."""
    if sizes.crypt < sizes.room:
        return Grow("crypt", f"the disk has {sizes.room - sizes.crypt} bytes that are not encrypted")
    if sizes.linear < sizes.crypt:
        return Grow("linear", f"the stable device leaves {sizes.crypt - sizes.linear} bytes unused")
    if sizes.filesystem is not None and sizes.filesystem + SLACK_BYTES < sizes.linear:
        return Grow("filesystem", f"the filesystem leaves {sizes.linear - sizes.filesystem} bytes unused")
    return None


def resize(order: int, sizes: Sizes | None, *, has_keys: bool) -> Ask | Grow | Finish:
    """Name the step that carries out an order to grow.

    Args:
        order: its number.
        sizes: None where the volume is not open, or stands on two disks.
        has_keys: dm-crypt grows with a key only: the kernel gives the one that it has to nobody.

    Raises:
        KeybrokerError: NO_DEVICE where the volume is not open.
    """
    if sizes is None:
        raise KeybrokerError(Problem.NO_DEVICE, "only an open volume is grown", hint="keybroker-agent unlock")
    step = next_step(sizes)
    if step is None:
        return Finish(order, "every layer takes all of the one below it")
    if step.layer == "crypt" and not has_keys:
        return Ask("the encrypted device grows with a key only")
    return step
