"""The verbs that work on this machine's own installation: ``init``, ``serve`` and ``check``."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keybroker.cli.access import config_option, json_option
from keybroker.cli.owner import (
    CONFIG_DIRECTORY,
    SERVICE_USER,
    become_owner,
    credentials_directory_here,
    owner_named,
)
from keybroker.cli.screen import note, plain, print_facts, print_json, print_table
from keybroker.wire.problems import KeybrokerError, Problem

if TYPE_CHECKING:
    from keybroker.service.broker import Broker

_STATE_DIRECTORY = Path("/var/lib/keybroker")
_EVERYWHERE = "0.0.0.0"  # noqa: S104  # the broker serves VMs; who may come in is decided by certificate


@click.command()
@click.option("--name", "dns_names", multiple=True, help="DNS name by which VMs reach it; may be repeated.")
@click.option("--ip", "addresses", multiple=True, help="IP address by which VMs reach it; may be repeated.")
@click.option(
    "--operator",
    required=True,
    help="Name of the first operator, who gets a certificate and the roles operator, approver and auditor.",
)
@click.option("--trust-domain", default="keybroker.internal", show_default=True, help="In all certificates.")
@click.option("--config-dir", type=click.Path(path_type=Path), default=CONFIG_DIRECTORY, show_default=True)
@click.option("--state-dir", type=click.Path(path_type=Path), default=_STATE_DIRECTORY, show_default=True)
@click.option(
    "--database",
    metavar="URI",
    help="postgresql+psycopg://… for several brokers on one database.  [default: a file in --state-dir]",
)
@click.option("--listen", default=_EVERYWHERE, show_default=True, help="Numeric address; :: for all of IPv6.")
@click.option("--main-port", type=click.IntRange(1, 65535), default=8443, show_default=True)
@click.option("--enrolment-port", type=click.IntRange(1, 65535), default=8444, show_default=True)
@click.option(
    "--health",
    default="unix:/run/keybroker/health.sock",
    show_default=True,
    help="Where health is told: unix:/path or http://127.0.0.1:port.",
)
@click.option(
    "--default-deny", is_flag=True, help="An add-on's hosts may ask from nowhere until addresses are listed."
)
@click.option(
    "--master-key",
    metavar="URI",
    help="file:, credential:, pkcs11: or shares:K/N.  [default: file:CONFIG_DIR/master.key, made now]",
)
@click.option(
    "--outside-ca",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="CA.CRT",
    help="Certificate of a CA whose key is elsewhere and signs what waits here (keybroker ca requests).",
)
@click.option(
    "--recovery-recipient",
    "recovery",
    multiple=True,
    metavar="AGE1...",
    help="Offline key that opens disks without a broker (age-keygen); may be repeated, each opens alone.",
)
@click.option(
    "--user",
    help=f"Who owns it all.  [default: {SERVICE_USER}, if there is such a user, in {CONFIG_DIRECTORY}]",
)
@json_option
def init(
    dns_names: tuple[str, ...],
    addresses: tuple[str, ...],
    operator: str,
    trust_domain: str,
    config_dir: Path,
    state_dir: Path,
    database: str | None,
    listen: str,
    main_port: int,
    enrolment_port: int,
    health: str,
    default_deny: bool,
    master_key: str | None,
    outside_ca: Path | None,
    recovery: tuple[str, ...],
    user: str | None,
    as_json: bool,
) -> None:
    """Make an installation on this machine: CA, server certificate, master key, database, first operator.

    It refuses to touch one that is there. Save the master key (and keep it away from the database's backups):
    without it no volume can be opened again. A key in a PKCS#11 token is made before, by keybroker master
    create. With shares:2/3 the key is kept nowhere: three shares are printed, this once, and any two of them
    start the broker (keybroker unseal). With --database the database is one that PostgreSQL serves, and is to
    be empty. With --outside-ca no CA is made: the server's and the operator's
    certificates are requested, and the broker starts once they are imported.

    \b
      keybroker init --name broker.example --operator alice
      keybroker init --ip 192.0.2.10 --operator alice --listen 192.0.2.10
      keybroker init --name broker.example --operator alice --outside-ca ca.crt
    """
    from keybroker.age import read_recipients
    from keybroker.config import FILE_NAME, Address, parse, render
    from keybroker.rights import FIRST
    from keybroker.service.installation import Plan, create
    from keybroker.store.places import read_place

    reached = [*dns_names, *(f"[{ip}]" if ":" in ip else ip for ip in addresses)]
    if not reached:
        raise KeybrokerError(
            Problem.USAGE,
            "command line: how VMs reach this broker is missing",
            hint="--name broker.example, or --ip 192.0.2.10",
        )
    config_dir, state_dir = config_dir.absolute(), state_dir.absolute()
    key = master_key or f"file:{config_dir / 'master.key'}"
    shared = None
    if key.startswith("shares:"):
        from keybroker.cli.sharing import new_key

        shared = new_key(key)
        key = shared.set.uri
    place = read_place(database, state_dir) if database else state_dir / "keybroker.db"
    if database and isinstance(place, Path):
        raise KeybrokerError(Problem.USAGE, "--database: is for PostgreSQL, postgresql+psycopg://…")
    text = render(
        trust_domain=trust_domain,
        broker=f"https://{reached[0]}:{main_port}",
        enrolment=f"https://{reached[0]}:{enrolment_port}",
        database=place,
        state=state_dir,
        master_key=key,
        listen_main=Address.parse(f"[{listen}]:{main_port}", "--listen"),
        listen_enrolment=Address.parse(f"[{listen}]:{enrolment_port}", "--listen"),
        health=health,
        default_deny=default_deny,
        outside_ca=outside_ca is not None,
    )
    parse(text, config_dir / FILE_NAME)  # before anything is made: what serve would refuse is refused here
    made = create(
        Plan(
            config_directory=config_dir,
            state_directory=state_dir,
            trust_domain=trust_domain,
            server_names=_once("localhost", *dns_names),
            server_addresses=_once("127.0.0.1", "::1", *addresses, *_particular(listen)),
            operator=operator,
            configuration=text,
            master_key=key,
            secret=shared.key if shared else None,
            owner=owner_named(user, config_dir),
            recovery=read_recipients(recovery) if recovery else (),
            cluster=None if isinstance(place, Path) else place,
            outside_ca=None if outside_ca is None else _read(outside_ca),
        ),
        clock=lambda: datetime.now(UTC),
        entropy=secrets.token_bytes,
        credentials_directory=credentials_directory_here(),
    )
    facts = {
        "configuration": str(made.configuration),
        "database": str(place),
        "master_key": key,
        "ca_certificate": str(made.ca_certificate),
        "ca_fingerprint": made.ca_fingerprint,
        "operator_certificate": str(made.operator_certificate),
        "operator_key": str(made.operator_key),
        "operator_roles": " ".join(sorted(FIRST)),
    }
    if as_json:
        print_json(facts | ({"shares": shared.readable()} if shared else {}))
        return
    note("made:")
    print_facts([(name.replace("_", " "), value) for name, value in facts.items()])
    if shared:
        shared.show()
    _next_steps(made.configuration, key, recovery=bool(recovery), outside=outside_ca is not None)


def _read(certificate: Path) -> str:
    try:
        return certificate.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        raise KeybrokerError(Problem.CONFIGURATION, f"{certificate}: cannot be read, or is not PEM") from None


def _next_steps(configuration: Path, master_key: str, *, recovery: bool, outside: bool) -> None:
    from keybroker.cli.keeping import to_keep

    usual = configuration.parent == CONFIG_DIRECTORY
    where = "" if usual else f" --config {configuration}"
    note("next:")
    for line in (
        to_keep(master_key),
        *([f"keybroker ca requests --help{where}: have them signed, and import them"] if outside else []),
        "systemctl enable --now keybroker" if usual else f"keybroker serve{where}",
        f"keybroker check{where}",
        *([] if recovery else [f"keybroker recovery set-key --help{where}: to open disks without a broker"]),
        f"keybroker addon add shop-db --engine postgresql{where}",
    ):
        note(f"  {line}")


@click.command()
@config_option
def serve(config: Path) -> None:
    """Run the broker in the foreground until SIGTERM; systemd runs it as keybroker.service.

    SIGHUP reads the server's certificate, its key and the CA again, and keeps the old ones if the new ones
    are no good. The log goes to stderr. Under systemd it waits for what comes by itself, such as the right
    time or the database, and says so in the unit's status; docs/cold-start.md has more.

    \b
      keybroker serve
      keybroker serve --config /etc/keybroker/keybroker.toml
    """
    from keybroker import supervisor
    from keybroker.coldstart import when_possible
    from keybroker.config import load
    from keybroker.server import serve as run
    from keybroker.service.installation import open_broker

    def start() -> None:
        settings = load(config, credentials_directory=credentials_directory_here())
        broker = open_broker(
            settings.installation, clock=lambda: datetime.now(UTC), entropy=secrets.token_bytes, serves=True
        )
        try:
            run(settings, broker)
        finally:
            broker.close()

    _log()
    become_owner(config)
    when_possible(start, is_supervised=supervisor.is_there())


@click.command()
@config_option
@json_option
def check(config: Path, as_json: bool) -> int:
    """Verify this machine's installation, and say what is wrong with it; it changes nothing.

    It looks at files, database, master key, audit trail, certificates, and at what a cold start may lack:
    clock, addresses, names and room. The exit status is 0 if nothing is wrong; warnings, such as a
    certificate that ends soon, do not count.

    \b
      keybroker check
      keybroker check --json | jq '.checks[] | select(.state != "good")'
    """
    from keybroker.cli.findings import examine

    become_owner(config)
    findings = examine(config, credentials_directory_here(), datetime.now(UTC))
    if as_json:
        print_json({"checks": [finding.as_json() for finding in findings]})
    else:
        print_table(("CHECK", "STATE", "DETAIL"), [(one.check, one.state, one.detail) for one in findings])
        for one in findings:
            if one.hint:
                note(f"hint: {one.hint}")
    wrong = [one.problem for one in findings if one.problem is not None]
    return wrong[0].exit_status if wrong else 0


@contextlib.contextmanager
def open_here(config: Path, verb: str) -> Iterator[Broker]:
    """Open this machine's installation, as its owner; for what works without the broker's API.

    Args:
        verb: what this is for, as it is typed.

    Raises:
        KeybrokerError: as ``become_owner`` and ``installation.open_broker``.
    """
    from keybroker.cli.findings import in_unit
    from keybroker.config import load
    from keybroker.service.installation import open_broker

    become_owner(config)
    settings = load(config, credentials_directory=credentials_directory_here())
    installation = settings.installation
    try:
        broker = open_broker(installation, clock=lambda: datetime.now(UTC), entropy=secrets.token_bytes)
    except KeybrokerError as error:
        hint = in_unit(installation, verb) or error.hint
        raise KeybrokerError(error.problem, error.detail, hint=hint) from error
    try:
        yield broker
    finally:
        broker.close()


def _once(*values: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _particular(listen: str) -> tuple[str, ...]:
    """Return the address listened on, unless that is all of them: this machine's own verbs connect to it."""
    return () if ipaddress.ip_address(listen).is_unspecified else (listen,)


def _log() -> None:
    """Log to the journal where systemd started us, with priorities; else to stderr, with the time."""
    handler: logging.Handler
    if "JOURNAL_STREAM" in os.environ:
        from systemd.journal import JournalHandler

        # stderr would reach the journal too, but a message of several lines as several, without a level
        handler = JournalHandler(SYSLOG_IDENTIFIER="keybroker")
        # the journal keeps time and priority itself; without a format, basicConfig() would put its own before
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(_one_plain_line)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _one_plain_line(record: logging.LogRecord) -> bool:
    """Escape what a stranger's request put into a message (Tornado quotes it) and a terminal would obey."""
    record.msg, record.args = plain(record.getMessage()), ()
    return True
