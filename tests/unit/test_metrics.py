"""What monitoring is told: true numbers, of nobody by name, in series that no client can add to."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, event

from keybroker.ca import new_key
from keybroker.service import deletions, enrolment, grace, inventory, measuring, revealing
from keybroker.service.lately import LEAST_SECONDS, REST, Lately
from keybroker.service.setback import enter
from keybroker.store.recoveryrows import AheadRow
from keybroker.store.rows import ProofRow
from keybroker.tally import Tally
from keybroker.web.metrics import text
from keybroker.wire.messages import EnrolmentRequest, LateRenewalRequest
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from tests.contract.broker_house import House, blank, csr, header, luks2

ROOT = Path(__file__).parents[2]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(told: str) -> Samples:
    found = [one for family in text_string_to_metric_families(told) for one in family.samples]
    made = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in found}
    assert len(made) == len(found), "a sample is there twice"
    return made


def told(house: House) -> str:
    return text(house.broker.tally, measuring.count(house.broker)).decode()


def seen(house: House) -> dict[str, Any]:
    """Return each sample by its name, or by name and labels as Prometheus writes them."""
    return {
        name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels) + "}" if labels else ""): value
        for (name, labels), value in samples(told(house)).items()
    }


def prove(house: House, volume: VolumeId, at: datetime) -> None:
    house.broker.store.write(lambda writing: writing.put_proof(ProofRow(volume, KeyVersion(1), 3, at)))


def test_deliveries_are_those_on_record(house: House) -> None:
    house.addon()
    one, two = house.volume(), house.volume(name="more")
    peer, _ = house.enrol()
    ready = house.provision(peer, one)
    house.provision(peer, two)
    house.unlock(peer, luks2(ready))
    house.rotated(peer, one.volume, 7)
    revealing.reveal(house.broker, house.operator, "shop-db", "data", "a drill", hours=1)
    records = [verb for verb, outcome, _volume in house.audit() if outcome == "released"]
    assert {door: records.count(door) for door in records} == {
        "claim": 2, "unlock": 1, "stage": 1, "volume.reveal": 1,
    }  # fmt: skip
    counted = seen(house)
    for door, verb in (
        ("boot", "unlock"),
        ("claim", "claim"),
        ("stage", "stage"),
        ("reveal", "volume.reveal"),
    ):
        assert counted[f'keybroker_deliveries_total{{door="{door}"}}'] == records.count(verb)


def test_refusals_are_counted_by_reason_and_by_who_asked(house: House) -> None:
    house.addon()
    record = house.volume()
    peer, _ = house.enrol()
    ready = house.provision(peer, record)
    house.unlock(peer, luks2(ready, pin=replace(header(record).pin, digest="sha256:" + "ff" * 32)))
    with pytest.raises(KeybrokerError):
        house.unlock(house.operator, blank(record))
    with pytest.raises(KeybrokerError):
        inventory.addons(house.broker, peer)
    inventory.revoke(house.broker, house.operator, peer.identity.name, "a secret reason")
    with pytest.raises(KeybrokerError):
        house.unlock(peer, luks2(ready))
    counted = {name: value for name, value in seen(house).items() if "refusals" in name and value}
    assert counted == {
        'keybroker_refusals_total{asker="host",reason="header-refused"}': 1,
        'keybroker_refusals_total{asker="host",reason="not-allowed"}': 1,
        'keybroker_refusals_total{asker="host",reason="revoked"}': 1,
        'keybroker_refusals_total{asker="operator",reason="not-allowed"}': 1,
    }


def test_who_is_refused_a_certificate_is_counted_too(house: House) -> None:
    house.addon()
    key, token = new_key(), inventory.invite(house.broker, house.operator, "shop-db").token
    enrolment.enrol(house.broker, "192.0.2.1", EnrolmentRequest(token, csr()))
    for spent in (token, Secret(b"a guess that is nobody's")):
        with pytest.raises(KeybrokerError):
            enrolment.enrol(house.broker, "192.0.2.1", EnrolmentRequest(spent, csr()))
    peer, certified = house.enrol(key=key)
    inventory.revoke(house.broker, house.operator, peer.identity.name, "a secret reason")
    for request in (csr(key), csr()):
        with pytest.raises(KeybrokerError):
            grace.renew(house.broker, "192.0.2.1", LateRenewalRequest(certified.certificate, request))
    counted = {name: value for name, value in seen(house).items() if "refusals" in name and value}
    assert counted == {
        'keybroker_refusals_total{asker="host",reason="token-refused"}': 2,
        'keybroker_refusals_total{asker="host",reason="revoked"}': 1,
        'keybroker_refusals_total{asker="host",reason="no-identity"}': 1,
    }


def test_a_rate_limit_counts_though_only_its_first_refusal_is_on_record(house: House) -> None:
    house.addon()
    peer, _ = house.enrol()
    for _ in range(70):
        try:
            house.unlock(peer)
        except KeybrokerError as error:
            assert error.problem is Problem.BUSY
    assert seen(house)['keybroker_refusals_total{asker="host",reason="busy"}'] == 9, "a boot's first is apart"


def test_a_new_broker_says_that_there_is_nothing(house: House) -> None:
    counted = seen(house)
    assert counted["keybroker_volumes_unproven"] == counted["keybroker_keys_to_destroy"] == 0
    assert counted["keybroker_recovery_mode"] == 0
    assert counted['keybroker_volumes{stage="ready"}'] == 0
    assert "keybroker_oldest_proof_timestamp_seconds" not in counted
    assert 'keybroker_certificate_expiry_timestamp_seconds{of="server"}' not in counted, "nothing is served"
    ends = house.broker.authority.certificate.not_valid_after_utc.timestamp()
    assert counted['keybroker_certificate_expiry_timestamp_seconds{of="ca"}'] == ends


def test_volumes_are_counted_by_stage_and_by_the_age_of_their_proof(house: House) -> None:
    house.addon()
    peer, _ = house.enrol()
    volumes = [house.provision(peer, house.volume(name=name)) for name in ("a", "b", "c", "d")]
    house.volume(name="new")
    house.volume(name="swap", filesystem="swap")
    now = house.clock()
    for record, days in zip(volumes, (0, 1.5, 40), strict=False):
        prove(house, record.volume, now - timedelta(days=days))
    counted = seen(house)
    assert counted['keybroker_volumes{stage="ready"}'] == 4
    assert counted['keybroker_volumes{stage="new"}'] == 2
    within = {
        name: value for name, value in counted.items() if name.startswith("keybroker_volumes_by_proof_age")
    }
    assert list(within.values()) == [1, 1, 2, 2, 2, 2, 2, 3]
    assert list(within)[-1] == 'keybroker_volumes_by_proof_age{le="+Inf"}'
    assert counted["keybroker_volumes_unproven"] == 1
    assert counted["keybroker_oldest_proof_timestamp_seconds"] == (now - timedelta(days=40)).timestamp()
    assert counted["keybroker_newest_proof_timestamp_seconds"] == now.timestamp()


def test_keys_have_an_age_and_retired_ones_wait(house: House) -> None:
    house.addon()
    peer, _ = house.enrol()
    record = house.provision(peer, house.volume())
    house.provision(peer, house.volume(name="more"))
    made = house.clock()
    house.clock.forward(days=20)
    house.rotated(peer, record.volume, 7)
    counted = seen(house)
    assert counted['keybroker_keys_by_age{le="604800"}'] == 1
    assert counted['keybroker_keys_by_age{le="2592000"}'] == 2
    assert counted["keybroker_oldest_key_timestamp_seconds"] == made.timestamp()
    assert counted["keybroker_newest_key_timestamp_seconds"] == house.clock().timestamp()
    assert counted["keybroker_keys_to_destroy"] == 1
    due = house.clock() + house.broker.settings.retention
    assert counted["keybroker_next_destruction_timestamp_seconds"] == due.timestamp()


def test_the_certificate_that_ends_first_is_told_and_those_that_are_over_are_counted(house: House) -> None:
    house.addon()
    end = 'keybroker_certificate_expiry_timestamp_seconds{of="hosts"}'
    assert end not in seen(house)
    house.enrol()
    first = seen(house)[end]
    house.clock.forward(days=30)
    house.enrol()
    revoked, _ = house.enrol()
    inventory.revoke(house.broker, house.operator, revoked.identity.name, "x")
    inventory.invite(house.broker, house.operator, "shop-db")
    counted = seen(house)
    assert counted[end] == first
    assert counted['keybroker_certificates_expired{of="hosts"}'] == 0
    states = [counted[f'keybroker_hosts{{state="{state}"}}'] for state in ("enrolled", "invited", "revoked")]
    assert states == [2, 1, 1]
    house.clock.forward(days=70)
    counted = seen(house)
    assert counted[end] == first + timedelta(days=30).total_seconds()
    assert counted['keybroker_certificates_expired{of="hosts"}'] == 1


def test_what_is_to_be_destroyed_is_counted_with_when_the_first_is_due(house: House) -> None:
    for addon in ("shop-db", "cache"):
        house.addon(addon)
    for name in ("a", "b", "c"):
        house.volume(name=name)
    assert seen(house)['keybroker_deletions_pending{of="volumes"}'] == 0
    broker, operator, now = house.broker, house.operator, house.clock()
    deletions.delete_volume(broker, operator, "shop-db", "a", "closed", 20)
    deletions.delete_volume(broker, operator, "shop-db", "b", "closed", 30)
    deletions.delete_volume(broker, operator, "shop-db", "b", "leaked", 0)
    deletions.delete_addon(broker, operator, "cache", "closed", None)
    counted = seen(house)
    assert counted['keybroker_deletions_pending{of="volumes"}'] == 2
    assert counted['keybroker_deletions_to_approve{of="volumes"}'] == 1
    assert counted['keybroker_deletions_pending{of="addons"}'] == 1
    due = (now + timedelta(days=20)).timestamp()
    assert counted['keybroker_next_deletion_timestamp_seconds{of="volumes"}'] == due
    deletions.undelete_volume(broker, operator, "shop-db", "a")
    assert seen(house)['keybroker_deletions_pending{of="volumes"}'] == 1


def test_a_database_that_was_set_back_is_told(house: House) -> None:
    house.broker.store.write(lambda w: enter(w, house.clock(), made=None, source="backup", who="local"))
    assert seen(house)["keybroker_recovery_mode"] == 1


def test_a_volume_whose_host_is_ahead_is_told(house: House) -> None:
    house.addon()
    record = house.volume()
    row = AheadRow(
        record.volume, record.addon, record.name, None, house.clock(), "why", None, 9, None, None, None
    )
    house.broker.store.write(lambda writing: writing.put_ahead(row))
    counted = seen(house)
    assert (counted["keybroker_volumes_ahead"], counted["keybroker_recovery_mode"]) == (1, 1)


def test_the_trails_lag_is_told(house: House) -> None:
    from keybroker.service import trail

    house.addon()
    counted = seen(house)
    assert counted["keybroker_audit_unsigned_records"] == counted["keybroker_audit_records"] > 0
    assert "keybroker_audit_uncopied_records" not in counted, "there is no journal"
    trail.sign_checkpoint(house.broker, at_once=True)
    house.broker.progress.copied = 1
    house.clock.forward(minutes=5)
    house.volume()
    counted = seen(house)
    assert counted["keybroker_audit_unsigned_records"] == 1
    assert counted["keybroker_audit_uncopied_records"] == counted["keybroker_audit_records"] - 1
    signed = (house.clock() - timedelta(minutes=5)).timestamp()
    assert counted["keybroker_audit_signed_timestamp_seconds"] == signed


def test_nothing_names_a_volume_a_host_an_operator_or_a_reason(house: House) -> None:
    house.addon("secretive")
    record = house.volume("secretive", "classified")
    peer, _ = house.enrol("secretive")
    house.provision(peer, record)
    inventory.revoke(house.broker, house.operator, peer.identity.name, "embezzlement")
    said = told(house)
    words = ("secretive", "classified", record.volume, peer.identity.name, "alice", "embezzlement", "example")
    assert [word for word in words if word in said] == []
    for key in house.keys(record.volume).values():
        assert key.reveal() not in said.encode()


def test_no_use_adds_a_series(house: House) -> None:
    """The number of counters' series is that of the start, whatever is asked by whomever."""
    tally = Tally()
    before = set(samples(text(tally, measuring.count(house.broker)).decode()))
    for number in range(100):
        tally.answered("main", f"M{number}", f"/v1/{number}", 100 + 7 * number, number)
        tally.answered("health", "GET", "/healthz", 200, 0)
    tally.answered("main", "POST", "/v1/unlock", 200, 0.1)
    tally.refused("host", Problem.CORRUPT, 3)
    after = samples(text(tally, measuring.count(house.broker)).decode())
    assert set(after) == before
    assert len(before) < 250
    assert after["keybroker_request_seconds_count", (("operation", "unlock"),)] == 1
    assert sum(value for (name, _), value in after.items() if name == "keybroker_requests_total") == 101


