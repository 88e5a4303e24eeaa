"""Every step, cut before, during and after, done twice, and unanswered: the next run ends in the same place.

On the model, where a run costs a millisecond, also each pair of cuts. tests/crash/test_crash_files.py does
the single ones on real LUKS2 headers and filesystems.
"""

from __future__ import annotations

import itertools

import pytest

from agent.change.deeds import DEEDS
from agent.driver import Boot, Driver, Report
from agent.plan import steps
from keybroker.wire.records import Record
from tests.crash.memory_world import MemoryWorld
from tests.crash.mortal import EFFECTS, MOMENTS, Death, Mortal
from tests.crash.volumes import record

BOOT = Boot("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "0" * 32, "0.1.0")

DATA = (
    steps.Ask, steps.Claim, steps.Deposit, steps.Inscribe, steps.Ask, steps.Open, steps.Link,
    steps.MakeFilesystem, steps.Ready, steps.Mount,
)  # fmt: skip
"""The effects of a data volume's first boot; the first Ask is the run's own request."""

DISK_STEPS = {
    steps.Unlink, steps.Mirror, steps.Copy, steps.Verify, steps.Raise, steps.Switch, steps.Drop, steps.Close,
    steps.Wipe, steps.Erased, steps.Grow, steps.Finish,
}  # fmt: skip
"""Of an undertaking (``agent.change.undertaking``)."""

SWAP = (steps.Ask, steps.Claim, steps.Mark, steps.Ready, steps.SwapOn)
REBOOT = (steps.Ask, steps.Open, steps.Link, steps.Mount)

JOURNEYS = {"data": DATA, "swap": SWAP}
RECORDS = {"data": record(), "swap": record("swap", filesystem="swap")}


def run(world: MemoryWorld, mortal: Mortal | None = None) -> Report:
    driver = Driver(mortal.world if mortal else world.world(), BOOT, keep=world.keep)
    return driver.unlock(world.layout)


def run_until_death(world: MemoryWorld, death: Death, *, power: bool) -> Mortal:
    """Run once with a cut; whatever comes of it, the process is gone, and with ``power`` the machine too."""
    mortal = Mortal(world.world(), world, death).until_death(lambda mortal: run(world, mortal))
    if power:
        world.power_cut()
    return mortal


def settle(world: MemoryWorld) -> None:
    """Boot again until all is well; a lost reply may cost one more run, nothing costs two."""
    report = run(world)
    assert report.error is None
    assert [outcome.error for outcome in report.outcomes] == [None] * len(world.broker.records)


def check(world: MemoryWorld) -> None:
    """Hold what must be so at the end of every story."""
    for kept in world.broker.records.values():
        assert kept.stage == "ready"
        assert world.reach[kept.volume].reach == "open"
        assert kept.is_swap or kept.volume in world.mounted
        assert len(world.broker.deposited.get(kept.volume, ())) == (0 if kept.is_swap else 1)
    for made in world.made:
        assert made.stage == "deposited", "a filesystem was made in a volume that was ready"
        assert made.over.unfinished or not (made.over.kind or made.over.touched), "it was made over something"


def test_every_step_there_is_can_be_cut() -> None:
    assert set(EFFECTS) == set(steps.BOOT_STEPS) | set(DEEDS) | DISK_STEPS | set(steps.ADOPTION_STEPS)
    declared = {
        value
        for value in vars(steps).values()
        if isinstance(value, type) and value.__module__ == steps.__name__
    }
    assert declared == set(steps.STEPS)
    assert set(DATA) | set(SWAP) == set(steps.BOOT_STEPS), "a step that no journey takes is never cut"


@pytest.mark.parametrize("kind", JOURNEYS)
def test_a_first_boot_takes_each_step_once(kind: str) -> None:
    world = MemoryWorld([RECORDS[kind]])
    mortal = Mortal(world.world(), world)
    report = run(world, mortal)
    assert tuple(mortal.journey) == JOURNEYS[kind]
    assert [outcome.result for outcome in report.outcomes] == ["opened"]
    check(world)


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    ("kind", "effect"), [(kind, number) for kind in JOURNEYS for number in range(len(JOURNEYS[kind]))]
)
def test_a_first_boot_that_is_cut_anywhere_is_finished_by_the_next(
    kind: str, effect: int, moment: str, power: bool
) -> None:
    world = MemoryWorld([RECORDS[kind]])
    mortal = run_until_death(world, Death(effect, moment), power=power)
    assert not mortal.survived
    settle(world)
    check(world)


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("first", range(len(DATA)))
def test_two_cuts_in_a_row_are_survived_wherever_they_are(first: int, power: bool) -> None:
    cut_twice = 0
    for earlier, later in itertools.product(MOMENTS, MOMENTS):
        for second in range(len(DATA)):
            world = MemoryWorld([RECORDS["data"]])
            run_until_death(world, Death(first, earlier), power=power)
            cut_twice += not run_until_death(world, Death(second, later), power=power).survived
            settle(world)
            check(world)
    assert cut_twice > 25


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("effect", range(len(REBOOT)))
def test_rows_outlive_a_boot_that_is_cut_anywhere(effect: int, moment: str, power: bool) -> None:
    world = MemoryWorld([RECORDS["data"]])
    settle(world)
    world.write_rows(RECORDS["data"], "rows")
    world.power_cut()
    made = list(world.made)
    mortal = run_until_death(world, Death(effect, moment), power=power)
    assert tuple(mortal.journey) == REBOOT[: len(mortal.journey)]
    assert not mortal.survived
    settle(world)
    check(world)
    assert world.rows(RECORDS["data"]) == "rows"
    assert world.made == made


@pytest.mark.parametrize("stage", ["new", "claimed", "deposited"])
def test_a_broker_that_was_set_back_costs_no_data(stage: str) -> None:
    """The broker's database is restored from a backup of before the volume was ready."""
    world = MemoryWorld([RECORDS["data"]])
    history: dict[str, Record] = {"new": RECORDS["data"]}
    for effect in range(1, len(DATA)):
        run_until_death(world, Death(effect, "before"), power=True)
        now = world.broker.records[RECORDS["data"].volume]
        history.setdefault(now.stage, now)
    settle(world)
    world.write_rows(RECORDS["data"], "rows")
    world.power_cut()
    made = list(world.made)

    world.broker.records[RECORDS["data"].volume] = history[stage]
    report = run(world)
    assert world.made == made
    assert world.disk(RECORDS["data"]).inside.rows == "rows"
    # from "deposited" on the header is pinned, so the volume is opened; before it, it is somebody's disk
    assert (report.outcomes[0].error is None) == (stage == "deposited")
