"""``keybroker unseal``: shares of the master key, brought to the running broker one by one."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from keybroker.cli.access import config_option, json_option
from keybroker.cli.owner import become_owner, operator_here
from keybroker.cli.screen import note, print_json, print_table
from keybroker.cli.sharing import read_shares
from keybroker.wire.problems import KeybrokerError, Problem

_SECONDS: Final = 30
_MOST_BYTES: Final = 1 << 20


@click.command()
@click.option("--status", "asking", is_flag=True, help="Say how many shares are there, and give none.")
@config_option
@json_option
def unseal(asking: bool, config: Path, as_json: bool) -> None:
    """Give shares of the master key to the broker that runs on this machine, until it has enough of them.

    Each holder types their own share at a prompt that does not show it, from any session on this machine; the
    broker keeps those that are there, in memory alone, until there are enough. From a pipe, one share a line
    is read. A share is never an argument. A wrong one is named where that can be told; if together they do
    not give the key, all are forgotten, and it begins again.

    \b
      keybroker unseal
      keybroker unseal --status
    """
    from keybroker.config import load

    who = operator_here()
    become_owner(config)
    path = load(config).installation.unseal_socket
    document = _ask(path, {"share": None})
    if not asking and _wanted(document):
        for share in _shares(document):
            document = _ask(path, {"share": share, "who": who})
            _refuse(document)
            if not as_json:
                _tell(document)
            if not _wanted(document):
                break
    elif not as_json and not asking:
        note("the broker is not sealed")
    if as_json:
        print_json({"sealed": document["sealed"], "keys": document["keys"]})
    elif asking:
        note("the broker is sealed" if document["sealed"] else "the broker is not sealed")
        if document["keys"]:
            print_table(("MASTER KEY", "SHARES", "STATE"), [_row(one) for one in document["keys"]])


def _wanted(document: dict[str, Any]) -> bool:
    """Say whether a share could be of use: a key in use waits for it, or one that is to be rotated to."""
    return any(not one["open"] for one in document["keys"])


def _row(one: dict[str, Any]) -> tuple[str, str, str]:
    state = "open" if one["open"] else "sealed" if one["in_use"] else "sealed, in no use yet"
    return one["identity"], f"{one['given']} of {one['threshold']}", state


def _shares(document: dict[str, Any]) -> Iterator[str]:
    """Read one share from the terminal, for the next holder has a session of their own; all of a pipe."""
    if sys.stdin.isatty():
        for one in document["keys"]:
            if not one["open"]:
                note(f"master key {one['identity']}: {one['given']} of {one['threshold']} shares")
    for share in read_shares("Share"):
        yield share.reveal().decode()
        if sys.stdin.isatty():
            return


def _tell(document: dict[str, Any]) -> None:
    for one in document["keys"]:
        how = "open" if one["open"] else f"{one['given']} of {one['threshold']} shares"
        note(f"master key {one['identity']}: {how}")
    if not document["sealed"]:
        note("the broker is not sealed")


def _refuse(document: dict[str, Any]) -> None:
    if "problem" in document:
        raise KeybrokerError(
            Problem.named(document["problem"]), document["detail"], hint=document.get("hint")
        )


def _ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the running broker.

    Raises:
        KeybrokerError: UNREACHABLE where none runs here.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as broker:
            broker.settimeout(_SECONDS)
            broker.connect(str(path))
            broker.sendall(json.dumps(request).encode() + b"\n")
            with broker.makefile("rb") as reply:
                line = reply.readline(_MOST_BYTES)
        document = json.loads(line)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else "it does not answer"
        raise KeybrokerError(
            Problem.UNREACHABLE, f"broker: {path}: {said.lower()}", hint="systemctl status keybroker"
        ) from error
    if not isinstance(document, dict):
        raise KeybrokerError(Problem.UNREACHABLE, f"broker: {path}: what it says cannot be read")
    if "keys" not in document:
        _refuse(document)
    return document
