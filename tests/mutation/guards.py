"""The guards that keep the data, each with a way to break it; ``breaking`` shows that a test fails then.

Each names its file, a text that occurs in it exactly once, what is written in its place, and the tests that
have to fail then. Who adds a guard to a planner or to the broker's models adds it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard, and how it is broken.

    Attributes:
        text: of the guard; in its file exactly once.
        broken: what stands there instead.
        tests: files; one of their tests must fail.
    """

    file: str
    text: str
    broken: str
    tests: tuple[str, ...]


ROTATION: Final = ("tests/unit/test_plan_rotation_rows.py",)
RECOVERY: Final = ("tests/unit/test_plan_recovery.py",)
SETBACK: Final = ("tests/unit/test_broker_setback.py",)
REENCRYPTION: Final = ("tests/unit/test_plan_reencryption.py", "tests/crash/test_crash_reencryption.py")
PROVISION: Final = ("tests/unit/test_plan_provision.py",)
MIGRATION: Final = ("tests/unit/test_plan_migration.py",)
SHARES: Final = ("tests/unit/test_broker_shares.py",)
TOKEN: Final = ("tests/contract/test_broker_token.py", "tests/contract/test_broker_masterkey.py")
KEYRING: Final = ("tests/unit/test_broker_keyring.py", "tests/unit/test_broker_transitions.py")
MODEL: Final = (
    "tests/unit/test_broker_transitions.py",
    "tests/unit/test_broker_orders.py",
    "tests/unit/test_broker_rotation.py",
)
DELETION: Final = ("tests/unit/test_broker_deletion.py", "tests/unit/test_broker_destruction.py")
POLICY: Final = ("tests/unit/test_broker_policy.py", "tests/unit/test_broker_policy_changes.py")
BOOTS: Final = ("tests/unit/test_broker_boots.py",)
TERMS: Final = ("tests/unit/test_broker_terms.py",)
OUTSIDE: Final = ("tests/unit/test_broker_outside_ca.py",)
ROSTER: Final = ("tests/unit/test_broker_roster.py",)
HEADERS: Final = ("tests/crash/test_crash_header_contracts.py",)
ACCEPTANCE: Final = ("tests/header/test_acceptance.py", "tests/header/test_named_forgeries.py")
MIDWAY: Final = ("tests/header/test_header_midway.py",)
INPLACE: Final = ("tests/header/test_header_inplace.py",)
COMPLETION: Final = ("tests/header/test_header_completion.py",)
HOTZONE: Final = ("tests/header/test_header_hotzone.py",)
ENCRYPTION: Final = ("tests/unit/test_plan_encryption.py",)
RELAPSE: Final = ("tests/unit/test_plan_relapse.py",)
RESTORATION: Final = ("tests/crash/test_crash_restoration.py",)
SHELF: Final = ("tests/crash/test_crash_shelf.py",)
ADOPTION: Final = ("tests/unit/test_plan_adoption.py",)
VOLUME: Final = ("tests/unit/test_broker_volume.py", "tests/unit/test_broker_policy_changes.py")
SETTLING: Final = ("tests/unit/test_plan_settling.py", "tests/crash/test_crash_reencryption.py")
PACE: Final = ("tests/unit/test_plan_pace.py",)


def _guards(file: str, tests: tuple[str, ...], *breaks: tuple[str, str]) -> tuple[Guard, ...]:
    return tuple(Guard(file, text, broken, tests) for text, broken in breaks)


