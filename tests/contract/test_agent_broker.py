"""The agent's HTTP client against real TLS servers that behave, misbehave, or are not there."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.broker import BrokerClient, Clockwork, Limits
from agent.broker.connection import LARGEST_REPLY, Credentials
from agent.receipts import Receipts
from agent.world import Broker
from keybroker import ca
from keybroker.wire.messages import ClaimRequest, DepositRequest, ReadyRequest, UnlockRequest
from keybroker.wire.names import HostId, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin, first_profile
from keybroker.wire.receipt import Receipt
from keybroker.wire.records import Device, SeenHeader
from keybroker.wire.secret import Secret
from tests.contract.tls_double import (
    HOST,
    Answer,
    Asked,
    Listener,
    Papers,
    authority,
    host_papers,
    listening,
    raw,
    refusal,
    reply,
    server_papers,
)

ROOT = Path(__file__).parents[2]
VOLUME = VolumeId("kbv-q3m5x7abcdef")
UUID = "01234567-89ab-cdef-0123-456789abcdef"
QUICK = Limits(connect=0.5, whole=1.0)
REQUEST = UnlockRequest(UUID, "0" * 32, "0.1.0", ())

RECORD: dict[str, Any] = {
    "volume": VOLUME, "addon": "shop-db", "name": "data", "stage": "ready", "revision": 4,
    "size_bytes": 1 << 30, "filesystem": "ext4", "mount": "/srv/data", "serial": VOLUME,
    "device": {"serial": VOLUME, "size_bytes": 1 << 30}, "luks_uuid": UUID,
    "profile": first_profile("aes-xts-plain64").as_json(), "pin": None, "sequence": None, "current": 1,
    "wanted": 1, "staged": None, "retiring": None,
}  # fmt: skip
GRANT = {"record": RECORD, "keys": {"1": "A" * 43}, "refused": None}
UNLOCKED = {
    "host": HOST,
    "addon": "shop-db",
    "grants": [GRANT],
    "receipt": {"sequence": 7, "hash": "ab" * 32},
}
SEEN = SeenHeader(Pin(UUID, "sha256:" + "0" * 64, 4 << 20, 4096), 3)


@dataclass
class Time:
    """A clock that runs when somebody sleeps, and real time besides."""

    skipped: float = 0.0
    slept: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    shift: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.skipped += seconds

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped

    @property
    def clockwork(self) -> Clockwork:
        return Clockwork(
            self.monotonic, lambda: time.time() + self.shift, self.sleep, lambda: 0.5, self.said.append
        )


@dataclass
class Bench:
    """One CA, one server certificate, one enrolled host."""

    directory: Path
    authority: ca.Authority
    server: Papers
    host: Papers
    time: Time = field(default_factory=Time)

    def serve(self, answer: Answer, **more: Any) -> AbstractContextManager[Listener]:
        return listening(answer, more.pop("papers", self.server), self.authority.pem, **more)

    @property
    def credentials(self) -> Credentials:
        host = self.host
        return Credentials(self.authority.pem, host.key, host.certificate, host.not_before, host.not_after)

    @contextmanager
    def client(
        self, *urls: str, seconds: float = 30.0, limits: Limits = QUICK, receipts: Receipts | None = None
    ) -> Iterator[BrokerClient]:
        deadline = self.time.monotonic() + seconds
        client = BrokerClient(
            urls, self.credentials, deadline=deadline, limits=limits, clockwork=self.time.clockwork,
            receipts=receipts,
        )  # fmt: skip
        try:
            yield client
        finally:
            client.close()

    def fails(self, *urls: str, **more: Any) -> KeybrokerError:
        with self.client(*urls, **more) as client, pytest.raises(KeybrokerError) as caught:
            client.unlock(REQUEST)
        return caught.value


@pytest.fixture(scope="module")
def signer() -> ca.Authority:
    return authority()


@pytest.fixture
def bench(tmp_path: Path, signer: ca.Authority) -> Bench:
    return Bench(tmp_path, signer, server_papers(tmp_path, signer), host_papers(tmp_path, signer))


def unlocked(asked: Asked) -> bytes:
    return reply(UNLOCKED)


@contextmanager
def nobody() -> Iterator[str]:
    """A port that refuses connections, and that nobody else is given meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"https://127.0.0.1:{holder.getsockname()[1]}"


