"""The running broker: three listeners in one process, put together and taken apart.

| listener | TLS | client certificate | answers |
|---|---|---|---|
| main | 1.3 | required, from our CA | hosts and operators |
| enrolment | 1.3 | not asked for | /v1/enrolment |
| health | none; unix socket or loopback | – | /healthz, /readyz, /metrics |

Tornado's event loop holds every connection, so that stalled strangers cost no thread (docs/decisions/0004);
Flask answers in a thread pool. Readiness is announced only after the main listener has refused
a connection without a certificate.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from keybroker import hygiene, selftest, sockets, unsealer
from keybroker.clerk import Clerk
from keybroker.config import Settings
from keybroker.journal import Journal, SystemdJournal
from keybroker.limits import Limits
from keybroker.rewrapper import rewrap_forever
from keybroker.service import trail, unsealing
from keybroker.service.broker import Broker
from keybroker.service.installation import load_authority
from keybroker.supervisor import notify, watchdog
from keybroker.sweeper import sweep_forever
from keybroker.usher import usher_forever
from keybroker.web import enrolment, health, main, tls
from keybroker.web.app import methods_of
from keybroker.web.gate import Gate
from keybroker.web.listener import Listener
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.receipt import MAIN

_CURSOR: Final = "audit.copied"
"""Beside the database: what the journal was told last."""

_SPARE_FILES: Final = 256
"""Descriptors that connections leave to the database, the log and the standard library."""

_log = logging.getLogger("keybroker.server")


@dataclass(frozen=True, slots=True)
class Door:
    """One listener with its sockets and the gate behind it."""

    listener: Listener
    gate: Gate
    sockets: tuple[socket.socket, ...]
    context: Callable[[], ssl.SSLContext] | None


def serve(settings: Settings, broker: Broker) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight.

    Raises:
        KeybrokerError: CONFIGURATION, when a certificate cannot be used or the main listener lets a stranger
            in; UNAVAILABLE, when an address cannot be bound.
    """
    limits = _fit(settings.limits)
    _harden()
    asyncio.run(_Server(replace(settings, limits=limits), broker).run())


def _harden() -> None:
    """Keep the memory that holds the master key to this process."""
    why = hygiene.keep_memory_private()
    if why is not None:
        _log.warning("prctl: other processes of this user can read this one: %s", why)


