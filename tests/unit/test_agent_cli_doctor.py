"""What the doctor says of values that this machine does not happen to have."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent import doctor
from agent.doctor import Finding
from agent.identity import Identity
from keybroker.wire.names import HostId

DAY = 86400
SWAPS = """\
Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority
/dev/vda5                               partition\t1048572\t\t0\t\t-2
/dev/dm-1                               partition\t1048572\t\t0\t\t-3
"""
MINE = Identity(
    Path("/state/identity-1"),
    Path("/state/identity-1/host.key"),
    Path("/state/identity-1/host.crt"),
    HostId("kbh-q3m5x7abcdef"),
    ("https://b.example",),
    100 * DAY,
    130 * DAY,
    "",
    "",
)


UNLOCK, TARGET, TIMER = doctor.UNITS
SYSTEMD = Path(__file__).parents[2] / "systemd"


def installed(root: Path, *names: str) -> None:
    """Put our units where a package would, on a root of our own."""
    where = root / "usr/lib/systemd/system"
    where.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(SYSTEMD / name, where)


def systemctl(root: Path, *arguments: str) -> str:
    """Have the real systemctl work on a root where no systemd runs; return what it writes."""
    done = subprocess.run(["systemctl", f"--root={root}", *arguments], capture_output=True, check=False)
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("verbs", "result", "said", "hint"),
    [
        ((("enable",),), "good", "enabled", ""),
        ((), "bad", "disabled", "systemctl enable {}"),
        ((("enable",), ("disable",)), "bad", "disabled", "systemctl enable {}"),
        ((("enable", "--runtime"),), "bad", "enabled-runtime", "systemctl enable {}"),
        ((("mask",),), "bad", "masked", "systemctl unmask {0} && systemctl enable {0}"),
    ],
    ids=["enabled", "never enabled", "disabled", "enabled until the next boot", "masked"],
)
@pytest.mark.parametrize("name", doctor.UNITS)
def test_each_unit_is_judged_by_what_the_real_systemctl_says_of_it(
    name: str, verbs: tuple[tuple[str, ...], ...], result: str, said: str, hint: str, tmp_path: Path
) -> None:
    installed(tmp_path, *doctor.UNITS)
    for verb in verbs:
        systemctl(tmp_path, *verb, name)
    found = doctor.unit(name, systemctl(tmp_path, "is-enabled", name))
    assert found == Finding(name, result, said, hint.format(name))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", doctor.UNITS)
def test_a_unit_that_is_not_installed_is_missed(name: str, tmp_path: Path) -> None:
    installed(tmp_path, *(other for other in doctor.UNITS if other != name))
    missing = Finding(name, "bad", "there is no such unit", f"install systemd/{name}, see README.md")
    assert doctor.unit(name, systemctl(tmp_path, "is-enabled", name)) == missing
    assert doctor.unit(name, "") == doctor.unit(name, "not-found\n") == missing  # older and newer ones


def test_every_unit_is_asked_for_and_one_that_is_wrong_hides_no_other() -> None:
    words = {UNLOCK: "disabled\n", TARGET: "enabled\n", TIMER: ""}
    assert [(found.subject, found.result) for found in doctor.units(words.__getitem__)] == [
        (UNLOCK, "bad"),
        (TARGET, "good"),
        (TIMER, "bad"),
    ]


def test_where_no_systemd_runs_nothing_is_asked_of_it() -> None:
    [found] = doctor.units(None)
    assert (found.subject, found.result) == ("units", "warn")


@pytest.mark.parametrize(
    ("version", "result"),
    [
        ((2, 6, 0), "bad"), ((2, 3, 7), "bad"), ((2, 6, 1), "good"), ((2, 7, 0), "warn"), ((2, 7, 4), "warn"),
        ((2, 7, 5), "good"), ((2, 8, 1), "good"),
    ],
)  # fmt: skip
def test_cryptsetup_is_judged_by_its_version(version: tuple[int, int, int], result: str) -> None:
    assert doctor.cryptsetup_version(version).result == result


@pytest.mark.parametrize(
    ("day", "result", "word"),
    [(99, "good", "30 days"), (100, "good", "days"), (119, "good", "11 days"), (121, "warn", "renewed"),
     (131, "bad", "expired")],
)  # fmt: skip
def test_the_certificate_is_judged_by_what_is_left(day: int, result: str, word: str) -> None:
    found = doctor.certificate(day * DAY, MINE)
    assert found.result == result
    assert word in found.detail or day == 99
    assert (found.hint != "") == (result != "good")


@pytest.mark.parametrize(
    ("now", "installed", "enrolled", "result"),
    [
        (0, 90, True, "bad"),
        (95, 90, True, "bad"),
        (95, 90, False, "good"),
        (89, 90, False, "bad"),
        (101, 90, True, "good"),
        (101, 102, True, "bad"),
    ],
)
def test_the_clock_cannot_be_before_the_certificate_or_the_program(
    now: int, installed: int, enrolled: bool, result: str
) -> None:
    assert doctor.clock(now * DAY, MINE if enrolled else None, installed * DAY).result == result


def test_a_machine_that_would_hibernate_is_found() -> None:
    assert doctor.resume("0:0").result == "good"
    found = doctor.resume("253:5")
    assert (found.result, "253:5" in found.detail) == ("bad", True)


def test_swap_that_is_not_encrypted_is_named() -> None:
    found = doctor.swaps(SWAPS, lambda path: path == "/dev/dm-1")
    assert found.result == "warn"
    assert found.detail.startswith("/dev/vda5: ")
    assert doctor.swaps(SWAPS, lambda path: True) == Finding("swap", "good", "/dev/vda5, /dev/dm-1")
    assert doctor.swaps(SWAPS.splitlines()[0], lambda path: False).detail == "none"


def test_the_state_directory_is_searched_for_what_others_may_touch(tmp_path: Path) -> None:
    state = tmp_path / "state"
    inner = state / "identity-1"
    inner.mkdir(parents=True, mode=0o700)
    state.chmod(0o700)
    (inner / "host.key").touch(mode=0o600)
    assert [found.result for found in doctor.state_modes(state)] == ["good"]
    for path, mode in ((inner / "host.key", 0o640), (inner, 0o750), (state, 0o701)):
        before = path.stat().st_mode
        path.chmod(mode)
        [found] = doctor.state_modes(state)
        assert found.result == "bad"
        assert found.detail.startswith(f"{path}: ")
        path.chmod(before)


def test_the_table_shows_what_is_wrong_last() -> None:
    good = Finding("clock", "good", "is right")
    bad = replace(good, result="bad", subject="dns", detail="is not", hint="do this")
    assert doctor.as_table([bad, good]).splitlines() == [
        "good  clock  is right",
        "bad   dns    is not",
        "      hint: do this",
    ]
    assert [row["result"] for row in json.loads(doctor.as_json([bad, good]))["findings"]] == ["bad", "good"]
