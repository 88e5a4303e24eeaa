"""An agent in a process of its own, over a socket from the broker, to be killed at any moment.

The broker lives on in the test's process: what had reached it is durable, and what had not is not, as between
two machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from agent.broker.connection import Credentials
from agent.change import outfit
from agent.change.broker import ChangeClient
from agent.change.course import Course
from agent.change.workshop import Broker, Workshop
from agent.places import Places
from agent.plan import settling
from agent.turn import alone
from agent.world import World
from keybroker.wire.changes import ErasedRequest, PromoteRequest, StageRequest, SwitchRequest
from keybroker.wire.fields import Fields
from keybroker.wire.messages import ClaimRequest, DepositRequest, ReadyRequest, UnlockRequest
from keybroker.wire.names import KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.records import Record
from tests.crash.service_broker import ServiceBroker
from tests.kernel.rig import BOOT, Rig

_T = TypeVar("_T")

Answer = Callable[[ServiceBroker, VolumeId, Fields, str], Any]

Act = Callable[[Workshop], KeybrokerError | None]
"""What an agent does in its workshop; returns what stopped it."""

ANSWERS: dict[str, Answer] = {
    "PUT staged": lambda broker, volume, body, _: broker.stage(volume, StageRequest.read(body)),
    "PUT current": lambda broker, volume, body, _: broker.promote(volume, PromoteRequest.read(body)),
    "PUT header": lambda broker, volume, body, _: broker.deposit(volume, DepositRequest.read(body)),
    "PUT device": lambda broker, volume, body, _: broker.claim(volume, ClaimRequest.read(body)),
    "GET header": lambda broker, volume, _, __: broker.header_copy(volume),
    "PUT ready": lambda broker, volume, body, _: broker.ready(volume, ReadyRequest.read(body)),
    "PUT holder": lambda broker, volume, body, _: broker.switch(volume, SwitchRequest.read(body)),
    "PUT erased": lambda broker, volume, body, _: broker.erased(volume, ErasedRequest.read(body)),
    "DELETE keys": lambda broker, volume, _, number: broker.retire(volume, KeyVersion(int(number))),
}


class Wire(ChangeClient):
    """The agent's own client, with a socket to the test instead of a connection."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(("https://broker.test.example",), Credentials(""))
        self._stream = end.makefile("rwb")

    def _call(self, method: str, path: str, request: Any, form: Callable[[Fields], _T]) -> _T:
        body = None if request is None else request.as_json()
        self._stream.write(json.dumps([method, path, body]).encode() + b"\n")
        self._stream.flush()
        problem, said = json.loads(self._stream.readline())
        if problem is not None:
            raise KeybrokerError(Problem.named(problem), said)
        return form(Fields(said))


def workshop(vm: Rig, world: World, broker: Broker) -> Workshop:
    return outfit.fitted(world, broker, Places(vm.devices), vm.runtime)


def settle(vm: Rig, record: Record) -> Record:
    """Settle in this process, to the end."""
    with alone(vm.runtime, record.volume):
        outcome = Course(workshop(vm, vm.world(), vm.broker), BOOT, record).settle()
    assert outcome.error is None, outcome.error
    return outcome.record


def settle_and_be_killed(vm: Rig, record: Record, seconds: float, *, programs: bool) -> bool:
    """Settle in another process, which is killed after a while; say whether it was still at it.

    Args:
        programs: what it has started is killed with it, as systemd does; otherwise that runs to its end.
    """

    def act(shop: Workshop) -> KeybrokerError | None:
        return Course(shop, BOOT, record).settle().error

    return act_and_be_killed(vm, act, seconds, programs=programs)


def act_and_be_killed(vm: Rig, act: Act, seconds: float, *, programs: bool) -> bool:
    """Do something in another process, as ``settle_and_be_killed`` does."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        _be_the_agent(vm, act, ours, theirs)
    theirs.close()
    until = time.monotonic() + seconds
    _serve(vm.broker, ours, until)
    started = _children(child) if programs else []
    os.kill(child, signal.SIGKILL)
    for each in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    ours.close()
    while any(
        path.read_text() in ("cryptsetup\n", "dmsetup\n") for path in Path("/proc").glob("[0-9]*/comm")
    ):
        time.sleep(0.02)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the agent failed by itself"
    return os.WIFSIGNALED(status)


def _be_the_agent(vm: Rig, act: Act, theirs: socket.socket, mine: socket.socket) -> None:
    status = 1
    try:
        theirs.close()
        error = act(workshop(vm, vm.world(), Wire(mine)))
        status = 0 if error is None else 2
        if error is not None:
            print(error, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _serve(broker: ServiceBroker, end: socket.socket, until: float) -> None:
    """Answer until the agent has ended, or until it is time."""
    held = b""
    while (left := until - time.monotonic()) > 0:
        end.settimeout(left)
        try:
            got = end.recv(1 << 20)
        except TimeoutError:
            return
        if not got:
            return
        held += got
        if held.endswith(b"\n"):
            reply = _answer(broker, *json.loads(held))
            held = b""
            try:
                end.settimeout(10)
                end.sendall(json.dumps(reply).encode() + b"\n")
            except OSError:
                return


def _answer(broker: ServiceBroker, method: str, path: str, body: Any) -> tuple[str | None, Any]:
    try:
        if path == "/v1/unlock":
            return None, broker.unlock(UnlockRequest.read(Fields(body))).as_json()
        found = re.fullmatch(r"/v1/volumes/([^/]+)/([a-z]+)/?([0-9]*)", path)
        assert found is not None, path
        answer = ANSWERS[f"{method} {found[2]}"]
        return None, answer(broker, VolumeId(found[1]), Fields(body or {}), found[3]).as_json()
    except KeybrokerError as error:
        return error.problem.slug, error.detail


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


def is_at_rest(vm: Rig, name: str) -> bool:
    """Say whether the broker wants nothing of a volume, and has its header."""
    record = vm.broker.record(name)
    return settling.is_at_rest(record, vm.world().disks.look(record).observation.header)
