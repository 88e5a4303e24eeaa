"""What hosts say between boots: kept as the last word on each volume, and answered with what is wanted."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from keybroker.policy import Peer
from keybroker.service import receipts, sentry, setback
from keybroker.service.admission import Caller, perform
from keybroker.service.broker import Broker
from keybroker.service.custody import check_proof, note_proof
from keybroker.store import Writing
from keybroker.store.rows import ReportRow, VolumeRow
from keybroker.wire.askingboot import AskingBoot
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.receipt import Receipt
from keybroker.wire.reports import ReportReply, ReportRequest, VolumeReport
from keybroker.wire.values import replace

AGAIN_SECONDS: Final = 60
AGAIN_SOON_SECONDS: Final = 10
"""While something is wanted or going on."""


def report(broker: Broker, peer: Peer, request: ReportRequest) -> ReportReply:
    """Take a host's report, and tell it what is wanted of its volumes; no key is in the reply.

    A good proof is kept and is on record; so are a proof that is none, trouble that is new, and volumes that
    are not the host's. The rest of a report is not: it says the same a thousand times a day.

    Returns:
        All volumes of the host's add-on, those that are erased only if it named them.

    Raises:
        KeybrokerError: as ``boot.unlock`` for the peer, of its boot only BOOT_DENIED; BUSY where one boot
            reports more often than the add-on's hosts may ask, or than they may where nobody says otherwise.
    """

    def work(writing: Writing, caller: Caller) -> ReportReply:
        host, addon = caller.as_host()
        asking = AskingBoot(request.boot_id, request.machine_id)
        counts = sentry.hear(broker, writing, caller, asking)
        volumes = request.volumes if counts else ()  # a clone's word would lift what is held for its host's
        receipts.hear(writing, caller, request.receipt)
        rows = {row.volume.id: row for row in writing.volumes(addon)}
        before = writing.reports(addon)
        for said in volumes:
            row = rows.get(said.volume)
            if row is None:
                continue
            if said.proof is not None:
                _take_proof(broker, writing, caller, row, said)
            last = before.get(said.volume)
            if said.trouble is not None and (last is None or last.report.trouble != said.trouble):
                problem, why = said.trouble.problem.slug, said.trouble.detail
                writing.append(caller.event("done", volume=said.volume, problem=problem, why=why))
            writing.put_report(ReportRow(said.volume, host, caller.now, _without_proof(said)))
        setback.hear(broker, writing, caller, rows, volumes)
        foreign = sorted(said.volume for said in request.volumes if said.volume not in rows)
        if foreign:
            writing.append(caller.event("done", boot=request.boot_id, not_its_volumes=foreign))
        named = {said.volume for said in request.volumes}
        records = tuple(
            row.volume.record
            for row in rows.values()
            if row.volume.stage != "erased" or row.volume.id in named
        )
        # of what is to be destroyed nothing is wanted, whatever was ordered before
        lasting = [row.volume for row in rows.values() if row.volume.deletion is None]
        is_busy = any(volume.order is not None or volume.rotating for volume in lasting)
        return ReportReply(
            records,
            AGAIN_SOON_SECONDS if is_busy else AGAIN_SECONDS,
            Receipt(*writing.audit_head(), writing.writer),
            sha256(broker.authority.bundle.encode()).hexdigest(),
        )

    return perform(broker, peer, "report", work)


def _take_proof(broker: Broker, writing: Writing, caller: Caller, row: VolumeRow, said: VolumeReport) -> None:
    """Keep a proof that is good; one that is not stops nothing else, and is on record."""
    given, pin = said.proof, row.volume.pin
    if given is None:
        return
    try:
        if pin is None or given.digest != pin.digest:
            raise KeybrokerError(Problem.HEADER_REFUSED, "the proof is of a header that is not pinned")
        check_proof(broker, writing, row, given)
    except KeybrokerError as error:
        problem, why = error.problem.slug, error.detail
        writing.append(caller.event("refused", volume=said.volume, problem=problem, why=why))
        return
    note_proof(writing, caller, said.volume, given)
    writing.append(caller.event("done", volume=said.volume, proof=given.version, sequence=given.sequence))


def _without_proof(said: VolumeReport) -> VolumeReport:
    return replace(said, proof=None, ciphertext=None)
