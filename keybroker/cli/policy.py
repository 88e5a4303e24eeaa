"""``keybroker addon policy``: on what terms an add-on's keys are handed out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from keybroker.cli.access import find_access, operator_options
from keybroker.cli.screen import note, print_facts, print_json

_INSTALLATION: Final = "installation's default"
_ANYWHERE: Final = ("0.0.0.0/0", "::/0")


@click.command()
@click.argument("name", metavar="ADDON")
@click.option("--allow", multiple=True, metavar="NETWORK", help="Where its hosts may ask from; see above.")
@click.option("--enable/--disable", default=None, help="Hand out keys, or none at all.")
@click.option("--rate", type=click.IntRange(min=0), metavar="N", help="Most requests a minute of one boot.")
@click.option("--addon-rate", type=click.IntRange(min=0), metavar="N", help="Of all its hosts together.")
@click.option("--hosts", type=click.IntRange(min=0), metavar="N", help="Most hosts that may be up at a time.")
@click.option("--on-clone", type=click.Choice(["pend", "refuse"]), help="What a second boot gets; see above.")
@click.option("--approve-boots/--no-approve-boots", default=None, help="Have each boot wait for an approver.")
@click.option(
    "--deletion-days", type=click.IntRange(0, 3650), metavar="N", help="That a destruction is pending."
)
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Who goes first; see above.")
@operator_options
def policy(
    name: str,
    allow: tuple[str, ...],
    enable: bool | None,
    rate: int | None,
    addon_rate: int | None,
    hosts: int | None,
    on_clone: str | None,
    approve_boots: bool | None,
    deletion_days: int | None,
    priority: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Change on what terms ADDON's keys are handed out; what is not named stays as it is.

    It holds from the next request on, and volumes that are open stay open. Without an option it is shown.

    The networks given with --allow take the place of those before: 192.0.2.0/24, 2001:db8::/32, one address,
    "any", or "default" for what the installation says of add-ons without a list (keybroker init --help).
    Rates count requests that hand something out; 0 is no limit. Each machine's reports are counted apart, by
    its rate or 60 a minute, whichever is more.

    A second machine with a host's identity, beside one that is up, waits for an approver (pend, the default:
    keybroker boot --help) or is refused; so is a host beyond --hosts, where 0 is no limit.

    With --approve-boots every boot waits for an approver, unless boots are expected (keybroker boot expect);
    to end that takes the role approver.

    A destruction of ADDON or one of its volumes is pending for --deletion-days, where 0 is as many as the
    installation says (lifetimes.deletion_days); fewer than before take the role approver.

    While more requests come than can be answered at once, those of add-ons with a higher --priority go first,
    and those of a lower one are asked to come again. A change of it holds within half a minute.

    \b
      keybroker addon policy shop-db --allow 192.0.2.0/24 --allow 2001:db8:7::/48
      keybroker addon policy shop-db --disable
      keybroker addon policy shop-db --deletion-days 90
    """
    from keybroker.cli.client import Client

    client = Client(find_access(options, Path.home()))
    named: dict[str, object] = {"enabled": enable, "rate": rate, "addon_rate": addon_rate}
    named |= {"hosts": hosts, "on_clone": on_clone, "approve_boots": approve_boots}
    named |= {"deletion_days": deletion_days, "priority": priority}
    change: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if allow:
        change["allow"] = _networks(allow)
    if change:
        document = client.put("addons", name, "policy", **change).document
    else:
        document = client.get("addons", name)
    if as_json:
        print_json(document)
        return
    if change:
        note(f"addon {name}: its policy is")
    print_facts(policy_facts(document["policy"]))


def _networks(given: tuple[str, ...]) -> list[str]:
    if given == ("default",):
        return []
    return [network for one in given for network in (_ANYWHERE if one == "any" else (one,))]


def policy_facts(terms: dict[str, Any]) -> list[tuple[str, object]]:
    """Return a policy for people, a fact a line."""
    allow = tuple(terms["allow"])
    return [
        ("enabled", "yes" if terms["enabled"] else "no"),
        ("allowed from", "anywhere" if allow == _ANYWHERE else ", ".join(allow) or _INSTALLATION),
        ("requests a minute", f"{_most(terms['rate'])} of a host, {_most(terms['addon_rate'])} in all"),
        ("hosts up at a time", _most(terms["hosts"])),
        ("a second boot", "waits for an approver" if terms["on_clone"] == "pend" else "is refused"),
        ("destroyed after", f"{terms['deletion_days']} days" if terms["deletion_days"] else _INSTALLATION),
        ("each boot", "waits for an approver" if terms["approve_boots"] else "goes on"),
        ("while many ask", f"priority {terms['priority']}"),
    ]


def _most(rate: int) -> str:
    return "no limit" if rate == 0 else str(rate)
