"""The gate before an app: odd requests are answered like any other, without a traceback in the log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest

from keybroker.web.gate import Gate
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


@pytest.mark.parametrize("digits", [19, 5000])
def test_a_length_beyond_all_numbers_is_bad_and_no_surprise(
    caplog: pytest.LogCaptureFixture, digits: int
) -> None:
    async def scenario(connect: Callable[[], Awaitable[Client]], gate: Gate) -> None:
        client = await connect()
        client.writer.write(
            b"GET / HTTP/1.1\r\nHost: broker\r\nContent-Length: " + b"9" * digits + b"\r\n\r\n"
        )
        assert (await client.reader.read()).startswith(b"HTTP/1.1 400 ")
        assert gate.idle.is_set()

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert not caplog.records
