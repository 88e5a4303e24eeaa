"""What the kernel swaps to, when whoever began it had a /dev of its own."""

from __future__ import annotations

from pathlib import Path

from agent.mountinfo import swaps

HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


def written(proc: Path, *paths: str) -> Path:
    (proc / "swaps").write_text(HEAD + "".join(f"{path} partition\t130044\t\t0\t\t-2\n" for path in paths))
    return proc


def test_a_device_is_named_as_in_dev(tmp_path: Path) -> None:
    assert swaps(proc=written(tmp_path, "/dev/dm-0", "/dev/zram0")) == (Path("/dev/dm-0"), Path("/dev/zram0"))


def test_swap_that_a_unit_with_mounts_of_its_own_turned_on_is_found_in_dev(tmp_path: Path) -> None:
    # the kernel cannot say the way to another namespace's /dev, and leaves it out
    assert swaps(proc=written(tmp_path, "/dm-0")) == (Path("/dev/dm-0"),)


def test_a_file_in_the_root_directory_stays_what_it_is(tmp_path: Path) -> None:
    assert swaps(proc=written(tmp_path, "/swap.img", "/my\\040swap")) == (
        Path("/swap.img"),
        Path("/my swap"),
    )
