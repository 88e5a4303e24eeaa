"""Write debian/changelog from CHANGELOG.md: ``python3 debian/changelog.py VERSION SECONDS <CHANGELOG.md``.

VERSION is the package's; SECONDS (since 1970) its date. Debian's format wants a version, a date and short
lines (deb-changelog(5)); the whole of CHANGELOG.md goes into the package beside it.
"""

from __future__ import annotations

import re
import sys
import textwrap
from email.utils import formatdate


def entry(version: str, seconds: int, text: str) -> str:
    """Return the entry of one version.

    Args:
        seconds: since 1970.
        text: CHANGELOG.md; its first section is this version's.
    """
    sections = re.split(r"^## .*\n", text, flags=re.MULTILINE)
    items = re.findall(r"^- (.*(?:\n  .*)*)", sections[1] if len(sections) > 1 else "", re.MULTILINE)
    lines = [
        textwrap.fill(" ".join(item.split()), 78, initial_indent="  * ", subsequent_indent="    ")
        for item in items or ["See CHANGELOG.md."]
    ]
    signed = f" -- Keybroker <keybroker@localhost>  {formatdate(seconds)}"
    return f"keybroker ({version}) unstable; urgency=medium\n\n" + "\n".join(lines) + f"\n\n{signed}\n"


if __name__ == "__main__":
    sys.stdout.write(entry(sys.argv[1], int(sys.argv[2]), sys.stdin.read()))
