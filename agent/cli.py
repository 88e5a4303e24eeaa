"""``keybroker-agent``: parse, run one verb, print.

A verb's modules are imported when it runs. ``unlock`` and ``lock`` without options are what the unit runs;
for them the parser is not even imported (argparse and the grammar are 9 ms).
"""

from __future__ import annotations

import gc
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agent import config
from agent.config import Config
from keybroker.wire.problems import KeybrokerError, Problem

if TYPE_CHECKING:
    import argparse

    from keybroker.wire.secret import Secret

PROGRAM: Final = "keybroker-agent"
ENROL_SECONDS: Final = 60.0


def main(words: list[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    begun = time.monotonic()
    words = sys.argv[1:] if words is None else words
    try:
        if words == ["unlock"]:
            gc.disable()  # looking through what is being imported, again and again, takes 3 ms
            return _unlock(config.load(), None, mount=False, begun=begun)
        if words == ["lock"]:
            return _lock(config.load())
        from agent import grammar

        return _dispatch(grammar.parse(words), begun)
    except KeybrokerError as error:
        for line in error.lines(PROGRAM):
            say(line, 3)
        return error.problem.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor at exit, when Python flushes
        return 0
    except Exception:  # the last door: an error of ours must have its own exit status, and be seen
        import traceback

        traceback.print_exc()
        say(f"{PROGRAM}: a mistake in this program; please report the lines above", 3)
        return Problem.INTERNAL.exit_status


def program() -> None:
    """Run this process's command line and end it at once: taking an interpreter apart takes a boot 30 ms."""
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def _dispatch(options: argparse.Namespace, begun: float) -> int:
    if options.verb in ("completion", "manual"):
        return _tell_of_itself(options)
    settings = config.load(options.config)
    if options.verb in ("enrol", "renew", "adopt"):  # the others do it where they begin with a broker
        from agent import hygiene

        hygiene.harden()  # before a token, a new private key or somebody's passphrase is read
    match options.verb:
        case "unlock":
            return _unlock(settings, options.deadline, mount=options.mount, begun=begun)
        case "lock":
            return _lock(settings)
        case "enrol":
            return _enrol(settings, options)
        case "renew":
            return _renew(settings, options)
        case "settle" | "plan" | "prove":
            return _change(settings, options)
        case "status":
            return _status(settings, as_json=options.json)
        case "adopt":
            return _adopt(settings, options)
        case "restore-header":
            return _restore_header(settings, options)
        case "forget":
            return _forget(settings, options)
        case _:
            return _doctor(settings, as_json=options.json)


def _tell_of_itself(options: argparse.Namespace) -> int:
    from agent import grammar, manual

    parser, verbs = grammar.parsers()
    if options.verb == "completion":
        print(manual.completion(options.shell, parser, verbs), end="")
    else:
        say(f"{PROGRAM}: written: {manual.write(options.directory, parser, verbs)}", 6)
    return 0


def say(line: str, priority: int) -> None:
    """Print a line to standard error, with its priority where the journal reads it (sd-daemon(3))."""
    prefix = f"<{priority}>" if _journal_reads() else ""
    print(f"{prefix}{line}", file=sys.stderr, flush=True)


def _journal_reads() -> bool:
    """Say whether standard error is the journal's; the variable alone may be inherited (systemd.exec(5))."""
    stream = os.environ.get("JOURNAL_STREAM")
    if stream is None:
        return False
    about = os.fstat(sys.stderr.fileno())
    return stream == f"{about.st_dev}:{about.st_ino}"


def _unlock(settings: Config, deadline_seconds: float | None, *, mount: bool, begun: float) -> int:
    from agent import contact

    seconds = settings.deadline_seconds if deadline_seconds is None else deadline_seconds
    deadline = time.monotonic() + seconds

    def tell(line: str, priority: int) -> None:
        say(f"{PROGRAM}: {line}", priority)

    broker = contact.begin(settings, deadline, tell)
    from agent import unlocking  # while the handshake goes on

    gc.freeze()
    gc.enable()
    return unlocking.unlock(settings, broker, deadline=deadline, mount=mount, begun=begun, tell=tell)


def _lock(settings: Config) -> int:
    from agent import layout, lock

    closed = lock.lock(layout.load(settings.state_directory).records, runtime=settings.runtime_directory)
    status = 0
    for volume in closed:
        if volume.error is None:
            say(f"{PROGRAM}: {volume.name}: closed{' already' if volume.result == 'already' else ''}", 6)
            continue
        for line in volume.error.lines(PROGRAM):
            say(line, 3)
        status = status or volume.error.problem.exit_status
    return status


def _enrol(settings: Config, options: argparse.Namespace) -> int:
    from agent import enrolment, layout, mountunits, process, supervisor
    from agent.broker import Clockwork
    from keybroker.wire.secret import Secret

    token = Secret(options.token.encode()) if options.token is not None else _token(options.token_file)
    who = enrolment.enrol(
        settings.state_directory,
        tuple(options.broker),
        token,
        deadline=time.monotonic() + (ENROL_SECONDS if options.deadline is None else options.deadline),
        clockwork=Clockwork(tell=lambda line: say(f"{PROGRAM}: {line}", 4)),
    )
    records = layout.load(settings.state_directory).records
    if settings.mounts == "systemd" and supervisor.is_running() and mountunits.install(records):
        process.run("systemctl", "daemon-reload")
    print(f"enrolled as {who.host}; the certificate is good until {enrolment.until(who)}")
    print(f"volumes: {', '.join(record.name for record in records) or 'none yet'}")
    return 0


def _token(file: str) -> Secret:
    from keybroker.wire.secret import Secret

    try:
        if file == "-":
            if sys.stdin.isatty():
                print("token: ", end="", file=sys.stderr, flush=True)
            return Secret(sys.stdin.buffer.readline(512).strip())
        with open(file, "rb") as stream:
            return Secret(stream.readline(512).strip())
    except OSError as error:
        raise KeybrokerError(Problem.USAGE, f"{file}: {error.strerror}") from error


def _renew(settings: Config, options: argparse.Namespace) -> int:
    from agent import contact, enrolment, identity, thisboot
    from agent.broker import BrokerClient, Clockwork
    from agent.identity import Identity

    deadline = time.monotonic() + (ENROL_SECONDS if options.deadline is None else options.deadline)

    def client(mine: Identity) -> BrokerClient:
        return BrokerClient(
            settings.brokers or mine.brokers,
            contact.credentials(mine),
            deadline=deadline,
            clockwork=Clockwork(tell=lambda line: say(f"{PROGRAM}: {line}", 4)),
            boot=thisboot.named(),
        )

    if time.time() > identity.load(settings.state_directory).not_after:
        from agent import lapsed

        clockwork = Clockwork(tell=lambda line: say(f"{PROGRAM}: {line}", 4))
        renewed = lapsed.renew(settings, deadline=deadline, clockwork=clockwork)
    else:
        renewed = enrolment.renew(settings.state_directory, client, now=time.time(), force=options.now)
    if renewed.unsaved is not None:
        raise enrolment.unsaved(settings.state_directory, renewed.unsaved)
    who = renewed.identity
    print("renewed" if renewed.done else "not due yet", end=": ")
    print(f"the certificate of {who.host} is good until {enrolment.until(who)}")
    return 0


def _adopt(settings: Config, options: argparse.Namespace) -> int:
    from agent import takeover
    from agent.change import outfit
    from agent.change.broker import SECONDS
    from agent.places import Places
    from agent.unlocking import boot

    def tell(line: str, priority: int) -> None:
        say(f"{PROGRAM}: {line}", priority)

    wish = takeover.Wish(
        options.volume,
        None if options.key_file is None else _passphrase(options.key_file),
        remove_others=options.remove_others,
        convert=options.convert,
        header_backup=options.header_backup,
    )
    patience = SECONDS if options.deadline is None else options.deadline
    shop = outfit.workshop(settings, outfit.client(settings, patience=patience, tell=tell), tell)
    places = Places(settings.devices)
    runtime = settings.runtime_directory
    takeover.adopt(shop, places, boot(), runtime, wish, lambda line: print(line, flush=True))
    return 0


def _passphrase(file: str) -> Secret:
    from agent import takeover

    try:
        if file == "-":
            return takeover.read_passphrase(sys.stdin.buffer.read)
        with open(file, "rb") as stream:
            return takeover.read_passphrase(stream.read)
    except OSError as error:
        raise KeybrokerError(Problem.USAGE, f"{file}: {error.strerror}") from error


def _restore_header(settings: Config, options: argparse.Namespace) -> int:
    from agent import contact, restoration
    from agent.places import Places
    from agent.unlocking import boot

    deadline = time.monotonic() + (ENROL_SECONDS if options.deadline is None else options.deadline)
    bench = restoration.Bench(
        broker=contact.begin(settings, deadline, lambda line, priority: say(f"{PROGRAM}: {line}", priority)),
        places=Places(settings.devices),
        boot=boot(),
        state=settings.state_directory,
        runtime=settings.runtime_directory,
        now=time.time(),
    )
    for line in restoration.told(restoration.restore(bench, options.volume, sure=options.yes)):
        print(line)
    return 0


def _forget(settings: Config, options: argparse.Namespace) -> int:
    from agent import layout

    said = "forgotten" if options.yes else "would be forgotten (--yes to do it)"
    for record in layout.forget(settings.state_directory, options.volume, sure=options.yes):
        print(f"{record.name}: {record.volume}, {record.role}, on disk {record.serial}: {said}")
    return 0


def _change(settings: Config, options: argparse.Namespace) -> int:
    from agent.change.broker import SECONDS

    patience = SECONDS if options.deadline is None else options.deadline

    def tell(line: str, priority: int) -> None:
        say(f"{PROGRAM}: {line}", priority)

    if options.verb == "plan":
        from agent.change import outlook

        print(outlook.report(settings, patience=patience, as_json=options.json, tell=tell))
        return 0
    if options.verb == "prove":
        from agent.change import proving

        return proving.prove_all(settings, patience=patience, tell=tell)
    from agent.change import settlement

    return settlement.settle(settings, patience=patience, if_due=options.if_due, tell=tell)


def _status(settings: Config, *, as_json: bool) -> int:
    from agent import standing

    print(standing.report(settings, as_json=as_json))
    return 0


def _doctor(settings: Config, *, as_json: bool) -> int:
    from agent import doctor

    findings = doctor.examine(settings)
    print(doctor.as_json(findings) if as_json else doctor.as_table(findings))
    return 1 if any(finding.result == "bad" for finding in findings) else 0
