"""A Secret does not slip out, however it is handled."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest

from keybroker.wire.secret import Secret, passphrase

MARK = b"Zm9vYmFyLW1hcmtlZC1rZXktbWF0ZXJpYWwtMTIzNDU"


@pytest.mark.parametrize("show", [repr, str, format, lambda s: f"{s}", lambda s: f"{s!r}", "{}".format])
def test_no_text_form_of_a_secret_shows_its_bytes(show: object) -> None:
    assert callable(show)
    assert show(Secret(MARK)) == "<secret, 43 bytes>"


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy, hash])
def test_a_secret_is_not_pickled_copied_or_hashed(take: object) -> None:
    assert callable(take)
    with pytest.raises(TypeError):
        take(Secret(MARK))


def test_a_traceback_that_shows_locals_does_not_show_a_secret() -> None:
    def fail(key: Secret) -> float:
        return len(key) / 0

    with pytest.raises(ZeroDivisionError) as raised:
        fail(Secret(MARK))
    shown = traceback.TracebackException(*raised._excinfo, capture_locals=True)  # type: ignore[misc]
    assert "key = <secret, 43 bytes>" in "".join(shown.format())


def test_secrets_compare_by_their_bytes_and_with_nothing_else() -> None:
    assert Secret(MARK) == Secret(MARK)
    assert Secret(MARK) != Secret(MARK[:-1])
    assert Secret(MARK) != MARK


def test_a_wiped_secret_is_empty() -> None:
    secret = Secret(MARK)
    secret.wipe()
    assert secret.reveal() == b""


@pytest.mark.parametrize("wrong", [b"", MARK + b"\n", MARK[:-1], MARK + b"A", MARK[:-1] + b"=", b"\xff" * 43])
def test_a_passphrase_of_another_form_is_refused_without_being_repeated(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="43 characters") as refused:
        passphrase(wrong)
    assert wrong == b"" or wrong.decode(errors="replace") not in str(refused.value)
    assert refused.value.__cause__ is None
