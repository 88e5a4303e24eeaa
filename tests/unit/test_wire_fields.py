"""Reading JSON: what is wrong is refused with the path of the field, and nothing else happens."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"1", b"null", b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}', b'{"a":NaN}', b'{"a":Infinity}',
     b'{"a":1} x', b"\xff", b"[" * 100_000, b'{"a":' * 50_000],
    ids=lambda text: repr(text[:24]),
)  # fmt: skip
def test_what_is_not_one_plain_object_is_malformed(text: bytes) -> None:
    with pytest.raises(KeybrokerError) as refused:
        Fields.parse(text)
    assert refused.value.problem is Problem.MALFORMED


@pytest.mark.parametrize(
    ("message", "read", "said"),
    [
        ({}, lambda f: f.text("a"), "a: is missing"),
        ({"a": 1}, lambda f: f.text("a"), "a: must be a string"),
        ({"a": "xx"}, lambda f: f.text("a", most=1), "a: is longer than 1"),
        ({"a": "x\n"}, lambda f: f.text("a", match=re.compile("x")), "a: must match"),
        ({"a": True}, lambda f: f.number("a"), "a: must be a whole number"),
        ({"a": 1.0}, lambda f: f.number("a"), "a: must be a whole number"),
        ({"a": -1}, lambda f: f.number("a"), "a: must be from 0"),
        ({"a": 2**63}, lambda f: f.number("a"), "a: must be from 0"),
        ({"a": 1}, lambda f: f.flag("a"), "a: must be true or false"),
        ({"a": "z"}, lambda f: f.choice("a", {"x", "y"}), "a: must be one of x, y"),
        ({"a": []}, lambda f: f.object("a"), "a: must be an object"),
        ({"a": {"b": 1}}, lambda f: f.object("a").text("b"), "a.b: must be a string"),
        ({"a": [{}]}, lambda f: [x.text("b") for x in f.objects("a")], "a[0].b: is missing"),
        ({"a": [{}, {}]}, lambda f: list(f.objects("a", most=1)), "a: has more than 1"),
        ({"a": {}}, lambda f: f.texts("a"), "a: must be a list"),
        ({"a": ["x", 1]}, lambda f: f.texts("a"), "a[1]: must be a string"),
        ({"a": [1, -1]}, lambda f: f.numbers("a"), "a[1]: must be a whole number"),
        ({"a": {"b": 1}}, lambda f: f.pairs("a"), "a.b: must be a short string"),
        ({"a": [1]}, lambda f: f.pairs("a"), "a: must be an object"),
        ({"a": 1, "b": 2}, lambda f: f.end(), "has fields that are not known here: a, b"),
    ],
)
def test_an_error_names_the_path_of_the_field(
    message: dict[str, Any], read: Callable[[Fields], object], said: str
) -> None:
    with pytest.raises(KeybrokerError, match=re.escape(said)) as refused:
        read(Fields(message))
    assert refused.value.problem is Problem.MALFORMED


@pytest.mark.parametrize("message", [{}, {"a": None}])
def test_an_optional_field_may_be_absent_or_null(message: dict[str, Any]) -> None:
    fields = Fields(message)
    assert fields.optional("a", fields.text) is None
    fields.end()


@given(JSON)
def test_any_json_is_read_or_malformed_and_never_anything_else(value: Any) -> None:
    readers: list[Callable[[Fields], object]] = [
        lambda f: f.text("a"), lambda f: f.number("a"), lambda f: f.flag("a"), lambda f: f.texts("a"),
        lambda f: f.numbers("a"), lambda f: f.pairs("a"), lambda f: f.object("a").end(),
        lambda f: list(f.objects("a")),
    ]  # fmt: skip
    for read in readers:
        try:
            read(Fields({"a": value}))
        except KeybrokerError as error:
            assert error.problem is Problem.MALFORMED
