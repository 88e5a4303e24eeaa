"""What reaches the journal is the message alone: priority, time and identifier are fields of their own."""

from __future__ import annotations

import subprocess
import sys

SAID = """
import logging
from keybroker.cli import local
local._log()
(handler,) = logging.getLogger().handlers
print(handler.format(logging.LogRecord("keybroker.server", logging.INFO, "", 1, "listening", (), None)))
"""


def test_a_line_of_the_journal_has_neither_a_level_nor_a_logger_in_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAID],
        env={"JOURNAL_STREAM": "8:1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "listening\n"
