"""An add-on's policy at release: from where its keys may be asked for, and how often. Pure: facts are values.

What ``outside`` decides on every request of a host, before anything else is looked at:

| the add-on's address list | the installation | the request comes from | decision |
|---|---|---|---|
| some networks | any | one of them | goes on |
| some networks | any | elsewhere | wrong-address |
| none | not ``deny`` | anywhere | goes on |
| none | ``deny`` | anywhere | wrong-address |

A disabled add-on's hosts may report and renew their certificates, and nothing else: so they hear what is
wanted, and are whole when it is enabled again. What hands something out (``HANDS_OUT``) costs a token of the
boot's bucket, and one of the add-on's once the boot is one that may have keys (``service/sentry.py``); each
holds as many as it gets back in a minute. A report costs one of another bucket of its boot, with the host's
rate or the default one, whichever is more: while it works, an agent reports every 3 s.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, Literal, cast

from keybroker.model.boots import ON_CLONE, OnClone
from keybroker.rights import Verb
from keybroker.wire.fields import Fields
from keybroker.wire.problems import KeybrokerError, Problem

MOST_NETWORKS: Final = 256
MOST_A_MINUTE: Final = 1_000_000
MOST_DAYS: Final = 3650
ANYWHERE: Final = ("0.0.0.0/0", "::/0")

Priority = Literal["high", "normal", "low"]
PRIORITIES: Final[tuple[Priority, ...]] = ("high", "normal", "low")
"""Of an add-on's requests while more come than can be answered at once (``web.line``)."""

HANDS_OUT: Final[frozenset[Verb]] = frozenset({"unlock", "claim", "stage", "header.read"})
EVEN_DISABLED: Final[frozenset[Verb]] = frozenset({"report", "renew"})


@dataclass(frozen=True, slots=True)
class Terms:
    """One add-on's policy.

    Attributes:
        enabled: whether anything is handed out at all.
        allow: networks in CIDR form that its hosts may ask from; empty where the installation decides.
        rate: requests of one boot of a host that hand something out, a minute; 0 for no limit.
        addon_rate: of all its hosts together.
        hosts: most hosts of it that may be up at a time; 0 for no limit.
        on_clone: what becomes of a boot beside another one of the same host, or beyond ``hosts``.
        approve_boots: whether an approver has to say yes to each boot, unless boots are expected then.
        deletion_days: that a destruction is pending; 0 for as many as the installation says.
        priority: whose requests go first while more come than can be answered at once.
    """

    enabled: bool = True
    allow: tuple[str, ...] = ()
    rate: int = 60
    addon_rate: int = 600
    hosts: int = 0
    on_clone: OnClone = "pend"
    approve_boots: bool = False
    deletion_days: int = 0
    priority: Priority = "normal"

    def as_json(self) -> dict[str, Any]:
        """Return the wire form, which is the stored one too."""
        return {
            "enabled": self.enabled,
            "allow": list(self.allow),
            "rate": self.rate,
            "addon_rate": self.addon_rate,
            "hosts": self.hosts,
            "on_clone": self.on_clone,
            "approve_boots": self.approve_boots,
            "deletion_days": self.deletion_days,
            "priority": self.priority,
        }

    def changed(self, change: Change) -> Terms:
        """Return the policy with whatever ``change`` names."""
        named = {field.name: getattr(change, field.name) for field in fields(change)}
        return replace(self, **{name: value for name, value in named.items() if value is not None})


