"""The profile of a volume: which LUKS2 headers are acceptable for it, and the pin of the one that is its.

The profile lives at the broker, a version per volume, because a policy that is compiled into agents stops
old volumes from booting on the day the policy moves (go-blockdevice #156). The agent checks a header against
the profile and the pin *before* any key goes near cryptsetup (DESIGN section 5).
"""

from __future__ import annotations

import re
from typing import Any, Final

from keybroker.wire.fields import Fields
from keybroker.wire.names import UUID
from keybroker.wire.values import dataclass

MIB: Final = 1 << 20

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

CIPHERS: Final = {"aes-xts-plain64": 64, "aes-cbc-essiv:sha256": 32}
"""The ciphers a volume may be declared with, and the size of their volume key in bytes."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Bounds on a header; every number is a bound that is checked before any work is done on its account.

    Attributes:
        version: which edition of the policy this is; ``1`` is the one below.
        cipher: of the data segment and of the keyslots' areas.
        key_bytes: size of the volume key in bytes.
        sector_sizes: the encryption sector sizes allowed, in bytes.
        data_offsets: least and most offset of the data segment, in bytes.
        pbkdf2_iterations: least and most, for keyslots and digest.
        argon2_memory_kib: most memory a keyslot may ask for; 0 refuses argon2 altogether.
        most_keyslots: how many keyslots there may be.
        flags: the persistent flags allowed (cryptsetup(8) ``--persistent``).
        foreign_tokens: whether tokens of other tools (clevis, systemd) may be there.
        hashes: allowed in keyslots and digest.
        digest_bytes: lengths of the volume key's digest that are allowed; a short one recognises less.
    """

    version: int
    cipher: str
    key_bytes: int
    sector_sizes: tuple[int, ...]
    data_offsets: tuple[int, int]
    pbkdf2_iterations: tuple[int, int]
    argon2_memory_kib: int
    most_keyslots: int
    flags: tuple[str, ...]
    foreign_tokens: bool
    hashes: tuple[str, ...] = ("sha256",)
    digest_bytes: tuple[int, ...] = (32,)

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "version": self.version,
            "cipher": self.cipher,
            "key_bytes": self.key_bytes,
            "sector_sizes": list(self.sector_sizes),
            "data_offsets": list(self.data_offsets),
            "pbkdf2_iterations": list(self.pbkdf2_iterations),
            "argon2_memory_kib": self.argon2_memory_kib,
            "most_keyslots": self.most_keyslots,
            "flags": list(self.flags),
            "foreign_tokens": self.foreign_tokens,
            "hashes": list(self.hashes),
            "digest_bytes": list(self.digest_bytes),
        }

    @classmethod
    def read(cls, fields: Fields) -> Profile:
        """Read the wire form.

        Raises:
            KeybrokerError: MALFORMED.
        """
        profile = cls(
            version=fields.number("version", least=1),
            cipher=fields.choice("cipher", set(CIPHERS)),
            key_bytes=fields.number("key_bytes", least=16, most=64),
            sector_sizes=fields.numbers("sector_sizes"),
            data_offsets=_bounds(fields, "data_offsets"),
            pbkdf2_iterations=_bounds(fields, "pbkdf2_iterations"),
            argon2_memory_kib=fields.number("argon2_memory_kib"),
            most_keyslots=fields.number("most_keyslots", least=1, most=32),
            flags=fields.texts("flags"),
            foreign_tokens=fields.flag("foreign_tokens"),
            hashes=fields.optional("hashes", fields.texts) or ("sha256",),
            digest_bytes=fields.optional("digest_bytes", fields.numbers) or (32,),
        )
        fields.ignore_rest()
        return profile


def _bounds(fields: Fields, key: str) -> tuple[int, int]:
    numbers = fields.numbers(key, most=2)
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise fields.wrong(key, "must be a least and a most")
    return numbers[0], numbers[1]


def first_profile(cipher: str) -> Profile:
    """Return the profile that a new volume gets.

    Three keyslots: the current key, the next one while it is staged, and the debris of a cut kill
    (DESIGN section 4). Data offsets from 1 MiB (cryptsetup never aligns lower) to 32 MiB.
    """
    return Profile(
        version=1,
        cipher=cipher,
        key_bytes=CIPHERS[cipher],
        sector_sizes=(512, 4096),
        data_offsets=(MIB, 32 * MIB),
        pbkdf2_iterations=(1000, 10_000_000),
        argon2_memory_kib=0,
        most_keyslots=3,
        flags=(),
        foreign_tokens=False,
    )


def adopted_profile(cipher: str) -> Profile:
    """Return the profile of a volume that somebody else formatted: what real tools write, and no more.

    | tool | what differs from ours |
    |---|---|
    | cryptsetup by hand, vaultlocker | argon2id, 1 GiB at most; data at 16 MiB |
    | ``--hash sha512`` | sha512 in keyslots and digest, which then has 64 bytes |
    | clevis, systemd-cryptenroll, Azure | tokens; systemd's keyslots have sha512 |
    | ``cryptsetup convert`` of LUKS1 | a digest of 20 bytes, and many iterations |

    What cryptctl makes is LUKS1 with ``aes-xts-plain64:PBKDF2-sha512``, which no LUKS2 header can name:
    cryptsetup does not convert it, and its data has to be moved to a new volume.

    Twelve keyslots: more would make header copies larger than the broker takes (``LARGEST_HEADER_COPY``).
    The flags only say how the kernel works, or which sectors are free; none changes what is encrypted.
    """
    return Profile(
        version=1,
        cipher=cipher,
        key_bytes=CIPHERS[cipher],
        sector_sizes=(512, 1024, 2048, 4096),
        data_offsets=(MIB, 32 * MIB),
        pbkdf2_iterations=(1000, 100_000_000),
        argon2_memory_kib=1 << 20,
        most_keyslots=12,
        flags=(
            *("allow-discards", "same-cpu-crypt", "submit-from-crypt-cpus"),
            *("no-read-workqueue", "no-write-workqueue"),
        ),
        foreign_tokens=True,
        hashes=("sha256", "sha512"),
        digest_bytes=(20, 32, 64),
    )


@dataclass(frozen=True, slots=True)
class Pin:
    """What the broker remembers of a volume's own header.

    Attributes:
        uuid: the LUKS UUID.
        digest: ``sha256:`` and the hex SHA-256 of the volume key's digest object (its salt, then its
            digest, both decoded): another volume key, another digest.
        data_offset: of the data segment, in bytes.
        sector_size: encryption sector size, in bytes.
    """

    uuid: str
    digest: str
    data_offset: int
    sector_size: int

    def as_json(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "uuid": self.uuid,
            "digest": self.digest,
            "data_offset": self.data_offset,
            "sector_size": self.sector_size,
        }

    @classmethod
    def read(cls, fields: Fields, *, calm: bool = False) -> Pin:
        """Read the wire form; ``calm`` lets fields go that are not known, as in a reply.

        Raises:
            KeybrokerError: MALFORMED.
        """
        pin = cls(
            uuid=fields.text("uuid", match=UUID),
            digest=fields.text("digest", match=DIGEST),
            data_offset=fields.number("data_offset"),
            sector_size=fields.number("sector_size", least=512, most=4096),
        )
        fields.end(calm=calm)
        return pin
