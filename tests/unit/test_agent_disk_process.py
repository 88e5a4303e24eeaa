"""The door to other programs: keys only through pipes, no status taken for granted, nothing left running."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.process import LARGEST_SECRET, ToolFailed, run
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

KEY = b"only-for-this-test-k3y-" + b"x" * 20


def test_hands_back_what_the_program_printed() -> None:
    assert run("printf", "%s", "some words").output == b"some words"


def test_gives_a_secret_argument_as_a_pipe_that_yields_exactly_its_bytes() -> None:
    assert run("cat", Secret(KEY)).output == KEY


def test_gives_two_secrets_and_standard_input_side_by_side() -> None:
    assert (
        run("cat", Secret(b"one,"), Secret(b"two,"), "-", stdin=Secret(b"three")).output == b"one,two,three"
    )


def test_gives_the_largest_secret_without_anybody_reading_first() -> None:
    assert len(run("cat", Secret(b"k" * LARGEST_SECRET)).output) == LARGEST_SECRET


def test_refuses_a_secret_that_a_pipe_might_not_take() -> None:
    with pytest.raises(ValueError, match="takes 65536 bytes"):
        run("cat", Secret(b"k" * (LARGEST_SECRET + 1)))


def test_reads_nothing_from_the_terminal() -> None:
    assert run("cat").output == b""


def test_makes_the_environment_anew(tmp_path: Path) -> None:
    assert run("env").output.decode().splitlines() == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
    ]


def test_leaves_no_core_file_to_a_child() -> None:
    assert run("sh", "-c", "ulimit -c; ulimit -H -c").output == b"0\n0\n"


def test_lets_a_child_inherit_only_what_it_is_given(tmp_path: Path) -> None:
    kept = os.open(tmp_path, os.O_RDONLY)
    other = os.dup2(kept, 200, inheritable=True)
    try:
        seen = run("ls", "/proc/self/fd", pass_fds=[kept]).output.decode().split()
    finally:
        os.close(kept)
        os.close(other)
    # 3 or so is ls reading the directory itself
    assert str(kept) in seen
    assert "200" not in seen
    assert len(seen) == 5


def test_refuses_a_status_that_the_caller_did_not_name() -> None:
    with pytest.raises(ToolFailed) as caught:
        run("sh", "-c", "echo >&2 no such luck; exit 3", expect=(0, 2))
    assert caught.value.problem is Problem.TOOL_FAILED
    assert caught.value.status == 3
    assert caught.value.detail.endswith("status 3: no such luck")


def test_takes_a_status_that_the_caller_named() -> None:
    assert run("sh", "-c", "exit 2", expect=(0, 2)).status == 2


def test_says_which_signal_ended_a_program() -> None:
    with pytest.raises(ToolFailed, match="ended by SIGTERM"):
        run("sh", "-c", "kill -TERM $$")


def test_never_repeats_a_secret_in_an_error() -> None:
    with pytest.raises(ToolFailed) as caught:
        run("sh", "-c", "exit 9", Secret(KEY), stdin=Secret(KEY))
    assert KEY.decode() not in repr(caught.value) + str(caught.value.detail)
    assert "<secret, 43 bytes>" in caught.value.detail


def test_names_the_package_of_a_program_that_is_not_there() -> None:
    with pytest.raises(KeybrokerError, match="keybroker-no-such: is not installed"):
        run("keybroker-no-such")


def test_kills_a_program_whose_time_is_up_with_all_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "grandchild"
    before = time.monotonic()
    with pytest.raises(ToolFailed, match="did not end within") as failed:
        run("sh", "-c", f"sleep 60 & echo $! > {mark}; wait", timeout_seconds=0.5)
    assert time.monotonic() - before < 5
    assert failed.value.problem is Problem.TOO_SLOW, "a crowded boot is worth another try"
    deadline = time.monotonic() + 5
    while _is_running(int(mark.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_running(int(mark.read_text()))


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_leaves_no_descriptor_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        run("cat", Secret(KEY), stdin=Secret(KEY))
        with pytest.raises(ToolFailed):
            run("sleep", "9", Secret(KEY), timeout_seconds=0.05)
    assert len(os.listdir("/proc/self/fd")) == before


def test_keeps_the_secrets_of_many_threads_apart() -> None:
    def own(number: int) -> bool:
        key = b"%d" % number * 8
        return run("cat", Secret(key), "-", stdin=Secret(key)).output == key * 2

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(own, range(100, 140)))


def test_shows_no_secret_in_any_process_table_while_the_program_runs() -> None:
    """Looks at /proc as another user's tool would, all the time that 20 programs hold a key."""
    seen: list[bytes] = []
    looks = 0
    stop = threading.Event()

    def look() -> None:
        nonlocal looks
        while not stop.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        text = (process / name).read_bytes()
                    except OSError:
                        continue
                    if KEY in text:
                        seen.append(text)
                    looks += b"sleep\x000.1" in text and name == "cmdline"

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(20):
            run("sh", "-c", 'sleep 0.1; cat "$0" -', Secret(KEY), stdin=Secret(KEY))
    finally:
        stop.set()
        watcher.join()
    assert looks, "no look met the program: this test shows nothing"
    assert seen == []
