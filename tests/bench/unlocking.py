"""Inside User-Mode Linux: how long ``keybroker-agent unlock`` takes, and what it cannot do without.

    python -m tests.bench.unlocking AGENT VOLUMES RESULT

The bare way is curl asking the same broker for the same keys, then ``cryptsetup open`` of the same volumes
all at once, the keys being in files already. Both start from programs that are not running. Prints nothing;
writes the seconds of each round to RESULT, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.tls.running import Broker, running

ROUNDS: Final = 7
BYTES: Final = 24 << 20
ADDON: Final = "shop"
CHECKED: Final = {"check": True, "stdout": subprocess.DEVNULL, "timeout": 120}


class Bench:
    """The broker, the agent's files and its disks, in one directory."""

    def __init__(self, directory: Path, agent: Path, broker: Broker) -> None:
        self.directory = directory
        self.agent = agent
        self.broker = broker
        self.names: list[str] = []
        self.loops: dict[str, str] = {}

    def prepare(self, count: int) -> None:
        """Declare the volumes, attach blank disks, enrol, and provision."""
        self.broker.add_addon(ADDON)
        devices = []
        for number in range(count):
            name = f"data{number}"
            spec = {"size_bytes": BYTES, "cipher": "aes-xts-plain64", "mount": None, "filesystem": "none"}
            path = f"/v1/addons/{ADDON}/volumes/{name}"
            made = self.broker.ask("PUT", path, {**spec, "serial": None}, who=self.broker.operator)
            assert made.status == 201, made.body
            image = self.directory / f"{name}.raw"
            image.touch()
            os.truncate(image, BYTES)
            loop = subprocess.run(
                ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
            ).stdout.strip()
            self.names.append(name)
            self.loops[name] = loop
            devices.append(f'{made.document["volume"]} = "{loop}"\n')
        (self.directory / "agent.toml").write_text(
            f'state_directory = "{self.directory}/state"\nruntime_directory = "{self.directory}/run"\n'
            f"[devices]\n{''.join(devices)}"
        )
        token = self.broker.invite(ADDON)
        address = f"https://127.0.0.1:{self.broker.enrolment}"
        self.run_agent("enrol", "--broker", address, "--token", token, python=sys.executable)
        self.run_agent("unlock")
        self.run_agent("lock")

    def run_agent(self, verb: str, *words: str, python: str | None = None) -> None:
        """Run a verb as its unit does; ``python`` names another interpreter than the agent's own."""
        program = [str(self.agent)] if python is None else [python, "-m", "agent"]
        config = str(self.directory / "agent.toml")
        subprocess.run([*program, verb, "--config", config, *words], **CHECKED)  # type: ignore[call-overload]

    def volumes(self) -> list[dict[str, Any]]:
        """Return the records as an operator sees them."""
        asked = (f"/v1/addons/{ADDON}/volumes/{name}" for name in self.names)
        return [self.broker.ask("GET", path, who=self.broker.operator).document for path in asked]

    def request(self) -> Path:
        """Write the very request that the agent sends at a boot."""
        observations = [
            {
                "volume": volume["volume"],
                "sight": "luks2",
                "device": volume["device"],
                "header": {
                    "pin": volume["pin"],
                    "sequence": volume["sequence"],
                    "requirements": [],
                    "degraded": False,
                },
                "detail": "",
            }
            for volume in self.volumes()
        ]
        body = {"boot_id": "0" * 8 + "-0000-4000-8000-" + "0" * 12, "machine_id": "0" * 32}
        file = self.directory / "request.json"
        file.write_text(json.dumps({**body, "agent_version": "0.1.0", "observations": observations}))
        return file

    def curl(self, request: Path, reply: Path) -> None:
        """Fetch the keys without us."""
        who = self.directory / "state/identity"
        subprocess.run(
            [
                "curl", "--silent", "--fail", "--tlsv1.3", "--cacert", self.broker.ca,
                "--cert", who / "host.crt", "--key", who / "host.key",
                "--header", "Content-Type: application/json", "--data", f"@{request}",
                "--output", reply, f"https://127.0.0.1:{self.broker.main}/v1/unlock",
            ],
            **CHECKED,
        )  # type: ignore[call-overload]  # fmt: skip

    def bare(self, request: Path, keys: dict[str, Path]) -> float:
        """Do the least that opens the volumes; return its seconds."""
        began = time.perf_counter()
        self.curl(request, self.directory / "reply.json")
        opening = [
            subprocess.Popen(["cryptsetup", "open", "--key-file", keys[name], loop, f"bare-{name}"])
            for name, loop in self.loops.items()
        ]
        assert [one.wait(120) for one in opening] == [0] * len(opening)
        took = time.perf_counter() - began
        for name in self.names:
            subprocess.run(["cryptsetup", "close", f"bare-{name}"], **CHECKED)  # type: ignore[call-overload]
        return took

    def ours(self) -> float:
        """Have the agent open the volumes; return its seconds, from before its start to after its end."""
        began = time.perf_counter()
        self.run_agent("unlock")
        took = time.perf_counter() - began
        assert all(Path(f"/dev/mapper/kb-{name}").exists() for name in self.names)
        self.run_agent("lock")
        return took


def main() -> None:
    """Measure both ways in turn."""
    agent, count, result = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    directory = Path("/tmp/bench")
    directory.mkdir()
    with running(directory) as broker:
        bench = Bench(directory, agent, broker)
        bench.prepare(count)
        request, reply = bench.request(), directory / "reply.json"
        bench.curl(request, reply)
        keys = {}
        for grant in json.loads(reply.read_text())["grants"]:
            keys[grant["record"]["name"]] = directory / grant["record"]["volume"]
            keys[grant["record"]["name"]].write_text(grant["keys"]["1"])
        rounds = [(bench.ours(), bench.bare(request, keys)) for _ in range(ROUNDS)]
    result.write_text(json.dumps(rounds))


if __name__ == "__main__":
    main()
