"""Making a master key in shares, and showing them to whoever is to hand them out."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from keybroker.cli.screen import note
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

if TYPE_CHECKING:
    from keybroker.masterkey import MasterKey
    from keybroker.masterkey.shares import ShareSet


@dataclass(frozen=True, slots=True)
class SharedKey:
    """A new master key and its shares.

    Attributes:
        texts: of the shares, as their holders keep them.
    """

    set: ShareSet
    key: Secret
    texts: tuple[Secret, ...]

    def readable(self) -> list[str]:
        """Return the shares for ``--json``: whoever asks for that takes care of them."""
        return [text.reveal().decode() for text in self.texts]

    def show(self) -> None:
        """Print the shares on stdout, a line each: this once, for they are kept nowhere."""
        note(f"master key {self.set.uri}: its shares, which are shown this once:")
        for text in self.readable():
            click.echo(text)


def new_key(form: str) -> SharedKey:
    """Make a master key and split it.

    Args:
        form: ``shares:K/N``.

    Raises:
        KeybrokerError: CONFIGURATION for numbers that are none; USAGE for a key that is there already.
    """
    from keybroker.envelope import KEY_BYTES
    from keybroker.masterkey.shares import numbers
    from keybroker.masterkey.splitting import split

    threshold, count, identity = numbers(form)
    if identity is not None:
        raise KeybrokerError(Problem.USAGE, "command line: a new key in shares has no name yet: shares:K/N")
    key = Secret(secrets.token_bytes(KEY_BYTES))
    made, shares = split(key, threshold, count)
    return SharedKey(made, key, tuple(share.text() for share in shares))


def read_shares(asking: str) -> Iterator[Secret]:
    """Read shares: at a prompt that does not show them, again and again, or from a pipe, one a line.

    Args:
        asking: what the prompt says.
    """
    if not sys.stdin.isatty():
        yield from (Secret(line.strip().encode()) for line in sys.stdin if line.strip())
        return
    while True:
        yield Secret(click.prompt(asking, hide_input=True, err=True).encode())


def gather(uris: Iterable[str]) -> dict[str, MasterKey]:
    """Ask for enough shares of each master key that is in shares; nothing of them is kept.

    Returns:
        The keys, open, by URI; one for which there were not enough is left out.

    Raises:
        KeybrokerError: MALFORMED, CONFLICT for a share that is none, or does not fit.
    """
    from keybroker.masterkey.sealed import SharesMasterKey
    from keybroker.masterkey.shares import SCHEME, Share, ShareSet

    keys = {uri: SharesMasterKey(ShareSet.parse(uri)) for uri in uris if uri.startswith(SCHEME)}
    by_set = {key.set.id: key for key in keys.values()}
    for text in read_shares("Share of the master key") if keys else ():
        share = Share.parse(text)
        key = by_set.get(share.of)
        if key is None:
            raise KeybrokerError(Problem.CONFLICT, f"share {share.number}: is of another master key")
        key.take(*key.would_take(share))
        note(f"master key {key.identity}: {'open' if not key.is_sealed else f'{key.given} shares'}")
        if not any(each.is_sealed for each in keys.values()):
            break
    return {uri: key for uri, key in keys.items() if not key.is_sealed}
