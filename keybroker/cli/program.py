"""The command itself: its groups, its options that every verb has, and how it ends."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

import click

from keybroker import __version__
from keybroker.hygiene import leave_no_core
from keybroker.wire.problems import KeybrokerError, Problem, exit_statuses

PROGRAM: Final = "keybroker"

_COMMANDS: Final = {
    "init": ("local", "make an installation on this machine"),
    "serve": ("local", "run the broker"),
    "unseal": ("unseal", "give shares of the master key to the running broker"),
    "check": ("local", "verify this machine's installation"),
    "upgrade": ("upgrading", "bring the database to this version's tables"),
    "store": ("store", "move the database to PostgreSQL"),
    "backup": ("backup", "back this machine's installation up, encrypted to offline keys"),
    "restore": ("restore", "bring an installation back from a backup"),
    "addon": ("addon", "add-ons: the databases whose disks are encrypted"),
    "volume": ("volume", "volumes: the disks of an add-on"),
    "recovery": ("recovery", "the offline key that opens disks without a broker"),
    "master": ("master", "what the broker's stored keys are wrapped under"),
    "ca": ("ca", "the CA: whom hosts, operators and the broker trust"),
    "host": ("host", "hosts: the VMs that open them"),
    "boot": ("boot", "boots: which of them get keys"),
    "operator": ("operator", "operators: who may do what here"),
    "audit": ("audit", "what was asked of the broker, and what came of it"),
    "completion": ("completion", "print what a shell needs to complete commands"),
    "manual": ("manual", "write the man pages"),
}
"""Command: its module, so that a verb pays for no other's imports, and its line in the help."""


class _Program(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, in the order in which a new user needs them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"keybroker.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])
        with formatter.section("Exit status"):
            formatter.write_dl(
                [
                    ("0", "done, or it was so already"),
                    *((str(status), "; ".join(titles)) for status, titles in exit_statuses().items()),
                ]
            )


@click.command(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command explains itself: keybroker volume add --help",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def program() -> None:
    """Keep the disk passphrases of database VMs, and hand them to the right VM at boot.

    \b
    On the broker's machine, as root:
      keybroker init --name broker.example --operator alice
      systemctl enable --now keybroker
    \b
    Then, there or wherever the operator's certificate is:
      keybroker addon add shop-db --engine postgresql
      keybroker volume add shop-db data --size 20G --mount /var/lib/postgresql
      keybroker volume add shop-db swap --size 2G --fs swap
      keybroker host enrol shop-db
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and leave with its exit status (the table in ``keybroker.wire.problems``)."""
    leave_no_core()
    try:
        status = _run(arguments)
    except Exception:
        traceback.print_exc()
        status = Problem.INTERNAL.exit_status
    sys.exit(status)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        status = program.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return Problem.USAGE.exit_status
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else PROGRAM
        return _fail(KeybrokerError(Problem.USAGE, _usage(error), hint=f"{where} --help"))
    except click.ClickException as error:
        return _fail(KeybrokerError(Problem.USAGE, error.format_message().rstrip(".")))
    except KeybrokerError as error:
        return _fail(error)
    except (click.Abort, KeyboardInterrupt):
        return 130


def _usage(error: click.UsageError) -> str:
    """Say what is wrong with the command line the way all our messages do."""
    text = error.format_message().rstrip(".")
    return f"command line: {text[:1].lower()}{text[1:]}"


def _fail(error: KeybrokerError) -> int:
    for line in error.lines(PROGRAM):
        click.echo(line, err=True)
    return error.problem.exit_status
