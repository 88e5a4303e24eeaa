"""The kernel tier stands on this: where these tests run there is another kernel, and it has device-mapper."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel


def test_the_kernel_is_user_mode_linux_with_device_mapper() -> None:
    assert "User Mode Linux" in Path("/proc/cpuinfo").read_text()
    targets = subprocess.run(["dmsetup", "targets"], check=True, capture_output=True, text=True).stdout
    assert {"crypt", "linear", "mirror"} <= {line.split()[0] for line in targets.splitlines()}


def test_run_and_tmp_are_not_the_hosts() -> None:
    for place in ("/run", "/tmp", "/mnt"):
        assert os.path.ismount(place)
        assert (
            os.statvfs(place).f_fsid != os.statvfs("/").f_fsid or os.stat(place).st_dev != os.stat("/").st_dev
        )
