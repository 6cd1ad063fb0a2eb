"""The sandbox EMP: each rule of the protocol and each fault, over a real connection."""

import asyncio
import contextlib
import copy
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from cdc_pusher.errors import CdcPusherError, ConfigurationError
from cdc_pusher.sandbox import Sandbox, SandboxSettings

EVSE_A, EVSE_B, EVSE_C = "DE*8PS*E1", "DE*8PS*E2", "DE*8PS*E3"
MISSING = object()


def station(station_id: str = "s1", *evse_ids: str, deleted: bool = False, **changes: Any) -> dict[str, Any]:
    return {
        "id": station_id,
        "name": "Town hall",
        "description": "Behind the church",
        "latitude": 52.5,
        "longitude": 13,
        "address": {"street": "Main Street", "street-number": "12a", "city": "Berlin", "zip": "10243", "country": "DE"},
        "contact": {"phone": "+49 30 1", "fax": "", "web": "www.example.com", "email": "a@example.com"},
        "cpo-id": "DE*8PS",
        "is-open-24": False,
        "connectors": [{"id": evse_id, "name": "Type2", "speed": 11.1} for evse_id in evse_ids or (EVSE_A, EVSE_B)],
        "open-hour-notes": [{"times": ["07:30", "24:00"], "days": ["Mo", "Fr"]}],
        "notes": "",
        "is-reservable": False,
        "floor-level": -1,
        "is-free-charge": False,
        "total-parking": 2,
        "is-green-power-available": True,
        "is-plugin-charge": False,
        "is-roofed": False,
        "is-private": False,
        "deleted": deleted,
        **changes,
    }


def changed(path: str, value: Any) -> dict[str, Any]:
    """A station with one field changed, or removed if the value is MISSING."""
    content = copy.deepcopy(station())
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = content
    for step in parents:
        place = place[step]
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return content


class Partner:
    """A CPO's side of the connection to one sandbox."""

    def __init__(self, sandbox: Sandbox, client: httpx.AsyncClient) -> None:
        self.sandbox = sandbox
        self.client = client
        self.headers = {"Authorization": "key=sandbox-key", "Content-Type": "application/json"}

    async def send(self, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(self.sandbox.url, content=content, headers={**self.headers, **headers})

    async def post(self, content: Any = None, partner: Any = "sandbox-partner-0001") -> httpx.Response:
        return await self.send({"station-post": {"station": content or station(), "partner-identifier": partner}})

    async def status(self, evse_id: Any = EVSE_A, status: Any = "Available", partner: Any = "sandbox-partner-0001") -> httpx.Response:
        return await self.send({"connector-post-status": {"connector-id": evse_id, "partner-identifier": partner, "status": status}})

    async def see(self, path: str) -> Any:
        return (await self.client.get(self.sandbox.root + path)).raise_for_status().json()

    @property
    def outcomes(self) -> list[str]:
        return [entry["outcome"] for entry in self.sandbox.ledger]


@asynccontextmanager
async def a_partner(*faults: dict[str, Any], **settings: Any) -> AsyncIterator[Partner]:
    async with Sandbox(SandboxSettings(faults=faults, **settings)) as sandbox, httpx.AsyncClient(timeout=5, trust_env=False) as client:
        yield Partner(sandbox, client)


@pytest.fixture
async def partner() -> AsyncIterator[Partner]:
    async with a_partner() as one:
        yield one


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never happened")


def result(answer: httpx.Response) -> tuple[int, int, str]:
    body = answer.json()
    assert body.keys() == {"result"}
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, body["result"]["code"], body["result"]["message"]


def is_success(answer: httpx.Response) -> bool:
    return result(answer) == (200, 0, "Success.")


async def give_up(partner: Partner, content: Any = None) -> None:
    """Sends a station and waits for its answer for a moment only."""
    body = {"station-post": {"station": content or station(), "partner-identifier": "sandbox-partner-0001"}}
    await partner.client.post(partner.sandbox.url, content=json.dumps(body), headers=partner.headers, timeout=0.05)


# The transport


@pytest.mark.parametrize("authorization", ["", "sandbox-key", "key=other", "Key=sandbox-key", "key=sandbox-keyx", "Bearer sandbox-key"])
async def test_wrong_key_is_210(partner: Partner, authorization: str) -> None:
    answer = await partner.send({"station-post": {}}, Authorization=authorization)
    assert result(answer)[:2] == (401, 210)
    assert partner.sandbox.stats()["refused"] == {"210": 1}


async def test_missing_key_is_210(partner: Partner) -> None:
    del partner.headers["Authorization"]
    assert result(await partner.post())[:2] == (401, 210)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/json;charset=utf-8", "text/plain", "Application/JSON", ""]
)
async def test_content_type_is_application_json_without_parameters(partner: Partner, content_type: str) -> None:
    partner.headers["Content-Type"] = content_type
    assert result(await partner.post()) == (400, 200, "Content-Type: must be application/json, without parameters")
    assert partner.sandbox.stations == {}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: is not JSON"),
        (b"{", "body: is not JSON"),
        (b'{"station-post": {"station": {"name": "\xe4"}}}', "body: is not UTF-8"),
        (json.dumps({"station-post": {}}).encode("utf-16"), "body: is not UTF-8"),
        (b"[" * 100_000, "body: is not JSON"),
        (b'{"station-post": {"station": {"latitude": NaN}}}', "body: NaN is not JSON"),
        (b'{"station-post": {}, "station-post": {}}', "body: has the same field twice in one object"),
        (b"[]", "body: must be an object"),
        (b"{}", "body: must have exactly one key"),
        (b'{"station-post": {}, "connector-post-status": {}}', "body: must have exactly one key"),
        (b'{"session-post": {}}', "body: must have exactly one key, station-post or connector-post-status, not session-post"),
        (b'{"station-post": []}', "station-post: must be an object"),
    ],
)
async def test_body_is_one_json_object_with_one_call(partner: Partner, body: bytes, message: str) -> None:
    http_status, code, said = result(await partner.send(body))
    assert (http_status, code) == (400, 200)
    assert said.startswith(message)


