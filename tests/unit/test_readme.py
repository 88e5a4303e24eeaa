"""The README says what is there: every --help as it is printed, and only files and commands that exist.

Write the help again after a change of a command:  python -m tests.unit.test_readme
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from keybroker.cli.manual import pages
from keybroker.cli.program import program

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
HEADING = "## Every command\n"

BROKER = tuple(name.partition(" ")[2] for name, _command in pages(program, "keybroker"))
AGENT = (
    "", "enrol", "unlock", "lock", "status", "doctor", "renew", "settle", "plan", "prove",
    "adopt", "restore-header", "forget", "completion", "manual",
)  # fmt: skip


def help_of(module: str, verb: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *verb.split(), "--help"],
        cwd=ROOT, check=True, capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
    )  # fmt: skip
    return done.stdout.rstrip()


def every_command() -> str:
    """Return the README's last section."""
    told = [HEADING]
    for name, module, verbs in (
        ("keybroker", "keybroker.cli", BROKER),
        ("keybroker-agent", "agent", AGENT),
    ):
        told.append(f"<details><summary><code>{name}</code></summary>\n")
        for verb in verbs:
            command = f"{name} {verb}".rstrip()
            told.append(f"### {command}\n\n```\n{help_of(module, verb)}\n```\n")
        told.append("</details>\n")
    return "\n".join(told)


def test_the_readme_has_every_help_as_it_is_printed() -> None:
    assert README.read_text().partition(HEADING)[1:] == (HEADING, every_command().removeprefix(HEADING))


def test_every_verb_is_among_the_readmes() -> None:
    groups = re.compile(r"^  ([a-z]+)  ", re.MULTILINE)
    named = {verb.split()[0] for verb in BROKER if verb}
    assert set(groups.findall(help_of("keybroker.cli", "").partition("Commands:")[2])) == named
    named = {verb for verb in AGENT if verb}
    assert set(re.findall(r"^    ([a-z-]+)(?: |$)", help_of("agent", ""), re.MULTILINE)) == named


def test_files_that_the_readme_names_exist() -> None:
    text = README.read_text().partition(HEADING)[0]
    named = set(re.findall(r"(?<![\w/.])((?:systemd|requirements|docs|tests)/[\w@./*-]*\w)", text))
    assert len(named) > 5, "none found: the search itself is wrong"
    assert [name for name in sorted(named) if not list(ROOT.glob(name))] == []


def test_targets_that_the_readme_names_are_in_the_makefile() -> None:
    named = set(re.findall(r"make ([a-z]+)`", README.read_text())) | {"demo", "test"}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


def test_directories_that_a_fresh_debian_lacks_are_made() -> None:
    """Debian 12 has no /etc/sysusers.d: without -D, install(1) fails there."""
    told = README.read_text().partition(HEADING)[0]
    commands = re.findall(r"^    (install .*?)(?: &&.*)?$", told, re.MULTILINE)
    assert len(commands) > 3, "none found: the search itself is wrong"
    bare = [one for one in commands if " -D " not in one and not one.endswith(" /etc/systemd/system/")]
    assert bare == []


if __name__ == "__main__":
    README.write_text(README.read_text().partition(HEADING)[0] + every_command())
