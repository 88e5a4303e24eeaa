"""On a terminal, tables fit it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from keybroker.cli.screen import fit
from tests.tls.running import CLI, Broker, run_cli, running


def on_terminal(columns: int, *arguments: str) -> list[str]:
    """Run the command with its output on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
    process = subprocess.Popen([*CLI, *arguments], stdout=theirs, stderr=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:  # a terminal without its last writer says EIO
        pass
    finally:
        os.close(ours)
    assert process.wait(30) == 0
    return said.decode().splitlines()


@pytest.mark.parametrize("columns", [60, 80, 132])
def test_a_table_is_no_wider_than_the_terminal(broker: Broker, columns: int) -> None:
    broker.add_addon("an-add-on-with-a-rather-long-name")
    broker.add_volume("an-add-on-with-a-rather-long-name", "data")
    lines = on_terminal(columns, "volume", "list", "--config", str(broker.config))
    assert len(lines) > 1
    assert max(len(line) for line in lines) <= columns
    assert any("…" in line for line in lines) == (columns < 132)


def test_waiting_draws_a_line_a_volume_over_the_one_before(tmp_path: Path) -> None:
    asked = ("volume", "rotate", "shop", "data", "--wait", "--timeout", "3s", "--config")
    with running(tmp_path) as own:
        own.add_addon("shop")
        own.make_ready(own.enrol("shop"), own.add_volume("shop", "data"))
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        waiting = subprocess.Popen([*CLI, *asked, str(own.config)], stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # a terminal without its last writer says EIO
            while piece := os.read(ours, 65536):
                said += piece
        os.close(ours)
        assert waiting.wait(30) == 75
    line = b"\x1b[2Kshop/data: ready, rotating to 2; waiting for its host\r\n"
    assert line + b"\x1b[1A" + line in said
    assert b"not done yet; it goes on by itself" in said


def test_a_passphrase_is_revealed_on_a_terminal_alone(broker: Broker) -> None:
    broker.add_addon("shown")
    broker.make_ready(broker.enrol("shown"), broker.add_volume("shown", "data"))
    asked = ("volume", "reveal", "shown", "data", "--reason", "why", "--config", str(broker.config))
    (line,) = on_terminal(80, *asked)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", line)
    piped = subprocess.run([*CLI, *asked], capture_output=True, text=True, check=False, timeout=60)
    assert (piped.returncode, piped.stdout) == (64, "")
    assert line not in broker.log.read_text()


def test_a_share_is_typed_at_a_prompt_that_does_not_show_it(tmp_path: Path) -> None:
    with running(tmp_path) as own:
        config = ("--config", str(own.config))
        shares = run_cli("master", "split", "2/3", *config).stdout.splitlines()
        ours, theirs = pty.openpty()
        process = subprocess.Popen([*CLI, "unseal", *config], stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        said = b""
        while b"Share: " not in said:
            said += os.read(ours, 65536)
        os.write(ours, shares[0].encode() + b"\n")
        with contextlib.suppress(OSError):  # a terminal without its last writer says EIO
            while piece := os.read(ours, 65536):
                said += piece
        os.close(ours)
        assert process.wait(30) == 0
        assert b": 1 of 2 shares" in said
        assert shares[0].encode() not in said
        assert shares[0][:20].encode() not in said


def test_a_pipe_gets_everything() -> None:
    rows = [("a" * 50, "b" * 50)]
    assert fit(("A", "B"), rows, None)[1] == f"{'a' * 50}  {'b' * 50}"


def test_the_first_column_is_cut_last() -> None:
    rows = [("kbv-q3m5x7abcdef", "x" * 100, "y" * 20)]
    lines = fit(("VOLUME", "LONG", "SHORT"), rows, 40)
    assert all(len(line) <= 40 for line in lines)
    assert lines[1].startswith("kbv-q3m5x7abcdef  ")
    narrow = fit(("VOLUME", "LONG", "SHORT"), rows, 24)
    assert all(len(line) <= 24 for line in narrow)
