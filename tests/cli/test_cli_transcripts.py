"""Every verb, through the real entry point, against golden transcripts (tests/cli/golden)."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

from keybroker.cli.manual import pages
from keybroker.cli.program import program
from keybroker.masterkey import LocalMasterKey
from keybroker.masterkey.shares import Share
from keybroker.masterkey.splitting import combine
from keybroker.wire.secret import Secret
from tests.cli.transcript import Transcript
from tests.contract.softhsm import make_token
from tests.tls.running import Broker, install, run_cli, running, unlock_request

VERBS = [tuple(name.split()[1:]) for name, _command in pages(program, "keybroker")][1:]
"""Every group and every verb."""


def test_help(transcript: Transcript) -> None:
    transcript.run("--version", local=False)
    transcript.run("--help", local=False)
    for verb in VERBS:
        transcript.run(*verb, "--help", local=False)


def test_help_teaches_by_example(transcript: Transcript) -> None:
    """Each verb's help shows the verb in use; that it does so is what the transcript below is made of."""
    for verb in VERBS:
        said = transcript.run(*verb, "--help", local=False)
        examples = [line for line in said.splitlines() if line.strip().startswith("keybroker ")]
        assert any(" ".join(verb) in line for line in examples), verb
        transcript.lines = []
    transcript.lines.append("every verb's help has an example of it\n")


def test_command_line(transcript: Transcript) -> None:
    transcript.run(local=False)
    transcript.run("volune", local=False)
    transcript.run("volume", "add", "shop-db", local=False)
    transcript.run("volume", "add", "shop-db", "data", "--size", "20X")
    transcript.run("volume", "add", "shop-db", "data", "--size", "1G", "--fs", "ntfs")
    transcript.run("addon", "add", "shop-db", "--engine", "oracle")
    transcript.run("host", "enrol", "shop-db", "--lifetime", "soon")
    transcript.run("audit", "tail", "--limit", "0")


def test_addon(transcript: Transcript, tmp_path: Path) -> None:
    with running(tmp_path) as own:
        transcript.broker = own
        transcript.run("addon", "list")
        transcript.run("addon", "add", "shop-db", "--engine", "postgresql")
        transcript.run("addon", "add", "shop-db", "--engine", "postgresql")
        transcript.run("addon", "add", "shop-db", "--engine", "mysql")
        transcript.run("addon", "add", "Shop_DB", "--engine", "mysql")
        transcript.run("addon", "add", "cache", "--engine", "redis", "--json")
        transcript.run("addon", "list")
        transcript.run("addon", "list", "--json")
        transcript.run("addon", "show", "cache")
        transcript.run("addon", "show", "cache", "--json")
        transcript.run("addon", "show", "nosuch")
        transcript.run("addon", "policy", "cache")
        transcript.run("addon", "policy", "cache", "--allow", "192.0.2.0/24", "--allow", "2001:db8::7")
        transcript.run("addon", "policy", "cache", "--allow", "192.0.2.1/24")
        transcript.run("addon", "policy", "cache", "--allow", "any", "--rate", "0", "--disable")
        transcript.run("addon", "policy", "cache", "--hosts", "3", "--on-clone", "refuse")
        transcript.run("addon", "policy", "cache", "--on-clone", "ignore")
        transcript.run("addon", "policy", "cache", "--approve-boots")
        transcript.run("addon", "policy", "cache", "--allow", "default", "--enable", "--json")


def test_volume(transcript: Transcript, broker: Broker) -> None:
    broker.add_addon("vols")
    transcript.run("volume", "list", "vols")
    transcript.run("volume", "add", "vols", "data", "--size", "20G", "--mount", "/srv/data")
    transcript.run("volume", "add", "vols", "data", "--size", "20G", "--mount", "/srv/data")
    transcript.run("volume", "add", "vols", "data", "--size", "21G", "--mount", "/srv/data")
    transcript.run("volume", "add", "vols", "swap", "--size", "512M", "--fs", "swap")
    transcript.run(
        "volume", "add", "vols", "old", "--size", "33554433", "--cipher", "aes-cbc-essiv:sha256",
        "--mount", "/srv/old", "--fs", "xfs", "--serial", "WD-WX41A1234567", "--json",
    )  # fmt: skip
    transcript.run("volume", "add", "vols", "more", "--size", "1G", "--mount", "srv/../etc")
    transcript.run("volume", "add", "nosuch", "data", "--size", "1G", "--mount", "/srv/data")
    transcript.run("volume", "list", "vols")
    transcript.run("volume", "list", "vols", "--json")
    transcript.run("volume", "show", "vols", "data")
    transcript.run("volume", "show", "vols", "swap")
    transcript.run("volume", "show", "vols", "data", "--json")
    transcript.run("volume", "show", "vols", "nosuch")


