"""The verbs that bring a header in, or back, started as an operator starts them."""

from __future__ import annotations

import pytest

from keybroker.wire.problems import Problem
from tests.contract import test_agent_cli_verbs as verbs
from tests.contract.test_agent_broker import GRANT
from tests.contract.test_agent_cli_verbs import NO_VOLUMES, Machine

TYPED = "correct horse battery staple"

signer = verbs.signer
machine = verbs.machine
enrolled = verbs.enrolled


def test_adopt_reads_a_pipe_and_names_the_volume_that_the_broker_does_not_know(enrolled: Machine) -> None:
    done = enrolled.run("adopt", "data", "--key-file", "-", stdin=TYPED)
    assert done.returncode == Problem.UNKNOWN.exit_status
    assert "data: the broker knows no such volume of this machine" in done.stderr
    assert "hint: declare it there first" in done.stderr
    assert TYPED not in done.stdout + done.stderr


def test_adopt_never_says_that_it_is_done_where_the_disk_is_not_there(enrolled: Machine) -> None:
    enrolled.unlocked = {**NO_VOLUMES, "grants": [GRANT]}
    done = enrolled.run("adopt", "data", "--key-file", "-", stdin=TYPED)
    assert done.returncode != 0
    assert "adopted" not in done.stdout
    assert TYPED not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--key-file", "/nonexistent"), "/nonexistent: No such file"),
        (("--key-file", "-"), "passphrase: must have 1 to"),
        (("--convert",), "go together"),
    ],
)
def test_adopt_refuses_what_makes_no_sense_before_it_asks_anybody(
    enrolled: Machine, options: tuple[str, ...], said: str
) -> None:
    asked = len(enrolled.broker.asked)
    done = enrolled.run("adopt", "data", *options)
    assert done.returncode == Problem.USAGE.exit_status
    assert said in done.stderr
    assert len(enrolled.broker.asked) == asked


def test_restore_header_names_the_volume_that_the_broker_does_not_know(enrolled: Machine) -> None:
    done = enrolled.run("restore-header", "data", "--yes")
    assert done.returncode == Problem.UNKNOWN.exit_status
    assert "data: the broker knows no such volume of this machine" in done.stderr


@pytest.mark.parametrize("verb", ["adopt", "restore-header"])
def test_a_machine_that_is_not_enrolled_is_told_so(machine: Machine, verb: str) -> None:
    done = machine.run(verb, "data")
    assert done.returncode == Problem.CERTIFICATE.exit_status
    assert "enrol" in done.stderr
