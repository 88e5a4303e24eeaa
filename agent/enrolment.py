"""How this machine gets its certificate, and the next one before that ends.

The key is made here, before anything is sent, and is on the disk before its signing request leaves: when the
reply is lost, the same key asks again, and gets the same certificate (the token is spent on that key). The
waiting key is thrown away only when it is stored beside its certificate.

On the boot path only where the certificate has ended; this is the module that imports cryptography.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agent import broker, csr, identity, layout
from agent.broker import PATIENCE, REAL, BrokerClient, Clockwork, Limits
from agent.broker.connection import Credentials, address
from agent.identity import Identity
from agent.plan import relapse
from keybroker.wire.messages import Certified, EnrolmentRequest, LateRenewalRequest, RenewalRequest
from keybroker.wire.names import Identity as Name
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass, replace

_LARGEST_KEY: Final = 4096


@dataclass(frozen=True, slots=True)
class Renewed:
    """What became of a renewal.

    Attributes:
        done: False where it was not due yet.
        unsaved: why the certificate is in this process's memory alone; None where it was stored.
    """

    identity: Identity
    done: bool
    unsaved: str | None = None


def enrol(
    state: Path,
    brokers: tuple[str, ...],
    token: Secret,
    *,
    deadline: float,
    limits: Limits = PATIENCE,
    clockwork: Clockwork = REAL,
) -> Identity:
    """Turn a one-time token into a stored certificate.

    Args:
        brokers: URLs of enrolment listeners.
        deadline: on ``clockwork.monotonic``, in seconds.

    Raises:
        KeybrokerError: as ``agent.broker.offered_ca``; TOKEN_REFUSED; CORRUPT for a foreign certificate;
            CERTIFICATE where it cannot be stored.
    """
    spent = sha256(token.reveal()).hexdigest()
    with identity.alone(state):
        try:
            known = identity.load(state)
            if known.token == spent:
                return known  # the token was good, and this is what it was good for
        except KeybrokerError:
            pass  # not enrolled, or not readably so: that is what enrolling is for
        try:
            key = _pending_key(state)
            ca = broker.offered_ca(brokers, token, deadline=deadline, limits=limits, clockwork=clockwork)
            client = BrokerClient(
                brokers, Credentials(ca), deadline=deadline, limits=limits, clockwork=clockwork
            )
            try:
                certified = client.enrol(EnrolmentRequest(token, csr.request(key, None)))
            except KeybrokerError as error:
                if error.identity is None:
                    raise
                # An outside CA is to sign it, and may take names from nowhere else: now this one is known.
                certified = client.enrol(EnrolmentRequest(token, csr.request(key, error.identity)))
            finally:
                client.close()
            if x509.load_pem_x509_certificate(ca.encode()) not in _authorities(certified):
                raise _foreign("the CA that comes with it is not the one that the token names")
            return _keep(state, certified, key, spent, certified.enrolment or brokers, renewed=False)
        except OSError as error:
            raise unsaved(state, error.strerror or str(error)) from error


def renew(
    state: Path, client: Callable[[Identity], BrokerClient], *, now: float, force: bool = False
) -> Renewed:
    """Get the next certificate, for a new key, once a third of this one's lifetime is left.

    Args:
        client: makes the client that shows the present certificate.
        now: seconds since 1970.
        force: whatever is left.

    Raises:
        KeybrokerError: as ``agent.broker.BrokerClient``; CERTIFICATE where this machine is not enrolled, or
            the next key or certificate cannot be stored.
    """
    with identity.alone(state):
        present = identity.load(state)
        if now < present.renewable_from and not force:
            return Renewed(present, done=False)
        try:
            key = _pending_key(state)
            asked = client(present)
            try:
                certified = asked.renew(
                    RenewalRequest(csr.request(key, _uri(present.certificate.read_text())))
                )
            finally:
                asked.close()
            urls = certified.enrolment or present.enrolment()
            return Renewed(_keep(state, certified, key, present.token, urls, renewed=True), done=True)
        except OSError as error:
            raise unsaved(state, error.strerror or str(error)) from error


def renew_late(
    state: Path, client: Callable[[Identity], BrokerClient], *, now: Callable[[], float]
) -> Renewed:
    """Get the next certificate after the last one has ended, for the same key.

    The key stays, because the request's signature with it is all that proves who asks. A renewal whose reply
    was lost before may have given the waiting key its certificate: then that one is the newest, and is asked
    with next. Where the certificate cannot be stored, it is good for as long as this process lives.

    Args:
        client: makes a client of the enrolment listeners; it shows no certificate.
        now: seconds since 1970, asked once nobody else renews.

    Raises:
        KeybrokerError: as ``agent.broker.BrokerClient``; CERTIFICATE where the broker says that it cannot be
            had any more, or this machine's clock is ahead; NO_IDENTITY where neither key is the newest.
    """
    with identity.alone(state):
        present = identity.load(state)
        if now() <= present.not_after:
            return Renewed(present, done=False)  # another process was first
        shown = present.certificate.read_text()
        files = (present.key, state / identity.PENDING_KEY)
        keys = {file: key for file in files if (key := _read_key(file)) is not None}
        asked = client(present)
        try:
            certified, file = _ask_late(asked, shown, keys)
        finally:
            asked.close()
        ends = _checked(certified, keys[file]).not_valid_after_utc.timestamp()
        if ends < now():
            raise KeybrokerError(
                Problem.CERTIFICATE,
                "certificate: the broker's newest one is good, and this machine's clock is after its end",
                hint="set the clock: timedatectl set-time, or a time server that this machine reaches",
            )
        urls = certified.enrolment or present.enrolment()
        try:
            kept = _keep(state, certified, keys[file], present.token, urls, renewed=True)
        except OSError as error:  # its key is on the disk already, and a boot needs no more than that
            kept, why = _in_memory(present, certified, file, keys[file]), error.strerror or str(error)
            return Renewed(kept, done=True, unsaved=why)
        return Renewed(kept, done=True)


def unsaved(state: Path, why: str) -> KeybrokerError:
    """Return, to be raised, that the next certificate cannot be stored; the present one stays in place."""
    return KeybrokerError(
        Problem.CERTIFICATE,
        f"certificate: the next one cannot be stored: {why}",
        hint=f"make room in {state}",
    )


def _ask_late(
    asked: BrokerClient, shown: str, keys: dict[Path, ec.EllipticCurvePrivateKey]
) -> tuple[Certified, Path]:
    error = KeybrokerError(Problem.CORRUPT, "key: none can be read", hint="enrol this machine again")
    for file, key in keys.items():
        try:
            return asked.renew_late(LateRenewalRequest(shown, csr.request(key, _uri(shown)))), file
        except KeybrokerError as refused:
            if refused.problem is not Problem.NO_IDENTITY:
                raise
            error = refused
    raise error


def _pending_key(state: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key that waits for its certificate, or make one and have it on the disk first."""
    path = state / identity.PENDING_KEY
    pending = _read_key(path)
    if pending is not None:
        in_use = _read_key(state / identity.LINK / identity.KEY)
        if in_use is None or in_use.public_key() != pending.public_key():
            return pending
    path.unlink(missing_ok=True)  # torn by a power cut, or stored already: nothing was signed for it alone
    key = ec.generate_private_key(ec.SECP256R1())
    identity.write_new(path, _pem(key))
    identity.sync(state)
    return key


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    try:
        with path.open("rb") as file:
            key = load_pem_private_key(file.read(_LARGEST_KEY), None)
    except (FileNotFoundError, ValueError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _uri(certificate: str) -> str | None:
    try:
        return csr.uri_of(x509.load_pem_x509_certificate(certificate.encode()))
    except ValueError:
        return None


def _in_memory(
    present: Identity, certified: Certified, file: Path, key: ec.EllipticCurvePrivateKey
) -> Identity:
    """Return who this machine is by a certificate that no disk has; its key has stayed where it is.

    The file is open, and so there, until this process ends (memfd_create(2)): ssl reads no other.
    """
    leaf = _checked(certified, key)
    fd = os.memfd_create(identity.CERTIFICATE, os.MFD_CLOEXEC)
    os.write(fd, certified.certificate.encode())
    return replace(
        present,
        key=file,
        certificate=Path(f"/proc/self/fd/{fd}"),
        brokers=certified.brokers,
        not_before=int(leaf.not_valid_before_utc.timestamp()),
        not_after=int(leaf.not_valid_after_utc.timestamp()),
        ca=certified.ca,
    )


def _keep(
    state: Path,
    certified: Certified,
    key: ec.EllipticCurvePrivateKey,
    token: str,
    enrolment: tuple[str, ...],
    *,
    renewed: bool,
) -> Identity:
    leaf = _checked(certified, key)
    identity.store(
        state,
        {
            "host": certified.host,
            "brokers": list(certified.brokers),
            "not_before": int(leaf.not_valid_before_utc.timestamp()),
            "not_after": int(leaf.not_valid_after_utc.timestamp()),
            "token": token,
        },
        {
            identity.KEY: _pem(key),
            identity.CERTIFICATE: certified.certificate.encode(),
            identity.CA: certified.ca.encode(),
            identity.ENROLMENT: "".join(f"{url}\n" for url in enrolment).encode(),
        },
    )
    (state / identity.PENDING_KEY).unlink(missing_ok=True)
    # Of whoever has a token the broker's word is taken; a renewal is no reason to forget who has the data.
    known = layout.load(state).records if renewed else ()
    try:
        layout.save(state, relapse.kept(known, certified.records))
    except OSError:
        if not renewed:
            raise
        # of a renewal no more than a copy: the next boot or report hears the same
    return identity.load(state)


def _checked(certified: Certified, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Return the certificate, if a connection made with it and our key would work."""
    try:
        leaf = x509.load_pem_x509_certificate(certified.certificate.encode())
    except ValueError as error:
        raise _foreign("it is not PEM") from error
    if leaf.public_key() != key.public_key():
        raise _foreign("it is for another key")
    if not any(_issued(leaf, authority) for authority in _authorities(certified)):
        raise _foreign("it is not signed by the CA that comes with it")
    if _name(leaf) != certified.host:
        raise _foreign("it names another host")
    if not certified.brokers:
        raise _foreign("no broker comes with it")
    for url in certified.brokers:
        address(url)
    return leaf


def _authorities(certified: Certified) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(certified.ca.encode())
    except ValueError as error:
        raise _foreign("its CA is not PEM") from error


def _issued(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _name(leaf: x509.Certificate) -> str | None:
    uri = csr.uri_of(leaf)
    name = None if uri is None else Name.parse(uri)
    return name.name if name is not None and name.kind == "host" else None


def _foreign(why: str) -> KeybrokerError:
    return KeybrokerError(
        Problem.CORRUPT, f"certificate: the one that was sent is of no use here: {why}; nothing was stored"
    )


def until(who: Identity) -> str:
    """Return the certificate's last day."""
    return datetime.fromtimestamp(who.not_after, UTC).strftime("%Y-%m-%d")
