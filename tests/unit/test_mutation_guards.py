"""The list of guards does not rot: each is where it is said to be, once, and there are enough of them.

That a test fails for each of them broken is shown by ``make mutants``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.mutation.breaking import ROOT, outcome
from tests.mutation.guards import GUARDS, Guard

NO_DECISIONS: Final = {"agent/plan/steps.py"}
"""What a step is; nothing in it decides anything."""


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: f"{guard.file}: {guard.text.strip()[:50]}")
def test_a_guard_is_in_its_file_exactly_once(guard: Guard) -> None:
    text = (ROOT / guard.file).read_text()
    assert text.count(guard.text) == 1
    broken = text.replace(guard.text, guard.broken)
    assert broken != text
    compile(broken, guard.file, "exec")
    assert all((ROOT / each).is_file() for each in guard.tests)


@pytest.mark.parametrize("folder", ["agent/plan", "keybroker/model"])
def test_no_planner_and_no_model_is_without_guards(folder: str) -> None:
    guarded = {guard.file for guard in GUARDS}
    files = {f"{folder}/{path.name}" for path in (ROOT / folder).glob("*.py")}
    assert files - guarded == {f"{folder}/__init__.py", *NO_DECISIONS} & files


def test_the_judges_of_headers_have_guards() -> None:
    judges = {guard.file for guard in GUARDS if guard.file.startswith("agent/luks/")}
    assert {f"agent/luks/{name}.py" for name in ("acceptance", "midway", "inplace", "completion")} <= judges


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ("return False", "killed"),
        ("return True or False", "SURVIVES"),
        ("return True\nimport no_such_module", "ERROR"),  # pytest's status 2, and no test has run
        ("return True\ndel is_safe", "ERROR"),
    ],
)
def test_a_guard_is_noticed_only_where_a_test_has_failed(broken: str, word: str, tmp_path: Path) -> None:
    guarded, test = tmp_path / "guarded.py", "test_guarded.py"
    guarded.write_text("def is_safe():\n    return True\n")
    (tmp_path / test).write_text("from guarded import is_safe\n\ndef test_it():\n    assert is_safe()\n")
    assert outcome(tmp_path, Guard("guarded.py", "return True", broken, (test,))) == word
    assert guarded.read_text() == "def is_safe():\n    return True\n"
