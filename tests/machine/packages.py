"""The Debian packages of this checkout, as ``make packages`` makes them, and later versions made from these.

built = build(print)        # a directory in the cache
current(built)              # keybroker and keybroker-agent
later(built)                # the same with a higher version; the broker's brings a change of the tables
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.machine import cache

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = ("CHANGELOG.md", "agent", "debian", "keybroker", "requirements", "systemd")
KEPT: Final = 3
EPOCH: Final = "1767225600"
"""The date in the packages (seconds since 1970), so that a commit alone makes no other ones."""

BROKEN: Final = "0.1.1"
LATER: Final = "0.1.2"
REVISIONS: Final = "usr/lib/keybroker/lib/python3.11/site-packages/keybroker/store/migrations/versions"
REVISION: Final = """\
from alembic import op

revision, down_revision, branch_labels, depends_on = "later", "{newest}", None, None


def upgrade() -> None:
    op.execute("CREATE TABLE {table} (id INTEGER PRIMARY KEY)")
"""


def build(say: Callable[[str], None]) -> Path:
    """Return the directory with all packages, from the cache where they are of these very sources."""
    place = cache.directory() / f"debs-{_digest()}"
    with cache.lock("debs"):
        if not place.exists():
            say("building the packages")
            fresh = place.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            make(fresh / "current")
            broker, agent = current(fresh)
            (fresh / "later").mkdir()
            alter(broker, fresh / "later", BROKEN, table="volumes")  # which is there already
            alter(broker, fresh / "later", LATER, table="later")
            alter(agent, fresh / "later", LATER)
            fresh.rename(place)
            for old in sorted(cache.directory().glob("debs-*[0-9a-f]"), key=cache.age)[:-KEPT]:
                shutil.rmtree(old)
    return place


def make(directory: Path) -> None:
    """Build both packages from this checkout into a directory, as ``make packages`` does into build/."""
    done = subprocess.run(
        [ROOT / "debian/build", "--to", directory],
        env=os.environ | {
            "KEYBROKER_PYTHON": sys.executable, "KEYBROKER_CACHE": str(cache.directory() / "pip"),
            "SOURCE_DATE_EPOCH": EPOCH,
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"debian/build: status {done.returncode}\n{done.stdout}{done.stderr}")


def current(built: Path) -> tuple[Path, Path]:
    """Return the broker's and the agent's package of this checkout."""
    return _one(built / "current/keybroker_*.deb"), _one(built / "current/keybroker-agent_*.deb")


def later(built: Path) -> list[Path]:
    """Return the packages of later versions: two of the broker's, of which one is broken, and the agent's."""
    return sorted((built / "later").iterdir())


def alter(package: Path, into: Path, version: str, *, table: str = "") -> None:
    """Make a package of a higher version from another, whose change of the tables is to add ``table``."""
    with tempfile.TemporaryDirectory(prefix="kbd-") as temporary:
        root = Path(temporary) / "root"
        subprocess.run(["dpkg-deb", "--raw-extract", package, root], check=True)
        control = root / "DEBIAN/control"
        control.write_text(re.sub(r"^Version: .*$", f"Version: {version}", control.read_text(), flags=re.M))
        if table:
            newest = max(
                (root / REVISIONS).glob("*_[0-9][0-9][0-9][0-9].py"), key=lambda file: file.stem[-4:]
            )
            (root / REVISIONS / "later.py").write_text(REVISION.format(newest=newest.stem[-4:], table=table))
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", root, into],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip


def _one(pattern: Path) -> Path:
    (found,) = pattern.parent.glob(pattern.name)
    return found


def _digest() -> str:
    return cache.digest(ROOT, (*cache.sources(ROOT, SOURCES), Path(__file__)))
