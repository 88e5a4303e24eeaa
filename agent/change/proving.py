"""The verb ``prove``: the broker's current key, fetched anew, still opens the header of each open volume.

Once a day a timer runs it: so nobody learns only at the next boot that a header was damaged or a key lost.
The broker makes the proof again from the key that it has, and keeps how old the last one is.
"""

from __future__ import annotations

from agent import layout, unlocking
from agent.change import outfit, reporting
from agent.change.course import Course
from agent.change.deeds import proof_of
from agent.change.workshop import Workshop
from agent.config import Config
from agent.contact import Tell
from agent.passage import Boot
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.proof import GivenProof
from keybroker.wire.records import Record
from keybroker.wire.values import replace


def prove_all(config: Config, *, patience: float, tell: Tell) -> int:
    """Prove each open volume, and report the proofs.

    Args:
        patience: seconds that each call of the broker may take until one answers.

    Returns:
        0, or the exit status of what went wrong: 80 where the current key opens nothing.

    Raises:
        KeybrokerError: where this machine has no identity, or the broker could not be told or asked.
    """
    broker = outfit.client(config, patience=patience, tell=tell)
    shop, boot = outfit.workshop(config, broker, tell), unlocking.boot()
    reports, errors = [], []
    for record in layout.load(config.state_directory).records:
        standing = reporting.look(shop.world, record, config.runtime_directory)
        is_opened = record.role == "holder" and standing.report.state in ("open", "crypt")
        if record.is_swap or record.stage != "ready" or not is_opened:
            reports.append(standing.report)
            continue
        if record.order is not None and record.order.phase == "begun":
            tell(f"{record.name}: is being re-encrypted; it is proved when that is done", 6)
            reports.append(standing.report)
            continue
        try:
            proof = prove(shop, boot, record)
        except KeybrokerError as error:
            errors.append(error)
            tell(f"{record.name}: {error.problem.slug}: {error.detail}", 3)
            reports.append(replace(standing.report, trouble=reporting.trouble(error)))
        else:
            tell(f"{record.name}: key version {proof.version} opens its header", 6)
            reports.append(replace(standing.report, proof=proof))
    reporting.send(broker, boot, reports)
    locked_out = [error for error in errors if error.problem is Problem.LOCKED_OUT]
    return unlocking.exit_status(locked_out or errors)


def prove(shop: Workshop, boot: Boot, record: Record) -> GivenProof:
    """Fetch the current key and see it open the header on the disk.

    Raises:
        KeybrokerError: LOCKED_OUT where it does not; HEADER_REFUSED, NO_DEVICE, TOOL_FAILED; as
            ``Broker.unlock``.
    """
    course = Course(shop, boot, record)
    course.look()
    course.ask()
    survey, granted = course.look(), course.grant
    if granted.refused is not None:
        raise granted.refused.as_error()
    if granted.record.current is None or granted.record.current not in granted.keys:
        raise KeybrokerError(Problem.LOCKED_OUT, f"{record.name}: the broker gave no key for it")
    if survey.keyslots is None:
        raise KeybrokerError(Problem.HEADER_REFUSED, f"{record.name}: no copy of its header can be made")
    return proof_of(course, granted.record.current)
