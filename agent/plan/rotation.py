"""A new passphrase for a volume in use, and the header kept safe at the broker. Pure.

| record | keyslots opened by | step |
|---|---|---|
| wanted > current | current | **Stage** |
| staged | current | **Fill** |
| staged | current, staged; our token says otherwise | **Tag** |
| staged | current, staged | Ask, then **Backup**, then **Promote** |
| retiring | current, retiring | **Clear** |
| retiring | current | **Backup**, then **Retire** |
| at rest | current, and debris of a cut kill | Ask, then **Clear** |
| at rest | current; the broker's copy is of another header | **Backup** |
| any | current; the header is older than the broker's copy | **Backup**, before any change |
| any | the key that the recovery ciphertext holds; our token carries another | **Enclose**, before a Clear |

After each of them, and in the middle of each, some keyslot is opened by a key that the broker still hands
out: no key is promoted before it was seen to open the header, and no keyslot is cleared before another one
was seen to be opened, both with keys that were fetched after the header's last change.

What stops everything, with nothing touched: ``current`` that opens nothing (LOCKED_OUT), and a token that
names a version which the broker has never had (CONFLICT: the broker was set back to an older backup).
Keyslots that are not ours are never touched; where they leave no room, nothing is minted (FOREIGN_KEYSLOTS).

Backup stands behind Fill, Tag and Clear, so that a rotation leaves two copies at the broker and not four.
"""

from __future__ import annotations

from agent.plan import recovery
from agent.plan.keyslots import Keyslot, Keyslots, numbers
from agent.plan.provision import at_its_place, check_pinned, no_header, no_key
from agent.plan.steps import Ask, Backup, Clear, Enclose, Fill, Promote, Retire, Stage, Tag
from agent.plan.survey import Survey
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import Pin
from keybroker.wire.records import Record, SeenHeader

Rotating = Ask | Stage | Fill | Tag | Enclose | Backup | Promote | Clear | Retire


def next_step(survey: Survey) -> Rotating | None:
    """Name the step that brings the keys closer to what is wanted; None when they are there.

    Raises:
        KeybrokerError: going on could cost data. What the broker refused the keys for; NO_DEVICE,
            WRONG_DEVICE, HEADER_REFUSED, LOCKED_OUT, FOREIGN_KEYSLOTS; CONFLICT where the broker is behind.

    Source: DESIGN section 4, "The rotation machine".
    """
    record = survey.record
    if record.is_swap or record.stage != "ready" or record.role != "holder":
        return None
    _pin, header = pinned_header(survey)
    current = record.current
    if current is None:
        raise KeybrokerError(Problem.CORRUPT, f"{record.name}: the record has no current key version")
    if any(version not in survey.grant.keys for version in live(record)):
        return _ask(survey, "the broker has not been asked for the volume's keys")
    if survey.keyslots is None:
        raise KeybrokerError(Problem.INTERNAL, f"{record.name}: nobody looked at its keyslots")
    _check_ahead(record, survey.keyslots)
    _check_opened(record, survey.keyslots, current)
    if _is_set_back(survey):
        # First of all: one change more, and its sequence could be the newest copy's, of another header.
        return Backup("the header is older than the broker's newest copy, and the current key opens it")
    return (
        recovery.next_step(record, header, survey.keyslots)
        or _clean(survey, survey.keyslots, current)
        or _rotate(survey, survey.keyslots, current)
    )


def live(record: Record) -> frozenset[KeyVersion]:
    """Return the versions that the broker hands out: those that may open the header now."""
    named = (record.current, record.staged, record.retiring)
    return frozenset(version for version in named if version is not None)


def is_at_rest(record: Record) -> bool:
    """Say whether the record by itself asks for no change of keys."""
    return record.current == record.wanted and record.staged is None and record.retiring is None


def pinned_header(survey: Survey) -> tuple[Pin, SeenHeader]:
    """Return the pin, and the header on the record's own disk that it holds for.

    Raises:
        KeybrokerError: what the broker refused the keys for; WRONG_DEVICE, NO_DEVICE, HEADER_REFUSED; CORRUPT
            where the record has no pin.
    """
    record = survey.record
    if survey.grant.refused is not None:
        raise survey.grant.refused.as_error()
    survey.mapping.check(record.name)
    seen = at_its_place(record, survey.seen)
    if seen.header is None:
        raise no_header(record, seen)
    if record.pin is None:
        raise KeybrokerError(Problem.CORRUPT, f"{record.name}: the broker's record has no pin")
    check_pinned(record, record.pin, seen.header)
    return record.pin, seen.header


