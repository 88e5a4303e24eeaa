"""Every verb and every endpoint is driven with secrets that are known here, and then they are looked for.

In replies and in what verbs print, in the log, in the journal, in every process's arguments and environment,
in all files of the broker (database and its log among them), in backups, in exports, and in the core file
that is not there. Each secret is found where it belongs, which shows that the search finds it.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyrage
import pytest

from keybroker.web.described import document
from tests.contract.softhsm import make_token
from tests.tls import driving
from tests.tls.driving import CORES, VERBS, Site, keygen
from tests.tls.marked import Watch
from tests.tls.running import CLI, install
from tests.tls.test_tls_journal import Listener

pytestmark = pytest.mark.limit(300)  # the first test has the fixture, which starts some 120 programs

_LINE = re.compile(r"(?:main|enrolment): ([A-Z]+) (\S+) (\d+) ")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Everything that can be done to a broker, done once."""
    directory = tmp_path_factory.mktemp("secrets")
    offline = {name: directory / f"{name}.key" for name in ("recovery", "backup")}
    public = {name: keygen(path) for name, path in offline.items()}
    (directory / "token").mkdir(mode=0o700)
    token = make_token(directory / "token")  # its tool takes a PIN as an argument
    with Watch() as watch:
        (directory / "broker").mkdir()
        broker = install(directory / "broker", options=("--recovery-recipient", public["recovery"]))
        site = Site(broker, offline, token, watch=watch, journal=Listener(directory / "journal"))
        for name, path in offline.items():
            site.marked.mark(f"{name} key", path.read_text().strip())
        driving.mark_installation(site)
        driving.start(site)
        try:
            driving.second_installation(site, directory / "second")
            driving.add_ons_and_operators(site, directory)
            host = driving.first_host(site)
            data = driving.provision(site, host, "data")
            driving.rotation_and_reencryption(site, host, data)
            driving.migration(site, host, driving.provision(site, host, "moved"))
            driving.adoption(site, host)
            driving.wishes(site, host, directory)
            driving.deletions(site)
            driving.recovery(site, host, public["recovery"], directory)
            # from here on it logs to stderr, where before it told the journal
            assert broker.stop() == 0
            broker.start(inside=CORES, SOFTHSM2_CONF=str(token.configuration))
            driving.reading(site, host, data)
            driving.boots(site)
            driving.canaries(site, host)
            driving.certificates(site)
            driving.master_keys(site)
            driving.audit_and_backup(site, public["backup"], directory)
            yield site
        finally:
            if broker.process is not None:
                broker.stop()
            assert site.journal is not None
            site.journal.close()


# what was driven


def test_every_verb_was_driven(site: Site) -> None:
    assert VERBS - set(site.verbs) == {"keybroker serve"}, "drive the others in tests/tls/driving.py"


def test_every_endpoint_was_driven_and_did_what_it_is_for(site: Site) -> None:
    assert site.journal is not None
    said = "\n".join([site.broker.log.read_text(), *(one["MESSAGE"] for one in site.journal.entries)])
    answered = {
        (method, path.partition("?")[0])
        for method, path, status in _LINE.findall(said)
        if status.startswith("2")
    }
    lacking = [
        f"{method.upper()} {path}"
        for path, methods in document()["paths"].items()
        for method in methods
        if method != "servers"
        and not any(
            one == method.upper() and re.fullmatch(re.sub(r"\{[a-z]+\}", "[^/]+", path), asked)
            for one, asked in answered
        )
    ]
    assert lacking == [], "drive these in tests/tls/driving.py"


def test_each_secret_is_found_where_it_belongs(site: Site) -> None:
    """Or else the search would find nothing anywhere."""
    belongs = site.broker.directory / "config"
    texts = [path.read_bytes() for path in belongs.rglob("*.key")]
    texts += [
        path.read_bytes() for path in [*site.offline.values(), site.broker.directory.parent / "host/host.key"]
    ]
    texts.append(site.token.pin.read_bytes())
    texts += [reply.body for _what, reply, _may in site.replies]
    texts += [done.stdout.encode() for done in site.verbs["keybroker master split"]]
    found = {name for text in texts for name in site.marked.found(text)}
    assert set(site.marked.names) - found == {"canary", "imported passphrase"}


# where they must not be


def test_no_verb_prints_one_but_the_one_that_it_is_for(site: Site) -> None:
    for verb, runs in site.verbs.items():
        for done in runs:
            said = (done.stdout + done.stderr).encode()
            assert site.marked.found(said, but=site.allowed[id(done)]) == [], verb


