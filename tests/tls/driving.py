"""Everything that can be done to a broker, done once: each verb and each endpoint, with marked secrets."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pyrage
from cryptography.hazmat.primitives.asymmetric import ec

from keybroker.cli.manual import pages
from keybroker.cli.program import program
from keybroker.masterkey.shares import Share
from keybroker.masterkey.splitting import combine
from keybroker.web.described import document
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.proof import prove
from keybroker.wire.recovery import prove as prove_recovery
from keybroker.wire.secret import Secret
from tests.contract.postgres_cluster import start_server
from tests.contract.softhsm import PIN, SoftToken
from tests.tls.ended import ended
from tests.tls.forging import Files, signing_request
from tests.tls.marked import Marked, Watch
from tests.tls.running import Broker, Host, Reply, device, header, run_cli, unlock_request
from tests.tls.test_tls_changes import proof
from tests.tls.test_tls_journal import INSIDE, Listener
from tests.tls.test_tls_roles import REPORT

VERBS = {name for name, command in pages(program, "keybroker") if not isinstance(command, click.Group)}
CANARY = "canary-" + "Xq7" * 12
CORES = ("sh", "-c", 'ulimit -c $(ulimit -H -c); exec "$@"', "sh")
"""As many cores as this machine allows: whoever wants none sees to that itself."""


@dataclass(slots=True)
class Site:
    """A broker, what was done to it, and everything that was seen of that."""

    broker: Broker
    offline: dict[str, Path]
    token: SoftToken
    marked: Marked = field(default_factory=Marked)
    verbs: dict[str, list[subprocess.CompletedProcess[str]]] = field(default_factory=dict)
    allowed: dict[int, tuple[str, ...]] = field(default_factory=dict)
    replies: list[tuple[str, Reply, tuple[str, ...]]] = field(default_factory=list)
    journal: Listener | None = None
    watch: Watch | None = None
    backup: bytes = b""
    exports: list[bytes] = field(default_factory=list)

    def run(
        self,
        *arguments: str,
        config: bool = True,
        may: Sequence[str] = (),
        status: int = 0,
        stdin: str | None = None,
        **environment: str,
    ) -> str:
        """Run a verb, which must end well; ``may`` are the secrets that it is there to print."""
        own = ("--config", str(self.broker.config)) if config else ()
        done = run_cli(*arguments, *own, stdin=stdin, **environment)
        name = next(
            verb
            for verb in sorted(VERBS, key=len, reverse=True)
            if ("keybroker", *arguments)[: len(verb.split())] == tuple(verb.split())
        )
        assert done.returncode == status, f"{arguments}: {done.stderr}{done.stdout}"
        self.verbs.setdefault(name, []).append(done)
        self.allowed[id(done)] = tuple(may)
        return done.stdout

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        who: Files | None = None,
        may: Sequence[str] = (),
    ) -> Any:
        """Send a request, which must be answered; ``may`` are the secrets that it is there to bring."""
        port = self.broker.enrolment if path.startswith("/v1/enrolment") else None
        reply = self.broker.ask(method, path, body, who=who or self.broker.operator, port=port)
        assert reply.status < 300, f"{method} {path}: {reply.body!r}"
        self.replies.append((f"{method} {path}", reply, tuple(may)))
        return reply.document if "json" in reply.headers["content-type"] else reply.body


def keygen(path: Path) -> str:
    key = pyrage.x25519.Identity.generate()
    path.write_text(f"{key}\n")
    return str(key.to_public())


def new_csr() -> str:
    return signing_request(ec.generate_private_key(ec.SECP256R1()))


def start(site: Site) -> None:
    assert site.journal is not None
    site.broker.start(inside=(*INSIDE, str(site.journal.directory)), JOURNAL_STREAM="8:1")


def mark_installation(site: Site) -> None:
    config = site.broker.directory / "config"
    for path in sorted(config.glob("master*.key")):
        site.marked.mark("master key", path.read_bytes().strip())
    for name in ("ca", "server"):
        site.marked.mark_key_file(f"{name} key", config / f"{name}.key")
    site.marked.mark_key_file("operator key", site.broker.operator.key)


def second_installation(site: Site, directory: Path) -> None:
    """What is done once on a machine: ``init`` and ``upgrade``, of a broker of its own."""
    directory.mkdir()
    places = ("--config-dir", str(directory / "config"), "--state-dir", str(directory / "state"))
    site.run("init", "--name", "b.example", "--operator", "zoe", *places, config=False)
    config = ("--config", str(directory / "config/keybroker.toml"))
    site.run("upgrade", "--rehearse", *config, config=False)
    site.run("upgrade", "--keep", str(directory / "before"), *config, config=False)
    server = start_server()
    try:
        site.run("store", "migrate", "--to", server.database().uri, *config, config=False)
    finally:
        server.stop()
    site.marked.mark("master key", (directory / "config/master.key").read_bytes().strip())
    site.marked.mark_key_file("ca key", directory / "config/ca.key")
    site.run("completion", "bash", config=False)
    site.run("manual", str(directory / "man"), config=False)
    site.run("check")


def add_ons_and_operators(site: Site, directory: Path) -> None:
    site.run("addon", "add", "shop", "--engine", "postgresql")
    site.run("addon", "policy", "shop", "--rate", "0", "--addon-rate", "0")
    site.run("addon", "rekey", "shop")
    site.run("addon", "list")
    site.run("addon", "show", "shop", "--json")
    papers = directory / "papers"
    site.run("operator", "request", "bob", "--to", str(papers), config=False)
    site.marked.mark_key_file("operator key", papers / "bob.key")
    csr = ("--csr", str(papers / "bob.csr"))
    site.run("operator", "add", "bob", "--role", "auditor", *csr, "--to", str(papers))
    site.run("operator", "list")
    site.run("operator", "show", "bob", "--json")
    site.run("operator", "roles", "bob", "--role", "metrics", "--role", "auditor")
    site.run("operator", "renew")
    site.marked.mark_key_file("operator key", site.broker.operator.key)
    bob = Files(papers / "bob.crt", papers / "bob.key")
    site.ask("GET", "/v1/self", who=bob)
    site.ask("PUT", "/v1/self/certificate", {"csr": new_csr()}, who=bob)
    site.ask("GET", "/metrics", who=bob)
    site.ask("GET", "/openapi.json", who=bob)
    site.ask("PUT", "/v1/operators/carl", {"roles": ["metrics"], "csr": new_csr()})
    site.ask("PUT", "/v1/operators/carl/roles", {"roles": ["auditor"]})
    site.ask("PUT", "/v1/operators/carl/certificate", {"csr": new_csr()})
    site.ask("PUT", "/v1/operators/carl/revocation", {"reason": "left"})
    site.run("operator", "revoke", "bob", "--reason", "lost his laptop")


def first_host(site: Site) -> Host:
    """Enrol a host, and another one that is turned away again."""
    said = json.loads(site.run("host", "enrol", "shop", "--json", may=("token",)))
    mark_token(site, said["token"])
    site.ask("GET", "/v1/enrolment")
    key = ec.generate_private_key(ec.SECP256R1())
    certified = site.ask("POST", "/v1/enrolment", {"token": said["token"], "csr": signing_request(key)})
    other = site.ask("POST", "/v1/addons/shop/enrolments", {"lifetime_seconds": 600}, may=("token",))
    mark_token(site, other["token"])
    gone = site.ask("POST", "/v1/enrolment", {"token": other["token"], "csr": new_csr()})
    unused = site.ask("POST", "/v1/addons/shop/enrolments", {"lifetime_seconds": 600}, may=("token",))
    mark_token(site, unused["token"])
    site.run("host", "list")
    site.run("host", "show", certified["host"], "--json")
    site.run("host", "revoke", gone["host"], "--reason", "cloned")
    site.ask("PUT", f"/v1/hosts/{unused['host']}/revocation", {"reason": "never came"})
    from tests.tls.forging import private_pem

    own = site.broker.directory.parent / "host"
    own.mkdir()
    files = Files(own / "host.crt", own / "host.key")
    files.certificate.write_text(certified["certificate"])
    files.key.write_bytes(private_pem(key))
    site.marked.mark_key_file("host key", files.key)
    host = Host(certified["host"], files)
    renewed = site.ask("POST", "/v1/renewal", {"csr": signing_request(key)}, who=files)
    files.certificate.write_text(renewed["certificate"])
    shown = ended(site.broker, host.id, own, key, days=1)
    late = {"certificate": shown.certificate.read_text(), "csr": signing_request(key)}
    site.ask("POST", "/v1/enrolment/renewal", late)
    return host


def mark_token(site: Site, token: str) -> None:
    """Remember the secret part of an enrolment token; its last part says which CA is meant."""
    secret = token.split(".")[1]
    assert len(secret) == 32, token
    site.marked.mark("token", secret, base64.urlsafe_b64decode(secret))


def copy_of(site: Site) -> str:
    """Make a header copy, whose keyslots are nobody else's business."""
    made = os.urandom(600)
    site.marked.mark("header copy", made)
    return base64.b64encode(made).decode()


