"""The packages as files: what is in them, what is not, and the same bytes whenever they are built."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machine import packages

NAMES = ("keybroker", "keybroker-agent")
PLACES = {
    "keybroker": {
        "usr/bin/keybroker", "lib/systemd/system/keybroker.service", "usr/lib/sysusers.d/keybroker.conf",
        "lib/systemd/system-preset/90-keybroker.preset", "usr/lib/tmpfiles.d/keybroker.conf",
        "usr/share/bash-completion/completions/keybroker", "usr/share/zsh/vendor-completions/_keybroker",
        "usr/share/fish/vendor_completions.d/keybroker.fish", "usr/share/man/man1/keybroker-volume-add.1.gz",
        "usr/share/doc/keybroker/examples/master-key-credential.conf.example",
        "usr/share/doc/keybroker/copyright", "usr/share/doc/keybroker/changelog.Debian.gz",
    },
    "keybroker-agent": {
        "usr/sbin/keybroker-agent", "lib/systemd/system/keybroker-agent-unlock.service",
        "lib/systemd/system/keybroker-volumes.target", "lib/systemd/system/keybroker-agent-settle.timer",
        "lib/systemd/system-preset/90-keybroker-agent.preset", "usr/lib/tmpfiles.d/keybroker-agent.conf",
        "usr/share/man/man8/keybroker-agent.8.gz",
        "usr/share/bash-completion/completions/keybroker-agent",
        "usr/share/doc/keybroker-agent/examples/postgresql@.service.d/keybroker.conf",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def built() -> dict[str, Path]:
    return dict(zip(NAMES, packages.current(packages.build(print)), strict=True))


@pytest.fixture(scope="module")
def unpacked(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each package's files, and its control files in DEBIAN."""
    roots = {}
    for name, package in built.items():
        roots[name] = tmp_path_factory.mktemp(name)
        subprocess.run(["dpkg-deb", "--raw-extract", package, roots[name]], check=True)
    return roots


def files(root: Path) -> dict[str, Path]:
    found = (Path(place) / name for place, _, names in os.walk(root) for name in names)
    return {str(path.relative_to(root)): path for path in found}


def test_another_build_gives_the_same_bytes(built: dict[str, Path], tmp_path: Path) -> None:
    packages.make(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in built.values()
    }


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_where_debian_wants_it(unpacked: dict[str, Path], name: str) -> None:
    there = files(unpacked[name])
    assert PLACES[name] <= there.keys()
    assert [path for path in there if path.startswith(("etc/", "var/", "run/", "opt/", "usr/local/"))] == []
    assert "DEBIAN/conffiles" not in there


@pytest.mark.parametrize("name", NAMES)
def test_nothing_names_the_machine_that_built_it(unpacked: dict[str, Path], name: str) -> None:
    builder = [str(packages.ROOT), str(Path(sys.prefix)), "/tmp/tmp.", "/tmp/pip-", "debian/keybroker/usr"]
    named = re.compile("|".join(map(re.escape, builder)).encode())
    found = {
        path
        for path, file in files(unpacked[name]).items()
        if named.search(os.readlink(file).encode() if file.is_symlink() else file.read_bytes())
    }
    assert found == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_path_to_the_program_is_the_packages(unpacked: dict[str, Path], name: str) -> None:
    root = unpacked[name]
    program = root / f"usr/lib/{name}/bin/{name}"
    assert program.read_text().startswith(f"#!/usr/lib/{name}/bin/python -I\n")
    assert (root / f"usr/lib/{name}/bin/python3").is_symlink()
    for path, file in files(root).items():
        if path.startswith(("lib/systemd", "usr/share/doc", "usr/lib/tmpfiles.d")) and file.suffix != ".gz":
            assert "/opt/keybroker" not in file.read_text(), path
    for unit in (root / "lib/systemd/system").glob("*.service"):
        for called in re.findall(r"^Exec(?:Start|Stop)=(\S+)", unit.read_text(), re.MULTILINE):
            assert (root / called.lstrip("/")).is_symlink(), f"{unit.name}: {called}"


@pytest.mark.parametrize("name", NAMES)
def test_every_module_is_compiled_for_where_it_is_installed(unpacked: dict[str, Path], name: str) -> None:
    root = unpacked[name]
    modules = [path for path in files(root) if path.endswith(".py") and f"/{name.split('-')[-1]}/" in path]
    assert modules
    for module in modules:
        source = root / module
        compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
        flags, modified, size = struct.unpack("<4xIII", compiled.read_bytes()[:16])
        assert (flags, modified, size) == (0, int(source.stat().st_mtime), source.stat().st_size)
        assert f"/{module}".encode() in compiled.read_bytes()


def test_neither_package_carries_the_others_program(unpacked: dict[str, Path]) -> None:
    broker, agent = (
        {Path(path).parts[6] for path in files(unpacked[name]) if "/site-packages/" in path} for name in NAMES
    )
    assert {"keybroker", "flask", "systemd", "pkcs11", "psycopg", "psycopg_binary"} <= broker
    assert "agent" not in broker
    assert {"agent", "keybroker", "cryptography", "pyudev"} <= agent
    assert {"flask", "sqlalchemy", "click"} & agent == set()
    assert not list(unpacked["keybroker-agent"].rglob("site-packages/keybroker/store"))


@pytest.mark.parametrize("name", NAMES)
def test_all_files_are_roots_and_nobody_else_may_write_them(built: dict[str, Path], name: str) -> None:
    listed = subprocess.run(
        ["dpkg-deb", "--contents", built[name]], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert {line.split()[1] for line in listed} == {"root/root"}
    assert [line for line in listed if not line.startswith("l") and re.match(r".{5}w|.{8}w", line)] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_maintainer_scripts_are_good_shell_and_go_near_no_volume(
    unpacked: dict[str, Path], name: str
) -> None:
    scripts = [unpacked[name] / "DEBIAN" / script for script in ("postinst", "prerm", "postrm")]
    for script in scripts:
        subprocess.run(["sh", "-n", script], check=True)
        code = "\n".join(line for line in script.read_text().splitlines() if not line.strip().startswith("#"))
        assert not re.search(r"cryptsetup|dmsetup|umount|swapoff|\bdd\b|wipefs|mkfs|\brm\b(?! -r \$)", code)
        # no snippet of a tool stops or restarts what holds the volumes
        acted = re.findall(
            r"(?:systemctl|deb-systemd-invoke).*\b(?:stop|start|restart|try-restart)\b.*", code
        )
        assert [line for line in acted if "unlock" in line or "volumes" in line] == []


def test_the_dependencies_are_those_that_the_programs_call(built: dict[str, Path]) -> None:
    depends = {
        name: subprocess.run(
            ["dpkg-deb", "--field", package, "Depends"], check=True, capture_output=True, text=True
        ).stdout
        for name, package in built.items()
    }
    for needed in ("python3 (>= 3.11~)", "python3 (<< 3.12~)", "systemd (>= 252~)", "libc6 "):
        assert needed in depends["keybroker"]
        assert needed in depends["keybroker-agent"]
    assert "libsystemd0" in depends["keybroker"]
    assert "cryptsetup-bin (>= 2:2.6.1)" in depends["keybroker-agent"]
    assert "adduser" not in "".join(depends.values())
