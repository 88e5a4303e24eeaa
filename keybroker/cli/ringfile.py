"""The master keys of this machine's configuration: made, put into its file, and taken out again."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import Final

import tomlkit
from tomlkit.items import Table

from keybroker.config import load
from keybroker.envelope import KEY_BYTES
from keybroker.masterkey import open_master_key
from keybroker.service.placing import sync
from keybroker.wire.problems import KeybrokerError, Problem

_MOST_FILES: Final = 1000


def configured(config: Path) -> tuple[str, ...]:
    """Return the URIs of the master keys that a configuration names.

    Raises:
        KeybrokerError: CONFIGURATION.
    """
    return load(config).installation.master_keys


def unused(config: Path, known: frozenset[str]) -> str | None:
    """Return a key file that is configured and that the broker does not know yet: a rotation that was cut.

    Args:
        known: identities of the master keys that it knows.
    """
    for uri in configured(config):
        if uri.startswith("file:") and open_master_key(uri, None).identity not in known:
            return uri
    return None


def next_file(config: Path) -> Path:
    """Return where the next master key's file goes, beside the configuration."""
    for number in range(2, _MOST_FILES):
        path = config.absolute().parent / f"master-{number}.key"
        if not os.path.lexists(path):
            return path
    raise KeybrokerError(Problem.CONFIGURATION, f"{config.parent}: holds too many master keys")


def make_file(path: Path) -> None:
    """Make a master key's file: 32 random bytes, mode 0400, durable before anything speaks of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def configure(config: Path, uris: tuple[str, ...]) -> None:
    """Have a configuration name these master keys; all else in it, remarks too, stays as it is.

    It is written beside its place and renamed, so that a crash leaves the old one or the new one.

    Raises:
        KeybrokerError: CONFIGURATION where it cannot be written.
    """
    document = tomlkit.parse(config.read_text())
    files = document["files"]
    assert isinstance(files, Table), "it was parsed before"  # noqa: S101
    files["master_key"] = uris[0] if len(uris) == 1 else list(uris)
    status = config.stat()
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{config.name}.", dir=config.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(tomlkit.dumps(document))
                os.fchmod(file.fileno(), status.st_mode & 0o7777)
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
                file.flush()
                os.fsync(file.fileno())
            load(Path(name))  # what serve would refuse never takes its place
            os.replace(name, config)
        except BaseException:
            os.unlink(name)
            raise
        sync(config.parent)
    except OSError as error:
        raise KeybrokerError(
            Problem.CONFIGURATION, f"{config}: cannot be written: {error.strerror}"
        ) from error
