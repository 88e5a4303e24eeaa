"""A broker whose CA is somebody else's: openssl signs what waits, and nobody gets in or out without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent import enrolment
from agent.broker import BrokerClient
from agent.contact import credentials
from agent.identity import Identity
from keybroker.config import load
from keybroker.csr import signing_request as nameless
from keybroker.service import courier
from keybroker.service.installation import open_broker
from keybroker.wire.problems import KeybrokerError, Problem
from tests.tls.forging import Files, Signer, issue, signing_request
from tests.tls.running import Broker, install, openssl, refusal, run_cli
from tests.tls.test_tls_ca_rollover import Vm

PENDING = 75


@dataclass
class Outside:
    """A CA of openssl's, and the installation that is its client."""

    directory: Path
    broker: Broker

    @property
    def ca(self) -> Path:
        return self.directory / "issuing.crt"

    @property
    def signer(self) -> Signer:
        return Signer.load(self.ca, self.directory / "issuing.key")

    def waiting(self) -> dict[str, Path]:
        """Have all requests written out; return the request of each by whom it is for."""
        out = self.directory / "out"
        shutil.rmtree(out, ignore_errors=True)
        done = run_cli("ca", "requests", "--to", str(out), "--json", "--config", str(self.broker.config))
        assert done.returncode == 0, done.stderr
        return {one["who"]: out / f"{one['name']}.csr" for one in json.loads(done.stdout)["requests"]}

    def sign(self, request: Path, days: int = 30) -> Path:
        certificate = request.with_suffix(".crt")
        done = openssl(
            "x509", "-req", "-in", str(request), "-extfile", str(request.with_suffix(".ext")),
            "-CA", str(self.ca), "-CAkey", str(self.directory / "issuing.key"),
            "-CAserial", str(self.directory / "serial"), "-CAcreateserial",
            "-days", str(days), "-out", str(certificate),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return certificate

    def take(self, *files: Path) -> subprocess.CompletedProcess[str]:
        return run_cli("ca", "import", *map(str, files), "--config", str(self.broker.config))

    def named(self) -> set[str]:
        """Return the names in the request of the host that waits."""
        (path,) = (path for who, path in self.waiting().items() if who.startswith("host "))
        request = x509.load_pem_x509_csr(path.read_bytes())
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return set(names.get_values_for_type(x509.UniformResourceIdentifier))

    def sign_all(self) -> None:
        """Sign all that waits; in this process, for a run of the command costs seconds."""
        out = self.directory / "out"
        out.mkdir(exist_ok=True)
        installation = load(self.broker.config).installation
        opened = open_broker(installation, clock=lambda: datetime.now(UTC), entropy=os.urandom)
        try:
            for one in courier.requests(opened, installation):
                request = out / f"{one.name}.csr"
                request.write_text(one.csr)
                request.with_suffix(".ext").write_text(one.wanted.extensions())
                courier.take(opened, installation, self.sign(request).read_bytes(), "a test")
        finally:
            opened.close()

    def enrol(self, vm: Vm, token: str) -> subprocess.CompletedProcess[str]:
        url = f"https://127.0.0.1:{self.broker.enrolment}"
        return vm.run("enrol", "--broker", url, "--token-file", "-", "--deadline", "1", stdin=token)


def vm_name(outside: Outside) -> set[str]:
    """Return the name of the one host that waits, in the form that its certificates have it."""
    (host,) = (who.removeprefix("host ") for who in outside.waiting() if who.startswith("host "))
    return {f"spiffe://test.internal/host/{host}"}


def renewed(vm: Vm) -> None:
    """Renew a certificate as the agent does when a third of its lifetime is left."""

    def client(mine: Identity) -> BrokerClient:
        return BrokerClient(mine.brokers, credentials(mine), deadline=time.monotonic() + 1)

    enrolment.renew(vm.state, client, now=time.time(), force=True)


def made_ca(directory: Path, *, under_a_root: bool) -> None:
    """Make issuing.crt, self-signed or signed by a root that nobody of ours is told of."""
    (directory / "ca.cnf").write_text(
        "[ca]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier = hash\n"
    )
    common = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes")
    first = "root" if under_a_root else "issuing"
    made = openssl(
        "req", "-x509", *common, "-subj", f"/O=Example/CN={first}", "-days", "90",
        "-config", "/dev/null", "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        "-keyout", str(directory / f"{first}.key"), "-out", str(directory / f"{first}.crt"),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    if under_a_root:
        made = openssl(
            "req", *common, "-subj", "/O=Example/CN=issuing", "-config", "/dev/null",
            "-keyout", str(directory / "issuing.key"), "-out", str(directory / "issuing.csr"),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        made = openssl(
            "x509", "-req", "-in", str(directory / "issuing.csr"), "-CA", str(directory / "root.crt"),
            "-CAkey", str(directory / "root.key"), "-CAcreateserial", "-days", "60",
            "-extfile", str(directory / "ca.cnf"), "-extensions", "ca",
            "-out", str(directory / "issuing.crt"),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr


both = pytest.mark.parametrize("outside", ["self-signed", "under a root"], indirect=True)


@pytest.fixture
def outside(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outside]:
    """An installation with an outside CA, in which nothing is signed yet."""
    made_ca(tmp_path, under_a_root=getattr(request, "param", "") == "under a root")
    (tmp_path / "broker").mkdir()
    broker = install(tmp_path / "broker", options=["--outside-ca", str(tmp_path / "issuing.crt")])
    found = Outside(tmp_path, broker)
    try:
        yield found
    finally:
        if broker.process is not None:
            assert broker.stop() == 0


@both
def test_an_outside_ca_signs_the_server_an_operator_and_a_host_and_its_renewals(
    outside: Outside, tmp_path: Path
) -> None:
    broker, home = outside.broker, outside.broker.directory / "config"
    assert not list(home.rglob("ca*.key"))
    refused = run_cli("serve", "--config", str(broker.config))
    assert refused.returncode == 78
    assert "the outside CA has not signed it" in refused.stderr
    waiting = outside.waiting()
    assert set(waiting) == {"server", "operator alice"}
    done = outside.take(*map(outside.sign, waiting.values()))
    assert done.returncode == 0, done.stderr
    broker.start()
    broker.add_addon("shop")
    checked = run_cli("check", "--config", str(broker.config))
    assert checked.returncode == 0, checked.stdout
    assert "an outside one" in run_cli("ca", "show", "--config", str(broker.config)).stdout

    # a host enrols
    (tmp_path / "vm").mkdir()
    vm, token = Vm(tmp_path / "vm", broker), broker.invite("shop")
    done = outside.enrol(vm, token)
    assert done.returncode == PENDING, done.stderr
    assert "has not signed it yet" in done.stderr
    assert outside.named() == vm_name(outside), "a CA that takes names from requests alone can sign it"
    key = ec.generate_private_key(ec.SECP256R1())
    thief = {"token": token, "csr": nameless(key)}
    reply = broker.ask("POST", "/v1/enrolment", thief, port=broker.enrolment)
    assert (reply.status, reply.problem) == (403, "token-refused"), "the token is spent on the first key"
    outside.sign_all()
    done = outside.enrol(vm, token)
    assert done.returncode == 0, done.stderr
    assert vm.boots()
    assert vm.is_from(outside.ca)

    # and renews
    before = vm.files.certificate.read_bytes()
    with pytest.raises(KeybrokerError) as caught:
        renewed(vm)
    assert caught.value.problem is Problem.PENDING
    assert vm.boots(), "with what it has"
    assert outside.named() == vm_name(outside)
    outside.sign_all()
    renewed(vm)
    assert vm.files.certificate.read_bytes() != before
    assert vm.boots()
    done = run_cli("ca", "rotate", "--config", str(broker.config))
    assert (done.returncode, "outside one" in done.stderr) == (73, True), done


def test_operators_get_theirs_likewise(outside: Outside, tmp_path: Path) -> None:
    outside.sign_all()
    broker = outside.broker
    broker.start()
    common = ("--config", str(broker.config))
    add = ("operator", "add", "bob", "--role", "auditor", "--to", str(tmp_path / "bob"), *common)
    done = run_cli(*add)
    assert done.returncode == PENDING, done.stderr
    outside.sign_all()
    done = run_cli(*add)
    assert done.returncode == 0, done.stderr
    bob = Files(tmp_path / "bob/bob.crt", tmp_path / "bob/bob.key")
    assert broker.ask("GET", "/v1/self", who=bob).status == 200
    key = ec.generate_private_key(ec.SECP256R1())
    reply = broker.ask("PUT", "/v1/self/certificate", {"csr": signing_request(key)}, who=bob)
    assert (reply.status, reply.problem) == (400, "malformed"), "it names somebody else"
    asked = {"csr": nameless(key)}
    reply = broker.ask("PUT", "/v1/self/certificate", asked, who=bob)
    assert (reply.status, reply.problem) == (423, "pending")
    assert int(reply.headers["retry-after"]) == 60
    recovered = run_cli("operator", "recover", "carol", *common)
    assert recovered.returncode == PENDING, recovered.stderr
    outside.sign_all()
    own = broker.directory / "config/operators"
    carol = Files(own / "carol.crt", own / "carol.key")
    assert broker.ask("GET", "/v1/self", who=carol).document["name"] == "carol"


@both
def test_a_certificate_of_that_ca_that_was_never_imported_is_nobody_s(
    outside: Outside, tmp_path: Path
) -> None:
    outside.sign_all()
    broker = outside.broker
    broker.start()
    forged = issue(tmp_path, outside.signer, uris=["spiffe://test.internal/operator/alice"])
    reply = broker.ask("GET", "/v1/self", who=forged)
    assert (reply.status, reply.problem) == (403, "no-identity")
    if (root := tmp_path / "root.crt").exists():
        sibling = issue(
            tmp_path, Signer.load(root, tmp_path / "root.key"), uris=["spiffe://test.internal/operator/alice"],
            common="sibling",
        )  # fmt: skip
        assert "UNKNOWN_CA" in refusal(broker, sibling), "the root itself is trusted by nobody here"


def test_what_comes_back_wrong_is_refused_and_said(outside: Outside, tmp_path: Path) -> None:
    requests = outside.waiting()
    server = requests["server"]
    extensions = server.with_suffix(".ext")
    extensions.write_text(extensions.read_text().replace("DNS:localhost", "DNS:localhost,DNS:evil.example"))
    done = outside.take(outside.sign(server))
    assert done.returncode == 77
    assert "its names (subjectAltName) are not exactly" in done.stderr
    assert str(server.with_suffix(".crt")) in done.stderr
    assert not (outside.broker.directory / "config/server.crt").exists()
    done = outside.take(tmp_path / "issuing.crt")
    assert done.returncode == 77
    assert "nobody waits for it" in done.stderr
    outside.sign_all()
    alice = outside.broker.operator.certificate
    assert "unchanged" in outside.take(alice).stderr
    assert x509.load_pem_x509_certificate(alice.read_bytes())


def test_init_takes_no_leaf_for_a_ca(tmp_path: Path) -> None:
    leaf = issue(tmp_path, None)
    done = run_cli(
        "init", "--ip", "127.0.0.1", "--operator", "alice", "--outside-ca", str(leaf.certificate),
        "--config-dir", str(tmp_path / "config"), "--state-dir", str(tmp_path / "state"),
    )  # fmt: skip
    assert done.returncode == 78
    assert "is no CA's certificate" in done.stderr
    assert not (tmp_path / "config").exists()
