"""Forgeries with a name: attacks that were published or measured, and cryptsetup's own invalid headers.

The latter are rebuilt from the descriptions at the head of cryptsetup's tests/generators (2.8.7-rc1).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any, Final

from tests.header.disks import KIB, MIB, Disk
from tests.header.forgeries import Members, Raw, write

Change = Callable[[Any], None]
Make = Callable[[Disk], Disk]

ATTACKERS_KEY: Final = b"\x5a" * 64
STRIPES: Final = 4000


def changed(change: Change) -> Make:
    """Make a forgery of a change to what the JSON area says, in both copies."""

    def make(disk: Disk) -> Disk:
        metadata = disk.json()
        change(metadata)
        return disk.with_text(write(metadata))

    return make


def changed_first(change: Change) -> Make:
    """Make a forgery as cryptsetup's generators do: the first copy changed, the second damaged."""

    def make(disk: Disk) -> Disk:
        metadata = disk.json()
        change(metadata)
        return disk.without(second=True).with_text(write(metadata), copies=(False,))

    return make


def segment(**fields: Any) -> Make:
    """Change the data segment."""
    return changed(lambda metadata: metadata["segments"]["0"].update(fields))


def keyslot(part: str, **fields: Any) -> Make:
    """Change a part of the first keyslot."""
    return changed(lambda metadata: metadata["keyslots"]["0"][part].update(fields))


def digest(**fields: Any) -> Make:
    """Change the digest."""
    return changed(lambda metadata: metadata["digests"]["0"].update(fields))


def config(**fields: Any) -> Make:
    """Change the config object."""
    return changed(lambda metadata: metadata["config"].update(fields))


def argon2(memory: int, time: int = 4, cpus: int = 4) -> Make:
    """Make the first keyslot's KDF argon2id."""

    def change(metadata: Any) -> None:
        slot = metadata["keyslots"]["0"]
        salt = slot["kdf"]["salt"]
        slot["kdf"] = {"type": "argon2id", "time": time, "memory": memory, "cpus": cpus, "salt": salt}

    return changed(change)


def _linear(metadata: Any) -> None:
    metadata["segments"] = {"0": {"type": "linear", "offset": "1048576", "size": "dynamic"}}


def _linear_with_a_crypt_backup(metadata: Any) -> None:
    encrypted = metadata["segments"]["0"]
    metadata["segments"] = {
        "0": {"type": "linear", "offset": "1048576", "size": "dynamic"},
        "1": encrypted | {"flags": ["backup-final"]},
    }
    metadata["digests"]["0"]["segments"] = ["0", "1"]


def _linear_then_crypt(metadata: Any) -> None:
    """Plaintext for the first half MiB, which is where a filesystem has its superblock."""
    encrypted = metadata["segments"]["0"]
    metadata["segments"] = {
        "0": {"type": "linear", "offset": "1048576", "size": "4096"},
        "1": encrypted | {"offset": "1052672", "iv_tweak": "8"},
    }
    metadata["digests"]["0"]["segments"] = ["1"]


def _two_crypt(metadata: Any) -> None:
    encrypted = metadata["segments"]["0"]
    metadata["segments"] = {
        "0": encrypted | {"size": "4096"},
        "1": encrypted | {"offset": "1052672", "iv_tweak": "8"},
    }
    metadata["digests"]["0"]["segments"] = ["0", "1"]


def _decryption(metadata: Any) -> None:
    """CVE-2021-4122: a decryption that nobody began."""
    encrypted = metadata["segments"]["0"]
    metadata["keyslots"]["3"] = {
        "type": "reencrypt",
        "key_size": 1,
        "mode": "decrypt",
        "direction": "forward",
        "area": {"type": "none", "offset": "1040384", "size": "4096"},
    }
    metadata["segments"] = {
        "0": encrypted,
        "1": encrypted | {"flags": ["backup-previous"]},
        "2": {"type": "linear", "offset": "1048576", "size": "dynamic", "flags": ["backup-final"]},
    }
    metadata["digests"]["0"]["segments"] = ["0", "1"]
    metadata["config"]["requirements"] = {"mandatory": ["online-reencrypt-v2"]}


def _no_keyslot(metadata: Any) -> None:
    metadata["keyslots"] = {}
    metadata["digests"]["0"]["keyslots"] = []
    metadata["tokens"] = {}


def _second_digest(metadata: Any) -> None:
    metadata["digests"]["1"] = metadata["digests"]["0"] | {"keyslots": [], "segments": ["0"]}
    metadata["digests"]["0"]["segments"] = []


