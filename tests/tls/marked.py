"""Secrets that a test knows, and where they turn up: in any of the forms in which they might."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

_SHORTEST: Final = 9
"""Of a part of a secret, in bytes: 72 bits are nowhere by chance."""


class Marked:
    """Secrets by name; one name may have several, of which each is looked for."""

    def __init__(self) -> None:
        self._forms: dict[str, set[bytes]] = {}

    @property
    def names(self) -> list[str]:
        return sorted(self._forms)

    def mark(self, name: str, *secrets: str | bytes) -> None:
        """Remember a secret as it is, in hex and in base64, also inside of what is base64 as a whole."""
        for secret in secrets:
            raw = secret.encode() if isinstance(secret, str) else secret
            assert len(raw) >= _SHORTEST, name
            self._forms.setdefault(name, set()).update(_forms(raw))

    def mark_passphrase(self, name: str, passphrase: str) -> None:
        """Remember a passphrase of ours, and the 256 bits that it stands for."""
        assert len(passphrase) == 43
        self.mark(name, passphrase, base64.urlsafe_b64decode(passphrase + "="))

    def mark_key_file(self, name: str, path: Path) -> None:
        """Remember a private key in PEM: its number, and each line of the file that has a part of it."""
        pem = path.read_bytes()
        private = serialization.load_pem_private_key(pem, None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        number = private.private_numbers().private_value.to_bytes(32, "big")
        self.mark(name, number)
        for line in pem.splitlines():
            if not line.startswith(b"-"):
                self._mark_overlap(name, line, number)

    def _mark_overlap(self, name: str, line: bytes, number: bytes) -> None:
        """Remember the characters of a base64 line that stand for a part of a number and nothing else."""
        decoded = base64.b64decode(line)
        for length in range(len(number), _SHORTEST - 1, -1):
            at = max(decoded.find(number[:length]), decoded.find(number[-length:]))
            if at >= 0:
                begin, end = (at * 4 + 2) // 3, (at + length) * 4 // 3
                self._forms[name].add(line[begin:end])
                return

    def found(self, text: bytes, *, but: Collection[str] = ()) -> list[str]:
        """Name the secrets that are in a text, but for those that may be."""
        return [
            name
            for name, forms in self._forms.items()
            if name not in but and any(form in text for form in forms)
        ]


def _forms(raw: bytes) -> Iterable[bytes]:
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for before in range(3):
        whole = base64.b64encode(bytes(before) + raw)
        inner = whole[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")


class Watch:
    """Looks at the arguments and the environment of all processes that this one starts, again and again.

    Args:
        every: seconds.
    """

    def __init__(self, every: float = 0.01) -> None:
        self._every = every
        self.seen: dict[bytes, int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _look(self) -> None:
        while not self._stopping.wait(self._every):
            for pid in _descendants(os.getpid()):
                for part in ("cmdline", "environ"):
                    try:
                        text = Path(f"/proc/{pid}/{part}").read_bytes()
                    except OSError:
                        continue
                    self.seen[text] = self.seen.get(text, 0) + 1


def _descendants(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            children += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except OSError:  # it has just ended
        pass
    return [each for child in children for each in (child, *_descendants(child))]
