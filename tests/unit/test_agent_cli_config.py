"""agent.toml: what may be in it, and what is said about what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import config
from agent.config import Config
from keybroker.wire.problems import KeybrokerError, Problem

FILE = Path("/etc/keybroker-agent/agent.toml")
EVERYTHING = """
brokers = ["https://b1.example:8443", "https://b2.example:8443"]
deadline_seconds = 30
mounts = "agent"
state_directory = "/srv/state"
runtime_directory = "/run/other"

[devices]
kbv-q3m5x7abcdef = "/dev/loop0"
"""


def refused(text: str) -> str:
    with pytest.raises(KeybrokerError) as caught:
        config.parse(text.encode(), FILE)
    assert caught.value.problem is Problem.CONFIGURATION
    assert caught.value.detail.startswith(f"{FILE}: ")
    return caught.value.detail.removeprefix(f"{FILE}: ")


def test_nothing_needs_to_be_said() -> None:
    assert config.parse(b"", FILE) == Config()
    assert Config().deadline_seconds == 600
    assert Config().mounts == "systemd"


def test_everything_that_can_be_said_is_understood() -> None:
    assert config.parse(EVERYTHING.encode(), FILE) == Config(
        brokers=("https://b1.example:8443", "https://b2.example:8443"),
        devices={"kbv-q3m5x7abcdef": Path("/dev/loop0")},  # type: ignore[dict-item]
        deadline_seconds=30.0,
        mounts="agent",
        state_directory=Path("/srv/state"),
        runtime_directory=Path("/run/other"),
    )


def test_every_key_of_the_documentation_is_read() -> None:
    documented = {
        line.split(" =")[0].strip() for line in (config.__doc__ or "").splitlines() if " = " in line
    }
    assert {key for key in documented if "_" in key or key in ("brokers", "enrolment", "mounts")} | {
        "devices"
    } == set(Config.__dataclass_fields__)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("deadline = 5", "deadline: is not known; there are brokers, deadline_seconds, devices,"),
        ("tls = false", "tls: is not known"),
        ("verify = false", "verify: is not known"),
        ("brokers = 'https://b'", "brokers: must be a list of strings"),
        ("brokers = [1]", "brokers: must be a list of strings"),
        ("deadline_seconds = -1", "deadline_seconds: must be a number of seconds from 0 to 86400"),
        ("deadline_seconds = 86401", "deadline_seconds: must be a number"),
        ("deadline_seconds = nan", "deadline_seconds: must be a number"),
        ("deadline_seconds = true", "deadline_seconds: must be a number"),
        ("deadline_seconds = '5'", "deadline_seconds: must be a number"),
        ("mounts = 'fstab'", 'mounts: must be "systemd" or "agent"'),
        ("mounts = []", 'mounts: must be "systemd" or "agent"'),
        ("state_directory = 'var'", "state_directory: must be an absolute path"),
        ("runtime_directory = 5", "runtime_directory: must be an absolute path"),
        ("devices = []", "devices: must be a table"),
        ("[devices]\nvdb = '/dev/vdb'", "devices.vdb: is not a volume id"),
        ("[devices]\nkbv-q3m5x7abcdef = 'vdb'", "devices.kbv-q3m5x7abcdef: must be an absolute path"),
        ("a = ", "not TOML: "),
        ("a = 1\na = 2", "not TOML: "),
    ],
)
def test_what_is_wrong_is_named_with_its_key(text: str, said: str) -> None:
    assert refused(text).startswith(said)


def test_bytes_that_are_no_text_are_not_toml() -> None:
    with pytest.raises(KeybrokerError) as caught:
        config.parse(b"\xff", FILE)
    assert "not TOML" in caught.value.detail


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(KeybrokerError) as caught:
        config.load(tmp_path / "agent.toml")
    assert "there is no such file" in caught.value.detail


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_not_read(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("")
    file.chmod(mode)
    with pytest.raises(KeybrokerError) as caught:
        config.load(file)
    assert "may be written by others" in caught.value.detail
    assert "chmod 0644" in (caught.value.hint or "")
    file.chmod(0o644)
    assert config.load(file) == Config()


def test_a_file_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    with file.open("wb") as stream:
        stream.truncate(config.LARGEST + 1)
    with pytest.raises(KeybrokerError) as caught:
        config.load(file)
    assert "larger than" in caught.value.detail