def _split(key: bytes) -> bytes:
    """Split a key as the anti-forensic splitter does if its chance is all zeros (LUKS1, section 2.4)."""

    def diffuse(block: bytes) -> bytes:
        pieces = (block[at : at + 32] for at in range(0, len(block), 32))
        return b"".join(
            hashlib.sha256(n.to_bytes(4, "big") + piece).digest() for n, piece in enumerate(pieces)
        )

    block = bytes(len(key))
    for _ in range(STRIPES - 1):
        block = diffuse(block)
    last = bytes(a ^ b for a, b in zip(block, key, strict=True))
    return bytes(len(key) * (STRIPES - 1)) + last


def null_keyslot(disk: Disk) -> Disk:
    """Put the attacker's own volume key into a keyslot that is not encrypted: any passphrase opens it.

    What was on the disk stays unknown, but all that is written from now on is not. cryptsetup before 2.8.1
    opens it where the kernel lends it the null cipher (AF_ALG).
    """
    metadata = disk.json()
    salt = b"\x01" * 32
    found = hashlib.pbkdf2_hmac("sha256", ATTACKERS_KEY, salt, 1000, 32)
    metadata["digests"]["0"] |= {"salt": _b64(salt), "digest": _b64(found)}
    for slot in metadata["keyslots"].values():
        slot["area"] |= {"encryption": "cipher_null-ecb", "key_size": 64}
    forged = disk.with_text(write(metadata))
    area = metadata["keyslots"]["0"]["area"]
    return forged.with_bytes(int(area["offset"]), _split(ATTACKERS_KEY).ljust(int(area["size"]), b"\0"))


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


# name: how it is made, and where the refusal points
ATTACKS: Final[dict[str, tuple[Make, str]]] = {
    "null cipher (CVE-2025-59054)": (segment(encryption="cipher_null-ecb"), "segments.0.encryption"),
    "null cipher by the crypto API": (
        segment(encryption="capi:ecb(cipher_null)-plain64"),
        "segments.0.encryption",
    ),
    "null cipher, other spelling": (segment(encryption="null"), "segments.0.encryption"),
    "the same IV for every sector": (segment(encryption="aes-xts-null"), "segments.0.encryption"),
    "IVs that repeat after 2 TiB": (segment(encryption="aes-xts-plain"), "segments.0.encryption"),
    "ECB": (segment(encryption="aes-ecb"), "segments.0.encryption"),
    "another cipher": (segment(encryption="serpent-xts-plain64"), "segments.0.encryption"),
    "the other declared cipher": (segment(encryption="aes-cbc-essiv:sha256"), "segments.0.encryption"),
    "plaintext": (changed(_linear), "none is encrypted"),
    "plaintext, with an encrypted backup segment": (
        changed(_linear_with_a_crypt_backup),
        "none is encrypted",
    ),
    "plaintext at the front": (changed(_linear_then_crypt), "segments: is 0, 1"),
    "two segments": (changed(_two_crypt), "segments: is 0, 1"),
    "other sectors": (segment(sector_size=4096), "segments.0.sector_size: is 4096, must be 512, as pinned"),
    "sectors of a size that the profile does not have": (
        segment(sector_size=2048),
        "segments.0.sector_size: is 2048, must be 512 or 4096",
    ),
    "half the data": (segment(size="32768"), "segments.0.size"),
    "shifted IVs": (segment(iv_tweak="8"), "segments.0.iv_tweak"),
    "data beginning elsewhere": (segment(offset="1052672"), "segments.0.offset"),
    "data beginning in the keyslots": (segment(offset="524288"), "segments.0.offset"),
    "integrity": (
        segment(integrity={"type": "none", "journal_encryption": "none", "journal_integrity": "none"}),
        "segments.0.integrity",
    ),
    "a segment flag": (segment(flags=["in-reencryption"]), "segments.0.flags"),
    "a keyslot that hangs the boot": (keyslot("kdf", iterations=2**31), "keyslots.0.kdf.iterations"),
    "a digest that hangs the boot": (digest(iterations=2**31), "digests.0.iterations"),
    "a keyslot that takes 4 GiB": (argon2(4 << 20), "keyslots.0.kdf.type"),
    "a keyslot with one iteration": (keyslot("kdf", iterations=1), "keyslots.0.kdf.iterations"),
    "a keyslot of SHA-1": (keyslot("kdf", hash="sha1"), "keyslots.0.kdf.hash"),
    "a digest of SHA-1": (digest(hash="sha1"), "digests.0.hash"),
    "a splitter of SHA-1": (keyslot("af", hash="sha1"), "keyslots.0.af.hash"),
    "a splitter of one stripe": (keyslot("af", stripes=1), "keyslots.0.af.stripes"),
    "a null keyslot": (keyslot("area", encryption="cipher_null-ecb"), "keyslots.0.area.encryption"),
    "a null keyslot with the attacker's volume key": (null_keyslot, "keyslots.0.area.encryption"),
    "a keyslot area of another size": (keyslot("area", size="4096"), "keyslots.0.area.size"),
    "a keyslot area in the header": (keyslot("area", offset="16384"), "keyslots.0.area"),
    "a keyslot area in the data": (keyslot("area", offset="1048576"), "keyslots.0.area"),
    "a short area key": (keyslot("area", key_size=32), "keyslots.0.area.key_size"),
    "a short volume key": (changed(lambda m: m["keyslots"]["0"].update(key_size=32)), "keyslots.0.key_size"),
    "overlapping areas": (
        changed(lambda m: m["keyslots"]["1"]["area"].update(offset=m["keyslots"]["0"]["area"]["offset"])),
        "keyslots.1.area",
    ),
    "discards": (config(flags=["allow-discards"]), "config.flags"),
    "no journal": (config(flags=["no-journal"]), "config.flags"),
    "a requirement that is not known": (config(requirements={"mandatory": ["kb"]}), "config.requirements"),
    "a re-encryption that nobody began": (
        config(requirements={"mandatory": ["online-reencrypt-v2"]}),
        "config.requirements",
    ),
    "a decryption that nobody began (CVE-2021-4122)": (changed(_decryption), "config.requirements"),
    "a second digest": (changed(_second_digest), "number of digests"),
    "another volume key's digest": (digest(digest=_b64(bytes(32))), "digest of the volume key"),
    "a digest with another salt": (digest(salt=_b64(bytes(32))), "digest of the volume key"),
    "a digest of another length": (digest(digest=_b64(bytes(16))), "length of digests.0.digest"),
    "a subsystem": (lambda disk: disk.with_field("subsystem", b"kb"), "subsystem"),
    "another UUID": (
        lambda disk: disk.with_field("uuid", b"5ca1ab1e-0000-4000-8000-000000000001"),
        "uuid: is 5ca1ab1e",
    ),
    "a token of another tool": (
        changed(lambda m: m["tokens"].update({"5": {"type": "clevis", "keyslots": ["0"]}})),
        "tokens.5.type",
    ),
    "two tokens of ours": (
        changed(lambda m: m["tokens"].update({"5": m["tokens"]["0"]})),
        "tokens: is 2 of ours",
    ),
    "no keyslot at all": (changed(_no_keyslot), "number of keyslots"),
}


