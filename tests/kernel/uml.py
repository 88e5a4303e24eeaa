"""Boot a User-Mode Linux on the host's own files and run one command in it: the kernel has device-mapper.

    done = boot([sys.executable, "-m", "pytest", ...], directory=ROOT, limit_seconds=300)

The guest sees the checkout and the virtual environment as they are (hostfs), with fresh tmpfs on /run, /tmp
and /mnt; results leave it as files in the run's directory, because linux.uml exits with a status of its own.
Needs the packages user-mode-linux, kmod and gcc, and root once, to put the modules where modprobe looks.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
UML_MODULES: Final = Path("/usr/lib/uml/modules")
MEMORY: Final = "1024M"


@dataclass(frozen=True, slots=True)
class Boot:
    """What came of one boot.

    Attributes:
        status: of the command; None where the kernel ended (or was ended) before the command did.
        console: what kernel and command printed.
    """

    status: int | None
    console: str


def cache() -> Path:
    """Return the tests' own cache directory, which is outside the checkout; made if need be."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = base / "keybroker-tests"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def preload() -> Path:
    """Compile tests/kernel/xstate.c, once a version of it, and return the library's path."""
    source = HERE / "xstate.c"
    library = cache() / f"xstate-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.so"
    if not library.exists():
        fresh = library.with_suffix(f".{os.getpid()}")
        subprocess.run(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", fresh, source], check=True)
        fresh.rename(library)
    return library


def install_modules() -> None:
    """Let /lib/modules/<release> lead to the UML modules; nothing happens where it does already."""
    for modules in UML_MODULES.iterdir():
        place = Path("/lib/modules") / modules.name
        if not place.exists():
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(modules)
        if not (modules / "modules.dep.bin").exists():
            subprocess.run(["depmod", modules.name], check=True)


@contextmanager
def run_directory() -> Iterator[Path]:
    """Make a directory for one boot's files; /tmp would not do, it is another one inside."""
    directory = Path(tempfile.mkdtemp(prefix="uml-", dir=cache()))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def never() -> bool:
    """Let the power stay on."""
    return False


def boot(
    command: Sequence[str],
    *,
    run: Path,
    directory: Path,
    limit_seconds: float,
    disks: Sequence[Path] = (),
    cut: Callable[[], bool] = never,
) -> Boot:
    """Boot, run ``command`` in ``directory`` as root, power off.

    Args:
        command: arguments without newlines.
        run: a directory that ``run_directory`` made; inside it has the same path.
        limit_seconds: after which the kernel is killed as if its power were cut.
        disks: image files that become /dev/ubda, /dev/ubdb …; they outlive the kernel.
        cut: is asked again and again; when it says so, the power goes.
    """
    install_modules()
    (run / "command").write_text("".join(f"{line}\n" for line in [str(directory), *command]))
    (run / "status").unlink(missing_ok=True)
    with (run / "console").open("wb") as console:
        kernel = subprocess.Popen(
            [
                "linux.uml",
                "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw",
                f"mem={MEMORY}", "con=null", "con0=fd:0,fd:1", "quiet",
                f"uml_dir={run}/", "umid=kernel",
                *(f"ubd{number}={disk}" for number, disk in enumerate(disks)),
                f"init={HERE / 'init.sh'}", f"KB_RUN={run}",
            ],
            stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "HOME": str(run), "LD_PRELOAD": str(preload())},
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + limit_seconds
        try:
            while kernel.poll() is None and not cut():
                if time.monotonic() > deadline:
                    console.write(f"\numl: cut after {limit_seconds} s\n".encode())
                    break
                time.sleep(0.02)
        finally:
            _end_all(kernel.pid)
            kernel.wait()
    status = run / "status"
    return Boot(
        status=int(status.read_text()) if status.exists() and status.read_text().strip() else None,
        console=(run / "console").read_text(errors="replace"),
    )


def _end_all(group: int) -> None:
    """Kill a kernel's whole process group: its guest processes are processes of the host too."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
