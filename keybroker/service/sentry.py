"""Which boot of its host a request comes from: judged before anything is handed out or changed.

| call | says which boot by | one that does not say |
|---|---|---|
| unlock, report | its body, always | is none of this version |
| claim, stage | its body, or ``Keybroker-Boot`` | gets its key where there is no doubt about the host |
| whatever else changes or returns something | ``Keybroker-Boot`` | goes on where there is no doubt |
| renewal | ``Keybroker-Boot`` | goes on: it takes nothing from the host, and a certificate is no key |
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, TypeVar

from keybroker.model import boots
from keybroker.model.boots import STANDING, Boot, Judged, Rules, Sight, Why
from keybroker.policy import Peer, Verb
from keybroker.rights import MAY
from keybroker.service.admission import Caller, Stopped, draw, perform
from keybroker.service.broker import Broker
from keybroker.store import Reading, Writing
from keybroker.terms import HANDS_OUT, UNCHANGED, place
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.names import HostId
from keybroker.wire.problems import KeybrokerError, Problem

T = TypeVar("T")

JUDGED: Final = frozenset(verb for verb, who in MAY.items() if "host" in who) - {
    "report",
    "renew",
    "describe",
}
"""What a boot that waits, is contested or was denied is turned away from."""

_KEYS: Final[frozenset[Verb]] = frozenset({"claim", "stage"})
"""Beside unlock, whose boot is always said."""

AGAIN_SECONDS: Final = 10.0
"""When a boot that waits is to ask again; an approver's yes takes no longer to reach it."""

SAID: Final[dict[Why, str]] = {
    "denied": "an approver has said no to it",
    "contested": "two machines use this identity, and none of them gets a key until an approver has decided",
    "doubted": "a boot of this host was denied, so an approver decides on each new one",
    "second": "another boot of this host is up",
    "crowded": "the add-on has its most hosts up already",
    "approval": "the add-on wants each boot to be approved",
}
"""Why a boot gets nothing, as its machine is told."""


def attend(
    broker: Broker,
    peer: Peer,
    verb: Verb,
    work: Callable[[Writing, Caller], T],
    asking: AskingBoot | None = None,
) -> T:
    """Run a host's change as ``admission.perform`` does, once its boot is one that may (``check``).

    Args:
        asking: as the request's body has it; else what the connection's header says counts.
    """

    def checked(writing: Writing, caller: Caller) -> T:
        known = writing.boots(caller.as_host()[0])
        limit(broker, known, caller, asking or peer.boot)
        check(broker, writing, known, caller, asking or peer.boot)
        return work(writing, caller)

    return perform(broker, peer, verb, checked)


def check(
    broker: Broker, writing: Writing, known: list[Boot], caller: Caller, asking: AskingBoot | None
) -> None:
    """Let a boot of the caller's host go on, or not; what it is from here on is kept.

    The add-on's rate counts whoever goes on, and nobody else: else a clone, whose every request is turned
    away, would keep all hosts of the add-on from booting.

    Args:
        known: the host's boots, as of this transaction.
        asking: None from an agent that does not say which boot it is.

    Raises:
        Stopped: PENDING, SECOND_BOOT or BOOT_DENIED, which is on record once, and whoever waits is kept;
            BUSY, as ``admission.draw``.
    """
    if asking is None:
        _check_unnamed(known, caller)
    else:
        judged = _judge(writing, known, caller, asking, asks=True)
        if judged.why is not None:
            raise _turned_away(caller, asking, judged, asks=True)
        _keep(writing, caller, known, judged, asks=True)
    if caller.verb in HANDS_OUT:
        draw(broker, caller, {f"add-on {caller.addon}": caller.terms.addon_rate})


def _turned_away(caller: Caller, asking: AskingBoot, judged: Judged, *, asks: bool) -> Stopped:
    """Return what ends the request of a boot that may not; it is kept as what it is found to be."""

    def again(later: Writing) -> None:
        # the transaction that found it out is rolled back, and another request may have come between
        known = later.boots(caller.as_host()[0])
        _keep(later, caller, known, _judge(later, known, caller, asking, asks=asks), asks=asks)

    return Stopped(caller, "refused", _error(caller, judged), instead=again)


def limit(broker: Broker, known: list[Boot], caller: Caller, asking: AskingBoot | None) -> None:
    """Count a request that hands anything out against the rate of its boot (``_whose``).

    Args:
        known: the host's boots.

    Raises:
        Stopped: BUSY, as ``admission.draw``.
    """
    if caller.verb in HANDS_OUT:
        draw(broker, caller, {_whose(known, caller, asking): caller.terms.rate})


def _pace(broker: Broker, known: list[Boot], caller: Caller, asking: AskingBoot) -> None:
    """Count a report against the rate of its boot (``_whose``).

    What hands out keys is counted apart, so that no report keeps a VM from booting.

    Raises:
        Stopped: BUSY, as ``admission.draw``.
    """
    if caller.terms.rate:
        whose = f"reports of {_whose(known, caller, asking)}"
        draw(broker, caller, {whose: max(caller.terms.rate, UNCHANGED.rate)})


