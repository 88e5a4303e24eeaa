"""The verb ``doctor``: what would keep this machine from opening its disks at the next boot.

Each check is a value: subject, result, words, and what to do. ``bad`` is what would leave a volume closed;
``warn`` what will one day, or what weakens the protection. Nothing is changed; brokers are asked without
naming a volume, so that no key leaves them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from agent import examination, identity, layout, supervisor
from agent.broker import BrokerClient, Limits
from agent.broker.connection import address
from agent.config import Config
from agent.contact import credentials
from agent.identity import Identity
from agent.luks import cryptsetup
from agent.places import Places
from agent.plan.provision import PLAINTEXT
from agent.process import ENVIRONMENT, run
from agent.standing import table
from agent.unlocking import boot
from keybroker.wire.problems import KeybrokerError
from keybroker.wire.records import Record
from keybroker.wire.values import dataclass

SYS: Final = Path("/sys")
PROC: Final = Path("/proc")

UNITS: Final = (
    "keybroker-agent-unlock.service",
    "keybroker-volumes.target",
    "keybroker-agent-renew.timer",
)
TOOLS: Final = ("blkid", "cryptsetup", "dmsetup")
_CA_SOON: Final = 180 * 86400
OLDEST_CRYPTSETUP: Final = (2, 6, 1)

Result = Literal["good", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        hint: what to do; empty where all is well.
    """

    subject: str
    result: Result
    detail: str
    hint: str = ""


def examine(settings: Config) -> list[Finding]:
    """Make all checks, those that need the network last."""
    findings = [
        *units(_is_enabled if supervisor.is_running() else None),
        *_programs(),
        _dm_crypt(),
        _resume(),
        _swaps(),
    ]
    records = layout.load(settings.state_directory).records
    findings += _devices(settings, records)
    findings += state_modes(settings.state_directory)
    now = time.time()
    try:
        mine = identity.load(settings.state_directory)
    except KeybrokerError as error:
        return [*findings, clock(now, None, _installed()), _bad("identity", error)]
    findings += [clock(now, mine, _installed()), certificate(now, mine), authorities(now, mine)]
    for url in settings.brokers or mine.brokers:
        findings += _broker(url, mine)
    return findings


def _bad(subject: str, error: KeybrokerError) -> Finding:
    return Finding(subject, "bad", error.detail, error.hint or "")


def _installed() -> float:
    """Return when this program was installed, in seconds since 1970: the time cannot be before it."""
    return Path(__file__).stat().st_mtime


def units(is_enabled: Callable[[str], str] | None) -> Iterator[Finding]:
    """Judge the units that open the volumes at boot.

    Args:
        is_enabled: returns what ``systemctl is-enabled`` writes of a unit; None where systemd does not run.
    """
    if is_enabled is None:
        yield Finding("units", "warn", "systemd does not run here, so nothing opens the volumes at boot")
        return
    for name in UNITS:
        yield unit(name, is_enabled(name))


def _is_enabled(name: str) -> str:
    # its exit status says no more than its word, and says other things in other versions
    return run("systemctl", "is-enabled", name, expect=range(6)).output.decode(errors="replace")


def unit(name: str, output: str) -> Finding:
    """Judge whether a unit starts at boot, by what ``systemctl is-enabled`` writes (systemctl(1))."""
    said = output.strip()
    if said == "enabled":
        return Finding(name, "good", said)
    if said in ("", "not-found"):  # nothing but a complaint before systemd 253
        return Finding(name, "bad", "there is no such unit", f"install systemd/{name}, see README.md")
    if said.startswith("masked"):
        return Finding(name, "bad", said, f"systemctl unmask {name} && systemctl enable {name}")
    return Finding(name, "bad", said, f"systemctl enable {name}")


def _programs() -> Iterator[Finding]:
    for tool in TOOLS:
        if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None:
            yield Finding(tool, "bad", "is not installed", "apt-get install cryptsetup-bin dmsetup")
    try:
        yield cryptsetup_version(cryptsetup.version())
    except KeybrokerError as error:
        yield _bad("cryptsetup", error)