def test_no_reply_has_one_but_the_one_that_it_is_for(site: Site) -> None:
    for what, reply, may in site.replies:
        assert site.marked.found(reply.body, but=may) == [], what
        assert site.marked.found(repr(reply.headers).encode()) == [], what


def test_the_servers_log_has_none(site: Site) -> None:
    assert len(site.broker.log.read_bytes()) > 10_000
    assert site.marked.found(site.broker.log.read_bytes()) == []


def test_the_journal_has_none(site: Site) -> None:
    """The broker's own messages, and the copies of records."""
    assert site.journal is not None
    site.journal.wait_for(60)
    said = json.dumps(site.journal.entries).encode()
    assert b"/v1/unlock" in said
    assert site.marked.found(said) == []


def test_no_arguments_and_no_environment_have_one(site: Site) -> None:
    assert site.watch is not None
    seen = b"\0\0".join(site.watch.seen)
    for word in (b"serve", b"reveal", b"rotate", b"import", b"JOURNAL_STREAM"):
        assert word in seen, f"{word!r} was not seen, and so nothing is shown"
    assert site.marked.found(seen) == []


def test_the_database_and_its_log_have_none(site: Site) -> None:
    files = sorted(site.broker.database.parent.iterdir())
    assert {path.name for path in files} >= {"keybroker.db", "keybroker.db-wal", "audit.copied"}
    for path in [path for path in files if path.is_file()]:  # a socket has nothing to read
        assert site.marked.found(path.read_bytes()) == [], path.name


def test_no_file_has_one_but_the_one_that_it_is_for(site: Site) -> None:
    meant = {"ca.key": "ca key", "server.key": "server key"}
    for path in sorted(site.broker.directory.rglob("*")):
        if not path.is_file():
            continue
        own = meant.get(
            path.name, "operator key" if path.parent.name in ("operators", "people") else "master key"
        )
        may = (own,) if path.suffix == ".key" else ()
        assert site.marked.found(path.read_bytes(), but=may) == [], path


def test_an_export_of_the_trail_has_none(site: Site) -> None:
    (export,) = site.exports
    assert export.count(b"\n") > 100
    assert site.marked.found(export) == []


def test_a_backup_has_none_and_what_is_in_it_only_the_ca_s_and_the_server_s_own(site: Site) -> None:
    assert site.marked.found(site.backup) == []
    key = pyrage.x25519.Identity.from_str(site.offline["backup"].read_text().strip())
    plain = pyrage.decrypt(site.backup, [key])
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        for name in archive.getnames():
            file = archive.extractfile(name)
            found = site.marked.found(b"" if file is None else file.read())
            assert found in ([], [name.rpartition("/")[2].replace(".key", " key")]), name
    assert sorted(site.marked.found(plain)) == ["ca key", "server key"]


# what is left when a process dies


def test_a_server_that_crashes_leaves_no_core(site: Site) -> None:
    assert site.broker.process is not None
    assert core_limit(site.broker.process.pid) == ["0", "0"]
    status = site.broker.abort()
    assert (os.WTERMSIG(status), os.WCOREDUMP(status)) == (signal.SIGABRT, False)
    site.broker.start(SOFTHSM2_CONF=str(site.token.configuration))


def test_a_verb_that_crashes_leaves_no_core(site: Site, tmp_path: Path) -> None:
    """Where this machine writes cores at all, another program's is written."""
    other = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    follow = [*CLI, "audit", "tail", "-f", "--config", str(site.broker.config)]
    cores = [abort(command, tmp_path) for command in (other, follow)]
    assert cores in ([True, False], [False, False])


def core_limit(pid: int) -> list[str]:
    (line,) = (line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if " core " in line)
    return line.split()[-3:-1]


def abort(command: Sequence[str], directory: Path) -> bool:
    """Abort a process once it has said something; say whether the kernel wrote its memory down."""
    shell = [*CORES, *command]
    with subprocess.Popen(shell, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        if command[1:3] == CLI[1:3]:
            assert core_limit(process.pid) in (["1", "1"], ["0", "0"])
        os.kill(process.pid, signal.SIGABRT)
        _pid, status = os.waitpid(process.pid, 0)
        process.returncode = -signal.SIGABRT
    for path in directory.glob("core*"):
        path.unlink()
    return os.WCOREDUMP(status)