def grown(
    size: int, *, json_bytes: int | None = None, area_shift: int = 0, keyslots_bytes: int | None = None
) -> Make:
    """Make a header with another metadata size, right in every place unless told otherwise."""

    def make(disk: Disk) -> Disk:
        metadata = disk.json()
        for slot in metadata["keyslots"].values():
            slot["area"]["offset"] = str(
                int(slot["area"]["offset"]) + 2 * (size - disk.header_bytes) + area_shift
            )
        metadata["config"]["json_size"] = str(size - 4096 if json_bytes is None else json_bytes)
        if keyslots_bytes is not None:
            metadata["config"]["keyslots_size"] = str(keyslots_bytes)
        metadata["segments"]["0"]["offset"] = str(16 * MIB)
        return disk.grown(size).with_text(write(metadata))

    return make


def text(change: Callable[[str], str]) -> Make:
    """Make a forgery of a change to the text of the first copy; the second is damaged."""
    return lambda disk: disk.without(second=True).with_text(change(disk.text()), copies=(False,))


def _padded(disk: Disk, length: int) -> str:
    """A JSON text of an exact length, made so by a key that nobody knows."""
    head, tail = disk.text().split('"config":{', 1)
    key = '"config":{"config_key":"'
    return head + key + "X" * (length - len(head) - len(key) - 2 - len(tail)) + '",' + tail


def _malformed(second: bool) -> Make:
    def make(disk: Disk) -> Disk:
        words = '"all_work_and_no_play_makes_Jack_a_dull_boy_' * 400
        return disk.with_text(disk.text()[:-1] + "," + words, copies=(second,))

    return make


def _uneven(disk: Disk) -> Disk:
    """JSON that says 16 KiB in binary headers that say 32."""
    return disk.grown(32 * KIB)


def _leftover(number: str, kind: str) -> Change:
    def change(metadata: Any) -> None:
        kdf = metadata["keyslots"][number]["kdf"]
        kdf |= {"type": kind, "iterations": 1001, "hash": "sha256"}
        if kind != "pbkdf2":
            kdf |= {"time": 4, "memory": 32, "cpus": 1}

    return change


