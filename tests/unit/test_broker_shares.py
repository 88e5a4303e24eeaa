"""Shares of a master key: what they look like, which of them give it back, and what is said of the others."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keybroker.envelope import ENTROPY_BYTES, Context, Purpose
from keybroker.masterkey import LocalMasterKey, SharesMasterKey, open_master_key
from keybroker.masterkey.shares import Share, ShareSet, numbers
from keybroker.masterkey.splitting import combine, split
from keybroker.service import masters, unsealing
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from tests.contract.broker_house import House

KEY = Secret(bytes(range(32)))


def refused(share: bytes) -> str:
    with pytest.raises(KeybrokerError) as caught:
        Share.parse(Secret(share))
    assert caught.value.problem is Problem.MALFORMED
    assert share.decode(errors="replace") not in caught.value.detail or len(share) < 6
    return caught.value.detail


@pytest.mark.parametrize(("threshold", "count"), [(2, 2), (2, 3), (3, 5), (5, 5), (2, 16)])
def test_any_k_of_n_shares_give_the_key_and_fewer_do_not(threshold: int, count: int) -> None:
    made, shares = split(KEY, threshold, count)
    assert made.identity == LocalMasterKey(KEY).identity
    for some in combinations(shares, threshold):
        assert combine(some) == KEY
        assert threshold == 2 or combine(some[1:]) != KEY
    assert len({share.value.reveal() for share in shares}) == count


def test_two_splittings_of_a_key_have_nothing_in_common() -> None:
    (_one, first), (_other, second) = split(KEY, 2, 3), split(KEY, 2, 3)
    assert not {share.value.reveal() for share in first} & {share.value.reveal() for share in second}
    assert combine([first[0], second[1]]) != KEY
    assert len({share.set_id for share in first}) == len({share.set_id for share in second}) == 1
    assert first[0].set_id != second[0].set_id


def test_the_halves_are_split_independently() -> None:
    """The same half twice has other shares in each place, so one half's share says nothing of the other's."""
    _made, shares = split(Secret(bytes(32)), 2, 3)
    assert all(share.value.reveal()[:16] != share.value.reveal()[16:] for share in shares)


@given(
    st.integers(2, 16).flatmap(lambda k: st.tuples(st.just(k), st.integers(k, 16))),
    st.binary(min_size=6, max_size=6),
    st.binary(min_size=32, max_size=32),
)
def test_a_share_is_read_back_as_it_was_written(kn: tuple[int, int], name: bytes, value: bytes) -> None:
    share = Share(*kn, number=kn[1], set_id=name, value=Secret(value))
    text = share.text()
    assert Share.parse(text) == share
    sloppy = text.reveal().lower().replace(b"-", b" ").replace(b"o", b"0").replace(b"b", b"8")
    assert Share.parse(Secret(b" k" + sloppy.replace(b"8", b"b", 1)[1:] + b"\r\n")) == share
    assert value.hex() not in repr(share)
    assert repr(text) == "<secret, 94 bytes>"


def test_each_typing_error_is_noticed() -> None:
    _made, (share, *_rest) = split(KEY, 2, 3)
    text = share.text().reveal()
    for at in range(5, len(text)):
        if text[at : at + 1] != b"-":
            other = b"A" if text[at : at + 1] != b"A" else b"C"
            assert "typing error" in refused(text[:at] + other + text[at + 1 :])
    swapped = text[:-2] + text[-1:] + text[-2:-1]
    assert swapped == text or "typing error" in refused(swapped)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"", "does not begin with KBS1"),
        (b"kbe1.secret", "does not begin with KBS1"),
        (b"KBS1-AAAA", "has 4 characters after KBS1, and not 72"),
        (b"KBS1" + b"A" * 73, "has 73 characters"),
        (b"KBS1" + b"9" * 72, "has a character that no share has"),
        (b"KBS1" + b"\xff" * 72, "has a character that no share has"),
        (b"KBS1" + b"A" * 72, "has a typing error"),
    ],
)
def test_what_is_no_share_is_said(text: bytes, what: str) -> None:
    assert what in refused(text)


def test_a_share_of_an_impossible_form_is_refused_though_its_checksum_is_right() -> None:
    for k, n, number in ((1, 3, 1), (4, 3, 1), (2, 3, 0), (2, 3, 4), (2, 17, 1)):
        assert "is of no form" in refused(Share(k, n, number, bytes(6), KEY).text().reveal())


@pytest.mark.parametrize(
    "uri", ["shares:", "shares:1/3", "shares:3/2", "shares:2/17", "shares:0/0", "shares:2"]
)
def test_numbers_that_make_no_sense_are_refused(uri: str) -> None:
    with pytest.raises(KeybrokerError) as caught:
        numbers(uri)
    assert caught.value.problem is Problem.CONFIGURATION


def test_a_configured_key_has_a_name() -> None:
    with pytest.raises(KeybrokerError, match="does not say which one"):
        ShareSet.parse("shares:2/3")
    made = ShareSet(2, 3, "3f0c9a52e1d84b7796a0c1d2e3f40516")
    assert ShareSet.parse(made.uri) == made


def sealed_key(threshold: int = 2) -> tuple[SharesMasterKey, tuple[Share, ...]]:
    made, shares = split(Secret(os.urandom(32)), threshold, 3)
    key = open_master_key(made.uri, None)
    assert isinstance(key, SharesMasterKey)
    return key, shares


def test_a_sealed_key_neither_wraps_nor_unwraps() -> None:
    key, shares = sealed_key()
    place = Context("a", "", "", 1, Purpose.ADDON_KEY)
    key.take(*key.would_take(shares[0]))
    for use in (
        lambda: key.wrap(KEY, place, bytes(ENTROPY_BYTES)),
        lambda: key.unwrap(bytes(200), place),
    ):
        with pytest.raises(KeybrokerError) as caught:
            use()
        assert caught.value.problem is Problem.UNAVAILABLE
        assert caught.value.detail == "broker: is sealed, with 1 of 2 shares"
        assert caught.value.retry_after


def test_nothing_is_taken_before_it_is_said_to_be() -> None:
    key, shares = sealed_key()
    there, opened = key.would_take(shares[0])
    assert (len(there), opened, key.given) == (1, None, 0)


def test_a_share_of_other_numbers_is_of_another_set() -> None:
    key, shares = sealed_key()
    for changes in ({"threshold": 3}, {"count": 4}, {"set_id": bytes(6)}):
        with pytest.raises(KeybrokerError, match="is of another set") as caught:
            key.would_take(replace(shares[0], **changes))
        assert caught.value.problem is Problem.CONFLICT
    assert key.given == 0


def test_a_share_of_another_splitting_of_the_same_key_is_refused_and_those_before_stay() -> None:
    secret = Secret(os.urandom(32))
    (made, first), (other, second) = split(secret, 2, 3), split(secret, 2, 3)
    assert made == other, "it is the same key"
    key = SharesMasterKey(made)
    key.take(*key.would_take(first[0]))
    for share in second:
        with pytest.raises(KeybrokerError) as caught:
            key.would_take(share)
        assert caught.value.problem is Problem.CONFLICT
        assert "another time" in caught.value.detail
        assert share.text().reveal().decode() not in caught.value.detail
    key.take(*key.would_take(first[1]))
    assert not key.is_sealed


def test_shares_that_were_printed_when_a_set_was_called_by_the_identity_alone_give_the_key() -> None:
    made, shares = split(Secret(os.urandom(32)), 2, 3)
    named = [replace(share, set_id=bytes.fromhex(made.identity)[:6]) for share in shares]
    key = SharesMasterKey(made)
    for share in named[:2]:
        key.take(*key.would_take(Share.parse(share.text())))
    assert not key.is_sealed


def test_shares_that_give_another_key_are_all_forgotten() -> None:
    key, shares = sealed_key(threshold=3)
    forged = replace(shares[1], value=Secret(bytes(32)))
    for share in (shares[0], forged):
        key.take(*key.would_take(share))
    with pytest.raises(KeybrokerError, match="do not give the key"):
        key.would_take(shares[2])
    assert (key.given, key.is_sealed) == (0, True)
    for share in shares:
        key.take(*key.would_take(share))
    assert not key.is_sealed
    assert key.given == 0  # and they are kept no longer


def shared_house(house: House) -> tuple[str, tuple[Share, ...]]:
    """Have a broker's master key in shares; it is sealed then."""
    made, shares = split(Secret(os.urandom(32)), 2, 3)
    first = house.installation.master_keys[0]
    house.installation = replace(house.installation, master_keys=(made.uri, first))
    house.reopen()
    for share in shares[:2]:
        unsealing.give(house.broker, share.text(), "a test")
    masters.rotate(house.broker, house.operator, made.uri)
    house.reopen()
    return made.uri, shares


