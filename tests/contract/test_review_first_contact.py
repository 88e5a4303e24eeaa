"""First contact: of what a stranger offers, nothing is trusted but the certificate that the token names."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import enrolment
from agent.broker import Limits
from keybroker import ca
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.tls_double import Asked, authority, listening, refusal, reply, server_papers, token_for

QUICK = Limits(connect=0.5, whole=2.0)


def genuine_ending_with(padding: int) -> ca.Authority:
    """Return a CA whose base64 ends with so many ``=``: decoders that stop there read the rest as nothing."""
    for i in range(60):
        made = authority("CA" + "x" * i)
        if base64.b64encode(ssl.PEM_cert_to_DER_cert(made.pem)).count(b"=") == padding:
            return made
    raise AssertionError("no such CA")


def appended(genuine: str, impostor: str) -> str:
    return genuine + impostor


def appended_in_one_line(genuine: str, impostor: str) -> str:
    return genuine.rstrip() + impostor


def prepended(genuine: str, impostor: str) -> str:
    return impostor + genuine


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("bundle", [appended, appended_in_one_line, prepended])
def test_a_second_ca_beside_the_right_one_gets_no_token(
    tmp_path: Path, bundle: Callable[[str, str], str], padding: int
) -> None:
    genuine, impostor = genuine_ending_with(padding), authority("impostor")
    token = token_for(genuine.pem)

    def in_between(asked: Asked) -> bytes:
        if asked.method == "GET":
            return reply({"ca": bundle(genuine.pem, impostor.pem)})
        return refusal(Problem.TOKEN_REFUSED)

    with (
        listening(in_between, server_papers(tmp_path, impostor), None) as listener,
        pytest.raises(KeybrokerError) as caught,
    ):
        enrolment.enrol(tmp_path / "state", (listener.url,), token, deadline=time.monotonic(), limits=QUICK)

    # what is not one certificate may be called unreadable as well
    assert caught.value.problem in (Problem.UNTRUSTED_BROKER, Problem.UNAVAILABLE)
    assert listener.asked[0].method == "GET"
    assert token.reveal() not in listener.received
