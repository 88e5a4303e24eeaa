"""A machine of files that is made once, and set back to a moment for each of many cuts."""

from __future__ import annotations

import copy
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from keybroker.wire.problems import KeybrokerError
from tests.crash.file_legs import MovedFiles
from tests.crash.mortal import Death, Mortal
from tests.crash.service_broker import ServiceBroker

W = TypeVar("W", bound=MovedFiles)
S = TypeVar("S", bound="Staged[Any]")


class Staged(ABC, Generic[W]):
    """One such machine.

    Attributes:
        noted: what the world knows beside its files.
    """

    noted: ClassVar[tuple[str, ...]]
    directory: Path
    broker: ServiceBroker
    world: W

    def keep(self) -> None:
        """Have this be the moment that ``renew`` goes back to."""
        self.broker.save(self.directory / "ordered.db")
        self._disks = {path: path.read_bytes() for path in self._files()}
        self._kept = {name: copy.copy(getattr(self.world, name)) for name in self.noted}

    def renew(self) -> None:
        """Have all be as it was then."""
        self.broker.set_back(self.directory / "ordered.db")
        for path, held in self._disks.items():
            path.write_bytes(held)
        for name, value in self._kept.items():
            setattr(self.world, name, copy.copy(value))

    def _files(self) -> list[Path]:
        return [path for path in self.directory.iterdir() if path.suffix in (".disk", ".inside", ".rows")]

    @abstractmethod
    def run(self, mortal: Mortal | None = None) -> KeybrokerError | None:
        """Do what is ordered; return what it ended with."""

    def run_until_death(self, death: Death) -> Mortal:
        """Do so with a cut."""
        return Mortal(self.world.workshop(self.broker), self.world, death).until_death(self.run)


@contextmanager
def stages(
    make: Callable[[Path, str], S], directories: pytest.TempPathFactory
) -> Iterator[Callable[[str], S]]:
    """Give what sets a machine back, by its name; each is made when it is first asked for."""
    made: dict[str, S] = {}

    def renewed(how: str) -> S:
        if how not in made:
            made[how] = make(directories.mktemp("staged"), how)
        made[how].renew()
        return made[how]

    yield renewed
    for site in made.values():
        site.broker.close()
        shutil.rmtree(site.directory)
