"""A broker whose clock is behind, as after a power cut without a battery, waits for it to be set."""

from __future__ import annotations

import configparser
import datetime as dt
from pathlib import Path

from tests.tls.forging import SERVER, issue
from tests.tls.running import LOOPBACK, install, run_cli

UNIT = Path(__file__).parents[2] / "systemd/keybroker.service"


def test_a_certificate_that_has_not_begun_is_worth_another_start(tmp_path: Path) -> None:
    broker = install(tmp_path)
    own = issue(
        tmp_path,
        broker.signer,
        usages=(SERVER,),
        dns=["localhost", LOOPBACK],
        begins=dt.timedelta(hours=1),
        ends=dt.timedelta(days=2),
    )
    own.certificate.replace(tmp_path / "config/server.crt")
    own.key.replace(tmp_path / "config/server.key")
    done = run_cli("serve", "--config", str(broker.config))
    assert done.returncode == 75, done.stderr
    assert "not yet valid" in done.stderr
    assert "hint: " in done.stderr


def test_the_unit_gives_up_on_a_wrong_configuration_only() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    unit.read(UNIT)
    assert unit["Service"]["RestartPreventExitStatus"] == "78"
    # ten quick failures are over within half a minute, and a clock or an address can take longer
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