async def test_partner_identifier_must_match(partner: Partner) -> None:
    assert result(await partner.post(partner="another-partner-0002")) == (401, 211, "partner-identifier: is not known here")
    assert result(await partner.status(partner="another-partner-0002"))[:2] == (401, 211)
    assert result(await partner.post(partner=1)) == (400, 200, "partner-identifier: must be a string, not a number")
    assert result(await partner.send({"station-post": {"station": station()}})) == (400, 200, "partner-identifier: is missing")
    assert partner.sandbox.stations == {}


async def test_get_is_no_call(partner: Partner) -> None:
    assert (await partner.client.get(partner.sandbox.url)).status_code == 405


# station-post


async def test_station_with_every_field_is_taken(partner: Partner) -> None:
    assert is_success(await partner.post())
    assert partner.sandbox.stations == {"s1": {"station": station(), "statuses": {}}}


async def test_station_with_required_fields_only_is_taken(partner: Partner) -> None:
    required = ("id", "name", "latitude", "longitude", "address", "cpo-id", "is-open-24", "connectors", "deleted")
    content = {field: station()[field] for field in required} | {"contact": {"phone": "+49 30 1"}}
    assert is_success(await partner.post(content))


REQUIRED = (
    "id name latitude longitude address address.street address.street-number address.city address.zip address.country "
    "contact contact.phone cpo-id is-open-24 connectors connectors.0.id connectors.0.name connectors.0.speed deleted "
    "open-hour-notes.0.times open-hour-notes.0.days"
)


@pytest.mark.parametrize("field", REQUIRED.split())
async def test_required_field_may_not_be_missing(partner: Partner, field: str) -> None:
    place = field.replace(".0", "[0]")
    assert result(await partner.post(changed(field, MISSING))) == (400, 200, f"{place}: is missing")


REQUIRED_TEXTS = "id name address.street address.street-number address.city address.zip contact.phone cpo-id"


@pytest.mark.parametrize("field", REQUIRED_TEXTS.split())
@pytest.mark.parametrize("empty", ["", " "])
async def test_required_text_may_not_be_empty(partner: Partner, field: str, empty: str) -> None:
    assert result(await partner.post(changed(field, empty))) == (400, 200, f"{field}: must not be empty")


TEXTS = f"{REQUIRED_TEXTS} description notes address.country contact.fax contact.web contact.email connectors.0.id connectors.0.name"
FLAGS = "is-open-24 deleted is-reservable is-free-charge is-green-power-available is-plugin-charge is-roofed is-private"
NUMBERS = "latitude longitude connectors.0.speed"
INTEGERS = "floor-level total-parking"
ARRAYS = "connectors open-hour-notes open-hour-notes.0.times open-hour-notes.0.days"
OBJECTS = "address contact connectors.0 open-hour-notes.0"


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        (field, wanted)
        for fields, wanted in [
            (TEXTS, "a string"),
            (FLAGS, "a boolean"),
            (NUMBERS, "a number"),
            (INTEGERS, "an integer"),
            (ARRAYS, "an array"),
            (OBJECTS, "an object"),
        ]
        for field in fields.split()
    ],
)
async def test_every_type_is_strict(partner: Partner, field: str, wanted: str) -> None:
    place = field.replace(".0", "[0]")
    values = {"a string": "1", "a boolean": True, "a number": 1, "an array": [], "an object": {}, "null": None}
    for name, value in values.items():
        if name == wanted or (name == "a number" and wanted == "an integer"):
            continue
        assert result(await partner.post(changed(field, value))) == (400, 200, f"{place}: must be {wanted}, not {name}")
    assert partner.sandbox.stations == {}


@pytest.mark.parametrize("field", ["extra", "address.extra", "contact.website", "connectors.0.status", "open-hour-notes.0.extra"])
async def test_unknown_field_is_refused(partner: Partner, field: str) -> None:
    place = field.replace(".0", "[0]")
    assert result(await partner.post(changed(field, "x"))) == (400, 200, f"{place}: is not a known field")


