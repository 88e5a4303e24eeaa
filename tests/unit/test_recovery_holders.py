"""The offline recovery key in the hands of several: docs/recovery-drill.md, word for word."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pyrage
import pytest

from keybroker import age

DOCUMENT = Path(__file__).parents[2] / "docs/recovery-drill.md"


def commands() -> list[str]:
    """Return what the document has a holder's key split and put together by."""
    found = re.findall(r"^ {6}(.*\bssss-.*?)  +#", DOCUMENT.read_text(), re.MULTILINE)
    return [str(one) for one in found]


def typed(command: str, where: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", command],
        cwd=where, input=stdin, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = typed("age-keygen -o recovery.key", tmp_path)
    assert made.returncode == 0, made.stderr
    return tmp_path


def test_any_two_of_three_holders_have_the_key_and_one_has_nothing(place: Path) -> None:
    split, combine = commands()
    key = place / "recovery.key"
    (recipient,) = age.Identities.read(key).recipients()
    sealed = pyrage.encrypt(b"a passphrase", [pyrage.x25519.Recipient.from_str(recipient)])
    done = typed(split, place)
    assert done.returncode == 0, done.stderr
    shares = done.stdout.splitlines()
    assert len(shares) == 3
    for pair in itertools.combinations(shares, 2):
        key.unlink()
        assert typed(combine, place, "".join(f"{share}\n" for share in pair)).returncode == 0
        assert age.Identities.read(key).decrypt(sealed).reveal() == b"a passphrase"
    key.unlink()
    typed(combine, place, f"{shares[0]}\n" * 2)
    assert "AGE-SECRET-KEY" not in key.read_text()
