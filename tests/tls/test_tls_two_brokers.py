"""Two brokers, each a process of its own, on one database: either serves whoever the other knows."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.contract.postgres_cluster import PostgresServer, start_server
from tests.tls.forging import signing_request
from tests.tls.running import Broker, Reply, free_ports, install, run_cli


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = start_server()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def first(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Broker]:
    options: list[str] = []
    if request.param == "postgresql":
        options += ["--database", request.getfixturevalue("postgres").database().uri]
    broker = install(tmp_path, options=options)
    name(broker, "b1")
    broker.start()
    yield broker
    if broker.process is not None:
        assert broker.stop() == 0


def name(broker: Broker, writer: str) -> None:
    with broker.config.open("a") as file:
        file.write(f'\n[audit]\nwriter = "{writer}"\n')


def beside(first: Broker, writer: str) -> Broker:
    """Return another broker that serves the same installation, with the same CA and master key."""
    main, enrolment = free_ports(2)
    directory = first.directory.with_name(f"{first.directory.name}-{writer}-{main}")
    shutil.copytree(first.config.parent, directory / "config")
    made = Broker(directory, main, enrolment)
    text = made.config.read_text().replace('writer = "b1"', f'writer = "{writer}"')
    for old, new in ((first.main, main), (first.enrolment, enrolment)):
        text = text.replace(f":{old}", f":{new}")
    text = text.replace(f"unix:{first.health}", f"unix:{made.health}")
    text = text.replace(f'state = "{first.directory}/state"', f'state = "{directory}/state"')
    made.config.write_text(text)
    (directory / "state").mkdir()
    for path in (directory, *(directory / each for each in ("state", "config", "config/operators"))):
        path.chmod(0o700)
    return made


@pytest.fixture
def second(first: Broker) -> Iterator[Broker]:
    made = beside(first, "b2")
    made.start()
    yield made
    if made.process is not None:
        assert made.stop() == 0


def heads(broker: Broker) -> dict[str, int]:
    document = broker.ask("GET", "/v1/audit?after=-1&limit=1", who=broker.operator).document
    return {head["writer"]: head["sequence"] for head in document["heads"]}


def test_either_serves_whom_the_other_knows_and_a_raced_token_is_spent_once(
    first: Broker, second: Broker
) -> None:
    first.add_addon("shop-db")
    volume = first.add_volume("shop-db", "data")
    host = second.enrol("shop-db")
    first.make_ready(host, volume)
    for broker in (second, first):
        reply = broker.ask("GET", "/v1/addons/shop-db/volumes/data", who=broker.operator)
        assert reply.document["stage"] == "ready"
    for _ in range(3):
        token = first.invite("shop-db")
        replies = race(token, first, second)
        assert sorted(reply.status == 200 for reply in replies) == [False, True], [r.body for r in replies]
    revoked = second.ask("PUT", f"/v1/hosts/{host.id}/revocation", {"reason": "left"}, who=second.operator)
    assert revoked.status == 200
    assert first.ask("GET", "/v1/self", who=host.files).status in (403, 404)
    # both chains are whole, and a checkpoint of either has seen both
    assert second.stop() == 0
    assert first.stop() == 0
    first.start()
    assert set(heads(first)) == {"main", "b1", "b2"}
    verified = run_cli("audit", "verify", "--json", "--config", str(first.config))
    assert verified.returncode == 0, verified.stderr
    document = json.loads(verified.stdout)
    chains: dict[str, Any] = {chain["writer"]: chain for chain in document["chains"]}
    assert set(chains) == {"main", "b1", "b2"}
    assert chains["b2"]["signed_up_to"] == chains["b2"]["last"] > 5
    exported = first.directory / "trail.jsonl"
    assert run_cli("audit", "export", str(exported), "--config", str(first.config)).returncode == 0
    offline = run_cli("audit", "verify", str(exported), "--json")
    assert offline.returncode == 0, offline.stderr
    assert {chain["writer"] for chain in json.loads(offline.stdout)["chains"]} == {"main", "b1", "b2"}


def race(token: str, *brokers: Broker) -> list[Reply]:
    start, replies = threading.Barrier(len(brokers)), list[Reply]()

    def enrol(broker: Broker) -> None:
        body = {"token": token, "csr": signing_request(ec.generate_private_key(ec.SECP256R1()))}
        start.wait(20)
        replies.append(broker.ask("POST", "/v1/enrolment", body, port=broker.enrolment))

    threads = [threading.Thread(target=enrol, args=(broker,)) for broker in brokers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return replies


@pytest.mark.parametrize("first", ["postgresql"], indirect=True)
def test_of_two_with_one_name_the_former_answers_why_it_writes_nothing(first: Broker, second: Broker) -> None:
    again = beside(first, "b2")
    again.start()
    try:
        refused = second.ask("PUT", "/v1/addons/shop-db", {"engine": "postgresql"}, who=second.operator)
        assert (refused.status, refused.problem) == (503, "unavailable")
        assert "another process has taken the name of this broker, b2" in refused.document["detail"]
        assert second.probe("/readyz").status == 503
        assert again.probe("/readyz").status == 200
        again.add_addon("shop-db")
        assert second.process is not None
        assert second.process.poll() is None, "a service manager would start it again, and it would take over"
    finally:
        assert again.stop() == 0
