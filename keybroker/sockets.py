"""Sockets that the broker listens on: bound here, or passed by systemd."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Final

from tornado.netutil import bind_unix_socket

from keybroker.config import Address
from keybroker.wire.problems import KeybrokerError, Problem

_BACKLOG: Final = 2048

_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78
"""Which Python has no names for (ip(7), linux/in6.h)."""


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
    """Bind what the listener ``name`` listens on, also where this machine has not got the address yet.

    After a power cut the network may come long after the broker does. Such a socket answers from the moment
    on when the address is there (IP_FREEBIND, ip(7)), and no start depends on which of both is first.

    Raises:
        KeybrokerError: UNAVAILABLE where that cannot be bound.
    """
    try:
        if isinstance(address, Path):
            # Whoever is on this machine may ask how the broker is; the reply names nothing.
            return (bind_unix_socket(str(address), mode=0o666, backlog=_BACKLOG),)
        return (_listening(address),)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        # Temporary: after a restart the port may be held still.
        raise KeybrokerError(
            Problem.UNAVAILABLE,
            f"{name} listener: cannot listen on {address}: {reason}",
            hint="ss -ltnp" if isinstance(address, Address) else None,
        ) from error


def _listening(address: Address) -> socket.socket:
    family = _family(address.host)
    with contextlib.ExitStack() as unless_it_works:
        made = unless_it_works.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        made.bind((address.host, address.port))
        made.listen(_BACKLOG)
        made.setblocking(False)
        unless_it_works.pop_all()
        return made


def is_here(host: str) -> bool:
    """Say whether this machine has a numeric address now; 0.0.0.0 and :: it always has."""
    with socket.socket(_family(host), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
        return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def shown(bound: socket.socket) -> str:
    """Return where a socket listens, for the log."""
    name = bound.getsockname()
    return f"unix:{name}" if isinstance(name, str) else str(Address(name[0], name[1]))