def test_volume_in_use(transcript: Transcript, broker: Broker) -> None:
    broker.add_addon("used")
    volume = broker.add_volume("used", "data")
    broker.claim(broker.enrol("used"), volume)
    transcript.run("volume", "show", "used", "data")
    transcript.run("volume", "list", "used")


def test_volume_changes(transcript: Transcript, broker: Broker) -> None:
    broker.add_addon("moves")
    volume = broker.add_volume("moves", "data")
    host = broker.enrol("moves")
    broker.make_ready(host, volume)
    transcript.run("volume", "list", "moves")
    transcript.run("volume", "rotate", local=True)
    transcript.run("volume", "rotate", "moves", "--older-than", "90d")
    transcript.run("volume", "rotate", "moves", "--dry-run")
    transcript.run("volume", "rotate", "moves", "data")
    transcript.run("volume", "rotate", "moves", "data")
    transcript.run("volume", "rotate", "moves", "data", "--wait", "--timeout", "1s")
    transcript.run("volume", "reencrypt", "moves", "data", "--rate", "50M", "--at-boot", "before")
    transcript.run("volume", "resize", "moves", "data")
    transcript.run("volume", "show", "moves", "data")
    transcript.run("volume", "cancel", "moves", "data")
    transcript.run("volume", "cancel", "moves", "data")


def test_volume_migration(transcript: Transcript, broker: Broker) -> None:
    broker.add_addon("disks")
    volume = broker.add_volume("disks", "data")
    broker.make_ready(broker.enrol("disks"), volume)
    transcript.run("volume", "migrate", "disks", "data", "--size", "1M")
    transcript.run("volume", "migrate", "disks", "data", "--size", "2G", "--serial", "new-disk")
    transcript.run("volume", "list", "disks")
    transcript.run("volume", "cancel", "disks", "data", "--json")
    transcript.run("volume", "encrypt", "disks", "data", "--backed-up")


def test_volume_reveal(transcript: Transcript, broker: Broker, tmp_path: Path) -> None:
    broker.add_addon("glass")
    volume = broker.add_volume("glass", "data")
    broker.make_ready(broker.enrol("glass"), volume)
    place = broker.directory / "passphrase"
    output = ("--output", str(place))
    transcript.run("volume", "reveal", "glass", "data")
    transcript.run("volume", "reveal", "glass", "data", "--reason", "INC-4711")
    transcript.run("volume", "reveal", "glass", "nosuch", "--reason", "INC-4711", *output)
    transcript.run("volume", "reveal", "glass", "data", "--reason", "INC-4711", "--version", "2", *output)
    transcript.run("volume", "reveal", "glass", "data", "--reason", "", *output)
    assert not place.exists()
    transcript.run("volume", "reveal", "glass", "data", "--reason", "INC-4711: the VM is gone", *output)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", place.read_text())
    assert place.stat().st_mode & 0o777 == 0o600
    transcript.run("volume", "reveal", "glass", "data", "--reason", "INC-4711", *output)
    assert place.read_text() not in "".join(transcript.lines)
    assert place.read_text() not in broker.log.read_text()


def test_ca(transcript: Transcript, tmp_path: Path) -> None:
    with running(tmp_path) as own:
        transcript.broker = own
        own.add_addon("shop-db")
        own.enrol("shop-db")
        transcript.run("ca", "show")
        transcript.run("ca", "retire")
        transcript.run("ca", "renew-server")
        transcript.run("ca", "rotate")
        transcript.run("ca", "rotate")
        transcript.run("check")
        transcript.run("ca", "show", "--json")
        transcript.run("ca", "retire")
        transcript.run("operator", "renew")
        transcript.run("ca", "retire", "--force")
        transcript.run("ca", "show")


