"""Sockets that the broker listens on: bound here, or passed by systemd."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from tornado.netutil import bind_sockets, bind_unix_socket

from keybroker.config import Address
from keybroker.wire.problems import KeybrokerError, Problem

_BACKLOG: Final = 2048


def given() -> dict[str, tuple[socket.socket, ...]]:
    """Return the sockets that systemd passed, by FileDescriptorName= (sd_listen_fds_with_names(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    passed = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, tuple[socket.socket, ...]] = {}
    for i in range(int(os.environ.get("LISTEN_FDS", "0"))):
        name = passed[i] if i < len(passed) else ""
        if name not in ("main", "enrolment", "health"):
            raise KeybrokerError(
                Problem.CONFIGURATION,
                f"socket unit: {name!r} is not a listener",
                hint="FileDescriptorName=main, enrolment or health",
            )
        taken = socket.socket(fileno=3 + i)
        taken.setblocking(False)  # Tornado accepts until it would block, and for ever if it never would
        found[name] = (*found.get(name, ()), taken)
    return found


def bound_to(address: Address | Path, name: str) -> tuple[socket.socket, ...]:
    """Bind what the listener ``name`` listens on.

    Raises:
        KeybrokerError: UNAVAILABLE where that cannot be bound.
    """
    try:
        if isinstance(address, Path):
            # Whoever is on this machine may ask how the broker is; the reply names nothing.
            return (bind_unix_socket(str(address), mode=0o666, backlog=_BACKLOG),)
        return tuple(bind_sockets(address.port, address.host, backlog=_BACKLOG))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        # Temporary: at boot the address may be later than we are, after a restart the port may be held still.
        raise KeybrokerError(
            Problem.UNAVAILABLE,
            f"{name} listener: cannot listen on {address}: {reason}",
            hint="ss -ltnp" if isinstance(address, Address) else None,
        ) from error


def shown(bound: socket.socket) -> str:
    """Return where a socket listens, for the log."""
    name = bound.getsockname()
    return f"unix:{name}" if isinstance(name, str) else str(Address(name[0], name[1]))
