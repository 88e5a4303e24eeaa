"""``keybroker ca``: whom hosts and operators trust, and whom this broker trusts; on the broker's machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keybroker.cli.access import config_option, json_option
from keybroker.cli.families import Family
from keybroker.cli.owner import as_owner, operator_here
from keybroker.cli.screen import note, print_facts, print_json, print_table
from keybroker.wire.problems import KeybrokerError, Problem

if TYPE_CHECKING:
    from keybroker.service.broker import Broker
    from keybroker.service.installation import Installation
    from keybroker.service.rollover import Trust

_LARGEST = 65536
_RELOAD = "next: systemctl reload keybroker"
_BACK_UP = "then: keybroker backup, for what earlier ones bring back is the CA as it was"


@click.group(cls=Family)
def ca() -> None:
    """The CA: whom hosts and operators trust, and whom the broker trusts.

    These verbs work on the broker's machine, beside a running broker, which takes over what they wrote when
    it is reloaded. A new CA takes three steps, with as much time in between as the hosts need:

    \b
      keybroker ca rotate && systemctl reload keybroker
      keybroker ca show                                  until nobody is waited for
      keybroker ca retire && systemctl reload keybroker

    Where the CA is an outside one (keybroker init --outside-ca), requests go out and certificates come in:

    \b
      keybroker ca requests --to DIRECTORY
      keybroker ca import FILE...
    """


@ca.command()
@config_option
@json_option
def show(config: Path, as_json: bool) -> None:
    """Show which CAs are trusted, until when, and who has not come with a certificate of the newest.

    \b
      keybroker ca show
      keybroker ca show --json | jq -r '.waiting[]'
    """
    with _here(config, "ca show", to_change=False) as (broker, installation):
        _print(_trust(broker, installation), as_json)


@ca.command("renew-server")
@config_option
@json_option
def renew_server(config: Path, as_json: bool) -> None:
    """Give the broker's listeners a new certificate, for the key and the names that the old one has.

    \b
      keybroker ca renew-server && systemctl reload keybroker
    """
    from keybroker.service import rollover

    who = operator_here()
    with _here(config, "ca renew-server") as (broker, installation):
        ends = rollover.renew_server(broker, installation, who)
        found = _trust(broker, installation)
    if not as_json:
        note(f"server certificate: renewed, good until {ends:%F}")
        note(_RELOAD)
    _print(found, as_json)


@ca.command()
@config_option
@json_option
def rotate(config: Path, as_json: bool) -> None:
    """Make a new CA, which issues from the next reload on; the one before stays trusted.

    Hosts that are on hear of it with their next report and renew within about half an hour; those that are
    off boot as before and follow then. Operators run keybroker operator renew. The broker's own certificate
    stays one of the CA before until that is retired. Cut anywhere, the same command goes on; once two CAs
    are trusted, it changes nothing. Make a backup next: an earlier one would bring back a broker that does
    not know the new CA, and refuses every host that has moved to it.

    \b
      keybroker ca rotate && systemctl reload keybroker
      keybroker backup /srv/backups/broker-$(date +%F).age
    """
    from keybroker.service import rollover

    who = operator_here()
    with _here(config, "ca rotate") as (broker, installation):
        done = rollover.rotate(broker, installation, who)
        found = _trust(broker, installation)
    if not as_json:
        note("CA: a new one issues" if done else "CA: two are trusted already, unchanged")
        note(_RELOAD if done else "hint: keybroker ca retire, once nobody is waited for")
        if done:
            note(_BACK_UP)
    _print(found, as_json)


@ca.command()
@click.option("--force", is_flag=True, help="Although somebody would be cut off: they are enrolled anew.")
@config_option
@json_option
def retire(force: bool, config: Path, as_json: bool) -> None:
    """Trust the CA before no more, from the next reload on; the broker's certificate is then of the new one.

    It is refused while a host or an operator has not come with a certificate of the new CA, and says who.
    One whose last certificate is over, grace and all, is not waited for. Revoke hosts that are gone for good.
    Make a backup next. An earlier one, once restored, has both CAs and a server certificate that hosts trust
    no more: keybroker ca retire --force there brings them back.

    \b
      keybroker ca retire && systemctl reload keybroker
    """
    from keybroker.service import rollover

    who = operator_here()
    with _here(config, "ca retire") as (broker, installation):
        done = rollover.retire(broker, installation, who, force=force)
        found = _trust(broker, installation)
    if not as_json:
        note("CA: the one before is retired" if done else "CA: only one is trusted, unchanged")
        if done:
            note(_RELOAD)
            note(_BACK_UP)
    _print(found, as_json)


@ca.command()
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for NAME.csr and NAME.ext of each request.",
)
@click.option("--server", is_flag=True, help="The server's too, although its certificate does not end soon.")
@config_option
@json_option
def requests(to: Path | None, server: bool, config: Path, as_json: bool) -> None:
    """List what waits for an outside CA to sign it, and write it out.

    NAME.csr is what its owner signed; NAME.ext has the extensions that the certificate must have, as openssl
    takes them. A host that enrols does not know its name yet: there it stands in NAME.ext alone.

    \b
      keybroker ca requests --to out
      openssl x509 -req -in out/server.csr -extfile out/server.ext -CA ca.crt -CAkey ca.key \\
        -days 365 -out server.crt
      keybroker ca import server.crt
    """
    from keybroker.service import courier

    with as_owner(config), _here(config, "ca requests", to_change=False) as (broker, installation):
        asked = courier.requests(broker, installation, server=server)
    if to is not None:
        try:
            to.mkdir(parents=True, exist_ok=True)
            for one in asked:
                (to / f"{one.name}.csr").write_text(one.csr)
                (to / f"{one.name}.ext").write_text(one.wanted.extensions())
        except OSError as error:
            raise KeybrokerError(
                Problem.CONFIGURATION, f"{to}: cannot be written: {error.strerror}"
            ) from None
    if as_json:
        print_json({"requests": [one.as_json() for one in asked]})
        return
    if not asked:
        note("nothing waits")
        return
    print_table(
        ("NAME", "FOR", "ASKED", "DAYS"),
        [
            (one.name, one.who, "" if one.at is None else f"{one.at:%F %T}Z", str(one.lifetime.days))
            for one in asked
        ],
    )
    note("next: have them signed, then: keybroker ca import FILE..." if to else "next: --to DIRECTORY")


@ca.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@config_option
@json_option
def import_(files: tuple[Path, ...], config: Path, as_json: bool) -> None:
    """Take in certificates that an outside CA has signed, in PEM; done again, it changes nothing.

    Each is held to what was asked: the same public key, exactly the names and the purpose, that CA's
    signature, good at this moment. Whoever waits for one gets it when it asks again; an operator's is put
    beside its key, where that is on this machine. The first that does not fit ends it; those before are in.

    \b
      keybroker ca import signed/*.crt && systemctl reload keybroker
    """
    from keybroker.service import courier

    who, texts = operator_here(), [(file, _text(file)) for file in files]
    taken = []
    with as_owner(config), _here(config, "ca import") as (broker, installation):
        for file, text in texts:
            try:
                taken.append(courier.take(broker, installation, text, who))
            except KeybrokerError as error:
                raise KeybrokerError(error.problem, f"{file}: {error.detail}", hint=error.hint) from error
            if not as_json:
                note(f"{taken[-1].who}: {'imported' if taken[-1].changed else 'unchanged'}, {file}")
    if as_json:
        print_json({"imported": [one.as_json() for one in taken]})
    elif any(one.who == "server" and one.changed for one in taken):
        note(_RELOAD)


def _text(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_LARGEST)
    except OSError as error:
        raise KeybrokerError(
            Problem.MALFORMED, f"{file}: {(error.strerror or 'cannot be read').lower()}"
        ) from None


@contextmanager
def _here(config: Path, verb: str, *, to_change: bool = True) -> Iterator[tuple[Broker, Installation]]:
    from keybroker.cli.local import open_here
    from keybroker.cli.owner import become_owner, credentials_directory_here
    from keybroker.config import load
    from keybroker.service.installation import ca_held

    become_owner(config)
    installation = load(config, credentials_directory=credentials_directory_here()).installation
    with (
        ca_held(installation, to_change=True) if to_change else nullcontext(),
        open_here(config, verb) as broker,
    ):
        yield broker, installation


def _trust(broker: Broker, installation: Installation) -> Trust:
    from keybroker.service import rollover

    return rollover.trust(broker, installation)


def _print(found: Trust, as_json: bool) -> None:
    if as_json:
        print_json(found.as_json())
        return
    facts: list[tuple[str, object]] = []
    for number, (fingerprint, name, ends) in enumerate(found.authorities):
        role = "an outside one" if found.outside else "issues" if number == 0 else "trusted still"
        facts.append((role, f"{name}, good until {ends:%F}, SHA-256 {fingerprint}"))
    server = next((name for each, name, _ends in found.authorities if each == found.server), "another CA")
    served = "not signed yet: keybroker ca requests"
    if found.server_ends is not None:
        served = f"by {server}, good until {found.server_ends:%F}"
    facts.append(("server certificate", served))
    if found.is_changing:
        facts.append(("waiting for", ", ".join(found.waiting[:20]) or "nobody: keybroker ca retire"))
    print_facts(facts)
