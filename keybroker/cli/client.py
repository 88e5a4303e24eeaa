"""The operator's side of the API: the only importer of requests in the broker.

TLS 1.3, our CA and no other, no proxies, no redirects, no netrc: ``trust_env`` is off, so nothing in the
environment can send an operator's request elsewhere.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter

from keybroker import __version__
from keybroker.cli.access import Access
from keybroker.wire.problems import KeybrokerError, Problem

_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 30.0

_LOOK: Final = "openssl x509 -noout -issuer -dates -ext subjectAltName"
_OVER: Final = "keybroker operator request, and somebody with the role operator: operator renew NAME --csr"

_NO_ANSWER: Final = "systemctl status keybroker, or --url for another broker"
_UNKNOWN_NAME: Final = "is the broker's name in DNS, or /etc/hosts? else --url, or url in cli.toml"

_REFUSED_US: Final = ("CERTIFICATE_REQUIRED", "UNKNOWN_CA", "CERTIFICATE_EXPIRED", "BAD_CERTIFICATE")
_REFUSED_US_TOO: Final = ("CERTIFICATE_UNKNOWN", "UNSUPPORTED_CERTIFICATE", "HANDSHAKE_FAILURE")


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply's document, and whether the request made something new (201) or found it so (200)."""

    document: dict[str, Any]
    created: bool


class _Adapter(HTTPAdapter):
    """Requests over one TLS context, which is all that decides whom we trust."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Give the context to urllib3 (requests' documented way)."""
        super().init_poolmanager(*arguments, **options, ssl_context=self._context)


class Client:
    """One operator's connection to one broker."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(access.ca)
        self._session.headers["User-Agent"] = f"keybroker/{__version__}"
        self._session.adapters.clear()  # no adapter, no http://
        self._session.mount("https://", _Adapter(_context(access)))

    def get(self, *path: str, **query: str | int) -> dict[str, Any]:
        """Fetch what is at a path.

        Raises:
            KeybrokerError: what the broker says; UNREACHABLE, UNTRUSTED_BROKER, CERTIFICATE.
        """
        return self._call("GET", path, None, query).document

    def put(self, *path: str, **body: Any) -> Answer:
        """Ask that something be so (errors as ``get``)."""
        return self._call("PUT", path, body, {})

    def post(self, *path: str, **body: Any) -> dict[str, Any]:
        """Ask for something new (errors as ``get``)."""
        return self._call("POST", path, body, {}).document

    def delete(self, *path: str) -> dict[str, Any]:
        """Ask that something be no more (errors as ``get``)."""
        return self._call("DELETE", path, None, {}).document

    def _call(
        self, method: str, path: tuple[str, ...], body: dict[str, Any] | None, query: dict[str, str | int]
    ) -> Answer:
        url = f"{self._access.url}/v1/" + "/".join(quote(part, safe="") for part in path)
        try:
            reply = self._session.request(
                method,
                url,
                json=body,
                params=query or None,
                timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                allow_redirects=False,
            )
        except requests.exceptions.RequestException as error:
            self._explain(error)
        try:
            document = reply.json()
        except requests.exceptions.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            raise KeybrokerError(
                Problem.UNAVAILABLE,
                f"{self._where()}: answered {reply.status_code} without JSON; it is no broker",
                hint="the URL is the main listener's, port 8443 by default",
            )
        if reply.status_code not in (200, 201):
            raise KeybrokerError(
                Problem.named(str(document.get("type"))),
                str(document.get("detail", f"broker: answered {reply.status_code}")),
                hint=document.get("hint"),
            )
        return Answer(document, reply.status_code == 201)

    def _where(self) -> str:
        return urlsplit(self._access.url).netloc

    def _explain(self, error: requests.exceptions.RequestException) -> NoReturn:
        """Say in our words why no reply came; the reason is somewhere down the chain of causes."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise KeybrokerError(
                    Problem.UNTRUSTED_BROKER,
                    f"{self._where()}: {cause.verify_message.lower().rstrip('.')}",
                    hint=f"is {self._access.ca} this broker's CA, and the name in --url its name?",
                ) from error
            reason = (cause.reason or "") if isinstance(cause, ssl.SSLError) else ""
            if any(word in reason for word in (*_REFUSED_US, *_REFUSED_US_TOO)):
                raise KeybrokerError(
                    Problem.CERTIFICATE,
                    f"{self._access.certificate}: the broker refuses it: {reason.lower().replace('_', ' ')}",
                    hint=_hint(reason, self._access.certificate),
                ) from error
        raise KeybrokerError(
            Problem.UNREACHABLE,
            f"{self._where()}: {_reason(causes)}",
            hint=_UNKNOWN_NAME if any(isinstance(cause, socket.gaierror) for cause in causes) else _NO_ANSWER,
        ) from error


def _hint(reason: str, certificate: Path) -> str:
    if "EXPIRED" in reason:
        return _OVER
    look = f"{_LOOK} -in {certificate}"
    return (
        f"after keybroker ca rotate: systemctl reload keybroker; {look}" if "UNKNOWN_CA" in reason else look
    )


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and all that it came from, urllib3's ``reason`` and wrapped arguments too."""
    found: list[BaseException] = []
    waiting: list[BaseException] = [error]
    while waiting and len(found) < 32:
        one = waiting.pop()
        if one in found:
            continue
        found.append(one)
        inner = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        waiting.extend(cause for cause in inner if isinstance(cause, BaseException))
    return found


def _reason(causes: list[BaseException]) -> str:
    if any(isinstance(cause, TimeoutError | requests.exceptions.Timeout) for cause in causes):
        return "does not answer in time"
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ssl.SSLError):
            return cause.strerror.lower()
    return "cannot be reached"


def _context(access: Access) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # that CA, and not its root
    path = access.ca
    try:
        context.load_verify_locations(path)
        path = access.certificate
        context.load_cert_chain(path, access.key)
    except (OSError, ssl.SSLError) as error:
        raise KeybrokerError(
            Problem.CERTIFICATE, f"{path}: is not PEM, or does not go with {access.key}"
        ) from error
    return context