def _whose(known: list[Boot], caller: Caller, asking: AskingBoot | None) -> str:
    """Name the bucket that a host's request costs a token of.

    Each boot that has its keys has its own, and all others of a host that come from one place have one: a
    clone that asks all the time, under whatever names, uses up neither its original's nor that of the boot
    which follows on that.
    """
    host, _addon = caller.as_host()
    address = caller.peer.address
    if asking is not None:
        sight = Sight(asking.boot_id, asking.machine_id, address)
        for boot in known:
            if boot.same(sight) and boot.address == address and boot.state in STANDING:
                return f"boot {boot.id}"
    return f"new boots of host {host} from {place(address)}"


def hear(broker: Broker, writing: Writing, caller: Caller, asking: AskingBoot) -> bool:
    """Take note of a boot that reports; say whether what it says of the volumes is its host's word.

    Raises:
        Stopped: BOOT_DENIED: it is somebody else's, and is told nothing of the volumes; BUSY, as
            ``admission.draw``.
    """
    known = writing.boots(caller.as_host()[0])
    _pace(broker, known, caller, asking)
    judged = _judge(writing, known, caller, asking, asks=False)
    if judged.why == "denied":
        raise _turned_away(caller, asking, judged, asks=False)
    _keep(writing, caller, known, judged, asks=False)
    return judged.boot.state in STANDING and judged.boot.state != "contested"


def _judge(reading: Reading, known: list[Boot], caller: Caller, asking: AskingBoot, *, asks: bool) -> Judged:
    """Return what becomes of the boot that is heard of, beside those that are known."""
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
    return boots.judge(host, known, sight, rules, caller.now, asks=asks)


def _keep(writing: Writing, caller: Caller, known: list[Boot], judged: Judged, *, asks: bool) -> None:
    """Write down what became of a boot, and put it on record if it is news; whoever waits asks often."""
    boot = judged.boot
    before = next((each for each in known if each.id == boot.id), None)
    is_news = before is None or (before.state, before.why) != (boot.state, boot.why)
    is_news = is_news or bool(judged.others) or (asks and judged.why == "denied")
    if before is not None and not is_news and abs(caller.now - before.last) < boots.FRESH:
        return
    if before is None:
        writing.forget_boots(boots.forgotten(known, caller.now))
    for each in (boot, *judged.others):
        writing.put_boot(each)
    replaced = sorted({other.boot_id for other in judged.others if other.state == "replaced"})
    if judged.why is not None and is_news:
        facts = {"id": boot.id, "boot": boot.boot_id, "machine": boot.machine_id, "why": SAID[judged.why]}
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
        f"boot {boot.id}: {SAID[boot.why]}",
        hint=None if problem is Problem.BOOT_DENIED else hint,
        retry_after=AGAIN_SECONDS if problem.temporary else None,
    )


def _check_unnamed(known: list[Boot], caller: Caller) -> None:
    """Let an agent that does not say which boot it is go on, where there is no doubt.

    Raises:
        KeybrokerError: NOT_ALLOWED, PENDING.
    """
    counted = bool(caller.terms.hosts or caller.terms.approve_boots)
    if counted and caller.verb in _KEYS:
        raise KeybrokerError(
            Problem.NOT_ALLOWED,
            "boot: this add-on's policy wants to know which boot asks",
            hint="update keybroker-agent on this machine",
        )
    known = [boot.as_of(caller.now) for boot in known]
    doubtful = [boot for boot in known if boot.state in ("waiting", "refused", "contested", "denied")]
    live = [boot for boot in known if boot.state in STANDING and boot.live(caller.now)]
    here = [boot for boot in live if boot.address == caller.peer.address]
    # Whoever was told no, or not yet, would only have to leave out who they are.
    is_one = any(
        boot.state in ("contested", "denied") or boot.address == caller.peer.address for boot in doubtful
    )
    if is_one or (doubtful and not here):
        raise KeybrokerError(
            Problem.PENDING,
            "boot: another boot of this host waits or was denied, and this request does not say which it is",
            hint="update keybroker-agent on this machine",
            retry_after=AGAIN_SECONDS,
        )
    if (live or counted) and not here:
        said = (
            "another boot of this host is up"
            if live
            else "none of this host is up, and this does not say which it is"
        )
        raise KeybrokerError(Problem.PENDING, f"boot: {said}", retry_after=AGAIN_SECONDS)


def denied(
    reading: Reading, host: HostId, asking: AskingBoot | None, address: str, now: datetime
) -> KeybrokerError | None:
    """Say why a boot gets no certificate (BOOT_DENIED): an approver has said no to it; None where it does.

    Whoever waits, is contested or does not say which boot it is may renew: it takes nothing from anyone, and
    a certificate that ends meanwhile would lock the right machine out.
    """
    if asking is None:
        return None
    sight = Sight(asking.boot_id, asking.machine_id, address)
    if not boots.is_denied(host, reading.boots(host), sight, now):
        return None
    return KeybrokerError(Problem.BOOT_DENIED, f"boot {asking.boot_id}: {SAID['denied']}")
