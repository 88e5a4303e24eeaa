"""Boots of a real Debian VM: what it does with a broker, without one, and with a wrong one."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime, timedelta
from pathlib import Path

from tests.machine import story
from tests.machine.aging import certificate_ended
from tests.machine.broker import HostBroker
from tests.machine.conftest import DEADLINE_SECONDS, Forlorn, Provisioned, Scenario
from tests.machine.site import MOUNT_POINT, UNLOCK, occurrences

LONG_ENOUGH = DEADLINE_SECONDS + 90


def test_a_machine_boots_to_its_rows_with_nobody_typing(scenario: Scenario) -> None:
    scenario.boot()
    assert scenario.rows() == story.ROWS
    machine = scenario.machine
    assert machine.run(f"findmnt -no SOURCE {MOUNT_POINT}").strip() == "/dev/mapper/kb-data"
    assert "crypt aes-xts-plain64" in machine.run("dmsetup table kb-swap")
    # udev takes the device that it did not see dmsetup make for one that is in use, also when it looks again
    machine.run("udevadm trigger --subsystem-match=block --action=add --settle; test -b /dev/mapper/kb-data")
    assert "SYSTEMD_READY=1" in machine.run("udevadm info --query=property /dev/mapper/kb-data")
    assert machine.run(f"findmnt -no SOURCE {MOUNT_POINT}").strip() == "/dev/mapper/kb-data"
    volumes = json.loads(machine.run("keybroker-agent status --json"))["volumes"]
    assert {volume["name"]: volume["state"] for volume in volumes} == {"data": "open", "swap": "open"}
    assert machine.wait_for_boot() == "running"
    machine.power_off()
    # The kernel names the swap as the unit's own mount namespace has it, /dm-0. By that path systemd cannot
    # turn it off, and says so unless the agent was faster; the agent, which knows better, does.
    failed = [line for line in machine.console().splitlines() if "Failed" in line and "dm\\x2d" not in line]
    assert failed == []


def test_the_disks_hold_none_of_the_rows_in_the_clear(provisioned: Provisioned) -> None:
    text = provisioned.text.encode()
    assert occurrences(text, provisioned.control) >= story.ROWS, "the search finds what is in the clear"
    assert {disk.name: occurrences(text, disk) for disk in provisioned.site.disks.values()} == {
        "data.raw": 0,
        "swap.raw": 0,
    }


def test_a_broker_that_comes_up_a_minute_late_is_waited_for(scenario: Scenario) -> None:
    scenario.broker.stop()
    began = time.monotonic()
    scenario.boot()
    scenario.assert_locked()
    assert scenario.machine.run(f"systemctl show {UNLOCK} -p ActiveState --value").strip() == "activating"
    time.sleep(max(0.0, 60 - (time.monotonic() - began)))
    scenario.broker.start()
    assert scenario.rows() == story.ROWS


def test_a_broker_of_another_ca_gets_nothing_and_is_named_in_the_journal(
    scenario: Scenario, tmp_path: Path
) -> None:
    scenario.broker.stop()
    with HostBroker(tmp_path / "impostor", ports=scenario.broker.ports) as impostor:
        impostor.start()
        scenario.boot()
        state, status, journal = scenario.verdict()
        assert (state, status) == ("failed", 76), journal
        assert "10.0.2.2" in journal
        scenario.assert_locked()
        assert "/v1/unlock" not in impostor.log()


def test_an_expired_certificate_keeps_the_volume_locked_and_is_named(scenario: Scenario) -> None:
    """First the machine's clock alone is past its end, and the broker sees nothing that it could renew; then
    all clocks are right, and it ended longer ago than the broker's grace goes."""
    host = scenario.broker.operate("host", "show", scenario.provisioned.site.host)
    expired = datetime.fromisoformat(host["expires"]) + timedelta(days=1)
    scenario.boot(clock=expired.strftime("%Y-%m-%dT%H:%M:%S"))
    state, status, journal = scenario.verdict()
    assert (state, status) == ("failed", 77), journal
    assert "this machine's clock is after its end" in journal
    scenario.assert_locked()

    scenario.machine.run(f"date --set=@{int(time.time())}")
    with certificate_ended(scenario.broker, scenario.machine, scenario.provisioned.site.host):
        scenario.machine.run(f"systemctl restart {UNLOCK}", check=False)
        state, status, journal = scenario.verdict()
    assert (state, status) == ("failed", 77), journal
    assert re.search("certificate: ended on .* and is renewed for 30 days after that", journal), journal
    scenario.assert_locked()


def test_a_disk_that_arrives_after_boot_is_opened_when_it_comes(scenario: Scenario) -> None:
    late = scenario.data_serial
    scenario.boot(without=late)
    scenario.machine.wait_until("swapon --show=NAME --noheadings | grep -q .")
    scenario.assert_locked()
    scenario.machine.plug(late, scenario.disks[late])
    assert scenario.rows() == story.ROWS


def test_a_power_cut_loses_no_committed_row_and_brings_another_swap_key(scenario: Scenario) -> None:
    swap = "dmsetup table --showkeys kb-swap"
    scenario.boot()
    assert scenario.rows() == story.ROWS
    key = scenario.machine.run(swap).split()[4]
    story.write_rows(scenario.machine, scenario.provisioned.text)
    scenario.machine.cut_power()
    scenario.boot()
    assert scenario.rows() == 2 * story.ROWS
    assert scenario.machine.run(swap).split()[4] != key


def test_without_any_broker_ssh_is_up_and_the_database_is_not(forlorn: Forlorn) -> None:
    scenario = forlorn.brokerless
    scenario.machine.wait_for_login()
    failed = f"journalctl --boot --unit={UNLOCK} | grep -q status=75"
    scenario.machine.wait_until(failed, limit_seconds=LONG_ENOUGH)
    journal = scenario.machine.journal(UNLOCK)
    assert "10.0.2.2" in journal
    assert "data: closed" in journal
    scenario.assert_locked()


def test_a_clock_in_1970_is_named_as_the_reason(forlorn: Forlorn) -> None:
    scenario = forlorn.timeless
    scenario.machine.wait_for_login()
    _, status, journal = scenario.verdict(limit_seconds=LONG_ENOUGH)
    assert status == 77, journal
    assert "clock" in journal
    scenario.assert_locked()


def test_a_broker_that_comes_after_the_deadline_needs_nobody_to_type_either(forlorn: Forlorn) -> None:
    scenario = forlorn.brokerless
    scenario.broker.start()
    assert scenario.rows() == story.ROWS


def test_a_revoked_host_closes_what_is_open_and_stays_locked_and_says_why(scenario: Scenario) -> None:
    """The last one here: its host is revoked for all the others too."""
    scenario.boot()
    assert scenario.rows() == story.ROWS
    scenario.provisioned.site.revoke("a test revokes it", "--lock")
    scenario.machine.run("keybroker-agent settle || true")
    scenario.machine.wait_until(f"! systemctl is-active {story.DATABASE}")
    scenario.machine.wait_until("! ls /dev/mapper/kb-*", limit_seconds=120)
    assert scenario.machine.run("cat /proc/swaps").count("\n") == 1
    scenario.machine.power_off()
    scenario.boot()
    state, status, journal = scenario.verdict()
    assert (state, status) == ("failed", 78), journal
    assert "revoked" in journal
    scenario.assert_locked()
