"""Boots of hosts: each is judged before a key leaves, and approvers say yes or no to those that wait."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from keybroker.audit import rfc3339
from keybroker.model import boots
from keybroker.model.boots import STANDING, Boot, Judged, Rules, Sight, Why
from keybroker.policy import Peer
from keybroker.service.admission import Caller, Stopped, consult, perform
from keybroker.service.broker import Broker
from keybroker.service.directory import addon_named
from keybroker.store import Reading, Writing
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.names import AddonName, HostId
from keybroker.wire.problems import KeybrokerError, Problem

LONGEST_EXPECTED_SECONDS: Final = 7 * 86400

AGAIN_SECONDS: Final = 10.0
"""When a boot that waits is to ask again; an approver's yes takes no longer to reach it."""

_SAID: Final[dict[Why, str]] = {
    "denied": "an approver has said no to it",
    "contested": "two machines use this identity, and none of them gets a key until an approver has decided",
    "second": "another boot of this host is up",
    "crowded": "the add-on has its most hosts up already",
    "approval": "the add-on wants each boot to be approved",
}


@dataclass(frozen=True, slots=True)
class BootView:
    """A boot as operators are shown it.

    Attributes:
        is_live: whether it was heard of lately.
    """

    addon: AddonName
    boot: Boot
    is_live: bool

    def as_json(self) -> dict[str, Any]:
        """Return the wire form; times are RFC 3339 in UTC."""
        return {
            "boot": self.boot.id,
            "addon": self.addon,
            "host": self.boot.host,
            "state": self.boot.state,
            "why": self.boot.why,
            "live": self.is_live,
            "address": self.boot.address,
            "boot_id": self.boot.boot_id,
            "machine_id": self.boot.machine_id,
            "first": rfc3339(self.boot.first),
            "last": rfc3339(self.boot.last),
        }


def check(writing: Writing, caller: Caller, asking: AskingBoot | None) -> None:
    """Let a boot of the caller's host have keys, or not; what it is from here on is kept.

    Args:
        asking: None from an agent that does not say which boot it is.

    Raises:
        Stopped: PENDING, SECOND_BOOT or BOOT_DENIED, which is on record once, and whoever waits is kept.
    """
    if asking is None:
        _check_unnamed(writing, caller)
        return
    known, judged = _judge(writing, caller, asking, asks=True)
    if judged.why is None:
        _keep(writing, caller, known, judged, asks=True)
        return
    error = _error(caller, judged)

    def again(later: Writing) -> None:
        # the transaction that found it out is rolled back, and another request may have come between
        _keep(later, caller, *_judge(later, caller, asking, asks=True), asks=True)

    raise Stopped(caller, "refused", error, instead=again)


def hear(writing: Writing, caller: Caller, asking: AskingBoot) -> bool:
    """Take note of a boot that reports; say whether what it says of the volumes is its host's word."""
    known, judged = _judge(writing, caller, asking, asks=False)
    _keep(writing, caller, known, judged, asks=False)
    return judged.boot.state in STANDING and judged.boot.state != "contested"


def _judge(reading: Reading, caller: Caller, asking: AskingBoot, *, asks: bool) -> tuple[list[Boot], Judged]:
    """Return the host's boots as they were known, and what becomes of the one that is heard of."""
    host, addon = caller.as_host()
    sight = Sight(asking.boot_id, asking.machine_id, caller.peer.address)
    others = 0
    if caller.terms.hosts:
        up = {
            boot.host
            for boot in reading.boots_of(addon)
            if boot.host != host and boot.state in STANDING and boot.live(caller.now)
        }
        others = len(up)
    approval = caller.terms.approve_boots and addon not in reading.expected(caller.now)
    rules = Rules(caller.terms.on_clone, caller.terms.hosts, others, approval)
    known = reading.boots(host)
    return known, boots.judge(host, known, sight, rules, caller.now, asks=asks)


