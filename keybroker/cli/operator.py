"""``keybroker operator``: who may do what, and their certificates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from keybroker.cli.access import config_option, find_access, json_option, operator_options
from keybroker.cli.families import Family
from keybroker.cli.screen import moment, note, print_facts, print_json, print_table
from keybroker.wire.names import ROLES
from keybroker.wire.problems import KeybrokerError, Problem

_Command = TypeVar("_Command", bound=Callable[..., Any])

_COLUMNS = ("OPERATOR", "ROLES", "STATE", "ADDED BY", "EXPIRES")


@click.group(cls=Family)
def operator() -> None:
    """Operators: who may do what here, each with a certificate of their own, so that the record names them.

    \b
    Roles, of which an operator has one or several:
      operator   change things: add-ons, volumes, hosts, operators; and look
      approver   say yes to what takes a second person; and look
      auditor    look at everything, and alone at the audit trail
      metrics    read numbers; for machines that scrape them
    \b
    An operator makes the key on their own machine, and somebody with the role operator certifies it:
      keybroker operator request bob                                  bob, on his laptop
      keybroker operator add bob --role auditor --csr bob.csr         alice
    """


def _role_option(command: _Command) -> _Command:
    return click.option(
        "--role",
        "roles",
        multiple=True,
        required=True,
        type=click.Choice(sorted(ROLES)),
        help="May be repeated; all that they are to have.",
    )(command)


def _to_option(command: _Command) -> _Command:
    return click.option(
        "--to",
        type=click.Path(file_okay=False, path_type=Path),
        help="Directory to write the files to.  [default: NAME, here]",
    )(command)


def _csr_option(command: _Command) -> _Command:
    return click.option(
        "--csr",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Signing request that `operator request` made; - for stdin.",
    )(command)


@operator.command()
@click.argument("name")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory to make it in.  [default: ~/.config/keybroker]",
)
@json_option
def request(name: str, to: Path | None, as_json: bool) -> None:
    """Make a key for NAME on this machine, and the request to have it certified; asks no broker.

    The key stays here. Done again, the same key is asked for. What comes back (NAME.crt, ca.crt, cli.toml)
    belongs beside it.

    \b
      keybroker operator request bob
    """
    from keybroker.cli.papers import own_directory, request_in

    directory = (to or own_directory()).absolute()
    asked = directory / f"{name}.csr"
    text = request_in(directory, name)
    asked.write_text(text)
    facts = {"key": str(directory / f"{name}.key"), "request": str(asked)}
    if as_json:
        print_json(facts)
        return
    print_facts(list(facts.items()))
    note(
        f"next: somebody with the role operator: keybroker operator add {name} --role ROLE --csr {asked.name}"
    )


@operator.command()
@click.argument("name")
@_role_option
@_csr_option
@_to_option
@operator_options
def add(
    name: str, roles: tuple[str, ...], csr: Path | None, to: Path | None, as_json: bool, **options: Any
) -> None:
    """Add an operator; done again, it changes nothing.

    NAME is a person's or a machine's, for good: it stands in the audit trail. Without --csr the key is made
    here too, and handing it over is yours to do well. You give the roles that you have, and metrics.

    \b
      keybroker operator add bob --role auditor --csr bob.csr
      keybroker operator add prometheus --role metrics --to /etc/prometheus/keybroker
    """
    from keybroker.cli.client import Client
    from keybroker.cli.papers import hand_out, read_request, request_in

    client = Client(find_access(options, Path.home()))
    directory = to or Path(name)
    text = request_in(directory, name) if csr is None else read_request(csr)
    answer = client.put("operators", name, roles=sorted(set(roles)), csr=text)
    written = hand_out(directory, answer.document)
    if csr is None:
        written.insert(0, directory / f"{name}.key")
    if as_json:
        print_json({**answer.document, "changed": answer.created, "files": [str(path) for path in written]})
        return
    note(f"operator {name}: {'added' if answer.created else 'unchanged'}")
    _show(answer.document)
    _tell(written)
    if csr is not None:
        note(f"next: {name} puts them into ~/.config/keybroker, beside {name}.key")


@operator.command("list")
@operator_options
def list_operators(as_json: bool, **options: Any) -> None:
    """List all operators, revoked ones too.

    \b
      keybroker operator list
    """
    from keybroker.cli.client import Client

    document = Client(find_access(options, Path.home())).get("operators")
    if as_json:
        print_json(document)
        return
    print_table(
        _COLUMNS,
        [
            (one["name"], " ".join(one["roles"]), one["state"], one["added_by"], moment(one["expires"]))
            for one in document["operators"]
        ],
    )


@operator.command()
@click.argument("name", required=False)
@operator_options
def show(name: str | None, as_json: bool, **options: Any) -> None:
    """Show one operator; without NAME, yourself, as the broker knows you.

    \b
      keybroker operator show
      keybroker operator show bob
    """
    from keybroker.cli.client import Client

    client = Client(find_access(options, Path.home()))
    document = client.get("self") if name is None else client.get("operators", name)
    if as_json:
        print_json(document)
    else:
        _show(document)


@operator.command()
@click.argument("name")
@_role_option
@operator_options
def roles(name: str, roles: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Give NAME these roles and no others, from the next request on; done again, it changes nothing.

    You give and take the roles that you have, and metrics. The last one who has the role operator keeps it.

    \b
      keybroker operator roles bob --role auditor --role approver
    """
    from keybroker.cli.client import Client

    client = Client(find_access(options, Path.home()))
    answer = client.put("operators", name, "roles", roles=sorted(set(roles)))
    if as_json:
        print_json(answer.document)
    else:
        _show(answer.document)