def claim(site: Site, host: Host, volume: dict[str, Any]) -> str:
    """Claim a volume's disk, and remember the passphrase."""
    body = {"revision": volume["revision"], "device": device(volume)}
    path = f"/v1/volumes/{volume['volume']}/device"
    grant = site.ask("PUT", path, body, who=host.files, may=("passphrase",))
    key: str = grant["keys"]["1"]
    site.marked.mark_passphrase("passphrase", key)
    return key


def deposit(site: Site, host: Host, volume: dict[str, Any]) -> None:
    """Deposit the header and take the volume to ready."""
    at, revision = f"/v1/volumes/{volume['volume']}", volume["revision"] + 1
    body = {"revision": revision, "header": header(volume), "copy": copy_of(site), "proof": None}
    site.ask("PUT", f"{at}/header", body, who=host.files)
    site.ask("GET", f"{at}/header", who=host.files, may=("header copy",))
    site.ask("PUT", f"{at}/ready", {"revision": revision + 1}, who=host.files)


@dataclass(slots=True)
class Ready:
    """A volume in use, with its newest passphrase."""

    name: str
    volume: dict[str, Any]
    key: str
    version: int = 1

    @property
    def at(self) -> str:
        return f"/v1/volumes/{self.volume['volume']}"

    @property
    def wish(self) -> str:
        return f"/v1/addons/shop/volumes/{self.name}"


