"""A database that was set back: recognised at the first report, nothing lost meanwhile, and ended."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from keybroker.model import setback as model
from keybroker.policy import Peer
from keybroker.service import endings, orders, recovery, reports, rotation, setback
from keybroker.service.setback import Standing
from keybroker.service.views import OrderSpec
from keybroker.wire.changes import StageRequest
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.reports import ReportRequest, VolumeReport
from tests.contract.broker_house import House

UNKNOWN = VolumeId("kbv-" + "z" * 12)


class Old:
    """A broker with a volume in use, whose database can be set back to before its last rotation."""

    def __init__(self, house: House) -> None:
        self.house = house
        house.addon()
        self.peer, _ = house.enrol()
        self.volume = house.provision(self.peer, house.volume()).volume
        house.rotated(self.peer, self.volume, 12)

    @property
    def record(self) -> Record:
        return self.house.record(self.volume)

    def set_back(self, meanwhile: Callable[[], object], *, said: bool = True) -> None:
        """Do something, and forget it; ``said``: as ``keybroker restore`` does it, which says so."""
        self.house.broker.close()
        database = self.house.installation.database
        shutil.copyfile(database, database.with_name("kept"))
        self.house.broker = self.house.open()
        meanwhile()
        self.house.broker.close()
        shutil.copyfile(database.with_name("kept"), database)
        self.house.broker = self.house.open()
        self.house.clock.forward(minutes=1)
        if said:
            self.house.broker.store.write(
                lambda writing: setback.enter(
                    writing, self.house.clock.now, made=None, source="backup.age", who="root"
                )
            )
        self.house.clock.forward(minutes=1)

    def rotate(self) -> None:
        self.house.rotated(self.peer, self.volume, self.record.sequence + 10 if self.record.sequence else 20)

    def report(self, **said: object) -> None:
        record = self.record
        told = {"named": record.current, "revision": record.revision, **said}
        each = VolumeReport(told.pop("volume", self.volume), "open", **told)  # type: ignore[arg-type]
        report(self.house, self.peer, each)

    @property
    def standing(self) -> Standing:
        return self.house.broker.store.read(setback.standing)


def report(house: House, peer: Peer, *said: VolumeReport) -> None:
    request = ReportRequest("00000000-0000-4000-8000-000000000000", "0" * 32, "0.1.0", said)
    reports.report(house.broker, peer, request)


@pytest.fixture
def old(house: House) -> Old:
    return Old(house)


def refused(call: Callable[[], object]) -> KeybrokerError:
    with pytest.raises(KeybrokerError) as caught:
        call()
    return caught.value


def nothing() -> None:
    return


def test_a_broker_that_was_never_set_back_holds_nothing(old: Old) -> None:
    old.report()
    assert not old.standing.is_open
    old.rotate()
    assert old.record.current == 3


def test_until_its_host_has_reported_nothing_of_a_volume_is_minted_or_destroyed(old: Old) -> None:
    old.set_back(nothing)
    old.house.clock.forward(days=31)
    assert endings.sweep(old.house.broker) == ()
    (left,) = old.standing.left
    assert "has not reported" in left.why
    assert "start its VM" in left.what
    orders.rotate(old.house.broker, old.house.operator, "shop-db", "data")
    stage = StageRequest(old.record.revision)
    error = refused(lambda: rotation.stage(old.house.broker, old.peer, old.volume, stage))
    assert (error.problem, error.hint) == (Problem.CONFLICT, "keybroker restore --check")
    gone = OrderSpec("erase", disk_gone=True)
    for call in (
        lambda: orders.order(old.house.broker, old.house.operator, "shop-db", "data", gone),
        lambda: old.house.broker.store.write(
            lambda writing: setback.finish(writing, "root", old.house.clock.now, strangers_too=False)
        ),
    ):
        assert refused(call).problem is Problem.CONFLICT
    old.report()
    assert old.standing.left == ()
    assert endings.sweep(old.house.broker) == ((old.volume, KeyVersion(1)),)
    assert setback.end_if_settled(old.house.broker)
    assert not old.standing.is_open
    rotation.stage(old.house.broker, old.peer, old.volume, stage)


def test_boots_are_served_as_ever(old: Old) -> None:
    from tests.contract.broker_house import luks2

    old.set_back(nothing)
    reply = old.house.unlock(old.peer, luks2(old.record, sequence=12))
    assert list(reply.grants[0].keys) == [old.record.current]


@pytest.mark.parametrize("said", [True, False], ids=["restored", "copied back"])
def test_a_host_that_is_ahead_is_recognised_at_its_first_report(old: Old, *, said: bool) -> None:
    old.set_back(old.rotate, said=said)
    revision = old.record.revision
    old.report(named=KeyVersion(3), revision=revision + 5)
    (left,) = old.standing.left
    assert "names key version 3, and the newest here is 2" in left.why
    assert "recovery import shop-db data" in left.what
    old.house.clock.forward(days=31)
    assert endings.sweep(old.house.broker) == ()
    old.report()  # its agent has the older record by now
    assert len(old.standing.left) == 1
    assert not setback.end_if_settled(old.house.broker)
    assert old.standing.restore is not None
    assert ("recognised" in old.standing.restore.source) is not said


def test_a_host_that_has_seen_a_newer_record_is_ahead_until_an_operator_accepts(old: Old) -> None:
    old.set_back(nothing)
    old.report(revision=old.record.revision + 1)
    (left,) = old.standing.left
    assert "has seen revision" in left.why
    old.house.broker.store.write(
        lambda writing: setback.accept(writing, "shop-db", "data", "root", old.house.clock.now)
    )
    assert old.standing.left == ()
    old.report(revision=old.record.revision + 1)
    assert old.standing.left == ()
    old.report(revision=old.record.revision + 2)
    assert len(old.standing.left) == 1


def test_a_volume_that_is_not_known_any_more_is_listed(old: Old) -> None:
    old.set_back(nothing)
    old.report()
    old.report(volume=UNKNOWN, named=KeyVersion(1), revision=4)
    (left,) = old.standing.left
    assert (left.volume, left.name, left.why) == (UNKNOWN, None, "the volume is not known here")


def test_a_host_that_is_not_known_any_more_is_named(old: Old) -> None:
    made: list[Peer] = []
    old.set_back(lambda: made.append(old.house.enrol()[0]))
    assert refused(lambda: report(old.house, made[0])).problem is Problem.NO_IDENTITY
    old.report()
    assert old.standing.left == ()
    assert old.standing.strangers == (made[0].identity.uri,)
    assert not setback.end_if_settled(old.house.broker)

    def finish(*, strangers_too: bool) -> Standing:
        return old.house.broker.store.write(
            lambda writing: setback.finish(writing, "root", old.house.clock.now, strangers_too=strangers_too)
        )

    assert refused(lambda: finish(strangers_too=False)).problem is Problem.CONFLICT
    assert not finish(strangers_too=True).is_open


def test_another_add_ons_volume_is_nobodys_news(old: Old) -> None:
    old.house.addon("other")
    theirs = old.house.volume("other").volume
    old.report(volume=theirs, named=KeyVersion(9), revision=99)
    assert not old.standing.is_open


def test_a_key_that_was_minted_since_is_brought_back_and_nothing_is_given_up(
    old: Old, tmp_path: Path
) -> None:
    kept: dict[KeyVersion, object] = {}

    def rotate() -> None:
        old.rotate()
        kept.update(old.house.keys(old.volume))

    old.set_back(rotate)
    key = kept[KeyVersion(3)]

    def bring(version: int) -> bool:
        return recovery.import_key(
            old.house.broker, old.house.operator, "shop-db", "data", KeyVersion(version), key  # type: ignore[arg-type]
        )  # fmt: skip

    assert refused(lambda: bring(3)).problem is Problem.CONFLICT  # no host has said so
    old.report(named=KeyVersion(3), revision=old.record.revision + 5)
    assert refused(lambda: bring(4)).problem is Problem.CONFLICT
    revision = old.record.revision
    assert bring(3)
    assert not bring(3)
    assert (old.record.current, old.record.wanted, old.record.revision) == (3, 3, revision + 6)
    assert old.house.keys(old.volume)[KeyVersion(3)] == key
    assert set(old.house.keys(old.volume)) == {1, 2, 3}
    old.house.clock.forward(days=60)
    old.report(named=KeyVersion(3))
    assert old.standing.left == ()
    assert endings.sweep(old.house.broker) == ()
    assert ("recovery.import", "done", old.volume) in old.house.audit()


def test_what_is_held_row_by_row(old: Old) -> None:
    row = old.house.broker.store.read(lambda reading: reading.volume(old.volume))
    assert row is not None
    now = old.house.clock.now
    before, after = now - timedelta(hours=1), now + timedelta(hours=1)

    def held(**changes: object) -> bool:
        facts: dict[str, object] = {
            "since": now, "reported": None, "has_hosts": True, "why_ahead": None, "accepted": None,
        }  # fmt: skip
        return model.held(row.volume, **{**facts, **changes}) is not None  # type: ignore[arg-type]

    assert held()
    assert held(reported=before)
    assert held(reported=now)
    assert not held(reported=after)
    assert not held(since=None)
    assert held(since=None, why_ahead="it is")
    assert held(reported=after, why_ahead="it is")
    assert not held(why_ahead="it was", accepted=after)
    assert held(why_ahead="it was", accepted=before)


def test_in_what_a_host_is_ahead(old: Old) -> None:
    row = old.house.broker.store.read(lambda reading: reading.volume(old.volume))
    assert row is not None
    assert model.ahead(row.volume, KeyVersion(2), row.volume.revision) is None
    assert model.ahead(row.volume, None, None) is None
    assert model.ahead(row.volume, KeyVersion(3), None) is not None
    assert model.ahead(row.volume, None, row.volume.revision + 1) is not None
    assert model.ahead(None, None, None) is not None
