"""``keybroker audit export`` and ``verify``: the trail as a whole, written down and proofread."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from keybroker import cursor
from keybroker.cli.access import find_access, operator_options
from keybroker.cli.quantities import parse_moment
from keybroker.cli.screen import moment, note, print_facts, print_json
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import name_of

if TYPE_CHECKING:
    from keybroker.cli.client import Client
    from keybroker.cli.pages import End
    from keybroker.cli.receipt import Receipt
    from keybroker.proofreading import Item, Proofreader
    from keybroker.verdict import Verdict

_Hashes = dict[tuple[str, int], str]

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_KNOWN: Final = re.compile(r"([a-z0-9/-]+):([0-9a-f]{64})")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))
@click.option("--from", "begin", help="First record, by its name or as a time.")
@click.option("--to", "end", help="Last record, by its name; or a time, before which it was.")
@operator_options
def export(file: Path, begin: str | None, end: str | None, as_json: bool, **options: Any) -> None:
    """Write records, checkpoints and the keys that signed them to a file of JSON lines; - is stdout.

    The file needs no broker to be verified. It names every host and operator, but holds no key. A file that
    is there is not overwritten.

    Where several brokers write to one database each has a chain of its own: record 33 of broker b2 is b2/33.
    --from b2/33,1200 begins there, and at the beginning of every other chain.

    \b
      keybroker audit export /srv/audit.jsonl
      keybroker audit export --from 2026-01-01 --to 2026-02-01 /srv/audit-2026-01.jsonl
      keybroker audit export - | gzip > audit.jsonl.gz
    """
    from keybroker import export as form
    from keybroker.cli import pages
    from keybroker.cli.client import Client

    access = find_access(options, Path.home())
    client, now = Client(access), datetime.now(UTC)
    here = pages.end(client)
    chains = _chains(client, here, begin, end, now)
    heading = form.Heading(urlsplit(access.url).netloc, f"{now:%FT%T.%fZ}", chains)
    items = pages.counted(pages.trail(client, chains, here.checkpoint), heading.records)
    with _opened(file) as out:
        out.writelines(form.write(heading, items))
    if as_json and str(file) != "-":
        told = {writer: {"from": first, "to": last} for writer, (first, last) in chains.items()}
        print_json({"file": str(file), "chains": told})
        return
    found = [_words(writer, *numbers) for writer, numbers in chains.items() if numbers[1] >= numbers[0]]
    note(f"records {', '.join(found)} are in {file}" if found else f"{file}: there are no records")


def _words(writer: str, first: int, last: int) -> str:
    return f"{name_of(writer, first)} to {name_of(writer, last)}"


def _chains(
    client: Client, here: End, begin: str | None, end: str | None, now: datetime
) -> dict[str, tuple[int, int]]:
    """Return the sequence numbers of the first and the last record of each writer."""
    first = _place(client, here, begin, now) if begin else {}
    last = dict(here.place)
    if end and _is_place(end):
        last |= cursor.parse(end, "command line: --to")
    elif end:
        last = {writer: number - 1 for writer, number in _place(client, here, end, now).items()}
    chains = {}
    for writer, newest in here.place.items():
        begins = max(1, first.get(writer, 1))
        chains[writer] = begins, max(min(newest, last[writer]), begins - 1)
    return chains


@contextmanager
def _opened(file: Path) -> Iterator[IO[str]]:
    """Open a new file that is there as a whole or not at all."""
    if str(file) == "-":
        yield sys.stdout
        return
    part = file.with_name(f"{file.name}.part")
    if file.exists():
        raise KeybrokerError(Problem.EXISTS, f"{file}: is there already", hint="name another file")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="utf-8") as out:
            yield out
            out.flush()
            os.fsync(descriptor)
        os.link(part, file)  # fails where somebody else has made one meanwhile
    except OSError as error:
        raise KeybrokerError(
            Problem.UNAVAILABLE, f"{file}: cannot be written: {(error.strerror or str(error)).lower()}"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _place(client: Client, here: End, text: str, now: datetime) -> dict[str, int]:
    """Return named records by writer, or each writer's first one since a time; one beyond the end is none."""
    from keybroker.cli import pages

    if _is_place(text):
        return cursor.parse(text, "command line: --from")
    since = f"{parse_moment(text, now):%FT%T.%fZ}"
    place = {}
    for writer, last in here.place.items():
        found = next(pages.matching(client, "0", {"since": since, "writer": writer}), None)
        place[writer] = last + 1 if found is None else int(found["sequence"])
    return place


