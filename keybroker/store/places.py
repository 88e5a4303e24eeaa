"""Where a database is: a file of SQLite's, or a database that PostgreSQL serves.

A cluster is written as libpq writes it (PostgreSQL documentation, section 34.1.1.2, "Connection URIs"), with
``+psycopg`` in the scheme: ``postgresql+psycopg://user@db1,db2,db3/keybroker?target_session_attrs=read-write``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from keybroker.wire.problems import KeybrokerError, Problem

_SCHEME: Final = "postgresql+psycopg://"
_WRONG_SCHEME: Final = re.compile(r"[a-z0-9+]+://")
_AUTHORITY: Final = re.compile(r"postgresql\+psycopg://(?P<user>[^@/?]*@)?(?P<hosts>[^/?]*)")
_PARAMETER: Final = re.compile(r"[?&](?P<name>[a-z_]+)=(?P<value>[^&]*)")
_LOOPBACK: Final = {"localhost", "127.0.0.1", "[::1]", "::1"}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A database that PostgreSQL serves; there is no password in it, so it may be shown.

    Attributes:
        uri: as the configuration has it.
    """

    uri: str

    def __str__(self) -> str:
        return self.uri

    @property
    def libpq_uri(self) -> str:
        """Return the URI as libpq reads it."""
        return self.uri.replace(_SCHEME, "postgresql://", 1)

    @property
    def parameters(self) -> dict[str, str]:
        """Return the parameters that the URI itself has."""
        return {one["name"]: unquote(one["value"]) for one in _PARAMETER.finditer(self.uri)}

    @property
    def is_local(self) -> bool:
        """Say whether no packet to it leaves this machine."""
        match = _AUTHORITY.match(self.uri)
        authority = match["hosts"].split(",") if match and match["hosts"] else []
        named = self.parameters
        hosts = [_host(one) for one in authority]
        hosts += [one for name in ("host", "hostaddr") for one in named.get(name, "").split(",")]
        return all(not one or one.startswith(("/", "@")) or one in _LOOPBACK for one in hosts)

    @property
    def password_files(self) -> tuple[Path, ...]:
        """Return the files with secrets that the URI names."""
        named = self.parameters
        return tuple(Path(named[name]) for name in ("passfile", "sslkey") if name in named)


def _host(one: str) -> str:
    """Return the host of ``host:port``."""
    return unquote(one) if one.endswith("]") else unquote(one.rpartition(":")[0] or one)


Database = Path | Cluster


def read_place(text: str, below: Path) -> Database:
    """Read where a database is.

    Args:
        text: a path, or a URI.
        below: the directory that a relative path counts from.

    Raises:
        KeybrokerError: CONFIGURATION, which does not repeat the URI: there may be a password in it.
    """
    if not text.startswith(_SCHEME):
        if _WRONG_SCHEME.match(text):
            raise _wrong(f"is neither a path nor {_SCHEME}…", None)
        return below / text
    match = _AUTHORITY.match(text)
    parameters = [one["name"] for one in _PARAMETER.finditer(text)]
    if (match and match["user"] and ":" in match["user"]) or {"password", "sslpassword"} & set(parameters):
        raise _wrong(
            "has a password in it, which would be in every backup of the configuration",
            "passfile=/etc/keybroker/pgpass, or a client certificate: sslcert=…&sslkey=…",
        )
    if not text.isprintable() or " " in text:
        raise _wrong("has spaces or control characters in it", None)
    return Cluster(text)


def database_name(place: Database) -> str:
    """Return what a message calls a database."""
    return os.fspath(place) if isinstance(place, Path) else str(place)


def _wrong(what: str, hint: str | None) -> KeybrokerError:
    return KeybrokerError(Problem.CONFIGURATION, f"database: {what}", hint=hint)
