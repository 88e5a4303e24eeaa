"""The only HTTP client of the agent: a broker that our CA vouches for, over TLS 1.3.

``ssl`` and a few lines of HTTP instead of requests: on the boot path the interpreter's start counts, and
``import requests`` is 69 ms. There are no proxies, redirects, environment variables or other trust anchors to
switch off, since nothing here knows of any.

Every call of the protocol may be repeated (DESIGN section 7), so a try that broke half-way is made again.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, TypeVar

from agent import backoff
from agent.backoff import Attempts, Failure, Stop, Try, Wait
from agent.broker import connection, replies, verdicts
from agent.broker.connection import Connection, Credentials, address
from agent.broker.exchange import NotHttp
from agent.broker.naming import naming_boot
from agent.broker.replies import Reply
from agent.receipts import Receipts
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.fields import Fields
from keybroker.wire.messages import (
    TOKEN,
    Certified,
    ClaimRequest,
    DepositRequest,
    EnrolmentOffer,
    EnrolmentRequest,
    HeaderCopy,
    LateRenewalRequest,
    ReadyRequest,
    RenewalRequest,
    UnlockReply,
    UnlockRequest,
)
from keybroker.wire.names import VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Grant, Record
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass, replace

if TYPE_CHECKING:  # a boot does not report
    from keybroker.wire.reports import ReportReply, ReportRequest

_T = TypeVar("_T")
_Asking = TypeVar("_Asking", "UnlockRequest", "ReportRequest")
_Given = TypeVar("_Given", "UnlockReply", "ReportReply")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one try may take, in seconds: for the name service and for each address, and in all."""

    connect: float = 3.0
    whole: float = 20.0


