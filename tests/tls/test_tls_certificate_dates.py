"""A certificate of our own CA is refused before it begins and after it ends."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from tests.tls.forging import issue
from tests.tls.running import OPERATOR, Broker, refusal

ALICE = f"spiffe://test.internal/operator/{OPERATOR}"


def test_an_expired_certificate_is_refused(broker: Broker, tmp_path: Path) -> None:
    ended = issue(
        tmp_path,
        broker.signer,
        uris=[ALICE],
        begins=dt.timedelta(days=-2),
        ends=dt.timedelta(seconds=-1),
    )
    assert refusal(broker, ended) == "SSLV3_ALERT_CERTIFICATE_EXPIRED"


def test_a_certificate_that_has_not_begun_is_refused(broker: Broker, tmp_path: Path) -> None:
    early = issue(
        tmp_path, broker.signer, uris=[ALICE], begins=dt.timedelta(hours=1), ends=dt.timedelta(hours=2)
    )
    assert "ALERT" in refusal(broker, early)