@contextmanager
def silence() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"https://127.0.0.1:{server.getsockname()[1]}"


# --- the calls ---


def test_unlock_says_what_is_seen_and_returns_the_grants(bench: Bench) -> None:
    with bench.serve(unlocked) as listener, bench.client(listener.url) as client:
        unlocking: Broker = client
        answer = unlocking.unlock(REQUEST)
    assert answer.host == HostId(HOST)
    assert answer.grants[0].keys == {1: Secret(b"A" * 43)}
    [asked] = listener.asked
    assert (asked.method, asked.path) == ("POST", "/v1/unlock")
    assert asked.json == REQUEST.as_json()
    assert asked.peer == f"spiffe://test/host/{HOST}"
    assert asked.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("call", "method", "path", "answer"),
    [
        (lambda c: c.claim(VOLUME, ClaimRequest(4, Device("x1", 99))), "PUT", "device", GRANT),
        (lambda c: c.deposit(VOLUME, DepositRequest(4, SEEN, Secret(b"KBH1"))), "PUT", "header", RECORD),
        (lambda c: c.header_copy(VOLUME), "GET", "header", {"record": RECORD, "copy": "S0JIMQ=="}),
        (lambda c: c.ready(VOLUME, ReadyRequest(4)), "PUT", "ready", RECORD),
    ],
)
def test_each_call_has_its_path(
    bench: Bench, call: Callable[[BrokerClient], Any], method: str, path: str, answer: Any
) -> None:
    with bench.serve(lambda asked: reply(answer)) as listener, bench.client(listener.url) as client:
        got = call(client)
    assert (listener.asked[0].method, listener.asked[0].path) == (method, f"/v1/volumes/{VOLUME}/{path}")
    assert (got.record if hasattr(got, "record") else got).volume == VOLUME


def test_a_header_copy_of_the_largest_size_passes_both_ways(bench: Bench) -> None:
    copy = os.urandom(4 << 20)

    def answer(asked: Asked) -> bytes:
        if asked.method == "PUT":
            return reply(RECORD)
        return reply({"record": RECORD, "copy": json.loads(listener.asked[0].body)["copy"]})

    with bench.serve(answer) as listener, bench.client(listener.url, limits=Limits()) as client:
        client.deposit(VOLUME, DepositRequest(4, SEEN, Secret(copy)))
        assert client.header_copy(VOLUME).copy == Secret(copy)


def test_consecutive_calls_share_one_connection(bench: Bench) -> None:
    with bench.serve(unlocked) as listener, bench.client(listener.url) as client:
        for _ in range(4):
            client.unlock(REQUEST)
    assert listener.connections == 1
    assert len(listener.asked) == 4


def test_a_connection_that_the_broker_closed_meanwhile_is_opened_again_without_a_word(bench: Bench) -> None:
    with bench.serve(unlocked, keep=False) as listener, bench.client(listener.url) as client:
        for _ in range(3):
            client.unlock(REQUEST)
    assert listener.connections == 3
    assert bench.time.slept == []
    assert bench.time.said == []


def test_a_reply_that_ends_the_connection_is_read_whole(bench: Bench) -> None:
    with (
        bench.serve(lambda asked: reply(UNLOCKED, connection="close"), keep=False) as listener,
        bench.client(listener.url) as client,
    ):
        for _ in range(2):
            assert client.unlock(REQUEST).host == HOST
    assert bench.time.said == []


