"""A backup as a file: a tar archive of a known shape, encrypted with age to offline keys.

    age -d -i backup.key FILE | tar -x          opens it with stock tools

| member | what |
|---|---|
| ``manifest.json`` | what is in it, hash by hash, and of which installation and moment |
| ``manifest.sig`` | the CA's signature of it (ECDSA, SHA-256): a recipient is not enough to forge one |
| ``keybroker.toml``, ``ca.crt``, ``ca.key``, ``server.crt``, ``server.key`` | the configuration's directory |
| ``ca-before.key`` | while two CAs are trusted: of the one before; ``ca.crt`` has both certificates |
| ``keybroker.db`` | the database as of one moment |

Where the CA is an outside one, the server's key signs, and ``server.crt`` says whose that is.
The master key is never in it. The CA's keys are, unless they are left out: without the one every VM would
have to be enrolled anew, without the other the server gets no certificate for a VM that was off since before
the new CA. An archive is read strictly: these members, in this order, each once, nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from keybroker import __version__, age
from keybroker.audit import Head
from keybroker.ca import is_from
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import MAIN, WRITER

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
DATABASE: Final = "keybroker.db"
CONFIGURATION: Final = "keybroker.toml"
FORMER_KEY: Final = "ca-before.key"
FILES: Final = (CONFIGURATION, "ca.crt", "ca.key", FORMER_KEY, "server.crt", "server.key")
MEMBERS: Final = (MANIFEST, SIGNATURE, *FILES, DATABASE)
MODES: Final = {CONFIGURATION: 0o600, "ca.crt": 0o444, "ca.key": 0o400, FORMER_KEY: 0o400,
                "server.crt": 0o444, "server.key": 0o400, DATABASE: 0o600}  # fmt: skip

_CHUNK: Final = 1 << 20
_LARGEST_FILE: Final = 1 << 20
"""Of all but the database, in bytes."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself.

    Attributes:
        made: when, RFC 3339.
        schema: revision of the database.
        config_directory, state_directory: where its files were.
        master_keys: identities of the master keys that it takes.
        heads: the last audit record of each writer.
        files: SHA-256 in hex, by member.
        outside_ca: whether the CA is an outside one, so that the server's key signed this.
    """

    made: str
    schema: str
    trust_domain: str
    ca_fingerprint: str
    config_directory: str
    state_directory: str
    master_keys: tuple[str, ...]
    heads: tuple[Head, ...]
    files: dict[str, str]
    outside_ca: bool = False

    def text(self) -> bytes:
        """Return what is signed."""
        said = {
            "format": FORMAT,
            "program": __version__,
            "made": self.made,
            "schema": self.schema,
            "trust_domain": self.trust_domain,
            "ca_fingerprint": self.ca_fingerprint,
            "config_directory": self.config_directory,
            "state_directory": self.state_directory,
            "master_keys": list(self.master_keys),
            "audit": self.heads[0].as_json(),
            **({"heads": [head.as_json() for head in self.heads]} if len(self.heads) > 1 else {}),
            "files": self.files,
            **({"outside_ca": True} if self.outside_ca else {}),
        }
        return json.dumps(said, indent=2, sort_keys=True).encode() + b"\n"

    @classmethod
    def read(cls, text: bytes) -> Manifest:
        """Read it (MALFORMED otherwise)."""
        fields = Fields.parse(text)
        fields.number("format", least=FORMAT, most=FORMAT)
        manifest = cls(
            made=fields.text("made"),
            schema=fields.text("schema"),
            trust_domain=fields.text("trust_domain"),
            ca_fingerprint=fields.text("ca_fingerprint"),
            config_directory=fields.text("config_directory", most=4096),
            state_directory=fields.text("state_directory", most=4096),
            master_keys=fields.texts("master_keys", most=64),
            heads=_heads(fields),
            files=fields.pairs("files", most=len(MEMBERS)),
            outside_ca=fields.optional("outside_ca", fields.flag) is True,
        )
        fields.ignore_rest()
        return manifest


def _heads(fields: Fields) -> tuple[Head, ...]:
    first = _head(fields.object("audit"))
    others = fields.optional("heads", lambda key: tuple(map(_head, fields.objects(key))))
    return others or (first,)


def _head(fields: Fields) -> Head:
    writer = fields.optional("writer", lambda key: fields.text(key, match=WRITER)) or MAIN
    return Head(writer, fields.number("sequence"), fields.text("hash"))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(
    target: IO[bytes],
    manifest: Manifest,
    signature: bytes,
    parts: dict[str, Path],
    recipients: tuple[str, ...],
) -> None:
    """Write an archive, encrypted; no member is ever on a disk in between.

    Args:
        parts: the file of each member that the manifest names.

    Raises:
        OSError: something cannot be read or written.
    """
    made = datetime.fromisoformat(manifest.made).timestamp()

    def members() -> Iterator[bytes]:
        for name, content in ((MANIFEST, manifest.text()), (SIGNATURE, signature)):
            yield from _member(name, len(content), made, iter((content,)))
        for name in (*FILES, DATABASE):
            if name in manifest.files:
                yield from _member(name, parts[name].stat().st_size, made, _chunks(parts[name]))
        yield bytes(2 * tarfile.BLOCKSIZE)

    age.encrypt_stream(io.BufferedReader(_Chunked(members()), _CHUNK), target, recipients)


def _member(name: str, size: int, made: float, content: Iterator[bytes]) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(made), MODES.get(name, 0o600)
    yield info.tobuf(tarfile.GNU_FORMAT)
    yield from content
    yield bytes(-size % tarfile.BLOCKSIZE)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


class _Chunked(io.RawIOBase):
    """A file to be read, made of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what comes next."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)


