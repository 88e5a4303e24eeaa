"""Device-mapper tables as real kernels printed them, and every way in which one can be another's."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from agent.luks.table import CryptTable, LinearTable, check_crypt_table, check_linear_table, meant
from keybroker.wire.problems import KeybrokerError, Problem
from tests.header.disks import MIB, Disk

UUID: Final = "f7388ca6-e0d6-4134-b97b-20eaad8a2f64"
KEY: Final = f":64:logon:cryptsetup:{UUID}-d0"
ZEROS: Final = "0" * 128

LARGE: Final = CryptTable(122880, "aes-xts-plain64", 64, KEY, "7:0", 8192, 4096)
SMALL: Final = replace(LARGE, sector_size=512)
FLAGGED: Final = replace(SMALL, flags=("same_cpu_crypt", "allow_discards", "no_read_workqueue"))
CBC: Final = replace(
    LARGE, cipher="aes-cbc-essiv:sha256", key_bytes=32, key=f":32:logon:cryptsetup:{UUID}-d0"
)
SWAP: Final = CryptTable(129025, "aes-xts-plain64", 64, "", "7:5", 2048, 512)

# printed by `dmsetup table` of Linux 6.1 (User-Mode Linux), the UUID apart, after `cryptsetup open` of 2.6.1
PRINTED: Final[dict[str, tuple[str, CryptTable]]] = {
    "4096-byte sectors": (f"0 122880 crypt aes-xts-plain64 {KEY} 0 7:0 8192 1 sector_size:4096\n", LARGE),
    "512-byte sectors": (f"0 122880 crypt aes-xts-plain64 {KEY} 0 7:0 8192\n", SMALL),
    "flags": (
        f"0 122880 crypt aes-xts-plain64 {KEY} 0 7:0 8192"
        " 3 allow_discards same_cpu_crypt no_read_workqueue\n",
        FLAGGED,
    ),
    "--disable-keyring": (f"0 122880 crypt aes-xts-plain64 {ZEROS} 0 7:0 8192 1 sector_size:4096\n", LARGE),
    "CBC": (f"0 122880 crypt aes-cbc-essiv:sha256 {CBC.key} 0 7:0 8192 1 sector_size:4096\n", CBC),
    "plain": (f"0 129025 crypt aes-xts-plain64 {ZEROS} 0 7:5 2048\n", SWAP),
}


@pytest.mark.parametrize("case", PRINTED)
def test_a_table_that_a_real_kernel_printed_is_what_was_meant(case: str) -> None:
    check_crypt_table(*PRINTED[case])


# what stands there, the field that is named, and the kind of problem
OTHER: Final[dict[str, tuple[str, str, Problem]]] = {
    "null cipher": (
        "0 122880 crypt cipher_null-ecb - 0 7:0 8192",
        "cipher is cipher_null-ecb",
        Problem.HEADER_REFUSED,
    ),
    "same IV for all": (
        f"0 122880 crypt aes-xts-null {KEY} 0 7:0 8192",
        "cipher is aes-xts-null",
        Problem.HEADER_REFUSED,
    ),
    "plaintext": ("0 122880 linear 7:0 8192", "table is of another form (1 lines)", Problem.HEADER_REFUSED),
    "another device": (
        f"0 122880 crypt aes-xts-plain64 {KEY} 0 7:1 8192",
        "device is 7:1",
        Problem.WRONG_DEVICE,
    ),
    "another offset": (
        f"0 122880 crypt aes-xts-plain64 {KEY} 0 7:0 8200",
        "offset is 8200",
        Problem.WRONG_DEVICE,
    ),
    "shorter": (
        f"0 122872 crypt aes-xts-plain64 {KEY} 0 7:0 8192",
        "length is 122872",
        Problem.HEADER_REFUSED,
    ),
    "not from the start": (
        f"8 122880 crypt aes-xts-plain64 {KEY} 0 7:0 8192",
        "start is 8",
        Problem.HEADER_REFUSED,
    ),
    "shifted IVs": (
        f"0 122880 crypt aes-xts-plain64 {KEY} 8 7:0 8192",
        "iv_offset is 8",
        Problem.HEADER_REFUSED,
    ),
    "another volume's key": (
        f"0 122880 crypt aes-xts-plain64 {KEY.replace('f738', 'f739')} 0 7:0 8192",
        "key is another",
        Problem.HEADER_REFUSED,
    ),
    "a short key": (
        f"0 122880 crypt aes-xts-plain64 {KEY.replace(':64:', ':32:')} 0 7:0 8192",
        "key is another",
        Problem.HEADER_REFUSED,
    ),
    "a key that anybody reads": (
        f"0 122880 crypt aes-xts-plain64 {KEY.replace('logon', 'user')} 0 7:0 8192",
        "key is another",
        Problem.HEADER_REFUSED,
    ),
    "zeros for a short key": (
        f"0 122880 crypt aes-xts-plain64 {ZEROS[:64]} 0 7:0 8192",
        "key is another",
        Problem.HEADER_REFUSED,
    ),
    "discards": (
        f"0 122880 crypt aes-xts-plain64 {KEY} 0 7:0 8192 1 allow_discards",
        "options is allow_discards",
        Problem.HEADER_REFUSED,
    ),
    "large IVs": (
        f"0 122880 crypt aes-xts-plain64 {KEY} 0 7:0 8192 2 sector_size:4096 iv_large_sectors",
        "options is iv_large_sectors sector_size:4096",
        Problem.HEADER_REFUSED,
    ),
    "integrity": (
        f"0 122880 crypt aes-xts-plain64 {KEY} 0 7:0 8192 1 integrity:32:hmac(sha256)",
        "options is integrity",
        Problem.HEADER_REFUSED,
    ),
    "other sectors": (
        f"0 122880 crypt aes-xts-plain64 {KEY} 0 7:0 8192 1 sector_size:4096",
        "options is sector_size:4096, must be none",
        Problem.HEADER_REFUSED,
    ),
    "options miscounted": (
        f"0 122880 crypt aes-xts-plain64 {KEY} 0 7:0 8192 1",
        "number of options is 1, must be 0",
        Problem.HEADER_REFUSED,
    ),
    "two targets": (
        f"0 8 linear 7:0 8192\n8 122872 crypt aes-xts-plain64 {KEY} 0 7:0 8200",
        "table is of another form (2 lines)",
        Problem.HEADER_REFUSED,
    ),
    "two crypt targets": (
        f"0 8 crypt aes-xts-plain64 {KEY} 0 7:0 8192\n8 122872 crypt aes-xts-plain64 {KEY} 8 7:0 8200",
        "table is of another form (2 lines)",
        Problem.HEADER_REFUSED,
    ),
    "nothing": ("", "table is of another form (0 lines)", Problem.HEADER_REFUSED),
    "an empty line": ("\n", "table is of another form (1 lines)", Problem.HEADER_REFUSED),
    "no numbers": ("a b crypt c d e f g", "table is of another form (1 lines)", Problem.HEADER_REFUSED),
    "Arabic digits": (
        f"٠ 122880 crypt aes-xts-plain64 {KEY} 0 7:0 8192",
        "table is of another form (1 lines)",
        Problem.HEADER_REFUSED,
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_a_table_that_is_not_what_was_meant_is_refused_with_the_field(case: str) -> None:
    text, reason, problem = OTHER[case]
    with pytest.raises(KeybrokerError) as refused:
        check_crypt_table(text, SMALL)
    assert refused.value.problem is problem
    assert reason in refused.value.detail


def test_a_refusal_never_repeats_a_key() -> None:
    """A kernel that was given the key itself prints it to whoever asks with --showkeys."""
    key = "deadbeef" * 16
    for text in (f"0 122880 crypt aes-xts-plain64 {key} 0 7:0 8192", f"0 1 crypt {key}"):
        with pytest.raises(KeybrokerError) as refused:
            check_crypt_table(text, SMALL)
        assert key not in refused.value.detail


def test_a_swap_device_has_no_key_that_the_keyring_knows() -> None:
    with pytest.raises(KeybrokerError, match="key is another"):
        check_crypt_table(f"0 129025 crypt aes-xts-plain64 {KEY} 0 7:5 2048", SWAP)


LINEAR: Final = LinearTable(122880, "254:0")


def test_the_stable_device_is_all_of_the_one_below() -> None:
    check_linear_table("0 122880 linear 254:0 0\n", LINEAR)
    check_linear_table(LINEAR.line, LINEAR)


@pytest.mark.parametrize(
    ("text", "reason", "problem"),
    [
        ("0 122880 linear 254:1 0", "device is 254:1", Problem.WRONG_DEVICE),
        ("0 122880 linear 254:0 8", "offset is 8", Problem.WRONG_DEVICE),
        ("0 122879 linear 254:0 0", "length is 122879", Problem.HEADER_REFUSED),
        ("1 122880 linear 254:0 0", "start is 1", Problem.HEADER_REFUSED),
        ("0 122880 zero", "table is of another form (1 lines)", Problem.HEADER_REFUSED),
        (
            "0 122880 mirror core 1 1024 2 254:0 0 254:1 0",
            "table is of another form (1 lines)",
            Problem.HEADER_REFUSED,
        ),
        (
            "0 8 linear 254:0 0\n8 122872 linear 254:0 8",
            "table is of another form (2 lines)",
            Problem.HEADER_REFUSED,
        ),
        ("", "table is of another form (0 lines)", Problem.HEADER_REFUSED),
    ],
)
def test_another_linear_table_is_refused_with_the_field(text: str, reason: str, problem: Problem) -> None:
    with pytest.raises(KeybrokerError) as refused:
        check_linear_table(text, LINEAR)
    assert refused.value.problem is problem
    assert reason in refused.value.detail


def test_what_is_meant_follows_from_the_header(plain: Disk) -> None:
    header = plain.header()
    table = meant(header, "253:16", 64 * MIB)
    assert table == CryptTable(
        sectors=63 * MIB // 512,
        cipher="aes-xts-plain64",
        key_bytes=64,
        key=f":64:logon:cryptsetup:{header.uuid}-d0",
        device="253:16",
        offset=2048,
        sector_size=512,
    )


def test_the_flags_of_a_header_are_meant_in_the_kernels_words(plain: Disk) -> None:
    metadata = plain.json()
    metadata["config"]["flags"] = ["allow-discards", "no-journal", "no-write-workqueue"]
    metadata["digests"] = {"3": metadata["digests"]["0"]}
    table = meant(plain.with_json(metadata).header(), "253:16", 64 * MIB)
    assert table.options == ("allow_discards", "no_write_workqueue")
    assert table.key.endswith("-d3")
