"""The gate before an app: odd requests are answered like any other, without a traceback in the log."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from tornado.http1connection import HTTP1Connection

from keybroker.limits import Limits
from keybroker.web.gate import CERTIFICATE, Exchange, Gate
from keybroker.web.problems import Reply
from tests.unit.test_web_gate import Client, request, run


def test_a_question_for_the_head_alone_is_refused_without_a_body(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        client = await connect()
        client.writer.write(request("HEAD"))
        said = await client.reader.read()
        assert said.startswith(b"HTTP/1.1 405 ")
        assert said.endswith(b"\r\n\r\n")
        assert gate.idle.is_set()

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert not caplog.records


@pytest.mark.parametrize("length", ["9" * 19, "9" * 5000, "5,5", "+5", "0x5", ""])
def test_a_length_that_is_not_one_number_is_bad_and_no_surprise(
    caplog: pytest.LogCaptureFixture, length: str
) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        client = await connect()
        client.writer.write(f"GET / HTTP/1.1\r\nHost: b\r\nContent-Length: {length}\r\n\r\n".encode())
        assert (await client.reader.read()).startswith(b"HTTP/1.1 400 ")
        assert gate.idle.is_set()

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert not caplog.records


def test_one_certificate_has_half_of_the_queue_at_most() -> None:
    async def whole() -> None:
        limits = Limits(threads=2, queue=6)
        go = threading.Event()

        def held(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            go.wait(10)
            start_response("200 OK", [])
            return [b"ok"]

        with ThreadPoolExecutor(limits.threads) as pool:
            gate = Gate(held, pool, limits, lambda method, path: 0, "test")
            exchange = Exchange(gate, cast(HTTP1Connection, None))

            def ask(certificate: bytes | None) -> asyncio.Task[Reply]:
                return asyncio.ensure_future(gate.answer(exchange, {CERTIFICATE: certificate}))

            greedy = [ask(b"greedy") for _ in range(20)]
            others = [ask(b"one"), ask(b"other"), ask(None), ask(None)]
            one_too_many = ask(b"third")
            await asyncio.sleep(0.1)
            go.set()
            statuses = [reply.status for reply in await asyncio.gather(*greedy)]
            assert (statuses.count(200), statuses.count(429)) == (4, 16)
            assert [reply.status for reply in await asyncio.gather(*others)] == [200] * 4
            assert (await one_too_many).status == 503
            refused = greedy[-1].result()
            assert ("Retry-After", "2") in refused.headers
            assert (await ask(b"greedy")).status == 200

    asyncio.run(whole())


@pytest.mark.parametrize("target", ["/v1/audit?af\xd9er=1", "/v1/audit?after=1\x80", "/v1/\xe9"])
def test_a_target_that_is_not_ascii_is_bad_and_does_not_reach_the_app(target: str) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        client = await connect()
        status, _, body = await client.ask(f"GET {target} HTTP/1.1\r\nHost: broker\r\n\r\n".encode("latin-1"))
        assert status == 400
        assert b"malformed" in body

    run(scenario)


def test_large_bodies_are_held_up_to_a_bound_and_small_ones_always_pass() -> None:
    mib = 1 << 20

    def start(size: int) -> bytes:
        return f"PUT / HTTP/1.1\r\nHost: broker\r\nContent-Length: {size}\r\n\r\n".encode()

    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        for _ in range(4):  # they say what they will send, and send none of it
            (await connect()).writer.write(start(63 * mib))
        await asyncio.sleep(0.2)
        large, small = await connect(), await connect()
        status, fields, _ = await large.ask(start(5 * mib) + b"x" * (5 * mib))
        assert (status, fields["retry-after"]) == (429, "2")
        assert (await small.ask(start(65536) + b"x" * 65536))[0] == 200
        await asyncio.sleep(1.5)  # body_seconds
        again = await connect()
        assert (await again.ask(start(5 * mib) + b"x" * (5 * mib)))[0] == 200

    run(scenario, largest=64 * mib)
