"""A signed statement of what was destroyed: JSON text, and an Ed25519 signature over its very bytes.

Anybody can check one without us, with the files that ``keybroker volume record --to`` writes:

    openssl pkeyutl -verify -pubin -inkey F.pem -rawin -in F.json -sigfile F.sig

Source: RFC 8032 (Ed25519), RFC 8410 (its keys in PEM).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

KIND: Final = "keybroker statement 1"
"""First field of each document, so that a signature is never one of anything else."""


def compose(facts: dict[str, Any]) -> str:
    """Return the text of a statement: one JSON object, its keys in order, without needless spaces."""
    return json.dumps({"kind": KIND, **facts}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def public_key(private: Secret) -> bytes:
    """Return the public key that belongs to a private key of 32 bytes; 32 bytes as well."""
    return Ed25519PrivateKey.from_private_bytes(private.reveal()).public_key().public_bytes_raw()


def sign(private: Secret, document: str) -> bytes:
    """Return the signature of a statement's text, 64 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private.reveal()).sign(document.encode())


def public_pem(public: bytes) -> str:
    """Return a public key as ``openssl`` reads it."""
    key = Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def fingerprint(public: bytes) -> str:
    """Return SHA-256 of a public key, hex, by which people compare it.

    The same as ``openssl pkey -pubin -in F.pem -outform DER | sha256sum`` (RFC 8410 section 4).
    """
    key = Ed25519PublicKey.from_public_bytes(public)
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def public_from_pem(pem: str) -> bytes:
    """Return the public key that a PEM file holds.

    Raises:
        KeybrokerError: MALFORMED where it is no Ed25519 key.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise KeybrokerError(Problem.MALFORMED, "signer: is no Ed25519 public key in PEM")
    return key.public_bytes_raw()


def check(document: str, signature: bytes, public: bytes) -> dict[str, Any]:
    """Check a statement; return what it says.

    Raises:
        KeybrokerError: CORRUPT where the signature is not one of this text by this key, or the text is no
            statement.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, document.encode())
        facts = json.loads(document)
    except (InvalidSignature, ValueError):
        raise KeybrokerError(Problem.CORRUPT, "statement: its signature does not fit") from None
    if not isinstance(facts, dict) or facts.get("kind") != KIND:
        raise KeybrokerError(Problem.CORRUPT, "statement: it is none of ours")
    return facts