def test_threads_may_share_a_client(bench: Bench) -> None:
    answers: list[HostId] = []
    with bench.serve(unlocked) as listener, bench.client(listener.url) as client:
        threads = [
            threading.Thread(target=lambda: answers.append(client.unlock(REQUEST).host)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert answers == [HOST] * 8
    assert listener.connections == 1


# --- trust ---


def test_a_broker_of_another_ca_is_not_trusted_and_hears_nothing(bench: Bench) -> None:
    other = authority("somebody else")
    papers = server_papers(bench.directory, other)
    with bench.serve(unlocked, papers=papers) as listener:
        error = bench.fails(listener.url)
    assert error.problem is Problem.UNTRUSTED_BROKER
    assert not error.problem.temporary
    assert bytes(listener.received) == b""
    assert bench.time.slept == [], "a wrong CA is no reason to wait"


def test_an_untrusted_broker_is_passed_over_for_the_next_one(bench: Bench) -> None:
    papers = server_papers(bench.directory, authority("somebody else"))
    wrong_ca, right_ca = bench.serve(unlocked, papers=papers), bench.serve(unlocked)
    with wrong_ca as wrong, right_ca as right, bench.client(wrong.url, right.url) as client:
        assert client.unlock(REQUEST).host == HOST
    assert bytes(wrong.received) == b""


def test_a_certificate_for_another_name_is_not_trusted(bench: Bench) -> None:
    papers = server_papers(bench.directory, bench.authority, names=("broker.example",), addresses=())
    with bench.serve(unlocked, papers=papers) as listener:
        error = bench.fails(listener.url)
    assert error.problem is Problem.UNTRUSTED_BROKER
    assert "127.0.0.1" in error.detail


def test_a_broker_may_be_named_by_its_dns_name(bench: Bench) -> None:
    papers = server_papers(bench.directory, bench.authority, names=("localhost",), addresses=())
    with (
        bench.serve(unlocked, papers=papers) as listener,
        bench.client(f"https://localhost:{listener.port}") as client,
    ):
        assert client.unlock(REQUEST).host == HOST


def test_the_certificate_of_another_host_does_not_make_a_broker(bench: Bench) -> None:
    with bench.serve(unlocked, papers=bench.host) as listener:
        error = bench.fails(f"https://localhost:{listener.port}")
    assert error.problem is Problem.UNTRUSTED_BROKER
    assert bytes(listener.received) == b""


@pytest.mark.parametrize("begins", [timedelta(days=-60), timedelta(days=1)], ids=["expired", "not yet valid"])
def test_a_broker_whose_certificate_has_the_wrong_dates_is_asked_again_until_the_deadline(
    bench: Bench, begins: timedelta
) -> None:
    papers = server_papers(bench.directory, bench.authority, begins=begins)
    with bench.serve(unlocked, papers=papers) as listener:
        error = bench.fails(listener.url)
    assert error.problem is Problem.UNTRUSTED_BROKER
    assert error.hint is not None
    assert "clock" in error.hint
    assert bytes(listener.received) == b""
    assert sum(bench.time.slept) > 20


def test_tls_1_2_is_not_spoken(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(bench.server.certificate, bench.server.key)
        shaken: list[str] = []

        def once() -> None:
            connection, _ = server.accept()
            try:
                context.wrap_socket(connection, server_side=True)
                shaken.append("done")
            except OSError:
                pass  # what the test is about

        thread = threading.Thread(target=once, daemon=True)
        thread.start()
        error = bench.fails(f"https://127.0.0.1:{server.getsockname()[1]}", seconds=0)
        thread.join(5)
    assert error.problem is Problem.UNREACHABLE
    assert shaken == []


def test_proxies_in_the_environment_are_not_used(bench: Bench) -> None:
    names = ("https_proxy", "HTTPS_PROXY", "all_proxy")
    with nobody() as dead, bench.serve(unlocked) as listener:
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(dict.fromkeys(names, dead))
        try:
            with bench.client(listener.url) as client:
                assert client.unlock(REQUEST).host == HOST
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


# --- our own certificate ---


def test_an_expired_certificate_of_ours_is_found_before_anybody_is_asked(bench: Bench) -> None:
    bench.host = host_papers(bench.directory, bench.authority, begins=timedelta(days=-60))
    with bench.serve(unlocked) as listener:
        error = bench.fails(listener.url)
    assert error.problem is Problem.CERTIFICATE
    assert "expired" in error.detail
    assert listener.connections == 0


def test_a_certificate_that_only_the_broker_knows_to_be_expired_is_told_apart(bench: Bench) -> None:
    papers = host_papers(bench.directory, bench.authority, begins=timedelta(days=-60))
    bench.host = replace(papers, not_before=0.0, not_after=float("inf"))
    with bench.serve(unlocked) as listener:
        error = bench.fails(listener.url)
    assert error.problem is Problem.CERTIFICATE
    assert "certificate expired" in error.detail
    assert bench.time.slept == []


def test_a_certificate_that_the_broker_does_not_trust_is_told_apart(bench: Bench) -> None:
    bench.host = host_papers(bench.directory, authority("another CA"))
    with bench.serve(unlocked) as listener:
        error = bench.fails(listener.url)
    assert error.problem is Problem.CERTIFICATE
    assert "unknown ca" in error.detail


def test_a_refused_certificate_is_told_apart_even_when_much_was_being_sent(bench: Bench) -> None:
    bench.host = host_papers(bench.directory, authority("another CA"))
    with (
        bench.serve(unlocked) as listener,
        bench.client(listener.url, seconds=0) as client,
        pytest.raises(KeybrokerError) as caught,
    ):
        client.deposit(VOLUME, DepositRequest(4, SEEN, Secret(os.urandom(4 << 20))))
    assert caught.value.problem in (Problem.CERTIFICATE, Problem.UNREACHABLE)  # a reset may swallow the alert


def test_a_key_that_is_not_the_certificates_is_a_certificate_problem(bench: Bench) -> None:
    other = host_papers(bench.directory, bench.authority)
    bench.host = replace(bench.host, key=other.key)
    with bench.serve(unlocked) as listener:
        error = bench.fails(listener.url)
    assert error.problem is Problem.CERTIFICATE
    assert "another" not in error.detail
    assert str(bench.host.certificate) in error.detail


def test_a_clock_in_1970_is_the_reason_that_is_given_at_the_deadline(bench: Bench) -> None:
    bench.time.shift = -time.time() + 60
    with bench.serve(unlocked) as listener:
        error = bench.fails(listener.url, seconds=5)
    assert error.problem is Problem.CERTIFICATE
    assert error.detail.endswith("but the clock is at 1970-01-01")
    assert "set the clock" in (error.hint or "")
    assert len(bench.time.slept) > 10
    assert listener.connections == 0


def test_a_clock_that_is_set_while_the_agent_waits_ends_the_waiting(bench: Bench) -> None:
    bench.time.shift = -time.time() + 60

    def sleep(seconds: float) -> None:
        bench.time.sleep(seconds)
        if len(bench.time.slept) == 3:
            bench.time.shift = 0.0

    clockwork = replace(bench.time.clockwork, sleep=sleep)
    deadline = bench.time.monotonic() + 30
    with bench.serve(unlocked) as listener:
        client = BrokerClient(
            (listener.url,), bench.credentials, deadline=deadline, limits=QUICK, clockwork=clockwork
        )
        assert client.unlock(REQUEST).host == HOST
        client.close()
    assert max(bench.time.slept) <= 0.25


def test_a_connection_that_was_prepared_is_the_one_that_is_used(bench: Bench) -> None:
    with bench.serve(unlocked) as listener, bench.client(listener.url) as client:
        client.prepare()
        client.unlock(REQUEST)
    assert listener.connections == 1


def test_what_cannot_be_prepared_is_met_again_by_the_call(bench: Bench) -> None:
    with nobody() as dead, bench.client(dead, seconds=0) as client:
        client.prepare()
        with pytest.raises(KeybrokerError) as caught:
            client.unlock(REQUEST)
    assert caught.value.problem is Problem.UNREACHABLE
    bench.host = host_papers(bench.directory, authority("another CA"))
    with bench.serve(unlocked) as listener, bench.client(listener.url) as client:
        client.prepare()
        with pytest.raises(KeybrokerError) as caught:
            client.unlock(REQUEST)
    assert caught.value.problem is Problem.CERTIFICATE


# --- brokers that are not there ---


def test_dead_and_silent_brokers_are_passed_over(bench: Bench) -> None:
    with (
        nobody() as dead,
        silence() as silent,
        bench.serve(unlocked) as listener,
        bench.client(dead, silent, listener.url) as client,
    ):
        assert client.unlock(REQUEST).host == HOST
        begun = time.monotonic()
        client.unlock(REQUEST)
    assert time.monotonic() - begun < 0.3, "the broker that answered is asked first the next time"
    assert bench.time.slept == []
    assert len(bench.time.said) == 2


def test_a_broker_that_comes_up_later_is_found(bench: Bench) -> None:
    with nobody() as url:
        port = int(url.rpartition(":")[2])
    waits = 0

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 3:
            came.set()
            up.wait(5)

    came, up, over = threading.Event(), threading.Event(), threading.Event()

    def later() -> None:
        came.wait(5)
        with bench.serve(unlocked, port=port):
            up.set()
            over.wait(5)

    thread = threading.Thread(target=later)
    thread.start()
    clockwork = replace(bench.time.clockwork, sleep=sleep, monotonic=time.monotonic)
    deadline = time.monotonic() + 20
    client = BrokerClient((url,), bench.credentials, deadline=deadline, limits=QUICK, clockwork=clockwork)
    try:
        assert client.unlock(REQUEST).host == HOST
    finally:
        over.set()
        client.close()
        thread.join(5)


def test_at_the_deadline_the_reason_of_each_broker_is_named(bench: Bench) -> None:
    with nobody() as dead, silence() as silent:
        error = bench.fails(dead, silent, seconds=5)
    assert error.problem is Problem.UNREACHABLE
    assert f"{dead[8:]}: Connection refused" in error.detail
    assert f"{silent[8:]}: " in error.detail
    assert "timed out" in error.detail


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "broker.invalid"])
def test_a_network_that_is_not_there_yet_is_tried_again_at_once(bench: Bench, host: str) -> None:
    story = f"""
import time
from agent.broker import BrokerClient, Clockwork
from agent.broker.connection import Credentials
from keybroker.wire.messages import ReadyRequest
from keybroker.wire.problems import KeybrokerError
slept = []
clockwork = Clockwork(sleep=lambda seconds: slept.append(seconds) or time.sleep(seconds))
ca = open({str(bench.server.certificate)!r}).read()
deadline = time.monotonic() + 1
client = BrokerClient(("https://{host}",), Credentials(ca), deadline=deadline, clockwork=clockwork)
try:
    client.ready("kbv-q3m5x7abcdef", ReadyRequest(1))
except KeybrokerError as error:
    print(error.problem.name, len(slept) >= 4, max(slept) <= 0.25, error.detail, sep="|")
"""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", story],  # a namespace of its own: not even loopback is up
        capture_output=True, text=True, timeout=20, check=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.startswith("UNREACHABLE|True|True|"), done.stdout
    said = (
        "Network is unreachable",
        "Cannot assign requested address",
        "Temporary failure in name resolution",
    )
    assert any(reason in done.stdout for reason in said), done.stdout


# --- brokers that misbehave ---


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
        raw(b"<html>hello</html>"),
        raw(b"{}"),
        reply(UNLOCKED | {"receipt": None}),
        raw(b'{"host":"kbh-q3m5x7abcdef","host":"kbh-q3m5x7abcdef"}'),
        raw(b"", 204),
        raw(b"<html>bad gateway</html>", 502),
        raw(b"{}", 503, content_type="application/problem+json"),
        raw(b"", 302, location="https://elsewhere.example/"),
        raw(b"", 307, location="/v1/unlock"),
        reply({"type": "never-heard-of", "detail": "oh"}, 500),
        refusal(Problem.INTERNAL),
    ],
)  # fmt: skip
def test_a_reply_that_makes_no_sense_is_asked_for_again_until_the_deadline(
    bench: Bench, answer: bytes
) -> None:
    with bench.serve(lambda asked: answer, keep=False) as listener:
        error = bench.fails(listener.url, seconds=2)
    assert error.problem.temporary
    assert len(listener.asked) >= 2
    assert {asked.path for asked in listener.asked} == {"/v1/unlock"}