def test_deletion(transcript: Transcript, tmp_path: Path) -> None:
    laptop = str(tmp_path / "laptop")
    papers = f"{laptop}/.config/keybroker"
    with running(tmp_path) as own:
        transcript.broker = own
        config = ("--config", str(own.config))
        own.add_addon("shop-db")
        own.make_ready(own.enrol("shop-db"), own.add_volume("shop-db", "data"))
        delete = ("volume", "delete", "shop-db", "data")
        transcript.run(*delete, "--yes")
        transcript.run(*delete, "--approve", "--now")
        transcript.run(*delete, "--reason", "TICKET-12", "--now", "--wait-days", "3")
        transcript.run(*delete, "--approve", "--yes")
        transcript.run("volume", "undelete", "shop-db", "data")
        transcript.run(*delete, "--reason", "TICKET-12: shop closed", "--yes")
        transcript.run(*delete, "--reason", "TICKET-12: shop closed", "--yes")
        transcript.run("volume", "list")
        transcript.run("volume", "show", "shop-db", "data")
        transcript.run("volume", "rotate", "shop-db", "data")
        transcript.run("check")
        transcript.run("volume", "undelete", "shop-db", "data")
        transcript.run(*delete, "--reason", "TICKET-13", "--now", "--yes")
        transcript.run(*delete, "--approve", "--yes")
        run_cli("operator", "request", "bob", HOME=laptop)
        bob = ("operator", "add", "bob", "--role", "approver", "--csr", f"{papers}/bob.csr", "--to", papers)
        run_cli(*bob, *config)
        transcript.run(*delete, "--approve", "--yes", local=False, HOME=laptop)
        transcript.run("volume", "record", "shop-db", "data")
        transcript.run(*delete, "--reason", "TICKET-13", "--yes")
        transcript.run("addon", "delete", "shop-db", "--reason", "TICKET-14", "--wait-days", "0", "--yes")
        transcript.run("addon", "list")
        transcript.run("addon", "show", "shop-db")
        transcript.run("addon", "record", "shop-db")
        transcript.run("addon", "delete", "shop-db", "--approve", "--yes", local=False, HOME=laptop)
        transcript.run("addon", "list", "--all")
        transcript.run("addon", "undelete", "shop-db")
        transcript.run("addon", "record", "shop-db")
        kept = tmp_path / "kept"
        run_cli("addon", "record", "shop-db", "--to", str(kept), *config)
        record = own.directory / "addon.record"
        record.write_text((kept / "shop-db-destroyed.record").read_text())
        transcript.run("volume", "record", "--verify", str(record))
        transcript.run("addon", "add", "shop-db", "--engine", "postgresql")
        transcript.run("audit", "search", "--verb", "destroy")


def test_volume_of_others(transcript: Transcript, broker: Broker) -> None:
    broker.add_addon("lent")
    transcript.run("volume", "add", "lent", "old", "--plain", "--size", "1G", "--mount", "/srv/old",
                   "--serial", "old-disk")  # fmt: skip
    transcript.run("volume", "encrypt", "lent", "old", "--backed-up")
    transcript.run("volume", "show", "lent", "old")
    transcript.run(
        "volume", "adopt", "lent", "lent", "--uuid", "0c7a2c1e-7d0b-4f57-9a3c-52b1b7a6a001",
        "--serial", "lent-disk", "--mount", "/srv/lent", "--fs", "xfs",
    )  # fmt: skip


