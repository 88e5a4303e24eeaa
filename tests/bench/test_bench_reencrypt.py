"""A re-encryption by the agent against bare ``cryptsetup reencrypt``, in one run on one volume."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.kernel import uml

pytestmark = pytest.mark.bench

ROOT = Path(__file__).parents[2]


def test_a_reencryption_has_the_throughput_of_bare_cryptsetup() -> None:
    with uml.run_directory() as run:
        file = run / "measured"
        command = [sys.executable, "-m", "tests.bench.reencrypting", str(file)]
        boot = uml.boot(command, run=run, directory=ROOT, limit_seconds=600)
        assert boot.status == 0, boot.console[-4000:]
        best: dict[str, float] = json.loads(file.read_text())
    ratio = best["bare"] / best["agent"]
    print(f"\nbare: {best['bare']:.2f} s, agent: {best['agent']:.2f} s: {ratio:.2f} (wanted: 0.95)")
    assert ratio >= 0.95
