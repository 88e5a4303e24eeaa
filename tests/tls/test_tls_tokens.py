"""An enrolment token works once, for one key, whoever hurries."""

from __future__ import annotations

import threading

from cryptography.hazmat.primitives.asymmetric import ec

from tests.tls.forging import signing_request
from tests.tls.running import Broker, Reply


def new_request() -> str:
    return signing_request(ec.generate_private_key(ec.SECP256R1()))


def enrol(broker: Broker, token: str, csr: str) -> Reply:
    return broker.ask("POST", "/v1/enrolment", {"token": token, "csr": csr}, port=broker.enrolment)


def test_a_replayed_token_is_refused_to_another_key(broker: Broker) -> None:
    token = broker.invite("shop")
    assert enrol(broker, token, new_request()).status == 200
    again = enrol(broker, token, new_request())
    assert (again.status, again.problem) == (403, "token-refused")


def test_a_lost_reply_costs_nothing(broker: Broker) -> None:
    token, csr = broker.invite("shop"), new_request()
    first, second = enrol(broker, token, csr), enrol(broker, token, csr)
    assert first.status == second.status == 200
    assert first.document["certificate"] == second.document["certificate"]


def test_of_many_that_race_with_one_token_one_wins(broker: Broker) -> None:
    token = broker.invite("shop")
    start, replies = threading.Barrier(8), []

    def race(csr: str) -> None:
        start.wait(30)
        replies.append(enrol(broker, token, csr))

    runners = [threading.Thread(target=race, args=(new_request(),)) for _ in range(8)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(60)
    assert sorted(reply.status for reply in replies) == [200] + [403] * 7
    assert {reply.problem for reply in replies if reply.status == 403} == {"token-refused"}


def test_a_token_that_was_never_made_is_refused(broker: Broker) -> None:
    head, _, fingerprint = broker.invite("shop").rpartition(".")
    reply = enrol(broker, f"{head[:-4]}AAAA.{fingerprint}", new_request())
    assert (reply.status, reply.problem) == (403, "token-refused")


def test_a_token_is_neither_in_the_log_nor_in_the_database(broker: Broker) -> None:
    token = broker.invite("shop")
    enrol(broker, token, new_request())
    secret = token.split(".")[1].encode()
    written = [path for path in broker.directory.rglob("*") if path.is_file()]
    assert broker.log in written
    assert [path for path in written if secret in path.read_bytes()] == []
