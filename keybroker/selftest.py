"""What the main listener is held to before the broker says that it is ready: it refuses strangers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence

from keybroker import sockets
from keybroker.config import Address, Settings
from keybroker.web import tls
from keybroker.web.gate import Gate
from keybroker.web.listener import Listener
from keybroker.wire.problems import KeybrokerError, Problem

_log = logging.getLogger("keybroker.server")
_tornado_log = logging.getLogger("tornado.general")


async def run(listener: Listener, gate: Gate, bound: Sequence[socket.socket], settings: Settings) -> None:
    """Try the listener as it is bound; where its address is not there yet, gate and context at another.

    Raises:
        KeybrokerError: CONFIGURATION where it lets a client in without a certificate.
    """
    for one in bound:
        host, port = one.getsockname()[:2]
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
        if sockets.is_here(local):
            refused = await _refuses_strangers(local, port, settings)
        else:
            _log.warning("%s: this machine has no %s yet; it is served once it has", gate.name, local)
            refused = await _would_refuse_strangers(listener, gate, settings)
        if not refused:
            raise KeybrokerError(
                Problem.CONFIGURATION, f"main listener: {local} lets a client in without a certificate"
            )
        _log.info("%s: refuses clients without a certificate", gate.name)


async def _refuses_strangers(host: str, port: int, settings: Settings) -> bool:
    with _unlogged(host):
        return await asyncio.to_thread(
            tls.refuses_strangers, (host, port), settings.installation, timeout_seconds=10
        )


async def _would_refuse_strangers(listener: Listener, gate: Gate, settings: Settings) -> bool:
    """Try the listener's gate and context at a loopback address, for as long as its own is not there."""
    stand_in = Listener(gate, ssl_options=listener.ssl_options)
    (probe,) = sockets.bound_to(Address("127.0.0.1", 0), "self-test")
    stand_in.add_socket(probe)
    host, port = probe.getsockname()[:2]
    try:
        return await _refuses_strangers(host, port, settings)
    finally:
        stand_in.stop()
        await stand_in.close_all_connections()


@contextlib.contextmanager
def _unlogged(address: str) -> Iterator[None]:
    """Leave out Tornado's warning that a client from ``address`` came without a certificate: it is us."""

    def is_another(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        return "PEER_DID_NOT_RETURN_A_CERTIFICATE" not in said or f"('{address}'," not in said

    _tornado_log.addFilter(is_another)
    try:
        yield
    finally:
        _tornado_log.removeFilter(is_another)