async def test_unknown_field_beside_the_station_is_refused(partner: Partner) -> None:
    call = {"station": station(), "partner-identifier": "sandbox-partner-0001", "extra": 1}
    assert result(await partner.send({"station-post": call})) == (400, 200, "extra: is not a known field")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("latitude", 90.1, "latitude: must be at most 90, not 90.1"),
        ("latitude", -90.1, "latitude: must be at least -90, not -90.1"),
        ("longitude", 180.1, "longitude: must be at most 180, not 180.1"),
        ("longitude", -181, "longitude: must be at least -180, not -181"),
        ("connectors.0.speed", -1, "connectors[0].speed: must be at least 0, not -1"),
        ("total-parking", -1, "total-parking: must be at least 0, not -1"),
        ("total-parking", 2.0, "total-parking: must be an integer, not 2.0"),
        ("floor-level", 1.5, "floor-level: must be an integer, not 1.5"),
        ("address.country", "de", "address.country: 'de' is not a country code of two upper-case letters"),
        ("address.country", "DEU", "address.country: 'DEU' is not a country code of two upper-case letters"),
        ("connectors", [], "connectors: must not be empty"),
        ("connectors.0.name", "type2", "connectors[0].name: 'type2' is not one of 3PinSquare, "),
        ("connectors.0.name", "UNKNOWN", "connectors[0].name: 'UNKNOWN' is not one of "),
        ("open-hour-notes.0.times", ["07:30"], "open-hour-notes[0].times: must have 2 items, not 1"),
        ("open-hour-notes.0.times", ["7:30", "19:00"], "open-hour-notes[0].times[0]: '7:30' is not a time of day"),
        ("open-hour-notes.0.times", ["07:30", "24:01"], "open-hour-notes[0].times[1]: '24:01' is not a time of day"),
        ("open-hour-notes.0.times", ["07:30", "19:60"], "open-hour-notes[0].times[1]: '19:60' is not a time of day"),
        ("open-hour-notes.0.days", ["Mo", "Fr", "Sa"], "open-hour-notes[0].days: must have 2 items, not 3"),
        ("open-hour-notes.0.days", ["Mo", "Friday"], "open-hour-notes[0].days[1]: 'Friday' is not one of "),
    ],
)
async def test_value_out_of_its_range_is_refused(partner: Partner, field: str, value: Any, message: str) -> None:
    http_status, code, said = result(await partner.post(changed(field, value)))
    assert (http_status, code) == (400, 200)
    assert said.startswith(message)
    assert partner.sandbox.stations == {}


async def test_number_beyond_any_size_is_refused(partner: Partner) -> None:
    for number in ("1e999", "1" + "0" * 400):
        body = json.dumps({"station-post": {"station": changed("connectors.0.speed", 4711), "partner-identifier": "sandbox-partner-0001"}})
        assert result(await partner.send(body.replace("4711", number).encode()))[2] == "connectors[0].speed: must be finite"


async def test_every_connector_type_of_the_protocol_is_taken(partner: Partner) -> None:
    types = (
        "Type1 Type2 Type3 Combo Chademo Schuko CeeBlue CeeRed CeePlus Cee2Poles 3PinSquare Tesla Scame Nema5 T13 T15 T23 Marechal TypeE"
    )
    connectors = [{"id": f"DE8PSE{index}", "name": name, "speed": 0.5} for index, name in enumerate(types.split())]
    assert is_success(await partner.post(station(connectors=connectors)))


@pytest.mark.parametrize("evse_id", ["DE*8PS*E1", "de8psE1", "FR*A23E" + "1" * 30, "DE*8PS*E*"])
async def test_evse_id_of_the_protocol_is_taken(partner: Partner, evse_id: str) -> None:
    assert is_success(await partner.post(station("s1", evse_id)))
    assert is_success(await partner.status(evse_id))


@pytest.mark.parametrize(
    "evse_id", ["", "DE*8PS*E", "DE*8PS*e1", "DE*8PS*E1\n", "D*8PS*E1", "DE**8PS*E1", "DE*8PS*E" + "1" * 31, "+49*8PS*E1", "DE*8PS*Eä"]
)
async def test_evse_id_of_another_shape_is_refused(partner: Partner, evse_id: str) -> None:
    assert result(await partner.post(station("s1", evse_id))) == (400, 200, f"connectors[0].id: {evse_id!r} is not an EVSE id")
    assert result(await partner.status(evse_id)) == (400, 200, f"connector-id: {evse_id!r} is not an EVSE id")


# What the EMP holds


async def test_connectors_of_a_station_may_not_change(partner: Partner) -> None:
    await partner.post(station("s1", EVSE_A, EVSE_B))
    refused = (400, 200, f"connectors: may not change; added: {EVSE_C}; removed: {EVSE_B}")
    assert result(await partner.post(station("s1", EVSE_A, EVSE_C))) == refused
    refused = (400, 200, f"connectors: may not change; added: {EVSE_A}; removed: none")
    assert result(await partner.post(station("s1", EVSE_A, EVSE_A, EVSE_B))) == refused
    assert partner.sandbox.stations["s1"]["station"] == station("s1", EVSE_A, EVSE_B)


