"""``python -m keybroker.cli`` is ``keybroker``."""

from __future__ import annotations

from keybroker.cli.program import main

main()