GUARDS: Final[tuple[Guard, ...]] = (
    *_guards(
        "agent/plan/relapse.py",
        RELAPSE,
        ("_AGES[record.role] < _AGES", "_AGES[record.role] > _AGES"),
        (" | {record.name for record in replaced(known, said)}", ""),
        ('known.role == "holder" and known.stage not in _UNFINISHED', "known.stage not in _UNFINISHED"),
        (" and known.stage not in _UNFINISHED and not known.is_swap", " and not known.is_swap"),
        (" and not known.is_swap\n", "\n"),
        ('return has_data and said.role == "former" and', "return has_data and"),
        (" and said.stage in _UNFINISHED\n", "\n"),
        (' and record.stage != "erased"}', "}"),
        ("        and record.stage not in _EMPTY\n", ""),
        ("        and not record.is_swap\n", ""),
        ("        and record.volume not in here\n", ""),
        ("        and record.name in taken\n", ""),
        ("for record in said if record.name not in fallen", "for record in said"),
    ),
    *_guards(
        "keybroker/terms.py",
        TERMS,
        ("    if not _within(terms.allow, address, denied=denied):", "    if False:"),
        ("    if not terms.enabled and verb not in EVEN_DISABLED:", "    if False:"),
        ("        return not denied\n", "        return True\n"),
        ("    except ValueError:\n        return False\n", "    except ValueError:\n        return True\n"),
        ("network.version == address.version and address in network", "True"),
        ("    added = max(0.0, now - before.at) * rate / 60", "    added = abs(now - before.at) * rate / 60"),
        ("    tokens = min(float(rate), before.tokens + added)", "    tokens = before.tokens + added"),
    ),
    *_guards(
        "keybroker/model/boots.py",
        BOOTS,
        ('    if own.state == "denied":', "    if False:"),
        ('    if own.state == "contested":', "    if False:"),
        ("        if any(boot.live(now) for boot in chosen):", "        if False:"),
        ("        return abs(now - self.last) < LIVE", "        return now - self.last < LIVE"),
        ('        if self.state == "contested" and', "        if False and"),
        ("        return here  # yes at one", "        pass  # yes at one"),
        ("    if denied and not vouched:", "    if False:"),
        (" and all(boot.address != sight.address for boot in denied)", ""),
        ("    vouched = any(boot.vouched for boot in here)", "    vouched = bool(here)"),
        ("        elif _named_alike(other, boot) or", "        elif False or"),
        (' and other.state != "contested"):', "):"),
        ("        if any(boot.live(now) for boot in twins):", "        if False:"),
        ('        if boot.state == "denied" or _family', "        if _family"),
        ("        if asks and rules.approval:\n", "        if False:\n"),
        ("    if asks and rules.approval:\n        return", "    if False:\n        return"),
        ("    if unsettled is not None:", "    if False:"),
        ("    if rival is not None:", "    if False:"),
        ("if boot.machine_id == sight.machine_id and boot", "if boot"),
        (" and boot.address == sight.address\n", "\n"),
        ("    if rules.hosts and rules.others >= rules.hosts:", "    if False:"),
        ('        elif other.state == "contested" or other.live(now):', "        elif False:"),
        ('frozenset({"replaced", "waiting", "refused"})', 'frozenset({"replaced", "denied", "waiting"})'),
    ),
    *_guards(
        "agent/plan/rotation.py",
        ROTATION,
        ('or record.stage != "ready" or', "or"),
        (' or record.role != "holder":', ":"),
        ("    if survey.grant.refused is not None:", "    if False:"),
        ("    survey.mapping.check(record.name)\n", ""),
        ("    check_pinned(record, record.pin, seen.header)\n", ""),
        ("seen = at_its_place(record, survey.seen)", "seen = survey.seen"),
        ("    _check_ahead(record, survey.keyslots)\n", ""),
        (
            "max((*live(record), record.newest or 0))",
            "max((*live(record), record.newest or 0, record.wanted or 0))",
        ),
        ("    _check_opened(record, survey.keyslots, current)\n", ""),
        ("    if _is_set_back(survey):", "    if False:"),
        ("version not in (None, *live(record))]", "version not in (*live(record),)]"),
        ("version not in (None, *live(record))]", "version != record.current and version is not None]"),
        ("    if given_up:", "    if False:"),
        ("    if keyslots.debris:", "    if False:"),
        ("    if staged is None and retiring is None and", "    if staged is None and"),
        ("        _check_room(record, keyslots)\n        return Stage", "        return Stage"),
        ("        _check_room(record, keyslots)\n        return Fill", "        return Fill"),
        ("    if not keyslots.is_tagged():", "    if False:"),
        ("survey.seen.header.degraded:\n", "False:\n"),
        ("    if staged is not None and not survey.fresh:", "    if False:"),
        ("    if not survey.is_backed_up:", "    if False:"),
        ("    if leftover:", "    if False:"),
        (
            '    if not survey.fresh:\n        return _ask(survey, "a keyslot is',
            '    if False:\n        return _ask(survey, "a keyslot is',
        ),
        ("    if survey.fresh:  # it has been asked", "    if False:  # it has been asked"),
        ("any(version not in survey.grant.keys for version in live(record))", "not survey.grant.keys"),
    ),
    *_guards(
        "agent/plan/rotation.py",
        RECOVERY,
        ("        recovery.next_step(record, header, survey.keyslots)\n        or _clean", "        _clean"),
    ),
    *_guards(
        "agent/plan/recovery.py",
        RECOVERY,
        (" or is_enclosed(record, header):", ":"),
        ("wanted(record, keyslots) is None or", ""),
        ("    if not keyslots.is_tagged():", "    if False:"),
        ("recovery is not None and keyslots.opened_by(recovery.version)", "recovery is not None"),
        ("record.recovery is None or record.recovery.digest == header.recovery", "True"),
    ),
    *_guards(
        "agent/plan/keyslots.py",
        ROTATION,
        (
            "each for each in self.all if each.bound and version is not None",
            "each for each in self.all if version is not None",
        ),
        ("each.opened_by is None and each.tagged in self.tried", "each.opened_by is None"),
    ),
    *_guards(
        "agent/plan/provision.py",
        PROVISION,
        ("    if grant.refused is not None:", "    if False:"),
        ("    here.mapping.check(record.name)\n", ""),
        ("    if here.told != seen:", "    if False:"),
        ('return Claim(_blank(record, seen), "the volume', 'return Claim(seen.device, "the volume'),
        (
            "            _blank(record, seen)\n            if record.current is None",
            "            if record.current is None",
        ),
        ("    check_pinned(record, record.pin, seen.header)\n", ""),
        (
            "    if header.requirements and (begun is None or header.requirements",
            "    if False and (header.requirements",
        ),
        ("        is_other = not keys <= known or len(keys) != 1\n", "        is_other = False\n"),
        ("is_other = pin.digest not in keys or len(keys) != 2 or (", "is_other = False and ("),
        ("    if content.unfinished:", "    if True:"),
        ('    if content.kind == "" and content.untouched:', '    if content.kind == "":'),
        ("    if seen.device.serial != meant.serial:", "    if False:"),
        ("    if seen.device.size_bytes < meant.size_bytes:", "    if False:"),
        ("return header.degraded and header.pin == record.pin", "return header.degraded"),
        ('names = ("uuid", "data_offset", "sector_size")', 'names = ("sector_size",)'),
        ("    if not grant.keys:", "    if False:"),
        ("    if record.complete_from is not None and", "    if False and"),
    ),
    *_guards(
        "agent/plan/reencryption.py",
        REENCRYPTION,
        (
            "    pin, header = pinned_header(survey)\n",
            "    pin, header = survey.record.pin, survey.seen.header\n",
        ),
        ("    if not survey.keyslots.opened_by(current):", "    if False:"),
        (
            "    if order.digest is not None:\n        raise KeybrokerError(\n            Problem.CONFLICT",
            "    if False:\n        raise KeybrokerError(\n            Problem.CONFLICT",
        ),
        ("    if unbound:", "    if False:"),
        ("    if keyslots.foreign and not order.drop_foreign:", "    if False:"),
        ("    if keyslots.foreign:\n", "    if False:\n"),
        ('    if survey.mapping.reach == "closed":', "    if False:"),
        ("    if not keyslots.is_tagged():", "    if False:"),
        ("    if not survey.is_backed_up or pin.digest != order.digest:", "    if False:"),
    ),
    *_guards(
        "agent/plan/migration.py",
        MIGRATION,
        ("    _check_pair(holder.record, partner.record, stable)\n", ""),
        ("    if stable.legs == (partner.volume,):", "    if False:"),
        ("    if not seen.asked:", "    if False:"),
        ('    if record.role != "holder" or partner.role == "holder" or not belong', "    if not belong"),
        (
            "if is_mirrored and (trouble := stable.failure or seen.differs):",
            "if is_mirrored and (trouble := seen.differs):",
        ),
        ("    if seen.differs:", "    if False:"),
        ("    if seen.failed:", "    if False:"),
        ("    if device.serial == source:", "    if False:"),
        ("    if not stable.in_sync:", "    if False:"),
        ("    if seen.compared is None:", "    if False:"),
        ("    if seen.raised is None:", "    if False:"),
        ("    if header.sequence != seen.raised:", "    if False:"),
        ("    if record.sequence == seen.raised:", "    if True:"),
        ('    if target.stage == "deposited":', "    if False:"),
        ("        if stable.used_by:", "        if False:"),
        ("    if not seen.copied:", "    if False:"),
        (
            "    if len(stable.legs) == 2:\n        return Turn(record.volume, Drop(f",
            "    if False:\n        return Turn(record.volume, Drop(f",
        ),
        ('    if holder.here.mapping.reach == "closed" and left.stage', "    if False and left.stage"),
        ("    if device.size_bytes < needs + provision.HEADER_BYTES:", "    if False:"),
    ),
    *_guards(
        "agent/plan/erasure.py",
        MIGRATION,
        ("    if not is_wanted(record):", "    if False:"),
        ("        if stable.used_by:", "        if False:"),
        ('        if record.role == "former":', "        if False:"),
        ("    here.mapping.check(record.name)\n", ""),
        ('    if here.mapping.reach != "closed":', "    if False:"),
        ("    if device.serial != meant.serial:", "    if False:"),
        ("    if wiped is None:", "    if False:"),
        ("    if record.stage in NOTHING_WRITTEN:", "    if False:"),
    ),
    *_guards(
        "keybroker/model/keyring.py",
        KEYRING,
        ("        if self.retiring is not None:", "        if False:"),
        ("        if version != self.retiring:", "        if False:"),
        ("if old.destroy_after is None or now < old.destroy_after:", "if old.destroy_after is None:"),
        (
            "if old.destroy_after is None or now < old.destroy_after:",
            "if old.destroy_after is not None and now < old.destroy_after:",
        ),
        ("return max((*self.kept, *self.destroyed))", "return max(self.kept)"),
        ("        if self.current is None or version <= self.newest:", "        if False:"),
        (
            "        if self.wanted == self.current:\n            raise _conflict",
            "        if False:\n            raise _conflict",
        ),
    ),
    *_guards(
        "keybroker/model/setback.py",
        SETBACK,
        ("    if named is not None and named > newest:", "    if False:"),
        ("    if revision is not None and revision > volume.revision:", "    if False:"),
        ("    if volume is None:", "    if False:"),
        ("    if why_ahead is not None and accepted is None:", "    if False:"),
        ("    if reported is None or reported <= since:", "    if False:"),
        ("(accepted is not None and accepted >= since)", "accepted is not None"),
    ),
    *_guards(
        "keybroker/service/endings.py",
        SETBACK,
        (" or setback.held(writing, [row]):", ":"),
    ),
    *_guards(
        "keybroker/model/rotation.py",
        MODEL,
        ("    if copied != keys.current:", "    if False:"),
        ("    if volume.begun is not None:", "    if False:"),
        ("    if pin.digest == volume.pin.digest or (", "    if True or ("),
        ("    if (pin.data_offset, pin.sector_size) != (", "    if False and () != ("),
        (
            "    volume.expect(revision)\n    return replace(volume, keyring=keys.stage()",
            "    return replace(volume, keyring=keys.stage()",
        ),
        (
            "    volume.expect(revision)\n    return replace(volume, keyring=keys.promote(",
            "    return replace(volume, keyring=keys.promote(",
        ),
        (" or _unannounced(volume, header.pin)", ""),
        (" or volume.incomplete(header) or", " or"),
    ),
    *_guards(
        "keybroker/model/moving.py",
        MODEL,
        ("    successor.expect(revision)\n", ""),
        ("    holder.expect(holder_revision)\n", ""),
        ("    if compared < data:", "    if False:"),
        ("    if sequence != successor.sequence:", "    if False:"),
        ("complete_from=sequence, ", ""),
        ('    if successor.stage != "ready" or holder', "    if holder"),
        ("revision=holder.revision + 1) if is_moving else holder", "revision=holder.revision)"),
        ("    if holder.rotating:", "    if False:"),
        ("    if holder.order is None or holder.order.kind != ", "    if holder.order is None and () != "),
        (
            '    if volume.role != "former" and (volume.order is None or',
            "    if False and (volume.order is None or",
        ),
        ("wiped < volume.pin.data_offset:", "False:"),
        (
            "    if wrong is not None:\n        raise KeybrokerError(Problem.WRONG_DEVICE",
            "    if False:\n        raise KeybrokerError(Problem.WRONG_DEVICE",
        ),
    ),
    *_guards(
        "keybroker/model/orders.py",
        MODEL,
        (
            '    if order.phase == "begun" and (order.kind != "encrypt" or order.digest is not None):',
            "    if False:",
        ),
        (
            'if order.phase == "begun" and (order.kind != "encrypt" or order.digest is not None):',
            'if order.phase == "begun" and order.kind != "encrypt":',
        ),
        ("    if not wish.backed_up:", "    if False:"),
        ('    if volume.filesystem == "none":', "    if False:"),
        ('    if order.kind == "encrypt" and digest is not None:', "    if False:"),
        ("    if order.digest is not None:\n        raise conflict", "    if False:\n        raise conflict"),
        ("    volume.expect(revision)\n    wrong = volume.misfit", "    wrong = volume.misfit"),
        ("    if len(header.requirements) != 1 or not ", "    if False and not "),
        (
            "    if wrong is not None:\n        raise KeybrokerError(Problem.HEADER_REFUSED",
            "    if False:\n        raise KeybrokerError(Problem.HEADER_REFUSED",
        ),
        ("        if volume.pin.digest != order.digest:", "        if False:"),
        ('    if wish.kind == "encrypt":', "    if False:"),
    ),
    *_guards(
        "keybroker/rights.py",
        POLICY,
        (" - frozenset(own) - _GIVEN_FREELY", " - _GIVEN_FREELY"),
        ("frozenset(touched) - frozenset(own)", "frozenset(own) - frozenset(touched)"),
    ),
    *_guards(
        "keybroker/service/roster.py",
        ROSTER,
        ("        _check_within(caller, name, wanted)\n", ""),
        ("wanted ^ row.roles)", "frozenset())"),
        ("wanted ^ row.roles)", "wanted - row.roles)"),
        ("        _check_within(caller, name, row.roles)\n", ""),
        ("        if MANAGES not in wanted:", "        if False:"),
        (
            "            _check_not_last(writing, name, caller.now)\n            writing.revoke",
            "            writing.revoke",
        ),
        ("        writing.replace_certificates(name, caller.now)\n", ""),
        (" and row.expires > now", ""),
        (
            "    if row.revoked is not None:\n        raise KeybrokerError(\n            Problem.CONFLICT",
            "    if False:\n        raise KeybrokerError(\n            Problem.CONFLICT",
        ),
    ),
    *_guards(
        "keybroker/outside.py",
        OUTSIDE,
        (" or spki_digest(key) != wanted.spki", ""),
        ("    if not is_from(certificate, ca):", "    if False:"),
        ("    if not certificate.not_valid_before_utc <= now + BACKDATED:", "    if False:"),
        ("    if certificate.not_valid_after_utc <= now:", "    if False:"),
        ("    if certificate.not_valid_after_utc > ca.not_valid_after_utc:", "    if False:"),
        ("set(names) != set(wanted.sans())", "not set(names) >= set(wanted.sans())"),
        ("list(purposes) != [wanted.usage]", "wanted.usage not in purposes"),
        ("        each.value != wanted.common_name[:64]", "        False"),
        ("(basic is not None and basic.ca) or ", ""),
        ("    if subject not in ([], [(NameOID.COMMON_NAME, wanted.common_name[:64])]):", "    if False:"),
        ('        raise _too_much("extension", wanted)', "        continue"),
    ),
    *_guards(
        "keybroker/service/enrolment.py",
        OUTSIDE,
        ("spent = waiting or issued", "spent = issued"),
    ),
    *_guards(
        "keybroker/service/courier.py",
        OUTSIDE,
        ("        _check_welcome(writing, row, whose)\n", ""),
        ("        if writing.certificate(leaf.fingerprint) is not None:", "        if False:"),
    ),
    *_guards(
        "keybroker/model/deletion.py",
        DELETION,
        ("max(wanted, now + policy)", "wanted"),
        ("        return made if wanted >= made.due else replace(", "        return replace("),
        ("    if pending.sooner is not None and pending.sooner <= wanted:", "    if False:"),
        ("    if pending.sooner is None or pending.sooner != due:", "    if pending.sooner is None:"),
        ("    if by == pending.sooner_by:", "    if False:"),
        ("    if now < pending.due:", "    if False:"),
        ("approved is not None and pending.due < approved + LAST_CALL:", "approved is not None:"),
        ("told is not None and told >= pending.due - LAST_CALL and", "told is not None and"),
        (" and now >= told + LAST_CALL", ""),
        ("moment is None or moment > now or", "moment is None or"),
        (" or (since is not None and moment <= since):", ":"),
        ("told is None or told < moment else None", "told is None or told < moment else days"),
        ("now if other is None else min(other.at, now)", "now"),
        ("    return max(until - ended.at, timedelta(0))", "    return timedelta(0)"),
    ),
    *_guards(
        "keybroker/model/moving.py",
        ("tests/unit/test_broker_deletions.py", "tests/unit/test_broker_destruction.py"),
        ("    if volume.deletion == deletion:\n        return volume\n", ""),
        ('role="former" if volume.role == "successor" else volume.role', "role=volume.role"),
    ),
    *_guards(
        "keybroker/model/keyring.py",
        DELETION,
        (
            '        if self.current is not None:\n            raise _conflict("keyring: only',
            '        if False:\n            raise _conflict("keyring: only',
        ),
    ),
    *_guards(
        "keybroker/policy.py",
        ("tests/unit/test_broker_deletions.py",),
        ("    if volume.deletion is not None and not volume.is_swap:", "    if False:"),
    ),
    *_guards(
        "keybroker/policy.py",
        POLICY,
        (
            "    if wrong is not None:\n        return Refusal(Problem.WRONG_DEVICE",
            "    if False:\n        return Refusal(Problem.WRONG_DEVICE",
        ),
        ('    if volume.role == "former":', "    if False:"),
        ('    if volume.stage == "erased":', "    if False:"),
        ("    if volume.block_older:", "    if False:"),
        (
            "    differs = _differs(volume.pin, seen.header.pin) or",
            "    differs = None or",
        ),
        (
            "    differs = _differs(volume.pin, seen.header.pin) or volume.incomplete(seen.header)",
            "    differs = _differs(volume.pin, seen.header.pin)",
        ),
        (" or volume.incomplete(header)\n", "\n"),
        ("header.sequence >= volume.sequence:", "True:"),
        ("    if (strangers and not open_end) or", "    if False or"),
        ("    if misplaced is not None:", "    if False:"),
        ("    if header.others:", "    if False:"),
        ("    if standing.revoked is not None:", "    if False:"),
        ("not wanted.isdisjoint(standing.roles)", "True"),
        ('"host" in wanted', "True"),
        ('        if seen.sight != "blank":', "        if False:"),
    ),
    *_guards(
        "agent/change/headers.py",
        HEADERS,
        ("for n in before.bound() if n != keyslot and before.may_hold(n, by)]", "for n in before.bound()]"),
        ("                if not ours and _opener(", "                if False and _opener("),
        ("            if opened is None:\n", "            if False:\n"),
    ),
    *_guards(
        "agent/luks/acceptance.py",
        ACCEPTANCE,
        ('    must(not header.requirements, "config.requirements"', '    must(True, "config.requirements"'),
        ('    equal("number of digests", len(header.digests), 1)\n', ""),
        ("        check_pin(header.pin, pin)\n", "        pass\n"),
        ('    equal("segments.0.encryption", segment.cipher, profile.cipher)\n', ""),
        ('    must(tuple(header.segments) == (0,), "segments"', '    must(True, "segments"'),
        ("len(header.keyslots), (1, most))", "len(header.keyslots), (1, 99))"),
    ),
    *_guards(
        "agent/plan/encryption.py",
        ENCRYPTION,
        ("    if survey.grant.refused is not None:", "    if False:"),
        ("    survey.mapping.check(record.name)\n", ""),
        ("seen = at_its_place(record, survey.seen)", "seen = survey.seen"),
        (
            "    check_plain(record, Content(ground.kind, untouched=False, unfinished=False), seen)\n",
            "",
        ),
        ("    _check_room(record, ground)\n", ""),
        (
            '    if survey.mapping.reach != "closed":\n        return Unlink',
            "    if False:\n        return Unlink",
        ),
        ("    if not ground.is_shelved:", "    if False:"),
        ("    check_pinned(record, record.pin, seen.header)\n", ""),
        ("    if is_uninscribed(record, seen):", "    if False:"),
        ("    if survey.fresh:  # it has been asked", "    if False:  # it has been asked"),
        ("    if record.is_bare:", "    if True:"),
    ),
    *_guards(
        "agent/plan/provision.py",
        PROVISION,
        (" and seen.header.sequence == record.sequence)", ")"),
        ("        is_other = keys != {pin.digest}", "        is_other = False"),
        ("    if not record.is_bare:\n        raise", "    if False:\n        raise"),
        ("    if record.is_bare:\n        check_plain", "    if False:\n        check_plain"),
        ("            if is_uninscribed(record, seen):", "            if False:"),
    ),
    *_guards(
        "agent/shelf.py",
        SHELF,
        ("    if taken is None or taken > place(size_bytes) - FRONT:", "    if False:"),
        ("        if not is_known or shelf != place(size_bytes):", "        if False:"),
        ('    if state == "changed":', "    if False:"),
        ("    if not any(any(_at(meant, at)) and ", "    if True or any(any(_at(meant, at)) and "),
        ("    if all(_at(front, at) == _at(meant, at) for at in places) and (", "    if True and ("),
    ),
    *_guards(
        "agent/luks/acceptance.py",
        MIDWAY,
        ('    equal(f"{path}.encryption", segment.cipher, profile.cipher)\n', ""),
    ),
    *_guards(
        "agent/luks/acceptance.py",
        INPLACE,
        ('    equal(f"{path}.encryption", segment.cipher, profile.cipher)\n', ""),
    ),
    *_guards(
        "agent/luks/inplace.py",
        INPLACE,
        ('    equal("config.requirements", header.requirements, (REQUIREMENT,))\n', ""),
        ('    equal("uuid", header.uuid, pin.uuid)\n', ""),
        ('    equal("digest of the volume key", data.fingerprint, pin.digest)\n', ""),
        ('    equal(f"{path}.mode", own[0].mode, "encrypt")\n', ""),
        (
            '        equal(f"{path}.offset", segment.offset, layout.offset(at, encrypted=not is_clear))\n',
            "",
        ),
    ),
    *_guards(
        "agent/luks/midway.py",
        MIDWAY,
        ('    equal("config.requirements", header.requirements, (REQUIREMENT,))\n', ""),
        ('    equal("uuid", header.uuid, pin.uuid)\n', ""),
        ('    equal("digest of the old volume key", old.fingerprint, pin.digest)\n', ""),
        ('        equal("digest of the new volume key", new.fingerprint, order.digest)\n', "        pass\n"),
        ('        equal(f"{path}.offset", segment.offset, at)\n', ""),
    ),
    *_guards(
        "agent/luks/completion.py",
        COMPLETION,
        ("    if len(stretches) != 1 or ", "    if "),
        (" or stretches[0].flags or ", " or "),
        (" if number not in last.keyslots]", "]"),
        ("    if last is None or not is_complete(header):\n", "    if last is None:\n"),
    ),
    *_guards(
        "agent/ending.py",
        COMPLETION,
        (
            "    return (second, first) if there == header.first else (first, second)\n",
            "    return second, first\n",
        ),
        ("    if record.order is None or record.order.digest is None:\n", "    if record.order is None:\n"),
        (
            "        if any(at + length > header.data_offset for at, length in made.erased):\n",
            "        if False:\n",
        ),
    ),
    *_guards(
        "agent/change/wipe.py",
        ("tests/crash/test_crash_wipe.py",),
        ("and uuid and kept and uuid not in kept:", "and False:"),
    ),
    *_guards(
        "agent/luks/copy.py",
        HOTZONE,
        ("                if keyslot.kdf is None:\n", "                if False:\n"),
    ),
    *_guards(
        "agent/restoration.py",
        RESTORATION,
        ("    if order is not None and order.is_reencrypting and not is_through:\n", "    if False:\n"),
        (" and order.is_reencrypting and not is_through:", " and order.is_reencrypting:"),
    ),
    *_guards(
        "agent/luks/hotzone.py",
        HOTZONE,
        ("        text = again.first[BINARY_BYTES:]\n", "        pass\n"),
        ("    if rest:\n", "    if not rest:\n"),
        ("    if at == 0:\n", "    if False:\n"),
    ),
    *_guards(
        "keybroker/masterkey/shares.py",
        SHARES,
        ("        if checksum != _checksum(body[: -len(checksum)]):\n", "        if False:\n"),
        ("2 <= found[0] <= found[1] <= MOST_SHARES", "1 <= found[0]"),
    ),
    *_guards(
        "keybroker/masterkey/sealed.py",
        SHARES,
        ("        if key.identity != known.identity:\n", "        if False:\n"),
        ("        if before is not None and before.value != share.value:\n", "        if False:\n"),
        (
            "        if any(other.set_id != share.set_id for other in self._given.values()):\n",
            "        if False:\n",
        ),
        ("(share.of, share.threshold, share.count) != (known.id, known.threshold, known.count)", "False"),
    ),
    *_guards(
        "keybroker/service/repeats.py",
        ("tests/unit/test_broker_repeats.py",),
        (
            "        if not is_refusal or event.host is None or event.verb",
            "        if event.host is None or event.verb",
        ),
        ("event.host is None or event.verb not in POLLED", "event.host is None"),
        ("self.last is None or not timedelta(0) <= now", "self.last is None or not now"),
        ("        if kind is not None:\n", "        if False:\n"),
        ("            if len(self._seen) >= MOST:\n", "            if False:\n"),
    ),
    *_guards(
        "agent/driver.py",
        ("tests/unit/test_plan_driver.py",),
        (" and (volume not in about or not volume.seen)", " and volume not in about"),
        ("        grants = self._erased | grants\n", ""),
        (", unseen=True)", ")"),
    ),
    *_guards(
        "keybroker/masterkey/tokenform.py",
        TOKEN,
        ("    if key_id != name:\n", "    if False:\n"),
        ('b"KBP1 nonce" + entropy + ctx', 'b"KBP1 nonce" + entropy'),
    ),
    *_guards(
        "keybroker/masterkey/token.py",
        TOKEN,
        ("    if module.refused.get(serial) == given:\n", "    if False:\n"),
        ("    if flags & _FINAL_TRY:\n", "    if False:\n"),
        ("self._key is None or self._generation != self._module.generation", "self._key is None"),
        (
            "    if not key[pkcs11.Attribute.SENSITIVE] or key[pkcs11.Attribute.EXTRACTABLE]:\n",
            "    if False:\n",
        ),
        ("        if self._name not in (None, name):\n", "        if False:\n"),
    ),
    *_guards(
        "agent/plan/adoption.py",
        ADOPTION,
        ('    if record.stage != "foreign":', "    if False:"),
        ('    if record.stage != "ready" or record.role != "holder":', "    if False:"),
        (
            "any(each.tagged == current for each in keyslots.opened_by(current))",
            "keyslots.opened_by(current)",
        ),
        ("    if (tokens or others) and not survey.fresh:", "    if False:"),
        ("if each.tagged is None and each.opened_by in (None, GIVEN)", "if each.opened_by in (None, GIVEN)"),
        ("    if not survey.is_backed_up:", "    if False:"),
        ("    if survey.grant.refused is not None:", "    if False:"),
        ("seen = at_its_place(record, survey.seen)", "seen = survey.seen"),
        ("    if header.pin.uuid != record.luks_uuid:", "    if False:"),
        ("    if header.requirements:", "    if False:"),
        ("        if not keyslots.opened_by(GIVEN):", "        if False:"),
        ("        if len(keyslots.all) >= keyslots.most:", "        if False:"),
        ("    if not keyslots.is_tagged():", "    if False:"),
        ("    if not survey.fresh:\n        return _ask", "    if False:\n        return _ask"),
    ),
    *_guards(
        "agent/plan/growth.py",
        MIGRATION,
        ("    if sizes.crypt < sizes.room:", "    if sizes.crypt != sizes.room:"),
        ("    if sizes.linear < sizes.crypt:", "    if sizes.linear != sizes.crypt:"),
        ("sizes.filesystem + SLACK_BYTES < sizes.linear", "sizes.filesystem + SLACK_BYTES != sizes.linear"),
        ('    if step.layer == "crypt" and not has_keys:', "    if False:"),
        ("    if sizes is None:\n", "    if sizes is None:\n        return Ask(str(order))\n    if False:\n"),
    ),
    *_guards(
        "agent/plan/settling.py",
        SETTLING,
        (
            "    reencryption.underway,\n    rotation.next_step,\n",
            "    rotation.next_step,\n    reencryption.underway,\n",
        ),
        (
            "    rotation.next_step,\n    reencryption.ordered,\n",
            "    reencryption.ordered,\n    rotation.next_step,\n",
        ),
        ('return record.role == "holder" and has_keys and', "return has_keys and"),
        ("has_keys and not erasure.is_wanted(record)", "has_keys"),
        ("    return not wanted and backed_up and enclosed and", "    return not wanted and backed_up and"),
        ("    return not wanted and backed_up and enclosed and", "    return not wanted and enclosed and"),
        ("    return not wanted and backed_up and enclosed and", "    return backed_up and enclosed and"),
    ),
    *_guards(
        "agent/plan/pace.py",
        PACE,
        ("busy >= BUSY and seconds >= LEAST_SECONDS", "busy >= BUSY"),
        ("        return self._busy or (self._rate", "        return (self._rate"),
        ("max(owed, min(LONGEST_REST, 2.0 ** (self._yielded - 1)))", "max(owed, 2.0 ** (self._yielded - 1))"),
    ),
    *_guards(
        "agent/plan/survey.py",
        ROTATION,
        ("        return self.told == self.seen", "        return True"),
        ("self.seen.header is None or self.seen.header.sequence == self.record.sequence", "True"),
    ),
    *_guards(
        "agent/plan/situation.py",
        (*ROTATION, *PROVISION),
        ("        if self.obstacle:", "        if False:"),
    ),
    *_guards(
        "keybroker/model/volume.py",
        VOLUME,
        ("        if device.serial != claimed.serial:", "        if False:"),
        ("        if device.size_bytes < claimed.size_bytes:", "        if False:"),
        ('        if self.stage != "new":', "        if False:"),
        (
            "        if wrong is not None:\n            raise KeybrokerError(Problem.WRONG_DEVICE",
            "        if False:\n            raise KeybrokerError(Problem.WRONG_DEVICE",
        ),
        (
            '        if self.stage != "claimed" or self.is_swap:',
            '        if self.stage != "claimed" and not self.is_swap:',
        ),
        ('        if self.stage != "claimed" or self.is_swap:', "        if self.is_swap:"),
        (
            "        if wrong is not None:\n            raise KeybrokerError(Problem.HEADER_REFUSED",
            "        if False:\n            raise KeybrokerError(Problem.HEADER_REFUSED",
        ),
        ('        if self.stage != ("claimed" if self.is_swap else "deposited"):', "        if False:"),
        ("        if revision != self.revision:", "        if False:"),
        (
            "        if self.complete_from is None or header.sequence >= self.complete_from:",
            "        if True:",
        ),
        ("        if header.requirements:", "        if False:"),
        ("        if header.pin.uuid != self.luks_uuid:", "        if False:"),
        ("        if not least <= header.pin.data_offset <= most:", "        if False:"),
        ("        if header.pin.sector_size not in self.profile.sector_sizes:", "        if False:"),
        ("        if header.others:", "        if False:"),
        ("        if header.degraded:", "        if False:"),
    ),
)