async def test_order_of_connectors_may_change(partner: Partner) -> None:
    await partner.post(station("s1", EVSE_A, EVSE_B))
    assert is_success(await partner.post(station("s1", EVSE_B, EVSE_A)))


async def test_connectors_may_change_if_the_sandbox_was_told_so() -> None:
    async with a_partner(connectors_may_change=True) as partner:
        await partner.post(station("s1", EVSE_A, EVSE_B))
        await partner.status(EVSE_A)
        await partner.status(EVSE_B)
        assert is_success(await partner.post(station("s1", EVSE_B, EVSE_C)))
        assert partner.sandbox.stations["s1"]["statuses"] == {EVSE_B: "Available"}
        assert is_success(await partner.post(station("s2", EVSE_A)))


async def test_deleted_station_comes_back_with_its_own_connectors_only(partner: Partner) -> None:
    await partner.post(station("s1", EVSE_A))
    assert is_success(await partner.post(station("s1", EVSE_A, deleted=True)))
    assert result(await partner.post(station("s1", EVSE_B)))[:2] == (400, 200)
    assert is_success(await partner.post(station("s1", EVSE_A)))


async def test_deleted_station_comes_back_with_other_connectors_if_the_sandbox_was_told_so() -> None:
    async with a_partner(connectors_may_change=True) as partner:
        await partner.post(station("s1", EVSE_A, deleted=True))
        assert is_success(await partner.post(station("s1", EVSE_B)))


async def test_evse_is_at_one_station_at_a_time(partner: Partner) -> None:
    await partner.post(station("s1", EVSE_A))
    assert result(await partner.post(station("s2", EVSE_B, EVSE_A))) == (400, 322, f"connectors: {EVSE_A} is at station s1")
    assert is_success(await partner.post(station("s3", EVSE_B)))


async def test_deleted_station_frees_its_evses(partner: Partner) -> None:
    await partner.post(station("s1", EVSE_A))
    await partner.post(station("s1", EVSE_A, deleted=True))
    assert is_success(await partner.post(station("s2", EVSE_A)))
    assert is_success(await partner.post(station("s1", EVSE_A, deleted=True)))
    assert is_success(await partner.status(EVSE_A))
    assert result(await partner.post(station("s1", EVSE_A)))[:2] == (400, 322)


async def test_several_connectors_may_share_an_evse_id_within_a_station(partner: Partner) -> None:
    assert is_success(await partner.post(station("s1", EVSE_A, EVSE_A)))
    assert is_success(await partner.status(EVSE_A))
    assert partner.sandbox.stations["s1"]["statuses"] == {EVSE_A: "Available"}


# connector-post-status


@pytest.mark.parametrize("status", ["Available", "Occupied", "Offline", "Reserved", "Unknown"])
async def test_status_of_a_pushed_station_is_taken(partner: Partner, status: str) -> None:
    await partner.post()
    assert is_success(await partner.status(EVSE_A, status))
    assert partner.sandbox.stations["s1"]["statuses"] == {EVSE_A: status}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"connector-id": EVSE_A, "status": "available"}, "status: 'available' is not one of "),
        ({"connector-id": EVSE_A, "status": True}, "status: must be a string, not a boolean"),
        ({"connector-id": 1, "status": "Available"}, "connector-id: must be a string, not a number"),
        ({"status": "Available"}, "connector-id: is missing"),
        ({"connector-id": EVSE_A}, "status: is missing"),
        ({"connector-id": EVSE_A, "status": "Available", "timestamp": "x"}, "timestamp: is not a known field"),
    ],
)
async def test_malformed_status_is_refused(partner: Partner, call: dict[str, Any], message: str) -> None:
    await partner.post()
    http_status, code, said = result(await partner.send({"connector-post-status": {**call, "partner-identifier": "sandbox-partner-0001"}}))
    assert (http_status, code) == (400, 200)
    assert said.startswith(message)


async def test_status_before_its_station_is_181(partner: Partner) -> None:
    assert result(await partner.status()) == (200, 181, f"connector-id: no station was pushed that has {EVSE_A}")
    assert partner.sandbox.stats()["status_before_station"] == 1


async def test_status_after_the_deletion_of_its_station_is_181(partner: Partner) -> None:
    await partner.post()
    await partner.post(station(deleted=True))
    assert result(await partner.status())[:2] == (200, 181)


async def test_repost_keeps_statuses_and_deletion_drops_them(partner: Partner) -> None:
    await partner.post()
    await partner.status()
    await partner.post(station(name="New name"))
    assert partner.sandbox.stations["s1"]["statuses"] == {EVSE_A: "Available"}
    await partner.post(station(deleted=True))
    assert partner.sandbox.stations["s1"] == {"station": station(deleted=True), "statuses": {}}
    await partner.post()
    assert partner.sandbox.stations["s1"] == {"station": station(), "statuses": {}}


# Inspection


async def test_stations_are_shown_with_what_was_accepted_last(partner: Partner) -> None:
    await partner.post()
    await partner.status(EVSE_B, "Occupied")
    await partner.post(station("s2", EVSE_C, deleted=True))
    assert await partner.see("/stations") == {
        "s1": {"station": station(), "statuses": {EVSE_B: "Occupied"}},
        "s2": {"station": station("s2", EVSE_C, deleted=True), "statuses": {}},
    }
    assert await partner.see("/stations") == partner.sandbox.stations