@dataclass(frozen=True, slots=True)
class Clockwork:
    """Clocks, sleep and chance, so that a test can own them; and who hears what goes wrong meanwhile.

    Attributes:
        monotonic: seconds; deadlines are on it.
        wall: seconds since 1970; certificates' dates are on it.
        chance: from [0, 1).
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = lambda: int.from_bytes(os.urandom(4)) / 2**32
    tell: Callable[[str], None] = lambda line: None


REAL: Clockwork = Clockwork()
PATIENCE: Limits = Limits()


class _Caller:
    """Calls several brokers in turn, until one answers or the deadline has come.

    Args:
        brokers: base URLs, ``https://name[:port]``, in the order to try them.
        deadline: on the clock ``clockwork.monotonic``, in seconds; temporary problems end there.
        boot: which boot of this machine each request is to say that it is of; None where that is not known.
    """

    def __init__(
        self,
        brokers: tuple[str, ...],
        deadline: float,
        limits: Limits = PATIENCE,
        clockwork: Clockwork = REAL,
        boot: AskingBoot | None = None,
    ) -> None:
        if not brokers:
            raise KeybrokerError(
                Problem.CONFIGURATION,
                "brokers: there is none to ask",
                hint='keybroker-agent enrol, or brokers = ["https://…"] in agent.toml',
            )
        self._brokers = tuple(address(url) for url in brokers)
        self._deadline = deadline
        self._limits = limits
        self._clockwork = clockwork
        self._boot = None if boot is None else boot.written
        self._kept: tuple[int, Connection] | None = None
        self._turn = threading.Lock()
        self._first = 0

    def close(self) -> None:
        """End the connection that was kept."""
        with self._turn:
            self._drop()

    def _secure(self, host: str, port: int, until: float) -> Connection:
        raise AssertionError("each caller says whom it trusts")

    def _call(self, method: str, path: str, request: Any, form: Callable[[Fields], _T]) -> _T:
        body = None if request is None else Secret(json.dumps(request.as_json()).encode())
        attempts = backoff.begin(len(self._brokers))
        first = self._first  # the broker that answered last is the first to be asked again
        while True:
            step = backoff.move(attempts, self._clockwork.monotonic(), self._deadline)
            if isinstance(step, Stop):
                raise step.error
            if isinstance(step, Wait):
                self._clockwork.sleep(step.seconds)
                continue
            done = self._try((step.broker + first) % len(self._brokers), method, path, body, form)
            if not isinstance(done, Failure):
                return done
            attempts = self._after(attempts, step, done)

    def _after(self, attempts: Attempts, step: Try, failure: Failure) -> Attempts:
        known = attempts.said[step.broker]
        if failure.verdict == "final":
            pass  # it is raised in a moment
        elif known is None or known.error.detail != failure.error.detail:
            self._clockwork.tell(failure.error.detail)
        now, chance = self._clockwork.monotonic(), self._clockwork.chance()
        return backoff.after(attempts, step.broker, failure, now, chance)

    def _try(
        self, broker: int, method: str, path: str, body: Secret | None, form: Callable[[Fields], _T]
    ) -> _T | Failure:
        name = "{}:{}".format(*self._brokers[broker])
        with self._turn:
            try:
                answer = replies.read(self._exchange(broker, method, path, body), name, form)
            except KeybrokerError as error:
                self._drop()
                return verdicts.answered(error)
            except (OSError, NotHttp) as error:
                self._drop()
                return verdicts.failure_of(error, name)
            self._first = broker
            return answer

    def _exchange(self, broker: int, method: str, path: str, body: Secret | None) -> Reply:
        until = self._clockwork.monotonic() + self._limits.whole
        if self._kept is not None and self._kept[0] == broker and self._kept[1].is_open:
            try:
                return self._kept[1].ask(method, path, body, until, self._boot)
            except (OSError, NotHttp):
                pass  # it may have closed while we were busy with a disk; that says nothing
        self._drop()
        fresh = self._secure(*self._brokers[broker], until)
        self._kept = (broker, fresh)
        return fresh.ask(method, path, body, until, self._boot)

    def _handshake(self, context: ssl.SSLContext, host: str, port: int, until: float) -> ssl.SSLSocket:
        left = min(self._limits.connect, until - self._clockwork.monotonic())
        tcp = connection.dial(host, port, left)
        try:
            tcp.settimeout(max(0.001, until - self._clockwork.monotonic()))
            return context.wrap_socket(tcp, server_hostname=host.encode("ascii"))  # as in ``_resolve``
        except BaseException:
            tcp.close()
            raise

    def _drop(self) -> None:
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None


class BrokerClient(_Caller):
    """The ``Broker`` of ``agent.world``, over the network; threads may share it.

    Each call raises KeybrokerError: what the broker answered; UNTRUSTED_BROKER or CERTIFICATE where TLS
    ended; UNREACHABLE, UNAVAILABLE or BUSY at the deadline.

    Args:
        brokers: base URLs, ``https://name[:port]``, in the order to try them.
        credentials: whom to trust, and what to show.
        receipts: where this machine keeps the last one; None for nowhere.
        boot: as of ``agent.thisboot``.
        deadline: on the clock ``clockwork.monotonic``, in seconds; temporary problems end there.
    """

    def __init__(
        self,
        brokers: tuple[str, ...],
        credentials: Credentials,
        *,
        deadline: float,
        limits: Limits = PATIENCE,
        clockwork: Clockwork = REAL,
        receipts: Receipts | None = None,
        boot: AskingBoot | None = None,
    ) -> None:
        super().__init__(brokers, deadline, limits, clockwork, boot)
        self._credentials = credentials
        self._receipts = receipts
        self._context: ssl.SSLContext | None = None

    def unlock(self, request: UnlockRequest) -> UnlockReply:
        """Say what stands at each volume's place; get the records, and the keys that may be had."""
        return self._with_receipt(
            request, lambda request: self._call("POST", "/v1/unlock", request, UnlockReply.read)
        )

    def _with_receipt(self, request: _Asking, ask: Callable[[_Asking], _Given]) -> _Given:
        """Ask with the receipt that this machine holds, and keep the one that the reply has."""
        if self._receipts is None:
            return ask(request)
        held = self._receipts.last()
        try:
            reply = ask(replace(request, receipt=held))
        except KeybrokerError as error:
            if held is None or error.problem is not Problem.MALFORMED:
                raise
            # a broker that takes no receipts: a VM boots for all that
            reply = ask(request)
        self._receipts.heard(held, reply.receipt)
        return reply

    def claim(self, volume: VolumeId, request: ClaimRequest) -> Grant:
        """Tie a new volume to one blank device."""
        path = f"/v1/volumes/{volume}/device"
        return naming_boot(request, lambda asked: self._call("PUT", path, asked, Grant.read))

    def deposit(self, volume: VolumeId, request: DepositRequest) -> Record:
        """Leave the header with the broker before it is on the disk."""
        return self._call("PUT", f"/v1/volumes/{volume}/header", request, Record.read)

    def header_copy(self, volume: VolumeId) -> HeaderCopy:
        """Get the header back."""
        return self._call("GET", f"/v1/volumes/{volume}/header", None, HeaderCopy.read)

    def ready(self, volume: VolumeId, request: ReadyRequest) -> Record:
        """Say that the volume is whole: from here on nothing formats it."""
        return self._call("PUT", f"/v1/volumes/{volume}/ready", request, Record.read)

    def renew(self, request: RenewalRequest) -> Certified:
        """Get another certificate while this one is still good."""
        return self._call("POST", "/v1/renewal", request, Certified.read)

    def enrol(self, request: EnrolmentRequest) -> Certified:
        """Turn a one-time token into a certificate (the enrolment listener; no certificate is shown)."""
        return self._call("POST", "/v1/enrolment", request, Certified.read)

    def renew_late(self, request: LateRenewalRequest) -> Certified:
        """Get another certificate when the last one has ended (the enrolment listener; none is shown)."""
        return self._call("POST", "/v1/enrolment/renewal", request, Certified.read)

    def prepare(self) -> None:
        """Connect to the first broker while there is something else to do; a call meets what fails."""
        with self._turn:
            if self._kept is not None:
                return
            try:
                until = self._clockwork.monotonic() + self._limits.connect
                self._kept = (0, self._secure(*self._brokers[0], until))
            except (KeybrokerError, OSError):
                pass  # the call that follows meets it again, and judges it

    def _secure(self, host: str, port: int, until: float) -> Connection:
        connection.check_dates(self._credentials, self._clockwork.wall())
        if self._context is None:
            self._context = connection.trust(self._credentials)
        tls = self._handshake(self._context, host, port, until)
        return Connection(tls, host, port, self._clockwork.monotonic)


