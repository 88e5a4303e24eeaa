"""A short run of the coverage-guided fuzzer; ``KEYBROKER_FUZZ_SECONDS`` makes it a long one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.header.disks import Disk
from tests.header.judging import Judge

SECONDS: Final = int(os.environ.get("KEYBROKER_FUZZ_SECONDS", "8"))
RUNS: Final = 20_000


@pytest.mark.limit(SECONDS + 120)
def test_the_fuzzer_finds_no_input_that_is_neither_refused_nor_the_volume_itself(
    plain_path: Path, tmp_path: Path
) -> None:
    runs = [] if "KEYBROKER_FUZZ_SECONDS" in os.environ else [f"-runs={RUNS}"]
    options = [
        f"-max_total_time={SECONDS}",
        "-seed=1",
        "-print_final_stats=1",
        f"-artifact_prefix={tmp_path}/",
    ]
    fuzzer = [sys.executable, "-m", "tests.header.fuzz_header", str(plain_path), str(tmp_path / "corpus")]
    done = subprocess.run(
        [*fuzzer, *options, *runs],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
        timeout=SECONDS + 60,
    )
    said = (done.stderr + done.stdout).decode(errors="replace")
    assert done.returncode == 0, said[-3000:]
    tried = re.search(r"stat::number_of_executed_units: *([0-9]+)", said)
    covered = re.findall(r"cov: ([0-9]+)", said)
    assert tried is not None, said[-3000:]
    print(f"{tried[1]} inputs, coverage {covered[-1]}")
    assert int(tried[1]) > 500
    assert int(covered[-1]) > 200


def test_the_fuzzer_can_tell_good_from_bad(plain: Disk, rich: Disk) -> None:
    """It takes what is good, so that a run in which everything is refused means something, and it notices."""
    judge = Judge(plain)
    verdicts = [judge.judge(seed) for seed in judge.seeds()]
    assert verdicts[:2] == [True, True]
    assert verdicts[-3:] == [True, True, True]
    assert 200 < verdicts.count(False) < len(verdicts)
    elsewhere = Judge(plain)
    elsewhere._meant = replace(elsewhere._meant, cipher="cipher_null-ecb")
    with pytest.raises(AssertionError):
        elsewhere.judge(judge.seeds()[0])
