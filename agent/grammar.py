"""What the command line may say, and the help that teaches it; imported for more than a bare verb."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from agent.config import FILE, LONGEST_DEADLINE
from agent.manual import SHELLS
from keybroker import __version__
from keybroker.wire.problems import KeybrokerError, Problem

_TOP = """\
Opens this machine's encrypted disks at boot, with keys from a broker.

A machine is enrolled once, with a token that an operator makes; from then on it opens its volumes by itself:

  broker#  keybroker host enrol shop-db
  vm#      keybroker-agent enrol --broker https://broker.example:8444 --token-file -
  vm#      systemctl enable --now keybroker-agent-unlock.service keybroker-volumes.target
  vm#      keybroker-agent status
"""

_EXITS = """\
exit status:
  0 done   64 usage   65 unreadable input   66 no such disk or volume   70 a mistake in this program
  71 a program that was started failed   73 conflict   75 temporary: try again   76 broker not trusted
  77 not allowed, or this machine's certificate   78 revoked, or configuration   79 volume refused
  80 no key opens the volume   81 to be destroyed, or destroyed: an operator can say which
"""

_ENROL = """\
Makes this machine's key, proves a one-time token, and stores the certificate that it is given.

The token names the CA by its fingerprint; it is sent only to a broker whose certificate that CA has signed.
When a reply is lost, run the same command again: it gets the same certificate.

  keybroker-agent enrol --broker https://broker.example:8444 --token-file /run/token
  echo "$TOKEN" | keybroker-agent enrol --broker https://b1.example:8444 \\
                                        --broker https://b2.example:8444 --token-file -

A token given with --token can be seen by every user in the list of processes while the command runs.
"""

_UNLOCK = """\
Waits for the volumes' disks, asks the broker once, and opens all volumes at the same time. At boot
keybroker-agent-unlock.service runs it; run again, it opens what is still closed and touches nothing else.

  keybroker-agent unlock
  keybroker-agent unlock --deadline 30        wait half a minute at most
  keybroker-agent unlock --mount              check and mount too, where no systemd does
"""

_SETTLE = """\
Reports to the broker, does what is wanted of each volume (a new passphrase, a new volume key, another disk),
and reports again. keybroker-agent-settle.timer runs it about once a minute; run by hand, it does it at once.

  broker#  keybroker volume rotate shop-db data
  vm#      keybroker-agent settle

It may be cut at any moment: the next run looks at what there is and goes on. Volumes stay in use meanwhile.
"""

_PLAN = """\
Says of each volume what is wanted of it, what the next step would be, and why; changes nothing. It asks the
broker for the volumes, and for keys where something is wanted: to see which keyslot each of them opens.

  keybroker-agent plan
  keybroker-agent plan --json | jq '.volumes[] | select(.next)'
"""

_PROVE = """\
Fetches the current key of each open volume anew and sees it open the header on the disk; the broker hears of
it. keybroker-agent-prove.timer runs it once a day. Exit status 80 if a key does not open its volume.

  keybroker-agent prove
"""

_LOCK = """\
Unmounts, takes swap out of use and closes, volume by volume. One that is in use stays open, and is named.

  systemctl stop postgresql && keybroker-agent lock
"""

_STATUS = """\
Says what is open, from which header, by which key version and since when. Asks nobody.

  keybroker-agent status
  keybroker-agent status --json | jq '.volumes[] | select(.state != "open")'
"""

_DOCTOR = """\
Says what would keep this machine from opening its disks at the next boot; changes nothing. Exit status 1 if
there is anything.

  keybroker-agent doctor
  keybroker-agent doctor --json | jq '.findings[] | select(.result == "bad")'
"""

_RENEW = """\
Gets the next certificate once a third of the present one's lifetime is left; keybroker-agent-renew.timer
runs it. One that has ended is renewed too, for as long as the broker allows (grace_days); unlock, settle and
the other verbs that ask the broker do that by themselves, with no room in /var too, for that run then.

  keybroker-agent renew
  keybroker-agent renew --now
"""

_ADOPT = """\
Adds the broker's key to a LUKS2 volume that somebody else formatted (vaultlocker, clevis, Azure, by hand),
sees it open, and has the broker keep the header. It takes one passphrase that opens the volume, read from a
file or a pipe to its end, newline included. What opened the volume before still does; the volume may stay
open and mounted. Cut anywhere, the same command goes on.

The broker has to know of it first: keybroker volume adopt --help

  keybroker-agent adopt data --key-file /root/data.key
  vault kv get -field=dmcrypt_key secret/data | keybroker-agent adopt data --key-file -
  keybroker-agent adopt data --remove-others              later: only the broker's key is to open it

A LUKS1 header is refused. With --convert it is made LUKS2, after it was saved to the file that is named; the
volume has to be closed for that.
"""

_RESTORE = """\
Writes the broker's newest copy of a volume's header to its disk: after the copy was checked, and if what is
on the disk is no header that the broker's key opens. The volume must be closed. What is written over is saved
in the state directory first. Without --yes nothing is written, and what would be written over is said.

  keybroker-agent restore-header data
  keybroker-agent restore-header data --yes && keybroker-agent unlock
