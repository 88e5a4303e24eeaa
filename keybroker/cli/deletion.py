"""``delete`` and ``undelete`` of volumes and add-ons, and what is said of a destruction that is pending."""

from __future__ import annotations

from typing import Any

import click

from keybroker.cli.access import operator_options
from keybroker.cli.screen import confirm, moment, note, print_json
from keybroker.cli.selection import connect
from keybroker.wire.problems import KeybrokerError, Problem

REASON = click.option("--reason", help="Why, for the record.")
WAIT_DAYS = click.option(
    "--wait-days",
    "days",
    type=click.IntRange(0, 3650),
    metavar="DAYS",
    help="Another time than the policy's; a shorter one needs the approval of a second person.",
)
NOW = click.option("--now", is_flag=True, help="At once; needs the approval of a second person.")
APPROVE = click.option(
    "--approve", is_flag=True, help="Approve the sooner time that somebody else has asked for."
)
YES = click.option("--yes", is_flag=True, help="Do not ask for the name to be typed.")


def pending_words(pending: dict[str, Any]) -> str:
    """Say of a pending destruction when it is due, and who asked for what."""
    whole = " with its add-on" if pending.get("addon") else ""
    said = f"to be destroyed{whole} after {moment(pending['due'])}; {pending['by']}: {pending['reason']}"
    if pending["sooner"] is not None:
        said += f"; {pending['sooner_by']} asks for {moment(pending['sooner'])}, which nobody has approved"
    return said


def pending_facts(pending: dict[str, Any] | None) -> list[tuple[str, object]]:
    """Return the line that says so, where anything is pending."""
    return [] if pending is None else [("deletion", pending_words(pending))]


@click.command()
@click.argument("addon")
@click.argument("name")
@REASON
@WAIT_DAYS
@NOW
@APPROVE
@YES
@operator_options
def delete_volume(addon: str, name: str, **options: Any) -> None:
    """Have a volume destroyed, in 14 days or as its add-on's policy says; until then undelete it.

    Its VM gets no key from here on; what is open stays open until it is closed or the VM reboots. When the
    time has come, all of its keys and header copies are destroyed, and a signed record says what was, and in
    which backups it may survive. Reminders are recorded 7, 3 and 1 days before. Nobody touches the disk:
    to have that wiped, erase the volume.

    To have it done sooner takes two people: one asks, another one with the role approver approves.

    \b
      keybroker volume delete shop-db data --reason "shop closed, TICKET-12"
      keybroker volume delete shop-db data --reason "leaked" --now
      keybroker volume delete shop-db data --approve
      keybroker volume undelete shop-db data
    """
    _delete(("addons", addon, "volumes", name), f"{addon}/{name}", "volume", **options)


@click.command()
@click.argument("addon")
@click.argument("name")
@operator_options
def undelete_volume(addon: str, name: str, as_json: bool, **options: Any) -> None:
    """Call the destruction of a volume off; its VM gets its keys again.

    It takes the role operator or approver.

    \b
      keybroker volume undelete shop-db data
    """
    _undelete(("addons", addon, "volumes", name), f"volume {addon}/{name}", as_json, options)


@click.command()
@click.argument("name")
@REASON
@WAIT_DAYS
@NOW
@APPROVE
@YES
@operator_options
def delete_addon(name: str, **options: Any) -> None:
    """Have an add-on destroyed with all of its volumes and its own key, as volume delete does with one.

    Its hosts get nothing from here on, and are revoked when the time has come. Its name is not used again.

    \b
      keybroker addon delete shop-db --reason "customer left, TICKET-12"
      keybroker addon undelete shop-db
    """
    _delete(("addons", name), name, "addon", **options)


@click.command()
@click.argument("name")
@operator_options
def undelete_addon(name: str, as_json: bool, **options: Any) -> None:
    """Call the destruction of an add-on off; volumes that are to be destroyed on their own stay so.

    It takes the role operator or approver.

    \b
      keybroker addon undelete shop-db
    """
    _undelete(("addons", name), f"addon {name}", as_json, options)


def _delete(
    path: tuple[str, ...],
    what: str,
    kind: str,
    *,
    reason: str | None,
    days: int | None,
    now: bool,
    approve: bool,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    if approve and (reason is not None or days is not None or now):
        raise KeybrokerError(Problem.USAGE, "command line: --approve stands alone, but for --yes")
    if not approve and reason is None:
        raise KeybrokerError(Problem.USAGE, "command line: say why, for the record", hint="--reason TEXT")
    if now and days is not None:
        raise KeybrokerError(Problem.USAGE, "command line: give --now or --wait-days, not both")
    client = connect(options)
    due = None
    if approve:
        due = _asked(client.get(*path), f"{kind} {what}")
        note(f"{kind} {what}: to be destroyed at {moment(due)}; from then on nothing brings it back")
    if not yes:
        confirm(what, "destroy")
    if approve:
        answer = client.put(*path, "deletion", "approval", due=due)
    else:
        body = {"reason": reason} if days is None and not now else {"reason": reason, "days": days or 0}
        answer = client.put(*path, "deletion", **body)
    if as_json:
        print_json({**answer.document, "changed": approve or answer.created})
        return
    pending = answer.document["deletion"]
    if pending is None:
        note(f"{kind} {what}: destroyed")
        note(f"next: keybroker {kind} record {' '.join(path[1::2])}")
        return
    unchanged = "" if approve or answer.created else "unchanged: "
    note(f"{kind} {what}: {unchanged}{pending_words(pending)}")
    note("what its VM has open stays open until it is closed there, or the VM reboots")
    if pending["sooner"] is not None:
        note(f"next, somebody else: keybroker {kind} delete {' '.join(path[1::2])} --approve")
    note(f"to call it off: keybroker {kind} undelete {' '.join(path[1::2])}")


def _asked(document: dict[str, Any], what: str) -> str:
    """Return the sooner time that somebody asked for."""
    pending = document["deletion"]
    if pending is None or pending["sooner"] is None or pending.get("addon"):
        raise KeybrokerError(Problem.CONFLICT, f"{what}: nobody asked that it be destroyed sooner")
    return str(pending["sooner"])


def _undelete(path: tuple[str, ...], what: str, as_json: bool, options: dict[str, Any]) -> None:
    client = connect(options)
    before = client.get(*path)
    after = client.delete(*path, "deletion")
    changed = before["deletion"] != after["deletion"]
    if as_json:
        print_json({**after, "changed": changed})
        return
    said = "called off" if changed else "nothing was pending"
    if after["deletion"] is not None:
        said = pending_words(after["deletion"])
    note(f"{what}: {said}")
