"""An installation's database moves to PostgreSQL, while no broker serves."""

from __future__ import annotations

import socket
from collections.abc import Callable

from keybroker.service.installation import Installation, check_files
from keybroker.store import schema
from keybroker.store.places import Cluster
from keybroker.store.transfer import Copied, transfer
from keybroker.wire.problems import KeybrokerError, Problem


def relocate(installation: Installation, target: Cluster, told: Callable[[Copied], None]) -> tuple[bool, int]:
    """Copy the database to PostgreSQL; neither it nor the configuration is changed.

    Args:
        told: hears of each table that is the same on both sides.

    Returns:
        Whether anything was copied (False: it was there already), and how many audit records there are.

    Raises:
        KeybrokerError: CONFLICT while a broker serves; CONFIGURATION where the database is PostgreSQL's
            already; and as ``transfer``.
    """
    if installation.cluster is not None:
        raise KeybrokerError(Problem.CONFIGURATION, f"database: is {installation.cluster} already")
    check_files(installation)
    _check_stopped(installation)
    schema.check(installation.database)
    return transfer(installation.database, target, told)


def _check_stopped(installation: Installation) -> None:
    """Refuse while a broker serves: it has its local door open from its start to its end."""
    with socket.socket(socket.AF_UNIX) as door:
        try:
            door.connect(str(installation.unseal_socket))
        except OSError:
            return
    raise KeybrokerError(
        Problem.CONFLICT, "broker: is running, and would write on here", hint="systemctl stop keybroker"
    )