def provision(site: Site, host: Host, name: str) -> Ready:
    site.run("volume", "add", "shop", name, "--size", "1G", "--mount", f"/srv/{name}")
    volume = site.ask("GET", f"/v1/addons/shop/volumes/{name}")
    key = claim(site, host, volume)
    deposit(site, host, volume)
    return Ready(name, volume, key)


def revision_of(site: Site, ready: Ready) -> int:
    found: int = site.ask("GET", ready.wish)["revision"]
    return found


def proof_of(ready: Ready, sequence: int, digest: str | None = None) -> dict[str, Any]:
    """Return the proof that the newest passphrase opens a header."""
    if digest is None:
        return proof(ready.volume, ready.version, ready.key, sequence)
    made = prove(
        Secret(ready.key.encode()),
        volume=VolumeId(ready.volume["volume"]),
        version=KeyVersion(ready.version),
        digest=digest,
        sequence=sequence,
    )
    return {"version": ready.version, "digest": digest, "sequence": sequence, "proof": made}


def back_up(site: Site, host: Host, ready: Ready, sequence: int, digest: str | None = None) -> None:
    seen = header(ready.volume, sequence)
    if digest is not None:
        seen["pin"]["digest"] = digest
    body = {
        "revision": revision_of(site, ready),
        "header": seen,
        "copy": copy_of(site),
        "proof": proof_of(ready, sequence, digest),
    }
    site.ask("PUT", f"{ready.at}/header", body, who=host.files)


