"""Which broker an operator's verb talks to, and with which certificate.

Each of url, certificate, key and CA comes from the first of these that has it:

1. the options ``--url``, ``--cert``, ``--key``, ``--ca``;
2. the environment: KEYBROKER_URL, KEYBROKER_CERT, KEYBROKER_KEY, KEYBROKER_CA (paths, never keys);
3. this machine's own installation, where ``--config`` or KEYBROKER_CONFIG names it;
4. ``~/.config/keybroker/cli.toml``, with the keys ``url``, ``cert``, ``key`` and ``ca``;
5. this machine's own installation, at its usual place.
"""

from __future__ import annotations

import ipaddress
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from keybroker.wire.problems import KeybrokerError, Problem

_Command = TypeVar("_Command", bound=Callable[..., Any])

DEFAULT_CONFIG: Final = "/etc/keybroker/keybroker.toml"
_PARTS: Final = ("url", "cert", "key", "ca")


@dataclass(frozen=True, slots=True)
class Access:
    """Where the broker is and how an operator shows who it is; the key stays in its file."""

    url: str
    certificate: Path
    key: Path
    ca: Path


def config_option(command: _Command) -> _Command:
    """Add ``--config``, which names this machine's installation."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        default=DEFAULT_CONFIG,
        envvar="KEYBROKER_CONFIG",
        show_default=True,
        help="The broker's configuration on this machine.",
    )(command)


def json_option(command: _Command) -> _Command:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(command)


def operator_options(command: _Command) -> _Command:
    """Add what every verb has that talks to a broker; the verb takes them as ``**options``."""
    for name, what in (
        ("ca", "CA certificate that the broker's must be from (PEM)."),
        ("key", "Private key of the operator's certificate (PEM, not open to others)."),
        ("cert", "Operator's certificate (PEM)."),
    ):
        command = click.option(
            f"--{name}", type=click.Path(path_type=Path), envvar=f"KEYBROKER_{name.upper()}", help=what
        )(command)
    command = click.option("--url", envvar="KEYBROKER_URL", help="Broker, as https://broker.example:8443.")(
        command
    )
    return json_option(config_option(command))


def find_access(options: Mapping[str, Any], home: Path) -> Access:
    """Put the access together.

    Args:
        options: ``url``, ``cert``, ``key``, ``ca`` and ``config``, as click has read them.
        home: the user's home directory.

    Raises:
        KeybrokerError: CONFIGURATION or CERTIFICATE, naming what is missing and how to give it.
    """
    found: dict[str, Any] = {name: options[name] for name in _PARTS if options[name]}
    sources: list[Callable[[], Mapping[str, Any]]] = [
        lambda: _from_user(home / ".config/keybroker/cli.toml"),
        lambda: _from_installation(options["config"], found),
    ]
    for source in reversed(sources) if _config_is_named() else sources:
        if set(found) != set(_PARTS):
            found = {**source(), **found}
    missing = [name for name in _PARTS if name not in found]
    if missing:
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"broker: nothing says its {', '.join(missing)}",
            hint="on the broker's machine: root, after keybroker init; elsewhere:"
            " keybroker operator request --help; or --url, --cert, --key and --ca",
        )
    access = Access(found["url"].rstrip("/"), *(Path(found[name]) for name in ("cert", "key", "ca")))
    _check(access)
    return access


def _config_is_named() -> bool:
    """Say whether somebody wrote down ``--config``, or put it into the environment."""
    context = click.get_current_context(silent=True)
    source = context and context.get_parameter_source("config")
    return source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def _from_user(file: Path) -> dict[str, str]:
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise KeybrokerError(Problem.CONFIGURATION, f"{file}: cannot be read: {error}") from error
    if not all(name in _PARTS and isinstance(value, str) for name, value in said.items()):
        raise KeybrokerError(Problem.CONFIGURATION, f"{file}: has keys that are not {', '.join(_PARTS)}")
    return {
        name: value if name == "url" else str(file.parent / Path(value).expanduser())
        for name, value in said.items()
    }


def _from_installation(config: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """Take what this machine's installation says, if there is one that we may read.

    Only the two fields are looked at; ``keybroker.config`` would have the whole broker imported to read them.
    """
    if not os.access(config, os.R_OK):
        return {}
    try:
        said = tomllib.loads(config.read_text(encoding="utf-8"))
        local: dict[str, Any] = {
            "ca": config.parent / said["files"].get("ca_certificate", "ca.crt"),
            "url": f"https://{_local(said['listen']['main'])}",
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeybrokerError(
            Problem.CONFIGURATION, f"{config}: is no broker's configuration", hint="keybroker check"
        ) from error
    operators = sorted(config.parent.glob("operators/*.crt"))
    if len(operators) == 1:
        local |= {"cert": operators[0], "key": operators[0].with_suffix(".key")}
    elif operators and "cert" not in found:
        raise KeybrokerError(
            Problem.CONFIGURATION,
            f"operator: {config.parent / 'operators'} has {len(operators)} certificates",
            hint=f"--cert {operators[0]} --key {operators[0].with_suffix('.key')}",
        )
    return local


def _local(listening: str) -> str:
    """Return an address on which this machine reaches its own listener, wherever that is bound."""
    host, _, port = listening.rpartition(":")
    if not ipaddress.ip_address(host.strip("[]")).is_unspecified:
        return listening
    return f"127.0.0.1:{port}" if host == "0.0.0.0" else f"[::1]:{port}"  # noqa: S104  # compared, not bound


def _check(access: Access) -> None:
    """Refuse early what the handshake would refuse in the words of OpenSSL."""
    if not access.url.startswith("https://"):
        raise KeybrokerError(
            Problem.CONFIGURATION, f"url: {access.url} is not https://", hint="--url https://broker:8443"
        )
    for path in (access.certificate, access.key, access.ca):
        if not os.access(path, os.R_OK):
            raise KeybrokerError(
                Problem.CERTIFICATE, f"{path}: cannot be read", hint="keybroker addon list --help"
            )
    if access.key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeybrokerError(
            Problem.CERTIFICATE, f"{access.key}: is open to others", hint=f"chmod 0400 {access.key}"
        )
