"""The list of guards does not rot: each is where it is said to be, once, and there are enough of them.

That a test fails for each of them broken is shown by ``make mutants``.
"""

from __future__ import annotations

import pytest

from tests.mutation.breaking import ROOT
from tests.mutation.guards import GUARDS, Guard


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: f"{guard.file}: {guard.text.strip()[:50]}")
def test_a_guard_is_in_its_file_exactly_once(guard: Guard) -> None:
    text = (ROOT / guard.file).read_text()
    assert text.count(guard.text) == 1
    broken = text.replace(guard.text, guard.broken)
    assert broken != text
    compile(broken, guard.file, "exec")
    assert all((ROOT / each).is_file() for each in guard.tests)


def test_no_planner_and_no_model_is_without_guards() -> None:
    assert len(GUARDS) >= 40
    assert {guard.file.rpartition("/")[0] for guard in GUARDS} >= {
        "agent/plan",
        "keybroker/model",
        "agent/luks",
    }
