"""What the shells themselves make of the completions: bash, fish and zsh, each the real one."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAMS = Path(sys.executable).parent
CASES = [
    ("keybroker", "volu", "volume"),
    ("keybroker", "volume rot", "rotate"),
    ("keybroker", "addon policy --deletion-d", "--deletion-days"),
    ("keybroker-agent", "restore-h", "restore-header"),
    ("keybroker-agent", "status --js", "--json"),
]
"""Program, what is typed, and the one word that it can come to."""


def environment(home: Path) -> dict[str, str]:
    return {
        "PATH": f"{PROGRAMS}:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb",
    }  # fmt: skip


def script(program: str, shell: str, home: Path) -> Path:
    done = subprocess.run(
        [PROGRAMS / program, "completion", shell], env=environment(home), capture_output=True, check=True
    )
    path = home / f"{program}.{shell}"
    path.write_bytes(done.stdout)
    return path


def typed(command: list[str], home: Path, setting_up: str, line: str, expected: str) -> str:
    """Type something into a shell on a terminal, press Tab, and return what it shows."""
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover - it becomes the shell
        os.execvpe(command[0], command, environment(home))  # noqa: S606
    shown = b""
    try:
        for send, wanted in ((f"{setting_up}; echo set-''up\n", b"set-up"), (f"{line}\t", expected.encode())):
            before, until = len(shown), time.monotonic() + 30
            os.write(terminal, send.encode())
            while wanted not in shown[before:] and time.monotonic() < until:
                if select.select([terminal], [], [], 0.2)[0]:
                    shown += os.read(terminal, 4096)
    finally:
        os.close(terminal)
        os.kill(child, 9)
        os.waitpid(child, 0)
    return shown.decode(errors="replace")


@pytest.mark.parametrize(("program", "line", "word"), CASES)
def test_zsh_completes(program: str, line: str, word: str, tmp_path: Path) -> None:
    path = script(program, "zsh", tmp_path)
    begin = f"autoload -Uz compinit; compinit -D -u; source {path}"
    shown = typed(["zsh", "-f", "-i"], tmp_path, begin, f"{program} {line}", f" {word} ")
    assert f" {word}" in shown.rpartition("set-up")[2]


@pytest.mark.parametrize(("program", "line", "word"), CASES)
def test_bash_completes(program: str, line: str, word: str, tmp_path: Path) -> None:
    path = script(program, "bash", tmp_path)
    command = ["bash", "--norc", "--noprofile", "-i"]
    shown = typed(command, tmp_path, f"source {path}", f"{program} {line}", f" {word} ")
    assert f" {word}" in shown.rpartition("set-up")[2]


@pytest.mark.parametrize("program", ["keybroker", "keybroker-agent"])
def test_fish_completes(program: str, tmp_path: Path) -> None:
    path = script(program, "fish", tmp_path)
    cases = [(line, word) for named, line, word in CASES if named == program]
    asked = "; ".join(f"complete -C '{program} {line}'" for line, _word in cases)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {path}; {asked}"],
        env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    offered = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert offered == [word for _line, word in cases]