UNCHANGED: Final = Terms()
"""Of an add-on whose policy nobody has changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """What of a policy is to be otherwise; attributes as of ``Terms``, None for what stays as it is."""

    enabled: bool | None = None
    allow: tuple[str, ...] | None = None
    rate: int | None = None
    addon_rate: int | None = None
    hosts: int | None = None
    on_clone: OnClone | None = None
    approve_boots: bool | None = None
    deletion_days: int | None = None
    priority: Priority | None = None

    @classmethod
    def read(cls, body: Fields) -> Change:
        """Read the wire form (MALFORMED otherwise)."""

        def number(key: str) -> int:
            return body.number(key, most=MOST_A_MINUTE)

        change = cls(
            enabled=body.optional("enabled", body.flag),
            allow=body.optional("allow", lambda key: networks(body.texts(key, most=MOST_NETWORKS))),
            rate=body.optional("rate", number),
            addon_rate=body.optional("addon_rate", number),
            hosts=body.optional("hosts", number),
            on_clone=cast(OnClone | None, body.optional("on_clone", lambda key: body.choice(key, ON_CLONE))),
            approve_boots=body.optional("approve_boots", body.flag),
            deletion_days=body.optional("deletion_days", lambda key: body.number(key, most=MOST_DAYS)),
            priority=cast(
                Priority | None,
                body.optional("priority", lambda key: body.choice(key, frozenset(PRIORITIES))),
            ),
        )
        body.end()
        return change


def loosens(terms: Terms, change: Change, *, days: int) -> str | None:
    """Say what a change takes away that only approvers may take: a decision of theirs, or time to think.

    Args:
        days: that a destruction is pending where the policy says 0.

    Returns:
        What is so before the change; None where nobody has to be asked.
    """
    if terms.approve_boots and change.approve_boots is False:
        return "its boots are approved"
    before, after = terms.deletion_days or days, terms.changed(change).deletion_days or days
    return f"a destruction is pending for {before} days" if after < before else None


@lru_cache(maxsize=1024)
def stored(text: str) -> Terms:
    """Return a policy from the text that is stored of it."""
    return UNCHANGED.changed(Change.read(Fields.parse(text)))


def networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return networks in one spelling, sorted, each once; an address alone is a network of one.

    Raises:
        KeybrokerError: MALFORMED for what is none, or has bits beyond its prefix: a slip of the pen there
            could let far more in than was meant.
    """
    found = set()
    for text in texts:
        try:
            found.add(ip_network(text))
        except ValueError:
            raise KeybrokerError(
                Problem.MALFORMED,
                f"allow: {text[:60]!r} is not a network",
                hint="192.0.2.0/24, 2001:db8::/32, or one address",
            ) from None
    ordered = sorted(found, key=lambda one: (one.version, int(one.network_address), one.prefixlen))
    return tuple(str(one) for one in ordered)


def outside(terms: Terms, verb: Verb, address: str, *, denied: bool) -> KeybrokerError | None:
    """Say why a host may not ask this from there (the table above); None where it may.

    Args:
        address: where the connection comes from, an IP address, as the kernel says.
        denied: whether an add-on without an address list may be asked from nowhere.
    """
    if not _within(terms.allow, address, denied=denied):
        return KeybrokerError(Problem.WRONG_ADDRESS, f"address {address}: is not one of this add-on's")
    if not terms.enabled and verb not in EVEN_DISABLED:
        return KeybrokerError(Problem.DISABLED, "add-on: is disabled")
    return None


def place(address: str) -> str:
    """Return what stands for an address where whoever has one of its kind has many: of IPv6, its /64."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4 or found.ipv4_mapped is not None:
        return address
    return str(ip_network((found, 64), strict=False))


def _within(allow: tuple[str, ...], text: str, *, denied: bool) -> bool:
    if not allow:
        return not denied
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    # A listener on :: sees IPv4 clients as ::ffff:192.0.2.1; the list means their own addresses.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any(_has(_network(one), mapped or address) for one in allow)


@lru_cache(maxsize=4096)
def _network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text)


def _has(network: IPv4Network | IPv6Network, address: IPv4Address | IPv6Address) -> bool:
    return network.version == address.version and address in network


@dataclass(frozen=True, slots=True)
class Bucket:
    """So many tokens at a time; between two draws it fills up evenly.

    Attributes:
        at: seconds, on any clock.
    """

    tokens: float
    at: float


def draw(bucket: Bucket | None, rate: int, now: float) -> tuple[Bucket, float]:
    """Take a token, if there is one.

    Args:
        bucket: None for one that was never drawn from, which is full.
        rate: how many tokens it gets a minute, and holds; above 0.
        now: on the clock of ``bucket.at``; a clock that was set back adds nothing.

    Returns:
        The bucket afterwards, and how many seconds to wait for the token: 0 where it was taken.
    """
    before = Bucket(float(rate), now) if bucket is None else bucket
    added = max(0.0, now - before.at) * rate / 60
    tokens = min(float(rate), before.tokens + added)
    if tokens >= 1:
        return Bucket(tokens - 1, now), 0.0
    return Bucket(tokens, now), (1 - tokens) * 60 / rate