def rotation_and_reencryption(site: Site, host: Host, data: Ready) -> None:
    site.run("volume", "rotate", "shop", data.name)
    site.ask("PUT", f"{data.wish}/wanted", {})
    staged = {"revision": revision_of(site, data)}
    grant = site.ask("PUT", f"{data.at}/staged", staged, who=host.files, may=("passphrase",))
    data.key, data.version = grant["keys"]["2"], 2
    site.marked.mark_passphrase("passphrase", data.key)
    said = {"revision": revision_of(site, data), "proof": proof_of(data, 4)}
    site.ask("PUT", f"{data.at}/current", said, who=host.files)
    back_up(site, host, data, 5)
    site.ask("DELETE", f"{data.at}/keys/1", who=host.files)
    report(site, host, data, 5)
    site.run("volume", "reencrypt", "shop", data.name)
    site.run("volume", "cancel", "shop", data.name)
    order = site.ask("PUT", f"{data.wish}/order", {"kind": "reencrypt"})["order"]["number"]
    site.ask("DELETE", f"{data.wish}/order")
    # another one, which is carried out; the rotation that comes with it first
    order = site.ask("PUT", f"{data.wish}/order", {"kind": "reencrypt"})["order"]["number"]
    if site.ask("GET", data.wish)["wanted"] > data.version:
        staged = {"revision": revision_of(site, data)}
        grant = site.ask("PUT", f"{data.at}/staged", staged, who=host.files, may=("passphrase",))
        old, data.version = data.version, grant["record"]["staged"]
        data.key = grant["keys"][str(data.version)]
        site.marked.mark_passphrase("passphrase", data.key)
        said = {"revision": revision_of(site, data), "proof": proof_of(data, 6)}
        site.ask("PUT", f"{data.at}/current", said, who=host.files)
        back_up(site, host, data, 7)
        site.ask("DELETE", f"{data.at}/keys/{old}", who=host.files)
    for digest in (None, "sha256:" + "cd" * 32):
        body = {"revision": revision_of(site, data), "number": order, "digest": digest}
        site.ask("PUT", f"{data.at}/order", body, who=host.files)
    back_up(site, host, data, 9, "sha256:" + "cd" * 32)
    site.ask("DELETE", f"{data.at}/order/{order}", who=host.files)


def report(site: Site, host: Host, ready: Ready, sequence: int) -> None:
    said = {
        "volume": ready.volume["volume"],
        "state": "open",
        "opened_by": ready.version,
        "sequence": sequence,
        "activity": None,
        "trouble": None,
        "proof": proof_of(ready, sequence),
    }
    site.ask("POST", "/v1/report", {**REPORT, "volumes": [said]}, who=host.files)
    site.ask("POST", "/v1/unlock", unlock_request(ready.volume), who=host.files)


def migration(site: Site, host: Host, moved: Ready) -> None:
    """Move a volume to another disk, and wipe the one before."""
    site.run("volume", "migrate", "shop", moved.name, "--serial", "second-disk")
    listed = site.ask("GET", "/v1/volumes?addon=shop")["volumes"]
    (successor,) = (one for one in listed if one["serial"] == "second-disk")
    claim(site, host, successor)
    deposit(site, host, successor)
    listed = {one["volume"]: one for one in site.ask("GET", "/v1/volumes?addon=shop")["volumes"]}
    body = {
        "revision": listed[successor["volume"]]["revision"],
        "holder_revision": listed[moved.volume["volume"]]["revision"],
        "compared": 1 << 30,
        "sequence": 3,
    }
    site.ask("PUT", f"/v1/volumes/{successor['volume']}/holder", body, who=host.files)
    erased = {
        "revision": listed[moved.volume["volume"]]["revision"] + 1,
        "device": device(moved.volume),
        "wiped": 4 << 20,
        "method": "zeros, read back",
    }
    site.ask("PUT", f"{moved.at}/erased", erased, who=host.files)


