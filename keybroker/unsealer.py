"""The broker's local door for shares of master keys: a unix socket of its owner, one JSON object a line.

A request is ``{"share": null}``, which asks how things are, or ``{"share": "KBS1-…", "who": "alice"}``; the
reply is ``{"keys": […], "sealed": …}``, with ``problem``, ``detail`` and ``hint`` where a share was not
taken. Whoever is neither root nor the broker's own user is turned away, whatever the socket's mode says
(unix(7), SO_PEERCRED).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from keybroker.service import unsealing
from keybroker.service.broker import Broker
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

LONGEST_LINE: Final = 4096
_READ_SECONDS: Final = 10
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid

_log = logging.getLogger("keybroker.unseal")


async def listen(broker: Broker, path: Path, changed: Callable[[], None]) -> asyncio.Server | None:
    """Listen for shares until the server that is returned is closed.

    Args:
        changed: called after each share that was taken, in the event loop.

    Returns:
        None where the path cannot be bound, and nothing waits for shares.

    Raises:
        KeybrokerError: UNAVAILABLE where it cannot be bound, and something does.
    """
    try:
        bound = _bound(path)
    except OSError as error:
        said = f"unsealing: cannot listen on {path}: {error}"
        if unsealing.sealed(broker) is not None:
            raise KeybrokerError(Problem.UNAVAILABLE, said) from error
        _log.warning("%s", said)
        return None

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_READ_SECONDS):
                line = await reader.readline()
            document, was_taken = await asyncio.to_thread(_answer, broker, line, _uid(writer))
            if was_taken:
                changed()
            writer.write(json.dumps(document).encode() + b"\n")
            await writer.drain()
        except (TimeoutError, OSError, ValueError):
            pass  # nobody is there any more, or says nothing
        finally:
            writer.close()

    return await asyncio.start_unix_server(serve, sock=bound, limit=LONGEST_LINE)


def _bound(path: Path) -> socket.socket:
    """Bind the socket, in place of one that a killed broker left; its directory is the owner's alone."""
    if path.is_socket():
        path.unlink()
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        bound.bind(str(path))
        path.chmod(0o600)
    except OSError:
        bound.close()
        raise
    return bound


def _uid(writer: asyncio.StreamWriter) -> int:
    """Return who is on the other side."""
    peer = writer.get_extra_info("socket")
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(raw)[1]
    return uid


def _answer(broker: Broker, line: bytes, uid: int) -> tuple[dict[str, Any], bool]:
    """Return what to say to one line, and whether a share was taken."""
    refusal, was_taken = None, False
    try:
        if uid not in (0, os.geteuid()):
            raise KeybrokerError(Problem.NOT_ALLOWED, f"user {uid}: may not unseal this broker")
        fields = Fields.parse(line)
        text = fields.optional("share", lambda key: fields.text(key, most=1024))
        who = fields.optional("who", lambda key: fields.text(key, most=256)) or f"user {uid}"
        fields.end()
        if text is not None:
            identity = unsealing.give(broker, Secret(text.encode()), who)
            was_taken = True
            _log.info("a share of master key %s was given by %s", identity, who)
        keys = unsealing.states(broker)
    except KeybrokerError as error:
        _log.warning("%s", error.detail)
        refusal = {"problem": error.problem.slug, "detail": error.detail, "hint": error.hint}
        if error.problem is Problem.NOT_ALLOWED:
            return refusal, False
        keys = _states(broker)
    document = {"keys": [key.as_json() for key in keys], "sealed": unsealing.sealed(broker) is not None}
    return document | (refusal or {}), was_taken


def _states(broker: Broker) -> tuple[unsealing.KeyState, ...]:
    try:
        return unsealing.states(broker)
    except KeybrokerError:  # the configuration cannot be read just then, which is what was said
        return ()
