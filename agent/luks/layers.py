"""The kernel's tables of a volume whose re-encryption has begun, as cryptsetup changes them while it runs.

    at rest   kb-data-0f2d3c1a: crypt targets, one a stretch: the new key's, then the old key's
    running   kb-data-0f2d3c1a: linear over all of ….-overlay
              …-overlay:          crypt targets; the stretch in work stands on …-hotzone-forward
              …-hotzone-forward:  linear over all of the data on the disk

At whatever moment a look falls, every sector must lead through the volume's own cipher to its own place on
the volume's own disk. Which of the two keys a stretch is under only the header knows; opening compares that.

Source: cryptsetup 2.6.1, lib/luks2/luks2_reencrypt.c (``reenc_init_helper_devices``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from agent.luks.table import CryptTable, LinearTable, check_crypt_table, check_linear_table
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.values import dataclass, replace

OVERLAY: Final = "overlay"
HOTZONE: Final = "hotzone-forward"
HELPERS: Final = (OVERLAY, HOTZONE, "hotzone-backward")
"""What cryptsetup puts behind the dm-crypt device's name, in the order in which they can be taken away."""

MOST_TARGETS: Final = 3

_CRYPT: Final = re.compile(
    r"([0-9]{1,19}) ([0-9]{1,19}) crypt (\S+) (\S+) ([0-9]+) (\S+) ([0-9]{1,19})(?: .*)?"
)


@dataclass(frozen=True, slots=True)
class Helper:
    """A device that cryptsetup makes beside a volume's own: its ``major:minor``, and its table."""

    node: str
    table: str


def helper_uuid(luks_uuid: str, name: str, helper: str) -> str:
    """Return the DM UUID that a helper of the dm-crypt device ``name`` has."""
    return f"CRYPT-SUBDEV-{luks_uuid.replace('-', '')}-{name}-{helper}"


def check_layers(text: str, whole: CryptTable, helpers: Mapping[str, Helper]) -> None:
    """Compare a volume's tables with what they may be while a re-encryption is under way.

    Args:
        text: the table of the dm-crypt device.
        whole: what the volume is as a whole; its ``key`` without the digest's number.
        helpers: those that there are, by what is behind the name.

    Raises:
        KeybrokerError: WRONG_DEVICE, HEADER_REFUSED, as ``agent.luks.table.check_crypt_table``.
    """
    places = {whole.device: whole.offset}
    overlay, hotzone = helpers.get(OVERLAY), helpers.get(HOTZONE)
    if overlay is not None and " linear " in text:
        check_linear_table(text, LinearTable(whole.sectors, overlay.node))
        text = overlay.table
        if hotzone is not None:
            check_linear_table(hotzone.table, LinearTable(whole.sectors, whole.device, whole.offset))
            places[hotzone.node] = 0
    _check_targets(text, whole, places)


def _check_targets(text: str, whole: CryptTable, places: Mapping[str, int]) -> None:
    lines = text.splitlines()
    if not 1 <= len(lines) <= MOST_TARGETS:
        raise _wrong(f"it has {len(lines)} targets")
    at = 0
    for line in lines:
        match = _CRYPT.fullmatch(line.strip())
        if match is None:
            raise _wrong("a target of it is not dm-crypt")
        start, length, device, key = int(match[1]), int(match[2]), match[6], match[4]
        if start != at or device not in places:
            raise _wrong(f"a target begins at {start}, not {at}, or stands on {device}")
        number = re.fullmatch(re.escape(whole.key) + "([0-9]+)", key)
        table = replace(
            whole,
            sectors=length,
            key=whole.key + (number[1] if number else "0"),
            device=device,
            offset=places[device] + start,
            start=start,
        )
        check_crypt_table(line, table)
        at += length
    if at != whole.sectors:
        raise _wrong(f"it ends at {at}, not {whole.sectors}")


def _wrong(what: str) -> KeybrokerError:
    return KeybrokerError(Problem.WRONG_DEVICE, f"kernel table: {what}")
