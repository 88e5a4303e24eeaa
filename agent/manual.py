"""The man page and the shells' completions, made from the grammar as it is."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Final, TypeAlias

from keybroker import __version__
from keybroker.wire.problems import KeybrokerError, Problem, exit_statuses

Parser: TypeAlias = argparse.ArgumentParser

SHELLS: Final = ("bash", "fish", "zsh")

_OPTION: Final = re.compile(r"^  (?:-\w, )?(--[a-z-]+)(?: ([A-Z]+))?", re.MULTILINE)
_VERB: Final = re.compile(r"^    ([a-z-]+)\s+(\S.*)$", re.MULTILINE)
_NAME: Final = "keybroker-agent"


def write(directory: Path, parser: Parser, verbs: dict[str, Parser]) -> Path:
    """Write the man page into ``man8`` of a directory, and return its path.

    Raises:
        KeybrokerError: CONFIGURATION where it cannot be written.
    """
    path = directory / f"man8/{_NAME}.8"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(parser, verbs), encoding="utf-8")
    except OSError as error:
        raise KeybrokerError(
            Problem.CONFIGURATION, f"{path}: {(error.strerror or 'cannot be written').lower()}"
        ) from error
    return path


def page(parser: Parser, verbs: dict[str, Parser]) -> str:
    """Return the man page, as roff (man(7)): the help as it is printed, and the exit statuses."""
    lines = [
        f'.TH "{_NAME.upper()}" 8 "" "keybroker {__version__}"',
        *(".SH NAME", rf"{_escape(_NAME)} \- opens this machine's encrypted disks at boot"),
        *(".SH SYNOPSIS", rf"\fB{_escape(_NAME)}\fR VERB ..."),
        *(".SH DESCRIPTION", *_as_it_is(parser.description or "")),
        ".SH VERBS",
    ]
    for name, verb in verbs.items():
        lines += [f".SS {_escape(name)}", *_as_it_is(verb.format_help())]
    lines += [".SH EXIT STATUS", *(".TP", r"\fB0\fR", "Done, or it was so already.")]
    for status, titles in exit_statuses().items():
        lines += [".TP", rf"\fB{status}\fR", _escape("; ".join(titles)) + "."]
    lines += [".SH SEE ALSO", r"\fBcryptsetup\fR(8), \fBdmsetup\fR(8), \fBkeybroker\fR(1)"]
    return "\n".join(lines) + "\n"


def _as_it_is(text: str) -> list[str]:
    return [".nf", *(_escape(line) for line in text.rstrip().splitlines()), ".fi"]


def _escape(text: str) -> str:
    told = text.replace("\\", r"\e").replace("-", r"\-")
    told = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in told)
    return rf"\&{told}" if told.startswith((".", "'")) else told


def completion(shell: str, parser: Parser, verbs: dict[str, Parser]) -> str:
    """Return the script that completes verbs and options in a shell (one of ``SHELLS``)."""
    options = {name: _OPTION.findall(verb.format_help()) for name, verb in verbs.items()}
    if shell == "fish":
        return _fish(dict(_VERB.findall(parser.format_help())), options)
    script = _bash(options)
    return script if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{script}"


def _bash(options: dict[str, list[tuple[str, str]]]) -> str:
    files = sorted({name for each in options.values() for name, value in each if value == "FILE"})
    cases = "".join(
        f"    {verb}) COMPREPLY=($(compgen -W '{' '.join(name for name, _value in each)}' -- \"$word\"));;\n"
        for verb, each in options.items()
    )
    return f"""_keybroker_agent() {{
  local word=${{COMP_WORDS[COMP_CWORD]}}
  case ${{COMP_WORDS[COMP_CWORD-1]}} in
    {"|".join(files)}) COMPREPLY=($(compgen -f -- "$word")); return;;
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '{" ".join(options)} --help --version' -- "$word"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{cases}  esac
}}
complete -F _keybroker_agent {_NAME}
"""


def _fish(shorts: dict[str, str], options: dict[str, list[tuple[str, str]]]) -> str:
    lines = [f"complete -c {_NAME} -f"]
    for verb, each in options.items():
        told = shorts.get(verb, "").replace("'", r"\'")
        lines.append(f"complete -c {_NAME} -n __fish_use_subcommand -a {verb} -d '{told}'")
        for name, value in each:
            more = {"": "", "FILE": " -r -F"}.get(value, " -x")
            lines.append(
                f"complete -c {_NAME} -n '__fish_seen_subcommand_from {verb}' -l {name.lstrip('-')}{more}"
            )
    return "\n".join(lines) + "\n"
