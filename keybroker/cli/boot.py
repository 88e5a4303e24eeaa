"""``keybroker boot``: which boots of hosts get keys, and which wait for an approver."""

from __future__ import annotations

from typing import Any, Final

import click

from keybroker.cli.access import operator_options
from keybroker.cli.families import Family
from keybroker.cli.quantities import parse_duration
from keybroker.cli.screen import moment, note, print_facts, print_json, print_table
from keybroker.cli.selection import connect

_COLUMNS: Final = ("BOOT", "HOST", "ADDON", "STATE", "UP", "ADDRESS", "LAST HEARD OF")

WHY: Final = {
    "denied": "an approver said no",
    "contested": "two machines use one identity",
    "doubted": "a boot of the host was denied",
    "second": "another boot of the host is up",
    "crowded": "the add-on has its most hosts up",
    "approval": "each boot needs an approver",
}
"""The same as operators are told."""


@click.group(cls=Family)
def boot() -> None:
    """Boots: the machines that show a host's certificate, each time that they start.

    An ordinary reboot gets its keys at once. A second machine beside one that is up, as of a cloned VM or a
    snapshot that was started elsewhere, waits for an approver, or is refused (keybroker addon policy --help).

    \b
      keybroker boot list
      keybroker boot approve kbb-0a1b2c3d4e5f
    """


@boot.command("list")
@click.argument("addon", required=False)
@click.option("--waiting", is_flag=True, help="Only those that an approver is to decide on.")
@operator_options
def list_boots(addon: str | None, waiting: bool, as_json: bool, **options: Any) -> None:
    """List the boots of all hosts, or of ADDON's; those of revoked hosts apart.

    A boot is up while it was heard of in the last three minutes.

    \b
      keybroker boot list shop-db
      keybroker boot list --waiting
    """
    document = connect(options).get("boots", **({} if addon is None else {"addon": addon}))
    if waiting:
        document["boots"] = [one for one in document["boots"] if one["state"] in ("waiting", "contested")]
    if as_json:
        print_json(document)
        return
    for one in document["expected"]:
        note(f"add-on {one['addon']}: boots are expected until {moment(one['until'])}")
    _print_boots(document["boots"])


@boot.command()
@click.argument("boot_id", metavar="BOOT")
@operator_options
def approve(boot_id: str, as_json: bool, **options: Any) -> None:
    """Say yes to BOOT: it gets keys when it asks again, within seconds; done again, it changes nothing.

    Other machines with its identity that are up are denied: one identity is one machine's. It takes the role
    approver.

    \b
      keybroker boot approve kbb-0a1b2c3d4e5f
    """
    _print(connect(options).put("boots", boot_id, "approval").document, as_json)


@boot.command()
@click.argument("boot_id", metavar="BOOT")
@operator_options
def deny(boot_id: str, as_json: bool, **options: Any) -> None:
    """Say no to BOOT: it gets no key; done again, it changes nothing.

    What it has open stays open. From then on each new boot of its host waits for an approver; a machine that
    was approved reboots where it is without one. Once the other machine is gone for good, keybroker boot
    clear ends that. It takes the role approver.

    \b
      keybroker boot deny kbb-0a1b2c3d4e5f
    """
    _print(connect(options).put("boots", boot_id, "denial").document, as_json)


@boot.command()
@click.argument("host_id", metavar="HOST")
@click.option("--reason", required=True, help="Why; it stays in the audit trail.")
@operator_options
def clear(host_id: str, reason: str, as_json: bool, **options: Any) -> None:
    """End the doubt about HOST: forget its denied boots; done again, it changes nothing.

    Its next boot gets its keys without an approver again. Whoever still has the other machine, or its disk,
    still has the host's certificate: say it only where that is gone, else keybroker host revoke and a new
    enrolment. It is refused while a denied boot is up, or one is contested. It takes the role approver.

    \b
      keybroker boot clear kbh-q3m5x7abcdef --reason "the clone was deleted"
    """
    document = connect(options).put("hosts", host_id, "clearance", reason=reason).document
    if as_json:
        print_json(document)
        return
    note(f"host {host_id}: no boot of it is denied")
    _print_boots(document["boots"])


@boot.command()
@click.argument("addon")
@click.option("--for", "span", metavar="TIME", help="How long from now on: 30m, 2h, 7d at most.")
@click.option("--end", is_flag=True, help="They are expected no longer.")
@operator_options
def expect(addon: str, span: str | None, end: bool, as_json: bool, **options: Any) -> None:
    """Say in advance that ADDON's hosts will reboot: no boot of them needs an approver in that time.

    It matters where each boot needs one (keybroker addon policy --approve-boots). A second boot beside one
    that is up waits all the same. It takes the role approver.

    \b
      keybroker boot expect shop-db --for 2h
      keybroker boot expect shop-db --end
    """
    if (span is None) != end:
        raise click.UsageError("say either --for TIME or --end")
    seconds = 0 if span is None else parse_duration(span)
    document = connect(options).put("addons", addon, "expected", seconds=seconds).document
    if as_json:
        print_json(document)
    elif end:
        note(f"add-on {addon}: boots are not expected any more")
    else:
        note(f"add-on {addon}: boots are expected until {moment(document['until'])}")


def _print_boots(found: list[dict[str, Any]]) -> None:
    print_table(
        _COLUMNS,
        [
            (
                one["boot"],
                one["host"],
                one["addon"],
                one["state"],
                "yes" if one["live"] else "no",
                one["address"],
                moment(one["last"]),
            )
            for one in found
        ],
    )


def _print(one: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(one)
        return
    note(f"boot {one['boot']}: {one['state']}")
    print_facts(
        [
            ("host", one["host"]),
            ("add-on", one["addon"]),
            ("state", one["state"] if one["why"] is None else f"{one['state']}: {WHY[one['why']]}"),
            ("up", "yes" if one["live"] else "no"),
            ("address", one["address"]),
            ("boot id", one["boot_id"]),
            ("machine id", one["machine_id"]),
            ("first heard of", moment(one["first"])),
            ("last heard of", moment(one["last"])),
        ]
    )
