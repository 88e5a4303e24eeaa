"""``keybroker ca``: whom hosts and operators trust, and whom this broker trusts; on the broker's machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keybroker.cli.access import config_option, json_option
from keybroker.cli.owner import operator_here
from keybroker.cli.screen import note, print_facts, print_json

if TYPE_CHECKING:
    from keybroker.service.broker import Broker
    from keybroker.service.installation import Installation
    from keybroker.service.rollover import Trust

_RELOAD = "next: systemctl reload keybroker"
_BACK_UP = "then: keybroker backup, for what earlier ones bring back is the CA as it was"


@click.group()
def ca() -> None:
    """The CA: whom hosts and operators trust, and whom the broker trusts.

    These verbs work on the broker's machine, beside a running broker, which takes over what they wrote when
    it is reloaded. A new CA takes three steps, with as much time in between as the hosts need:

    \b
      keybroker ca rotate && systemctl reload keybroker
      keybroker ca show                                  until nobody is waited for
      keybroker ca retire && systemctl reload keybroker
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
        role = "issues" if number == 0 else "trusted still"
        facts.append((role, f"{name}, good until {ends:%F}, SHA-256 {fingerprint}"))
    server = next((name for each, name, _ends in found.authorities if each == found.server), "another CA")
    facts.append(("server certificate", f"by {server}, good until {found.server_ends:%F}"))
    if found.is_changing:
        facts.append(("waiting for", ", ".join(found.waiting[:20]) or "nobody: keybroker ca retire"))
    print_facts(facts)
