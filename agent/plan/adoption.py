"""Of a volume that somebody else formatted, the one next step until the broker's key opens it. Pure.

| record | keyslots opened by | step |
|---|---|---|
| foreign | – | **Ask**: the key comes with what is on the disk |
| foreign | the passphrase that was given | **Fill** |
| foreign | our key; our token does not say so | **Tag** |
| foreign | our key | Ask, then **Adopt**: the volume is ready |
| ready, and the others are to go | our key; tokens of others | Ask, then **Detach** |
| ready, and the others are to go | our key; keyslots of others | Ask, then **Evict** |
| ready, and the others are gone | our key | **Backup** |

Until Adopt nothing that was there is changed: whoever opened the volume before opens it after, and after a
cut anywhere the same command goes on. A keyslot of others is killed only while a key that was fetched after
the header's last change opens one that our token names.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.plan.keyslots import GIVEN, Keyslot, Keyslots
from agent.plan.provision import at_its_place, no_key
from agent.plan.steps import Adopt, Adoption, Ask, Backup, Detach, Evict, Fill, Tag
from agent.plan.survey import Survey
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record, SeenHeader


def next_step(survey: Survey) -> Adoption | None:
    """Name the step that brings the volume closer to being adopted; None when it is.

    Raises:
        KeybrokerError: what the broker refused it for; CONFLICT where it is none to adopt; NO_DEVICE,
            WRONG_DEVICE; HEADER_REFUSED; LOCKED_OUT where the given passphrase opens nothing;
            FOREIGN_KEYSLOTS where there is no room for our key.
    """
    record = survey.record
    if record.stage == "ready" and record.role == "holder":
        return None
    if record.stage != "foreign":
        raise KeybrokerError(
            Problem.CONFLICT,
            f"{record.name}: is {record.stage} at the broker, so there is nothing to adopt",
            hint="it is declared there: keybroker volume adopt --help",
        )
    current = _look(survey)
    if current not in survey.grant.keys:
        return _ask(survey, "the broker has not been asked for the volume's key")
    if survey.keyslots is None:
        raise KeybrokerError(Problem.INTERNAL, f"{record.name}: nobody looked at its keyslots")
    return _take_in(survey, survey.keyslots, current)


def next_removal(survey: Survey, tokens: Mapping[int, str]) -> Adoption | None:
    """Name the step that takes a keyslot or token of others out of an adopted volume; None when none is left.

    Args:
        tokens: those of other tools in the header, number and type.

    Raises:
        KeybrokerError: as ``next_step``; LOCKED_OUT where our key opens nothing.
    """
    record = survey.record
    if record.stage != "ready" or record.role != "holder":
        raise KeybrokerError(
            Problem.CONFLICT, f"{record.name}: is {record.stage}, so nothing is taken out of it"
        )
    current = _look(survey)
    if current not in survey.grant.keys:
        return _ask(survey, "the broker has not been asked for the volume's key")
    keyslots = survey.keyslots
    if keyslots is None or not any(each.tagged == current for each in keyslots.opened_by(current)):
        raise KeybrokerError(
            Problem.LOCKED_OUT,
            f"{record.name}: key version {current} opens no keyslot that our token names",
        )
    others = strangers(keyslots)
    if (tokens or others) and not survey.fresh:
        return _ask(survey, "others are taken out only by a key that was fetched anew")
    if tokens:
        number = min(tokens)
        return Detach(number, f"token {number} ({tokens[number]}) is to go, and our key opens the volume")
    if others:
        number = others[0].number
        return Evict(number, current, f"keyslot {number} is to go, and our key opens another one")
    if not survey.is_backed_up:
        return Backup("the header has changed since the broker was left a copy of it")
    return None


def strangers(keyslots: Keyslots) -> tuple[Keyslot, ...]:
    """Return the keyslots of others; the given passphrase's is one of them."""
    return tuple(each for each in keyslots.all if each.tagged is None and each.opened_by in (None, GIVEN))


def _look(survey: Survey) -> KeyVersion:
    """Refuse what is not the declared header on the record's own disk; return the version of our key."""
    record = survey.record
    if survey.grant.refused is not None:
        raise survey.grant.refused.as_error()
    seen = at_its_place(record, survey.seen)
    if seen.header is None:
        raise KeybrokerError(
            Problem.HEADER_REFUSED,
            f"{record.name}: no LUKS2 header can be read: {seen.detail or seen.sight}",
            hint="if a conversion was cut: cryptsetup luksHeaderRestore, from the file that was named for it",
        )
    _check_header(record, seen.header)
    if record.current is None:
        raise KeybrokerError(Problem.CORRUPT, f"{record.name}: the record has no current key version")
    return record.current


def _check_header(record: Record, header: SeenHeader) -> None:
    if header.pin.uuid != record.luks_uuid:
        raise KeybrokerError(
            Problem.HEADER_REFUSED,
            f"{record.name}: the header's UUID is {header.pin.uuid}, declared is {record.luks_uuid}",
        )
    if header.requirements:
        raise KeybrokerError(
            Problem.HEADER_REFUSED,
            f"{record.name}: the header requires {', '.join(header.requirements)}",
            hint="let what is in progress end first: cryptsetup reencrypt --resume-only",
        )


def _take_in(survey: Survey, keyslots: Keyslots, current: KeyVersion) -> Adoption:
    record = survey.record
    if not keyslots.opened_by(current):
        if not keyslots.opened_by(GIVEN):
            raise KeybrokerError(
                Problem.LOCKED_OUT,
                f"{record.name}: the passphrase that was given opens no keyslot; nothing was changed",
                hint='a newline at its end counts: printf %s "$PASSPHRASE" | keybroker-agent adopt …',
            )
        if len(keyslots.all) >= keyslots.most:
            raise KeybrokerError(
                Problem.FOREIGN_KEYSLOTS,
                f"{record.name}: all {keyslots.most} keyslots that it may have are filled",
                hint="take one out that nobody needs: cryptsetup luksKillSlot",
            )
        return Fill(
            current, GIVEN, "the given passphrase opens the volume, and the broker's key does not yet"
        )
    if not keyslots.is_tagged():
        return Tag("our token does not say which keyslot has the broker's key")
    if survey.seen.header is not None and survey.seen.header.degraded:
        return Tag("one of the header's two copies is damaged, and any write makes both of them anew")
    if not survey.fresh:
        return _ask(survey, "a volume is adopted only by a key that was fetched anew and opened it")
    return Adopt(f"key version {current}, fetched anew, opens the header on the disk")


def _ask(survey: Survey, reason: str) -> Ask:
    if survey.fresh:  # it has been asked, and told all there is to tell
        raise no_key(survey.record)
    return Ask(reason)
