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

from keybroker.cli.access import find_access, operator_options
from keybroker.cli.quantities import parse_moment
from keybroker.cli.screen import moment, note, print_facts, print_json
from keybroker.wire.problems import KeybrokerError, Problem

if TYPE_CHECKING:
    from keybroker.cli.client import Client
    from keybroker.cli.receipt import Receipt
    from keybroker.proofreading import Item, Proofreader, Verdict

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_KNOWN: Final = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))
@click.option("--from", "begin", help="First record, by its number or as a time.")
@click.option("--to", "end", help="Last record, by its number; or a time, before which it was.")
@operator_options
def export(file: Path, begin: str | None, end: str | None, as_json: bool, **options: Any) -> None:
    """Write records, checkpoints and the keys that signed them to a file of JSON lines; - is stdout.

    The file needs no broker to be verified. It names every host and operator, but holds no key. A file that
    is there is not overwritten.

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
    first = max(1, _place(client, begin, now) if begin else 1)
    last = min(here.sequence, _last(client, end, now) if end else here.sequence)
    heading = form.Heading(urlsplit(access.url).netloc, f"{now:%FT%T.%fZ}", first, max(last, first - 1))
    items = pages.counted(pages.trail(client, first, last, here.checkpoint), last - first + 1)
    with _opened(file) as out:
        out.writelines(form.write(heading, items))
    if as_json and str(file) != "-":
        print_json({"file": str(file), "from": first, "to": last})
    else:
        note(f"records {first} to {last} are in {file}" if last >= first else f"{file}: there are no records")


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


def _place(client: Client, text: str, now: datetime) -> int:
    """Return the number of a record, or that of the first one since a time; one beyond the end is none."""
    from keybroker.cli import pages

    if _NUMBER.fullmatch(text):
        return int(text)
    since = {"since": f"{parse_moment(text, now):%FT%T.%fZ}"}
    found = next(pages.matching(client, 0, since), None)
    return pages.end(client).sequence + 1 if found is None else int(found["sequence"])


def _last(client: Client, text: str, now: datetime) -> int:
    return int(text) if _NUMBER.fullmatch(text) else _place(client, text, now) - 1


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
    "--known", multiple=True, help="A record as somebody else has kept it, NUMBER:HASH; may be repeated."
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


def _hashes(known: Iterable[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for given in known:
        match = _KNOWN.fullmatch(given)
        if match is None:
            raise KeybrokerError(
                Problem.USAGE, f"known: {given!r} is not a number, a colon and 64 hex digits"
            )
        if found.setdefault(int(match[1]), match[2]) != match[2]:
            raise KeybrokerError(Problem.USAGE, f"known: record {match[1]} is there twice")
    return found


def _verify_file(file: Path, trusted: frozenset[str], hashes: dict[int, str], as_json: bool) -> None:
    from keybroker import export as form
    from keybroker.cli.pages import counted
    from keybroker.proofreading import Proofreader

    try:
        with file.open(encoding="utf-8") as lines:
            # no line of ours is longer, and a file without any newline is not read as a whole
            heading, items = form.read(iter(lambda: lines.readline(form.LONGEST_LINE + 1), ""))
            reader = Proofreader(trusted or None, hashes, "--known", heading.first)
            verdict = _read(reader, counted(items, heading.last - heading.first + 1))
    except (OSError, UnicodeDecodeError) as error:
        raise KeybrokerError(Problem.MALFORMED, f"{file}: cannot be read: {error}") from error
    _tell(verdict, "given" if trusted else "named by the export alone", None, as_json)


def _verify_broker(
    trusted: frozenset[str], hashes: dict[int, str], as_json: bool, options: dict[str, Any]
) -> None:
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
        if hashes.setdefault(before.sequence, before.hash) != before.hash:
            raise KeybrokerError(
                Problem.CORRUPT, f"audit record {before.sequence}: --known has another hash than {place}"
            )
    here = pages.end(client)
    reader = Proofreader(trusted | kept or None, hashes, where)
    items = pages.trail(client, 1, here.sequence, here.checkpoint)
    try:
        verdict = _read(reader, pages.counted(items, here.sequence))
    except KeybrokerError as error:
        if error.problem is Problem.CORRUPT:
            error.hint = f"keep what there is, as evidence: keybroker audit export FILE, and {place}"
            if before is not None:
                error.hint += f"; where a backup was restored, and that is known: mv {place} {place}.old"
        raise
    source = "given" if trusted else "as the last time" if kept else "seen for the first time"
    _tell(verdict, source, before, as_json)
    if verdict.last:
        signers = tuple(sorted(kept | frozenset(verdict.signers)))
        _keep(place, receipt.Receipt(f"{datetime.now(UTC):%FT%T.%fZ}", verdict.last, verdict.hash, signers))


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
                "first": verdict.first,
                "last": verdict.last,
                "hash": verdict.hash,
                "checkpoints": verdict.checkpoints,
                "signed_up_to": verdict.covered,
                "signers": list(verdict.signers),
                "signers_are": source,
                "receipt": before and {"at": before.at, "sequence": before.sequence, "hash": before.hash},
                "not_shown": list(verdict.unseen),
            }
        )
        return
    newest = verdict.newest
    print_facts(
        [
            ("records", f"{verdict.first} to {verdict.last}: whole" if verdict.last else "none"),
            ("last hash", verdict.hash),
            ("checkpoints", f"{verdict.checkpoints}, up to record {newest.sequence}" if newest else "none"),
            *[("signer", f"{signer} ({source})") for signer in verdict.signers],
            ("receipt", before and f"of {moment(before.at)}, record {before.sequence}: it is still there"),
            *[("not shown", words) for words in verdict.unseen],
        ]
    )