def _fit(limits: Limits) -> Limits:
    """Raise the limit of open files as far as it goes, and fit the connections into it.

    Out of descriptors, accept(2) fails without taking the connection away, and the event loop would spin.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return replace(limits, connections=max(16, min(limits.connections, (hard - _SPARE_FILES) // 2)))


class _Server:
    """The listeners of one process, and the signals and notifications that go with them."""

    def __init__(self, settings: Settings, broker: Broker) -> None:
        self._settings = settings
        self._broker = broker
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._unsealed = asyncio.Event()
        self._shares = settings.installation.unseal_socket

    async def run(self) -> None:
        limits = self._settings.limits
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._stopping.set)
        with (
            ThreadPoolExecutor(limits.threads, "broker") as pool,
            # Health has threads of its own: it must be told how things are just when all others are busy. One
            # of them may count metrics; no more than one ever does (service/lately.py).
            ThreadPoolExecutor(2, "health") as probe,
        ):
            doors = self._doors(pool, probe)
            tasks: set[asyncio.Task[None]] = set()

            def reload() -> None:
                task = loop.create_task(self._reload(doors))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            loop.add_signal_handler(signal.SIGHUP, reload)
            main_door = doors[0]
            await selftest.run(main_door.listener, main_door.gate, main_door.sockets, self._settings)
            for door in doors:  # from here on, so that the self-test's own try is not counted
                door.gate.turned_away = self._broker.tally.turned_away
            at_shares = await self._take_shares(tasks)
            # ready while it is sealed, too: a start that waits for people is none that hangs
            await notify(f"READY=1\nSTATUS={self._status()}")
            tasks.add(loop.create_task(usher_forever(self._broker)))
            tasks.add(loop.create_task(watchdog(lambda: self._broker.store.alive)))
            await self._until_unsealed()
            clerk = None
            if not self._stopping.is_set():
                clerk = self._work(tasks)
                await self._stopping.wait()
            await self._stop(doors)
            if at_shares is not None:
                at_shares.close()
                self._shares.unlink(missing_ok=True)
            if clerk is not None:
                await asyncio.to_thread(clerk.stop)
            _log.info("stopped")
            for task in tasks:
                task.cancel()

    def _work(self, tasks: set[asyncio.Task[None]]) -> Clerk:
        """Begin what goes on beside the requests, and needs keys."""
        loop = asyncio.get_running_loop()
        tasks.add(loop.create_task(sweep_forever(self._broker)))
        clerk = Clerk(
            self._broker,
            _journal(self._settings),
            self._settings.installation.state_directory / _cursor_name(self._broker.settings.writer),
        )
        clerk.start()
        tasks.add(loop.create_task(rewrap_forever(self._broker, self._stopping.is_set)))
        return clerk

    async def _take_shares(self, tasks: set[asyncio.Task[None]]) -> asyncio.Server | None:
        """Open the local door for shares of master keys."""
        loop = asyncio.get_running_loop()

        def changed() -> None:
            task = loop.create_task(notify(f"STATUS={self._status()}"))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if unsealing.sealed(self._broker) is None:
                self._unsealed.set()

        return await unsealer.listen(self._broker, self._shares, changed)

    async def _until_unsealed(self) -> None:
        """Wait until nothing waits for shares, or the server is to stop."""
        if unsealing.sealed(self._broker) is None:
            return
        _log.warning("%s: keybroker unseal", self._status())
        waits = [asyncio.ensure_future(event.wait()) for event in (self._unsealed, self._stopping)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        if not self._stopping.is_set():
            _log.info("unsealed: serving")

    def _status(self) -> str:
        sealed = unsealing.sealed(self._broker)
        return "serving" if sealed is None else sealed.detail.removeprefix("broker: is ")

    def _doors(self, pool: ThreadPoolExecutor, probe: ThreadPoolExecutor) -> tuple[Door, ...]:
        """Prove the contexts, bind the sockets and begin to accept, in this order."""
        settings, broker = self._settings, self._broker
        files, passed = settings.installation, sockets.given()
        plan = (
            (
                "main",
                main.create_main_app(broker, settings.enrolment),
                main.largest,
                settings.listen_main,
                pool,
            ),
            (
                "enrolment",
                enrolment.create_enrolment_app(broker),
                enrolment.largest,
                settings.listen_enrolment,
                pool,
            ),
            ("health", health.create_health_app(broker), health.largest, settings.health, probe),
        )
        contexts: dict[str, Callable[[], ssl.SSLContext]] = {
            "main": lambda: tls.main_context(files),
            "enrolment": lambda: tls.enrolment_context(files),
        }
        doors = []
        for name, app, largest, address, threads in plan:
            gate = Gate(app, threads, settings.limits, largest, name, methods_of(app), broker.tally.answered)
            gate.priority, gate.sent_away = broker.precedence.of, broker.tally.sent_away
            if name != "health":
                gate.sealed = lambda: unsealing.sealed(broker)
            context = contexts.get(name)
            listener = Listener(gate, ssl_options=context() if context else None)
            doors.append(Door(listener, gate, passed.get(name) or sockets.bound_to(address, name), context))
        broker.progress.served_until = tls.ends(files)
        # Only a process that has the addresses takes the name: one that was started by mistake beside the
        # broker does not silence it.
        trail.take_name(broker)
        for door in doors:
            door.listener.add_sockets(door.sockets)
            for bound in door.sockets:
                _log.info("%s: listening on %s", door.gate.name, sockets.shown(bound))
        return tuple(doors)

    async def _reload(self, doors: tuple[Door, ...]) -> None:
        """Take new certificates for new connections, if all of them are good; else change nothing."""
        async with self._reloading:
            await notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                files, store = self._settings.installation, self._broker.store
                authority = await asyncio.to_thread(load_authority, files, store)
                fresh = [(door, await asyncio.to_thread(door.context)) for door in doors if door.context]
            except KeybrokerError as error:
                for line in error.lines("reload"):
                    _log.error("%s", line)
                await notify(f"READY=1\nSTATUS={self._status()}; the last reload was refused, see the log")
                return
            for door, context in fresh:
                door.listener.ssl_options = context
            self._broker.authorities.current = authority
            self._broker.progress.served_until = tls.ends(self._settings.installation)
            _log.info("reload: certificates are read again")
            await notify(f"READY=1\nSTATUS={self._status()}")

    async def _stop(self, doors: tuple[Door, ...]) -> None:
        """Accept nothing more, give requests in flight their time, then close what is left."""
        for door in doors:
            door.gate.stopping = True
            door.listener.stop()
        await notify("STOPPING=1\nSTATUS=finishing requests in flight")
        finished: list[Awaitable[object]] = [door.gate.idle.wait() for door in doors]
        try:
            async with asyncio.timeout(self._settings.limits.stop_seconds):
                await asyncio.gather(*finished)
        except TimeoutError:
            _log.warning("stop: requests still in flight are cut off")
        for door in doors:
            await door.listener.close_all_connections()
        if isinstance(self._settings.health, Path):
            self._settings.health.unlink(missing_ok=True)


def _cursor_name(writer: str) -> str:
    return _CURSOR if writer == MAIN else f"{_CURSOR}.{writer}"


def _journal(settings: Settings) -> Journal | None:
    """Return the journal, where systemd started us with it (systemd.exec(5), $JOURNAL_STREAM)."""
    return SystemdJournal() if settings.journal and "JOURNAL_STREAM" in os.environ else None
