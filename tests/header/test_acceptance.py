"""What a profile allows: each bound from both sides, and refusals that an operator can act on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from agent.luks.acceptance import accept, area_bytes
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import MIB, Profile, first_profile
from tests.header.disks import Disk
from tests.header.named import ATTACKS

XTS: Final = first_profile("aes-xts-plain64")


def test_more_keyslots_than_the_profile_has_are_refused(plain: Disk) -> None:
    header = plain.header()
    profile = replace(XTS, most_keyslots=len(header.keyslots))
    accept(header, profile, None)
    with pytest.raises(KeybrokerError, match="number of keyslots"):
        accept(header, replace(profile, most_keyslots=len(header.keyslots) - 1), None)


ARGON2: Final = replace(XTS, argon2_memory_kib=64)


def test_a_good_header_passes_with_and_without_a_pin(plain: Disk) -> None:
    header = plain.header()
    accept(header, XTS, None)
    accept(header, XTS, header.pin)


def test_the_areas_that_cryptsetup_makes_have_the_size_that_is_asked_for(plain: Disk) -> None:
    assert (area_bytes(64), area_bytes(32)) == (258048, 131072)
    assert plain.header().keyslots[0].area.size == area_bytes(64)


def _kdf(**fields: Any) -> Callable[[Any], None]:
    return lambda metadata: metadata["keyslots"]["2"]["kdf"].update(fields)


def _iterations(where: str, count: int) -> Callable[[Any], None]:
    def change(metadata: Any) -> None:
        part = metadata[where]["0"]
        (part["kdf"] if where == "keyslots" else part)["iterations"] = count

    return change


BOUNDS: Final[dict[str, tuple[Profile, Callable[[Any], None], Callable[[Any], None], str]]] = {
    "least iterations of a keyslot": (
        XTS,
        _iterations("keyslots", 1000),
        _iterations("keyslots", 999),
        "keyslots.0.kdf.iterations: is 999, must be from 1000 to 10000000",
    ),
    "most iterations of a keyslot": (
        XTS,
        _iterations("keyslots", 10_000_000),
        _iterations("keyslots", 10_000_001),
        "keyslots.0.kdf.iterations: is 10000001, must be from 1000 to 10000000",
    ),
    "least iterations of the digest": (
        XTS,
        _iterations("digests", 1000),
        _iterations("digests", 999),
        "digests.0.iterations: is 999, must be from 1000 to 10000000",
    ),
    "most iterations of the digest": (
        XTS,
        _iterations("digests", 10_000_000),
        _iterations("digests", 10_000_001),
        "digests.0.iterations: is 10000001, must be from 1000 to 10000000",
    ),
    "argon2's memory": (
        ARGON2,
        _kdf(memory=64),
        _kdf(memory=65),
        "keyslots.2.kdf.memory: is 65, must be from 1 to 64",
    ),
    "argon2's time": (
        ARGON2,
        _kdf(time=16),
        _kdf(time=17),
        "keyslots.2.kdf.time: is 17, must be from 1 to 16",
    ),
    "argon2's time with less memory": (
        ARGON2,
        _kdf(memory=32, time=32),
        _kdf(memory=32, time=33),
        "keyslots.2.kdf.time: is 33, must be from 1 to 32",
    ),
    "argon2's threads": (
        ARGON2,
        _kdf(cpus=4),
        _kdf(cpus=5),
        "keyslots.2.kdf.cpus: is 5, must be from 1 to 4",
    ),
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_number_passes_at_its_bound_and_not_beyond(bound: str, rich: Disk) -> None:
    profile, at, beyond, reason = BOUNDS[bound]
    metadata = rich.json()
    del metadata["tokens"]["1"]
    if profile is XTS:
        del metadata["keyslots"]["2"]
        metadata["digests"]["0"]["keyslots"].remove("2")
    at(metadata)
    accept(rich.with_json(metadata).header(), profile, None)
    beyond(metadata)
    with pytest.raises(KeybrokerError) as refused:
        accept(rich.with_json(metadata).header(), profile, None)
    assert refused.value.detail == reason


@pytest.mark.parametrize("offset", [MIB, 2 * MIB])
def test_the_data_begins_within_the_profiles_bounds(offset: int, plain: Disk) -> None:
    metadata = plain.json()
    metadata["segments"]["0"]["offset"] = str(offset)
    header = replace(plain, size=4 * MIB).with_json(metadata).header()
    accept(header, replace(XTS, data_offsets=(offset, offset)), None)
    for bounds in ((offset + 512, 32 * MIB), (0, offset - 512)):
        with pytest.raises(KeybrokerError, match=f"segments.0.offset: is {offset}, must be from "):
            accept(header, replace(XTS, data_offsets=bounds), None)


def test_each_field_of_the_pin_is_compared(plain: Disk) -> None:
    header = plain.header()
    for pin, reason in (
        (
            replace(header.pin, uuid="5ca1ab1e-0000-4000-8000-000000000001"),
            f"uuid: is {header.uuid}, must be 5ca1",
        ),
        (
            replace(header.pin, digest="sha256:" + "0" * 64),
            f"digest of the volume key: is {header.pin.digest}",
        ),
        (
            replace(header.pin, data_offset=2 * MIB),
            "segments.0.offset: is 1048576, must be 2097152, as pinned",
        ),
        (replace(header.pin, sector_size=4096), "segments.0.sector_size: is 512, must be 4096, as pinned"),
    ):
        with pytest.raises(KeybrokerError) as refused:
            accept(header, XTS, pin)
        assert refused.value.detail.startswith(reason)


def test_a_reencryption_keyslot_is_refused_even_without_its_requirement(plain: Disk) -> None:
    metadata = plain.json()
    area = {"type": "journal", "offset": "524288", "size": "8192"}
    slot = {"type": "reencrypt", "key_size": 1, "mode": "reencrypt", "direction": "forward", "area": area}
    metadata["keyslots"]["1"] = slot
    with pytest.raises(KeybrokerError, match=r"keyslots\.1\.type: is reencrypt, must be luks2"):
        accept(plain.with_json(metadata).header(), XTS, None)


def test_a_keyslot_of_another_volume_key_is_refused(rich: Disk) -> None:
    """An unbound keyslot (cryptsetup luksAddKey --unbound) is somebody's, and not ours."""
    metadata = rich.json()
    metadata["digests"]["0"]["keyslots"] = ["0", "1"]
    metadata["digests"]["1"] = metadata["digests"]["0"] | {"keyslots": ["2"], "segments": []}
    with pytest.raises(KeybrokerError, match="number of digests: is 2, must be 1"):
        accept(rich.with_json(metadata).header(), replace(ARGON2, foreign_tokens=True), None)


