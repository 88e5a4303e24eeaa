"""All that is known of one volume, a line each."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from keybroker.cli.deletion import pending_facts
from keybroker.cli.progress import PLAINTEXT, progress_line, state_of
from keybroker.cli.quantities import short_duration, show_size
from keybroker.cli.screen import moment, print_facts
from keybroker.cli.selection import shown_age
from keybroker.wire.names import VolumeName, mapper_name


def show_volume(one: dict[str, Any]) -> None:
    """Print a volume as the broker shows it."""
    device, pin = one["device"], one["pin"]
    swap = one["filesystem"] == "swap"
    print_facts(
        [
            ("volume", one["volume"]),
            ("addon", one["addon"]),
            ("name", one["name"]),
            ("stage", one["stage"]),
            ("state", state_of(one)),
            *pending_facts(one.get("deletion")),
            *_changes(one),
            ("size", show_size(one["size_bytes"])),
            ("serial", one["serial"]),
            ("cipher", "random key at each boot" if swap else one["profile"]["cipher"]),
            ("filesystem", one["filesystem"]),
            ("mount", one["mount"]),
            ("opens as", f"/dev/mapper/{mapper_name(VolumeName(one['name']))}"),
            ("key version", one["current"]),
            *([] if swap else _keys(one)),
            ("disk", device and f"{device['serial']}, {show_size(device['size_bytes'])}"),
            ("LUKS UUID", pin and pin["uuid"]),
            ("revision", one["revision"]),
            ("created", moment(one["created"])),
        ]
    )


def _changes(one: dict[str, Any]) -> list[tuple[str, object]]:
    """Return what is wanted of a volume, and what its host said of it last."""
    facts: list[tuple[str, object]] = []
    order, report = one["order"], one["report"]
    if one.get("ahead") is not None:
        facts.append(("ahead of the broker", f"{one['ahead']['why']}; keybroker restore --check"))
    if order is not None:
        rate = f", at most {show_size(order['rate'])}/s" if order["rate"] else ""
        facts.append(("order", f"{order['number']}: {order['kind']}, {order['phase']}{rate}"))
    if one["partner"] is not None:
        facts.append(("partner", one["partner"]))
    if one["stage"] == "plain" or (order is not None and order["kind"] == "encrypt"):
        facts.append(("in the clear", PLAINTEXT))
    if report is not None:
        facts.append(("going on", progress_line(one).partition(": ")[2] if report["activity"] else None))
        trouble = report["trouble"]
        if trouble is not None:
            facts.append(("trouble", f"{trouble['problem']}: {trouble['detail']}"))
        facts.append(("last report", f"{_ago(report['at'])}, by {report['host']}: {report['state']}"))
    return facts


def _keys(one: dict[str, Any]) -> list[tuple[str, object]]:
    """Return what is known of a volume's keys and header copies."""
    facts: list[tuple[str, object]] = [("key age", shown_age(one))]
    if one["retired"]:
        kept = [
            f"{old['version']} until {moment(old['destroy_after']) or 'further notice'}"
            for old in one["retired"]
        ]
        facts.append(("retired keys", ", ".join(kept)))
    proof = one["proof"]
    facts.append(("last proof", proof and f"{_ago(proof['at'])}, of key {proof['version']}"))
    copies = [f"sequence {copy['sequence']} (key {copy['key_version']})" for copy in one["headers"]]
    facts.append(("header copies", ", ".join(copies) or None))
    sealed, carried = one.get("recovery"), (one["report"] or {}).get("recovery")
    if sealed is not None:
        where = "in its header" if carried == sealed["digest"] else "not in its header yet"
        facts.append(("recovery", f"key {sealed['version']}, {where}"))
    if one["statements"]:
        facts.append(
            ("records", f"{one['statements']}: keybroker volume record {one['addon']} {one['name']}")
        )
    return facts


def _ago(moment: str) -> str:
    return f"{short_duration(time.time() - datetime.fromisoformat(moment).timestamp())} ago"