def test_a_reply_without_end_is_read_only_so_far(bench: Bench) -> None:
    def endless(asked: Asked) -> bytes:
        return b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (LARGEST_REPLY + 2_000_000)

    with bench.serve(endless, keep=False) as listener:
        error = bench.fails(listener.url, seconds=0, limits=Limits(0.5, 10))
    assert "too large" in error.detail


def test_a_byte_now_and_then_does_not_hold_the_agent(bench: Bench) -> None:
    with bench.serve(unlocked, pause=0.05) as listener:
        begun = time.monotonic()
        error = bench.fails(listener.url, seconds=0)
    assert 0.9 < time.monotonic() - begun < 3
    assert error.problem is Problem.UNREACHABLE
    assert "timed out" in error.detail


def test_plain_http_is_not_spoken(bench: Bench) -> None:
    with listening(unlocked, None, None) as listener:
        error = bench.fails(listener.url, seconds=0)
    assert error.problem is Problem.UNREACHABLE
    assert b"unlock" not in bytes(listener.received)


# --- what brokers say ---


@pytest.mark.parametrize(
    "problem",
    [Problem.REVOKED, Problem.NO_IDENTITY, Problem.NOT_ALLOWED, Problem.CONFLICT, Problem.MALFORMED],
)
def test_a_refusal_is_final_and_no_other_broker_is_asked(bench: Bench, problem: Problem) -> None:
    with (
        bench.serve(lambda asked: refusal(problem, "host: so it is")) as first,
        bench.serve(unlocked) as second,
    ):
        error = bench.fails(first.url, second.url)
    assert error.problem is problem
    assert error.detail.endswith("host: so it is")
    assert second.connections == 0
    assert bench.time.slept == []


