"""The way of a volume that somebody else formatted: look, decide, take one step, look again.

``agent.plan.adoption`` decides. This is ``agent.change.course`` for the one change that an operator makes on
the machine itself: besides the broker's key there is a passphrase that was given, as key version ``GIVEN``,
which never leaves this process but into cryptsetup's pipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from agent.change.workshop import Workshop
from agent.luks import copy
from agent.luks.header import read_header
from agent.passage import Boot, NotConverging
from agent.plan import adoption, recovery
from agent.plan.keyslots import GIVEN, Keyslots
from agent.plan.situation import Mapping as Mapped
from agent.plan.steps import Adopt, Adoption, Ask, Backup, Detach, Evict, Fill, Tag
from agent.plan.survey import Survey
from agent.world import Sighting
from keybroker.wire.changes import AdoptionRequest
from keybroker.wire.messages import DepositRequest
from keybroker.wire.names import KeyVersion
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.proof import GivenProof, prove
from keybroker.wire.records import Grant, Observation, Record, SeenHeader
from keybroker.wire.secret import Secret
from keybroker.wire.values import dataclass, replace

LIMIT: Final = 80
"""Steps in one run; taking out 12 keyslots and as many tokens of others, each after an Ask, takes 49."""

Watch = Callable[[Adoption], None]


@dataclass(frozen=True, slots=True)
class Others:
    """What in a header is not ours.

    Attributes:
        keyslots: their numbers.
        tokens: number and type.
    """

    keyslots: tuple[int, ...]
    tokens: Mapping[int, str]

    def __bool__(self) -> bool:
        """Say whether there is any."""
        return bool(self.keyslots or self.tokens)


class Adopting:
    """One volume, in the hands of one thread.

    Args:
        given: the passphrase that opens the volume; None where our key opens it already.
        watch: hears of each step before it is taken.
    """

    def __init__(
        self,
        workshop: Workshop,
        boot: Boot,
        record: Record,
        given: Secret | None,
        *,
        watch: Watch = lambda step: None,
    ) -> None:
        self._workshop = workshop
        self._boot = boot
        self._given = given
        self._watch = watch
        self._grant = Grant(record)
        self._told: Observation | None = None
        self._sighting: Sighting | None = None
        self._survey: Survey | None = None
        self._conflicts = 0

    @property
    def record(self) -> Record:
        """What the broker says of it."""
        return self._grant.record

    def adopt(self) -> Record:
        """Take step after step until the broker's key opens the volume, and the broker knows.

        Raises:
            KeybrokerError: as ``agent.plan.adoption.next_step``; as the steps themselves.
        """
        self._go(adoption.next_step)
        return self.record

    def others(self) -> Others:
        """Say what in the header is not ours, after the broker's key was seen to open it.

        Raises:
            KeybrokerError: as ``adopt``; LOCKED_OUT where the broker's key does not open it.
        """
        if self.record.current not in self._grant.keys:
            self._look()
            self._ask()
        survey = self._look()
        if self._grant.refused is not None:
            raise self._grant.refused.as_error()
        if survey.keyslots is None:
            raise KeybrokerError(Problem.HEADER_REFUSED, f"{self.record.name}: its header cannot be read")
        if not survey.keyslots.opened_by(self.record.current):
            raise KeybrokerError(
                Problem.LOCKED_OUT, f"{self.record.name}: key version {self.record.current} does not open it"
            )
        return Others(tuple(each.number for each in adoption.strangers(survey.keyslots)), self._tokens())

    def remove_others(self) -> Record:
        """Take every keyslot and token out that is not ours, and leave the broker a copy of what is left.

        Raises:
            KeybrokerError: as ``agent.plan.adoption.next_removal``; as the steps themselves.
        """
        self._go(lambda survey: adoption.next_removal(survey, self._tokens()))
        return self.record

    def _go(self, plan: Callable[[Survey], Adoption | None]) -> None:
        for _ in range(LIMIT):
            step = plan(self._look())
            if step is None:
                return
            self._watch(step)
            try:
                self._perform(step)
            except KeybrokerError as error:
                # A call of ours arrived and its reply did not: the record went on.
                if error.problem is not Problem.CONFLICT or self._conflicts > 0:
                    raise
                self._conflicts += 1
                self._ask()
        raise NotConverging(Problem.INTERNAL, f"{self.record.name}: {LIMIT} steps led nowhere")

    def _look(self) -> Survey:
        self._sighting = self._workshop.world.disks.look(self.record)
        seen = self._sighting.observation
        self._survey = Survey(self._grant, Mapped(), seen, self._told, self._probe(self._sighting))
        return self._survey

    def _probe(self, sighting: Sighting) -> Keyslots | None:
        header = sighting.observation.header
        if not self._grant.keys or sighting.copy is None or header is None:
            return None
        if header.pin.uuid != self.record.luks_uuid:  # another volume: no passphrase is tried on it
            return None
        return self._workshop.headers.probe(self._pinned(), self._keys(), sighting)

    def _keys(self) -> dict[KeyVersion, Secret]:
        return {**self._grant.keys, **({GIVEN: self._given} if self._given is not None else {})}

    def _pinned(self) -> Record:
        """Return the record with a pin: until it is adopted, of the header that was seen and told."""
        if self.record.pin is not None:
            return self.record
        return replace(self.record, pin=self._header().pin)

    def _header(self) -> SeenHeader:
        header = self._sighting.observation.header if self._sighting is not None else None
        if header is None:
            raise KeybrokerError(Problem.HEADER_REFUSED, f"{self.record.name}: it has no header")
        return header

    def _tokens(self) -> dict[int, str]:
        if self._sighting is None or self._sighting.copy is None:
            return {}
        image = copy.unpack(self._sighting.copy)
        tokens = read_header(image.read, image.total).tokens
        return {number: token.kind for number, token in tokens.items() if token.volume is None}

    def _perform(self, step: Adoption) -> None:
        headers, keys = self._workshop.headers, self._keys()
        match step:
            case Ask():
                self._ask()
            case Fill(version, by):
                headers.fill(self._pinned(), keys, version=version, by=by)
            case Tag():
                if self._survey is None or self._survey.keyslots is None:
                    raise KeybrokerError(
                        Problem.INTERNAL, f"{self.record.name}: nobody looked at its keyslots"
                    )
                keyslots = self._survey.keyslots
                headers.tag(self._pinned(), keyslots.token(), recovery.wanted(self.record, keyslots))
            case Adopt():
                self._adopt()
            case Detach(token):
                headers.detach(self.record, token=token)
            case Evict(keyslot, by):
                headers.evict(self.record, keys, keyslot=keyslot, by=by)
            case Backup():
                self._back_up()

    def _ask(self) -> None:
        if self._sighting is None:
            raise KeybrokerError(Problem.INTERNAL, f"{self.record.name}: nobody looked at its disk")
        seen = self._sighting.observation
        for grant in self._workshop.broker.unlock(self._boot.request([seen])).grants:
            if grant.record.volume == self.record.volume:
                self._grant, self._told = grant, seen
                return
        raise KeybrokerError(Problem.UNKNOWN, f"{self.record.name}: the broker does not know it any more")

    def _hear(self, record: Record) -> None:
        self._grant = Grant(record, self._grant.keys)

    def _adopt(self) -> None:
        header, copied, proof = self._proven()
        device = self._sighting.observation.device if self._sighting is not None else None
        if device is None:
            raise KeybrokerError(Problem.NO_DEVICE, f"{self.record.name}: its disk is gone")
        request = AdoptionRequest(self.record.revision, device, header, copied, proof)
        self._hear(self._workshop.broker.adopt(self.record.volume, request))

    def _back_up(self) -> None:
        header, copied, proof = self._proven()
        request = DepositRequest(self.record.revision, header, copied, proof)
        self._hear(self._workshop.broker.deposit(self.record.volume, request))

    def _proven(self) -> tuple[SeenHeader, Secret, GivenProof]:
        """Return the header, its copy, and the proof that our key opens it."""
        header, current = self._header(), self.record.current
        keyslots = self._survey.keyslots if self._survey is not None else None
        copied = self._sighting.copy if self._sighting is not None else None
        if current is None or copied is None or keyslots is None or not keyslots.opened_by(current):
            raise KeybrokerError(Problem.LOCKED_OUT, f"{self.record.name}: our key was not seen to open it")
        volume, digest, sequence = self.record.volume, header.pin.digest, header.sequence
        made = prove(
            self._grant.keys[current], volume=volume, version=current, digest=digest, sequence=sequence
        )
        return header, copied, GivenProof(current, digest, sequence, made)
