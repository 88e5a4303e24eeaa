"""Has a cryptsetup of another version than the system's make headers, and keeps their metadata.

    git clone https://gitlab.com/cryptsetup/cryptsetup && cd cryptsetup && git checkout v2.8.6
    ./autogen.sh && ./configure --disable-shared --enable-static --disable-ssh-token --disable-asciidoc
    make
    python -m tests.vectors.luks2.make ./cryptsetup     # as root; writes tests/vectors/luks2/2.8.6.tar.xz

Each is made on a plain file, without device-mapper, as the commands in its entry of ``index.json`` say. Both
copies of the metadata are kept, and nothing of the keyslots' areas: no key is in it. Salts and volume keys
are new ones each time, so that the archives differ from run to run; no test depends on them.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
MIB: Final = 1 << 20
PASSPHRASE: Final = b"A" * 43
OTHER: Final = b"another one"

QUICK: Final = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
ARGON2: Final = "--pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 64 --pbkdf-parallel 1"
OURS: Final = f"--luks2-metadata-size 16k --luks2-keyslots-size 4064k --offset 8192 --key-size 512 {QUICK}"
SMALL: Final = f"--luks2-metadata-size 16k --luks2-keyslots-size 992k --offset 2048 --key-size 512 {QUICK}"
OFFLINE: Final = "--force-offline-reencrypt --disable-locks"
BEGIN: Final = f"reencrypt -q --init-only {OFFLINE} {QUICK} --key-file -"
RESUME: Final = f"reencrypt -q --resume-only {OFFLINE} --key-file -"

TOKENS: Final = {
    "ours": {
        "type": "keybroker",
        "keyslots": ["0"],
        "volume": "kbv-q3m5x7abcdef",
        "versions": {"0": "1"},
    },
    "clevis": {"type": "clevis", "keyslots": ["0"], "jwe": {"protected": "e30", "tag": "AA"}},
}


@dataclass(frozen=True)
class Recipe:
    """How one is made.

    Attributes:
        steps: cryptsetup's words, ``DISK`` for the file.
        size: of the file, in bytes.
        cut: the last step is killed by strace at this write, from its end.
    """

    steps: tuple[str, ...]
    size: int = 20 * MIB
    cut: int | None = None


def made(options: str, *more: str, size: int = 20 * MIB, cut: int | None = None) -> Recipe:
    """Make a recipe that begins with luksFormat."""
    steps = (f"luksFormat -q --type luks2 --key-file - {options} DISK", *more)
    return Recipe(steps, size, cut)


def small(*more: str, cut: int | None = None) -> Recipe:
    """Make a recipe for a disk of 3 MiB, of which 1 MiB is the header's."""
    return made(SMALL, *more, size=3 * MIB, cut=cut)


ADD: Final = "luksAddKey -q --key-file - {} DISK OTHER"
IMPORT: Final = "token import --json-file ours DISK"
BINDING: Final = "token import --json-file clevis DISK"
KEYS: Final = "--volume-key-file KEY64 --new-volume-key-file NEW64 --new-key-size 512 --force-no-keyslots"
KEYLESS: Final = f"{BEGIN.removesuffix(' --key-file -')} {KEYS}"

