"""What the demo and the boot tests do with a database on the encrypted volume."""

from __future__ import annotations

import base64
import shlex
from typing import Final

from tests.machine.site import MOUNT_POINT
from tests.machine.vm import Machine

DATABASE: Final = "postgresql@15-main.service"
ROWS: Final = 2000


def create_database(machine: Machine, *, checksums: bool = False) -> None:
    """Make a PostgreSQL cluster on the mounted volume and start it as Debian does."""
    machine.run(f"pg_createcluster 15 main -- --no-sync{' --data-checksums' if checksums else ''}")
    machine.run(f"sync -f {MOUNT_POINT}; systemctl start {DATABASE}")


def sql(machine: Machine, statement: str, **values: str) -> str:
    """Run SQL as the database's superuser, ``:'name'`` standing for a value; return what it printed."""
    psql = "psql -qAtX -v ON_ERROR_STOP=1 " + shlex.join(
        word for name, value in values.items() for word in ("-v", f"{name}={value}")
    )
    return machine.run(f"cd / && su postgres -c {shlex.quote(psql)} <<'END'\n{statement}\nEND").strip()


def write_rows(machine: Machine, text: str) -> None:
    """Write many rows that hold ``text``, and have all of them on the disk before returning."""
    sql(
        machine,
        """
        create table if not exists letters (number integer, body text);
        insert into letters select i, :'text' || ' ' || i from generate_series(1, :rows) i;
        checkpoint;
        """,
        text=text,
        rows=str(ROWS),
    )
    machine.run("sync")


def count_rows(machine: Machine, text: str) -> int:
    """Return how many rows hold ``text``."""
    return int(sql(machine, "select count(*) from letters where starts_with(body, :'text');", text=text))


def table_file(machine: Machine) -> str:
    """Return the path of the file, on the machine, that holds the rows."""
    return sql(machine, "select current_setting('data_directory') || '/' || pg_relation_filepath('letters');")


def fetch(machine: Machine, path: str) -> bytes:
    """Return the bytes of a file on the machine."""
    return base64.b64decode(machine.run(f"base64 {shlex.quote(path)}"))
