"""Man pages and completions are made from the commands: all are there, and groff and bash take them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agent import grammar
from agent import manual as agents
from keybroker.cli.manual import description, escape, page, pages
from keybroker.cli.program import program
from keybroker.wire.problems import Problem

COMMANDS = dict(pages(program, "keybroker"))


def run(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, input=given, capture_output=True, text=True, timeout=60, check=False)


def ours(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", module, *words)


def groff(text: str) -> str:
    """Return what groff says of a page, every warning included."""
    return run("groff", "-man", "-Tutf8", "-ww", "-z", given=text).stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_all_of_its_command(name: str) -> None:
    text = page(name, COMMANDS[name])
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "FILES", "SEE ALSO"):
        assert f"\n.SH {section}\n" in text
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert all(escape(option) in text for option in parameter.opts)
    for problem in Problem:
        assert rf"\fB{problem.exit_status}\fR" in text
    assert groff(text) == ""


def test_the_agents_page_has_all_verbs() -> None:
    parser, verbs = grammar.parsers()
    text = agents.page(parser, verbs)
    assert {"unlock", "settle", "restore-header", "manual"} <= set(verbs)
    for name in verbs:
        assert f"\n.SS {name.replace('-', chr(92) + '-')}\n" in text
    assert groff(text) == ""


def test_the_agents_help_has_every_exit_status() -> None:
    told = (grammar.parsers()[0].epilog or "").split()
    assert {str(problem.exit_status) for problem in Problem} <= set(told)


def test_no_text_becomes_a_request_of_roff() -> None:
    assert description("one\n\n\b\n.SH HACKED\n'tis \\fBbold\\fR") == [
        "one", ".PP", ".nf", r"\&.SH HACKED", r"\&'tis \efBbold\efR", ".fi",
    ]  # fmt: skip


@pytest.mark.parametrize(("module", "files"), [("keybroker.cli", len(COMMANDS)), ("agent", 1)])
def test_pages_are_written_where_they_are_wanted(module: str, files: int, tmp_path: Path) -> None:
    for _ in range(2):
        done = ours(module, "manual", str(tmp_path))
        assert done.returncode == 0, done.stderr
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == files
    (tmp_path / "file").touch()
    refused = ours(module, "manual", str(tmp_path / "file"))
    assert refused.returncode == Problem.CONFIGURATION.exit_status, refused.stderr


def complete(script: str, function: str, line: str) -> list[str]:
    """Return what bash offers for the last word of a line, with a script that was printed."""
    words = line.split(" ")
    ask = (
        f"compopt() {{ :; }}\n{script}\nCOMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
        f"{function} {words[0]}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = run("env", f"PATH={path}", "bash", "-c", ask)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("keybroker vol", {"volume"}),
        ("keybroker operator re", {"renew", "request", "revoke", "recover"}),
        ("keybroker operator add --ro", {"--role"}),
        ("keybroker operator add bob --role a", {"approver", "auditor"}),
    ],
)
def test_bash_completes_keybroker(line: str, offered: set[str]) -> None:
    script = ours("keybroker.cli", "completion", "bash").stdout
    assert set(complete(script, "_keybroker_completion", line)) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("keybroker-agent un", {"unlock"}),
        ("keybroker-agent adopt --re", {"--remove-others"}),
        ("keybroker-agent adopt --key-file /etc/hostnam", {"/etc/hostname"}),
    ],
)
def test_bash_completes_the_agent(line: str, offered: set[str]) -> None:
    script = agents.completion("bash", *grammar.parsers())
    assert set(complete(script, "_keybroker_agent", line)) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("module", ["keybroker.cli", "agent"])
def test_each_shell_has_its_script(module: str, shell: str) -> None:
    said = ours(module, "completion", shell).stdout
    assert "keybroker" in said
    assert ("autoload" in said or "#compdef" in said) == (shell == "zsh")
    assert ours(module, "completion", "csh").returncode == Problem.USAGE.exit_status
