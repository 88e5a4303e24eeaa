"""The verbs that change and prove volumes, and the calls that they make, against a real TLS server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import layout
from agent.broker import Clockwork, Limits
from agent.change.broker import ChangeClient
from agent.change.workshop import Broker
from agent.turn import alone
from agent.unlocking import boot
from keybroker.wire.askingboot import HEADER, AskingBoot
from keybroker.wire.changes import (
    AdoptionRequest,
    ErasedRequest,
    PhaseRequest,
    PromoteRequest,
    StageRequest,
    SwitchRequest,
)
from keybroker.wire.fields import Fields
from keybroker.wire.names import KeyVersion
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.proof import GivenProof
from keybroker.wire.records import Device, Record
from keybroker.wire.reports import ReportRequest, VolumeReport
from keybroker.wire.secret import Secret
from tests.contract.test_agent_broker import GRANT, RECORD, SEEN, UUID, VOLUME, Bench, bench, nobody
from tests.contract.test_agent_cli_verbs import Machine, enrolled, machine, signer
from tests.contract.tls_double import Asked, refusal, reply

__all__ = ["bench", "enrolled", "machine", "signer"]  # fixtures

PROOF = GivenProof(KeyVersion(2), "sha256:" + "0" * 64, 3, "0" * 64)
DEVICE = Device(VOLUME, 1 << 30)
WANTED = {"records": [RECORD | {"wanted": 2}], "again_seconds": 60}
KEY = Secret(b"copy")

CALLS: dict[str, tuple[Any, Callable[[Broker], object]]] = {
    "POST /v1/report": (
        WANTED,
        lambda broker: broker.report(ReportRequest(UUID, "0" * 32, "0.1.0", (VolumeReport(VOLUME, "open"),))),
    ),
    f"PUT /v1/volumes/{VOLUME}/staged": (GRANT, lambda broker: broker.stage(VOLUME, StageRequest(4))),
    f"PUT /v1/volumes/{VOLUME}/current": (
        RECORD,
        lambda broker: broker.promote(VOLUME, PromoteRequest(4, PROOF)),
    ),
    f"DELETE /v1/volumes/{VOLUME}/keys/1": (RECORD, lambda broker: broker.retire(VOLUME, KeyVersion(1))),
    f"PUT /v1/volumes/{VOLUME}/order": (
        RECORD,
        lambda broker: broker.announce(VOLUME, PhaseRequest(4, 1)),
    ),
    f"DELETE /v1/volumes/{VOLUME}/order/7": (RECORD, lambda broker: broker.finish(VOLUME, 7)),
    f"PUT /v1/volumes/{VOLUME}/holder": (
        {"holder": RECORD, "former": RECORD},
        lambda broker: broker.switch(VOLUME, SwitchRequest(4, 5, 1 << 30, 4)),
    ),
    f"PUT /v1/volumes/{VOLUME}/erased": (
        RECORD,
        lambda broker: broker.erased(VOLUME, ErasedRequest(4, DEVICE, 1 << 22, "overwritten")),
    ),
    f"PUT /v1/volumes/{VOLUME}/adoption": (
        RECORD,
        lambda broker: broker.adopt(VOLUME, AdoptionRequest(4, DEVICE, SEEN, KEY, PROOF)),
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_each_change_is_one_call_and_its_reply_is_read(bench: Bench, call: str) -> None:
    said, make = CALLS[call]
    asked: list[str] = []
    this = AskingBoot("00000000-0000-4000-8000-000000000000", "0" * 32)

    def answer(request: Asked) -> bytes:
        asked.append(f"{request.method} {request.path}")
        assert request.headers.get(HEADER.lower()) == f"{this.boot_id} {this.machine_id}"
        return reply(said)

    with bench.serve(answer) as listener:
        client = ChangeClient((listener.url,), bench.credentials, boot=this)
        made = make(client)
        client.close()
    assert asked == [call]
    assert made is not None


def test_each_call_has_a_time_of_its_own_to_get_through(bench: Bench) -> None:
    with nobody() as url:
        client = ChangeClient(
            (url,), bench.credentials, patience=2.0, limits=Limits(0.2, 0.5), clockwork=Clockwork()
        )
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(KeybrokerError) as caught:
                client.retire(VOLUME, KeyVersion(1))
            assert caught.value.problem is Problem.UNREACHABLE
            assert time.monotonic() - begun > 1.0
        client.close()


@pytest.mark.parametrize(("verb", "options"), [("settle", ()), ("unlock", ()), ("renew", ("--now",))])
def test_each_request_of_the_agent_names_its_boot(
    enrolled: Machine, verb: str, options: tuple[str, ...]
) -> None:
    before = len(enrolled.broker.asked)
    enrolled.run(verb, *options)
    asked = enrolled.broker.asked[before:]
    assert {request.headers.get(HEADER.lower()) for request in asked} == {boot().asking().written}


def test_settle_without_volumes_reports_once_and_is_content(enrolled: Machine) -> None:
    done = enrolled.run("settle")
    assert (done.returncode, done.stderr) == (0, "")
    assert [report["volumes"] for report in enrolled.reports] == [[]]


def test_settle_closes_everything_when_it_is_told_so(enrolled: Machine) -> None:
    enrolled.refused = refusal(Problem.LOCK, "is revoked")
    done = enrolled.run("settle")
    assert done.returncode == Problem.LOCK.exit_status
    assert "is revoked: closing all volumes" in done.stderr


def test_settle_if_due_waits_for_the_time_that_the_broker_told(enrolled: Machine) -> None:
    for _ in range(2):
        assert enrolled.run("settle", "--if-due").returncode == 0
    assert len(enrolled.reports) == 1
    assert enrolled.run("settle").returncode == 0
    (enrolled.directory / "run/report-again").write_text("0\n")
    assert enrolled.run("settle", "--if-due").returncode == 0
    assert len(enrolled.reports) == 3


def test_settle_reports_what_keeps_a_volume_from_where_it_is_wanted(enrolled: Machine) -> None:
    enrolled.wanted = WANTED
    done = enrolled.run("settle")
    assert done.returncode == Problem.NO_DEVICE.exit_status, done.stderr
    first, last = enrolled.reports
    assert first["volumes"] == []
    (volume,) = last["volumes"]
    assert (volume["volume"], volume["state"]) == (VOLUME, "absent")
    assert volume["trouble"]["problem"] == "no-device"


def test_settle_leaves_a_volume_to_the_agent_that_is_at_it(enrolled: Machine) -> None:
    enrolled.wanted = WANTED
    with alone(enrolled.directory / "run", VOLUME):
        done = enrolled.run("settle")
    assert done.returncode == Problem.BUSY.exit_status
    assert "another agent" in done.stderr
    assert not any(report["volumes"] for report in enrolled.reports), "its trouble is told by the other agent"


def test_plan_names_the_reason_why_nothing_can_be_done(enrolled: Machine) -> None:
    enrolled.unlocked["grants"] = [GRANT | {"record": RECORD | {"wanted": 2}, "keys": {}}]
    done = enrolled.run("plan")
    assert done.returncode == 0, done.stderr
    assert "none: no-device" in done.stdout
    (volume,) = json.loads(enrolled.run("plan", "--json").stdout)["volumes"]
    assert (volume["name"], volume["current"], volume["wanted"]) == ("data", 1, 2)
    assert volume["trouble"]["problem"] == "no-device"
    assert enrolled.reports == []


def test_prove_without_an_open_volume_proves_nothing_and_says_so_to_the_broker(enrolled: Machine) -> None:
    enrolled.unlocked["grants"] = [GRANT | {"keys": {}}]
    enrolled.run("unlock", "--deadline", "0")
    assert enrolled.run("prove").returncode == 0
    (volume,) = enrolled.reports[0]["volumes"]
    assert (volume["state"], volume["proof"]) == ("absent", None)


@pytest.mark.parametrize("verb", ["settle", "plan", "prove"])
def test_a_machine_that_is_not_enrolled_is_told_so(machine: Machine, verb: str) -> None:
    done = machine.run(verb)
    assert done.returncode == Problem.CERTIFICATE.exit_status
    assert "not enrolled" in done.stderr


def test_a_second_agent_does_not_wait_for_the_first(tmp_path: Path) -> None:
    with (
        alone(tmp_path, VOLUME),
        pytest.raises(KeybrokerError, match="another agent") as caught,
        alone(tmp_path, VOLUME),
    ):
        pass
    assert caught.value.problem is Problem.BUSY
    with alone(tmp_path, VOLUME):
        pass


def test_settle_does_nothing_about_a_volume_that_the_broker_says_has_moved_back(enrolled: Machine) -> None:
    other = RECORD | {"volume": "kbv-" + "z" * 12, "partner": VOLUME, "role": "holder"}
    known = [Record.read(Fields(said)) for said in (RECORD | {"role": "former"}, other)]
    layout.save(enrolled.state, tuple(known))
    order = Order(1, "migrate").as_json()
    enrolled.wanted = {
        "records": [RECORD | {"partner": other["volume"], "order": order}, other | {"role": "successor"}],
        "again_seconds": 60,
    }
    done = enrolled.run("settle")
    assert done.returncode == Problem.CONFLICT.exit_status, done.stderr
    assert "restored from an older backup" in done.stderr
    assert layout.load(enrolled.state).records == tuple(known)
    assert "trouble" in json.dumps(enrolled.reports[-1])


def test_settle_forgets_what_is_erased(enrolled: Machine) -> None:
    gone = RECORD | {"volume": "kbv-" + "z" * 12, "role": "former", "stage": "erased"}
    known = [Record.read(Fields(said)) for said in (RECORD, gone)]
    layout.save(enrolled.state, tuple(known))
    enrolled.wanted = {"records": [RECORD, gone], "again_seconds": 60}
    enrolled.run("settle")
    assert layout.load(enrolled.state).records == (known[0],)