def test_a_refusal_without_a_reason_is_final_too(bench: Bench) -> None:
    with bench.serve(lambda asked: raw(b"no", 403)) as listener:
        error = bench.fails(listener.url)
    assert error.problem is Problem.INTERNAL
    assert "403" in error.detail


@pytest.mark.parametrize("problem", [Problem.UNAVAILABLE, Problem.BUSY])
def test_retry_after_is_honoured_and_then_it_works(bench: Bench, problem: Problem) -> None:
    answers = iter([refusal(problem, retry_after="7"), refusal(problem, retry_after="7"), reply(UNLOCKED)])
    with bench.serve(lambda asked: next(answers)) as listener, bench.client(listener.url) as client:
        assert client.unlock(REQUEST).host == HOST
    assert bench.time.slept == [pytest.approx(8.75, abs=0.5)] * 2


def test_what_a_broker_says_cannot_forge_lines_of_the_journal(bench: Bench) -> None:
    with bench.serve(lambda asked: refusal(Problem.REVOKED, "bye\nroot: all is well\x1b[2J")) as listener:
        error = bench.fails(listener.url)
    assert error.detail.isprintable()


def test_no_key_is_in_any_message(bench: Bench) -> None:
    broken = UNLOCKED | {"grants": [GRANT | {"keys": {"1": "S" * 42 + "!"}}]}
    with bench.serve(lambda asked: reply(broken)) as listener:
        error = bench.fails(listener.url, seconds=0)
    chain: BaseException | None = error
    while chain is not None:
        assert "SSSS" not in str(chain) + repr(chain)
        chain = chain.__cause__ or chain.__context__


