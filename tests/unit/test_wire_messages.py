"""Every message survives its wire form, and nothing that is not one passes for one."""

from __future__ import annotations

import json
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keybroker.wire import messages, names, receipt, records
from keybroker.wire.fields import Fields
from keybroker.wire.names import HostId, Identity, KeyVersion, VolumeId
from keybroker.wire.problems import KeybrokerError, Problem
from keybroker.wire.profile import CIPHERS, Pin, first_profile
from keybroker.wire.secret import Secret, passphrase

sizes = st.integers(1, 2**62)
uuids = st.uuids().map(str)
pems = st.text(min_size=1, max_size=200)
volume_ids = st.from_regex(names.VOLUME_ID, fullmatch=True).map(VolumeId)
host_ids = st.from_regex(names.HOST_ID, fullmatch=True).map(HostId)
serials = st.from_regex(names.SERIAL, fullmatch=True)
secrets = st.binary(max_size=100).map(Secret)
passphrases = st.text("abcXYZ019-_", min_size=43, max_size=43).map(lambda text: passphrase(text.encode()))
versions = st.integers(1, 1000).map(KeyVersion)
digests = st.binary(min_size=32, max_size=32).map(lambda value: "sha256:" + value.hex())
profiles = st.sampled_from(sorted(CIPHERS)).map(first_profile)
pins = st.builds(Pin, uuids, digests, sizes, st.sampled_from([512, 4096]))
devices = st.builds(records.Device, serials, sizes)
headers = st.builds(
    records.SeenHeader, pins, sizes, st.lists(st.text(max_size=20), max_size=3).map(tuple), st.booleans()
)
volume_records = st.builds(
    records.Record,
    volume=volume_ids,
    addon=st.from_regex(names.ADDON_NAME, fullmatch=True),
    name=st.from_regex(names.VOLUME_NAME, fullmatch=True),
    stage=st.sampled_from(sorted(records.STAGES)),
    revision=sizes,
    size_bytes=sizes,
    filesystem=st.sampled_from(sorted(records.FILESYSTEMS)),
    mount=st.none() | st.from_regex(names.MOUNT_POINT, fullmatch=True).filter(lambda text: len(text) <= 256),
    serial=serials,
    device=st.none() | devices,
    luks_uuid=uuids,
    profile=profiles,
    pin=st.none() | pins,
    sequence=st.none() | sizes,
    current=st.none() | versions,
    wanted=st.none() | versions,
    staged=st.none() | versions,
    retiring=st.none() | versions,
)
observations = st.one_of(
    st.builds(records.Observation, volume_ids, st.just("absent"), detail=st.text(max_size=50)),
    st.builds(records.Observation, volume_ids, st.sampled_from(["blank", "other", "swap-mark"]), devices),
    st.builds(records.Observation, volume_ids, st.just("luks2"), devices, headers),
)
grants = st.builds(
    records.Grant,
    volume_records,
    st.dictionaries(versions, passphrases, max_size=3),
    st.none() | st.builds(records.Refusal, st.sampled_from(Problem), st.text(max_size=50)),
)
receipts = st.builds(
    receipt.Receipt,
    st.integers(1, 1 << 62),
    st.binary(min_size=32, max_size=32).map(lambda value: value.hex()),
)
MESSAGES = {
    messages.UnlockRequest: st.builds(
        messages.UnlockRequest, uuids, st.just("0" * 32), st.just("0.1.0"),
        st.lists(observations, max_size=3, unique_by=lambda seen: seen.volume).map(tuple),
        st.none() | receipts,
    ),
    messages.UnlockReply: st.builds(
        messages.UnlockReply, host_ids, st.just("shop"), st.lists(grants, max_size=3).map(tuple),
        receipts,
    ),
    messages.ClaimRequest: st.builds(messages.ClaimRequest, sizes, devices),
    messages.DepositRequest: st.builds(messages.DepositRequest, sizes, headers, secrets),
    messages.HeaderCopy: st.builds(messages.HeaderCopy, volume_records, secrets),
    messages.ReadyRequest: st.builds(messages.ReadyRequest, sizes),
    messages.EnrolmentOffer: st.builds(messages.EnrolmentOffer, pems),
    messages.EnrolmentRequest: st.builds(
        messages.EnrolmentRequest,
        st.from_regex(messages.TOKEN, fullmatch=True).map(lambda text: Secret(text.encode())),
        pems,
    ),
    messages.RenewalRequest: st.builds(messages.RenewalRequest, pems),
    messages.Certified: st.builds(
        messages.Certified, host_ids, pems, pems, st.just(("https://a:1",)),
        st.lists(volume_records, max_size=2).map(tuple),
    ),
    records.Observation: observations,
    records.Grant: grants,
}  # fmt: skip


