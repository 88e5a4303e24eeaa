"""Enrolment and renewal against a real TLS server that issues real certificates."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent import enrolment, identity, layout
from agent.broker import BrokerClient, Clockwork, Limits
from agent.broker.connection import Credentials
from agent.identity import Identity
from keybroker import ca, csr
from keybroker.wire.names import Identity as Name
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from tests.contract.test_agent_broker import RECORD
from tests.contract.tls_double import (
    HOST,
    Asked,
    Listener,
    Papers,
    authority,
    listening,
    raw,
    refusal,
    reply,
    server_papers,
    token_for,
)

QUICK = Limits(connect=0.5, whole=2.0)
BROKERS = ("https://broker1.example:8443", "https://broker2.example:8443")


@dataclass
class Office:
    """Enrols one host by one token, as ``keybroker.service.enrolment`` promises to; and can be told to fail.

    Attributes:
        change: replaces fields of the reply.
        lose: how many replies are lost on their way.
    """

    signer: ca.Authority
    token: Secret
    lifetime: timedelta = timedelta(days=30)
    offered: str = ""
    change: dict[str, Any] = field(default_factory=dict)
    lose: int = 0
    issued: dict[str, str] = field(default_factory=dict)

    def answer(self, asked: Asked) -> bytes:
        if asked.method == "GET":
            return reply({"ca": self.offered or self.signer.pem})
        key = csr.read_request(asked.json["csr"])
        if asked.path == "/v1/enrolment":
            if asked.json["token"] != self.token.reveal().decode():
                return refusal(Problem.TOKEN_REFUSED)
            if self.issued and key.spki not in self.issued:
                return refusal(Problem.TOKEN_REFUSED, "token: used by another key")
        elif asked.peer != f"spiffe://test/host/{HOST}":
            return refusal(Problem.NO_IDENTITY)
        if key.spki not in self.issued:
            number, now = ca.serial_number(os.urandom(16)), datetime.now(UTC)
            who = Name("test", "host", HOST)
            leaf = self.signer.certify_client(key.public_key, who, now, number, self.lifetime)
            self.issued[key.spki] = leaf.pem
        if self.lose > 0:
            self.lose -= 1
            return raw(b"", 500)
        body = {
            "host": HOST, "certificate": self.issued[key.spki], "ca": self.signer.pem,
            "brokers": BROKERS, "records": [RECORD],
        }  # fmt: skip
        return reply(body | self.change)


@dataclass
class Place:
    """A machine that is to be enrolled, and the office that does it."""

    state: Path
    office: Office
    papers: Papers
    listener: Listener

    def enrol(self, token: Secret | None = None, **more: Any) -> Identity:
        urls = more.pop("brokers", (self.listener.url,))
        deadline = time.monotonic() + more.pop("seconds", 0)
        return enrolment.enrol(
            self.state,
            urls,
            self.office.token if token is None else token,
            deadline=deadline,
            limits=QUICK,
            **more,
        )

    def refuses(self, token: Secret | None = None, **more: Any) -> KeybrokerError:
        with pytest.raises(KeybrokerError) as caught:
            self.enrol(token, **more)
        return caught.value

    def renew(self, *, now: float | None = None, force: bool = False) -> enrolment.Renewed:
        def client(mine: Identity) -> BrokerClient:
            shown = Credentials(mine.ca, mine.key, mine.certificate, mine.not_before, mine.not_after)
            deadline = time.monotonic()
            return BrokerClient((self.listener.url,), shown, deadline=deadline, limits=QUICK)

        return enrolment.renew(self.state, client, now=time.time() if now is None else now, force=force)


@pytest.fixture(scope="module")
def signer() -> ca.Authority:
    return authority()


@pytest.fixture
def place(tmp_path: Path, signer: ca.Authority) -> Iterator[Place]:
    with opened(tmp_path, signer) as place:
        yield place


@contextmanager
def opened(directory: Path, signer: ca.Authority, *, demand: str | None = None) -> Iterator[Place]:
    papers = server_papers(directory, signer)
    office = Office(signer, token_for(signer.pem))
    with listening(office.answer, papers, demand) as listener:
        yield Place(directory / "state", office, papers, listener)


def public_key(file: Path, kind: str) -> str:
    """Return the public key in a file, as openssl reads it."""
    command = ["openssl", "x509", "-noout", "-pubkey"] if kind == "x509" else ["openssl", "pkey", "-pubout"]
    return subprocess.run([*command, "-in", file], check=True, capture_output=True, text=True).stdout


def test_enrolling_leaves_a_key_its_certificate_the_ca_and_the_layout(place: Place) -> None:
    mine = place.enrol()
    assert mine == identity.load(place.state)
    assert (mine.host, mine.brokers, mine.ca) == (HOST, BROKERS, place.office.signer.pem)
    assert public_key(mine.key, "pkey") == public_key(mine.certificate, "x509")
    assert [record.volume for record in layout.load(place.state).records] == [RECORD["volume"]]
    assert mine.not_after - mine.not_before == pytest.approx(30 * 86400, abs=600)
    assert not (place.state / identity.PENDING_KEY).exists()


def test_nobody_else_can_read_what_enrolling_leaves(place: Place) -> None:
    before = os.umask(0)
    try:
        mine = place.enrol()
    finally:
        os.umask(before)
    for path in [place.state, mine.directory]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in [*mine.directory.iterdir(), place.state / layout.FILE]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_private_key_is_p256_and_never_leaves(place: Place) -> None:
    mine = place.enrol()
    described = subprocess.run(
        ["openssl", "pkey", "-noout", "-text", "-in", mine.key], check=True, capture_output=True, text=True
    ).stdout
    assert "NIST CURVE: P-256" in described
    text = mine.key.read_bytes()
    assert text.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert text.split(b"\n")[1] not in bytes(place.listener.received)


def test_the_token_is_not_sent_to_a_broker_whose_ca_it_does_not_name(
    place: Place, signer: ca.Authority
) -> None:
    token = token_for(authority("another CA").pem)
    error = place.refuses(token)
    assert error.problem is Problem.UNTRUSTED_BROKER
    secret = token.reveal().split(b".")[1]
    assert secret not in bytes(place.listener.received)
    assert b"kbe1" not in bytes(place.listener.received)
    assert [asked.method for asked in place.listener.asked] == ["GET"]
    assert not (place.state / identity.LINK).exists()


def test_the_token_is_not_sent_to_somebody_who_only_repeats_the_right_ca(
    place: Place, tmp_path: Path
) -> None:
    # the CA certificate is public: a stranger can offer it, but has no certificate that it signed
    stranger = server_papers(tmp_path, authority("stranger"))
    with listening(place.office.answer, stranger, None) as listener:
        error = place.refuses(brokers=(listener.url,))
    assert error.problem is Problem.UNTRUSTED_BROKER
    assert [asked.method for asked in listener.asked] == ["GET"]
    assert b"kbe1" not in bytes(listener.received)


def test_a_right_broker_after_a_wrong_one_enrols(place: Place, tmp_path: Path) -> None:
    other = authority("stranger")
    wrong = Office(other, place.office.token)
    with listening(wrong.answer, server_papers(tmp_path, other), None) as listener:
        assert place.enrol(brokers=(listener.url, place.listener.url)).host == HOST
    assert b"kbe1" not in bytes(listener.received)


@pytest.mark.parametrize(
    "offered", ["", "hello", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"]
)
def test_an_offer_that_is_no_certificate_is_refused(place: Place, offered: str) -> None:
    place.office.offered = offered or "-"
    assert place.refuses().problem in (Problem.UNAVAILABLE, Problem.UNTRUSTED_BROKER)
    assert b"kbe1" not in bytes(place.listener.received)


@pytest.mark.parametrize("token", [b"", b"kbe1.x.y", b"kbe2." + b"A" * 32 + b"." + b"A" * 43, b"\xff" * 80])
def test_what_is_no_token_is_said_before_anybody_is_asked(place: Place, token: bytes) -> None:
    error = place.refuses(Secret(token))
    assert error.problem is Problem.USAGE
    assert place.listener.connections == 0


def test_a_lost_reply_costs_nothing_because_the_same_key_asks_again(place: Place) -> None:
    place.office.lose = 1
    assert place.refuses().problem.temporary
    assert (place.state / identity.PENDING_KEY).exists()
    mine = place.enrol()
    assert len(place.office.issued) == 1
    assert mine.certificate.read_text() in place.office.issued.values()


def test_the_waiting_key_is_private_from_its_first_byte(place: Place) -> None:
    place.office.lose = 1
    place.refuses()
    assert stat.S_IMODE((place.state / identity.PENDING_KEY).stat().st_mode) == 0o600


def test_enrolling_again_with_the_token_that_worked_asks_nobody(place: Place) -> None:
    mine = place.enrol()
    asked = len(place.listener.asked)
    assert place.enrol() == mine
    assert len(place.listener.asked) == asked


def test_a_key_that_a_power_cut_tore_is_made_again(place: Place) -> None:
    place.state.mkdir(mode=0o700)
    (place.state / identity.PENDING_KEY).write_bytes(b"-----BEGIN PRIVATE KEY-----\nMIGH")
    assert place.enrol().host == HOST


def test_a_new_token_replaces_the_identity_with_a_new_key(place: Place) -> None:
    first = place.enrol()
    before = first.key.read_bytes()
    place.office.token = token_for(place.office.signer.pem)
    place.office.issued.clear()
    second = place.enrol()
    assert second.key.read_bytes() != before
    assert public_key(second.key, "pkey") == public_key(second.certificate, "x509")


def test_a_refused_token_leaves_the_identity_that_there_was(place: Place) -> None:
    mine = place.enrol()
    error = place.refuses(token_for(place.office.signer.pem))
    assert error.problem is Problem.TOKEN_REFUSED
    assert identity.load(place.state) == mine


def other_certificate(place: Place) -> str:
    key = ca.new_key().public_key()
    number = ca.serial_number(os.urandom(16))
    who = Name("test", "host", HOST)
    return place.office.signer.certify_client(key, who, datetime.now(UTC), number, timedelta(days=1)).pem


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda place: {"certificate": other_certificate(place)}, "another key"),
        (lambda place: {"ca": authority("another CA").pem}, "not the one that the token names"),
        (lambda place: {"ca": "nothing"}, "CA is not PEM"),
        (lambda place: {"certificate": "nothing"}, "not PEM"),
        (lambda place: {"host": "kbh-aaaaaaaaaaaa"}, "another host"),
        (lambda place: {"brokers": []}, "no broker"),
        (lambda place: {"brokers": ["http://b.example"]}, "must be https"),
    ],
)
def test_a_certificate_that_would_not_work_is_not_stored(place: Place, change: Any, why: str) -> None:
    place.office.change = change(place)
    error = place.refuses()
    assert why in error.detail
    assert not (place.state / identity.LINK).exists()
    place.office.change = {}
    assert place.enrol().host == HOST, "and the key that waits is still good"


def test_a_machine_that_is_not_enrolled_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeybrokerError) as caught:
        identity.load(tmp_path)
    assert caught.value.problem is Problem.CERTIFICATE
    assert "keybroker-agent enrol" in (caught.value.hint or "")


# --- renewal ---


@pytest.fixture
def enrolled(tmp_path: Path, signer: ca.Authority) -> Iterator[Place]:
    with opened(tmp_path, signer) as place:
        place.enrol()
    with listening(place.office.answer, place.papers, signer.pem) as listener:
        yield replace(place, listener=listener)


def test_nothing_is_renewed_while_more_than_a_third_is_left(enrolled: Place) -> None:
    mine = identity.load(enrolled.state)
    assert not enrolled.renew(now=mine.renewable_from - 1).done
    assert enrolled.listener.connections == 0
    assert mine.not_after - mine.renewable_from == pytest.approx(10 * 86400, abs=600)


def test_a_renewal_makes_a_new_key_and_keeps_name_and_token(enrolled: Place) -> None:
    before = identity.load(enrolled.state)
    old = before.key.read_bytes()
    renewed = enrolled.renew(now=before.renewable_from)
    assert renewed.done
    after = identity.load(enrolled.state)
    assert after == renewed.identity
    assert (after.host, after.token) == (before.host, before.token)
    assert after.key.read_bytes() != old
    assert public_key(after.key, "pkey") == public_key(after.certificate, "x509")
    assert not (enrolled.state / identity.PENDING_KEY).exists()


def test_a_process_that_read_the_old_identity_can_still_use_it(enrolled: Place) -> None:
    before = identity.load(enrolled.state)
    enrolled.renew(force=True)
    assert public_key(before.key, "pkey") == public_key(before.certificate, "x509")


def test_only_the_identity_before_the_present_one_is_kept(enrolled: Place) -> None:
    for _ in range(3):
        enrolled.renew(force=True)
    kept = sorted(path.name for path in enrolled.state.glob("identity-*"))
    assert len(kept) == 2
    assert identity.load(enrolled.state).directory.name in kept


def test_a_lost_reply_of_a_renewal_is_asked_for_with_the_same_key(enrolled: Place) -> None:
    before = identity.load(enrolled.state)
    enrolled.office.lose = 1
    with pytest.raises(KeybrokerError):
        enrolled.renew(force=True)
    assert identity.load(enrolled.state) == before
    issued = len(enrolled.office.issued)
    enrolled.renew(force=True)
    assert len(enrolled.office.issued) == issued


def test_a_key_that_is_stored_already_is_not_certified_again(enrolled: Place) -> None:
    # a crash after the new set was in place and before the waiting key was removed
    mine = identity.load(enrolled.state)
    (enrolled.state / identity.PENDING_KEY).write_bytes(mine.key.read_bytes())
    enrolled.renew(force=True)
    assert identity.load(enrolled.state).key.read_bytes() != mine.key.read_bytes()


def test_an_expired_certificate_cannot_renew_itself_and_says_what_can(enrolled: Place) -> None:
    mine = identity.load(enrolled.state)
    shown = Credentials(mine.ca, mine.key, mine.certificate, mine.not_before, mine.not_after)
    late = Clockwork(wall=lambda: mine.not_after + 1.0)
    with pytest.raises(KeybrokerError) as caught:
        enrolment.renew(
            enrolled.state,
            lambda mine: BrokerClient(
                (enrolled.listener.url,), shown, deadline=0, limits=QUICK, clockwork=late
            ),
            now=mine.not_after + 1.0,
        )
    assert caught.value.problem is Problem.CERTIFICATE
    assert "keybroker host enrol" in (caught.value.hint or "")


def test_a_crash_at_any_moment_of_a_renewal_leaves_a_pair_that_fits(enrolled: Place, tmp_path: Path) -> None:
    """Stop a process that stores one set after the other at moments of its own, by SIGKILL."""
    mine = identity.load(enrolled.state)
    story = f"""
import pathlib
from agent import identity
state = pathlib.Path({str(enrolled.state)!r})
files = {{name: (state / "identity" / name).read_bytes() for name in ("host.key", "host.crt", "ca.crt")}}
about = {{"host": {mine.host!r}, "brokers": {list(mine.brokers)!r}, "not_before": {mine.not_before},
         "not_after": {mine.not_after}, "token": {mine.token!r}}}
print("begun", flush=True)
while True:
    identity.store(state, about, files)
"""
    root = Path(__file__).parents[2]
    for delay in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", story],
            cwd=root, stdout=subprocess.PIPE,
        ) as child:  # fmt: skip
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.003 * delay)
            child.kill()
        after = identity.load(enrolled.state)
        assert public_key(after.key, "pkey") == public_key(after.certificate, "x509")
    assert enrolled.renew(force=True).done
    assert len(list(enrolled.state.glob("identity-*"))) == 2, "and the debris is gone"
