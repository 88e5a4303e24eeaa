"""``keybroker manual``: man pages, made from the commands as they are (man(7), man-pages(7))."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import click

from keybroker import __version__
from keybroker.cli.access import json_option
from keybroker.cli.screen import note, print_json
from keybroker.wire.problems import KeybrokerError, Problem, exit_statuses

_ENVIRONMENT: Final = (
    ("KEYBROKER_URL, KEYBROKER_CERT, KEYBROKER_KEY, KEYBROKER_CA", "As --url, --cert, --key and --ca."),
    ("KEYBROKER_CONFIG", "As --config."),
)
_FILES: Final = (
    ("~/.config/keybroker/cli.toml", "Where the broker is and who you are: url, cert, key and ca."),
    ("/etc/keybroker/keybroker.toml", "The broker's own configuration, on its machine."),
)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
def manual(directory: Path, as_json: bool) -> None:
    """Write the man pages of all commands into DIRECTORY/man1.

    /usr/local/share/man is where man looks for what no package has installed.

    \b
      keybroker manual /usr/local/share/man && man keybroker-volume-add
    """
    from keybroker.cli.program import PROGRAM, program

    folder, written = directory / "man1", []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, command in pages(program, PROGRAM):
            path = folder / f"{name.replace(' ', '-')}.1"
            path.write_text(page(name, command), encoding="utf-8")
            written.append(str(path))
    except OSError as error:
        raise KeybrokerError(
            Problem.CONFIGURATION, f"{error.filename}: {(error.strerror or 'cannot be written').lower()}"
        ) from error
    if as_json:
        print_json({"files": written})
    else:
        note(f"written: {len(written)} pages below {folder}")


def pages(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all that are below it, with their whole names."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for one in list(command.commands) or command.list_commands(context):
            found = command.get_command(context, one)
            if found is not None:
                yield from pages(found, f"{name} {one}")


def page(name: str, command: click.Command) -> str:
    """Return the page of one command, as roff."""
    context = click.Context(command, info_name=name)
    short = command.get_short_help_str(200).rstrip(".")
    lines = [
        f'.TH "{name.replace(" ", "-").upper()}" 1 "" "keybroker {__version__}"',
        *(".SH NAME", rf"{escape(name.replace(' ', '-'))} \- {escape(short)}"),
        *(".SH SYNOPSIS", rf"\fB{escape(name)}\fR {escape(' '.join(command.collect_usage_pieces(context)))}"),
        *(".SH DESCRIPTION", *description(command.help or "")),
        *_commands(name, command, context),
        *_options(command, context),
        *(".SH EXIT STATUS", *_listed([("0", "Done, or it was so already."), *_exits()])),
        *(".SH ENVIRONMENT", *_listed(_ENVIRONMENT)),
        *(".SH FILES", *_listed(_FILES)),
        *(".SH SEE ALSO", r"\fBkeybroker\fR(1), \fBkeybroker\-agent\fR(8)"),
    ]
    return "\n".join(lines) + "\n"


def _exits() -> list[tuple[str, str]]:
    told = [(str(status), "; ".join(titles)) for status, titles in exit_statuses().items()]
    return [(status, f"{text[:1].upper()}{text[1:]}.") for status, text in told]


def _commands(name: str, command: click.Command, context: click.Context) -> list[str]:
    if not isinstance(command, click.Group):
        return []
    found = [(one, command.get_command(context, one)) for one in command.list_commands(context)]
    told = [
        (f"{name.replace(' ', '-')}-{one}(1)", below.get_short_help_str(200)) for one, below in found if below
    ]
    return [".SH COMMANDS", *_listed(told)]


def _options(command: click.Command, context: click.Context) -> list[str]:
    records = [one.get_help_record(context) for one in command.get_params(context)]
    return [".SH OPTIONS", *_listed([record for record in records if record and record[1]])]


def _listed(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Write a list of terms and what they mean."""
    lines = []
    for term, text in rows:
        lines += [".TP", rf"\fB{escape(term)}\fR", *description(text)]
    return lines


def description(text: str) -> list[str]:
    r"""Write paragraphs; those after a lone ``\b`` stay as they are, line by line (click's own mark)."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        told = paragraph.splitlines() or [""]
        if lines:
            lines.append(".PP")
        if told[0].strip() == "\b":
            lines += [".nf", *(escape(line) for line in told[1:]), ".fi"]
        else:
            lines.append(escape(" ".join(line.strip() for line in told)))
    return lines


def escape(text: str) -> str:
    """Return text that roff prints as it is: hyphens that can be copied, no line that is a request."""
    told = text.replace("\\", r"\e").replace("-", r"\-")
    told = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in told)
    return rf"\&{told}" if told.startswith((".", "'")) else told
