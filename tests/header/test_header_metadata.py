"""The reader of the JSON area names the field that is wrong, and keeps to its own bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from agent.luks.jsontext import LARGEST_JSON, LONGEST_STRING
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.recovery import digest
from tests.header.disks import MIB, Disk

Change = Callable[[Any], None]


def at(*path: str, put: Any) -> Change:
    def change(metadata: Any) -> None:
        *above, key = path
        for step in above:
            metadata = metadata[step]
        metadata[key] = put

    return change


def reencrypt(**fields: Any) -> Change:
    area = {"type": "checksum", "offset": "524288", "size": "8192", "hash": "sha256", "sector_size": 512}
    slot = {"type": "reencrypt", "key_size": 1, "mode": "reencrypt", "direction": "forward", "area": area}
    return at("keyslots", "1", put=slot | fields | {"area": area | fields.get("area", {})})


OPAL: Final = {"opal_segment_number": 1, "opal_key_size": 32, "opal_segment_size": "65536"}

AGE: Final = "YWdlLWVuY3J5cHRpb24ub3JnL3Yx"
"""Base64 of ``age-encryption.org/v1``."""

WRONG: Final[dict[str, tuple[Change, str]]] = {
    "base64 with stray bits": (
        at("digests", "0", "digest", put="A" * 42 + "B="),
        "digests.0.digest: is not base64 as an encoder writes it",
    ),
    "base64 without its end": (at("digests", "0", "salt", put="A" * 43), "digests.0.salt: is not base64"),
    "a salt of 33 bytes": (at("digests", "0", "salt", put="A" * 44), "digests.0.salt: has 33 bytes"),
    "a digest of 15 bytes": (at("digests", "0", "digest", put="A" * 20), "digests.0.digest: has 15 bytes"),
    "a flag twice": (at("config", "flags", put=["a", "a"]), "config.flags: must be different words"),
    "a flag with a space": (at("config", "flags", put=["a b"]), "config.flags: must be different words"),
    "seventeen flags": (
        at("config", "flags", put=list("abcdefghijklmnopq")),
        "config.flags: has more than 16",
    ),
    "a requirement that is no list": (
        at("config", "requirements", put={"mandatory": "x"}),
        "config.requirements.mandatory: must be a list",
    ),
    "optional requirements": (
        at("config", "requirements", put={"optional": []}),
        "config.requirements: has fields that are not known here: optional",
    ),
    "sectors of 1536 bytes": (
        at("segments", "0", "sector_size", put=1536),
        "segments.0.sector_size: is 1536, must be 512, 1024, 2048 or 4096",
    ),
    "a segment of no size": (at("segments", "0", "size", put="0"), "segments.0.size: is 0"),
    "a segment of 2 to the 63": (at("segments", "0", "size", put=str(2**63)), "segments.0.size: is 92233720"),
    "integrity of another kind": (
        at("segments", "0", "integrity", put={"type": "aead"}),
        "segments.0.integrity.journal_encryption: is missing",
    ),
    "OPAL without its number": (
        at("segments", "0", "type", put="hw-opal"),
        "opal_segment_number: is missing",
    ),
    "OPAL alone": (
        at("segments", "0", put={"type": "hw-opal", "offset": "1048576", "size": "65536"} | OPAL),
        "segments: none is encrypted",
    ),
    "an encrypted segment without a digest": (
        at("digests", "0", "segments", put=[]),
        "segments.0: belongs to 0 digests, must belong to one",
    ),
    "a keyslots area of 129 MiB": (
        at("config", "keyslots_size", put=str(129 * MIB)),
        "config.keyslots_size: is 135266304, at most 134217728 is allowed",
    ),
    "nine digests": (
        lambda metadata: metadata["digests"].update({str(n): metadata["digests"]["0"] for n in range(9)}),
        "digests: has 9 objects, at most 8 are allowed",
    ),
    "a keyslot that tries to be named twice": (
        at("digests", "0", "keyslots", put=["0", "0"]),
        "digests.0.keyslots: names one of them twice",
    ),
    "re-encryption in another mode": (reencrypt(mode="x"), "keyslots.1.mode: must be one of"),
    "re-encryption in no direction": (reencrypt(direction="up"), "keyslots.1.direction: must be one of"),
    "re-encryption in an area of another kind": (
        reencrypt(area={"type": "raw"}),
        "keyslots.1.area.type: must be one of",
    ),
    "re-encryption with a shift that it has not": (
        reencrypt(area={"shift_size": "512"}),
        "keyslots.1.area: has fields that are not known here: shift_size",
    ),
    "re-encryption that shifts by nothing": (
        reencrypt(area={"type": "datashift-checksum", "shift_size": "0"}),
        "keyslots.1.area.shift_size: is 0",
    ),
    "our token for another volume": (
        at("tokens", "0", "volume", put="../../etc"),
        "tokens.0.volume: must match kbv-",
    ),
    "our token for version 0": (
        at("tokens", "0", "versions", put={"0": "0"}),
        "tokens.0.versions: must name keyslots and key versions",
    ),
    "our token with more in it": (
        at("tokens", "0", "more", put=1),
        "tokens.0: has fields that are not known",
    ),
    "a recovery ciphertext that is not base64": (
        at("tokens", "0", "recovery", put=f"{AGE}{'?' * 300}"),
        "tokens.0.recovery: must match YWdlLWV",
    ),
    "a recovery ciphertext that is no age file": (
        at("tokens", "0", "recovery", put="QUJD" * 100),
        "tokens.0.recovery: must match YWdlLWV",
    ),
    "a recovery ciphertext that is cut": (
        at("tokens", "0", "recovery", put=f"{AGE}AAAA"),
        "tokens.0.recovery: must match YWdlLWV",
    ),
    "a recovery ciphertext that fills the header": (
        at("tokens", "0", "recovery", put=f"{AGE}{'A' * 2048}"),
        "tokens.0.recovery: is longer than 2048 characters",
    ),
    "a recovery ciphertext that is a list": (
        at("tokens", "0", "recovery", put=[f"{AGE}{'A' * 400}"]),
        "tokens.0.recovery: must be a string",
    ),
    "a string of 8193 characters": (
        at("tokens", "1", put={"type": "x", "keyslots": [], "blob": "b" * (LONGEST_STRING + 1)}),
        "tokens.1.blob: is too long or has characters that are not text",
    ),
    "a line separator": (
        at("tokens", "1", put={"type": "x", "keyslots": [], "blob": "a\u2028b"}),
        "tokens.1.blob: is too long or has characters that are not text",
    ),
    "a key that moves the cursor": (
        at("tokens", "1", put={"type": "x", "keyslots": [], "\x1b[2J": 0}),
        "tokens.1: has a key that is too long or not a word: '\\x1b[2J'",
    ),
    "null in another tool's token": (
        at("tokens", "1", put={"type": "x", "keyslots": [], "blob": [{"a": None}]}),
        "tokens.1.blob[0].a: is null",
    ),
    "depth in another tool's token": (
        at("tokens", "1", put={"type": "x", "keyslots": [], "blob": [[[[[[]]]]]]}),
        "tokens.1.blob[0][0][0][0][0]: is nested deeper than 8",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_field_that_cannot_be_read_is_named(case: str, plain: Disk) -> None:
    change, reason = WRONG[case]
    metadata = plain.json()
    change(metadata)
    with pytest.raises(KeybrokerError) as refused:
        plain.with_json(metadata).header()
    assert refused.value.problem is Problem.HEADER_REFUSED
    assert refused.value.detail.startswith("JSON area: ")
    assert reason in refused.value.detail


@pytest.mark.parametrize(
    "kind", ["none", "checksum", "journal", "datashift", "datashift-checksum", "datashift-journal"]
)
def test_every_kind_of_reencryption_is_recognised(kind: str, plain: Disk) -> None:
    area: dict[str, Any] = {"type": kind, "offset": "524288", "size": "8192"}
    area |= {"hash": "sha256", "sector_size": 4096} if "checksum" in kind else {}
    area |= {"shift_size": "1048576"} if "datashift" in kind else {}
    metadata = plain.json()
    slot = {"type": "reencrypt", "key_size": 1, "mode": "encrypt", "direction": "backward", "priority": 0}
    metadata["keyslots"]["1"] = slot | {"area": area}
    keyslot = plain.with_json(metadata).header().keyslots[1]
    assert (keyslot.kind, keyslot.area.kind, keyslot.kdf) == ("reencrypt", kind, None)


def test_our_token_may_carry_a_recovery_ciphertext_and_nothing_else(plain: Disk) -> None:
    metadata = plain.json()
    assert plain.header().seen().recovery is None
    metadata["tokens"]["0"]["recovery"] = carried = f"{AGE}{'A' * 400}=="
    header = plain.with_json(metadata).header()
    assert header.token is not None
    assert (header.token.recovery, header.seen().recovery) == (carried, digest(carried))
    metadata["tokens"]["0"]["recovery2"] = carried
    with pytest.raises(KeybrokerError, match="not known here: recovery2"):
        plain.with_json(metadata).header()


def test_another_tools_token_may_say_what_it_likes_within_bounds(plain: Disk) -> None:
    """As clevis and systemd-cryptenroll write them."""
    metadata = plain.json()
    jwe = {"ciphertext": "x" * 40, "encrypted_key": "", "iv": "ü", "header": {"clevis": {"pin": "tang"}}}
    metadata["tokens"]["1"] = {"type": "clevis", "keyslots": ["0"], "jwe": jwe}
    metadata["tokens"]["2"] = {"type": "systemd-tpm2", "keyslots": [], "tpm2-pcrs": [7], "tpm2-pin": False}
    tokens = plain.with_json(metadata).header().tokens
    assert [(token.kind, token.keyslots, token.volume) for token in tokens.values()] == [
        ("keybroker", (0,), "kbv-q3m5x7abcdef"),
        ("clevis", (0,), None),
        ("systemd-tpm2", (), None),
    ]


def test_text_up_to_its_bound_is_read_and_not_beyond(plain: Disk) -> None:
    disk = plain.grown(MIB)
    for length, reason in ((LARGEST_JSON, "config.json_size"), (LARGEST_JSON + 1, "at most 262144 are read")):
        text = disk.text().replace("{", "{" + " " * (length - len(disk.text())), 1)
        assert len(text) == length
        with pytest.raises(KeybrokerError, match=reason):
            disk.with_text(text).header()


def test_the_slash_may_be_escaped_as_old_json_c_did(plain: Disk) -> None:
    metadata = plain.json()
    metadata["keyslots"]["0"]["kdf"]["salt"] = "/" * 42 + "8="
    disk = plain.with_json(metadata)
    assert disk.with_text(disk.text().replace("/", "\\/")).header().metadata == disk.header().metadata
