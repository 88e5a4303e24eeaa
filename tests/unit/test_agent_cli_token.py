"""A token on standard input: a terminal is asked for it, a pipe is read."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("terminal", "asked"), [(True, "token: "), (False, "")])
def test_only_a_terminal_is_asked_for_the_token(tmp_path: Path, terminal: bool, asked: str) -> None:
    ours, theirs = pty.openpty() if terminal else reversed(os.pipe())
    config = tmp_path / "agent.toml"
    config.write_text(f'state_directory = "{tmp_path}"\n')
    command = [sys.executable, "-m", "agent", "enrol", "--config", str(config)]
    with subprocess.Popen(
        [*command, "--broker", "https://127.0.0.1:1", "--token-file", "-"],
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        os.write(ours, b"nonsense\n")
        _, said = running.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert said.startswith(f"{asked}keybroker-agent: token: is not an enrolment token")
    assert running.returncode == 64