RECIPES: Final[dict[str, Recipe]] = {
    "defaults": made(""),
    "as ours": made(f"{OURS} --sector-size 4096 --label kb-q3m5x7abcdef", IMPORT),
    "as ours, 512": made(f"{OURS} --sector-size 512", IMPORT),
    "small": small(),
    "pbkdf2": made(QUICK),
    "argon2id": made(ARGON2),
    "argon2i": made(ARGON2.replace("argon2id", "argon2i")),
    "sector 512": made(f"{QUICK} --sector-size 512"),
    "sector 4096": made(f"{QUICK} --sector-size 4096"),
    "keyslots size": made(f"{QUICK} --luks2-keyslots-size 1m"),
    "metadata 64k": made(f"{QUICK} --luks2-metadata-size 64k"),
    "metadata 4m": made(f"{QUICK} --luks2-metadata-size 4m"),
    "label": made(f"{QUICK} --label a-label"),
    "label and subsystem": made(f"{QUICK} --label a-label --subsystem a-subsystem"),
    "uuid": made(f"{QUICK} --uuid 5ca1ab1e-0000-4000-8000-000000000001"),
    "data at 32 MiB": made(f"{QUICK} --offset 65536", size=40 * MIB),
    "data at 64 MiB": made(f"{QUICK} --offset 131072", size=72 * MIB),
    "key of 256": made(f"{QUICK} --key-size 256"),
    "sha512": made(f"{QUICK} --hash sha512"),
    "essiv": made(f"{QUICK} --cipher aes-cbc-essiv:sha256 --key-size 256"),
    "capi": made(f"{QUICK} --cipher capi:xts(aes)-plain64 --key-size 512"),
    "null": Recipe((f"luksFormat -q --type luks2 --cipher null {QUICK} --key-file EMPTY DISK",)),
    "three keyslots": small(ADD.format(QUICK), ADD.format(QUICK)),
    "four keyslots": made(OURS, *(ADD.format(QUICK),) * 3),
    "argon2 beside": made(OURS, ADD.format(ARGON2)),
    "unbound keyslot": small(f"{ADD.format(QUICK)} --unbound --key-size 512"),
    "prefer": made(OURS, "config --priority prefer --key-slot 0 DISK"),
    "ignore": made(OURS, "config --priority ignore --key-slot 0 DISK"),
    "keyring token": made(OURS, "token add --key-description kb:test --key-slot 0 DISK"),
    "unbound token": made(OURS, "token add --key-description kb:test --unbound --token-id 3 DISK"),
    "clevis token": made(OURS, BINDING),
    "ours and clevis": made(OURS, IMPORT, BINDING),
    "ours unassigned": made(OURS, IMPORT, "token unassign --token-id 0 --key-slot 0 DISK"),
    "killed keyslot": made(OURS, ADD.format(QUICK), "luksKillSlot -q --key-file - DISK 1"),
    "changed key": made(OURS, f"luksChangeKey -q --key-file - {QUICK} DISK OTHER"),
    "erased": made(OURS, "luksErase -q DISK"),
    "from LUKS1": Recipe(
        (
            "luksFormat -q --type luks1 --key-file - --pbkdf-force-iterations 1000 DISK",
            "convert -q --type luks2 DISK",
        )
    ),
    "integrity": made(f"{QUICK} --integrity hmac-sha256 --integrity-no-wipe"),
    "begun": small(IMPORT, f"{BEGIN} DISK"),
    "begun, journal": small(f"{BEGIN} --resilience journal DISK"),
    "begun, none": small(f"{BEGIN} --resilience none DISK"),
    "begun, one of two": small(ADD.format(QUICK), f"{BEGIN} --key-slot 0 DISK"),
    "begun, no keyslots": made(f"{SMALL} --volume-key-file KEY64", f"{KEYLESS} DISK", size=3 * MIB),
    "encrypting": Recipe((f"{BEGIN} --encrypt --type luks2 --reduce-device-size 8m --key-size 512 DISK",)),
    "decrypting": small(f"{BEGIN} --decrypt --header HEADER DISK"),
    "hot": small(IMPORT, f"{BEGIN} DISK", f"{RESUME} DISK", cut=-18),
    "complete": small(IMPORT, f"{BEGIN} DISK", f"{RESUME} DISK", cut=-8),
    "done": small(IMPORT, f"{BEGIN} DISK", f"{RESUME} DISK"),
}


class Bench:
    """A directory with the program and what its recipes name."""

    def __init__(self, program: Path, directory: Path) -> None:
        self._program = program
        self._there = directory
        files = {"OTHER": OTHER, "EMPTY": b"", "KEY64": bytes(range(64)), "NEW64": bytes(range(64, 128))}
        for name, held in files.items():
            (directory / name).write_bytes(held)
        for name, token in TOKENS.items():
            (directory / name).write_text(json.dumps(token))

    def make(self, given: Recipe) -> bytes | None:
        """Return both copies of the metadata; None where that cannot be done here."""
        disk, header = self._there / "DISK", self._there / "HEADER"
        header.unlink(missing_ok=True)
        with disk.open("wb") as file:
            file.truncate(given.size)
        for step in given.steps[: None if given.cut is None else -1]:
            if self._run(step) != 0:
                return None
        if given.cut is not None:
            self._cut(given.steps[-1], given.cut)
        written = header if header.exists() else disk
        size = int.from_bytes(written.read_bytes()[8:16], "big")
        return written.read_bytes()[: 2 * size]

    def _run(self, step: str, *before: str) -> int:
        words = [*before, str(self._program), *step.split()]
        done = subprocess.run(words, input=PASSPHRASE, cwd=self._there, capture_output=True, check=False)
        if done.returncode:
            print(shlex.join(words), done.returncode, done.stderr.decode(), file=sys.stderr)
        return done.returncode

    def _cut(self, step: str, at: int) -> None:
        disk = self._there / "DISK"
        held = disk.read_bytes()
        calls = ("strace", "-f", "-e", "trace=write,pwrite64")
        self._run(step, *calls, "-o", "trace")
        writes = len(re.findall(r"(?m)^\d+ +p?write(?:64)?\(", (self._there / "trace").read_text()))
        disk.write_bytes(held)
        self._run(step, *calls, "-e", f"inject=write,pwrite64:signal=KILL:when={writes + at}", "-o", "trace")


def headers(program: Path) -> Iterator[tuple[str, Recipe, bytes]]:
    """Make all that this version can make here; what it cannot is told."""
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(program, Path(directory))
        for name, given in RECIPES.items():
            held = bench.make(given)
            if held is not None:
                yield name, given, held


def main(arguments: Sequence[str]) -> None:
    """Write one version's archive."""
    program = Path(arguments[0]).resolve()
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    index: dict[str, object] = {}
    members: dict[str, bytes] = {}
    for name, given, held in headers(program):
        index[name] = {"size": given.size, "steps": given.steps, "cut": given.cut}
        members[name] = held
    members["index.json"] = json.dumps(index, indent=1).encode()
    with tarfile.open(HERE / f"{said.split()[1]}.tar.xz", "w:xz", preset=9) as archive:
        for name, held in sorted(members.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(held)
            archive.addfile(entry, io.BytesIO(held))


if __name__ == "__main__":
    main(sys.argv[1:])
