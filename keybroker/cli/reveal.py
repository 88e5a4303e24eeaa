"""``keybroker volume reveal``: break-glass."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from keybroker.cli.access import operator_options
from keybroker.cli.screen import moment, note, print_json
from keybroker.cli.selection import connect
from keybroker.wire.problems import KeybrokerError, Problem


@click.command()
@click.argument("addon")
@click.argument("name")
@click.option("--reason", required=True, help="Why, for the record.")
@click.option(
    "--rotate-after",
    "hours",
    type=click.IntRange(0, 720),
    default=24,
    show_default=True,
    metavar="HOURS",
    help="So many hours later the volume gets another passphrase.",
)
@click.option("--version", "version", type=click.IntRange(min=1), help="Another key version that is kept.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="A new file for it, mode 0600; without it, it is shown on the terminal and nowhere else.",
)
@operator_options
def reveal(
    addon: str,
    name: str,
    reason: str,
    hours: int,
    version: int | None,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show the passphrase of a volume: break-glass, for a disk that has to be opened by hand.

    Who asked, and why, is on record before it leaves, and the volume gets another passphrase by itself. It
    takes the role approver. It is never printed into a pipe or a file that others read: where stdout is no
    terminal, give --output.

    \b
      keybroker volume reveal shop-db data --reason "INC-4711: VM is gone, disk is needed"
      keybroker volume reveal shop-db data --reason INC-4711 --output /run/user/0/passphrase
      cryptsetup open --type luks2 --key-file /run/user/0/passphrase /dev/vdb rescued
    """
    if output is None and not sys.stdout.isatty():
        raise KeybrokerError(
            Problem.USAGE, "command line: stdout is no terminal, and could be a log", hint="--output FILE"
        )
    client = connect(options)
    descriptor = None if output is None else _new_file(output)
    try:
        answer = client.post(
            "addons", addon, "volumes", name, "reveal", reason=reason, hours=hours, version=version
        )
        # without a newline: cryptsetup takes one in a key file for a part of the passphrase
        if descriptor is not None:
            os.write(descriptor, answer["passphrase"].encode())
    except BaseException:
        if output is not None:
            output.unlink(missing_ok=True)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
    told = {key: value for key, value in answer.items() if key != "passphrase"}
    if as_json:
        print_json({**told, "output": str(output)} if output is not None else answer)
        return
    note(f"volume {addon}/{name}: key version {answer['version']}, for: {reason}")
    note(f"it is rotated after {moment(answer['rotate_after'])}")
    if output is None:
        click.echo(answer["passphrase"])
    else:
        note(f"written: {output}")


def _new_file(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        what = (error.strerror or "cannot be made").lower()
        raise KeybrokerError(Problem.EXISTS, f"{path}: {what}") from None
