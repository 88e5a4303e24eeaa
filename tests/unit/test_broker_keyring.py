"""Whatever is asked of a keyring, in whatever order: no key is lost, none is used twice, one is current."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keybroker.model import Keyring, Retired
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=30)

versions = st.integers(1, 12).map(KeyVersion)
times = st.integers(-10, 100).map(lambda days: NOW + timedelta(days=days))


def v(number: int) -> KeyVersion:
    return KeyVersion(number)


class AnyOrder(RuleBasedStateMachine):
    """Asks for anything at any time, and keeps its own book of every version that was ever there."""

    def __init__(self) -> None:
        super().__init__()
        self.keyring = Keyring.first()
        self.minted = {1}
        self.now = NOW

    def ask(self, transition: Callable[[Keyring], Keyring]) -> None:
        before = self.keyring
        try:
            after = transition(before)
        except KeybrokerError as error:
            assert error.problem is Problem.CONFLICT
            return
        assert transition(after) is after, "repeated, it must change nothing"
        gone = set(before.kept) - set(after.kept)
        assert gone == set(after.destroyed) - set(before.destroyed), "a key was lost"
        assert gone <= set(before.due(self.now)), "a key was destroyed before its time"
        new = set(after.kept) - set(before.kept)
        assert not new & self.minted, "a version was used twice"
        self.minted |= new
        self.keyring = after

    @rule(hours=st.integers(1, 24 * 40))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(version=versions)
    def bring_back(self, version: KeyVersion) -> None:
        self.ask(lambda keys: keys.bring_back(version))

    @rule()
    def want(self) -> None:
        self.ask(lambda keys: keys.want())

    @rule()
    def stage(self) -> None:
        self.ask(lambda keys: keys.stage())

    @rule(version=versions)
    def promote(self, version: KeyVersion) -> None:
        self.ask(lambda keys: keys.promote(version))

    @rule(version=versions, at=times)
    def abandon(self, version: KeyVersion, at: datetime) -> None:
        self.ask(lambda keys: keys.abandon(version, at))

    @rule(version=versions, at=times)
    def retire(self, version: KeyVersion, at: datetime) -> None:
        self.ask(lambda keys: keys.retire(version, at))

    @rule(version=versions, at=st.none() | times)
    def schedule(self, version: KeyVersion, at: datetime | None) -> None:
        self.ask(lambda keys: keys.schedule(version, at))

    @rule(version=versions)
    def destroy(self, version: KeyVersion) -> None:
        self.ask(lambda keys: keys.destroy(version, self.now))

    @rule(at=times)
    def rotate(self, at: datetime) -> None:
        """A whole rotation, so that long histories are reached."""
        for step in (
            lambda keys: keys.want(),
            lambda keys: keys.stage(),
            lambda keys: keys.promote(keys.staged or keys.current),
            lambda keys: keys.retire(keys.retiring, at) if keys.retiring else keys,
        ):
            self.ask(step)

    @invariant()
    def holds(self) -> None:
        keys = self.keyring
        assert keys.current in keys.live
        assert set(keys.live) <= set(keys.kept)
        assert not set(keys.kept) & set(keys.destroyed)
        assert set(keys.kept) | set(keys.destroyed) == self.minted
        assert len(keys.kept) == len(set(keys.kept))
        assert keys.newest == max(self.minted)
        assert keys.staged in (None, keys.wanted)
        assert keys.wanted == keys.current or (keys.wanted or 0) > max(self.minted - {keys.staged or 0})


TestAnyOrder = AnyOrder.TestCase


def test_a_rotation_goes_through_its_states() -> None:
    keys = Keyring.first().want()
    assert (keys.current, keys.wanted, keys.live) == (1, 2, (1,))
    keys = keys.stage()
    assert (keys.staged, keys.live) == (2, (1, 2))
    keys = keys.promote(v(2))
    assert (keys.current, keys.staged, keys.retiring, keys.live) == (2, None, 1, (1, 2))
    keys = keys.retire(v(1), LATER)
    assert (keys.live, keys.kept, keys.retired) == ((2,), (1, 2), (Retired(v(1), LATER),))
    assert keys.due(LATER - timedelta(seconds=1)) == ()
    assert keys.due(LATER) == (1,)
    keys = keys.destroy(v(1), LATER)
    assert (keys.kept, keys.destroyed, keys.newest) == ((2,), (1,), 2)


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda keys: keys.stage(),
        lambda keys: keys.promote(v(2)),
        lambda keys: keys.abandon(v(1), LATER),
        lambda keys: keys.retire(v(1), LATER),
        lambda keys: keys.schedule(v(1), LATER),
        lambda keys: keys.destroy(v(1), LATER),
        lambda keys: keys.destroy(v(9), LATER),
        lambda keys: keys.want().stage().promote(v(2)).want().stage(),
        lambda keys: keys.want().stage().promote(v(2)).destroy(v(1), LATER),
    ],
)
def test_a_current_key_is_not_given_up_and_no_state_is_skipped(
    forbidden: Callable[[Keyring], Keyring],
) -> None:
    with pytest.raises(KeybrokerError) as caught:
        forbidden(Keyring.first())
    assert caught.value.problem is Problem.CONFLICT


def test_destruction_waits_for_its_time_and_can_be_called_off() -> None:
    keys = Keyring.first().want().stage().promote(v(2)).retire(v(1), LATER)
    with pytest.raises(KeybrokerError, match="not due"):
        keys.destroy(v(1), LATER - timedelta(microseconds=1))
    called_off = keys.schedule(v(1), None)
    assert called_off.due(LATER + timedelta(days=3650)) == ()
    with pytest.raises(KeybrokerError, match="not due"):
        called_off.destroy(v(1), LATER + timedelta(days=3650))
    assert called_off.schedule(v(1), LATER) == keys


def test_an_abandoned_version_is_kept_and_its_number_is_not_used_again() -> None:
    keys = Keyring.first().want().stage().abandon(v(2), LATER)
    assert (keys.current, keys.wanted, keys.staged, keys.kept) == (1, 1, None, (1, 2))
    assert keys.want().stage().staged == 3


def test_several_retired_versions_stay_in_order() -> None:
    keys = Keyring.first()
    for version in (2, 3, 4):
        keys = keys.want().stage().promote(v(version)).retire(v(version - 1), LATER)
    keys = keys.destroy(v(2), LATER)
    assert [old.version for old in keys.retired] == [1, 3]
    assert keys.schedule(v(3), None).retired == (Retired(v(1), LATER), Retired(v(3), None))


def test_a_key_that_was_minted_before_the_database_was_set_back_comes_back_beside_all_others() -> None:
    keys = Keyring.first().want().stage()
    brought = keys.bring_back(v(3))
    assert (brought.current, brought.wanted, brought.staged, brought.retiring) == (3, 3, None, None)
    assert brought.retired == (Retired(v(1), None), Retired(v(2), None))
    assert brought.due(LATER + timedelta(days=1000)) == ()
    assert brought.bring_back(v(3)) is brought
    for known in (1, 2):
        with pytest.raises(KeybrokerError):
            brought.bring_back(v(known))
    with pytest.raises(KeybrokerError):
        keys.end(LATER).bring_back(v(3))