def test_volume_erasure(transcript: Transcript, broker: Broker, tmp_path: Path) -> None:
    broker.add_addon("gone")
    volume = broker.add_volume("gone", "data")
    broker.make_ready(broker.enrol("gone"), volume)
    transcript.run("volume", "record", "gone", "data")
    transcript.run("volume", "erase", "gone", "data", "--yes", "--disk-gone")
    transcript.run("volume", "list", "gone", "--all")
    run_cli("volume", "record", "gone", "data", "--to", str(tmp_path), "--config", str(broker.config))
    (kept,) = tmp_path.glob("*.record")
    transcript.run("volume", "record", "gone", "data")
    transcript.broker.directory.joinpath("kept.record").write_text(kept.read_text())
    transcript.run("volume", "record", "--verify", str(transcript.broker.directory / "kept.record"))
    forged = kept.read_text().replace("disk is gone", "disk is here")
    transcript.broker.directory.joinpath("kept.record").write_text(forged)
    transcript.run("volume", "record", "--verify", str(transcript.broker.directory / "kept.record"))


def test_recovery(transcript: Transcript, tmp_path: Path) -> None:
    with running(tmp_path) as own:
        transcript.broker = own
        own.add_addon("shop")
        own.add_volume("shop", "data")
        first, second = (tmp_path / name for name in ("first.key", "second.key"))
        publics = [keygen(path) for path in (first, second)]
        transcript.run("recovery", "show")
        transcript.run("recovery", "check", "--all", "--identity", str(first))
        transcript.run("recovery", "set-key", "age1nonsense")
        transcript.run("recovery", "set-key", publics[0])
        transcript.run("recovery", "set-key", publics[0])
        own.add_volume("shop", "more")
        transcript.run("recovery", "check", "--all", "--identity", str(first))
        transcript.run("recovery", "check", "shop", "data", "--identity", str(second))
        transcript.run("recovery", "check", "--identity", str(second))
        transcript.run("recovery", "check", "shop", "nosuch", "--identity", str(first))
        transcript.run("recovery", "show")
        transcript.run("recovery", "set-key", *publics)
        transcript.run("recovery", "show")
        transcript.run("recovery", "check", "shop", "data", "--identity", str(second), "--json")
        transcript.run("volume", "show", "shop", "data")


def test_backup_and_restore(transcript: Transcript, tmp_path: Path) -> None:
    with running(tmp_path) as own:
        transcript.broker = own
        own.add_addon("shop")
        volume = own.add_volume("shop", "data")
        host = own.enrol("shop")
        own.make_ready(host, volume)
        identity, other, saved = (tmp_path / name for name in ("backup.key", "other.key", "broker.age"))
        public = keygen(identity)
        keygen(other)
        transcript.run("backup", str(saved))
        transcript.run("backup", str(saved), "--recipient", "nobody")
        transcript.run("backup", str(saved), "--recipient", public)
        transcript.run("backup", str(saved), "--recipient", public)
        transcript.run("backup", "verify", str(saved), "--identity", str(other), local=False)
        transcript.run("backup", "verify", str(saved), "--identity", str(identity), local=False)
        transcript.run(
            "backup", "verify", str(saved), "--identity", str(identity), "--master-key",
            f"file:{tmp_path}/nowhere", local=False,
        )  # fmt: skip
        transcript.run("restore", str(saved), "--identity", str(identity), local=False)
        transcript.run("restore", "--check")
        assert own.stop() == 0
        for name in ("config", "state"):
            (tmp_path / name).rename(tmp_path / f"{name}.lost")
        master_key = ("--master-key", str(tmp_path / "config.lost/master.key"))
        transcript.run("restore", str(saved), "--identity", str(other), *master_key, local=False)
        transcript.run("restore", str(saved), "--identity", str(identity), *master_key, local=False)
        (tmp_path / "config.lost/operators").rename(tmp_path / "config/operators")
        own.start()
        transcript.run("check")
        transcript.run("restore", "--check")
        transcript.run("restore", "--finish")
        told = {"volume": volume["volume"], "state": "open", "named": 2, "revision": 9}
        own.ask("POST", "/v1/report", report(told), who=host.files)
        transcript.run("restore", "--check")
        transcript.run("volume", "show", "shop", "data")
        transcript.run("volume", "list", "shop")
        transcript.run("recovery", "import", "shop", "data", "--identity", str(identity))
        transcript.run("restore", "--finish", "--accept", "shop")
        transcript.run("restore", "--finish", "--accept", "shop/data")
        transcript.run("restore", "--check", "--json")


