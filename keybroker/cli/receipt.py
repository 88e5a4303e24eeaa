"""What ``keybroker audit verify`` remembers of the trail that it read last, on the reader's own machine.

Whoever rewrites the trail at the broker would have to reach this file, too. It is kept in
``$XDG_STATE_HOME/keybroker`` (XDG Base Directory Specification), one for each broker.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from keybroker.audit import Head
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN, WRITER


@dataclass(frozen=True, slots=True)
class Receipt:
    """The end of a trail that was found whole.

    Attributes:
        at: when, RFC 3339.
        heads: the last record of each writer.
        signers: fingerprints of the keys that had signed its checkpoints.
    """

    at: str
    heads: tuple[Head, ...]
    signers: tuple[str, ...]


def place(url: str, home: Path, environment: Mapping[str, str]) -> Path:
    """Return where the receipt of a broker is kept."""
    state = environment.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else home / ".local/state"
    return base / "keybroker" / f"audit-{urlsplit(url).netloc}.json"


def load(path: Path) -> Receipt | None:
    """Read a receipt; None where there is none.

    Raises:
        KeybrokerError: CONFIGURATION where it cannot be read: nobody is to think that it was compared.
    """
    try:
        fields = Fields.parse(path.read_text())
        heads = fields.optional("heads", lambda key: tuple(map(_head, fields.objects(key))))
        # of before there were several writers
        receipt = Receipt(fields.text("at"), heads or (_head(fields),), fields.texts("signers"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, KeybrokerError) as error:
        raise KeybrokerError(
            Problem.CONFIGURATION, f"{path}: is no receipt", hint=f"look at it; mv {path} {path}.old"
        ) from error
    return receipt


def _head(fields: Fields) -> Head:
    writer = fields.optional("writer", lambda key: fields.text(key, match=WRITER)) or MAIN
    return Head(writer, fields.number("sequence"), fields.text("hash"))


def save(path: Path, receipt: Receipt, home: Path) -> None:
    """Keep a receipt, durably, instead of the one before.

    Args:
        home: of the user; a user without one keeps nothing, and it is not for us to make it.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_relative_to(home):
        os.stat(home)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f"{path.name}.new")
    said = {
        "at": receipt.at,
        "heads": [head.as_json() for head in receipt.heads],
        "signers": list(receipt.signers),
    }
    with fresh.open("w") as file:
        file.write(json.dumps(said, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