def cryptsetup_version(version: tuple[int, int, int]) -> Finding:
    """Judge a version of cryptsetup (security reference, section 2.2)."""
    name = ".".join(map(str, version))
    if version < OLDEST_CRYPTSETUP:
        return Finding("cryptsetup", "bad", f"{name} is too old", "Debian 12 has 2.6.1")
    if (2, 7, 0) <= version <= (2, 7, 4):
        return Finding(
            "cryptsetup",
            "warn",
            f"{name} opens volumes, but corrupts data when it re-encrypts online",
            "2.7.5 or later; until then nothing here re-encrypts with it",
        )
    return Finding("cryptsetup", "good", name)


def _dm_crypt(sys: Path = SYS) -> Finding:
    if (sys / "module/dm_crypt").is_dir():
        return Finding("dm-crypt", "good", "loaded")
    try:
        found = run("modprobe", "--dry-run", "--quiet", "dm-crypt", expect=(0, 1)).status == 0
    except KeybrokerError as error:
        return _bad("dm-crypt", error)
    if found:
        return Finding("dm-crypt", "good", "can be loaded")
    return Finding(
        "dm-crypt", "bad", "this kernel has no such module", "install a kernel that has CONFIG_DM_CRYPT"
    )


def _resume() -> Finding:
    try:
        return resume((SYS / "power/resume").read_text().strip())
    except OSError:
        return Finding("hibernation", "good", "this kernel cannot")


def resume(device: str) -> Finding:
    """Judge /sys/power/resume, ``major:minor`` of the device that the kernel would wake up from."""
    if device == "0:0":
        return Finding("hibernation", "good", "off")
    return Finding(
        "hibernation",
        "bad",
        f"memory, keys and all, would be written to {device}; swap is not turned on",
        "remove resume= from the kernel's command line; RESUME=none in /etc/initramfs-tools/conf.d/resume",
    )


def _swaps() -> Finding:
    def is_encrypted(path: str) -> bool:
        name = os.path.basename(os.path.realpath(path))
        try:
            return (SYS / f"class/block/{name}/dm/uuid").read_text().startswith("CRYPT-")
        except OSError:
            return name.startswith("zram")

    return swaps((PROC / "swaps").read_text(), is_encrypted)


def swaps(text: str, is_encrypted: Callable[[str], bool]) -> Finding:
    """Judge the swap in use.

    Args:
        text: of /proc/swaps (proc(5)).
        is_encrypted: says so of a path.
    """
    used = [line.split()[0] for line in text.splitlines()[1:] if line.strip()]
    plain = [path for path in used if not is_encrypted(path)]
    if plain:
        return Finding(
            "swap",
            "warn",
            f"{', '.join(plain)}: not encrypted, and what databases hold in memory goes there",
            "swapoff it, and have a swap volume: keybroker volume add ADDON swap --fs swap",
        )
    return Finding("swap", "good", ", ".join(used) or "none")


def _devices(settings: Config, records: Sequence[Record]) -> Iterator[Finding]:
    places = Places(settings.devices)
    for record in records:
        subject = f"disk of {record.name}"
        try:
            with places.open(record) as disk:
                size, path = disk.device.size_bytes, disk.device.path
        except KeybrokerError as error:
            yield _bad(subject, error)
            continue
        least = record.device.size_bytes if record.device else record.size_bytes
        if size < least:
            yield Finding(subject, "bad", f"{path} has {size} bytes, {least} are needed")
        else:
            yield Finding(subject, "good", str(path))
            if record.stage == "plain":
                yield Finding(subject, "warn", PLAINTEXT, "at the broker: keybroker volume encrypt")
            yield from _header(record, places)
    if not records:
        yield Finding("disks", "warn", "no volumes are known yet", "keybroker volume add, at the broker")


def _header(record: Record, places: Places) -> Iterator[Finding]:
    examined = examination.examine(record, places)
    if examined is None:
        return
    graded: dict[str, Result] = {"good": "good", "degraded": "warn", "refused": "bad", "lost": "bad"}
    yield Finding(
        f"header of {record.name}", graded[examined.health], examined.detail or "good", examined.hint
    )


