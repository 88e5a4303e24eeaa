"""The root disk of the test machines: the tree, with this checkout's agent installed as an operator would.

    image, tree = build(print)
    image, tree = build_bare(print)     # nothing of README.md's commands done yet, but `make packages`

Third-party packages are fetched once, as the hash-pinned requirements say; the project's own wheel is built
whenever its sources changed. The agent lives in a virtual environment at /opt/keybroker, compiled, which is
README.md's way without packages. A bare machine has the packages, and installs them itself.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.machine import cache, packages, tree
from tests.machine.tree import Tree

ROOT: Final = Path(__file__).parents[2]
RECIPE: Final = "1"
SIZE: Final = "3G"
KEPT: Final = 6
"""Images in the cache; the least recently built go first."""

SOURCES: Final = (
    "agent", "keybroker", "systemd", "pyproject.toml", "requirements/agent.txt",
)  # fmt: skip
HOME: Final = "opt/keybroker"
UNITS: Final = "etc/systemd/system"
EXAMPLES: Final = "keybroker-agent-examples"
PRESETS: Final = "etc/systemd/system-preset"
CHECKOUT: Final = "root/keybroker"
"""Where a bare machine has ``build/``, with the packages of README.md's commands, and ``later/``."""


def build(say: Callable[[str], None]) -> tuple[Path, Tree]:
    """Return the raw image and the tree it is made from; both come from the cache where they can."""
    return _build(say, "agent", _install_agent)


def build_bare(say: Callable[[str], None]) -> tuple[Path, Tree]:
    """Return an image, and its tree, of a machine that has nothing of ours but the packages to install."""
    built = packages.build(say)
    return _build(say, f"bare {built.name}", lambda root: _install_bare(root, built))


def _build(say: Callable[[str], None], kind: str, install: Callable[[Path], None]) -> tuple[Path, Tree]:
    base = tree.build(say)
    name = f"image-{_digest(base, kind)}.raw"
    image = cache.directory() / name
    with cache.lock("image"):
        if not image.exists():
            say(f"installing into the tree ({kind})")
            _clear(base.root)
            install(base.root)
            say("making the root image")
            _make(base.root, image)
            for old in sorted(cache.directory().glob("image-*.raw"), key=cache.age)[:-KEPT]:
                old.unlink()
    return image, base


def _digest(base: Tree, kind: str) -> str:
    return cache.digest(ROOT, cache.sources(ROOT, SOURCES), f"{RECIPE} {kind} {base.key}")


def _packages(program: str) -> Path:
    """Return the directory of a program's third-party packages, from its hash-pinned requirements.

    They are installed, not made into wheels: systemd-python has none, and making one takes a package that
    nothing here pins.
    """
    pinned = ROOT / f"requirements/{program}.txt"
    place = cache.directory() / f"packages-{hashlib.sha256(pinned.read_bytes()).hexdigest()[:16]}"
    if not place.exists():
        fresh = place.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        _pip("install", "--no-deps", "--require-hashes", "--no-compile", "-r", pinned, "--target", fresh)
        fresh.rename(place)
    return place


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"pip {arguments[0]}: status {done.returncode}\n{done.stdout}{done.stderr}")


def _clear(root: Path) -> None:
    """Take away what another image had installed into the tree."""
    shutil.rmtree(root / HOME, ignore_errors=True)
    shutil.rmtree(root / CHECKOUT, ignore_errors=True)
    for place in (UNITS, f"{UNITS}/*.wants", PRESETS, "etc/tmpfiles.d", "etc/sysusers.d", "usr/local/bin"):
        for old in root.glob(f"{place}/*keybroker*"):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for old in root.glob(f"{UNITS}/postgresql*.d"):
        shutil.rmtree(old)


def _install_bare(root: Path, built: Path) -> None:
    for name, found in (("build", packages.current(built)), ("later", packages.later(built))):
        (root / CHECKOUT / name).mkdir(parents=True)
        for package in found:
            shutil.copy(package, root / CHECKOUT / name)


def _install_agent(root: Path) -> None:
    """Make /opt/keybroker, a virtual environment of the tree's own Python, compiled; put units in place."""
    wheels = root / "opt/wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ".")
    inside = ["chroot", str(root)]
    python = f"/{HOME}/bin/python"
    subprocess.run([*inside, "python3", "-m", "venv", f"/{HOME}"], check=True)
    into = root / HOME / "lib/python3.11/site-packages"
    shutil.copytree(_packages("agent"), into, dirs_exist_ok=True)
    subprocess.run(
        [*inside, python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install",
         "--no-index", "--no-deps", *(f"/opt/wheels/{file.name}" for file in wheels.iterdir())],
        check=True,
    )  # fmt: skip
    subprocess.run([*inside, python, "-m", "compileall", "-q", f"/{HOME}/lib"], check=True)
    shutil.rmtree(wheels)
    (root / "usr/local/bin/keybroker-agent").symlink_to(f"/{HOME}/bin/keybroker-agent")
    _install_units(root)


def _install_units(root: Path) -> None:
    """Put the agent's files where README.md puts them, and have the presets decide what is enabled."""
    units = []
    for file in sorted((ROOT / "systemd").rglob("*")):
        shown = file.relative_to(ROOT / "systemd")
        if file.is_dir() or shown.parts[0].startswith(("keybroker.", "90-keybroker.preset")):
            continue  # the broker's
        if shown.parts[0] == EXAMPLES:
            shown = shown.relative_to(EXAMPLES)
        if file.suffix == ".preset":
            place = root / PRESETS / file.name
        elif file.suffix == ".conf" and shown.parent == Path():
            kind = file.suffixes[-2].removeprefix(".")  # keybroker-agent.tmpfiles.conf
            place = root / f"etc/{kind}.d" / file.name.replace(f".{kind}", "")
        else:
            place = root / UNITS / shown  # a unit, or a drop-in in its folder
            units += [file.name] if shown.parent == Path() else []
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    if units:
        systemctl = ["systemctl", f"--root={root}", "--quiet"]
        subprocess.run([*systemctl, "preset", *units], check=True)
        # so that a database comes up, too, whose volumes were opened long after boot (the target says so)
        subprocess.run(
            [*systemctl, "add-wants", "keybroker-volumes.target", "postgresql.service"], check=True
        )


def _make(root: Path, image: Path) -> None:
    """Fill an ext4 image with the tree; mkfs does it itself, without a loop device or a mount."""
    fresh = image.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    subprocess.run(["truncate", "--size", SIZE, fresh], check=True)
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-L", "root", "-E", "lazy_itable_init=1,lazy_journal_init=1",
         "-d", root, fresh],
        check=True,
    )  # fmt: skip
    fresh.rename(image)
