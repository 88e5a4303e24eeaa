"""What systemd is told while a verb runs: one datagram, as sd_notify(3) describes it.

Written out here because ``import systemd.daemon`` is 6 ms, and this is ten lines on the boot path.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

_BOOTED: Final = Path("/run/systemd/system")


def is_running() -> bool:
    """Say whether systemd is this machine's init (sd_booted(3))."""
    return _BOOTED.is_dir()


def notify(**said: str | int) -> None:
    """Tell it, for example, ``STATUS="waiting for a broker"``; nobody listens outside of a unit."""
    where = os.environ.get("NOTIFY_SOCKET", "")
    if not where.startswith(("/", "@")):
        return
    text = "\n".join(f"{key}={value}" for key, value in said.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.sendto(text.encode(), where.replace("@", "\0", 1) if where[0] == "@" else where)
    except OSError:
        pass  # a status line that is not heard is no reason to leave a disk closed
