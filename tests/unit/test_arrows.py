"""The arrows of ARCHITECTURE.md, read off the imports: who may know whom, and one door per effect."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "agent").rglob("*.py"), *(ROOT / "keybroker").rglob("*.py")])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Name every module that ``path`` imports, also inside functions; ``from a import b`` names ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


IMPORTS = {module_name(path): sorted(set(imports(path))) for path in SOURCES}

# effect: the packages that have it, and the only modules that may import them
DOORS = {
    "processes": (("subprocess", "pty"), ("agent.process",)),
    "the agent's HTTP": (("http.client",), ("agent.broker",)),
    "requests": (("requests", "urllib3"), ("agent.broker", "keybroker.cli.client")),
    "Flask": (("flask", "werkzeug"), ("keybroker.web",)),
    "SQL": (("sqlalchemy", "alembic", "sqlite3"), ("keybroker.store",)),
    "Tornado": (("tornado",), ("keybroker.server", "keybroker.sockets", "keybroker.web")),
    "click": (("click",), ("keybroker.cli",)),
    "age": (("pyrage",), ("keybroker.age",)),
    "Prometheus' text": (("prometheus_client",), ("keybroker.tally", "keybroker.web.metrics")),
    "secret sharing": (("Crypto",), ("keybroker.masterkey.splitting",)),
    "PKCS#11": (("pkcs11",), ("keybroker.masterkey.token", "keybroker.masterkey.cryptoki")),
    "udev": (("pyudev",), ("agent.devices",)),
}

# room: what its modules may not import, because they decide and do nothing
PURE = (
    *("agent.plan", "agent.backoff", "agent.luks.acceptance", "agent.luks.midway", "agent.luks.metadata"),
    "agent.luks.table",
    "agent.luks.layers",
    *("keybroker.model", "keybroker.policy", "keybroker.rights", "keybroker.terms", "keybroker.envelope"),
    *("keybroker.masterkey.tokenform", "keybroker.masterkey.tokenuri", "keybroker.masterkey.shares"),
    "keybroker.wire",
)
EFFECTS = ("os", "subprocess", "socket", "ssl", "http", "random", "secrets", "time", "threading", "shutil")


@pytest.mark.parametrize("effect", DOORS)
def test_each_effect_has_one_door(effect: str) -> None:
    packages, doors = DOORS[effect]
    wrong = [
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if within(name, *packages) and not within(module, *doors)
    ]
    assert wrong == []


def test_the_agent_knows_of_the_broker_only_the_wire() -> None:
    wrong = [
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if within(module, "agent")
        and within(name, "keybroker")
        and not within(name, "keybroker.wire", "keybroker.__version__")
    ]
    assert wrong == []


def test_the_broker_does_not_know_the_agent() -> None:
    wrong = [
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if within(module, "keybroker") and within(name, "agent")
    ]
    assert wrong == []


def test_the_wire_needs_nothing_but_the_standard_library_and_itself() -> None:
    wrong = [
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if within(module, "keybroker.wire")
        and not within(name, "keybroker.wire")
        and name.split(".")[0] not in sys.stdlib_module_names
    ]
    assert wrong == []


def test_what_decides_imports_no_effect_no_clock_and_no_chance() -> None:
    wrong = [
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if within(module, *PURE) and within(name, *EFFECTS)
    ]
    assert wrong == []


def test_services_know_no_http_no_arguments_and_no_screen() -> None:
    wrong = [
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if within(module, "keybroker.service")
        and within(name, "flask", "tornado", "click", "keybroker.web", "keybroker.cli", "keybroker.server")
    ]
    assert wrong == []


def test_planners_do_not_know_the_driver_or_any_effect_of_ours() -> None:
    allowed = ("agent.plan", "agent.luks.header", "keybroker.wire")
    wrong = [
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if within(module, "agent.plan") and within(name, "agent", "keybroker") and not within(name, *allowed)
    ]
    assert wrong == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    assert [module for module in IMPORTS if empty & set(module.split("."))] == []
