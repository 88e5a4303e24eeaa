"""A header in the middle of an encryption in place: real ones pass, forged ones do not.

Made as the agent makes it, on a mould, and carried on by cryptsetup's offline encryption of a file, cut by
strace at its n-th write.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from agent.luks.acceptance import accept, judge
from agent.luks.copy import HeaderImage, pack
from agent.luks.inplace import Layout, accept_in_place, done_bytes, layout_of
from agent.luks.midway import accept_begun
from agent.luks.mould import compose_in_place
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin, first_profile
from keybroker.wire.records import Record
from keybroker.wire.secret import passphrase
from tests.crash.volumes import record
from tests.header.disks import MIB, PASSPHRASE, Disk, cryptsetup
from tests.header.forgeries import forge, of_keyslot, of_segment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="encrypting a file needs root")

XTS: Final = first_profile("aes-xts-plain64")
SIZE: Final = 36 * MIB
SHIFT: Final = 4 * MIB
LENGTH: Final = SIZE - 2 * SHIFT
UUID: Final = "0f2d3c1a-5b6e-4d7c-8f90-a1b2c3d4e5f6"
RESUME: Final = (
    "reencrypt", "-q", "--resume-only", "--disable-locks", "--force-offline-reencrypt", "--key-file", "-",
)  # fmt: skip

CUTS: Final[dict[str, int | None]] = {
    "nothing encrypted yet": None,
    "the last stretch is hot": 7,
    "the last stretch is encrypted": 14,
    "one in the middle is hot": 33,
    "all but the kept beginning": 79,
    "the kept beginning is hot": 85,
    "all, and only the last write is missing": 92,
}
"""After which of cryptsetup's writes the power goes."""