def _keep(writing: Writing, caller: Caller, known: list[Boot], judged: Judged, *, asks: bool) -> None:
    """Write down what became of a boot, and put it on record if it is news; whoever waits asks often."""
    boot = judged.boot
    before = next((each for each in known if each.id == boot.id), None)
    is_news = before is None or (before.state, before.why) != (boot.state, boot.why)
    is_news = is_news or bool(judged.others) or (asks and judged.why == "denied")
    if before is not None and not is_news and caller.now - before.last < boots.FRESH:
        return
    if before is None:
        writing.forget_boots(boots.forgotten(known, caller.now))
    for each in (boot, *judged.others):
        writing.put_boot(each)
    replaced = sorted({other.boot_id for other in judged.others if other.state == "replaced"})
    if judged.why is not None and is_news:
        facts = {"id": boot.id, "boot": boot.boot_id, "machine": boot.machine_id, "why": _SAID[judged.why]}
        if judged.beside is not None:
            facts["beside"] = f"{judged.beside.id} from {judged.beside.address}"
        writing.append(caller.event("refused", problem=_problem(boot).slug, **facts))
    elif replaced:
        writing.append(caller.event("done", boot=boot.boot_id, replaces=replaced))


def _problem(boot: Boot) -> Problem:
    if boot.why == "denied":
        return Problem.BOOT_DENIED
    return Problem.SECOND_BOOT if boot.state == "refused" else Problem.PENDING


def _error(caller: Caller, judged: Judged) -> KeybrokerError:
    boot = judged.boot
    assert boot.why is not None, "a boot that gets a key is no error"  # noqa: S101
    problem = _problem(boot)
    hint = f"an approver decides: keybroker boot approve {boot.id}"
    if problem is Problem.SECOND_BOOT:
        hint = "stop the other one; it counts as up for three minutes after it was last heard of"
    return KeybrokerError(
        problem,
        f"boot {boot.id}: {_SAID[boot.why]}",
        hint=None if problem is Problem.BOOT_DENIED else hint,
        retry_after=AGAIN_SECONDS if problem.temporary else None,
    )


def _check_unnamed(reading: Reading, caller: Caller) -> None:
    """Let an agent that does not say which boot it is have keys, where there is no doubt.

    Raises:
        KeybrokerError: NOT_ALLOWED, PENDING.
    """
    host, _addon = caller.as_host()
    if caller.terms.hosts or caller.terms.approve_boots:
        raise KeybrokerError(
            Problem.NOT_ALLOWED,
            "boot: this add-on's policy wants to know which boot asks",
            hint="update keybroker-agent on this machine",
        )
    known = reading.boots(host)
    doubtful = [boot for boot in known if boot.state in ("waiting", "refused", "contested", "denied")]
    standing = [boot for boot in known if boot.state in STANDING]
    live = [boot for boot in standing if boot.live(caller.now)]
    here = [boot for boot in live if boot.address == caller.peer.address]
    # Whoever was told no, or not yet, would only have to leave out who they are.
    is_one = any(boot.state == "contested" or boot.address == caller.peer.address for boot in doubtful)
    if is_one or (doubtful and not here):
        raise KeybrokerError(
            Problem.PENDING,
            "boot: another boot of this host waits or was denied, and this request does not say which it is",
            hint="update keybroker-agent on this machine",
            retry_after=AGAIN_SECONDS,
        )
    if live and not here:
        raise KeybrokerError(
            Problem.PENDING, "boot: another boot of this host is up", retry_after=AGAIN_SECONDS
        )


@dataclass(frozen=True, slots=True)
class ExpectedView:
    """Until when an add-on's boots need nobody's yes."""

    addon: AddonName
    until: datetime

    def as_json(self) -> dict[str, Any]:
        """Return the wire form; times are RFC 3339 in UTC."""
        return {"addon": self.addon, "until": rfc3339(self.until)}