async def test_stats_count_by_kind_and_code(partner: Partner) -> None:
    await partner.post()
    await partner.status()
    await partner.status(EVSE_B)
    await partner.status(EVSE_C)
    await partner.post(station("s2"))
    assert await partner.see("/stats") == {
        "requests": 5,
        "accepted": {"station": 1, "status": 2},
        "refused": {"181": 1, "322": 1},
        "faults": {},
        "duplicates": 0,
        "overlaps": 0,
        "status_before_station": 1,
    }


async def test_ledger_has_every_request_in_order(partner: Partner) -> None:
    before = time.time()
    await partner.post()
    await partner.status(EVSE_C, "Occupied")
    await partner.send(b"{")
    ledger = await partner.see("/ledger")
    assert ledger == partner.sandbox.ledger
    assert all(before <= entry["received_at"] <= entry["finished_at"] <= time.time() for entry in ledger)
    rest = [{k: v for k, v in entry.items() if not k.endswith("_at")} for entry in ledger]
    assert rest == [
        {"seq": 1, "kind": "station", "key": "s1", "payload": station(), "outcome": "accepted", "applied": True},
        {
            "seq": 2,
            "kind": "status",
            "key": EVSE_C,
            "payload": {"connector-id": EVSE_C, "status": "Occupied"},
            "outcome": "refused:181",
            "applied": False,
        },
        {"seq": 3, "kind": None, "key": None, "payload": None, "outcome": "refused:200", "applied": False},
    ]


async def test_ledger_is_read_from_a_point_and_keeps_the_newest() -> None:
    async with a_partner(ledger_size=3) as partner:
        for _ in range(5):
            await partner.status()
        seqs = {
            query: [entry["seq"] for entry in await partner.see(f"/ledger{query}")] for query in ("", "?after=1", "?after=4", "?after=9")
        }
        assert seqs == {"": [3, 4, 5], "?after=1": [3, 4, 5], "?after=4": [5], "?after=9": []}
        assert [entry["seq"] for entry in await partner.see("/ledger?after=3&limit=1")] == [4]
        assert (await partner.client.get(partner.sandbox.root + "/ledger?after=x")).status_code == 400
        assert (await partner.client.delete(partner.sandbox.root + "/ledger")).status_code == 204
        await partner.status()
        assert [entry["seq"] for entry in await partner.see("/ledger?after=2")] == [6]


async def test_partner_identifier_and_key_are_never_shown(partner: Partner) -> None:
    await partner.post()
    await partner.status()
    await partner.post(partner="another-partner-0002")
    shown = json.dumps([await partner.see(path) for path in ("/stations", "/stats", "/ledger", "/faults")])
    assert "partner-0" not in shown
    assert "sandbox-key" not in shown


async def test_same_message_again_is_a_duplicate(partner: Partner) -> None:
    await partner.post()
    await partner.post()
    await partner.status()
    assert partner.sandbox.stats()["duplicates"] == 1
    await partner.status()
    assert partner.sandbox.stats()["duplicates"] == 2


async def test_message_with_another_in_between_is_no_duplicate(partner: Partner) -> None:
    for name in ("A", "B", "A"):
        await partner.post(station(name=name))
    for status in ("Available", "Occupied", "Available"):
        await partner.status(EVSE_A, status)
    assert partner.sandbox.stats()["duplicates"] == 0


async def test_status_after_its_station_is_no_duplicate(partner: Partner) -> None:
    await partner.post()
    await partner.status()
    await partner.post(station(name="New name"))
    await partner.status()
    assert partner.sandbox.stats()["duplicates"] == 0


LOST = [
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "garbage"},
    {"kind": "late", "seconds": 0},
    {"kind": "http", "status": 503},
    {"kind": "code", "code": 100},
    {"kind": "hang", "seconds": 0, "applied": True},
]


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault["kind"])
async def test_message_after_an_unknown_outcome_is_no_duplicate(partner: Partner, fault: dict[str, Any]) -> None:
    await partner.post(station(name="A"))
    partner.sandbox.set_faults([{**fault, "times": 1}])
    with contextlib.suppress(httpx.TransportError):
        await partner.post(station(name="B"))
    await until(lambda: len(partner.outcomes) == 2)
    await partner.post(station(name="B" if partner.sandbox.ledger[-1]["applied"] else "A"))
    assert partner.outcomes == ["accepted", f"fault:{fault['kind']}", "accepted"]
    assert partner.sandbox.stats()["duplicates"] == 0


async def test_message_before_a_late_one_is_no_duplicate(partner: Partner) -> None:
    await partner.post(station(name="A"))
    partner.sandbox.set_faults([{"kind": "late", "seconds": 0.1, "times": 1}])
    with pytest.raises(httpx.TransportError):
        await partner.post(station(name="B"))
    await partner.post(station(name="A"))
    assert partner.outcomes == ["accepted", "accepted"]
    assert partner.sandbox.stats()["duplicates"] == 0


