"""Making an installation: all of it beside its place, then two renames.

The state directory is renamed first and the configuration directory last: without a configuration there is
no installation. An error before the last rename undoes the first; a power cut between the two leaves a state
directory that no configuration speaks of, and the next ``create`` says so. A database of PostgreSQL's is
filled before both: after an attempt that was cut it is to be made anew, for its master key is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from keybroker.audit import AuditEvent, Writer
from keybroker.ca import SERIAL_BYTES, Authority, Leaf, key_pem, new_key, serial_number
from keybroker.csr import RequestedKey, read_request, signing_request
from keybroker.envelope import KEY_BYTES
from keybroker.masterkey import LocalMasterKey, MasterKey, key_file, open_master_key
from keybroker.outside import Wanted, check_ca
from keybroker.rights import FIRST
from keybroker.service.issuing import row_of
from keybroker.service.masters import new_master_key_row
from keybroker.service.offline import new_recovery_key
from keybroker.service.placing import Maker, as_user, beside, check_free, put_in_place
from keybroker.service.signing import keep
from keybroker.store import Writing, schema
from keybroker.store.places import Cluster, Database
from keybroker.store.rows import InstallationRow, OperatorRow
from keybroker.wire import names
from keybroker.wire.names import Identity
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.secret import Secret

DATABASE: Final = "keybroker.db"

Clock = Callable[[], datetime]
Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``create`` is to make.

    Attributes:
        config_directory, state_directory: absolute; absent, or empty directories.
        server_names, server_addresses: DNS names and IP addresses of the server certificate; one at least.
        operator: name of the first operator (``wire.names.OPERATOR_NAME``), who gets the roles
            ``rights.FIRST``.
        configuration: the text of ``keybroker.toml``, written as it is.
        master_key: ``file:`` and a path right inside ``config_directory``, where it is made; or
            ``credential:NAME`` or ``pkcs11:…`` for one that is there already.
        secret: the master key itself, where it is in shares (``shares:…``), and else None.
        owner: uid and gid that all of it belongs to; None for whoever runs this.
        recovery: age recipients of the offline recovery key; empty for none.
        outside_ca: PEM of the certificate of a CA whose key is elsewhere; None for a CA of our own.
        cluster: an empty database of PostgreSQL's; None for a file in ``state_directory``.
    """

    config_directory: Path
    state_directory: Path
    trust_domain: str
    server_names: tuple[str, ...]
    server_addresses: tuple[str, ...]
    operator: str
    configuration: str
    master_key: str
    secret: Secret | None = None
    owner: tuple[int, int] | None = None
    recovery: tuple[str, ...] = ()
    outside_ca: str | None = None
    cluster: Cluster | None = None
    server_lifetime: timedelta = timedelta(days=3650)
    operator_lifetime: timedelta = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Created:
    """What ``create`` made.

    Attributes:
        ca_fingerprint: SHA-256 of the CA certificate's DER, hex.
    """

    ca_certificate: Path
    ca_fingerprint: str
    operator_certificate: Path
    operator_key: Path
    configuration: Path


def create(
    plan: Plan, *, clock: Clock, entropy: Entropy, credentials_directory: Path | None = None
) -> Created:
    """Make an installation: CA, server certificate, master key, database, first operator.

    Raises:
        KeybrokerError: EXISTS where either directory holds anything already; MALFORMED for a name that is
            none; CONFIGURATION where something cannot be made, or the credential is not there.
    """
    _check(plan)
    try:
        with beside(plan.config_directory) as config, beside(plan.state_directory) as state:
            masterkey = _master_key(plan, config, entropy, credentials_directory)
            authority = _build(plan, config, state, masterkey, clock(), entropy)
            put_in_place(config, plan.config_directory, state, plan.state_directory)
    except OSError as error:
        raise _cannot(error.filename or plan.config_directory, error) from None
    home = plan.config_directory
    return Created(
        ca_certificate=home / "ca.crt",
        ca_fingerprint=authority.fingerprint,
        operator_certificate=home / "operators" / f"{plan.operator}.crt",
        operator_key=home / "operators" / f"{plan.operator}.key",
        configuration=home / "keybroker.toml",
    )


def _build(
    plan: Plan, config: Path, state: Path, masterkey: MasterKey, now: datetime, entropy: Entropy
) -> Authority:
    """Make everything but the master key, beside its place."""
    maker = Maker(plan.owner)
    authority, operator = (
        _certificates(plan, maker, config, now, entropy)
        if plan.outside_ca is None
        else _requests(plan, plan.outside_ca, maker, config, now)
    )
    maker.file(config / "keybroker.toml", plan.configuration.encode(), 0o600)
    if plan.cluster is None:
        _database(plan, state / DATABASE, masterkey, authority, operator, now, entropy)
        maker.adopt(state / DATABASE)
    else:
        with as_user(plan.owner):  # PostgreSQL may know whoever asks by their user's name
            _database(plan, plan.cluster, masterkey, authority, operator, now, entropy)
    maker.finish(config / "operators", config, state)
    return authority


def _check(plan: Plan) -> None:
    if names.TRUST_DOMAIN.fullmatch(plan.trust_domain) is None:
        raise _malformed("trust domain", plan.trust_domain)
    if names.OPERATOR_NAME.fullmatch(plan.operator) is None:
        raise _malformed("operator", plan.operator)
    if not plan.server_names and not plan.server_addresses:
        raise KeybrokerError(Problem.MALFORMED, "server: has neither a name nor an address")
    for name in plan.server_names:
        if names.TRUST_DOMAIN.fullmatch(name.lower()) is None or len(name) > 253:
            raise _malformed("server name", name)
    for address in plan.server_addresses:
        try:
            ip_address(address)
        except ValueError:
            raise _malformed("server address", address) from None
    config, state = plan.config_directory, plan.state_directory
    if config == state or config in state.parents or state in config.parents:
        raise KeybrokerError(Problem.CONFIGURATION, f"{state}: state and configuration must be apart")
    for directory in (config, state):
        check_free(directory)


