"""Boots of hosts, as approvers see them: they say yes or no to those that wait, and which are expected."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from keybroker.audit import rfc3339
from keybroker.model import boots
from keybroker.model.boots import Boot
from keybroker.policy import Peer
from keybroker.service.admission import Caller, consult, perform
from keybroker.service.broker import Broker
from keybroker.service.directory import addon_named
from keybroker.service.reasons import check_reason
from keybroker.store import Reading, Writing
from keybroker.wire.names import AddonName, HostId
from keybroker.wire.problems import KeybrokerError, Problem

LONGEST_EXPECTED_SECONDS: Final = 7 * 86400


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
        found = [boot.as_of(now) for boot in reading.boots_of(owner)]
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


def clear(broker: Broker, peer: Peer, host: str, reason: str) -> tuple[BootView, ...]:
    """End the doubt about a host: its boots that were denied are forgotten, and the next need nobody's yes.

    Args:
        reason: 1 to 500 characters, for the record.

    Returns:
        The boots of the host that are remembered; done again, nothing changes.

    Raises:
        KeybrokerError: as ``listing`` for the peer; UNKNOWN host; MALFORMED reason; CONFLICT where a boot
            that was denied is up, or one is contested.
    """

    def work(writing: Writing, caller: Caller) -> tuple[BootView, ...]:
        check_reason(reason)
        row = writing.host(host)
        if row is None:
            hint = "keybroker host list"
            raise KeybrokerError(Problem.UNKNOWN, f"host {host[:40]}: there is none", hint=hint)
        denied, obstacle = boots.denials(writing.boots(row.id), caller.now)
        if denied and obstacle is not None:
            raise KeybrokerError(
                Problem.CONFLICT,
                f"boot {obstacle.id} at {obstacle.address}: is {obstacle.state}"
                + (", and up" if obstacle.live(caller.now) else ""),
                hint=f"decide first: keybroker boot approve or deny {obstacle.id}"
                if obstacle.state == "contested"
                else "stop that machine first; it counts as up for three minutes after it was last heard of",
            )
        if denied:
            writing.forget_boots([boot.id for boot in denied])
            forgotten = [f"{boot.id} from {boot.address}" for boot in denied]
            writing.append(
                caller.about("done", addon=row.addon, host=row.id, reason=reason, forgotten=forgotten[:64])
            )
        found = [boot.as_of(caller.now) for boot in writing.boots(row.id)]
        return tuple(BootView(row.addon, boot, boot.live(caller.now)) for boot in found)

    return perform(broker, peer, "boot.clear", work)


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
