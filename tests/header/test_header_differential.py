"""The agent's reader beside the real cryptsetup's: what is taken here, cryptsetup must read as we do."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from agent.luks.acceptance import accept
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.profile import first_profile
from tests.header.disks import Disk, cryptsetup, on_file, opens
from tests.header.forgeries import forge, scrambled

XTS: Final = first_profile("aes-xts-plain64")

EVERY: Final = int(os.environ.get("KEYBROKER_DIFFERENTIAL", "40"))
"""One forgery in so many is shown to cryptsetup too; 1 shows it all of them."""

SCRAMBLED: Final = 300


def taken(disk: Disk, good: Disk) -> bool:
    try:
        accept(disk.header(), XTS, good.header().pin)
    except KeybrokerError:
        return False
    return True


def test_cryptsetup_reads_what_is_taken_here_in_the_same_way(
    plain: Disk, plain_path: Path, tmp_path: Path
) -> None:
    document = plain.json()
    disks = [plain.with_text(forgery.text) for forgery in forge(document)]
    disks += [plain.with_text(scrambled(document, seed)) for seed in range(SCRAMBLED)]
    disks = [disk for disk in disks if taken(disk, plain)]
    print(f"{len(disks)} headers that differ from the good one and are taken")
    assert len(disks) > 5
    for disk in disks:
        path = on_file(disk, plain_path, tmp_path / "disk")
        read = cryptsetup("luksDump", "--disable-locks", "--dump-json-metadata", path)
        assert json.loads(read.stdout) == disk.json()


@pytest.mark.limit(120 if EVERY > 20 else 1200)
def test_cryptsetup_takes_forged_headers_that_are_refused_here(
    plain: Disk, plain_path: Path, tmp_path: Path
) -> None:
    forgeries = list(forge(plain.json()))[::EVERY]

    def cryptsetup_takes(number: int) -> bool | None:
        disk = plain.with_text(forgeries[number].text)
        path = on_file(disk, plain_path, tmp_path / f"disk{number}")
        try:
            return opens(path, keyslot=0, seconds=2)
        finally:
            path.unlink()

    with ThreadPoolExecutor(max_workers=2) as pool:
        verdicts = list(pool.map(cryptsetup_takes, range(len(forgeries))))
    here = [taken(plain.with_text(forgery.text), plain) for forgery in forgeries]
    lax = [f.name for f, theirs, ours in zip(forgeries, verdicts, here, strict=True) if theirs and not ours]
    print(f"{len(forgeries)} forgeries: cryptsetup takes {verdicts.count(True)},")
    print(f"hangs on {verdicts.count(None)}; {here.count(True)} are taken here;")
    print(f"cryptsetup takes and we refuse {len(lax)}:", *lax, sep="\n  ")
    assert lax
