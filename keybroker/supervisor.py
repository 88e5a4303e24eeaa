"""The service manager that started this broker, as sd_notify(3) has it; nobody listens outside of a unit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Final

_SECONDS: Final = 2


def is_there() -> bool:
    """Say whether a service manager waits for this process to be ready."""
    return os.environ.get("NOTIFY_SOCKET", "").startswith(("/", "@"))


def tell(state: str) -> None:
    """Tell it; one that does not read is told nothing, and is not waited for."""
    if is_there():
        with contextlib.suppress(OSError), _manager() as manager:
            manager.send(state.encode())


async def notify(state: str) -> None:
    """Tell it; one that does not listen is waited for a moment and left.

    libsystemd would block here, with the interpreter's lock held, until the service manager reads: the whole
    broker would stand still on its account.
    """
    if is_there():
        with contextlib.suppress(OSError, TimeoutError), _manager() as manager:
            async with asyncio.timeout(_SECONDS):
                await asyncio.get_running_loop().sock_sendall(manager, state.encode())


@contextlib.contextmanager
def _manager() -> Iterator[socket.socket]:
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.setblocking(False)
        manager.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        yield manager


async def watchdog(alive: Callable[[], bool]) -> None:
    """Tell systemd twice per period that the event loop turns (sd_watchdog_enabled(3)).

    Args:
        alive: whether writes are still answered. Without them no key leaves ever again, and only another
            process can help: that is what systemd starts when it hears nothing more.
    """
    period = os.environ.get("WATCHDOG_USEC", "")
    if not period.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        if alive():
            await notify("WATCHDOG=1")
        await asyncio.sleep(int(period) / 2_000_000)
