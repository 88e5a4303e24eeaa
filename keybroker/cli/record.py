"""``keybroker volume record``: the signed statements of what was destroyed, shown, written and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from keybroker.cli.access import find_access, operator_options
from keybroker.cli.screen import note, print_facts, print_json
from keybroker.wire.problems import KeybrokerError, Problem


@click.command()
@click.argument("name")
@click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), help="Directory to write it to, for keeping."
)
@operator_options
def addon_record(name: str, to: Path | None, as_json: bool, **options: Any) -> None:
    """Show the signed record of an add-on that was destroyed; that of each volume is in volume record.

    One that was kept is checked by volume record --verify.

    \b
      keybroker addon record shop-db
      keybroker addon record shop-db --to /srv/records
    """
    from keybroker.cli.client import Client

    found = Client(find_access(options, Path.home())).get("addons", name, "statements")["statements"]
    for one in found:
        if to is not None:
            _keep(to, f"{one['addon']}-destroyed", one)
        if not as_json:
            _show(json.loads(one["document"]))
    if as_json:
        print_json({"statements": found})
    elif not found:
        note("it was not destroyed")


@click.command()
@click.argument("addon", required=False)
@click.argument("name", required=False)
@click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), help="Directory to write them to, for keeping."
)
@click.option(
    "--verify",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Check a record that was kept; asks no broker.",
)
@click.option(
    "--signer",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --verify: the public key that must have signed it, PEM.",
)
@operator_options
def record(
    addon: str | None,
    name: str | None,
    to: Path | None,
    verify: Path | None,
    signer: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show the signed records of what was destroyed of a volume, and what remains; or check one, offline.

    \b
      keybroker volume record shop-db data
      keybroker volume record shop-db data --to /srv/records
      keybroker volume record --verify /srv/records/kbv-...-1.record --signer signer.pem
    \b
    Without keybroker:
      openssl pkeyutl -verify -pubin -inkey F.pem -rawin -in F.json -sigfile F.sig
    """
    if verify is not None:
        _verify(verify, signer, as_json)
        return
    if addon is None or name is None:
        raise KeybrokerError(Problem.USAGE, "command line: name an add-on and a volume, or --verify a file")
    from keybroker.cli.client import Client

    client = Client(find_access(options, Path.home()))
    found = client.get("addons", addon, "volumes", name, "statements")["statements"]
    if to is not None:
        for one in found:
            _keep(to, f"{one['volume']}-{one['number']}", one)
    if as_json:
        print_json({"statements": found})
    elif not found:
        note("nothing was destroyed")
    else:
        for one in found:
            _show(json.loads(one["document"]))


def _keep(directory: Path, name: str, one: dict[str, Any]) -> None:
    """Write a statement in four files: the record, and its three parts for openssl."""
    directory.mkdir(parents=True, exist_ok=True)
    base = directory / name
    base.with_suffix(".record").write_text(json.dumps(one, indent=2) + "\n")
    base.with_suffix(".json").write_text(one["document"])
    base.with_suffix(".sig").write_bytes(bytes.fromhex(one["signature"]))
    base.with_suffix(".pem").write_text(one["signer"])
    note(f"written: {base}.record, .json, .sig, .pem")


def _verify(path: Path, signer: Path | None, as_json: bool) -> None:
    from keybroker import statement

    try:
        one = json.loads(path.read_text())
        pem = one["signer"] if signer is None else signer.read_text()
        document, signature = one["document"], bytes.fromhex(one["signature"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KeybrokerError(Problem.MALFORMED, f"{path}: cannot be read: {error}") from error
    facts = statement.check(document, signature, statement.public_from_pem(pem))
    if as_json:
        print_json(facts)
        return
    who = "the key that it names itself; compare it with the broker's" if signer is None else str(signer)
    note(f"{path}: is signed by {who}")
    _show(facts)


def _show(facts: dict[str, Any]) -> None:
    if "volume" not in facts:
        _show_addon(facts)
        return
    device = facts["device"]
    print_facts(
        [
            ("what", facts["what"]),
            ("at", facts["at"]),
            ("broker", facts["broker"]),
            ("volume", f"{facts['volume']} ({facts['addon']}/{facts['name']})"),
            ("LUKS UUID", facts["luks_uuid"]),
            ("disk", device and f"{device['serial']}, {device['size_bytes']} bytes"),
            ("method", facts["method"]),
            *_asked(facts),
            ("wiped", None if facts.get("wiped_bytes") is None else f"{facts['wiped_bytes']} bytes"),
            ("keys destroyed", ", ".join(map(str, facts["keys_destroyed"])) or None),
            (
                "keys kept",
                ", ".join(
                    f"{key['version']} until {key['until'] or 'further notice'}" for key in facts["keys_kept"]
                )
                or None,
            ),
            ("header copies", f"{facts['header_copies_destroyed']} destroyed"),
            ("born encrypted", "yes" if facts["born_encrypted"] else "no"),
            *[("remains", words) for words in facts["remains"]],
        ]
    )


def _asked(facts: dict[str, Any]) -> list[tuple[str, object]]:
    """Return who asked for a destruction, and who approved that it was sooner than the policy says."""
    if "asked_by" not in facts:
        return []
    told: list[tuple[str, object]] = [
        ("asked by", f"{facts['asked_by']} at {facts['asked_at']}: {facts['reason']}")
    ]
    if facts["approved_by"] is not None:
        told.append(("sooner", f"asked by {facts['sooner_by']}, approved by {facts['approved_by']}"))
    return told


def _show_addon(facts: dict[str, Any]) -> None:
    print_facts(
        [
            ("what", facts["what"]),
            ("at", facts["at"]),
            ("broker", facts["broker"]),
            ("addon", facts["addon"]),
            ("method", facts["method"]),
            *_asked(facts),
            *[
                ("volume", f"{one['volume']} ({one['name']}), record {one['statement']}")
                for one in facts["volumes"]
            ],
            ("addon keys", ", ".join(map(str, facts["addon_keys_destroyed"])) or None),
            ("hosts revoked", ", ".join(facts["hosts_revoked"]) or None),
            *[("remains", words) for words in facts["remains"]],
        ]
    )