def _slot(number: str, part: str, **fields: Any) -> Change:
    return lambda metadata: metadata["keyslots"][number][part].update(fields)


def _seg(**fields: Any) -> Change:
    return lambda metadata: metadata["segments"]["0"].update(fields)


def _without(*path: str) -> Change:
    def change(metadata: Any) -> None:
        *above, key = path
        for step in above:
            metadata = metadata[step]
        del metadata[key]

    return change


def _put(value: Any, *path: str) -> Change:
    def change(metadata: Any) -> None:
        *above, key = path
        for step in above:
            metadata = metadata[step]
        metadata[key] = value

    return change


def _all(*changes: Change) -> Change:
    def change(metadata: Any) -> None:
        for one in changes:
            one(metadata)

    return change


def _overlap(shift: int) -> Change:
    """Put the second keyslot's area a little beside the first one's."""

    def change(metadata: Any) -> None:
        first, second = (metadata["keyslots"][n]["area"] for n in "01")
        second["offset"] = str(int(first["offset"]) + shift)

    return change


def _keyslots_size(change: Callable[[int], int]) -> Change:
    return lambda metadata: metadata["config"].update(
        keyslots_size=str(change(int(metadata["config"]["keyslots_size"])))
    )


def _many_segments(metadata: Any) -> None:
    linear = {"type": "linear", "offset": "1049088", "size": "512"}
    metadata["segments"] |= {str(n): linear for n in range(1, 65)}
    metadata["segments"]["268435472"] = {
        "type": "linear",
        "offset": "512",
        "size": "512",
        "flags": ["backup-x"],
    }


