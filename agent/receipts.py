"""The last receipt that the broker gave this machine, by which either sees a database that was set back.

One JSON file in the state directory. It may be lost or broken at any time: the next one takes its place. It
is on the boot path, and so not waited for to be durable; a power cut leaves the one before, or none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.receipt import Receipt

FILE: Final = "receipt.json"
_LARGEST: Final = 4096

Tell = Callable[[str, int], None]


class Receipts:
    """What this machine holds, and what it hears.

    Args:
        state: directory; one that is not there is none to keep anything in.
        tell: is given a line and its priority (syslog(3)).
    """

    def __init__(self, state: Path, tell: Tell) -> None:
        self._path = state / FILE
        self._tell = tell

    def last(self) -> Receipt | None:
        """Return the receipt that is kept; one that cannot be read is none."""
        try:
            with self._path.open("rb") as file:
                return Receipt.read(Fields.parse(file.read(_LARGEST)))
        except (OSError, KeybrokerError):
            return None

    def heard(self, held: Receipt | None, given: Receipt | None) -> None:
        """Keep a receipt that the broker gave, and say so where its trail has become shorter.

        Args:
            held: the one that it was asked with.
        """
        if given is None or given == held:
            return
        if held is not None and given.writer == held.writer and given.sequence < held.sequence:
            self._tell(
                f"broker: its database was set back: its trail ended at record {given.name},"
                f" and this machine holds a receipt for record {held.name}",
                3,
            )
            self._tell("hint: at the broker: keybroker restore --check", 3)
        fresh = self._path.with_name(f".{FILE}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(given.as_json()) + "\n")
            fresh.rename(self._path)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            if self._path.parent.is_dir():  # else never enrolled: there is nothing to keep
                self._tell(f"receipt: not kept: {error}", 4)
