"""A header in the middle of an announced re-encryption: real ones pass, forged ones do not.

Made by cryptsetup's offline re-encryption of a file, which needs root but no device-mapper, and cut by strace
at its n-th write, so that every state that a power cut leaves is there.
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

from agent.luks.acceptance import accept
from agent.luks.copy import pack
from agent.luks.midway import State, accept_begun, done_bytes, new_digest
from keybroker.wire.orders import Order
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin, first_profile
from tests.header.disks import KIB, MIB, OUR_TOKEN, PASSPHRASE, Disk, cryptsetup, import_token, luks_format
from tests.header.forgeries import forge, of_keyslot, of_segment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="re-encrypting a file needs root")

XTS: Final = first_profile("aes-xts-plain64")
BEGUN: Final = Order(1, "reencrypt", "begun")
SIZE: Final = 5 * MIB + 64 * KIB
OFFLINE: Final = ("--disable-locks", "--force-offline-reencrypt", "--key-file", "-")
INIT: Final = (
    "reencrypt", "-q", "--init-only", *OFFLINE, "--resilience", "checksum", "--key-slot", "0",
    "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
)  # fmt: skip
RESUME: Final = ("reencrypt", "-q", "--resume-only", *OFFLINE, "--hotzone-size", "1M")

# name: which command is cut, and at which of its writes
CUTS: Final = {
    "the new keyslot is written": (INIT, 9),
    "our token was assigned to it": (INIT, 15),
    "begun": (INIT, None),
    "nothing done yet": (RESUME, 6),
    "the first stretch is hot": (RESUME, 13),
    "the first stretch is done": (RESUME, 20),
    "a stretch in the middle is hot": (RESUME, 27),
}
STATES: Final[dict[str, State]] = {
    "the new keyslot is written": "torn",
    "our token was assigned to it": "torn",
}


@dataclass(frozen=True)
class Cut:
    """Where a re-encryption was cut.

    Attributes:
        pin: of the volume before.
    """

    path: Path
    disk: Disk
    pin: Pin


def _run(command: tuple[str, ...], path: Path, at: int | None) -> None:
    if at is None:
        cryptsetup(*command, path)
        return
    calls = "trace=write,pwrite64"
    subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "-e", calls, "-e", f"inject=write,pwrite64:signal=KILL:when={at}",
         "cryptsetup", *command, str(path)],
        input=PASSPHRASE, capture_output=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cut]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    directory = tmp_path_factory.mktemp("midway")
    base = luks_format(
        directory / "base.img", SIZE, "--luks2-metadata-size", "16k", "--luks2-keyslots-size", "992k",
        "--offset", "2048", "--sector-size", "512",
    )  # fmt: skip
    import_token(base, OUR_TOKEN)
    pin = Disk.of(base).header().pin
    found = {}
    for number, (name, (command, at)) in enumerate(CUTS.items()):
        path = directory / f"{number}.img"
        shutil.copyfile(base, path)
        if command is RESUME:
            _run(INIT, path, None)
        _run(command, path, at)
        found[name] = Cut(path, Disk.of(path), pin)
    return found


def verdict(disk: Disk, pin: Pin, order: Order = BEGUN) -> str | None:
    """Say why a disk is refused, None if it is not."""
    try:
        accept_begun(disk.header(), XTS, pin, order, disk.size)
    except KeybrokerError as refusal:
        assert refusal.problem is Problem.HEADER_REFUSED
        assert refusal.detail.isprintable()
        return refusal.detail
    return None


@pytest.mark.parametrize("cut", CUTS)
def test_every_state_that_a_cut_leaves_is_taken_for_what_it_is(cut: str, cuts: dict[str, Cut]) -> None:
    made = cuts[cut]
    header = made.disk.header()
    assert accept_begun(header, XTS, made.pin, BEGUN, made.disk.size) == STATES.get(cut, "midway")


@pytest.mark.parametrize("cut", CUTS)
def test_without_the_announcement_it_is_refused(cut: str, cuts: dict[str, Cut]) -> None:
    made = cuts[cut]
    with pytest.raises(KeybrokerError) as refused:
        accept(made.disk.header(), XTS, made.pin)
    assert refused.value.problem is Problem.HEADER_REFUSED


@pytest.mark.parametrize("cut", [name for name in CUTS if name not in STATES])
def test_no_copy_is_made_in_the_middle(cut: str, cuts: dict[str, Cut]) -> None:
    made = cuts[cut]
    with pytest.raises(KeybrokerError, match="a copy would undo part of it"):
        pack(made.disk.header(), made.disk.read)


def test_what_is_done_is_read_off_the_segments(cuts: dict[str, Cut]) -> None:
    done = {name: done_bytes(cut.disk.header(), cut.disk.size) for name, cut in cuts.items()}
    total = SIZE - MIB
    assert done["begun"] == done["the first stretch is hot"] == (0, total)
    assert done["the first stretch is done"] == done["a stretch in the middle is hot"] == (MIB, total)


def test_the_end_is_accepted_under_the_announced_digest_only(cuts: dict[str, Cut], tmp_path: Path) -> None:
    made = cuts["a stretch in the middle is hot"]
    announced = new_digest(made.disk.header())
    path = tmp_path / "done.img"
    shutil.copyfile(made.path, path)
    cryptsetup("repair", "-q", "--disable-locks", "--key-file", "-", path)
    cryptsetup(*RESUME, path)
    done = Disk.of(path)
    order = replace(BEGUN, digest=announced)
    assert accept_begun(done.header(), XTS, made.pin, order, done.size) == "done"
    assert new_digest(done.header()) is None
    assert verdict(done, made.pin) is not None
    assert verdict(done, made.pin, replace(BEGUN, digest="sha256:" + "0" * 64)) is not None


def test_another_volume_key_than_the_announced_one_is_refused(cuts: dict[str, Cut]) -> None:
    made = cuts["begun"]
    other = replace(BEGUN, digest="sha256:" + "0" * 64)
    assert (verdict(made.disk, made.pin, other) or "").startswith("digest of the new volume key")
    stranger = replace(made.pin, digest="sha256:" + "0" * 64)
    assert (verdict(made.disk, stranger) or "").startswith("digest of the old volume key")


def test_only_a_begun_order_to_reencrypt_makes_its_traces_expected() -> None:
    assert BEGUN.is_reencrypting
    assert not replace(BEGUN, phase="ordered").is_reencrypting
    assert not replace(BEGUN, kind="encrypt").is_reencrypting


def test_a_volume_key_without_a_segment_is_not_told_of(cuts: dict[str, Cut]) -> None:
    """Or the broker would refuse, at the next boot, what is left of a beginning that was cut."""
    assert cuts["the new keyslot is written"].disk.header().seen().others == ()
    begun = cuts["begun"].disk.header()
    assert begun.seen().others == (new_digest(begun),)


HARMLESS: Final = re.compile(
    # another salt, or a keyslot's passphrase: it does not open any more
    r"keyslots\.[0-9]\.kdf\.salt: .*|keyslots\.2\.area\.(size|offset): .*"
    # where cryptsetup 2.6 keeps the priority of its own keyslot
    r"|keyslots\.2\.priority: .*|keyslots\.[0-9]: and one more"
    # the re-encryption's own digest is made of both volume keys: a wrong one is refused by cryptsetup
    r"|digests\.[23]\.(salt|digest): .*"
    # other sums for the hot zone: the digest above covers them
    r"|keyslots\.2\.area\.sector_size: .*"
    # our token says where to begin
    r"|tokens.*"
)
"""What opens nothing else: all that may get through."""


@pytest.mark.parametrize(
    ("cut", "every"), [("begun", 7), ("the first stretch is done", 7), ("a stretch in the middle is hot", 1)]
)
def test_no_forged_field_gets_through_in_the_middle(cut: str, every: int, cuts: dict[str, Cut]) -> None:
    made = cuts[cut]
    order = replace(BEGUN, digest=new_digest(made.disk.header()))
    assert verdict(made.disk, made.pin, order) is None
    forgeries = list(forge(made.disk.json()))[::every]
    through = [
        forgery.name
        for forgery in forgeries
        if verdict(made.disk.with_text(forgery.text), made.pin, order) is None
    ]
    print(f"{cut}: {len(forgeries)} forgeries, {len(forgeries) - len(through)} refused")
    assert len(forgeries) > 4000 // every
    assert [name for name in through if HARMLESS.fullmatch(name) is None] == []


def _swapped_digests(metadata: Any) -> None:
    """Claim that what is under the new key is under the old one."""
    digests = metadata["digests"]
    digests["0"]["segments"], digests["1"]["segments"] = digests["1"]["segments"], digests["0"]["segments"]


def _to_linear(metadata: Any) -> None:
    """CVE-2021-4122: the rest of the disk becomes plain text."""
    old = metadata["segments"]["1"]
    metadata["segments"]["1"] = {"type": "linear", "offset": old["offset"], "size": old["size"]}
    metadata["digests"]["0"]["segments"].remove("1")


NAMED: Final = {
    "a rest in plain text": (_to_linear, "segments.1.type: is linear, must be crypt"),
    "no encryption": (of_segment("1", encryption="cipher_null-ecb"), "segments.1.encryption"),
    "no encryption of what is done": (of_segment("0", encryption="cipher_null-ecb"), "segments.0.encryption"),
    "no encryption in the end": (of_segment("3", encryption="cipher_null-ecb"), "segments.3.encryption"),
    "other sectors": (of_segment("1", sector_size=4096), "segments.1.sector_size"),
    "a decryption": (of_keyslot("2", mode="decrypt"), "keyslots.2.mode: is decrypt, must be reencrypt"),
    "an encryption": (of_keyslot("2", mode="encrypt"), "keyslots.2.mode"),
    "the other direction": (of_keyslot("2", direction="backward"), "keyslots.2.direction"),
    "a gap": (of_segment("1", offset="3145728", iv_tweak="4096"), "segments.1.offset"),
    "IVs of another place": (of_segment("1", iv_tweak="8"), "segments.1.iv_tweak"),
    "keys that changed places": (_swapped_digests, "digest of the old volume key"),
}


@pytest.mark.parametrize("attack", NAMED)
def test_a_known_attack_in_the_middle_is_refused_for_its_reason(attack: str, cuts: dict[str, Cut]) -> None:
    made = cuts["the first stretch is done"]
    change, reason = NAMED[attack]
    metadata = made.disk.json()
    change(metadata)
    said = verdict(made.disk.with_json(metadata), made.pin)
    assert said is not None
    assert said.startswith(reason), said


def test_another_disks_header_in_the_middle_is_refused(cuts: dict[str, Cut]) -> None:
    made = cuts["the first stretch is done"]
    said = verdict(made.disk.with_field("uuid", b"5ca1ab1e-0000-4000-8000-000000000001"), made.pin)
    assert said is not None
    assert said.startswith("uuid: is 5ca1ab1e"), said


_PLACE: Final = {"offset": "548864", "size": "4096"}
OTHER_RESILIENCE: Final[dict[str, dict[str, Any]]] = {
    "none": {"type": "none"},
    "journal": {"type": "journal"},
    "datashift": {"type": "datashift", "shift_size": "1048576"},
    "datashift-journal": {"type": "datashift-journal", "shift_size": "1048576"},
}


@pytest.mark.parametrize("kind", OTHER_RESILIENCE)
def test_another_resilience_is_refused(kind: str, cuts: dict[str, Cut]) -> None:
    made = cuts["begun"]
    metadata = made.disk.json()
    metadata["keyslots"]["2"]["area"] = OTHER_RESILIENCE[kind] | _PLACE
    assert (verdict(made.disk.with_json(metadata), made.pin) or "").startswith("keyslots.2.area.type")
