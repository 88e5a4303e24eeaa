"""As whom a local verb works: the owner of the installation, who needs nothing of root's."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from keybroker.wire.problems import KeybrokerError, Problem

CONFIG_DIRECTORY = Path("/etc/keybroker")
SERVICE_USER = "keybroker"


def become_owner(config: Path) -> None:
    """Go on as the user who owns the configuration, if that is not us: the broker needs nothing of root's.

    Raises:
        KeybrokerError: CONFIGURATION, when there is no configuration.
    """
    try:
        owner = config.stat()
    except OSError as error:
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"{config}: {(error.strerror or 'cannot be read').lower()}",
            hint="keybroker init --help",
        ) from error
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


@contextlib.contextmanager
def as_owner(config: Path) -> Iterator[None]:
    """Be the user who owns the configuration for a while, and root again afterwards.

    Raises:
        KeybrokerError: as ``become_owner``.
    """
    try:
        owner = config.stat()
    except OSError:
        become_owner(config)  # says so
        raise
    from keybroker.service.placing import as_user

    with as_user((owner.st_uid, owner.st_gid)):
        yield


def operator_here() -> str:
    """Return who this is, in words: local verbs have no certificate that says so."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    through = os.environ.get("SUDO_USER", "")
    return f"{name} (sudo by {through})" if through.isidentifier() and name == "root" else name


def credentials_directory_here() -> Path | None:
    """Return where systemd put this unit's credentials, None outside a unit."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) if directory else None


def owner_named(user: str | None, config_dir: Path) -> tuple[int, int] | None:
    """Return uid and gid of who is to own an installation; None for whoever runs this."""
    try:
        if user is None and config_dir != CONFIG_DIRECTORY:
            return None
        found = pwd.getpwnam(user or SERVICE_USER)
    except KeyError:
        if user is None:
            return None
        raise KeybrokerError(
            Problem.USAGE, f"user {user}: there is no such user", hint="systemd-sysusers"
        ) from None
    return found.pw_uid, found.pw_gid
