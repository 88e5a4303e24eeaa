"""The broker's configuration: what is read, what is refused, and that nothing in it opens the door."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from keybroker.config import Address, parse, render
from keybroker.limits import Limits
from keybroker.store.places import Cluster
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.writers import name_of_host

EVERYWHERE = "0.0.0.0"  # noqa: S104  # nothing is bound here
FILE = Path("/etc/keybroker/keybroker.toml")


def text(health: str = "unix:/run/keybroker/health.sock") -> str:
    return render(
        trust_domain="keybroker.internal",
        broker="https://broker.example:8443",
        enrolment="https://broker.example:8444",
        database=Path("/var/lib/keybroker/keybroker.db"),
        master_key="file:/etc/keybroker/master.key",
        listen_main=Address(EVERYWHERE, 8443),
        listen_enrolment=Address("::1", 8444),
        health=health,
    )


def refused(configuration: str) -> str:
    with pytest.raises(KeybrokerError) as caught:
        parse(configuration, FILE)
    assert caught.value.problem is Problem.CONFIGURATION
    return caught.value.detail


def test_what_init_writes_serve_reads() -> None:
    settings = parse(text(), FILE)
    files = settings.installation
    assert settings.listen_main == Address(EVERYWHERE, 8443)
    assert settings.listen_enrolment == Address("::1", 8444)
    assert settings.health == Path("/run/keybroker/health.sock")
    assert settings.enrolment == "https://broker.example:8444"
    assert files.ca_certificate == Path("/etc/keybroker/ca.crt")
    assert files.server_key == Path("/etc/keybroker/server.key")
    assert files.database == Path("/var/lib/keybroker/keybroker.db")
    assert files.settings.brokers == ("https://broker.example:8443",)
    assert settings.limits == Limits()


def test_a_path_with_odd_characters_comes_back_as_it_was() -> None:
    database = Path('/srv/a "quoted" place\\with\ttabs and ü/keybroker.db')
    written = render(
        trust_domain="t",
        broker="https://b",
        enrolment="https://e",
        database=database,
        master_key="file:/k",
        listen_main=Address("::", 1),
        listen_enrolment=Address("::", 2),
        health="unix:/h",
    )
    assert parse(written, FILE).installation.database == database


def test_limits_and_lifetimes_can_be_set() -> None:
    more = text() + "\n[limits]\nthreads = 2\nqueue = 7\n[lifetimes]\nhost_days = 10\ngrace_days = 0\n"
    more += "[audit]\ncheckpoint_records = 50\njournal = false\n"
    settings = parse(more, FILE)
    assert settings.limits == Limits(threads=2, queue=7)
    assert settings.installation.settings.host_lifetime == timedelta(days=10)
    assert settings.installation.settings.grace == timedelta(0)
    assert settings.installation.settings.retention == timedelta(days=30)
    assert (settings.installation.settings.checkpoint_records, settings.journal) == (50, False)
    assert settings.installation.settings.checkpoint_interval == timedelta(seconds=60)


@pytest.mark.parametrize(
    "address", ["http://0.0.0.0:8445", "http://192.0.2.1:8445", "http://[::]:8445", "http://[2001:db8::1]:1"]
)
def test_health_is_not_told_without_tls_to_other_machines(address: str) -> None:
    assert "not a loopback address" in refused(text(health=address))


@pytest.mark.parametrize("address", ["127.0.0.1:8445", "https://127.0.0.1:1", "http://localhost:1", "unix:x"])
def test_health_is_told_at_a_place_that_cannot_be_mistaken(address: str) -> None:
    assert "health" in refused(text(health=address))


@pytest.mark.parametrize("address", ["http://127.0.0.1:8445", "http://[::1]:8445"])
def test_health_may_be_told_on_loopback(address: str) -> None:
    assert parse(text(health=address), FILE).health == Address.parse(address.removeprefix("http://"), "x")


@pytest.mark.parametrize(
    "line",
    [
        "tls = false",
        "verify_clients = false",
        "verify = false",
        "insecure = true",
        "client_certificates = 'optional'",
        "debug = true",
    ],
)
@pytest.mark.parametrize("section", ["", "[listen]", "[files]", "[limits]\nthreads = 1"])
def test_nothing_turns_tls_or_verification_off(line: str, section: str) -> None:
    if section == "":
        configuration = f"{line}\n{text()}"
    elif section in text():
        configuration = text().replace(section, f"{section}\n{line}")
    else:
        configuration = f"{text()}\n{section}\n{line}\n"
    assert "not known here" in refused(configuration)


@pytest.mark.parametrize(
    ("was", "becomes", "names"),
    [
        ('"0.0.0.0:8443"', '"broker.example:8443"', "numeric address"),
        ('"0.0.0.0:8443"', '"0.0.0.0:99999"', "port"),
        ('"0.0.0.0:8443"', '"0.0.0.0"', "numeric address"),
        ('"0.0.0.0:8443"', "8443", "listen.main"),
        ("https://broker.example:8443", "http://broker.example:8443", "brokers"),
        ("https://broker.example:8443", "https://broker.example:8443/path", "brokers"),
        ('["https://broker.example:8443"]', "[]", "brokers"),
        ("https://broker.example:8444", "http://broker.example:8444", "enrolment"),
        ("keybroker.internal", "Keybroker Internal", "trust_domain"),
        ("file:/etc/keybroker/master.key", "file:master.key", "master_key"),
        ("file:/etc/keybroker/master.key", "0123456789abcdef", "master_key"),
        ("trust_domain", "trust_domian", "trust_domain"),
        ("[files]", "[files", "keybroker.toml"),
    ],
)
def test_what_is_wrong_is_named(was: str, becomes: str, names: str) -> None:
    without_remarks = "\n".join(line for line in text().splitlines() if not line.startswith("#"))
    assert was in without_remarks
    said = refused(without_remarks.replace(was, becomes, 1))
    assert names in said
    assert str(FILE) in said


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    from keybroker.config import load

    with pytest.raises(KeybrokerError, match=r"keybroker\.toml: cannot be read: No such file"):
        load(tmp_path / "keybroker.toml")


def test_master_keys_are_one_uri_or_a_list_of_them() -> None:
    one = "file:/etc/keybroker/master.key"
    assert parse(text(), FILE).installation.master_keys == (one,)
    two = text().replace(f'"{one}"', f'["credential:new", "{one}"]')
    assert parse(two, FILE).installation.master_keys == ("credential:new", one)
    for wrong in ("[]", '["credential:new", 3]', '["credential:new", "0123456789abcdef"]', '["a:b", "a:b"]'):
        said = refused(text().replace(f'"{one}"', wrong))
        assert "master_key" in said
        assert "0123456789abcdef" not in said
    assert "twice" in refused(text().replace(f'"{one}"', '["credential:new", "credential:new"]'))


def test_master_keys_are_read_again_from_the_file(tmp_path: Path) -> None:
    from keybroker.config import load

    file = tmp_path / "keybroker.toml"
    file.write_text(text())
    reread = load(file).installation.reread
    assert reread is not None
    file.write_text(text().replace('"file:/etc/keybroker/master.key"', '["credential:a", "credential:b"]'))
    assert reread() == ("credential:a", "credential:b")


CLUSTER = "postgresql+psycopg://keybroker@db1,db2:5433,db3/keybroker?target_session_attrs=read-write"


def on_cluster(uri: str) -> str:
    return text().replace('database = "/var/lib/keybroker/keybroker.db"', f'database = "{uri}"')


def test_a_database_of_postgresql_is_one_line() -> None:
    files = parse(on_cluster(CLUSTER), FILE).installation
    assert files.place == files.cluster == Cluster(CLUSTER)
    assert files.state_directory == Path("/var/lib/keybroker")
    assert not Cluster(CLUSTER).is_local


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("postgresql+psycopg://me:hunter2@db/keybroker", "password"),
        ("postgresql+psycopg://me@db/keybroker?password=hunter2", "password"),
        ("postgresql://me@db/keybroker", "neither a path"),
        ("mysql+pymysql://me@db/keybroker", "neither a path"),
    ],
)
def test_a_uri_with_a_password_or_of_another_engine_is_refused_and_not_repeated(uri: str, says: str) -> None:
    said = refused(on_cluster(uri))
    assert says in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("postgresql+psycopg:///keybroker", True),
        ("postgresql+psycopg://me@/keybroker?host=/run/postgresql", True),
        ("postgresql+psycopg://me@127.0.0.1:5432,[::1]:5432/keybroker", True),
        ("postgresql+psycopg://me@%2Frun%2Fpostgresql/keybroker", True),
        ("postgresql+psycopg://localhost,db/keybroker", False),
        ("postgresql+psycopg://me@localhost/keybroker?host=db", False),
        ("postgresql+psycopg://me@localhost/keybroker?hostaddr=192.0.2.1", False),
    ],
)
def test_it_is_known_whether_packets_leave_this_machine(uri: str, local: bool) -> None:
    assert Cluster(uri).is_local is local


def test_what_init_writes_for_postgresql_serve_reads() -> None:
    written = render(
        trust_domain="t",
        broker="https://b",
        enrolment="https://e",
        database=Cluster(CLUSTER),
        state=Path("/srv/broker"),
        master_key="file:/k",
        listen_main=Address("::", 1),
        listen_enrolment=Address("::", 2),
        health="unix:/h",
    )
    files = parse(written, FILE).installation
    assert files.cluster == Cluster(CLUSTER)
    assert files.state_directory == Path("/srv/broker")


def test_whoever_keeps_a_file_does_not_load_psycopg() -> None:
    program = "import sys, keybroker.server, keybroker.store.schema as s; print('psycopg' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


def test_a_broker_is_called_main_by_itself_and_by_its_host_where_others_share_the_database() -> None:
    assert parse(text(), FILE).installation.settings.writer == "main"
    named = text() + '\n[audit]\nwriter = "b2"\n'
    assert parse(named, FILE).installation.settings.writer == "b2"
    shared = text().replace("/var/lib/keybroker/keybroker.db", "postgresql+psycopg://b@/kb?host=/run/pg")
    assert parse(shared + '\n[audit]\nwriter = "b2"\n', FILE).installation.settings.writer == "b2"
    for wrong in ("", "B2", "b/2", "b 2", "b" * 41):
        assert "audit.writer" in refused(text() + f'\n[audit]\nwriter = "{wrong}"\n')


def test_a_host_whose_name_tells_no_brokers_apart_has_to_be_named() -> None:
    assert name_of_host("Broker-1.eu.example.org") == "broker-1-eu-example-org"
    assert len(name_of_host("b" * 64)) == 40
    for host in ("", "localhost", "localhost.localdomain", "___", "main"):
        with pytest.raises(KeybrokerError) as caught:
            name_of_host(host)
        assert caught.value.problem is Problem.CONFIGURATION
        assert caught.value.hint is not None