def _malformed(what: str, value: str) -> KeybrokerError:
    return KeybrokerError(Problem.MALFORMED, f"{what} {value[:80]!r}: is not one")


def _cannot(path: Path | str, error: OSError) -> KeybrokerError:
    return KeybrokerError(Problem.CONFIGURATION, f"{path}: cannot be made: {error.strerror}")


def _master_key(plan: Plan, config: Path, entropy: Entropy, credentials_directory: Path | None) -> MasterKey:
    """Make the master key's file, or open the credential that is there."""
    if plan.secret is not None:
        return LocalMasterKey(plan.secret)
    if plan.master_key.startswith("pkcs11:"):
        with as_user(plan.owner):  # the PIN is a file of theirs, and so is what a module leaves
            return open_master_key(plan.master_key, credentials_directory)
    if not plan.master_key.startswith("file:"):
        return open_master_key(plan.master_key, credentials_directory)
    path = key_file(plan.master_key, None)
    if path.parent != plan.config_directory:
        raise KeybrokerError(
            Problem.CONFIGURATION, f"{path}: a new master key is made in {plan.config_directory}"
        )
    key = Secret(entropy(KEY_BYTES))
    Maker(plan.owner).file(config / path.name, key.reveal(), 0o400)
    return LocalMasterKey(key)


def _certificates(
    plan: Plan, maker: Maker, config: Path, now: datetime, entropy: Entropy
) -> tuple[Authority, Leaf]:
    """Make the CA, the server's and the first operator's certificate; return the CA and the operator's."""

    def serial() -> int:
        return serial_number(entropy(SERIAL_BYTES))

    authority = Authority.create(f"Keybroker CA {plan.trust_domain}"[:64], now, serial())
    server, operator = new_key(), new_key()
    served = authority.certify_server(
        server.public_key(),
        plan.server_names,
        plan.server_addresses,
        now,
        serial(),
        plan.server_lifetime,
    )
    certified = authority.certify_client(
        operator.public_key(), _operator(plan), now, serial(), plan.operator_lifetime
    )
    operators = config / "operators"
    operators.mkdir(mode=0o700)
    for path, certificate, key in (
        (config / "ca", authority.pem, authority.signer),
        (config / "server", served.pem, server),
        (operators / plan.operator, certified.pem, operator),
    ):
        # not with_suffix: an operator's name may have dots
        maker.file(path.with_name(f"{path.name}.crt"), certificate.encode(), 0o444)
        maker.file(path.with_name(f"{path.name}.key"), key_pem(key).reveal(), 0o400)
    return authority, certified


def _requests(
    plan: Plan, outside_ca: str, maker: Maker, config: Path, now: datetime
) -> tuple[Authority, RequestedKey]:
    """Put an outside CA's certificate in place, and ask it for the server's and the first operator's."""
    authority = Authority.outside(outside_ca, "outside CA")
    check_ca(authority.certificate, now, "outside CA")
    names, addresses, identity = plan.server_names, plan.server_addresses, _operator(plan)
    wanted = Wanted("", (*names, *addresses)[0], "server", dns=names, addresses=addresses)
    mine = Wanted.of("", identity)
    server, operator = new_key(), new_key()
    operators = config / "operators"
    operators.mkdir(mode=0o700)
    asked = signing_request(server, wanted.common_name, wanted.sans(), wanted.usage)
    maker.file(config / "ca.crt", authority.pem.encode(), 0o444)
    maker.file(config / "server.csr", asked.encode(), 0o444)
    maker.file(config / "server.key", key_pem(server).reveal(), 0o400)
    maker.file(operators / f"{plan.operator}.key", key_pem(operator).reveal(), 0o400)
    return authority, read_request(signing_request(operator, mine.common_name, mine.sans(), mine.usage))


def _operator(plan: Plan) -> Identity:
    return Identity(plan.trust_domain, "operator", plan.operator)


def _database(
    plan: Plan,
    database: Database,
    masterkey: MasterKey,
    authority: Authority,
    operator: Leaf | RequestedKey,
    now: datetime,
    entropy: Entropy,
) -> None:
    schema.create(database)
    first = new_master_key_row(masterkey, plan.master_key, entropy, now)

    def fill(writing: Writing) -> None:
        writing.put_installation(InstallationRow(plan.trust_domain, authority.fingerprint, now))
        writing.put_master_key(first)
        writing.add_operator(OperatorRow(plan.operator, now, FIRST, None, now))
        if isinstance(operator, Leaf):
            writing.add_certificate(row_of(operator, _operator(plan), now))
        else:
            keep(writing, _operator(plan), operator, now)
        facts = {"ca": authority.fingerprint, "operator": plan.operator, "roles": " ".join(sorted(FIRST))}
        if plan.recovery:
            writing.add_recovery_key(new_recovery_key(masterkey, plan.recovery, 1, now, entropy))
            facts["recovery"] = " ".join(plan.recovery)
        writing.append(AuditEvent(now, "local", "", "local", "init", "done", detail=facts))

    store = schema.open_store(database, Writer())
    try:
        store.write(fill)
    finally:
        store.close()