def adoption(site: Site, host: Host) -> None:
    """Take in a volume that somebody else formatted."""
    uuid = "0c7a2c1e-7d0b-4f57-9a3c-52b1b7a6a001"
    site.run("volume", "adopt", "shop", "lent", "--uuid", uuid, "--serial", "lent-disk",
             "--mount", "/srv/lent", "--fs", "xfs", "--size", "1G")  # fmt: skip
    volume = site.ask("GET", "/v1/addons/shop/volumes/lent")
    reply = site.ask("POST", "/v1/unlock", foreign_boot(volume), who=host.files, may=("passphrase",))
    (grant,) = (one for one in reply["grants"] if one["record"]["volume"] == volume["volume"])
    key = grant["keys"]["1"]
    site.marked.mark_passphrase("passphrase", key)
    body = {
        "revision": volume["revision"],
        "device": device(volume),
        "header": header(volume),
        "copy": copy_of(site),
        "proof": proof(volume, 1, key, 3),
    }
    site.ask("PUT", f"/v1/volumes/{volume['volume']}/adoption", body, who=host.files)


def foreign_boot(volume: dict[str, Any]) -> dict[str, Any]:
    request = unlock_request(volume)
    request["observations"][0] |= {"sight": "luks2", "header": header(volume)}
    return request


def wishes(site: Site, host: Host, directory: Path) -> None:
    """What operators want of volumes, and how a volume ends."""
    site.run("volume", "add", "shop", "old", "--plain", "--size", "1G", "--mount", "/srv/old",
             "--serial", "old-disk")  # fmt: skip
    site.run("volume", "encrypt", "shop", "old", "--backed-up")
    gone = provision(site, host, "gone")
    site.run("volume", "resize", "shop", "gone")
    site.run("volume", "cancel", "shop", "gone")
    site.run("volume", "erase", "shop", "gone", "--yes", "--disk-gone")
    site.run("volume", "record", "shop", "gone", "--to", str(directory))
    site.ask("GET", f"{gone.wish}/statements")
    body = {
        "size_bytes": 1 << 30, "cipher": "aes-xts-plain64", "mount": None, "filesystem": "none",
        "serial": None,
    }  # fmt: skip
    site.ask("PUT", "/v1/addons/cache", {"engine": "redis"})
    site.ask("PUT", "/v1/addons/cache/policy", {})
    site.ask("PUT", "/v1/addons/cache/volumes/raw", body)
    site.ask("PUT", "/v1/addons/cache/key", {"generation": 2})
    site.run("volume", "reveal", "shop", "data", "--reason", "a drill", "--output", str(directory / "shown"))
    assert site.marked.found((directory / "shown").read_bytes()) == ["passphrase"], "it is what was asked for"
    asked = {"reason": "another drill"}
    site.ask("POST", "/v1/addons/shop/volumes/data/reveal", asked, may=("passphrase",))


def deletions(site: Site) -> None:
    """Destruction that is asked for, called off, and asked for sooner, which takes a second person."""
    approver = site.broker.appoint("eve", "approver")
    site.marked.mark_key_file("operator key", approver.key)
    site.run("volume", "delete", "cache", "raw", "--reason", "closed", "--yes")
    site.run("volume", "undelete", "cache", "raw")
    site.run("addon", "delete", "cache", "--reason", "closed", "--yes")
    site.run("addon", "undelete", "cache")
    for path in ("/v1/addons/cache/volumes/raw/deletion", "/v1/addons/cache/deletion"):
        site.ask("PUT", path, {"reason": "closed"})
        site.ask("DELETE", path)
        asked = site.ask("PUT", path, {"reason": "leaked", "days": 0})
        site.ask("PUT", f"{path}/approval", {"due": asked["deletion"]["sooner"]}, who=approver)
    site.ask("GET", "/v1/addons/cache/statements")
    site.run("addon", "record", "cache")


