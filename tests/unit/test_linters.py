"""Linters and type checks are tests: what they find fails the run like anything else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tracked(*patterns: str) -> list[Path]:
    named = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return [ROOT / name for name in named.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-fix", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["codespell_lib", "--skip", "*.txt,*.lock,.git,.venv,./tests/vectors", "."],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_finds_nothing(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_shell_scripts_pass_shellcheck() -> None:
    scripts = [
        path for path in tracked() if path.read_bytes()[:64].startswith((b"#!/bin/sh", b"#!/bin/bash"))
    ]
    scripts += [path for path in tracked() if path.read_bytes()[:64].startswith(b"#!/usr/bin/env bash")]
    assert scripts, "no script found: the search itself is wrong"
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_file_names_this_machine_or_a_package_registry() -> None:
    # spelled in pieces, so that this file does not find itself
    machine = ["/wor" + "k/", "/far" + "m/", r"[.]pyen" + "v"]
    registries = ["pypi[.]" + "org", "deb[.]" + "debian[.]org", "files[.]python" + "hosted"]
    forbidden = re.compile("|".join([*machine, *registries]))
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in tracked()
        if (found := forbidden.search(path.read_text(errors="replace")))
    ]
    assert wrong == []


def test_no_work_is_left_as_a_note_in_the_code() -> None:
    words = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + "X|NotImplemented" + r"Error)\b")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked("*.py", "systemd/*", "Makefile")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert wrong == []


def test_no_module_is_too_long_to_live_in() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked("agent/*.py", "keybroker/*.py")
        if (lines := len(path.read_text().splitlines())) > 360
    }
    assert long == {}