# cryptsetup's generators, by their names without "generate-luks2-" and ".img.sh"
INVALID: Final[dict[str, Make]] = {
    "area-in-json-hdr-space-json0": changed_first(_slot("0", "area", offset="32767", size="1")),
    "argon2-leftover-params": changed_first(_leftover("2", "pbkdf2")),
    "correct-full-json0": lambda disk: disk.without(second=True).with_text(
        _padded(disk, 12287), copies=(False,)
    ),
    "corrupted-hdr0-with-correct-chks": _malformed(False),
    "corrupted-hdr1-with-correct-chks": _malformed(True),
    "invalid-checksum-both-hdrs": lambda disk: disk.without(second=False).without(second=True),
    "invalid-json-size-c0": changed_first(_put("16384", "config", "json_size")),
    "invalid-json-size-c1": changed_first(_put("8192", "config", "json_size")),
    "invalid-json-size-c2": _uneven,
    "invalid-keyslots-size-c0": changed_first(_keyslots_size(lambda size: size + 4096)),
    "invalid-keyslots-size-c1": changed_first(_keyslots_size(lambda size: size - 1)),
    "invalid-keyslots-size-c2": changed_first(_keyslots_size(lambda _: 3 * 258048 - 4096)),
    "invalid-object-type-json0": text(lambda json: f"[{json}]"),
    "invalid-opening-char-json0": text(lambda json: f" {json}"),
    "invalid-tokens": changed(_put(42, "tokens")),
    "invalid-top-objects": changed(
        _all(_put(42, "tokens"), _put(42, "digests"), _put([], "keyslots"), _put("hi", "segments"))
    ),
    "keyslot-invalid-af": changed(_slot("0", "af", type=42)),
    "keyslot-invalid-area-size": changed(_slot("0", "area", size="18446744073709551615")),
    "keyslot-invalid-area": changed(_put(42, "keyslots", "0", "area")),
    "keyslot-invalid-objects": changed(
        _all(_put(42, "keyslots", "0", "kdf"), _put(42, "keyslots", "0", "af"))
    ),
    "keyslot-missing-digest": changed_first(lambda metadata: metadata["digests"]["0"]["keyslots"].pop(0)),
    "keyslot-too-many-digests": changed_first(
        lambda metadata: metadata["digests"].update({"1": metadata["digests"]["0"] | {"keyslots": ["1"]}})
    ),
    "metadata-size-64k-inv-area-c0": grown(64 * KIB, area_shift=-1),
    "metadata-size-64k-inv-area-c1": grown(64 * KIB, area_shift=1015808 - 258048 + 1),
    "metadata-size-64k-inv-keyslots-size-c0": grown(64 * KIB, keyslots_bytes=16 * MIB - 128 * KIB + 4096),
    "metadata-size-invalid": lambda disk: (
        grown(MIB)(disk).without(second=True).with_field("hdr_size", 2048 * MIB, copies=(False,), mend=False)
    ),
    "metadata-size-invalid-secondary": lambda disk: _second_alone(grown(MIB)(disk)),
    "missing-keyslot-referenced-in-digest": changed_first(
        lambda metadata: metadata["digests"]["0"]["keyslots"].append("3")
    ),
    "missing-keyslot-referenced-in-token": changed_first(
        lambda metadata: metadata["tokens"].update({"0": {"type": "dummy", "keyslots": ["0", "3"]}})
    ),
    "missing-segment-referenced-in-digest": changed_first(
        lambda metadata: metadata["digests"]["0"]["segments"].append("1")
    ),
    "missing-trailing-null-byte-json0": lambda disk: disk.without(second=True).with_text(
        _padded(disk, 12288), copies=(False,)
    ),
    "non-null-byte-beyond-json0": text(lambda json: json + "X"),
    "non-null-bytes-beyond-json0": text(
        lambda json: json + "\0" * 20 + "[Homer J. Simpson]: Keep looking shocked"
    ),
    "overlapping-areas-c0-json0": changed_first(_overlap(0)),
    "overlapping-areas-c1-json0": changed_first(_all(_overlap(4096), _slot("1", "area", size="253952"))),
    "overlapping-areas-c2-json0": changed_first(_overlap(258048 - 4096)),
    "pbkdf2-leftover-params-0": changed_first(_leftover("1", "argon2i")),
    "pbkdf2-leftover-params-1": changed_first(_leftover("1", "argon2id")),
    "segment-crypt-empty-encryption": changed_first(_seg(encryption="")),
    "segment-crypt-missing-encryption": changed_first(_without("segments", "0", "encryption")),
    "segment-crypt-missing-ivoffset": changed_first(_without("segments", "0", "iv_tweak")),
    "segment-crypt-missing-sectorsize": changed_first(_without("segments", "0", "sector_size")),
    "segment-crypt-wrong-encryption": changed_first(_seg(encryption={})),
    "segment-crypt-wrong-ivoffset": changed_first(_seg(iv_tweak="dynamic")),
    "segment-crypt-wrong-sectorsize-0": changed_first(_seg(sector_size=1023)),
    "segment-crypt-wrong-sectorsize-1": changed_first(_seg(sector_size="4096")),
    "segment-crypt-wrong-sectorsize-2": changed_first(_seg(sector_size=-1024)),
    "segment-missing-offset": changed_first(_without("segments", "0", "offset")),
    "segment-missing-size": changed_first(_without("segments", "0", "size")),
    "segment-missing-type": changed_first(_without("segments", "0", "type")),
    "segment-two": changed_first(
        _all(
            _seg(size="512"), _put({"type": "some", "offset": "1049088", "size": "dynamic"}, "segments", "1")
        )
    ),
    "segment-unknown-type": changed_first(
        _put({"type": "some_type", "offset": "1048576", "size": "dynamic", "a_field": 0}, "segments", "0")
    ),
    "segment-wrong-backup-key-0": changed_first(
        _put({"type": "linear", "offset": "512", "size": "512", "flags": ["backup-x"]}, "segments", "2")
    ),
    "segment-wrong-backup-key-1": changed_first(_many_segments),
    "segment-wrong-flags-element": changed_first(_seg(flags=["hello", 1])),
    "segment-wrong-flags": changed_first(_seg(flags="hello")),
    "segment-wrong-offset": changed_first(_seg(offset="-42")),
    "segment-wrong-size-0": changed_first(_seg(size=4096)),
    "segment-wrong-size-1": changed_first(_seg(size="automatic")),
    "segment-wrong-size-2": changed_first(_seg(size="511")),
    "segment-wrong-type": changed_first(_seg(type=42)),
    "uint64-max-segment-size": changed_first(_seg(size="18446744073709551104")),
    "uint64-overflow-segment-size": changed_first(_seg(size="18446744073709551616")),
    "uint64-signed-segment-size": changed_first(_seg(size="-512")),
    # not one of cryptsetup's: json-c takes the last of two equal keys, other readers the first
    "a segment twice": lambda disk: disk.with_text(
        write(
            Members(
                tuple(
                    (key, Members((("0", Raw("{}")), *value.items())) if key == "segments" else value)
                    for key, value in disk.json().items()
                )
            )
        )
    ),
}


def _second_alone(disk: Disk) -> Disk:
    """Damage the first copy, and have the second say that it is 2 GiB large."""
    at = disk.place(True)
    broken = disk.with_bytes(at + 8, (2048 * MIB).to_bytes(8, "big"))
    return broken.without(second=False)