def recovery(site: Site, host: Host, public: str, directory: Path) -> None:
    """The offline key: looked at, checked, renewed, and used for a key that the broker has lost."""
    ahead = provision(site, host, "ahead")
    identity = ("--identity", str(site.offline["recovery"]))
    site.run("recovery", "show")
    site.run("recovery", "check", "--all", *identity)
    site.run("recovery", "set-key", public)
    site.ask("PUT", "/v1/recovery", {"recipients": [public]})
    site.ask("POST", "/v1/recovery/renewal", {})
    site.ask("GET", "/v1/recovery")
    (sealed,) = (
        one
        for one in site.ask("GET", "/v1/recovery/volumes")["volumes"]
        if one["volume"] == ahead.volume["volume"]
    )
    found = sealed["recovery"]
    made = prove_recovery(
        Secret(ahead.key.encode()), volume=VolumeId(ahead.volume["volume"]), version=KeyVersion(1),
        ciphertext=found["ciphertext"],
    )  # fmt: skip
    check = {"version": 1, "digest": found["digest"], "proof": made}
    assert site.ask("PUT", f"{ahead.wish}/recovery/check", check) == {"opens": True}
    # its host comes with a header that names keys which this broker never made
    for version, name in ((2, "cli"), (3, "api")):
        lost = Secret(os.urandom(32))
        text = base64.urlsafe_b64encode(lost.reveal()).rstrip(b"=").decode()
        site.marked.mark_passphrase("imported passphrase", text)
        said = {
            **dict.fromkeys(("opened_by", "sequence", "activity", "trouble", "proof")),
            "volume": ahead.volume["volume"],
            "state": "open",
            "named": version,
            "revision": 90,
        }
        site.ask("POST", "/v1/report", {**REPORT, "volumes": [said]}, who=host.files)
        if name == "cli":
            sealed = pyrage.encrypt(text.encode(), [pyrage.x25519.Recipient.from_str(public)])
            token = directory / "token.json"
            token.write_text(
                json.dumps({"versions": {"0": version}, "recovery": base64.b64encode(sealed).decode()})
            )
            site.run("recovery", "import", "shop", "ahead", *identity, "--token", str(token))
        else:
            site.ask("PUT", f"{ahead.wish}/recovery/key", {"version": version, "passphrase": text})
    left = site.run("restore", "--check", status=73)
    accepted = [
        word for name in re.findall(r"^(shop/[a-z]+) ", left, re.MULTILINE) for word in ("--accept", name)
    ]
    site.run("restore", "--finish", *accepted)


def reading(site: Site, host: Host, data: Ready) -> None:
    site.run("volume", "list", "--all", "--json")
    site.run("volume", "show", "shop", "data", "--json")
    for path in (
        "addons",
        "addons/shop",
        "addons/shop/key",
        "hosts",
        f"hosts/{host.id}",
        "master",
        "operators",
    ):
        site.ask("GET", f"/v1/{path}")
    site.ask("GET", "/v1/operators/alice")
    reply = site.ask("POST", "/v1/unlock", boot_of(data), who=host.files, may=("passphrase",))
    (grant,) = (one for one in reply["grants"] if one["record"]["volume"] == data.volume["volume"])
    assert data.key in grant["keys"].values()


def boots(site: Site) -> None:
    """A boot is denied, and approved after all."""
    boot = site.ask("GET", "/v1/boots?addon=shop")["boots"][0]["boot"]
    for decision in ("denial", "approval"):
        site.ask("PUT", f"/v1/boots/{boot}/{decision}", {})
    for verb in ("deny", "approve"):
        site.run("boot", verb, boot)
    (host,) = {one["host"] for one in site.ask("GET", "/v1/boots?addon=shop")["boots"]}
    site.ask("PUT", f"/v1/hosts/{host}/clearance", {"reason": "it was none"})
    site.run("boot", "clear", host, "--reason", "it was none")
    site.ask("PUT", "/v1/addons/shop/expected", {"seconds": 600})
    site.run("boot", "expect", "shop", "--end")
    site.run("boot", "list", "--json")


def boot_of(data: Ready) -> dict[str, Any]:
    request = unlock_request(data.volume)
    seen = header(data.volume, 9)
    seen["pin"]["digest"] = "sha256:" + "cd" * 32
    request["observations"][0] |= {"sight": "luks2", "header": seen}
    return request