def test_every_refusal_names_the_field_what_was_found_and_what_is_allowed(rich: Disk) -> None:
    metadata = rich.json()
    del metadata["tokens"]["1"]
    disk = rich.with_json(metadata)
    for make, _ in ATTACKS.values():
        try:
            header = make(disk).header()
        except KeybrokerError:
            continue  # the reader's, not the profile's
        with pytest.raises(KeybrokerError) as refused:
            accept(header, ARGON2, disk.header().pin)
        assert refused.value.problem is Problem.HEADER_REFUSED
        field, _, rest = refused.value.detail.partition(": is ")
        found, _, allowed = rest.partition(", must be ")
        assert all((field, found, allowed)), refused.value.detail


def test_judging_a_header_takes_no_more_than_the_standard_library() -> None:
    """These modules are on the way to a booting disk: every import costs a virtual machine its boot time."""
    script = (
        "import sys\nbefore = set(sys.modules)\n"
        "import agent.luks.header, agent.luks.acceptance, agent.luks.copy, agent.luks.table\n"
        "print(*sorted(name.split('.')[0] for name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=30)
    found = set(done.stdout.decode().split())
    assert found <= sys.stdlib_module_names | {"agent", "keybroker"}
    assert not found & {"ssl", "socket", "http", "urllib", "logging", "subprocess", "argparse", "tomllib"}