def read(source: IO[bytes], identities: age.Identities, to: Path) -> Manifest:
    """Decrypt an archive into a private directory that is empty; return its manifest, and trust nothing else.

    Every member is there with the hash that the manifest names, and the manifest has the signature of the CA
    whose certificate is beside it.

    Raises:
        KeybrokerError: CORRUPT for anything that is not as ``write`` makes it, or does not open with these
            identities; MALFORMED for a manifest of another version.
        OSError: something cannot be read or written.
    """
    failures: list[BaseException] = []
    receiving, sending = os.pipe()

    def decrypt() -> None:
        try:
            with open(sending, "wb", closefd=True) as pipe:
                identities.decrypt_stream(source, pipe)
        except (KeybrokerError, OSError) as error:
            failures.append(error)

    thread = threading.Thread(target=decrypt, name="age")
    thread.start()
    unreadable: Exception | None = None
    with open(receiving, "rb") as pipe:
        try:
            found = _extract(pipe, to)
            while pipe.read(_CHUNK):
                pass  # to the end, where age says whether it was cut
        except (tarfile.TarError, KeybrokerError) as error:
            unreadable = error
    thread.join()
    if failures and not isinstance(failures[0], BrokenPipeError):
        raise failures[0]
    if unreadable is not None:
        raise unreadable if isinstance(unreadable, KeybrokerError) else _wrong(f"is no archive: {unreadable}")
    return _checked(found, to)


def _extract(pipe: IO[bytes], to: Path) -> set[str]:
    """Write the members out, each of them a plain file that is known here."""
    found: list[str] = []
    with tarfile.open(fileobj=pipe, mode="r|") as tar:
        for member in tar:
            name = member.name
            if name not in MEMBERS or name in found or not member.isreg():
                raise _wrong(f"has a member that is not known here: {name[:80]!a}")
            if name != DATABASE and member.size > _LARGEST_FILE:
                raise _wrong(f"{name}: has {member.size} bytes, which is too many")
            content = tar.extractfile(member)
            assert content is not None, "it is a regular file"  # noqa: S101
            descriptor = os.open(to / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                while chunk := content.read(_CHUNK):
                    file.write(chunk)
            found.append(name)
    return set(found)


def _checked(found: set[str], to: Path) -> Manifest:
    for name in (MANIFEST, SIGNATURE, CONFIGURATION, "ca.crt", DATABASE):
        if name not in found:
            raise _wrong(f"has no {name}")
    text = (to / MANIFEST).read_bytes()
    manifest = Manifest.read(text)
    if set(manifest.files) != found - {MANIFEST, SIGNATURE}:
        raise _wrong("does not hold what its manifest names")
    for name, hashed in manifest.files.items():
        if digest(to / name) != hashed:
            raise _wrong(f"{name}: is not what the manifest says")
    _check_signed(manifest, text, to)
    return manifest


def sign(key: ec.EllipticCurvePrivateKey, manifest: Manifest) -> bytes:
    """Return a signature of a manifest, with the CA's key; with the server's where that is elsewhere."""
    return key.sign(manifest.text(), ec.ECDSA(hashes.SHA256()))


def _check_signed(manifest: Manifest, text: bytes, to: Path) -> None:
    try:
        signer = authority = x509.load_pem_x509_certificate((to / "ca.crt").read_bytes())
        if authority.fingerprint(hashes.SHA256()).hex() != manifest.ca_fingerprint:
            raise _wrong("ca.crt: is not the CA that the manifest names")
        if manifest.outside_ca:
            signer = x509.load_pem_x509_certificate((to / "server.crt").read_bytes())
            purposes = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            if not is_from(signer, authority) or ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
                raise _wrong("server.crt: is not the certificate of a server of this CA")
        key = signer.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise _wrong("ca.crt: is not the certificate of a CA of ours")
        key.verify((to / SIGNATURE).read_bytes(), text, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature, x509.ExtensionNotFound, FileNotFoundError):
        raise _wrong("manifest: is not signed by the CA") from None


def _wrong(what: str) -> KeybrokerError:
    return KeybrokerError(Problem.CORRUPT, f"backup: {what}")
