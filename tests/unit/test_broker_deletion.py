"""When a destruction may be carried out, and who has to say so: the rows of ``model.deletion``."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keybroker.model import Deletion, Keyring, Retired, deletion
from keybroker.wire.fields import Fields
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = timedelta(days=14)
DAY = timedelta(days=1)


def scheduled(
    pending: Deletion | None = None, *, days: float | None = None, by: str = "alice", now: datetime = NOW
) -> Deletion:
    wait = None if days is None else timedelta(days=days)
    return deletion.schedule(pending, by=by, now=now, wait=wait, policy=POLICY, reason="TICKET-1")


def problem(of: KeybrokerError) -> Problem:
    return of.problem


@pytest.mark.parametrize(("days", "due"), [(None, 14), (14, 14), (60, 60)])
def test_the_policys_wait_or_a_longer_one_takes_one_person(days: int | None, due: int) -> None:
    made = scheduled(days=days)
    assert made == Deletion("alice", NOW, NOW + timedelta(days=due), "TICKET-1")


@pytest.mark.parametrize("days", [0, 3, 13])
def test_a_shorter_wait_is_only_asked_for(days: int) -> None:
    made = scheduled(days=days)
    assert made.due == NOW + POLICY
    assert (made.sooner, made.sooner_by) == (NOW + timedelta(days=days), "alice")


def test_the_same_again_changes_nothing_and_a_longer_wait_is_a_conflict() -> None:
    pending = scheduled(days=20)
    assert scheduled(pending, now=NOW + DAY) is pending
    assert scheduled(pending, days=20, now=NOW + DAY) is pending
    with pytest.raises(KeybrokerError) as caught:
        scheduled(pending, days=30, now=NOW + DAY)
    assert (caught.value.problem, caught.value.hint) == (Problem.CONFLICT, "undelete it first")


def test_a_sooner_time_can_be_asked_for_later_by_anybody_and_the_soonest_stays() -> None:
    pending = scheduled()
    asked = scheduled(pending, days=3, by="bob", now=NOW + DAY)
    assert (asked.due, asked.sooner, asked.sooner_by) == (pending.due, NOW + 4 * DAY, "bob")
    assert scheduled(asked, days=5, by="carol", now=NOW + DAY) is asked
    sooner = scheduled(asked, days=0, by="carol", now=NOW + DAY)
    assert (sooner.sooner, sooner.sooner_by) == (NOW + DAY, "carol")
    near = scheduled(pending, days=3, now=NOW + 13 * DAY)
    assert near is pending


def test_a_sooner_time_counts_once_another_person_has_approved_that_very_time() -> None:
    asked = scheduled(days=3)
    due = NOW + 3 * DAY
    for who, when, wrong in (("alice", due, Problem.NOT_ALLOWED), ("bob", NOW, Problem.CONFLICT)):
        with pytest.raises(KeybrokerError) as caught:
            deletion.approve(asked, by=who, due=when, now=NOW)
        assert caught.value.problem is wrong
    with pytest.raises(KeybrokerError):
        deletion.approve(scheduled(), by="bob", due=NOW + POLICY, now=NOW)
    made = deletion.approve(asked, by="bob", due=due, now=NOW)
    assert (made.due, made.sooner, made.approved_by, made.sooner_by) == (due, None, "bob", "alice")
    assert deletion.approve(made, by="bob", due=due, now=NOW + DAY) is made


def test_it_is_reminded_of_seven_three_and_one_day_before_each_once() -> None:
    pending, said = scheduled(), []
    for hour in range(15 * 24):
        now = NOW + timedelta(hours=hour)
        days = deletion.reminder(pending, now, None)
        if days is not None:
            said.append((days, hour / 24))
            pending = deletion.remind(pending, now)
    assert said == [(7, 7), (3, 11), (1, 13)]


@pytest.mark.parametrize(("policy", "said"), [(1, [1]), (3, [3, 1]), (5, [3, 1])])
def test_of_a_short_wait_it_is_reminded_as_often_as_there_is_room(policy: int, said: list[int]) -> None:
    pending = scheduled()
    pending = replace(pending, due=NOW + policy * DAY)
    found = []
    for hour in range(24 * 6):
        now = NOW + timedelta(hours=hour)
        days = deletion.reminder(pending, now, None)
        if days is not None:
            found.append(days)
            pending = deletion.remind(pending, now)
    assert found == said


def test_it_may_be_carried_out_when_it_is_due_and_the_last_reminder_has_stood_for_a_day() -> None:
    pending = scheduled()
    due = pending.due
    assert not deletion.ripe(pending, due + 30 * DAY, None), "nobody was reminded"
    early = deletion.remind(pending, due - 3 * DAY)
    assert not deletion.ripe(early, due + 30 * DAY, None), "that was not the last reminder"
    told = deletion.remind(pending, due - DAY)
    assert not deletion.ripe(told, due - timedelta(microseconds=1), None)
    assert deletion.ripe(told, due, None)
    late = deletion.remind(pending, due + 5 * DAY)
    assert not deletion.ripe(late, due + 6 * DAY - timedelta(seconds=1), None)
    assert deletion.ripe(late, due + 6 * DAY, None)


def test_a_clock_that_is_years_ahead_destroys_nothing_at_once() -> None:
    ahead = NOW + timedelta(days=3650)
    pending = scheduled()
    assert deletion.reminder(pending, ahead, None) == 1
    told = deletion.remind(pending, ahead)
    assert not deletion.ripe(told, ahead + timedelta(hours=23), None)
    # set right again: what was told then does not count, and it is reminded of when its time comes
    assert deletion.reminder(told, pending.due - 7 * DAY, None) == 7
    assert not deletion.ripe(told, pending.due + DAY, None)


def test_a_clock_that_was_set_back_postpones() -> None:
    told = deletion.remind(scheduled(), NOW + 13 * DAY)
    assert not deletion.ripe(told, NOW - 365 * DAY, None)
    assert deletion.reminder(told, NOW - 365 * DAY, None) is None


def test_at_once_by_two_people_needs_no_reminder_but_an_approval_that_counts() -> None:
    made = deletion.approve(scheduled(days=0), by="bob", due=NOW, now=NOW + DAY)
    assert deletion.ripe(made, NOW + DAY, None)
    assert not deletion.ripe(made, NOW + timedelta(hours=1), None), "an approval from the future"
    assert not deletion.ripe(made, NOW + 2 * DAY, NOW + DAY), "one from before the database was set back"
    days = deletion.approve(scheduled(days=3), by="bob", due=NOW + 3 * DAY, now=NOW)
    assert not deletion.ripe(days, NOW + 3 * DAY, None), "there was time to remind of that"


def test_what_two_people_want_within_the_day_waits_until_then_and_is_not_reminded_of() -> None:
    made = deletion.approve(scheduled(days=1), by="bob", due=NOW + DAY, now=NOW + DAY / 2)
    assert not deletion.ripe(made, NOW + DAY - timedelta(seconds=1), None)
    assert deletion.ripe(made, NOW + DAY, None)


def test_what_was_told_before_the_database_was_set_back_does_not_count() -> None:
    pending = scheduled()
    told = deletion.remind(pending, pending.due - DAY)
    since = pending.due + DAY
    now = since + DAY
    assert not deletion.ripe(told, now, since)
    assert deletion.reminder(told, now, since) == 1
    assert deletion.ripe(deletion.remind(told, now), now + DAY, since)


def test_it_is_stored_as_it_is() -> None:
    made = deletion.approve(scheduled(days=0), by="bob", due=NOW, now=NOW + DAY)
    for each in (scheduled(), scheduled(days=3), made, deletion.remind(made, NOW + DAY)):
        assert Deletion.read(Fields(each.as_json())) == each


@pytest.mark.parametrize("text", ["2026-01-31", "2026-13-31T12:00:00.000000Z", "2026-01-31T12:00:00.000000"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(KeybrokerError) as caught:
        deletion.read_time(Fields({"due": text}), "due")
    assert caught.value.problem is Problem.MALFORMED


def test_all_keys_are_destroyed_whatever_their_state() -> None:
    one, two, three, four, five = (KeyVersion(version) for version in range(1, 6))
    ring = Keyring(four, five, staged=five, retiring=three, retired=(Retired(two, None),), destroyed=(one,))
    with pytest.raises(KeybrokerError):
        ring.destroy_all()
    keys = ring.end(NOW).destroy_all()
    assert keys == Keyring(None, None, destroyed=(one, two, three, four, five))
    assert keys.destroy_all() is keys
