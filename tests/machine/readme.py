"""README.md's commands, in its order, so that what a test types is what a reader types.

[command for command in commands("Install a broker") if not is_done(command)]
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

README: Final = Path(__file__).parents[2] / "README.md"

DONE: Final = re.compile(r"make packages")


def commands(section: str) -> list[str]:
    """Return the commands of a section, without their comments; one that goes on over lines is one.

    Raises:
        LookupError: there is no such section, or no command in it.
    """
    text = README.read_text().replace("\\\n", " ")
    found = re.search(rf"^## {re.escape(section)}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^    (\S.*?)(?:\s+#.*)?$", found[1] if found else "", re.MULTILINE)
    if not lines:
        raise LookupError(f"README.md: no command under {section!r}")
    return lines


def said_in(file: Path, heading: str) -> list[str]:
    """Return the commands under a heading of a file's comments, up to the next blank comment.

    Raises:
        LookupError: there is no such heading.
    """
    text = re.sub(r"\\\n# +", "", file.read_text())
    found = re.search(rf"^# {re.escape(heading)}\n((?:# .*\n)+)", text, re.MULTILINE)
    if found is None:
        raise LookupError(f"{file.name}: no {heading!r}")
    return re.findall(r"^#   (\S.*?)$", found[1], re.MULTILINE)


def is_done(command: str) -> bool:
    """Say whether tests.machine.image did it when it made the bare image: the machine has no network."""
    return DONE.match(command) is not None