def test_counting_reads_no_row_of_a_volume_a_key_or_a_certificate(house: House) -> None:
    """Of what there may be a million, an index has all that is counted."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_more: Any) -> None:
        asked.append((statement, values))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        measuring.count(house.broker)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    steps = []
    with closing(sqlite3.connect(house.installation.database)) as connection:
        for statement, values in asked:
            if statement.startswith("SELECT"):
                steps += [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    many = [step for step in steps if re.search(r"(SCAN|SEARCH) (volumes|keys|certificates)\b", step)]
    assert len(many) >= 4
    wrong = [step for step in many if "COVERING INDEX" not in step and "ix_certificates_operator" not in step]
    assert wrong == []


class Metronome:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_counted_is_kept_for_twenty_times_as_long_as_counting_takes() -> None:
    clock = Metronome()
    kept, made = Lately[int](clock), iter(range(100))

    def slow() -> int:
        clock.now += 3
        return next(made)

    assert [kept.get(slow), kept.get(slow)] == [0, 0]
    clock.now += REST * 3 - 0.1
    assert kept.get(slow) == 0
    clock.now += 0.2
    assert kept.get(lambda: next(made)) == 1
    clock.now += LEAST_SECONDS - 0.1
    assert kept.get(lambda: next(made)) == 1
    clock.now += 0.2
    assert kept.get(lambda: next(made)) == 2


def test_nobody_waits_for_somebody_elses_counting() -> None:
    clock = Metronome()
    kept, begun, go = Lately[int](clock), threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        assert go.wait(10)
        return 1

    first = threading.Thread(target=kept.get, args=(slow,))
    first.start()
    assert begun.wait(10)
    with pytest.raises(KeybrokerError) as caught:
        kept.get(lambda: 2)
    assert caught.value.problem is Problem.UNAVAILABLE
    go.set()
    first.join(10)
    clock.now += LEAST_SECONDS + 1
    begun.clear()
    go.clear()
    second = threading.Thread(target=kept.get, args=(slow,))
    second.start()
    assert begun.wait(10)
    assert kept.get(lambda: 2) == 1
    go.set()
    second.join(10)


def test_counting_that_fails_is_tried_again_by_the_next() -> None:
    kept = Lately[int](Metronome())

    def fails() -> int:
        raise KeybrokerError(Problem.UNAVAILABLE, "database: away")

    with pytest.raises(KeybrokerError):
        kept.get(fails)
    assert kept.get(lambda: 5) == 5


# what is written about metrics


def exported(house: House) -> Iterator[str]:
    """Yield the names as they are asked for: counters end in _total."""
    for family in text_string_to_metric_families(told(house)):
        yield f"{family.name}_total" if family.type == "counter" else family.name


def test_the_readme_lists_every_metric_and_no_other(house: House) -> None:
    section = (ROOT / "README.md").read_text().partition("## Metrics\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(keybroker_\w+)", section, re.MULTILINE))
    assert listed == {name for name in exported(house) if name.startswith("keybroker_")}


def test_the_alerts_ask_for_metrics_labels_and_values_that_exist(house: House) -> None:
    rules = yaml.safe_load((ROOT / "docs/alerts.yml").read_text())["groups"][0]["rules"]
    house.addon()
    house.enrol()
    known: dict[str, set[tuple[str, str]]] = {}
    for name, labels in samples(told(house)):
        known.setdefault(name, set()).update(labels)
    families = {family.name for family in text_string_to_metric_families(told(house))}
    asked = set()
    for rule in rules:
        assert rule["annotations"]["summary"]
        for name, matchers in re.findall(r"(keybroker_\w+)(?:\{([^}]*)\})?", rule["expr"]):
            asked.add(name)
            assert name in known or name in families, f"{rule['alert']}: there is no {name}"
            for label, values in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                for value in values.split("|"):
                    assert (label, value) in known[name], f"{rule['alert']}: {name} has no {label}={value}"
    assert len(asked) >= 10