async def test_message_after_an_untold_refusal_is_no_duplicate(partner: Partner) -> None:
    await partner.post()
    partner.sandbox.set_faults([{"kind": "drop_after", "times": 1}])
    with pytest.raises(httpx.TransportError):
        await partner.post(station("s1", EVSE_C))
    await partner.post()
    assert partner.outcomes == ["accepted", "fault:drop_after", "accepted"]
    assert partner.sandbox.stats()["duplicates"] == 0


async def test_station_after_a_status_that_was_told_181_is_no_duplicate(partner: Partner) -> None:
    await partner.post()
    partner.sandbox.set_faults([{"kind": "code", "code": 181, "match": "status"}])
    assert result(await partner.status())[:2] == (200, 181)
    await partner.post()
    assert partner.sandbox.stats()["duplicates"] == 0
    assert partner.sandbox.stats()["status_before_station"] == 0


async def test_two_requests_for_one_entity_at_the_same_time_overlap() -> None:
    async with a_partner({"kind": "delay", "seconds": 0.1}) as partner:
        await asyncio.gather(partner.post(), partner.post(), partner.post(station("s2", EVSE_C)), partner.status(EVSE_C))
        assert partner.sandbox.stats()["overlaps"] == 1


async def test_one_request_after_the_other_is_no_overlap() -> None:
    async with a_partner({"kind": "delay", "seconds": [0, 0.01]}) as partner:
        for _ in range(20):
            await partner.post()
        assert partner.sandbox.stats()["overlaps"] == 0


async def test_request_after_the_client_gave_up_is_no_overlap() -> None:
    async with a_partner({"kind": "hang", "times": 1}, {"kind": "delay", "seconds": 0.1, "times": 1}) as partner:
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                await give_up(partner)
        assert is_success(await partner.post())
        assert partner.sandbox.stats()["overlaps"] == 0


# Misbehaviour


async def test_delay_goes_on_normally() -> None:
    async with a_partner({"kind": "delay", "seconds": 0.1}) as partner:
        before = time.monotonic()
        assert is_success(await partner.post())
        assert time.monotonic() - before >= 0.1
        assert partner.outcomes == ["accepted"]
        assert partner.sandbox.stats()["faults"] == {"delay": 1}
        entry = partner.sandbox.ledger[0]
        assert entry["finished_at"] is not None
        assert entry["finished_at"] - entry["received_at"] >= 0.09


async def test_delay_lies_between_its_bounds() -> None:
    async with a_partner({"kind": "delay", "seconds": [0.02, 0.04]}) as partner:
        before = time.monotonic()
        await partner.post()
        assert time.monotonic() - before >= 0.02


async def test_delayed_message_is_processed_although_its_client_left() -> None:
    async with a_partner({"kind": "delay", "seconds": 0.15}) as partner:
        with pytest.raises(httpx.ReadTimeout):
            await give_up(partner)
        assert partner.sandbox.stations == {}
        await until(lambda: "s1" in partner.sandbox.stations)
        partner.sandbox.set_faults([])
        await partner.post()
        assert partner.sandbox.stats()["duplicates"] == 0


@pytest.mark.parametrize(("status", "retry_after"), [(500, None), (503, 7), (429, "Wed, 21 Oct 2026 07:28:00 GMT"), (302, None)])
async def test_http_fault_is_not_applied(status: int, retry_after: int | str | None) -> None:
    async with a_partner({"kind": "http", "status": status, "retry_after": retry_after}) as partner:
        answer = await partner.post()
        assert answer.status_code == status
        assert answer.headers.get("Retry-After") == (None if retry_after is None else str(retry_after))
        assert partner.sandbox.stations == {}
        assert partner.outcomes == ["fault:http"]


async def test_drop_before_is_not_applied() -> None:
    async with a_partner({"kind": "drop_before"}) as partner:
        with pytest.raises(httpx.TransportError):
            await partner.post()
        assert partner.sandbox.stations == {}
        assert [(entry["outcome"], entry["applied"]) for entry in partner.sandbox.ledger] == [("fault:drop_before", False)]


async def test_drop_after_is_applied_without_an_answer() -> None:
    async with a_partner({"kind": "drop_after"}) as partner:
        with pytest.raises(httpx.TransportError):
            await partner.post()
        assert "s1" in partner.sandbox.stations
        assert [(entry["outcome"], entry["applied"]) for entry in partner.sandbox.ledger] == [("fault:drop_after", True)]


async def test_drop_after_applies_the_rules() -> None:
    async with a_partner({"kind": "drop_after"}) as partner:
        with pytest.raises(httpx.TransportError):
            await partner.status()
        assert [(entry["outcome"], entry["applied"]) for entry in partner.sandbox.ledger] == [("fault:drop_after", False)]
        assert partner.sandbox.stats()["status_before_station"] == 1