def report(*volumes: dict[str, object]) -> dict[str, object]:
    parts = ("opened_by", "sequence", "activity", "trouble", "proof")
    said = [{**dict.fromkeys(parts), **volume} for volume in volumes]
    boot = "00000000-0000-4000-8000-000000000000"
    return {"boot_id": boot, "machine_id": "0" * 32, "agent_version": "0.1.0", "volumes": said}


def keygen(path: Path) -> str:
    """Make an offline key; return its public half."""
    subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True, timeout=30)
    said = subprocess.run(["age-keygen", "-y", path], check=True, capture_output=True, timeout=30)
    return said.stdout.decode().strip()


def test_host(transcript: Transcript, broker: Broker) -> None:
    broker.add_addon("vms")
    transcript.run("host", "list", "vms")
    transcript.run("host", "enrol", "vms")
    transcript.run("host", "enrol", "vms", "--lifetime", "10m", "--json")
    transcript.run("host", "enrol", "vms", "--lifetime", "30d")
    transcript.run("host", "enrol", "nosuch")
    host = broker.enrol("vms")
    transcript.run("host", "list", "vms")
    transcript.run("host", "list", "vms", "--json")
    transcript.run("host", "show", host.id)
    transcript.run("host", "show", "kbh-zzzzzzzzzzzz")
    transcript.run("host", "revoke", host.id)
    transcript.run("host", "revoke", host.id, "--reason", "its VM was cloned")
    transcript.run("host", "revoke", host.id, "--reason", "once more")
    transcript.run("host", "revoke", host.id, "--reason", "once more", "--json")
    transcript.run("host", "revoke", host.id, "--reason", "its VM was stolen", "--lock")
    transcript.run("host", "show", host.id, "--json")


def test_boot(transcript: Transcript, broker: Broker) -> None:
    """A VM runs, and a copy of it with another machine id starts."""
    broker.add_addon("copied")
    transcript.run("boot", "list", "copied")
    host = broker.enrol("copied")
    broker.ask("POST", "/v1/unlock", unlock_request(), who=host.files)
    copy = unlock_request(machine="1" * 32)
    assert broker.ask("POST", "/v1/unlock", copy, who=host.files).problem == "pending"
    transcript.run("boot", "list", "copied")
    waiting = json.loads(transcript.run("boot", "list", "copied", "--waiting", "--json"))["boots"]
    transcript.run("boot", "clear", host.id, "--reason", "the copy was deleted")
    transcript.run("boot", "deny", waiting[0]["boot"])
    transcript.run("boot", "clear", host.id, "--reason", "the copy was deleted")
    transcript.run("boot", "approve", waiting[0]["boot"])
    transcript.run("boot", "approve", waiting[0]["boot"], "--json")
    transcript.run("boot", "approve", "kbb-000000000000")
    transcript.run("boot", "expect", "copied")
    transcript.run("boot", "expect", "copied", "--for", "2h")
    transcript.run("boot", "list", "copied")


def test_operator(transcript: Transcript, tmp_path: Path) -> None:
    """Bob makes his key on his laptop, and alice certifies it; then he works from there."""
    with running(tmp_path) as own:
        transcript.broker = own
        laptop = str(tmp_path / "laptop")
        papers = f"{laptop}/.config/keybroker"
        transcript.run("operator", "request", "bob", local=False, HOME=laptop)
        transcript.run("operator", "request", "Bob!", local=False, HOME=laptop)
        transcript.run("operator", "add", "bob", "--csr", f"{papers}/bob.csr")
        bob = ("operator", "add", "bob", "--role", "auditor", "--csr", f"{papers}/bob.csr", "--to", papers)
        transcript.run(*bob)
        transcript.run(*bob)
        transcript.run("operator", "add", "bob", "--role", "metrics", "--csr", f"{papers}/bob.csr")
        transcript.run("operator", "show", local=False, HOME=laptop)
        transcript.run("addon", "add", "shop-db", "--engine", "redis", local=False, HOME=laptop)
        transcript.run("operator", "roles", "bob", "--role", "operator", "--role", "auditor")
        transcript.run("addon", "add", "shop-db", "--engine", "redis", local=False, HOME=laptop)
        transcript.run("operator", "roles", "bob", "--role", "approver", local=False, HOME=laptop)
        transcript.run("operator", "renew", local=False, HOME=laptop)
        transcript.run("operator", "renew", "alice", local=False, HOME=laptop)
        transcript.run("operator", "add", "scraper", "--role", "metrics", "--to", str(tmp_path / "scraper"))
        transcript.run("operator", "list")
        transcript.run("operator", "list", "--json")
        transcript.run("operator", "show", "nosuch")
        transcript.run("operator", "revoke", "bob", "--reason", "lost his laptop")
        transcript.run("operator", "revoke", "bob", "--reason", "once more")
        transcript.run("operator", "show", local=False, HOME=laptop)
        transcript.run("operator", "revoke", "alice", "--reason", "tired")
        transcript.run("operator", "roles", "alice", "--role", "auditor")
        transcript.run("operator", "show", "bob", "--json")