def canaries(site: Site, host: Host) -> None:
    """What is sent where it does not belong is refused, and repeated nowhere."""
    site.marked.mark("canary", CANARY)
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            if method == "servers" or "requestBody" not in operation:
                continue
            parties = operation.get("x-who-may", [])
            who = host.files if "host" in parties else site.broker.operator
            at = path.replace("{volume}", "kbv-aaaaaaaaaaaa").replace("{host}", host.id)
            at = re.sub(r"\{[a-z]+\}", "shop", at)
            port = site.broker.enrolment if "servers" in methods else None
            properties = operation["requestBody"]["content"]["application/json"]["schema"].get(
                "properties", {}
            )
            for body in ({**dict.fromkeys(properties, CANARY), "passphrase": CANARY}, CANARY, [CANARY]):
                reply = site.broker.ask(method.upper(), at, body, who=who, port=port)
                assert reply.status in (400, 403, 404, 409, 429), (method, at, reply.status)
                site.replies.append((f"{method} {at} with a canary", reply, ()))
            broken = site.broker.ask(method.upper(), at, f'{{"a": "{CANARY}'.encode(), who=who, port=port)
            assert broken.status in (400, 429), (method, at, broken.status)
            site.replies.append((f"{method} {at} with half a canary", broken, ()))


def certificates(site: Site) -> None:
    """A new certificate for the server, and a new CA, after which the host is cut off."""
    site.run("ca", "renew-server")
    site.run("ca", "rotate")
    mark_installation(site)
    reload(site)
    site.run("operator", "renew")
    site.marked.mark_key_file("operator key", site.broker.operator.key)
    site.run("ca", "show", "--json")
    site.run("ca", "requests", status=73)  # with a CA of our own nothing waits, and nothing comes in
    site.run("ca", "import", str(site.broker.ca), status=73)
    site.run("ca", "retire", "--force")
    reload(site)


def reload(site: Site) -> None:
    site.broker.signal(signal.SIGHUP)
    site.broker.wait_for("RELOADING=1")
    assert "refused" not in site.broker.wait_for("READY=1")


def master_keys(site: Site) -> None:
    """A new master key, renewed keys below it, one in shares, and then one inside of a token."""
    site.marked.mark("pin", PIN)
    first = json.loads(site.run("master", "list", "--json"))["keys"][0]["identity"]
    site.run("master", "rotate", "--compromised")
    site.run("master", "list", "--wait")
    site.run("master", "forget", first, "--backups-gone")
    shares = site.run("master", "split", "2/3", may=("share",)).splitlines()
    site.marked.mark("share", *shares)
    site.marked.mark(
        "master key", combine([Share.parse(Secret(share.encode())) for share in shares[:2]]).reveal()
    )
    site.run("unseal", stdin="\n".join(shares[1:]))
    inside = site.token.uri("master-3")
    site.run("master", "create", inside, SOFTHSM2_CONF=str(site.token.configuration))
    site.run("master", "rotate", "--to", inside, SOFTHSM2_CONF=str(site.token.configuration))
    site.run("master", "list", "--wait")
    mark_installation(site)


def audit_and_backup(site: Site, public: str, directory: Path) -> None:
    site.run("audit", "tail", "--limit", "1000", "--json")
    site.run("audit", "search", "--json")
    site.run("audit", "verify", XDG_STATE_HOME=str(directory / "home"))
    site.run("audit", "export", str(directory / "audit.jsonl"))
    site.exports.append((directory / "audit.jsonl").read_bytes())
    site.ask("GET", "/v1/audit?limit=1000")
    site.ask("GET", "/v1/audit/checkpoints")
    saved, identity = directory / "broker.age", ("--identity", str(site.offline["backup"]))
    site.run("backup", "make", str(saved), "--recipient", public)
    masters = [f"file:{path}" for path in sorted((site.broker.directory / "config").glob("master*.key"))]
    masters.append(site.token.uri("master-3"))
    given = [word for uri in masters for word in ("--master-key", uri)]
    site.run(
        "backup",
        "verify",
        str(saved),
        *identity,
        *given,
        config=False,
        SOFTHSM2_CONF=str(site.token.configuration),
    )
    site.backup = saved.read_bytes()
    conf = str(site.token.configuration)
    site.run("operator", "recover", "dave", "--role", "auditor", SOFTHSM2_CONF=conf)
    (dave,) = (site.broker.directory / "config/operators").glob("dave.key")
    site.marked.mark_key_file("operator key", dave)
    dave.rename(directory / "dave.key")
    dave.with_suffix(".crt").unlink()