@operator.command()
@click.argument("name", required=False)
@_csr_option
@_to_option
@operator_options
def renew(name: str | None, csr: Path | None, to: Path | None, as_json: bool, **options: Any) -> None:
    """Get your next certificate for the key that you have; with NAME and --csr, certify somebody's new key.

    Yours is written over the old one, which stays good until it ends. Somebody else's new certificate
    replaces all that they had before, and takes all the roles that they have.

    \b
      keybroker operator renew
      keybroker operator renew bob --csr bob.csr
    """
    from keybroker.cli.client import Client
    from keybroker.cli.papers import hand_out, keep_ca, read_request, replace, request_of

    access = find_access(options, Path.home())
    if (name is None) != (csr is None):
        raise KeybrokerError(
            Problem.USAGE,
            "command line: NAME and --csr go together; without both, your own certificate is renewed",
            hint="keybroker operator renew --help",
        )
    client = Client(access)
    if name is None or csr is None:
        document = client.put("self", "certificate", csr=request_of(access.key)).document
        keep_ca(access.ca, access.certificate, document["ca"])
        replace(access.certificate, document["certificate"])
        written = [access.certificate]
    else:
        document = client.put("operators", name, "certificate", csr=read_request(csr)).document
        written = hand_out(to or Path(name), document)
    if as_json:
        print_json({**document, "files": [str(path) for path in written]})
        return
    _show(document)
    _tell(written)


@operator.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why; it stays in the audit trail.")
@operator_options
def revoke(name: str, reason: str, as_json: bool, **options: Any) -> None:
    """Turn NAME away from the next request on, for good; done again, it changes nothing.

    For a key that is lost while its owner stays, certify a new one instead: operator renew NAME --csr.
    The last one who has the role operator cannot be revoked.

    \b
      keybroker operator revoke bob --reason "left the company"
    """
    from keybroker.cli.client import Client

    answer = Client(find_access(options, Path.home())).put("operators", name, "revocation", reason=reason)
    if as_json:
        print_json(answer.document)
        return
    before = answer.document["reason"] != reason
    note(f"operator {name}: {'was revoked already, unchanged' if before else 'revoked'}")
    _show(answer.document)


@operator.command()
@click.argument("name")
@click.option(
    "--role",
    "roles",
    multiple=True,
    default=("operator", "approver", "auditor"),
    show_default=True,
    type=click.Choice(sorted(ROLES)),
    help="May be repeated; added to those that they have.",
)
@click.option(
    "--csr",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Signing request to certify; - for stdin. Without it, the key is made beside the configuration.",
)
@config_option
@json_option
def recover(name: str, roles: tuple[str, ...], csr: Path | None, config: Path, as_json: bool) -> None:
    """On the broker's machine, when nobody is left who can manage operators: make NAME one who can.

    It asks no broker and works beside a running one. The audit trail says that it was done, not by whom.
    Certificates that NAME had before are replaced; somebody who was revoked stays so.

    \b
      keybroker operator recover alice
      keybroker operator recover alice --csr alice.csr > alice.crt
    """
    from keybroker.cli.local import open_here
    from keybroker.cli.papers import read_request, replace, request_in
    from keybroker.service.roster import recover as bring_back

    text = None if csr is None else read_request(csr)
    with open_here(config, f"operator recover {name}") as broker:
        directory = config.absolute().parent / "operators"
        request = request_in(directory, name) if text is None else text
        document = bring_back(broker, name, roles, request).as_json()
        path = directory / f"{name}.crt"
        if text is None:
            replace(path, document["certificate"])
    if as_json:
        print_json(document)
    elif text is None:
        _show(document)
        _tell([path, path.with_suffix(".key")])
    else:
        click.echo(document["certificate"], nl=False)


def _show(one: dict[str, Any]) -> None:
    print_facts(
        [
            ("operator", one["name"]),
            ("roles", " ".join(one["roles"])),
            ("state", one["state"]),
            ("added", moment(one["created"])),
            ("added by", one["added_by"]),
            ("certificate until", moment(one["expires"])),
            ("revoked", moment(one["revoked"])),
            ("reason", one["reason"]),
        ]
    )


def _tell(written: list[Path]) -> None:
    for path in written:
        note(f"written: {path}")