def test_operator_recovery(transcript: Transcript, tmp_path: Path) -> None:
    """The key of the only one who can manage operators is gone; whoever owns the broker's machine helps."""
    with running(tmp_path) as own:
        transcript.broker = own
        for path in (own.operator.key, own.operator.certificate):
            path.unlink()
        transcript.run("operator", "list")
        transcript.run("operator", "recover", "alice")
        transcript.run("operator", "show")
        transcript.run("operator", "recover", "carl", "--role", "auditor", "--json")
        transcript.run(
            "audit", "tail", "--cert", str(own.operator.certificate), "--key", str(own.operator.key)
        )


def test_audit(transcript: Transcript, tmp_path: Path) -> None:
    with running(tmp_path) as own:
        transcript.broker = own
        signed(own)
        own.add_addon("shop")
        volume = own.add_volume("shop", "data")
        own.claim(own.enrol("shop"), volume)
        transcript.run("audit", "tail")
        transcript.run("audit", "tail", "--after", "3", "--limit", "2")
        transcript.run("audit", "tail", "--limit", "1", "--json")
        transcript.run("audit", "tail", "--after", "1000")
        transcript.run("audit", "search", "--addon", "shop", "--volume", "data")
        transcript.run("audit", "search", "--actor", "operator/alice", "--since", "1h", "--limit", "2")
        transcript.run("audit", "search", "--verb", "claim", "--outcome", "released", "--json")
        transcript.run("audit", "search", "--until", "2020-01-31")
        transcript.run("audit", "search", "--volume", "data")
        transcript.run("audit", "search", "--since", "yesterday")
        # at a graceful stop the rest is signed
        own.stop()
        own.start()
        export = str(own.directory / "audit.jsonl")
        transcript.run("audit", "export", export)
        transcript.run("audit", "export", export)
        transcript.run(
            "audit", "export", "--from", "3", "--to", "4", str(own.directory / "part.jsonl"), "--json"
        )


def test_audit_verify(transcript: Transcript, tmp_path: Path) -> None:
    with running(tmp_path) as own:
        transcript.broker = own
        home = str(own.directory / "home")
        signed(own)
        own.add_addon("shop")
        own.add_addon("cache")
        own.stop()
        own.start()
        transcript.run("audit", "verify", XDG_STATE_HOME=home)
        transcript.run("audit", "verify", XDG_STATE_HOME=home)
        transcript.run("audit", "verify", "--json", XDG_STATE_HOME=home)
        transcript.run("audit", "verify", "--fingerprint", "ab" * 32, HOME=str(tmp_path))
        transcript.run("audit", "verify", HOME=str(own.directory / "nobody"))
        assert not (own.directory / "nobody").exists(), "a home that is not there is not made"
        export = own.directory / "audit.jsonl"
        run_cli("audit", "export", str(export), "--config", str(own.config))
        transcript.run("audit", "verify", str(export), local=False)
        transcript.run("audit", "verify", str(export), "--fingerprint", "ab" * 32, local=False)
        transcript.run("audit", "verify", str(export), "--known", f"2:{'ab' * 32}", local=False)
        transcript.run("audit", "verify", str(export), "--known", "2", local=False)
        lines = export.read_text().splitlines(keepends=True)
        export.write_text("".join(lines).replace('"cache"', '"cash"'))
        transcript.run("audit", "verify", str(export), local=False)
        export.write_text("".join(lines[:3]))
        transcript.run("audit", "verify", str(export), local=False)
        # a trail that has lost what was there the last time
        (kept,) = (own.directory / "home/keybroker").iterdir()
        kept.write_text(kept.read_text().replace('"sequence": 3', '"sequence": 9'))
        transcript.run("audit", "verify", XDG_STATE_HOME=home)