@pytest.mark.parametrize("applied", [False, True])
async def test_hang_lasts_until_the_client_leaves(applied: bool) -> None:
    async with a_partner({"kind": "hang", "applied": applied}) as partner:
        leaving = asyncio.create_task(partner.post())
        await until(lambda: partner.outcomes == ["fault:hang"])
        assert ("s1" in partner.sandbox.stations) is applied
        assert partner.sandbox.ledger[0]["applied"] is applied
        assert partner.sandbox.ledger[0]["finished_at"] is None
        leaving.cancel()
        await until(lambda: partner.sandbox.ledger[0]["finished_at"] is not None)


async def test_hang_ends_after_its_seconds_without_an_answer() -> None:
    async with a_partner({"kind": "hang", "seconds": 0.05}) as partner:
        with pytest.raises(httpx.RemoteProtocolError):
            await partner.post()
        assert partner.sandbox.stations == {}


async def test_garbage_is_applied_and_cannot_be_read() -> None:
    async with a_partner({"kind": "garbage"}) as partner:
        answer = await partner.post()
        assert answer.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            answer.json()
        assert "s1" in partner.sandbox.stations
        assert [(entry["outcome"], entry["applied"]) for entry in partner.sandbox.ledger] == [("fault:garbage", True)]


@pytest.mark.parametrize(
    ("fault", "http_status"),
    [
        ({"code": 100}, 200),
        ({"code": 181}, 200),
        ({"code": 200}, 400),
        ({"code": 210}, 401),
        ({"code": 211}, 401),
        ({"code": 322}, 400),
        ({"code": 322, "status": 409}, 409),
    ],
)
async def test_code_is_answered_and_not_applied(fault: dict[str, int], http_status: int) -> None:
    async with a_partner({"kind": "code", **fault}) as partner:
        assert result(await partner.post())[:2] == (http_status, fault["code"])
        assert partner.sandbox.stations == {}
        assert partner.outcomes == ["fault:code"]
        assert partner.sandbox.stats()["refused"] == {}


async def test_late_message_is_processed_after_its_connection_broke() -> None:
    async with a_partner({"kind": "late", "seconds": 0.1, "times": 1}) as partner:
        with pytest.raises(httpx.TransportError):
            await partner.post(station(name="old"))
        assert partner.sandbox.stations == {}
        assert is_success(await partner.post(station(name="new")))
        await until(lambda: partner.sandbox.stations["s1"]["station"]["name"] == "old")
        assert partner.outcomes == ["accepted", "fault:late"]
        assert partner.sandbox.ledger[-1]["applied"]
        assert partner.sandbox.stats()["overlaps"] == 0


async def test_match_and_times_bound_a_rule() -> None:
    async with a_partner({"kind": "http", "status": 503, "match": "status", "times": 2}) as partner:
        await partner.post()
        for _ in range(3):
            await partner.status()
        assert partner.outcomes == ["accepted", "fault:http", "fault:http", "accepted"]


async def test_first_rule_that_strikes_is_the_one() -> None:
    never = {"kind": "drop_before", "probability": 0}
    async with a_partner(never, {"kind": "code", "code": 100, "times": 1}, {"kind": "garbage"}) as partner:
        for _ in range(2):
            await partner.post()
        assert partner.outcomes == ["fault:code", "fault:garbage"]


async def test_fault_without_match_strikes_an_unreadable_request() -> None:
    async with a_partner({"kind": "garbage", "match": "station"}, {"kind": "http", "status": 500}) as partner:
        assert (await partner.send(b"{")).status_code == 500


async def test_same_seed_gives_the_same_faults() -> None:
    rules = [{"kind": "http", "status": 503, "probability": 0.3}, {"kind": "code", "code": 100, "probability": 0.3}]

    async def outcomes(seed: int) -> list[str]:
        async with a_partner(*rules, seed=seed) as partner:
            for _ in range(40):
                await partner.post()
            return partner.outcomes

    first = await outcomes(1)
    assert set(first) == {"accepted", "fault:http", "fault:code"}
    assert await outcomes(1) == first
    assert await outcomes(2) != first


async def test_faults_change_while_running(partner: Partner) -> None:
    url = partner.sandbox.root + "/faults"
    rules = [
        {"kind": "hang", "probability": 0.5, "seconds": [0.01, 0.02], "applied": True},
        {"kind": "http", "status": 503, "probability": 1},
    ]
    told = {"seed": 7, "rules": rules}
    assert (await partner.client.put(url, json=told)).json() == told
    assert await partner.see("/faults") == told
    assert (await partner.client.put(url, json=rules[1:])).json() == {"seed": 7, "rules": rules[1:]}
    assert (await partner.post()).status_code == 503
    assert (await partner.client.put(url, json=[])).json() == {"seed": 7, "rules": []}
    assert is_success(await partner.post())


