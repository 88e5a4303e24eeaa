"""Which boots of a host may have keys: pure; what the store knows and what is seen come in as values.

A **boot** is a machine that shows a host's certificate: its boot id, its machine id and the address that it
comes from. It is **live** while it was heard of within ``LIVE``. A host has one machine, so a second live
boot is a copy of it: a cloned VM, or a snapshot that was started elsewhere. What becomes of a request:

| this boot is | and | then it is | decision |
|---|---|---|---|
| denied | | denied | denied |
| contested | | contested | pends |
| admitted, approved | | the same | goes on |
| up (only reported so far) | no approval is asked for | admitted | goes on |
| up | approval is asked for | waiting | pends |
| replaced | the one that replaced it is live, and was approved by nobody | contested, both | pends |
| replaced | an approved one of its machine id and address is live | contested, it alone | pends |
| replaced | otherwise | as if it were new | |
| new, waiting, refused | some boot of the host is contested | waiting | pends |
| … | some boot of the host is denied, and this is no reboot of one that was vouched for | waiting | pends |
| … | another one is live, of another machine id or address | waiting or refused | pends or refused |
| … | the add-on has its most hosts live already | waiting or refused | pends or refused |
| … | approval is asked for | waiting | pends |
| … | otherwise, so at each ordinary reboot | admitted; those before it are replaced | goes on |

An ordinary reboot never waits: the same machine id from the same address with a new boot id replaces the boot
before it, live or not. A clone behind the same address looks just like that, until the machine that it
replaced is heard of again; then neither gets a key before an approver decides. The same boot id and machine
id from an address of the other family (IPv4, IPv6) is the same boot.

After a denial somebody else has the host's key, and a boot id is what a request says of itself: so each new
boot of that host waits for an approver, however quiet all others are. An approver's yes **vouches** for a
machine id at an address; its reboots there go on, unless something at that very address is denied.

Nothing waits for a time that never comes: what was heard of more than ``LIVE`` ahead of the clock is not live
(a clock was set back), and what is contested and was not heard of for ``SETTLED`` counts as denied.

A report goes the same way, but asks for no approval, and makes a boot ``up`` and not ``admitted``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, Literal

from keybroker.wire.names import HostId

State = Literal["up", "admitted", "approved", "waiting", "refused", "contested", "denied", "replaced"]
Why = Literal["denied", "contested", "doubted", "second", "crowded", "approval"]
OnClone = Literal["pend", "refuse"]
ON_CLONE: Final = frozenset({"pend", "refuse"})

LIVE: Final = timedelta(seconds=180)
"""Three reports: agents are told to report once a minute."""

SETTLED: Final = timedelta(days=30)
"""What is contested and was not heard of for so long counts as denied."""

FRESH: Final = timedelta(seconds=20)
"""A boot that was heard of so lately is not written down again."""

MOST: Final = 64
"""Boots that are remembered of a host; what was denied or may have keys is not among those forgotten."""

ADDRESSES: Final = 8
"""Of one boot, that are remembered."""

STANDING: Final[frozenset[State]] = frozenset({"up", "admitted", "approved", "contested"})
"""Has the keys, or had them: a boot beside it is a second one."""

_FORGOTTEN: Final[frozenset[State]] = frozenset({"replaced", "waiting", "refused"})
_DECIDED: Final[frozenset[State]] = frozenset({"admitted", "approved"})


@dataclass(frozen=True, slots=True)
class Sight:
    """A boot as a request shows it; the address is the connection's."""

    boot_id: str
    machine_id: str
    address: str


@dataclass(frozen=True, slots=True)
class Boot:
    """A boot that was seen.

    Attributes:
        why: it waits or is refused; None where it does neither.
        first, last: when it was heard of.
        vouched: whether an approver said yes to it, or to the boots before it there.
    """

    host: HostId
    boot_id: str
    machine_id: str
    address: str
    state: State
    first: datetime
    last: datetime
    why: Why | None = None
    vouched: bool = False

    @property
    def id(self) -> str:
        """Its name for operators, made from what it is."""
        told = "\n".join((self.host, self.boot_id, self.machine_id, self.address))
        return f"kbb-{sha256(told.encode()).hexdigest()[:12]}"

    def live(self, now: datetime) -> bool:
        """Say whether it was heard of lately; not so much ahead of the clock, which was set back then."""
        return abs(now - self.last) < LIVE

    def as_of(self, now: datetime) -> Boot:
        """Return it as it counts at that time."""
        if self.state == "contested" and abs(now - self.last) > SETTLED:
            return replace(self, state="denied", why="denied")
        return self

    def same(self, sight: Sight) -> bool:
        """Say whether that is this boot, wherever it asks from."""
        return (self.boot_id, self.machine_id) == (sight.boot_id, sight.machine_id)