"""


_FORGET = """\
Forgets what this machine remembers of a volume, so that the next boot believes whatever the broker says of
it. Needed only where unlock says that a volume had moved to another disk which the broker does not know any
more, no newer backup of the broker's database can be had, and what is on that disk is given up: no key of it
is left anywhere. The disk itself is not written to. Without --yes it is only said what would be forgotten.

  keybroker-agent forget data
  keybroker-agent forget data --yes && keybroker-agent unlock
"""


_COMPLETION = """\
Prints the script that completes verbs and options in a shell.

  keybroker-agent completion bash > /etc/bash_completion.d/keybroker-agent
  keybroker-agent completion zsh > /usr/local/share/zsh/site-functions/_keybroker-agent
  keybroker-agent completion fish > ~/.config/fish/completions/keybroker-agent.fish
"""

_MANUAL = """\
Writes the man page into man8 of a directory.

  keybroker-agent manual /usr/local/share/man && man keybroker-agent
"""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **more: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        raise KeybrokerError(Problem.USAGE, message, hint=f"{self.prog} --help")


def parse(words: list[str]) -> argparse.Namespace:
    """Read a command line.

    Raises:
        KeybrokerError: USAGE.
        SystemExit: after --help and --version.
    """
    return parsers()[0].parse_args(words)


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the whole command line, and that of each verb."""
    each: dict[str, argparse.ArgumentParser] = {}
    parser = _Parser(prog="keybroker-agent", description=_TOP, epilog=_EXITS)
    parser.add_argument("--version", action="version", version=f"keybroker-agent {__version__}")
    common = _Parser(add_help=False)
    common.add_argument("--config", type=Path, metavar="FILE", help=f"instead of {FILE}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, short: str, long: str) -> argparse.ArgumentParser:
        each[name] = verbs.add_parser(name, help=short, description=long, parents=[common])
        return each[name]

    enrol = verb("enrol", "get this machine its identity", _ENROL)
    enrol.add_argument(
        "--broker", action="append", required=True, metavar="URL", help="an enrolment listener; repeatable"
    )
    token = enrol.add_mutually_exclusive_group(required=True)
    token.add_argument("--token", metavar="TOKEN", help="what `keybroker host enrol` printed")
    token.add_argument("--token-file", metavar="FILE", help="a file with it; - for standard input")
    _deadline(enrol, "how long to try; 60 by default")

    unlock = verb("unlock", "open this machine's volumes", _UNLOCK)
    _deadline(unlock, "how long to wait for disks and brokers; 600 by default")
    unlock.add_argument("--mount", action="store_true", help="check and mount without mount units")

    verb("lock", "close them", _LOCK)
    _json(verb("status", "say what is open", _STATUS))
    _json(verb("doctor", "say what would go wrong at the next boot", _DOCTOR))

    renew = verb("renew", "get the next certificate when it is time", _RENEW)
    renew.add_argument("--now", action="store_true", help="even if it is not time yet")
    _deadline(renew, "how long to try; 60 by default")

    _headers(verb)
    settle = verb("settle", "do what the broker wants done to the volumes", _SETTLE)
    settle.add_argument("--if-due", action="store_true", help="only if the broker wants a report by now")
    _deadline(settle, "how long each call of the broker may take; 60 by default")
    plan = verb("plan", "say what settle would do next, and why", _PLAN)
    _json(plan)
    _deadline(plan, "how long each call of the broker may take; 60 by default")
    prove = verb("prove", "see the broker's keys open the volumes' headers", _PROVE)
    _deadline(prove, "how long each call of the broker may take; 60 by default")
    completion = verb("completion", "print what a shell needs to complete verbs", _COMPLETION)
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    manual = verb("manual", "write the man page", _MANUAL)
    manual.add_argument("directory", type=Path, metavar="DIRECTORY", help="where man8 is, or is made")
    return parser, each


def _headers(verb: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    adopt = verb("adopt", "take over a volume that somebody else formatted", _ADOPT)
    adopt.add_argument("volume", metavar="VOLUME", help="its name")
    adopt.add_argument("--key-file", metavar="FILE", help="a passphrase that opens it; - for standard input")
    adopt.add_argument("--remove-others", action="store_true", help="take out keyslots that are not ours")
    adopt.add_argument("--convert", action="store_true", help="a LUKS1 header to LUKS2")
    adopt.add_argument("--header-backup", type=Path, metavar="FILE", help="where the LUKS1 header is saved")
    _deadline(adopt, "how long each call of the broker may take; 60 by default")

    restore = verb("restore-header", "bring back a header that was destroyed", _RESTORE)
    restore.add_argument("volume", metavar="VOLUME", help="its name")
    restore.add_argument("--yes", action="store_true", help="write")
    _deadline(restore, "how long to try to reach a broker; 60 by default")

    forget = verb("forget", "believe a broker that lost a volume's newer disk", _FORGET)
    forget.add_argument("volume", metavar="VOLUME", help="its name")
    forget.add_argument("--yes", action="store_true", help="do it")


def _deadline(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--deadline", type=_seconds, metavar="SECONDS", help=text)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= LONGEST_DEADLINE:
        raise ValueError(text)
    return seconds


_seconds.__name__ = f"number of seconds from 0 to {LONGEST_DEADLINE}"  # argparse names it so in its complaint
