"""Many agents at once on loopback, each with a certificate and an address of its own, and real back-off.

Run as a program of its own, several side by side; it begins when a line comes on its standard input:

    python -m tests.bench.arriving --port 8443 --ca ca.crt --agents DIRECTORY --first 1 --count 2500

DIRECTORY has key.pem, NUMBER.crt and NUMBER.json for each agent. Whoever is refused, or not answered, waits
as ``agent.backoff`` says and tries again. Machines have a processor each; here many share one, so no more
than ``AT_ONCE`` of a process are in a try, or all would only wait for each other's handshakes. It speaks to
127.0.0.1 only, stops by itself, and prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import backoff
from agent.backoff import Failure, Stop, Wait
from keybroker.wire.problems import KeybrokerError, Problem
from tests.bench.load import context, request_bytes

MOST_AGENTS = 20_000
AT_ONCE = 256
CONNECT_SECONDS, WHOLE_SECONDS = 3.0, 20.0
"""As ``agent.broker.Limits`` has them."""


@dataclass(slots=True)
class Told:
    """What the agents of one process saw: seconds from the beginning, and of each try that succeeded."""

    done: list[float] = field(default_factory=list)
    tries: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    retries: list[int] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Agent:
    """One machine: whom it comes as, from where, and what it asks."""

    tls: ssl.SSLContext | None
    address: str
    request: bytes


class Refused(Exception):
    """A reply that is no success."""

    def __init__(self, status: str, retry_after: float | None) -> None:
        super().__init__(status)
        self.retry_after = retry_after


def address_of(number: int) -> str:
    """Return an address of the loopback network that no other number has."""
    return f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


async def ask(agent: Agent, port: int) -> None:
    """Connect, shake hands in full, ask once, read the reply."""
    plain = socket.socket()
    plain.setblocking(False)
    plain.bind((agent.address, 0))
    loop = asyncio.get_running_loop()
    try:
        await asyncio.wait_for(loop.sock_connect(plain, ("127.0.0.1", port)), CONNECT_SECONDS)
    except BaseException:
        plain.close()
        raise
    named = "127.0.0.1" if agent.tls is not None else None
    reader, writer = await asyncio.open_connection(sock=plain, ssl=agent.tls, server_hostname=named)
    try:
        writer.write(agent.request)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        # by its length: tangd lets the connection stand
        body = await reader.readexactly(int(fields[b"content-length"]))
    finally:
        writer.transport.abort()
    if not head.startswith(b"HTTP/1.1 200 "):
        after = fields.get(b"retry-after")
        raise Refused(
            head.partition(b"\r")[0].decode(errors="replace"), None if after is None else float(after)
        )
    if not body:
        raise Refused("an empty reply", None)


async def boot(
    agent: Agent, port: int, began: float, patience: float, told: Told, room: asyncio.Semaphore
) -> None:
    """Ask until there is an answer, as an agent does."""
    attempts = backoff.begin(1)
    retries = 0
    while True:
        now = time.monotonic()
        step = backoff.move(attempts, now, began + patience)
        if isinstance(step, Stop):
            told.failed.append(step.error.detail)
            return
        if isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
            continue
        try:
            async with room:
                now = time.monotonic()
                told.arrivals.append(now - began)
                async with asyncio.timeout(WHOLE_SECONDS):
                    await ask(agent, port)
        except Refused as refused:
            why, after = str(refused), refused.retry_after
        except (OSError, asyncio.IncompleteReadError) as error:
            why, after = type(error).__name__, None
        else:
            told.tries.append(time.monotonic() - now)
            told.done.append(time.monotonic() - began)
            told.retries.append(retries)
            return
        told.refused[why] += 1
        retries += 1
        failure = Failure("temporary", KeybrokerError(Problem.UNAVAILABLE, why, retry_after=after))
        attempts = backoff.after(attempts, 0, failure, time.monotonic(), random.random())


async def run(agents: list[Agent], port: int, patience: float) -> dict[str, Any]:
    """Have all agents boot at once."""
    began = time.monotonic()
    told, room = Told(), asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(*(boot(agent, port, began, patience, told, room) for agent in agents))
    return {name: getattr(told, name) for name in Told.__slots__}


def main() -> None:
    """Run one process of a storm and print what it saw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--patience", type=float, default=300.0)
    parser.add_argument("--ca", type=Path, help="without it, plain HTTP")
    parser.add_argument("--agents", type=Path, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", type=Path, help="one request for all, in place of NUMBER.json")
    parser.add_argument("--get", action="store_true", help="no request's body at all")
    given = parser.parse_args()
    assert given.count <= MOST_AGENTS
    agents = []
    for number in range(given.first, given.first + given.count):
        body = None if given.get else (given.body or given.agents / f"{number}.json").read_bytes()
        tls = None
        if given.ca is not None:
            tls = context(given.ca, given.agents / f"{number}.crt", given.agents / "key.pem")
        agents.append(Agent(tls, address_of(number), request_bytes(given.path, body)))
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asyncio.run(run(agents, given.port, given.patience))))


if __name__ == "__main__":
    main()