def state_modes(state: Path) -> list[Finding]:
    """Judge who may read the private key and write beside it."""
    wrong = []
    for path in [state, *sorted(state.glob("identity-*")), *sorted(state.glob("identity-*/*"))]:
        try:
            about = path.lstat()
        except OSError:
            continue
        if stat.S_IMODE(about.st_mode) & 0o077 or about.st_uid != os.geteuid():
            wrong.append(str(path))
    if wrong:
        return [
            Finding("state", "bad", f"{', '.join(wrong)}: others may read or write", f"chmod -R go= {state}")
        ]
    return [Finding("state", "good", f"{state}: private")] if state.is_dir() else []


def clock(now: float, mine: Identity | None, installed: float) -> Finding:
    """Judge the clock.

    Args:
        now, installed: seconds since 1970.
    """
    least = max(installed, mine.not_before if mine else 0.0)
    if now < least:
        return Finding(
            "clock",
            "bad",
            f"says {_day(now)}, and cannot be before {_day(least)}",
            "timedatectl set-time, or a time server that this machine reaches",
        )
    return Finding("clock", "good", _day(now))


def certificate(now: float, mine: Identity) -> Finding:
    """Judge how long the certificate is good for."""
    if now > mine.not_after:
        return Finding(
            "certificate",
            "bad",
            f"expired {_day(mine.not_after)}",
            "keybroker-agent renew; or enrol again: keybroker host enrol ADDON",
        )
    left = (mine.not_after - now) / 86400
    said = f"{mine.host}, good until {_day(mine.not_after)} ({left:.0f} days)"
    if now > mine.renewable_from:
        return Finding("certificate", "warn", f"{said}; it should have been renewed", "keybroker-agent renew")
    return Finding("certificate", "good", said)


def authorities(now: float, mine: Identity) -> Finding:
    """Judge how long the broker's CA is good for, by the last one that ends of those that are trusted."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=mine.ca)
        ends = max(ssl.cert_time_to_seconds(str(each["notAfter"])) for each in context.get_ca_certs())
    except (ssl.SSLError, ValueError, KeyError):
        return Finding("broker's CA", "bad", "cannot be read", "enrol again: keybroker host enrol ADDON")
    said = f"good until {_day(ends)}"
    if now > ends:
        return Finding(
            "broker's CA", "bad", f"expired {_day(ends)}", "enrol again: keybroker host enrol ADDON"
        )
    if ends - now < _CA_SOON:
        return Finding("broker's CA", "warn", f"{said}, which is soon", "at the broker: keybroker ca rotate")
    return Finding("broker's CA", "good", said)


def _broker(url: str, mine: Identity) -> Iterator[Finding]:
    try:
        host, port = address(url)
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except KeybrokerError as error:
        yield _bad(url, error)
        return
    except OSError as error:
        yield Finding(url, "bad", f"its name is not known: {error.strerror}", f"getent hosts {host}")
        return
    begun = time.monotonic()
    limits = Limits(connect=3.0, whole=10.0)
    client = BrokerClient((url,), credentials(mine), deadline=begun, limits=limits)
    try:
        client.unlock(boot().request(()))
    except KeybrokerError as error:
        yield _bad(url, error)
    else:
        yield Finding(url, "good", f"answers in {(time.monotonic() - begun) * 1000:.0f} ms")
    finally:
        client.close()


def as_table(findings: Sequence[Finding]) -> str:
    """Return the findings for people, what is wrong last, where one looks."""
    order = {"good": 0, "warn": 1, "bad": 2}
    lines = []
    ranked = sorted(findings, key=lambda finding: order[finding.result])
    for row, finding in zip(table([(f.result, f.subject, f.detail) for f in ranked]), ranked, strict=True):
        lines.append(row)
        if finding.hint:
            lines.append(f"      hint: {finding.hint}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings for programs."""
    return json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2)


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