@dataclass(frozen=True, slots=True)
class Rules:
    """What an add-on's policy says of boots, and what there is of its other hosts.

    Attributes:
        on_clone: what becomes of a boot beside another one.
        hosts: most hosts of the add-on that may be live at a time; 0 for no limit.
        others: how many of its other hosts are.
        approval: whether an approver has to say yes to each new boot.
    """

    on_clone: OnClone = "pend"
    hosts: int = 0
    others: int = 0
    approval: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """What becomes of a boot.

    Attributes:
        boot: as it is from here on.
        others: boots of the same host that are otherwise from here on.
        beside: the boot that it is a second one to, where ``boot.why`` says so.
    """

    boot: Boot
    others: tuple[Boot, ...] = ()
    beside: Boot | None = None

    @property
    def why(self) -> Why | None:
        """Why it gets no key; None where it does."""
        return self.boot.why


def judge(
    host: HostId, known: Sequence[Boot], sight: Sight, rules: Rules, now: datetime, *, asks: bool
) -> Judged:
    """Decide what becomes of a boot that is heard of (the table above).

    Args:
        known: every boot of the host that is remembered.
        asks: whether it asks for keys; it reports otherwise.
    """
    known = [boot.as_of(now) for boot in known]
    own = _own(host, known, sight, now)
    others = [boot for boot in known if boot.id != own.id]
    if own.state == "denied":
        return Judged(replace(own, why="denied"))
    if own.state == "contested":
        return Judged(replace(own, why="contested"))
    if own.state in _DECIDED:
        return Judged(replace(own, why=None))
    if own.state == "up":
        if asks and rules.approval:
            return Judged(replace(own, state="waiting", why="approval"))
        return Judged(replace(own, state="admitted" if asks else "up", why=None))
    standing = [boot for boot in others if boot.state in STANDING and not boot.same(sight)]
    if own.state == "replaced":
        twins = [boot for boot in standing if boot.state != "approved"]
        if any(boot.live(now) for boot in twins):
            return _contest(own, twins)
        chosen = [boot for boot in standing if boot.state == "approved" and _is_there(boot, own)]
        if any(boot.live(now) for boot in chosen):
            return Judged(replace(own, state="contested", why="contested"), beside=chosen[0])
    return _newcomer(own, others, sight, rules, now, asks=asks)


def is_denied(host: HostId, known: Iterable[Boot], sight: Sight, now: datetime) -> bool:
    """Say whether an approver has said no to the boot that is seen."""
    return _own(host, [boot.as_of(now) for boot in known], sight, now).state == "denied"


def _own(host: HostId, known: Iterable[Boot], sight: Sight, now: datetime) -> Boot:
    """Return the boot that is seen, as it was known; a new one is ``waiting`` until it is judged."""
    here = Boot(host, sight.boot_id, sight.machine_id, sight.address, "waiting", now, now)
    for boot in known:
        if boot.id == here.id:
            return replace(boot, last=now)
    moved = [boot for boot in known if boot.same(sight)]
    # A boot that was denied is so wherever it moves; any other takes along what it is between IPv4 and IPv6.
    moved.sort(key=lambda boot: boot.state != "denied")
    if any(boot.state == "denied" for boot in moved) and any(boot.state == "approved" for boot in moved):
        return here  # yes at one address and no at another: which of them came here, nobody can say
    for boot in moved:
        if boot.state == "denied" or _family(boot.address) != _family(sight.address):
            return replace(boot, address=sight.address, first=now, last=now)
    return here


def _family(address: str) -> bool:
    return ":" in address and not address.startswith("::ffff:")


def _contest(own: Boot, twins: Iterable[Boot]) -> Judged:
    """Two machines go by one identity and look alike: from here on neither is trusted."""
    contested = tuple(replace(boot, state="contested", why="contested") for boot in twins)
    return Judged(replace(own, state="contested", why="contested"), contested, contested[0])


def _newcomer(
    own: Boot, others: Sequence[Boot], sight: Sight, rules: Rules, now: datetime, *, asks: bool
) -> Judged:
    unsettled = next((boot for boot in others if boot.state == "contested"), None)
    if unsettled is not None:
        return Judged(replace(own, state="waiting", why="contested"), beside=unsettled)
    standing = [boot for boot in others if boot.state in STANDING]
    here = [
        boot for boot in standing if boot.machine_id == sight.machine_id and boot.address == sight.address
    ]
    denied = [boot for boot in others if boot.state == "denied"]
    vouched = any(boot.vouched for boot in here) and all(boot.address != sight.address for boot in denied)
    if denied and not vouched:
        return Judged(replace(own, state="waiting", why="doubted"), beside=denied[0])
    # It ended when this one began, by all that can be seen; by its boot id, so with every address it had.
    before = {(boot.boot_id, boot.machine_id) for boot in here}
    live = (boot for boot in standing if boot.live(now))
    rival = next((boot for boot in live if (boot.boot_id, boot.machine_id) not in before), None)
    if rival is not None:
        return Judged(_held(own, rules, "second"), beside=rival)
    if rules.hosts and rules.others >= rules.hosts:
        return Judged(_held(own, rules, "crowded"))
    if asks and rules.approval:
        return Judged(replace(own, state="waiting", why="approval"))
    replaced = tuple(replace(boot, state="replaced", why=None) for boot in standing)
    own = replace(own, state="admitted" if asks else "up", why=None, vouched=vouched)
    return Judged(own, replaced)


