"""Sizes and durations as operators write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keybroker.cli.quantities import parse_duration, parse_size, show_size
from keybroker.wire.problems import KeybrokerError, Problem


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20G", 20 << 30),
        ("512M", 512 << 20),
        ("512m", 512 << 20),
        ("1T", 1 << 40),
        ("20GiB", 20 << 30),
        ("4096", 4096),
        ("1K", 1024),
        ("3P", 3 << 50),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "0", "0G", "-1G", "1.5G", "20GB", "20 G", "G", "20X", "٣G", "1e9", "9999999P", "1" * 30, "20G\n"],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(KeybrokerError) as caught:
        parse_size(text)
    assert caught.value.problem is Problem.USAGE


@given(st.integers(min_value=1, max_value=2**60))
def test_a_size_that_is_shown_can_be_read_again(size: int) -> None:
    assert parse_size(show_size(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604800)]
)
def test_a_duration_is_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1w", "-1h", "1.5h", "h", "1h30m", "٣h", "1h\n"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(KeybrokerError) as caught:
        parse_duration(text)
    assert caught.value.problem is Problem.USAGE
