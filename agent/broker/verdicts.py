"""What a failed try means: whether to ask this broker again, another one, or nobody."""

from __future__ import annotations

import socket
import ssl

from agent.backoff import Failure, Verdict
from agent.broker.connection import NO_NETWORK, ClockBehind
from agent.broker.exchange import NotHttp
from keybroker.wire.problems import KeybrokerError, Problem


def answered(error: KeybrokerError) -> Failure:
    """Judge what a broker answered, or what was found out about it or us before it could answer."""
    if isinstance(error, ClockBehind):
        return Failure("offline", error)
    if error.problem.temporary:
        return Failure("temporary", error)
    return Failure("broker" if error.problem is Problem.UNTRUSTED_BROKER else "final", error)


def failure_of(error: OSError | NotHttp, broker: str) -> Failure:
    """Judge what went wrong below HTTP."""
    if isinstance(error, ssl.SSLCertVerificationError):
        dated = error.verify_code in (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED: time may heal it
        hint = (
            "compare the clocks of both machines: date -u"
            if dated
            else "is this the broker you enrolled with?"
        )
        said = KeybrokerError(Problem.UNTRUSTED_BROKER, f"{broker}: {error.verify_message}", hint=hint)
        return Failure("temporary" if dated else "broker", said)
    if isinstance(error, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (error.reason or ""):
        said = KeybrokerError(
            Problem.CERTIFICATE,
            f"{broker}: asks for a certificate, and was shown none",
            hint="enrol at the enrolment listener, port 8444 by default",
        )
        return Failure("broker", said)
    if isinstance(error, ssl.SSLError) and _about_us(error):
        said = KeybrokerError(
            Problem.CERTIFICATE,
            f"{broker}: does not take this machine's certificate: {_reason(error)}",
            hint="keybroker-agent doctor; or enrol again: keybroker host enrol ADDON",
        )
        return Failure("broker", said)
    if isinstance(error, socket.gaierror):
        verdict: Verdict = "offline" if error.errno == socket.EAI_AGAIN else "temporary"
        said = KeybrokerError(
            Problem.UNREACHABLE, f"{broker}: {error.strerror}", hint="is that name in DNS, or in /etc/hosts?"
        )
        return Failure(verdict, said)
    offline = isinstance(error, OSError) and error.errno in NO_NETWORK
    return Failure(
        "offline" if offline else "temporary",
        KeybrokerError(Problem.UNREACHABLE, f"{broker}: {_reason(error)}"),
    )


def _about_us(error: ssl.SSLError) -> bool:
    """Say whether the peer's alert is one of RFC 8446 section 6.2 about a certificate."""
    reason = error.reason or ""
    return "ALERT" in reason and any(
        word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, NotHttp):
        return f"no HTTP reply that can be read ({error or type(error).__name__})"[:200]
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]
