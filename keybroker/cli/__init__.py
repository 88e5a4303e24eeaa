"""The ``keybroker`` command: parse, ask, print. Each verb imports what it needs when it runs."""

from __future__ import annotations

from keybroker.cli.program import main

__all__ = ["main"]
