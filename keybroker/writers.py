"""By which name a broker writes to the audit trail, as its configuration or its host says."""

from __future__ import annotations

import re
import socket

from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN, WRITER

_LONGEST = 40


def read_name(audit: Fields, *, shared: bool) -> str:
    """Read a broker's name in the audit trail.

    Args:
        audit: the configuration's table of that name.
        shared: whether brokers on other hosts may write to its database; then it is the host's, if nobody
            names it otherwise.

    Raises:
        KeybrokerError: MALFORMED for a name that is none; CONFIGURATION where the host's tells no brokers
            apart.
    """
    said = audit.optional("writer", lambda key: audit.text(key, match=WRITER))
    if said is not None or not shared:
        return said or MAIN
    return name_of_host(socket.gethostname())


def name_of_host(host: str) -> str:
    """Return what a broker on a host of this name is called (errors as ``read_name``)."""
    name = re.sub("[^a-z0-9-]", "-", host.lower())[:_LONGEST]
    if not name.strip("-") or name.startswith("localhost") or name == MAIN:
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"audit.writer: is not there, and the host's name, {host!r}, is none that tells brokers apart",
            hint='[audit] writer = "b1", and another name at each broker',
        )
    return name