class _Stranger(_Caller):
    """Asks brokers that are not trusted yet; it has one question, and no secret to lose."""

    def ca(self, fingerprint: bytes) -> str:
        """Return the first CA offered that has this SHA-256 of its DER (32 bytes)."""

        def genuine(fields: Fields) -> str:
            offer = EnrolmentOffer.read(fields)
            try:
                der = ssl.PEM_cert_to_DER_cert(offer.ca)
            except ValueError:
                raise fields.wrong("ca", "is not a PEM certificate") from None
            if not compare_digest(sha256(der).digest(), fingerprint):
                raise KeybrokerError(
                    Problem.UNTRUSTED_BROKER,
                    "enrolment: the CA that was offered is not the one that the token names; "
                    "the token was not sent",
                    hint="is the URL right? Else somebody is between this machine and the broker",
                )
            # What was compared, written anew, and not what was offered: base64 ends for its decoder at the
            # first padding, and a second certificate after that would be trusted though nobody compared it.
            return ssl.DER_cert_to_PEM_cert(der)

        return self._call("GET", "/v1/enrolment", None, genuine)

    def _secure(self, host: str, port: int, until: float) -> Connection:
        tls = self._handshake(connection.trust_nobody(), host, port, until)
        return Connection(tls, host, port, self._clockwork.monotonic)


def offered_ca(
    brokers: tuple[str, ...],
    token: Secret,
    *,
    deadline: float,
    limits: Limits = PATIENCE,
    clockwork: Clockwork = REAL,
) -> str:
    """Return the CA certificate (PEM) that the token's fingerprint vouches for.

    The connection it is read over is closed again and nothing secret was said on it: the token is to be sent
    on a new one, verified against what is returned here.

    Args:
        brokers: URLs of enrolment listeners.
        token: of the form ``keybroker.wire.messages.TOKEN``.

    Raises:
        KeybrokerError: USAGE for a token of another form; UNTRUSTED_BROKER if every broker offers another CA;
            as ``Broker`` otherwise.
    """
    match = TOKEN.fullmatch(token.reveal().decode("ascii", "replace"))
    if match is None:
        raise KeybrokerError(
            Problem.USAGE, "token: is not an enrolment token", hint="keybroker host enrol ADDON prints one"
        )
    stranger = _Stranger(brokers, deadline, limits, clockwork)
    try:
        return stranger.ca(base64.urlsafe_b64decode(match[2] + "="))
    finally:
        stranger.close()
