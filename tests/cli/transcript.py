"""Transcripts of a command: what was typed, printed and returned, with what differs between runs named."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.tls.running import Broker, run_cli

GOLDEN: Final = Path(__file__).parent / "golden"

# Replacements are as long as what they replace, where that stands in a table.
NORMAL: Final = (
    (re.compile(r"kbe1\.[A-Za-z0-9_-]{32}\.[A-Za-z0-9_-]{43}"), "kbe1.TOKEN"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"-----BEGIN CERTIFICATE-----[^ ]*?-----END"), "-----BEGIN CERTIFICATE-----PEM-----END"),
    (re.compile(r"\b[1-9][0-9]{4,9} bytes"), "BYTES bytes"),
    (re.compile(r"^bytes( +)[0-9]+$", re.MULTILINE), r"bytes\1BYTES"),
    (re.compile(r"\b\d{1,2}s ago"), "1s ago"),
    (re.compile(r"the signer [0-9a-f]{16}"), "the signer KEY"),
    (re.compile(r"by the CA [0-9a-f]{16}…"), "by the CA HASH…"),
    (re.compile(r"age1[02-9ac-hj-np-z]{58}"), "age1RECIPIENT"),
    (re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])"), "0123456789abcdef0123456789abcdef"),
    (re.compile(r"KBS1(-[A-Z2-7]{4}){18}"), "KBS1-SHARE"),
    (re.compile(r"(?<=/)[0-9a-f]{32}\b"), "0123456789abcdef0123456789abcdef"),
    (re.compile(r"Keybroker CA \d{8}-\d{6}"), "Keybroker CA 20260131-120000"),
    (re.compile(r'"ends": "\d{4}-[0-9T:-]+Z"'), '"ends": "2026-01-31T12:00:00Z"'),
    # how far it is by then
    (re.compile(r"2> \[[#.]+\] \d+%: \d+ keys, \d+ records left\n"), ""),
    (re.compile(r"hash is [0-9a-f]{16}"), "hash is HASH"),
    (re.compile(r"token:[0-9a-f]{8}"), "token:aaaabbbb"),
    (re.compile(r"\b(schema +|revision |before +|after +)00\d\d\b"), r"\g<1>0000"),
    (re.compile(r"serial=[0-9a-f]{20,40}\b"), "serial=NUMBER"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b(kb[vh])-[a-z2-7]{12}\b"), r"\1-aaaabbbbcccc"),
    (re.compile(r"\bkbb-[0-9a-f]{12}\b"), "kbb-aaaabbbbcccc"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"), "2026-01-31 12:00:00Z"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"), "2026-01-31T12:00:00.000000Z"),
    (re.compile(r"\b20\d\d-\d\d-\d\d\b(?! 12:00:00Z|T12:00)"), "2026-01-31"),
)


@dataclass(slots=True)
class Transcript:
    """Runs commands one after another and remembers what came of them."""

    name: str
    broker: Broker
    write: bool
    lines: list[str] = field(default_factory=list)

    def run(self, *arguments: str, local: bool = True, stdin: str | None = None, **environment: str) -> str:
        """Run ``keybroker`` and return what it printed.

        Args:
            local: whether the broker's own configuration is named, as on the broker's machine.
        """
        own = ("--config", str(self.broker.config)) if local else ()
        done = run_cli(*arguments, *own, stdin=stdin, **environment)
        self.lines.append(f"$ keybroker {shlex.join(arguments)}")
        self.lines.extend(done.stdout.splitlines())
        self.lines.extend(f"2> {line}" for line in done.stderr.splitlines())
        self.lines.extend([f"= {done.returncode}", ""])
        return done.stdout

    def normal(self) -> str:
        text = "\n".join(self.lines)
        text = text.replace(str(self.broker.directory), "DIR")
        text = re.sub(rf"\b{self.broker.main}\b", "MAIN", text)
        text = re.sub(rf"\b{self.broker.enrolment}\b", "ENROLMENT", text)
        for pattern, instead in NORMAL:
            text = pattern.sub(instead, text)
        return text

    def compare(self) -> None:
        golden = GOLDEN / f"{self.name}.txt"
        if self.write:
            golden.write_text(self.normal())
        assert golden.exists(), f"{golden.name} is not written: pytest tests/cli --golden-write"
        assert self.normal() == golden.read_text()