@pytest.mark.parametrize(
    "url",
    ["http://b.example", "b.example", "https://", "https://u@b.example", "https://b.example/x", "https://b:99999",
     "https://b.example?x", "https://b.exämple", "https://b\n.example", "ftp://b.example"],
)  # fmt: skip
def test_only_plain_https_urls_are_brokers(bench: Bench, url: str) -> None:
    with pytest.raises(KeybrokerError) as caught:
        BrokerClient((url,), bench.credentials, deadline=0)
    assert caught.value.problem is Problem.CONFIGURATION


# --- receipts ---


def test_an_unlock_shows_the_receipt_that_is_held_and_keeps_the_one_of_the_reply(
    bench: Bench, tmp_path: Path
) -> None:
    held, state = Receipt(5, "cd" * 32), tmp_path / "state"
    state.mkdir()
    receipts = Receipts(state, lambda line, priority: None)
    receipts.heard(None, held)
    with bench.serve(unlocked) as listener, bench.client(listener.url, receipts=receipts) as client:
        client.unlock(REQUEST)
    assert [asked.json for asked in listener.asked] == [replace(REQUEST, receipt=held).as_json()]
    assert receipts.last() == Receipt(7, "ab" * 32)


def test_a_broker_that_takes_no_receipt_is_asked_without_one(bench: Bench, tmp_path: Path) -> None:
    receipts = Receipts(tmp_path, lambda line, priority: None)
    receipts.heard(None, Receipt(5, "cd" * 32))

    def older(asked: Asked) -> bytes:
        if "receipt" in asked.json:
            return refusal(Problem.MALFORMED)
        return reply(UNLOCKED)

    with bench.serve(older) as listener, bench.client(listener.url, receipts=receipts) as client:
        assert client.unlock(REQUEST).grants[0].keys
    assert [sorted(asked.json) for asked in listener.asked] == [
        sorted(replace(REQUEST, receipt=Receipt(5, "cd" * 32)).as_json()), sorted(REQUEST.as_json()),
    ]  # fmt: skip