def _held(own: Boot, rules: Rules, why: Why) -> Boot:
    return replace(own, state="refused" if rules.on_clone == "refuse" else "waiting", why=why)


def approve(known: Iterable[Boot], boot: Boot, now: datetime) -> tuple[Boot, ...]:
    """Say yes to a boot: it may have keys as long as it lasts, and another one beside it may not.

    Returns:
        The boots that are otherwise from here on, this one first; none where it was approved already.
    """
    if boot.state == "approved":
        return ()
    changed = [replace(boot, state="approved", why=None, vouched=True)]
    for other in (each.as_of(now) for each in known):
        if other.id == boot.id or other.state not in STANDING:
            continue
        if _alias(other, boot):
            changed.append(replace(other, state="approved", why=None, vouched=True))
        elif _named_alike(other, boot) or (_is_there(other, boot) and other.state != "contested"):
            # The same boot before it moved, or the boot before it there: a no would be one to what is meant.
            changed.append(replace(other, state="replaced", why=None))
        elif other.state == "contested" or other.live(now):
            changed.append(replace(other, state="denied", why="denied"))
        else:
            changed.append(replace(other, state="replaced", why=None))
    return tuple(changed)


def _alias(one: Boot, other: Boot) -> bool:
    """Say whether two rows are of one boot that has an IPv4 and an IPv6 address."""
    return _named_alike(one, other) and _family(one.address) != _family(other.address)


def _is_there(one: Boot, other: Boot) -> bool:
    return (one.machine_id, one.address) == (other.machine_id, other.address)


def _named_alike(one: Boot, other: Boot) -> bool:
    return (one.boot_id, one.machine_id) == (other.boot_id, other.machine_id)


def deny(known: Iterable[Boot], boot: Boot) -> tuple[Boot, ...]:
    """Say no to a boot: it gets no key any more; arguments and returns as of ``approve``."""
    if boot.state == "denied":
        return ()
    aliases = [other for other in known if _alias(other, boot) and other.state != "denied"]
    return tuple(replace(each, state="denied", why="denied") for each in (boot, *aliases))


def denials(known: Iterable[Boot], now: datetime) -> tuple[tuple[Boot, ...], Boot | None]:
    """Return the boots of a host that were denied; and one that is in the way of forgetting that, if any is.

    That is one that was denied and is up, which would get its keys when its original reboots; or a contested
    one, on which an approver decides by name.
    """
    known = [boot.as_of(now) for boot in known]
    found = tuple(boot for boot in known if boot.state == "denied")
    unsettled = [boot for boot in known if boot.state == "contested"]
    return found, next((boot for boot in (*unsettled, *found) if boot in unsettled or boot.live(now)), None)


def forgotten(known: Sequence[Boot], now: datetime) -> tuple[str, ...]:
    """Return the ids of the boots to be let go of, the oldest first, so that one more can be kept.

    A boot that was denied or may have keys is kept; of one that came from many addresses (IPv6 has them to
    give away) the first and the last few will do, for it is known by its boot id and machine id.
    """
    over = [boot for boot in known if boot.state in _FORGOTTEN]
    over.sort(key=lambda boot: boot.last)
    old = [boot for boot in over if now - boot.last > timedelta(days=30)]
    spare = max(0, len(known) - len(old) - (MOST - 1))
    more = [boot for boot in over if boot not in old][:spare]
    return tuple(boot.id for boot in (*old, *more, *_wandering(known)))


def _wandering(known: Iterable[Boot]) -> list[Boot]:
    """Return the rows of boots beyond ``ADDRESSES`` of one state, but never the first and last of them."""
    rows: dict[tuple[str, str, str], list[Boot]] = {}
    for boot in known:
        if boot.state not in _FORGOTTEN:
            rows.setdefault((boot.boot_id, boot.machine_id, boot.state), []).append(boot)
    spare: list[Boot] = []
    for same in rows.values():
        first = min(same, key=lambda boot: (boot.first, boot.id))
        later = sorted((boot for boot in same if boot is not first), key=lambda boot: boot.last)
        spare += later[: max(0, len(same) - (ADDRESSES - 1))]
    return spare
