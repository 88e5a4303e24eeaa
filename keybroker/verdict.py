"""What came of proofreading an audit trail (``keybroker.proofreading``), and what that cannot show."""

from __future__ import annotations

from dataclasses import dataclass

from keybroker.audit import START, Head
from keybroker.checkpoint import Checkpoint
from keybroker.wire.receipt import MAIN


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was read of one chain, all of it in order.

    Attributes:
        first, last: sequence numbers; the last is below the first where there was no record.
        hash: of the last record.
        covered: up to which record a checkpoint vouches; 0 for none.
    """

    writer: str
    first: int
    last: int
    hash: str
    covered: int

    @property
    def ends(self) -> Head:
        """Its last record."""
        return Head(self.writer, self.last, self.hash)

    @property
    def unseen(self) -> tuple[str, ...]:
        """What might be wrong all the same, in words."""
        of = "" if self.writer == MAIN else f" of {self.writer}"
        words = []
        if self.covered < self.last:
            since = max(self.first, self.covered + 1)
            words.append(
                f"records {since} to {self.last}{of} are newer than the last checkpoint: where they were"
                " changed and every hash after them made anew, nothing here shows it"
            )
        if self.first > 1:
            words.append(f"records 1 to {self.first - 1}{of}: they are not in this")
        return tuple(words)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was read, all of it in order.

    Attributes:
        chains: by writer.
        checkpoints: how many.
        newest: the last of them.
        signers: fingerprints of the keys that signed them.
        vouched: whether somebody had said which keys those must be.
    """

    chains: tuple[Stretch, ...]
    checkpoints: int
    newest: Checkpoint | None
    signers: tuple[str, ...]
    vouched: bool

    @property
    def records(self) -> int:
        """How many records were read."""
        return sum(chain.last - chain.first + 1 for chain in self.chains if chain.last)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The last record of each chain that has any."""
        return tuple(chain.ends for chain in self.chains if chain.last)

    def of(self, writer: str = MAIN) -> Stretch:
        """Return what was read of a writer's chain."""
        nothing = Stretch(writer, 1, 0, START, 0)
        return next((chain for chain in self.chains if chain.writer == writer), nothing)

    @property
    def unseen(self) -> tuple[str, ...]:
        """What might be wrong all the same, in words."""
        words = [said for chain in self.chains for said in chain.unseen]
        last = ", ".join(head.name for head in self.heads) or "0"
        words.append(
            f"a tail that was cut off: records after {last}, with the checkpoints after"
            f" {0 if self.newest is None else self.newest.number}, would leave no trace here"
        )
        words.append(
            "a trail made anew by whoever holds the signing key: only a receipt that somebody else has kept"
            " shows it (--known)"
        )
        if len(self.chains) > 1:
            words.append(
                "which of two records of different writers was first: between two checkpoints only their"
                " times say so, by the clocks of different brokers"
            )
        if self.checkpoints and not self.vouched:
            words.append("whether the signing key is the broker's: nothing here says so (--signer)")
        return tuple(words)
