"""Whether KVM really runs a kernel here; that /dev/kvm opens says nothing about it."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

KVM: Final = ("-accel", "kvm", "-cpu", "host")
EMULATION: Final = ("-accel", "tcg,thread=multi", "-cpu", "max")
PROBE_SECONDS: Final = 6.0


@functools.cache
def accelerator(kernel: Path) -> tuple[str, ...]:
    """Return QEMU's options for the fastest way that works, found out once a process by booting."""
    return KVM if os.access("/dev/kvm", os.R_OK | os.W_OK) and _boots(kernel) else EMULATION


def _boots(kernel: Path) -> bool:
    """Boot a kernel without a root disk under KVM: it panics within a second or two where KVM works.

    On some machines /dev/kvm opens, a VM can be made, and its first instructions never return.
    """
    with tempfile.NamedTemporaryFile() as console:
        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "pc", *KVM, "-m", "256M", "-serial", f"file:{console.name}",
            "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1",
        ]  # fmt: skip
        try:
            subprocess.run(command, timeout=PROBE_SECONDS, check=False, capture_output=True)
        except subprocess.TimeoutExpired:
            return False
        return b"Unable to mount root fs" in Path(console.name).read_bytes()
