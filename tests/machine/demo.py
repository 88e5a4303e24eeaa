"""``make demo``: a VM boots, fetches its keys from the broker, and its disks open.

Everything is real: a Debian VM under QEMU, the broker on this machine, cryptsetup and dm-crypt, PostgreSQL on
the encrypted volume. Three boots: blank disks are provisioned; the rows are there again with nobody typing; a
revoked host stays locked. Prints a time line as it goes; the exit status is 0 only if all of it held.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from tests.machine import image, story
from tests.machine.accelerator import KVM, accelerator
from tests.machine.site import MOUNT_POINT, UNLOCK, VOLUMES, Site, occurrences
from tests.machine.vm import MachineError

LIMIT_SECONDS: Final = 300


class TimeLine:
    """What happened and when, printed as it happens and once more as a table."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._steps: list[tuple[str, float]] = []

    def say(self, what: str) -> None:
        """Print one line with the seconds since the beginning."""
        print(f"[{time.monotonic() - self._began:6.1f} s] {what}", flush=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Time what happens inside."""
        self.say(what)
        before = time.monotonic()
        yield
        self._steps.append((what, time.monotonic() - before))

    def table(self) -> str:
        """Return the steps with the seconds that each took."""
        wide = max(len(what) for what, _ in self._steps)
        lines = [f"{what:<{wide}}  {seconds:6.1f} s" for what, seconds in self._steps]
        total = time.monotonic() - self._began
        return "\n".join([*lines, f"{'total':<{wide}}  {total:6.1f} s"])


class DemoError(Exception):
    """Something that the demo promises did not hold."""


def hold(fact: bool, what: str) -> None:
    """Go on only if it is so."""
    if not fact:
        raise DemoError(what)


def play(site: Site, line: TimeLine) -> None:
    """Play the three boots."""
    text = f"dear diary {secrets.token_hex(16)}"
    with line.step("broker: init, serve, one add-on with a data and a swap volume"):
        site.establish()
    for serial, disk in site.disks.items():
        line.say(f"    blank disk {disk.name}, serial {serial}")
    _first_boot(site, line, text)
    _second_boot(site, line, text)
    with line.step("disk images searched on this machine for the rows' text"):
        _search(site, line, text)
    _third_boot(site, line)


def _first_boot(site: Site, line: TimeLine, text: str) -> None:
    machine = site.machine
    with line.step("first boot: not enrolled, blank disks"):
        machine.start(disks=site.disks)
        machine.wait_for_login()
    with line.step("host enrolled with a one-time token"):
        site.enrol()
    with line.step("volumes provisioned and opened, swap on"):
        machine.run(f"systemctl start {VOLUMES}")
        machine.wait_until(f"findmnt {MOUNT_POINT}", limit_seconds=30)
    _show_open(site, line)
    with line.step(f"PostgreSQL made on {MOUNT_POINT}, {story.ROWS} rows written"):
        story.create_database(machine)
        story.write_rows(machine, text)
        hold(story.count_rows(machine, text) == story.ROWS, "the rows that were written can be read")
    plain = site.directory / "control"
    plain.write_bytes(story.fetch(machine, story.table_file(machine)))
    with line.step("machine stopped"):
        machine.power_off()


def _second_boot(site: Site, line: TimeLine, text: str) -> None:
    machine = site.machine
    with line.step("second boot: nobody types anything; the database answers"):
        machine.start(disks=site.disks)
        machine.wait_for_login()
        machine.wait_until(f"systemctl is-active {story.DATABASE}")
    _show_open(site, line)
    rows = story.count_rows(machine, text)
    line.say(f"    {rows} rows are there")
    hold(rows == story.ROWS, f"{story.ROWS} rows were written, {rows} are there")
    with line.step("machine stopped"):
        machine.power_off()


def _show_open(site: Site, line: TimeLine) -> None:
    said = site.machine.run(
        f"findmnt -no SOURCE {MOUNT_POINT}; cat /proc/swaps; dmsetup table; keybroker-agent status"
    )
    source, *_ = said.splitlines()
    hold(source == "/dev/mapper/kb-data", f"{MOUNT_POINT} is mounted from {source}")
    hold("/dm-" in said, f"swap is not on:\n{said}")
    for word in said.splitlines():
        line.say(f"    {word}")


def _search(site: Site, line: TimeLine, text: str) -> None:
    control = occurrences(text.encode(), site.directory / "control")
    line.say(f"    the table's file as the database sees it (control): {control} times")
    hold(control >= story.ROWS, "the search finds the text where it is in the clear")
    for disk in site.disks.values():
        found = occurrences(text.encode(), disk)
        line.say(f"    {disk.name} as this machine sees it: {found} times")
        hold(found == 0, f"{disk.name} holds the rows in the clear")


def _third_boot(site: Site, line: TimeLine) -> None:
    machine = site.machine
    with line.step("host revoked"):
        site.revoke("the demo shows a revoked host")
    with line.step("third boot: login works, the volume stays locked"):
        machine.start(disks=site.disks)
        machine.wait_for_login()
        machine.wait_for_boot()
    journal = machine.journal(UNLOCK)
    for said in journal.splitlines()[-8:]:
        line.say(f"    journal: {said}")
    hold("revoked" in journal, "the journal says that the host is revoked")
    status, said = machine.attempt(f"systemctl is-active {story.DATABASE}")
    hold(status != 0, f"the database must not run: {said}")
    hold(machine.attempt(f"findmnt {MOUNT_POINT}")[0] != 0, f"{MOUNT_POINT} must not be mounted")
    left = machine.run(f"find {MOUNT_POINT} -mindepth 1 -newer /etc/machine-id")
    hold(left == "", f"nothing may be written below the bare mount point: {left}")
    line.say("    no database, nothing below the bare mount point, and root is logged in")
    machine.power_off()


def main() -> int:
    """Run the demo; 0 if everything that it promises held."""
    signal.signal(signal.SIGTERM, _terminated)
    line = TimeLine()
    directory = Path(tempfile.mkdtemp(prefix="keybroker-demo-"))
    try:
        with line.step("VM tree and root image (cached)"):
            root, tree = image.build(line.say)
        fast = accelerator(tree.kernel) == KVM
        line.say(f"QEMU runs with {'KVM' if fast else 'software emulation: KVM does not boot a kernel here'}")
        began = time.monotonic()
        with Site(directory, root, tree) as site:
            play(site, line)
        took = time.monotonic() - began
        hold(took < LIMIT_SECONDS, f"the story took {took:.0f} s, more than {LIMIT_SECONDS}")
    except (DemoError, MachineError, RuntimeError) as error:
        line.say(f"FAILED: {error}")
        print(f"demo: logs are in {directory}", file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    print(f"\n{line.table()}\n\nEverything held.")
    return 0


def _terminated(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)  # an exception: what was started is stopped on the way out


if __name__ == "__main__":
    sys.exit(main())
