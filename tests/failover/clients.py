"""Agents and operators that work on brokers which fail, by the real clients; what they are told is kept.

A call is repeated until it is known what came of it, as an agent and a patient operator do; each try is an
operation of its own in the history.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec

from agent.broker import Limits
from agent.broker.connection import Credentials
from agent.change.broker import ChangeClient
from keybroker.cli.access import Access
from keybroker.cli.client import Client
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.messages import EnrolmentRequest
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN, Receipt
from keybroker.wire.records import Grant, Record
from keybroker.wire.secret import Secret
from tests.failover.history import Facts, History, Outcome
from tests.tls.forging import Files, private_pem, signing_request
from tests.tls.running import LOOPBACK, Broker

T = TypeVar("T")

_LIMITS: Final = Limits(connect=2.0, whole=12.0)
_PATIENCE_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.3


class Over(Exception):
    """There is no time left to find out."""


@dataclass(slots=True)
class Site:
    """The brokers, and what is known of all that was done to them.

    Attributes:
        troubles: refusals that nothing in the history accounts for.
        until: on ``History.clock``; nobody repeats anything after that.
    """

    brokers: list[Broker]
    directory: Path
    history: History
    until: float
    troubles: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def urls(self, number: int, *, enrolment: bool = False) -> tuple[str, ...]:
        """Return where to ask, another broker first for each number."""
        ports = [broker.enrolment if enrolment else broker.main for broker in self.brokers]
        first = number % len(ports)
        return tuple(f"https://{LOOPBACK}:{port}" for port in ports[first:] + ports[:first])

    def known(
        self,
        verb: str,
        subject: str,
        call: Callable[[], T],
        facts: Callable[[T], Facts],
        *,
        host: str = "",
        version: int | None = None,
        proven: bool = True,
        may: tuple[Problem, ...] = (),
    ) -> T:
        """Make a call until its outcome is known.

        Args:
            subject: as of ``Op``; empty where only the reply says which volume it is.
            may: what it may be refused for.

        Raises:
            KeybrokerError: what it was refused for.
            Over: it is not known in time.
        """
        while True:
            began = self.history.clock()
            said: dict[str, Any] = {"host": host, "version": version, "proven": proven}
            try:
                reply = call()
            except KeybrokerError as error:
                outcome = _outcome(error)
                problem = f"{error.problem.slug}: {error.detail}"
                self.history.add(verb, subject, began, outcome, problem=problem, **said)
                if outcome == "refused":
                    if error.problem not in may:
                        self.troubles.append(f"{verb} {subject}: {problem}")
                    raise
                if self.history.clock() > self.until:
                    raise Over(f"{verb} {subject}: {problem}") from error
                time.sleep(_PAUSE_SECONDS)
                continue
            told = facts(reply)
            name = str(reply["volume"]) if not subject and isinstance(reply, dict) else subject
            self.history.add(verb, name, began, "ok", told, **said)
            return reply


def _outcome(error: KeybrokerError) -> Outcome:
    # INTERNAL: whatever broke may have broken after the change was made
    return "unknown" if error.problem.temporary or error.problem is Problem.INTERNAL else "refused"


def fingerprint(key: Secret) -> str:
    """Return what tells two keys apart and gives none away."""
    return sha256(b"history" + key.reveal()).hexdigest()[:16]


def of_record(record: Record) -> Facts:
    """Return what a record says."""
    return Facts(record.revision, record.current)


def of_grant(grant: Grant, receipt: Receipt | None = None) -> Facts:
    """Return what a grant says."""
    keys = {int(version): fingerprint(key) for version, key in grant.keys.items()}
    shown = None if receipt is None else receipt_of(receipt.as_json())
    return Facts(grant.record.revision, grant.record.current, keys, shown)


def receipt_of(document: dict[str, Any]) -> tuple[object, ...]:
    """Return a receipt as a value; ``document`` may have more in it, as an audit record has."""
    named = {"writer": MAIN} | document  # a receipt names any other
    return tuple(named[name] for name in Receipt.__dataclass_fields__)


class Operator:
    """One operator at all brokers, one after the other."""

    def __init__(self, site: Site, files: Files, number: int = 0) -> None:
        self._site = site
        ca = site.brokers[0].ca
        self._clients = [Client(Access(url, files.certificate, files.key, ca)) for url in site.urls(number)]
        for client in self._clients:
            site.closing.callback(client._session.close)
        self._turn = 0

    def ask(self, verb: str, subject: str, method: str, *path: str, **body: Any) -> dict[str, Any]:
        """Have something done, and return the whole reply."""

        def call() -> dict[str, Any]:
            client = self._clients[self._turn % len(self._clients)]
            try:
                if method == "PUT":
                    return client.put(*path, **body).document
                return client.post(*path, **body) if method == "POST" else client.delete(*path)
            except KeybrokerError:
                self._turn += 1
                raise

        return self._site.known(
            verb, subject, call, lambda said: Facts(said.get("revision"), said.get("current"))
        )

    def look(self, *path: str, **query: str | int) -> dict[str, Any]:
        """Read something, which goes on no history."""
        while True:
            try:
                return self._clients[self._turn % len(self._clients)].get(*path, **query)
            except KeybrokerError as error:
                self._turn += 1
                if _outcome(error) == "refused" or self._site.history.clock() > self._site.until:
                    raise
                time.sleep(_PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A host with its certificate, and the client that shows it."""

    id: str
    client: ChangeClient
    boot: AskingBoot


def enrol(site: Site, operator: Operator, addon: str, number: int) -> Enrolled:
    """Invite a host, and have it enrol."""
    said = operator.ask("host.invite", addon, "POST", "addons", addon, "enrolments", lifetime_seconds=600)
    key = ec.generate_private_key(ec.SECP256R1())
    request = EnrolmentRequest(Secret(said["token"].encode()), signing_request(key))
    ca = site.brokers[0].ca.read_text()
    stranger = ChangeClient(
        site.urls(number, enrolment=True), Credentials(ca), patience=_PATIENCE_SECONDS, limits=_LIMITS
    )
    try:
        certified = site.known(
            "enrol", said["host"], lambda: stranger.enrol(request), lambda _reply: Facts(), host=said["host"]
        )
    finally:
        stranger.close()
    own = site.directory / said["host"]
    own.mkdir()
    (own / "host.crt").write_text(certified.certificate)
    (own / "host.key").write_bytes(private_pem(key))
    boot = AskingBoot(str(uuid4()), uuid4().hex)
    client = ChangeClient(
        site.urls(number),
        Credentials(ca, own / "host.key", own / "host.crt"),
        patience=_PATIENCE_SECONDS,
        limits=_LIMITS,
        boot=boot,
    )
    site.closing.callback(client.close)
    return Enrolled(said["host"], client, boot)