def signed(broker: Broker) -> None:
    """Wait until the first checkpoint is signed, so that all that follows is in the second one."""
    until = time.monotonic() + 20
    while broker.ask("GET", "/v1/audit", who=broker.operator).document["checkpoint"] == 0:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_init_and_check(transcript: Transcript, broker: Broker, tmp_path: Path) -> None:
    directory = tmp_path
    places = ("--config-dir", str(directory / "config"), "--state-dir", str(directory / "state"))
    health = ("--health", f"unix:{directory / 'health.sock'}")
    transcript.broker = Broker(directory, broker.main, broker.enrolment)
    transcript.run("init", "--operator", "alice", *places, local=False)
    transcript.run("init", "--name", "b.example", "--operator", "Alice!", *places, local=False)
    transcript.run(
        "init", "--name", "b.example", "--operator", "alice", "--user", "nosuch", *places, local=False
    )
    transcript.run(
        "init",
        "--name",
        "b.example",
        "--operator",
        "alice",
        "--health",
        "http://0.0.0.0:1",
        *places,
        local=False,
    )
    transcript.run(
        "init", "--name", "broker.example", "--ip", "192.0.2.10", "--operator", "alice", *places, *health,
        local=False,
    )  # fmt: skip
    transcript.run("init", "--name", "broker.example", "--operator", "alice", *places, local=False)
    transcript.run("check")
    transcript.run("check", "--json")
    transcript.run("upgrade")
    (directory / "config/server.key").chmod(0o644)
    transcript.run("check")
    (directory / "config/server.key").chmod(0o400)
    (directory / "config/keybroker.toml").write_text("trust_domian = 'x'\n")
    transcript.run("check")
    transcript.run("serve")


def test_init_prints_json(transcript: Transcript, broker: Broker, tmp_path: Path) -> None:
    transcript.broker = Broker(tmp_path, broker.main, broker.enrolment)
    said = transcript.run(
        "init", "--ip", "2001:db8::1", "--operator", "bob", "--listen", "::", "--json",
        "--config-dir", str(tmp_path / "config"), "--state-dir", str(tmp_path / "state"),
        local=False,
    )  # fmt: skip
    assert json.loads(said)["operator_key"] == str(tmp_path / "config/operators/bob.key")
    assert 'brokers = ["https://[2001:db8::1]:8443"]' in (tmp_path / "config/keybroker.toml").read_text()


def test_completion_and_manual(transcript: Transcript, tmp_path: Path) -> None:
    transcript.broker = Broker(tmp_path, 0, 0)
    transcript.run("completion", "fish", local=False)
    transcript.run("completion", "csh", local=False)
    (tmp_path / "file").touch()
    transcript.run("manual", str(tmp_path / "file"), local=False)


def test_no_installation(transcript: Transcript) -> None:
    for verb in (("serve",), ("check",), ("addon", "list")):
        transcript.run(*verb, "--config", "/nonexistent/keybroker.toml", local=False)