def expect(broker: Broker, peer: Peer, addon: str, seconds: int) -> ExpectedView:
    """Let an add-on's boots need nobody's yes for a while; a second boot beside another one still does.

    Args:
        seconds: from now on; 0 ends it.

    Raises:
        KeybrokerError: as ``listing`` for the peer; UNKNOWN add-on.
    """

    def work(writing: Writing, caller: Caller) -> ExpectedView:
        owner = addon_named(writing, addon).name
        until = caller.now + timedelta(seconds=seconds)
        writing.expect(owner, until, peer.identity.uri)
        writing.append(caller.about("done", addon=owner, until=rfc3339(until)))
        return ExpectedView(owner, until)

    return perform(broker, peer, "boot.expect", work)


def expected(broker: Broker, peer: Peer, addon: str | None = None) -> tuple[ExpectedView, ...]:
    """Return the add-ons whose boots are expected now, by name (Raises: as ``listing``)."""
    now = broker.clock()
    found = consult(broker, peer, "boot.read", lambda reading: reading.expected(now))
    return tuple(ExpectedView(name, found[name]) for name in sorted(found) if addon in (None, name))


def listing(broker: Broker, peer: Peer, addon: str | None = None) -> tuple[BootView, ...]:
    """Return the boots that are remembered of hosts that are not revoked, by host, the last heard of first.

    Raises:
        KeybrokerError: NOT_ALLOWED, NO_IDENTITY, REVOKED or CERTIFICATE for the peer; UNKNOWN add-on.
    """
    now = broker.clock()

    def work(reading: Reading) -> tuple[BootView, ...]:
        owner = None if addon is None else addon_named(reading, addon).name
        addons = {row.id: row.addon for row in reading.hosts(owner)}
        found = reading.boots_of(owner)
        return tuple(BootView(addons[boot.host], boot, boot.live(now)) for boot in found)

    return consult(broker, peer, "boot.read", work)


def approve(broker: Broker, peer: Peer, boot: str) -> BootView:
    """Say yes to a boot: from its next request on it gets keys, and other boots of its host do not.

    Raises:
        KeybrokerError: as ``listing`` for the peer; UNKNOWN; CONFLICT for one that was replaced, or that the
            add-on's policy refuses.
    """

    def work(writing: Writing, caller: Caller) -> BootView:
        found = _named(writing, boot)
        if found.state in ("replaced", "refused"):
            raise KeybrokerError(
                Problem.CONFLICT,
                f"boot {found.id}: is {found.state}",
                hint="keybroker addon policy ADDON --on-clone pend has such boots wait for an approver"
                if found.state == "refused"
                else None,
            )
        return _decide(writing, caller, found, boots.approve(writing.boots(found.host), found, caller.now))

    return perform(broker, peer, "boot.approve", work)


def deny(broker: Broker, peer: Peer, boot: str) -> BootView:
    """Say no to a boot: it gets no key any more. Volumes that it has open stay open.

    Raises:
        KeybrokerError: as ``listing`` for the peer; UNKNOWN.
    """

    def work(writing: Writing, caller: Caller) -> BootView:
        found = _named(writing, boot)
        return _decide(writing, caller, found, boots.deny(writing.boots(found.host), found))

    return perform(broker, peer, "boot.deny", work)


def _named(reading: Reading, boot: str) -> Boot:
    found = reading.boot(boot)
    if found is None:
        raise KeybrokerError(Problem.UNKNOWN, f"boot {boot[:40]}: there is none", hint="keybroker boot list")
    return found


def _decide(writing: Writing, caller: Caller, boot: Boot, changed: tuple[Boot, ...]) -> BootView:
    addon = _addon(writing, boot.host)
    for each in changed:
        writing.put_boot(each)
        facts = {"id": each.id, "boot": each.boot_id, "machine": each.machine_id, "from": each.address}
        writing.append(caller.about("done", addon=addon, host=each.host, state=each.state, **facts))
    found = _named(writing, boot.id)
    return BootView(addon, found, found.live(caller.now))


def _addon(reading: Reading, host: HostId) -> AddonName:
    row = reading.host(host)
    assert row is not None, "a boot is of a host"  # noqa: S101
    return row.addon
