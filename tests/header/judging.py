"""What the fuzzer holds against the reader, the judge and the form of copies; without the fuzzer itself."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from agent.luks.acceptance import accept
from agent.luks.copy import pack, unpack
from agent.luks.header import Header, read_header
from agent.luks.table import CryptTable, meant
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import first_profile
from keybroker.wire.secret import Secret
from tests.header.disks import KIB, Disk
from tests.header.forgeries import scrambled

XTS: Final = first_profile("aes-xts-plain64")

JSON, SECOND, BINARY_ONLY, WHOLE, COPY = range(5)
"""What the first byte of an input says that the rest is."""


def destination(header: Header, device_bytes: int) -> CryptTable:
    """Say what a header leads to. The number of its digest, which is in the key's name, is of no account:
    cryptsetup gives it another one with each re-encryption.
    """
    table = meant(header, "253:0", device_bytes)
    return replace(table, key=table.key.rstrip("0123456789"))


class Judge:
    """Judges inputs against one good disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._good = disk.header()
        self._meant = destination(self._good, disk.size)

    def seeds(self) -> list[bytes]:
        """Return inputs to start from: what is good, and what is wrong in many small ways."""
        text = self._disk.text().encode()
        found = [bytes([kind]) + text for kind in (JSON, SECOND)]
        found += [bytes([JSON]) + scrambled(self._disk.json(), seed) for seed in range(300)]
        found += [bytes([BINARY_ONLY]) + self._disk.start[:512], bytes([WHOLE]) + self._disk.start[: 8 * KIB]]
        found.append(bytes([COPY]) + self._small_copy())
        return found

    def _small_copy(self) -> bytes:
        """A header copy without keyslots, and without its checksum, which a fuzzer could not make right."""
        metadata = self._disk.json()
        metadata |= {"keyslots": {}, "tokens": {}}
        metadata["digests"]["0"]["keyslots"] = []
        disk = self._disk.with_json(metadata)
        return pack(disk.header(), disk.read).reveal()[:-32]

    def words(self) -> list[str]:
        """Return what a mutator should know: the words of the format, and its punctuation."""
        text = self._disk.text()
        words = {word for word in text.replace("{", "").split('"') if 1 < len(word) < 30}
        return sorted(
            words | {'":"', '","', "},{", '":{', "null", "[[", "]]", "\\u0000", "18446744073709551616"}
        )

    def judge(self, data: bytes) -> bool:
        """Say whether an input is taken; raises only what is a defect."""
        if len(data) < 2:
            return False
        kind, body = data[0] % 5, data[1:]
        if kind == COPY:
            return self._judge_copy(body)
        disk = self._disk
        if kind == JSON:
            disk = disk.with_text(body)
        elif kind == SECOND:
            disk = disk.with_text(body, copies=(True,)).without(second=False)
        elif kind == BINARY_ONLY:
            disk = disk.with_bytes(0, body[:4096]).mended(False) if len(body) >= 16 else disk
        else:
            disk = Disk(body, disk.size)
        return self._judge_disk(disk)

    def _judge_disk(self, disk: Disk) -> bool:
        try:
            header = read_header(disk.read, disk.size)
            accept(header, XTS, self._good.pin)
        except KeybrokerError as refusal:
            assert refusal.problem is Problem.HEADER_REFUSED
            assert refusal.detail.isprintable()
            assert len(refusal.detail) <= 1000
            return False
        assert destination(header, disk.size) == self._meant
        assert header.segments == self._good.segments
        pack(header, disk.read)
        return True

    def _judge_copy(self, body: bytes) -> bool:
        try:
            image = unpack(Secret(body + hashlib.sha256(body).digest()))
            read_header(image.read, image.total)
        except KeybrokerError as refusal:
            assert refusal.problem in (Problem.CORRUPT, Problem.HEADER_REFUSED)
            return False
        return True