def test_a_share_that_cannot_be_put_on_record_is_not_taken(house: House) -> None:
    _uri, shares = shared_house(house)
    assert unsealing.sealed(house.broker)
    store = house.broker.store

    class Unwritable:
        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def write(self, _work: object) -> None:
            raise KeybrokerError(Problem.UNAVAILABLE, "database: cannot be written")

    broken = replace(house.broker, store=Unwritable())  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(KeybrokerError, match="cannot be written"):
            unsealing.give(broken, shares[0].text(), "a test")
        assert [state.given for state in unsealing.states(house.broker)] == [0]
    for share in shares[1:]:
        unsealing.give(house.broker, share.text(), "a test")
    assert unsealing.sealed(house.broker) is None


def test_a_check_value_that_does_not_open_keeps_it_sealed(house: House) -> None:
    uri, shares = shared_house(house)
    identity = uri.rpartition("/")[2]
    house.broker.store.write(
        lambda writing: writing.put_master_key(
            replace(
                next(row for row in writing.master_keys() if row.identity == identity), key_check=bytes(200)
            )
        )
    )
    unsealing.give(house.broker, shares[0].text(), "a test")
    with pytest.raises(KeybrokerError, match="its key check value does not open"):
        unsealing.give(house.broker, shares[1].text(), "a test")
    assert unsealing.sealed(house.broker)


def test_a_sealed_key_that_wraps_nothing_is_not_waited_for_also_after_a_rotation(house: House) -> None:
    from keybroker.service import rewrap

    _uri, shares = shared_house(house)
    for share in shares[1:]:
        unsealing.give(house.broker, share.text(), "a test")
    house.addon()
    first = house.installation.master_keys[1]
    masters.rotate(house.broker, house.operator, first)
    while masters.show(house.broker, house.operator).left.anything:
        rewrap.advance(house.broker, lambda: False)
    rewrap.advance(house.broker, lambda: False)
    house.reopen()
    assert unsealing.sealed(house.broker) is None
    second = house.root / "etc/master-2.key"
    second.write_bytes(os.urandom(32))
    second.chmod(0o400)
    house.installation = replace(
        house.installation, master_keys=(f"file:{second}", *house.installation.master_keys)
    )
    house.reopen()
    masters.rotate(house.broker, house.operator, f"file:{second}")
    assert unsealing.sealed(house.broker) is None
    house.volume()