def _is_set_back(survey: Survey) -> bool:
    """Say whether the disk is an older snapshot, of a time since when ``current`` has been current."""
    header, known = survey.seen.header, survey.record.sequence
    return header is not None and known is not None and header.sequence < known and not header.degraded


def _check_ahead(record: Record, keyslots: Keyslots) -> None:
    # Not ``wanted``: it was never minted here, and a header that names it is of another history.
    known = max((*live(record), record.newest or 0))
    ahead = [each for each in keyslots.all if each.tagged is not None and each.tagged > known]
    if ahead:
        raise KeybrokerError(
            Problem.CONFLICT,
            f"{record.name}: keyslot {numbers(ahead)} was filled with key version {ahead[0].tagged}, and the "
            f"newest that the broker knows of is {known}; nothing was changed",
            hint="the broker's database was restored from an older backup: restore a newer one",
        )


def _check_opened(record: Record, keyslots: Keyslots, current: KeyVersion) -> None:
    if keyslots.opened_by(current):
        return
    said = f"{record.name}: key version {current}, the current one, opens no keyslot; nothing was changed"
    others = {each.opened_by for each in keyslots.all if each.bound and each.opened_by is not None}
    named = {each.tagged for each in keyslots.all if each.tagged is not None}
    if others:
        older = "the disk is an older snapshot" if max(others) < current else "the broker was set back"
        said += f"; version {', '.join(map(str, sorted(others)))} does: {older}"
    elif named and max(named) < current:
        said += f"; they were filled with version {max(named)}: the disk is an older snapshot"
    raise KeybrokerError(Problem.LOCKED_OUT, said, hint=f"keybroker volume show {record.addon}/{record.name}")


def _clean(survey: Survey, keyslots: Keyslots, current: KeyVersion) -> Ask | Clear | None:
    """Clear what opens nothing that anybody still has a key for."""
    record = survey.record
    versions = {each: each.opened_by or each.tagged for each in keyslots.all}
    given_up = [each for each, version in versions.items() if version not in (None, *live(record))]
    if keyslots.debris:
        reason = "our token names it and its own key does not open it: a kill was cut"
        return _clear(survey, keyslots.debris[0], current, reason)
    if given_up:
        reason = f"it was filled with version {versions[given_up[0]]}, which is retired or was given up"
        return _clear(survey, given_up[0], current, reason)
    return None


def _rotate(survey: Survey, keyslots: Keyslots, current: KeyVersion) -> Rotating | None:
    record, staged, retiring = survey.record, survey.record.staged, survey.record.retiring
    if staged is None and retiring is None and record.wanted not in (None, current):
        _check_room(record, keyslots)
        return Stage(f"version {record.wanted} is wanted, and version {current} opens the header")
    if staged is not None and not keyslots.opened_by(staged):
        _check_room(record, keyslots)
        return Fill(staged, current, f"version {staged} is staged and opens no keyslot yet")
    if not keyslots.is_tagged():
        return Tag("our token does not say which keyslots have which of our keys")
    if survey.seen.header is not None and survey.seen.header.degraded:
        return Tag("one of the header's two copies is damaged, and any write makes both of them anew")
    leftover = keyslots.opened_by(retiring)
    if leftover:
        reason = f"version {retiring} is retiring, and version {current} opens another keyslot"
        return _clear(survey, leftover[0], current, reason)
    if staged is not None and not survey.fresh:
        return _ask(survey, "a key is promoted only after it was fetched anew and opened the header")
    if not survey.is_backed_up:
        return Backup("the header has changed since the broker was left a copy of it")
    if staged is not None:
        return Promote(staged, f"version {staged}, fetched anew, opens the header on the disk")
    if retiring is not None:
        return Retire(retiring, f"version {retiring} opens no keyslot any more")
    return None


def _clear(survey: Survey, keyslot: Keyslot, by: KeyVersion, reason: str) -> Ask | Clear:
    if not survey.fresh:
        return _ask(survey, "a keyslot is cleared only by a key that was fetched anew")
    return Clear(keyslot.number, by, reason)


def _ask(survey: Survey, reason: str) -> Ask:
    if survey.fresh:  # it has been asked, and told all there is to tell
        raise no_key(survey.record)
    return Ask(reason)


def _check_room(record: Record, keyslots: Keyslots) -> None:
    if len(keyslots.all) < keyslots.most:
        return
    theirs = numbers(keyslots.foreign)
    raise KeybrokerError(
        Problem.FOREIGN_KEYSLOTS,
        f"{record.name}: there is no room for another key: of {keyslots.most} keyslots"
        + (f" {theirs} are somebody else's" if theirs else " none is free"),
        hint="cryptsetup luksKillSlot takes one out; or let the volume's profile allow more",
    )
