"""The verb ``adopt``: a volume that somebody else formatted comes into the broker's keeping.

    the broker declares it (stage ``foreign``) ─▶ LUKS1? convert, if asked ─▶ agent.change.adoption ─▶ ready

The volume may be open and mounted meanwhile, under whatever name: a header's keyslots have no part in that.
What was found open is told, with what has to change so that the next boot finds it under its stable name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent import conversion, devicemapper
from agent.change.adoption import Adopting, Others
from agent.change.workshop import Workshop
from agent.mountinfo import mounts
from agent.passage import Boot
from agent.plan.steps import Adoption
from agent.restoration import Holder
from agent.turn import alone
from keybroker.wire import names
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass

LARGEST_PASSPHRASE: Final = 8 << 10
"""In bytes: vaultlocker's have 5464."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asks for.

    Attributes:
        name: of the volume.
        given: a passphrase that opens it; None where our key does already.
        remove_others: take every keyslot and token out that is not ours.
        convert: a LUKS1 header.
        header_backup: where its header is saved first.
    """

    name: str
    given: Secret | None
    remove_others: bool = False
    convert: bool = False
    header_backup: Path | None = None

    def check(self) -> None:
        """Refuse what does not go together (USAGE)."""
        if self.convert != (self.header_backup is not None):
            raise KeybrokerError(
                Problem.USAGE,
                "adopt: --convert and --header-backup FILE go together",
                hint="a conversion that is cut leaves no header; the file has it",
            )


def read_passphrase(stream: Callable[[int], bytes]) -> Secret:
    """Read a passphrase to the end, newline included, as cryptsetup reads a key file.

    Args:
        stream: returns at most so many bytes.

    Raises:
        KeybrokerError: USAGE where there is none, or one that is too long.
    """
    held = bytearray()
    while len(held) <= LARGEST_PASSPHRASE and (piece := stream(LARGEST_PASSPHRASE + 1 - len(held))):
        held += piece
    if not 0 < len(held) <= LARGEST_PASSPHRASE:
        raise KeybrokerError(Problem.USAGE, f"passphrase: must have 1 to {LARGEST_PASSPHRASE} bytes")
    return Secret(held)


def adopt(
    shop: Workshop, places: Holder, boot: Boot, runtime: Path, wish: Wish, say: Callable[[str], None]
) -> Record:
    """Adopt a volume; repeated, it goes on where it was cut.

    Args:
        runtime: of the agent.
        say: is given a line for the operator.

    Returns:
        The broker's record: the volume is ready.

    Raises:
        KeybrokerError: USAGE; UNKNOWN; as ``agent.conversion.convert`` and ``Adopting`` do.
    """
    wish.check()
    record = _find(shop, boot, wish.name)
    with alone(runtime, record.volume):
        if record.stage == "foreign":
            _bring_to_luks2(record, places, wish)

        def watch(step: Adoption) -> None:
            say(f"{record.name}: {type(step).__name__}: {step.reason}")

        adopting = Adopting(shop, boot, record, wish.given, watch=watch)
        record = adopting.adopt()
        others = adopting.others()
        say(f"{record.name}: adopted: key version {record.current} opens it, and the broker has its header")
        if wish.remove_others and others:
            say(f"{record.name}: taking out, as asked: {_named(others)}")
            record = adopting.remove_others()
            say(f"{record.name}: only the broker's key opens it now")
        elif others:
            say(f"{record.name}: these open it as before: {_named(others)}")
    for line in to_do(record):
        say(f"{record.name}: {line}")
    return record


def _find(shop: Workshop, boot: Boot, name: str) -> Record:
    for grant in shop.broker.unlock(boot.request(())).grants:
        if grant.record.name == name and grant.record.role == "holder":
            return grant.record
    raise KeybrokerError(
        Problem.UNKNOWN,
        f"{name}: the broker knows no such volume of this machine",
        hint="declare it there first: keybroker volume adopt --help",
    )


def _bring_to_luks2(record: Record, places: Holder, wish: Wish) -> None:
    with places.open(record) as disk:
        if not conversion.is_luks1(disk):
            return
        if wish.header_backup is None:
            raise conversion.refusal(record, disk)
    conversion.convert(record, places, wish.header_backup)


def _named(others: Others) -> str:
    keyslots = ", ".join(map(str, others.keyslots))
    tokens = ", ".join(f"{number} ({kind})" for number, kind in sorted(others.tokens.items()))
    said = [f"keyslots {keyslots}" if keyslots else "", f"tokens {tokens}" if tokens else ""]
    return "; ".join(filter(None, said))


def to_do(record: Record) -> Iterator[str]:
    """Say how the volume comes under its stable name, beginning with where it is open now."""
    stable = devicemapper.MAPPER / names.mapper_name(record.name)
    prefix = f"CRYPT-LUKS2-{record.luks_uuid.replace('-', '')}-"
    ours = {names.crypt_name(record.name, record.luks_uuid)}
    elsewhere = [
        each
        for each in devicemapper.mapped().values()
        if each.uuid.replace("LUKS1", "LUKS2").startswith(prefix) and each.name not in ours
    ]
    if not elsewhere:
        yield f"open it now as {stable}: keybroker-agent unlock"
        return
    for crypt in elsewhere:
        points = [each.point for each in mounts() if each.node == crypt.node]
        where = f", mounted on {', '.join(points)}" if points else ""
        yield f"is open as {devicemapper.MAPPER / crypt.name}{where}, and stays so until the next boot"
    yield (
        "before that boot, take out what opens it now (its line in /etc/crypttab, or the unit of the tool"
        f" that did it), and have /etc/fstab or its unit mount {stable}"
        + (f", or leave that to the agent, which mounts it on {record.mount}" if record.mount else "")
    )