def _is_place(text: str) -> bool:
    return text.isdecimal() or "/" in text or "," in text


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--signer",
    "signers",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Public key that must have signed the checkpoints, PEM; may be repeated.",
)
@click.option(
    "--fingerprint",
    "fingerprints",
    multiple=True,
    help="The same by SHA-256 of that key's DER; may be repeated.",
)
@click.option(
    "--known", multiple=True, help="A record as somebody else has kept it, NAME:HASH; may be repeated."
)
@operator_options
def verify(
    file: Path | None,
    signers: tuple[Path, ...],
    fingerprints: tuple[str, ...],
    known: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Proofread the whole trail at the broker, or an export without any broker; name the first bad record.

    At the broker, the end of the trail is kept in ~/.local/state/keybroker and compared the next time, and
    the signing key is taken for the broker's the first time; `keybroker check`, on its machine, shows it.

    What this cannot show is said each time: a tail cut off together with its checkpoints, and a trail made
    anew by whoever holds the signing key, show only by a record that somebody else has kept. Each VM has the
    last one it was told (receipt.json in its agent's state directory), and shows it to the broker at its next
    boot or report; the journal has them all (`journalctl -t keybroker-audit`).

    \b
      keybroker audit verify
      keybroker audit verify /srv/audit.jsonl --signer signer.pem
      keybroker audit verify /srv/audit.jsonl --known 1200:d4735e3a265e16eee03f59718b9b5d03019c07d8...
    """
    trusted, hashes = _trusted(signers, fingerprints), _hashes(known)
    if file is None:
        _verify_broker(trusted, hashes, as_json, options)
    else:
        _verify_file(file, trusted, hashes, as_json)


def _trusted(signers: Iterable[Path], fingerprints: Iterable[str]) -> frozenset[str]:
    from keybroker import statement

    found = set()
    for path in signers:
        try:
            found.add(statement.fingerprint(statement.public_from_pem(path.read_text())))
        except (OSError, UnicodeDecodeError) as error:
            raise KeybrokerError(Problem.MALFORMED, f"{path}: cannot be read") from error
    for given in fingerprints:
        # as openssl and ssh-keygen write them, too
        plain = given.lower().removeprefix("sha256:").replace(":", "")
        if _FINGERPRINT.fullmatch(plain) is None:
            raise KeybrokerError(Problem.USAGE, f"fingerprint: {given!r} is not 64 hex digits")
        found.add(plain)
    return frozenset(found)


def _hashes(known: Iterable[str]) -> _Hashes:
    found: _Hashes = {}
    for given in known:
        match = _KNOWN.fullmatch(given)
        try:
            record = cursor.name(match[1], "known") if match else ("", 0)
        except KeybrokerError:
            record = ("", 0)
        if match is None or record[1] == 0:
            raise KeybrokerError(
                Problem.USAGE,
                f"known: {given!r} is not a record's name, like 1200 or b2/33, a colon and 64 hex digits",
            )
        if found.setdefault(record, match[2]) != match[2]:
            raise KeybrokerError(Problem.USAGE, f"known: record {match[1]} is there twice")
    return found


def _verify_file(file: Path, trusted: frozenset[str], hashes: _Hashes, as_json: bool) -> None:
    from keybroker import export as form
    from keybroker.cli.pages import counted
    from keybroker.proofreading import Proofreader

    try:
        with file.open(encoding="utf-8") as lines:
            # no line of ours is longer, and a file without any newline is not read as a whole
            heading, items = form.read(iter(lambda: lines.readline(form.LONGEST_LINE + 1), ""))
            reader = Proofreader(trusted or None, hashes, "--known", heading.first)
            verdict = _read(reader, counted(items, heading.records))
    except (OSError, UnicodeDecodeError) as error:
        raise KeybrokerError(Problem.MALFORMED, f"{file}: cannot be read: {error}") from error
    _tell(verdict, "given" if trusted else "named by the export alone", None, as_json)


def _verify_broker(trusted: frozenset[str], hashes: _Hashes, as_json: bool, options: dict[str, Any]) -> None:
    from keybroker.cli import pages, receipt
    from keybroker.cli.client import Client
    from keybroker.proofreading import Proofreader

    access = find_access(options, Path.home())
    client, place = Client(access), receipt.place(access.url, Path.home(), os.environ)
    before = receipt.load(place)
    kept = frozenset(() if before is None else before.signers)
    where = "--known"
    if before is not None:
        where = f"the receipt of {moment(before.at)}" if not hashes else "a receipt"
        for head in before.heads:
            if hashes.setdefault((head.writer, head.sequence), head.hash) != head.hash:
                raise KeybrokerError(
                    Problem.CORRUPT, f"audit record {head.name}: --known has another hash than {place}"
                )
    here = pages.end(client)
    reader = Proofreader(trusted | kept or None, hashes, where)
    chains = {writer: (1, last) for writer, last in here.place.items()}
    items = pages.trail(client, chains, here.checkpoint)
    try:
        verdict = _read(reader, pages.counted(items, sum(here.place.values())))
    except KeybrokerError as error:
        if error.problem is Problem.CORRUPT:
            error.hint = f"keep what there is, as evidence: keybroker audit export FILE, and {place}"
            if before is not None:
                error.hint += f"; where a backup was restored, and that is known: mv {place} {place}.old"
        raise
    source = "given" if trusted else "as the last time" if kept else "seen for the first time"
    _tell(verdict, source, before, as_json)
    if verdict.heads:
        signers = tuple(sorted(kept | frozenset(verdict.signers)))
        _keep(place, receipt.Receipt(f"{datetime.now(UTC):%FT%T.%fZ}", verdict.heads, signers))


def _keep(place: Path, fresh: Receipt) -> None:
    from keybroker.cli import receipt

    try:
        receipt.save(place, fresh, Path.home())
    except OSError as error:
        note(f"{place}: no receipt is kept: {(error.strerror or str(error)).lower()}")


def _read(reader: Proofreader, items: Iterable[Item]) -> Verdict:
    for item in items:
        reader.take(item)
    return reader.verdict()


def _tell(verdict: Verdict, source: str, before: Receipt | None, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "chains": [
                    {
                        "writer": chain.writer,
                        "first": chain.first,
                        "last": chain.last,
                        "hash": chain.hash,
                        "signed_up_to": chain.covered,
                    }
                    for chain in verdict.chains
                ],
                "checkpoints": verdict.checkpoints,
                "signers": list(verdict.signers),
                "signers_are": source,
                "receipt": before and {"at": before.at, "heads": [head.as_json() for head in before.heads]},
                "not_shown": list(verdict.unseen),
            }
        )
        return
    newest = verdict.newest
    print_facts(
        [
            *[
                ("records", f"{_words(chain.writer, chain.first, chain.last)}: whole")
                for chain in verdict.chains
            ],
            *[("last hash", head.hash) for head in verdict.heads],
            ("checkpoints", f"{verdict.checkpoints}, up to record {newest.ends}" if newest else "none"),
            *[("signer", f"{signer} ({source})") for signer in verdict.signers],
            ("receipt", before and f"of {moment(before.at)}, {_held(before)}"),
            *[("not shown", words) for words in verdict.unseen],
        ]
    )


def _held(before: Receipt) -> str:
    names = ", ".join(head.name for head in before.heads)
    one = len(before.heads) == 1
    return f"record {names}: it is still there" if one else f"records {names}: they are still there"
