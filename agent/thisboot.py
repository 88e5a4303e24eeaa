"""Which boot of which machine this is, as each request says it."""

from __future__ import annotations

from typing import Final

from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.problems import KeybrokerError, Problem

BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
MACHINE_ID: Final = "/etc/machine-id"


def named() -> AskingBoot | None:
    """Return it; None where it cannot be read, or is not one yet (machine-id(5), first boot)."""
    try:
        return AskingBoot.parse(f"{first_line(BOOT_ID)} {first_line(MACHINE_ID)}")
    except KeybrokerError:
        return None  # the broker judges a call without it; an unlock must say it, and says what is wrong


def first_line(path: str) -> str:
    """Return what is in one of these files (Raises: CONFIGURATION)."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(200).strip()
    except OSError as error:
        raise KeybrokerError(Problem.CONFIGURATION, f"{path}: {error.strerror}") from error
