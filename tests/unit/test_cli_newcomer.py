"""What somebody new to it types wrong is answered with what helps."""

from __future__ import annotations

import io
import socket
import ssl

import click
import pytest
from click.testing import CliRunner

from agent.broker.verdicts import failure_of
from keybroker.cli.families import Family
from keybroker.cli.quantities import parse_disk
from keybroker.cli.screen import confirm
from keybroker.wire.problems import KeybrokerError, Problem
from tests.contract.broker_house import House
from tests.unit.test_broker_orders import order


def test_a_disk_of_20_bytes_lacks_its_unit() -> None:
    with pytest.raises(KeybrokerError) as caught:
        parse_disk("20")
    assert caught.value.problem is Problem.USAGE
    assert caught.value.hint == "with a unit: 20G, 20M"
    assert parse_disk("20G") == 20 << 30
    assert parse_disk("21474836480") == 20 << 30


def test_where_nobody_types_the_name_nothing_is_done_and_the_option_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(KeybrokerError) as caught:
        confirm("shop-db/data", "erase")
    assert caught.value.detail == "shop-db/data: its name was not typed; nothing was done"
    assert caught.value.hint == "--yes, in a script"


def test_an_enrolment_at_the_main_listener_is_told_which_port_it_wants() -> None:
    error = ssl.SSLError(1, "alert")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    said = failure_of(error, "broker.example:8443").error
    assert said.detail == "broker.example:8443: asks for a certificate, and was shown none"
    assert said.hint is not None
    assert "8444" in said.hint


def test_a_name_that_is_not_known_is_looked_for_in_dns() -> None:
    said = failure_of(socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "nope:8444").error
    assert said.hint == "is that name in DNS, or in /etc/hosts?"


def test_a_volume_that_was_never_formatted_asks_for_its_disk(house: House) -> None:
    house.addon()
    record = house.volume()
    with pytest.raises(KeybrokerError) as caught:
        order(house, "reencrypt")
    assert caught.value.problem is Problem.CONFLICT
    assert caught.value.hint is not None
    assert record.serial in caught.value.hint


def test_a_verbs_sentence_is_shown_whole() -> None:
    @click.group(cls=Family)
    def family() -> None:
        pass

    @family.command()
    def member() -> None:
        """Do one thing and another, and a third one that goes far beyond the end of a line; and then end."""

    said = CliRunner().invoke(family, ["--help"], terminal_width=60).output
    assert " ".join(said.split()).endswith("goes far beyond the end of a line; and then end.")