MISTAKES = [
    ({}, "rules: is missing"),
    ({"rules": [], "sed": 1}, "sed: is not a known field"),
    ({"rules": [], "seed": "1"}, "seed: must be an integer, not a string"),
    (1, "body: must be an object, not a number"),
    (["delay"], "rules[0]: must be an object with a kind, one of delay, http, "),
    ([{"probability": 1}], "rules[0]: must be an object with a kind, one of delay, http, "),
    ([{"kind": "explode"}], "rules[0].kind: 'explode' is not one of code, delay, "),
    ([{"kind": "garbage"}, {"kind": "delay"}], "rules[1].seconds: is missing"),
    ([{"kind": "delay", "seconds": [2, 1]}], "rules[0].seconds: must be [min, max], not [2, 1]"),
    ([{"kind": "delay", "seconds": [1]}], "rules[0].seconds: must have 2 items, not 1"),
    ([{"kind": "delay", "seconds": -1}], "rules[0].seconds: must be at least 0, not -1"),
    ([{"kind": "http"}], "rules[0].status: is missing"),
    ([{"kind": "http", "status": 200}], "rules[0].status: must be at least 300, not 200"),
    ([{"kind": "http", "status": 503, "retry_after": -1}], "rules[0].retry_after: must be at least 0, not -1"),
    ([{"kind": "code"}], "rules[0].code: is missing"),
    ([{"kind": "late"}], "rules[0].seconds: is missing"),
    ([{"kind": "hang", "applied": 1}], "rules[0].applied: must be a boolean, not a number"),
    ([{"kind": "garbage", "probability": 1.5}], "rules[0].probability: must be at most 1, not 1.5"),
    ([{"kind": "garbage", "match": "stations"}], "rules[0].match: 'stations' is not one of station, status"),
    ([{"kind": "garbage", "times": 0}], "rules[0].times: must be at least 1, not 0"),
    ([{"kind": "garbage", "seconds": 1}], "rules[0].seconds: is not a known field"),
]


@pytest.mark.parametrize(("document", "message"), MISTAKES)
async def test_mistake_in_the_faults_is_named_and_changes_nothing(partner: Partner, document: Any, message: str) -> None:
    before = await partner.see("/faults")
    answer = await partner.client.put(partner.sandbox.root + "/faults", json=document)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(message)
    assert await partner.see("/faults") == before


async def test_faults_that_are_not_json_are_refused(partner: Partner) -> None:
    answer = await partner.client.put(partner.sandbox.root + "/faults", content=b"{")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("body: is not JSON")


def test_mistake_in_the_settings_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"rules\[0\].status: is missing"):
        Sandbox(SandboxSettings(faults=({"kind": "http"},)))


@pytest.mark.parametrize(
    "fault", [{"kind": "drop_before"}, {"kind": "hang"}, {"kind": "http", "status": 500}], ids=lambda fault: fault["kind"]
)
async def test_no_fault_touches_the_inspection(fault: dict[str, Any]) -> None:
    async with a_partner(fault) as partner:
        for path in ("/stations", "/stats", "/ledger", "/faults"):
            await partner.see(path)
        assert partner.sandbox.stats()["faults"] == {}


# Starting and stopping


async def test_port_in_use_is_an_error_in_one_line(partner: Partner) -> None:
    port = int(partner.sandbox.root.rpartition(":")[2])
    with pytest.raises(CdcPusherError, match=f"cannot listen at 127.0.0.1:{port}"):
        async with Sandbox(SandboxSettings(port=port)):
            pass


async def test_state_stays_readable_after_the_stop() -> None:
    async with a_partner() as partner:
        await partner.post()
    assert partner.sandbox.stations["s1"]["station"] == station()
    assert partner.outcomes == ["accepted"]


async def test_sandbox_stops_in_no_time_while_requests_wait() -> None:
    rules = [{"kind": kind, "seconds": 60, "times": 3} for kind in ("hang", "delay", "late")]
    async with a_partner(*rules) as partner:
        waiting = [asyncio.create_task(partner.post(station(f"s{number}"))) for number in range(9)]
        await until(lambda: sum(partner.sandbox.stats()["faults"].values()) == 9)
        before = time.monotonic()
        await partner.sandbox.__aexit__(None, None, None)
        assert time.monotonic() - before < 1
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("sandbox")]
        assert all(entry["finished_at"] for entry in partner.sandbox.ledger)
        assert all(isinstance(error, httpx.TransportError) for error in await asyncio.gather(*waiting, return_exceptions=True))
        assert partner.sandbox.stations == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_announces_its_url_and_ends_on_a_signal(number: signal.Signals) -> None:
    program = (
        "import asyncio, functools\n"
        "from cdc_pusher.sandbox import SandboxSettings, serve\n"
        "settings = SandboxSettings(faults=({'kind': 'hang'},))\n"
        "asyncio.run(serve(settings, announce=functools.partial(print, flush=True)))\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 10)).decode()
    url = line.rsplit(maxsplit=1)[-1]
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        hanging = asyncio.create_task(client.post(url, content=b"{}"))
        stats = url.replace("/api/v4/request", "/stats")
        for _ in range(1000):
            if (await client.get(stats)).json()["faults"]:
                break
        before = time.monotonic()
        process.send_signal(number)
        stdout, stderr = await asyncio.wait_for(process.communicate(), 10)
        assert time.monotonic() - before < 1
        assert (process.returncode, stdout, stderr) == (0, b"", b"")
        with pytest.raises(httpx.TransportError):
            await hanging


async def test_sandbox_does_not_know_the_encoder_of_the_sender() -> None:
    program = "import sys, cdc_pusher.sandbox; sys.exit('cdc_pusher.oioi' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0