def test_master(transcript: Transcript, tmp_path: Path) -> None:
    with running(tmp_path) as own:
        transcript.broker = own
        own.add_addon("shop-db")
        own.add_volume("shop-db", "data")
        transcript.run("master", "list")
        transcript.run("master", "rotate", "--dry-run", "--compromised")
        transcript.run("master", "rotate", "--to", f"file:{own.directory}/no/such.key")
        transcript.run("master", "rotate")
        transcript.run("master", "list", "--wait")
        transcript.run("addon", "rekey", "shop-db")
        transcript.run("addon", "rekey", "nosuch")
        listed = json.loads(run_cli("master", "list", "--wait", "--json", "--config", str(own.config)).stdout)
        first, second = (one["identity"] for one in listed["keys"])
        transcript.run("master", "forget", second)
        transcript.run("master", "forget", first)
        transcript.run("master", "forget", first, "--backups-gone")
        transcript.run("master", "list", "--json")
        assert own.config.read_text().count("master_key =") == 1
        assert "master-2.key" in own.config.read_text()
        assert "# Where agents reach this broker" in own.config.read_text()


def test_master_in_a_token(transcript: Transcript, tmp_path: Path) -> None:
    token = make_token(tmp_path)
    conf = str(token.configuration)
    first, second = token.uri("master-1"), token.uri("master-2")
    nowhere = ("--config", "/nonexistent/keybroker.toml")
    transcript.broker = Broker(tmp_path, 65534, 65535)
    for uri in (
        first,
        first,
        second,
        "pkcs11:token=keybroker;object=k;pin-value=4711",
        token.uri("k", token="t"),
    ):
        transcript.run("master", "create", uri, *nowhere, local=False, SOFTHSM2_CONF=conf)
    own = install(tmp_path, options=("--master-key", first), SOFTHSM2_CONF=conf)
    own.start(SOFTHSM2_CONF=conf)
    try:
        transcript.broker = own
        own.add_addon("shop-db")
        transcript.run("check", SOFTHSM2_CONF=conf)
        transcript.run("master", "rotate", "--to", token.uri("nothing"), "--wait", SOFTHSM2_CONF=conf)
        transcript.run("master", "rotate", "--to", second, "--wait", SOFTHSM2_CONF=conf)
        transcript.run("master", "list", "--wait")
    finally:
        assert own.stop() == 0


def test_master_in_shares(transcript: Transcript, tmp_path: Path) -> None:
    identity, saved = tmp_path / "backup.key", tmp_path / "broker.age"
    with running(tmp_path) as own:
        transcript.broker = own
        own.add_addon("shop-db")
        transcript.run("unseal")
        transcript.run("master", "split", "3/2")
        shares = transcript.run("master", "split", "2/3").splitlines()
        uri = f"shares:2/3/{LocalMasterKey(combine([parsed(share) for share in shares[:2]])).identity}"
        transcript.run("unseal", "--status")
        transcript.run("master", "rotate", "--to", uri)
        transcript.run("unseal", stdin="KBS1-AAAA\n")
        transcript.run("unseal", stdin=f"{shares[0]}\n")
        transcript.run("unseal", stdin=f"{shares[2]}\n")
        transcript.run("unseal", "--status", "--json")
        transcript.run("master", "rotate", "--to", uri, "--wait")
        transcript.run("backup", str(saved), "--recipient", keygen(identity))
        verify = ("backup", "verify", str(saved), "--identity", str(identity))
        transcript.run(*verify, "--master-key", uri, local=False)
        both = ("--master-key", uri, "--master-key", f"file:{own.directory}/config/master.key")
        transcript.run(*verify, *both, "--shares", local=False, stdin="\n".join(shares))
        own.stop()
        own.start()
        transcript.run("check")
        transcript.run("addon", "list")
        transcript.run("unseal", "--status")
        transcript.run("unseal", stdin="\n".join(shares[1:]))
        transcript.run("addon", "list")
        assert own.stop() == 0
    transcript.run("unseal")


def test_init_in_shares(transcript: Transcript, tmp_path: Path) -> None:
    transcript.broker = Broker(tmp_path, 65534, 65535)
    directories = ("--config-dir", str(tmp_path / "config"), "--state-dir", str(tmp_path / "state"))
    for form in ("shares:1/1", "shares:2/3"):
        transcript.run(
            "init",
            "--ip",
            "127.0.0.1",
            "--operator",
            "alice",
            "--master-key",
            form,
            *directories,
            local=False,
        )


def parsed(text: str) -> Share:
    return Share.parse(Secret(text.encode()))
