"""The gate in front of an app: admission, sizes, deadlines, and what an app gets to see of a request."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tornado.netutil import bind_sockets

from keybroker.limits import Limits
from keybroker.web.gate import Gate
from keybroker.web.listener import Listener

SMALL = Limits(threads=1, queue=1, connections=8, idle_seconds=1, body_seconds=1, reply_seconds=1)


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Reply with all that an app can see of a request."""
    seen = {name: value for name, value in environ.items() if isinstance(value, str)}
    seen["body"] = environ["wsgi.input"].read().decode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        self.writer.write(request)
        return await self.reply()

    async def reply(self) -> tuple[int, dict[str, str], bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        status, *lines = head.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines if line)
        body = await self.reader.readexactly(int(fields.get("content-length", "0")))
        return int(status.split()[1]), fields, body

    async def gone(self) -> bool:
        """Say whether the server has closed the connection, waiting for that at most 5 s."""
        try:
            return await asyncio.wait_for(self.reader.read(1), 5) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


Scenario = Callable[[Callable[[], Awaitable[Client]], Gate], Awaitable[None]]


def run(
    scenario: Scenario,
    app: Callable[..., Iterable[bytes]] = echo,
    limits: Limits = SMALL,
    largest: int = 1000,
) -> None:
    """Run a scenario against a gate on loopback, without TLS, which is not what is tested here."""

    async def whole() -> None:
        with ThreadPoolExecutor(limits.threads) as pool:
            gate = Gate(app, pool, limits, lambda method, path: largest, "test")
            listener = Listener(gate)
            sockets = bind_sockets(0, "127.0.0.1")
            listener.add_sockets(sockets)
            port = sockets[0].getsockname()[1]
            clients: list[Client] = []

            async def connect() -> Client:
                clients.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
                return clients[-1]

            try:
                await asyncio.wait_for(scenario(connect, gate), 30)
            finally:
                listener.stop()
                for client in clients:
                    client.writer.close()
                await listener.close_all_connections()

    asyncio.run(whole())


def request(method: str = "GET", path: str = "/", body: bytes = b"", *fields: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: broker", *fields]
    if body or method != "GET":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_an_app_sees_no_header_field_but_the_content_type() -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        client = await connect()
        spoofed = (
            "Content-Type: application/json",
            "X-SSL-Client-Cert: MIIB",
            "X-Forwarded-For: 192.0.2.99",
            "X-Real-IP: 192.0.2.99",
            "Keybroker.Certificate: MIIB",
            "Authorization: Bearer x",
        )
        status, _, body = await client.ask(request("POST", "/a%2Fb?c=d", b"{}", *spoofed))
        seen = json.loads(body)
        assert status == 200
        assert {name for name in seen if name.startswith("HTTP_")} == set()
        assert "192.0.2.99" not in body.decode()
        assert "MIIB" not in body.decode()
        assert seen["CONTENT_TYPE"] == "application/json"
        assert (seen["PATH_INFO"], seen["QUERY_STRING"], seen["body"]) == ("/a/b", "c=d", "{}")
        assert seen["REMOTE_ADDR"] == "127.0.0.1"

    run(scenario)


def test_a_body_that_is_too_large_is_refused_and_its_sender_can_read_the_refusal() -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        client = await connect()
        status, fields, body = await client.ask(request("POST", "/", b"x" * 3_000_000))
        assert status == 413
        assert fields["content-type"] == "application/problem+json"
        assert json.loads(body)["type"] == "too-large"
        assert await client.gone()

    run(scenario)


def test_a_body_of_the_largest_size_is_taken() -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        client = await connect()
        assert (await client.ask(request("POST", "/", b"x" * 1000)))[0] == 200
        assert (await client.ask(request("POST", "/", b"x" * 1001)))[0] == 413

    run(scenario)


def test_a_body_without_a_length_is_refused() -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        client = await connect()
        chunked = b"POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        status, _, body = await client.ask(chunked)
        assert (status, json.loads(body)["type"]) == (400, "malformed")
        assert await client.gone()

    run(scenario)


def test_other_methods_do_not_reach_the_app() -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        for method in ("PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"):
            status, _, body = await (await connect()).ask(request(method))
            assert (method, status, json.loads(body)["type"]) == (method, 405, "method")

    run(scenario)


def test_a_full_queue_is_told_at_once_and_asked_to_come_back() -> None:
    release = threading.Event()

    def slow(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        release.wait(20)
        return echo(environ, start_response)

    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        waiting = [await connect() for _ in range(2)]
        for client in waiting:
            client.writer.write(request())
        while gate.turnstile.waiting < 2:
            await asyncio.sleep(0.01)
        one_more = await connect()
        began = time.monotonic()
        status, fields, body = await one_more.ask(request())
        took = time.monotonic() - began
        assert (status, json.loads(body)["type"]) == (503, "unavailable")
        assert int(fields["retry-after"]) >= 1
        assert took < 0.05
        release.set()
        assert [(await client.reply())[0] for client in waiting] == [200, 200]
        assert (await one_more.ask(request()))[0] == 200

    run(scenario, app=slow)


def test_a_client_that_stalls_in_its_header_or_body_is_dropped() -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        silent, halfway, in_body = await connect(), await connect(), await connect()
        halfway.writer.write(b"GET / HTTP/1.1\r\nHos")
        in_body.writer.write(b"POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 10\r\n\r\n12345")
        gone = await asyncio.gather(silent.gone(), halfway.gone(), in_body.gone())
        assert all(gone)
        assert gate.exchanges == set()

    run(scenario)


def test_a_client_that_does_not_take_its_reply_is_dropped() -> None:
    def large(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"x" * (64 << 20)]

    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        client = await connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(request())
        began = time.monotonic()
        while not gate.exchanges and time.monotonic() - began < 10:
            await asyncio.sleep(0.01)
        await asyncio.wait_for(gate.idle.wait(), 10)
        assert time.monotonic() - began < 8

    run(scenario, app=large)


def test_strangers_beyond_the_bound_displace_nobody_who_is_served() -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        served = await connect()
        assert (await served.ask(request()))[0] == 200
        beyond = [await connect() for _ in range(SMALL.connections + 4)]
        gone = sum(await asyncio.gather(*(client.gone() for client in beyond[-4:])))
        assert gone == 4
        assert (await served.ask(request()))[0] == 200

    run(scenario, limits=Limits(threads=1, queue=1, connections=8, idle_seconds=20))


def test_an_app_that_raises_is_answered_for_without_a_word_of_what_it_said() -> None:
    def broken(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        raise ValueError("correct horse battery staple")

    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        status, _, body = await (await connect()).ask(request())
        assert status == 500
        assert json.loads(body)["type"] == "internal"
        assert "horse" not in body.decode()

    run(scenario, app=broken)
