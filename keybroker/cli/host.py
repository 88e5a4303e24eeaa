"""``keybroker host``: the VMs that open an add-on's volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keybroker.cli.access import find_access, operator_options
from keybroker.cli.families import Family
from keybroker.cli.quantities import parse_duration
from keybroker.cli.screen import moment, note, print_facts, print_json, print_table

_COLUMNS = ("HOST", "ADDON", "STATE", "INVITED", "ENROLLED", "EXPIRES")


@click.group(cls=Family)
def host() -> None:
    """Hosts: the VMs that open an add-on's volumes.

    A host is invited with a one-time token, enrols with it from its own VM, and is known by the certificate
    that it gets for a key that never leaves the VM.

    \b
      keybroker host enrol shop-db
      keybroker host revoke kbh-q3m5x7abcdef --reason "VM was cloned"
    """


@host.command()
@click.argument("addon")
@click.option("--lifetime", default="1h", show_default=True, help="Of the token: 30m, 2h, 7d at most.")
@operator_options
def enrol(addon: str, lifetime: str, as_json: bool, **options: Any) -> None:
    """Invite one VM to ADDON: print a one-time token and what to run on the VM.

    The token is shown this once, for one VM, and the broker keeps only its hash. It also carries the
    fingerprint of the broker's CA, so that the VM knows whom it is talking to.

    \b
      keybroker host enrol shop-db
      keybroker host enrol shop-db --lifetime 10m --json
    """
    from keybroker.cli.client import Client

    document = Client(find_access(options, Path.home())).post(
        "addons", addon, "enrolments", lifetime_seconds=parse_duration(lifetime)
    )
    if as_json:
        print_json(document)
        return
    print_facts(
        [
            ("host", document["host"]),
            ("expires", moment(document["expires"])),
            ("token", document["token"]),
        ]
    )
    # not --token: whatever is on a command line shows up in ps, and stays in the shell's history
    note("next: run this on the VM, as root, and give it the token:")
    click.echo(f"\nkeybroker-agent enrol --broker {document['enrolment']} --token-file -")


@host.command("list")
@click.argument("addon", required=False)
@operator_options
def list_hosts(addon: str | None, as_json: bool, **options: Any) -> None:
    """List all hosts, or those of ADDON.

    \b
      keybroker host list shop-db
    """
    from keybroker.cli.client import Client

    asked = {} if addon is None else {"addon": addon}
    document = Client(find_access(options, Path.home())).get("hosts", **asked)
    if as_json:
        print_json(document)
        return
    print_table(
        _COLUMNS,
        [
            (
                one["host"],
                one["addon"],
                one["state"],
                moment(one["invited"]),
                moment(one["enrolled"]),
                moment(one["expires"]),
            )
            for one in document["hosts"]
        ],
    )


@host.command()
@click.argument("host_id", metavar="HOST")
@operator_options
def show(host_id: str, as_json: bool, **options: Any) -> None:
    """Show one host.

    \b
      keybroker host show kbh-q3m5x7abcdef
    """
    from keybroker.cli.client import Client

    document = Client(find_access(options, Path.home())).get("hosts", host_id)
    if as_json:
        print_json(document)
    else:
        _show(document)


@host.command()
@click.argument("host_id", metavar="HOST")
@click.option("--reason", required=True, help="Why; it stays in the audit trail.")
@click.option("--lock", is_flag=True, help="Have it close its volumes at its next report.")
@operator_options
def revoke(host_id: str, reason: str, lock: bool, as_json: bool, **options: Any) -> None:
    """Turn HOST away from its next request on, for good; done again, it changes nothing.

    Volumes that it has open stay open until the VM stops, or with --lock until its agent reports, within two
    minutes, or asks for a certificate after its own has ended: it stops their mount units, and what requires
    these, and closes them. Who has the VM can keep it from that, and nothing says that it did. A new VM
    enrols as a new host.

    \b
      keybroker host revoke kbh-q3m5x7abcdef --reason "VM was cloned"
      keybroker host revoke kbh-q3m5x7abcdef --reason "VM was stolen" --lock
    """
    from keybroker.cli.client import Client

    answer = Client(find_access(options, Path.home())).put(
        "hosts", host_id, "revocation", reason=reason, **({"lock": True} if lock else {})
    )
    if as_json:
        print_json(answer.document)
        return
    before = answer.document["reason"] != reason
    note(f"host {host_id}: {'was revoked already, unchanged' if before else 'revoked'}")
    _show(answer.document)


def _show(one: dict[str, Any]) -> None:
    print_facts(
        [
            ("host", one["host"]),
            ("addon", one["addon"]),
            ("state", one["state"]),
            ("invited", moment(one["invited"])),
            ("enrolled", moment(one["enrolled"])),
            ("certificate until", moment(one["expires"])),
            ("revoked", moment(one["revoked"])),
            ("reason", one["reason"]),
            ("told to lock", "yes" if one["lock"] else None),
        ]
    )
