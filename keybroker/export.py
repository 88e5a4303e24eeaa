"""An export of the audit trail: JSON lines, which ``keybroker audit verify`` reads without a broker.

    {"export": "keybroker audit 2", "broker": "b.example:8443", "at": "2026-01-31T…Z",
     "chains": {"b2": {"from": 1, "to": 33}, "main": {"from": 1, "to": 1200}}}
    {"record": {"writer": "main", "sequence": 1, …}}
    {"checkpoint": {"note": "…", "signer": "-----BEGIN PUBLIC KEY-----…"}}      after the records it has seen
    {"end": {"records": 1200, "checkpoints": 2}}

Each record is as ``GET /v1/audit`` has it, each checkpoint as ``GET /v1/audit/checkpoints`` has it. The first
and the last line are nobody's word: what they say is only held against what is between them. An export of
"keybroker audit 1" has one chain, that of ``main``: "from" and "to" are in its heading itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from keybroker.audit import AuditEntry
from keybroker.proofreading import Item, Note
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN, WRITER, name_of

KIND: Final = "keybroker audit 2"
_BEFORE: Final = "keybroker audit 1"

LONGEST_LINE: Final = 4 << 20
"""Characters; a record is far below it, and a file that is none of ours does not fill the memory."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What an export says of itself.

    Attributes:
        broker: where it is from.
        at: when it was made.
        chains: sequence numbers of the first and the last record by writer; the last is below the first
            where there is none.
    """

    broker: str
    at: str
    chains: Mapping[str, tuple[int, int]]

    @property
    def first(self) -> dict[str, int]:
        """Sequence number of each chain's first record."""
        return {writer: first for writer, (first, _last) in self.chains.items()}

    @property
    def records(self) -> int:
        """How many records there are."""
        return sum(last - first + 1 for first, last in self.chains.values())


def write(heading: Heading, items: Iterable[Item]) -> Iterator[str]:
    """Yield the lines of an export, each with its newline."""
    chains = {writer: {"from": first, "to": last} for writer, (first, last) in sorted(heading.chains.items())}
    yield _line(export=KIND, broker=heading.broker, at=heading.at, chains=chains)
    records = checkpoints = 0
    for item in items:
        if isinstance(item, Note):
            checkpoints += 1
            yield _line(checkpoint=item.as_json())
        else:
            records += 1
            yield _line(record=item.as_json())
    yield _line(end={"records": records, "checkpoints": checkpoints})


def read(lines: Iterable[str]) -> tuple[Heading, Iterator[Item]]:
    """Read an export.

    Returns:
        Its heading, and its items, which raise as they are taken.

    Raises:
        KeybrokerError: MALFORMED, naming the line; CORRUPT where the end is missing or counts something else.
    """
    numbered = enumerate(lines, 1)
    _, first = next(numbered, (1, ""))
    said = _document(1, first)
    found = said.get("chains") if said.get("export") == KIND else None
    if said.get("export") == _BEFORE:
        found = {MAIN: said}
    heading = Heading(str(said.get("broker")), str(said.get("at")), _chains(found))
    return heading, _items(heading, numbered)


def _chains(said: object) -> dict[str, tuple[int, int]]:
    chains: dict[str, tuple[int, int]] = {}
    for writer, part in said.items() if isinstance(said, dict) else ():
        first, last = (part.get("from"), part.get("to")) if isinstance(part, dict) else (None, None)
        if WRITER.fullmatch(writer) and isinstance(first, int) and isinstance(last, int):
            chains[writer] = first, last
    if not chains or not isinstance(said, dict) or len(chains) != len(said):
        raise KeybrokerError(Problem.MALFORMED, "export: line 1: is no heading of ours")
    return chains


def _items(heading: Heading, numbered: Iterable[tuple[int, str]]) -> Iterator[Item]:
    counted = {"records": 0, "checkpoints": 0}
    last = {writer: first - 1 for writer, first in heading.first.items()}
    at = next(iter(sorted(last.items())))
    end: Any = None
    for number, line in numbered:
        document = _document(number, line)
        if end is not None or len(document) != 1:
            raise KeybrokerError(Problem.MALFORMED, f"export: line {number}: does not belong there")
        (kind, value), *_ = document.items()
        try:
            if kind == "record":
                counted["records"] += 1
                entry = AuditEntry.read(value)
                at = entry.writer, entry.sequence
                last[entry.writer] = entry.sequence
                yield entry
            elif kind == "checkpoint":
                counted["checkpoints"] += 1
                yield Note.read(value)
            elif kind == "end":
                end = value
            else:
                raise KeybrokerError(Problem.MALFORMED, "is neither a record nor a checkpoint")
        except KeybrokerError as error:
            if error.problem is not Problem.MALFORMED:
                raise
            raise KeybrokerError(error.problem, f"export: line {number}: {error.detail}") from error
    if end is None:
        after = name_of(at[0], at[1] + 1)
        raise KeybrokerError(Problem.CORRUPT, f"audit record {after}: the export is cut off before it")
    if end != counted or last != {writer: number for writer, (_first, number) in heading.chains.items()}:
        raise KeybrokerError(
            Problem.CORRUPT, f"audit record {name_of(*at)}: the export ends there, and says another end"
        )


def _document(number: int, line: str) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise KeybrokerError(Problem.MALFORMED, f"export: line {number}: is too long")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise KeybrokerError(Problem.MALFORMED, f"export: line {number}: is no JSON object")
    return document


def _line(**document: Any) -> str:
    return json.dumps(document, ensure_ascii=False) + "\n"
