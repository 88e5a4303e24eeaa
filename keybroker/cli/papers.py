"""An operator's files: its key, which never leaves its machine, its certificate, and how to reach the broker.

NAME.key 0600, NAME.csr, NAME.crt, ca.crt and cli.toml, in one directory; the verbs look for the last one in
~/.config/keybroker.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from keybroker.ca import key_pem, load_key, new_key
from keybroker.csr import signing_request
from keybroker.wire.names import OPERATOR_NAME
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

_LARGEST: Final = 16384


def own_directory() -> Path:
    """Return where the verbs look for an operator's files."""
    return Path.home() / ".config/keybroker"


def request_in(directory: Path, name: str) -> str:
    """Return a signing request for the key ``NAME.key`` of a directory; both are made if need be.

    Raises:
        KeybrokerError: MALFORMED name; CONFIGURATION where something cannot be written; CERTIFICATE for a key
            that is no key.
    """
    if OPERATOR_NAME.fullmatch(name) is None:
        raise KeybrokerError(Problem.MALFORMED, f"name: must match {OPERATOR_NAME.pattern}")
    path = directory / f"{name}.key"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(path):
            _write_new(path, key_pem(new_key()).reveal(), 0o600)
    except OSError as error:
        raise _cannot(path, error) from None
    return request_of(path)


def request_of(key: Path) -> str:
    """Return a signing request for the key in a file.

    Raises:
        KeybrokerError: CERTIFICATE for a file that cannot be read, or is no key.
    """
    try:
        text = Secret(key.read_bytes())
    except OSError as error:
        raise KeybrokerError(Problem.CERTIFICATE, f"{key}: {_reason(error)}") from None
    try:
        return signing_request(load_key(text))
    except KeybrokerError as error:
        raise KeybrokerError(error.problem, f"{key}: {error.detail.removeprefix('key: ')}") from None


def read_request(path: Path) -> str:
    """Return the text of a signing request; ``-`` is stdin.

    Raises:
        KeybrokerError: MALFORMED where it cannot be read.
    """
    try:
        with open(0 if str(path) == "-" else path, "rb", closefd=str(path) != "-") as file:
            return file.read(_LARGEST).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = _reason(error) if isinstance(error, OSError) else "is not PEM"
        raise KeybrokerError(Problem.MALFORMED, f"{path}: {why}") from None


def hand_out(directory: Path, appointment: dict[str, Any]) -> list[Path]:
    """Write a certificate, the CA's, and the ``cli.toml`` that names them, beside a key or for one elsewhere.

    Args:
        appointment: the broker's answer.

    Returns:
        The files; what differs from a file that was there is not written over it, but for the certificate.

    Raises:
        KeybrokerError: EXISTS for another CA's directory; CONFIGURATION where something cannot be written.
    """
    name = appointment["name"]
    parts = {"url": appointment["brokers"][0], "cert": f"{name}.crt", "key": f"{name}.key", "ca": "ca.crt"}
    told = "".join(f"{part} = {json.dumps(value)}\n" for part, value in parts.items())
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_once(directory / "ca.crt", appointment["ca"])
        _write_once(directory / "cli.toml", told)
    except OSError as error:
        raise _cannot(directory, error) from None
    replace(directory / f"{name}.crt", appointment["certificate"])
    return [directory / f"{name}.crt", directory / "ca.crt", directory / "cli.toml"]


def keep_ca(ca: Path, certificate: Path, text: str) -> None:
    """Keep the CAs that come with a new certificate, before that: the broker will have one of them.

    Only an operator's own, beside the certificate; on the broker's machine they are the broker's.

    Raises:
        KeybrokerError: CONFIGURATION.
    """
    if ca.parent != certificate.parent or (ca.parent / "keybroker.toml").exists():
        return
    try:
        if ca.read_text() == text:
            return
    except OSError as error:
        raise _cannot(ca, error) from None
    replace(ca, text)


def replace(certificate: Path, text: str) -> None:
    """Put a certificate in the place of the one that is there: that one or the new one, never half of it.

    Raises:
        KeybrokerError: CONFIGURATION.
    """
    beside = certificate.with_name(f".{certificate.name}.{os.getpid()}")
    try:
        owner = certificate.stat() if certificate.exists() else None
        _write_new(beside, text.encode(), 0o444)
        if owner is not None and os.geteuid() == 0:
            os.chown(beside, owner.st_uid, owner.st_gid)
        beside.rename(certificate)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _cannot(certificate, error) from None


def _write_once(path: Path, text: str) -> None:
    if not os.path.lexists(path):
        _write_new(path, text.encode(), 0o644)
    elif path.read_text() != text:
        raise KeybrokerError(
            Problem.EXISTS,
            f"{path}: is there, and of another operator or broker",
            hint="--to another directory",
        )


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _cannot(path: Path, error: OSError) -> KeybrokerError:
    return KeybrokerError(Problem.CONFIGURATION, f"{error.filename or path}: {_reason(error)}")


def _reason(error: OSError) -> str:
    return (error.strerror or "cannot be used").lower()