@dataclass(frozen=True)
class Cut:
    path: Path
    disk: Disk
    pin: Pin


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> HeaderImage:
    return compose_in_place(
        tmp_path_factory.mktemp("mould"), passphrase(PASSPHRASE),
        uuid=UUID, label="kb-inplace", profile=XTS, sector_size=512, size_bytes=SIZE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cuts(image: HeaderImage, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cut]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    directory = tmp_path_factory.mktemp("inplace")
    found = {}
    for number, (name, at) in enumerate(CUTS.items()):
        path = directory / f"{number}.img"
        path.write_bytes(image.read(0, SHIFT) + bytes(SIZE - SHIFT))
        pin = Disk.of(path).header().pin
        if at is not None:
            calls = "trace=write,pwrite64"
            subprocess.run(
                ["strace", "-f", "-o", "/dev/null", "-e", calls,
                 "-e", f"inject=write,pwrite64:signal=KILL:when={at}", "cryptsetup", *RESUME, str(path)],
                input=PASSPHRASE, capture_output=True, check=False,
            )  # fmt: skip
        found[name] = Cut(path, Disk.of(path), pin)
    return found


def verdict(disk: Disk, pin: Pin) -> str | None:
    """Say why a disk is refused, None if it is not."""
    try:
        accept_in_place(disk.header(), XTS, pin, disk.size)
    except KeybrokerError as refusal:
        assert refusal.problem is Problem.HEADER_REFUSED
        assert refusal.detail.isprintable()
        return refusal.detail
    return None


def half(pin: Pin) -> Record:
    order = Order(1, "encrypt", "begun", pin.digest)
    return replace(record(size=SIZE), stage="plain", order=order, pin=pin, luks_uuid=UUID)


@pytest.mark.parametrize("cut", CUTS)
def test_every_state_that_a_cut_leaves_is_taken_for_what_it_is(cut: str, cuts: dict[str, Cut]) -> None:
    made = cuts[cut]
    header = made.disk.header()
    assert accept_in_place(header, XTS, made.pin, SIZE) == "midway"
    assert judge(header, half(made.pin), SIZE) == "midway"
    assert header.pin == made.pin, "it has one volume key, and its place, from the beginning"
    assert header.seen().others == ()
    assert layout_of(header) == Layout(SHIFT, SIZE - SHIFT, LENGTH)


def test_the_cuts_are_where_they_are_said_to_be(cuts: dict[str, Cut]) -> None:
    kinds = {
        name: [
            ("clear" if s.kind == "linear" else "hot" if s.is_hot else "done")
            for s in cut.disk.header().segments.values()
            if not s.is_backup
        ]
        for name, cut in cuts.items()
    }
    assert kinds == {
        "nothing encrypted yet": ["clear", "clear"],
        "the last stretch is hot": ["clear", "clear", "hot"],
        "the last stretch is encrypted": ["clear", "clear", "done"],
        "one in the middle is hot": ["clear", "clear", "hot", "done"],
        "all but the kept beginning": ["clear", "done"],
        "the kept beginning is hot": ["hot", "done"],
        "all, and only the last write is missing": ["done"],
    }


def test_what_is_done_is_read_off_the_segments(cuts: dict[str, Cut]) -> None:
    done = {name: done_bytes(cut.disk.header()) for name, cut in cuts.items()}
    assert done["nothing encrypted yet"] == done["the last stretch is hot"] == (0, LENGTH)
    assert done["the last stretch is encrypted"] == (SHIFT, LENGTH)
    assert done["all but the kept beginning"] == (LENGTH - SHIFT, LENGTH)
    assert done["all, and only the last write is missing"] == (LENGTH, LENGTH)


@pytest.mark.parametrize("cut", CUTS)
def test_for_any_other_volume_it_is_refused(cut: str, cuts: dict[str, Cut]) -> None:
    made = cuts[cut]
    for order in (Order(1, "reencrypt", "begun"), Order(1, "reencrypt", "begun", made.pin.digest)):
        with pytest.raises(KeybrokerError):
            accept_begun(made.disk.header(), XTS, made.pin, order, SIZE)
    with pytest.raises(KeybrokerError):
        accept(made.disk.header(), XTS, made.pin)
    with pytest.raises(KeybrokerError):
        judge(made.disk.header(), replace(half(made.pin), order=Order(1, "encrypt", "begun")), SIZE)


@pytest.mark.parametrize("cut", CUTS)
def test_no_copy_is_made_in_the_middle(cut: str, cuts: dict[str, Cut]) -> None:
    with pytest.raises(KeybrokerError, match="a copy would undo part of it"):
        pack(cuts[cut].disk.header(), cuts[cut].disk.read)


def test_the_end_is_accepted_as_it_is_pinned(cuts: dict[str, Cut], tmp_path: Path) -> None:
    made = cuts["one in the middle is hot"]
    path = tmp_path / "done.img"
    shutil.copyfile(made.path, path)
    cryptsetup("repair", "-q", "--disable-locks", "--key-file", "-", path)
    cryptsetup(*RESUME, path)
    done = Disk.of(path)
    assert accept_in_place(done.header(), XTS, made.pin, done.size) == "done"
    assert verdict(done, replace(made.pin, digest="sha256:" + "0" * 64)) is not None


def test_the_header_of_another_volume_is_refused(cuts: dict[str, Cut]) -> None:
    made = cuts["one in the middle is hot"]
    for pin, field in (
        (replace(made.pin, uuid=UUID[:-1] + "0"), "uuid"),
        (replace(made.pin, digest="sha256:" + "0" * 64), "digest of the volume key"),
        (replace(made.pin, data_offset=8 * MIB), "keyslots.1.area.shift_size"),
        (replace(made.pin, sector_size=4096), "segments.2.sector_size"),
    ):
        assert (verdict(made.disk, pin) or "").startswith(field)


def test_a_disk_that_ends_before_what_is_kept_is_refused(cuts: dict[str, Cut]) -> None:
    made = cuts["nothing encrypted yet"]
    with pytest.raises(KeybrokerError):
        accept_in_place(made.disk.header(), XTS, made.pin, SIZE - 512)
    assert accept_in_place(made.disk.header(), XTS, made.pin, SIZE + MIB) == "midway"


HARMLESS: Final = re.compile(
    r"keyslots\.[0-9]\.kdf\.salt: .*|keyslots\.1\.area\.(size|offset): .*"
    r"|keyslots\.1\.priority: .*|keyslots\.[0-9]: and one more"
    # the encryption's own digest is made of the volume key: a wrong one is refused by cryptsetup
    r"|digests\.1\.(salt|digest): .*"
    r"|tokens.*"
)
"""What opens nothing else: all that may get through."""


@pytest.mark.parametrize(
    ("cut", "every"),
    [("nothing encrypted yet", 3), ("the last stretch is encrypted", 5), ("one in the middle is hot", 1)],
)
def test_no_forged_field_gets_through_in_the_middle(cut: str, every: int, cuts: dict[str, Cut]) -> None:
    made = cuts[cut]
    assert verdict(made.disk, made.pin) is None
    forgeries = list(forge(made.disk.json()))[::every]
    through = [
        forgery.name for forgery in forgeries if verdict(made.disk.with_text(forgery.text), made.pin) is None
    ]
    print(f"{cut}: {len(forgeries)} forgeries, {len(forgeries) - len(through)} refused")
    assert len(forgeries) > 2000 // every
    assert [name for name in through if HARMLESS.fullmatch(name) is None] == []


def _in_the_clear_again(metadata: Any) -> None:
    """Have what is encrypted be plain text."""
    done = metadata["segments"]["2"]
    metadata["segments"]["2"] = {"type": "linear", "offset": done["offset"], "size": done["size"]}
    metadata["digests"]["0"]["segments"].remove("2")


def _another_end(metadata: Any) -> None:
    metadata["segments"]["3"]["size"] = str(LENGTH - MIB)


NAMED: Final = {
    "what is encrypted, in plain text": (_in_the_clear_again, "segments.2.offset"),
    "no encryption": (of_segment("2", encryption="cipher_null-ecb"), "segments.2.encryption"),
    "no encryption in the end": (of_segment("4", encryption="cipher_null-ecb"), "segments.4.encryption"),
    "other sectors": (of_segment("2", sector_size=4096), "segments.2.sector_size"),
    "a decryption": (of_keyslot("1", mode="decrypt"), "keyslots.1.mode: is decrypt, must be encrypt"),
    "a re-encryption": (of_keyslot("1", mode="reencrypt"), "keyslots.1.mode"),
    "the other direction": (of_keyslot("1", direction="forward"), "keyslots.1.direction"),
    "a beginning that is kept elsewhere": (
        of_segment("0", offset=str(SIZE - 2 * SHIFT)),
        "segments.0.offset",
    ),
    "a gap": (of_segment("2", offset=str(SIZE - 3 * SHIFT)), "segments.2.offset"),
    "IVs of another place": (of_segment("2", iv_tweak="8"), "segments.2.iv_tweak"),
    "a shorter filesystem": (_another_end, "segments.3.size"),
}


@pytest.mark.parametrize("attack", NAMED)
def test_a_known_attack_in_the_middle_is_refused_for_its_reason(attack: str, cuts: dict[str, Cut]) -> None:
    made = cuts["the last stretch is encrypted"]
    change, reason = NAMED[attack]
    metadata = made.disk.json()
    change(metadata)
    said = verdict(made.disk.with_json(metadata), made.pin)
    assert said is not None
    assert said.startswith(reason), said