class Message(Protocol):
    def as_json(self) -> dict[str, Any]: ...


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_a_message_survives_the_wire(kind: Any) -> None:
    @given(MESSAGES[kind])
    def survives(message: Message) -> None:
        assert kind.read(Fields.parse(json.dumps(message.as_json()))) == message

    survives()


REQUESTS = [kind for kind in MESSAGES if kind.__name__.endswith("Request")]


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_a_request_with_a_field_that_is_not_known_is_refused(kind: Any) -> None:
    @given(MESSAGES[kind])
    def refused(message: Message) -> None:
        with pytest.raises(KeybrokerError, match="not known here: zz"):
            kind.read(Fields({**message.as_json(), "zz": 1}))

    refused()


def inner_objects(value: Any) -> list[dict[str, Any]]:
    """Return every object inside a message, itself left out."""
    if isinstance(value, list):
        return [found for one in value for found in inner_objects(one)]
    if not isinstance(value, dict):
        return []
    return [
        found
        for one in value.values()
        for found in [*([one] if isinstance(one, dict) else []), *inner_objects(one)]
    ]


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_a_request_with_an_unknown_field_deep_inside_is_refused(kind: Any) -> None:
    @given(MESSAGES[kind])
    def refused(message: Message) -> None:
        for place in range(len(inner_objects(message.as_json()))):
            body = message.as_json()
            inner_objects(body)[place]["zz"] = 1
            with pytest.raises(KeybrokerError, match="not known here: zz"):
                kind.read(Fields(body))

    refused()


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_a_message_with_one_field_missing_or_of_another_type_is_malformed_or_read(kind: Any) -> None:
    @given(MESSAGES[kind], st.data())
    def malformed_or_read(message: Message, data: st.DataObject) -> None:
        body = message.as_json()
        key = data.draw(st.sampled_from(sorted(body)))
        body[key] = data.draw(st.none() | st.integers() | st.text() | st.lists(st.integers()) | st.just({}))
        try:
            kind.read(Fields(body))
        except KeybrokerError as error:
            assert error.problem is Problem.MALFORMED

    malformed_or_read()


def test_a_malformed_key_is_refused_without_being_repeated() -> None:
    marked = "marked-key-material-that-is-too-short"
    with pytest.raises(KeybrokerError) as refused:
        records._keys(Fields({"keys": {"1": marked}}))
    assert marked not in str(refused.value)


@pytest.mark.parametrize("version", ["0", "01", "-1", "1.0", "", "x", "١"])
def test_a_key_version_has_one_spelling(version: str) -> None:
    with pytest.raises(KeybrokerError, match="must be named by key versions"):
        records._keys(Fields({"keys": {version: "a" * 43}}))


def test_an_observation_has_a_device_and_a_header_exactly_where_its_sight_says_so() -> None:
    for sight, device, header in [("absent", {"serial": "a", "size_bytes": 1}, None), ("blank", None, None)]:
        body = {"volume": "kbv-" + "a" * 12, "sight": sight, "device": device, "header": header, "detail": ""}
        with pytest.raises(KeybrokerError, match="device: must be there"):
            records.Observation.read(Fields(body))


@pytest.mark.parametrize(
    "uri",
    ["spiffe://a/host/kbh-short", "spiffe://a/operator/kbh-" + "a" * 12 + "/x", "spiffe://a/Operator/x", "spiffe:///operator/x",
     "http://a/operator/x", "spiffe://a/operator/x?y", "spiffe://a/operator/x#y", "spiffe://a/operator/", " spiffe://a/operator/x",
     "spiffe://a/operator/x\n", "spiffe://A/operator/x", "spiffe://a@b/operator/x"],
)  # fmt: skip
def test_a_uri_that_is_almost_an_identity_is_none(uri: str) -> None:
    assert Identity.parse(uri) is None


def test_an_identity_survives_its_uri() -> None:
    for identity in [
        Identity("db.example", "host", "kbh-" + "a" * 12),
        Identity("db.example", "operator", "ann"),
    ]:
        assert Identity.parse(identity.uri) == identity


def test_problem_slugs_are_unique_and_an_unknown_one_is_internal() -> None:
    assert len({problem.slug for problem in Problem}) == len(Problem)
    assert all(Problem.named(problem.slug) is problem for problem in Problem)
    assert Problem.named("from-a-newer-broker") is Problem.INTERNAL
    assert {problem for problem in Problem if problem.temporary} == {
        Problem.UNAVAILABLE,
        Problem.UNREACHABLE,
        Problem.PENDING,
        Problem.SECOND_BOOT,
        Problem.BUSY,
        Problem.TOO_SLOW,
    }
