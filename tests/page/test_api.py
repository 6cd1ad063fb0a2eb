"""What is under /api: as described, the same as the pages show, and refused clearly when the question is nonsense."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest
import pytest_asyncio
from rig import KEY, until

from cdc_pusher.monitor.views import VIEWS, openapi
from page.scene import Scene, fails

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(made: Scene) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=made.url, trust_env=False) as client:
        yield client


async def asked(http: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    return (await http.get(f"/api{path}", params=parameters)).raise_for_status().json()


async def test_every_answer_is_as_described(made: Scene, http: httpx.AsyncClient) -> None:
    described = await asked(http, "/openapi.json")
    assert described == json.loads(json.dumps(openapi()))
    parameters = {"/api/map": {"emp": "roamer"}, "/api/map/behind": {"emp": "roamer"}, "/api/search": {"text": "straße"}}
    assert len(described["paths"]) == len(VIEWS)
    for path, methods in described["paths"].items():
        assert list(methods) == ["get"]
        assert methods["get"]["summary"]
        found = await asked(http, path.removeprefix("/api").replace("{station_id}", made.rejected), **parameters.get(path, {}))
        schema = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(found, {**schema, "components": described["components"], "unevaluatedProperties": False})


async def test_station_says_what_the_database_has_beside_what_the_emp_was_told(made: Scene, http: httpx.AsyncClient) -> None:
    station = made.fleet.stations[30].station_id
    before = await asked(http, f"/stations/{station}")
    assert [emp["emp"] for emp in before["emps"]] == ["driveline", "roamer"]
    assert [f["name"] for emp in before["emps"] for f in emp["fields"] if f["differs"]] == []
    # Behind the back of the triggers, so that it stays as it is.
    await made.rigged.sql("SET session_replication_role = replica")
    try:
        await made.rigged.sql("UPDATE station SET name = 'Another' WHERE id = %(id)s", id=station)
        await made.rigged.sql("UPDATE connector SET status = 'Reserved' WHERE station_id = %(id)s", id=station)
    finally:
        await made.rigged.sql("RESET session_replication_role")
    after = await asked(http, f"/stations/{station}")
    for emp in after["emps"]:
        assert [(f["name"], f["database"]) for f in emp["fields"] if f["differs"]] == [("name", "Another")]
        assert {s["database"] for s in emp["statuses"]} == {"Reserved"}
        assert any(s["differs"] for s in emp["statuses"])
    assert {a["kind"] for a in after["attempts"]} == {"station", "status"}
    assert after["attempts"] == sorted(after["attempts"], key=lambda a: a["sent_at"], reverse=True)


async def test_what_cannot_be_sent_says_why(made: Scene, http: httpx.AsyncClient) -> None:
    held = await asked(http, f"/stations/{made.held}")
    assert all("Neverland" in emp["wrong"] and "Neverland" in emp["reason"] for emp in held["emps"])
    found = await asked(http, "/problems", emp="driveline", state="held", text="neverland")
    assert [(one["key"], one["kind"]) for one in found["problems"]] == [(made.held, "station")]
    assert [(one["messages"], "Neverland" in one["reason"]) for one in found["groups"]] == [(1, False)]


async def test_station_that_is_gone_is_said_to_be_gone(made: Scene, http: httpx.AsyncClient) -> None:
    station = made.fleet.stations[50].station_id
    await made.rigged.sql("DELETE FROM connector WHERE station_id = %(id)s", id=station)
    await made.rigged.sql("DELETE FROM station WHERE id = %(id)s", id=station)
    await made.rigged.quiet()
    found = await asked(http, f"/stations/{station}")
    assert all(emp["deleted"] and "does not return it" in emp["wrong"] for emp in found["emps"])


@pytest.mark.parametrize("spelled", [str, str.lower])
async def test_everything_is_found_by_how_its_id_begins(made: Scene, http: httpx.AsyncClient, spelled: Any) -> None:
    station = made.fleet.stations[60]
    evse = station.connectors[0].evse_id
    assert station.station_id in [hit["key"] for hit in (await asked(http, "/search", text=spelled(station.station_id[:-1])))["hits"]]
    hits = (await asked(http, "/search", text=spelled(evse)))["hits"]
    assert [(hit["key"], hit["station_id"]) for hit in hits if hit["key"] == evse] == [(evse, station.station_id)]
    assert [emp for emp, _ in next(hit for hit in hits if hit["key"] == evse)["states"]] == ["driveline", "roamer"]


async def test_stations_are_found_by_words_of_name_and_place(made: Scene, http: httpx.AsyncClient) -> None:
    station = made.fleet.stations[60]
    words = f"{str(station.street).split()[0][:5]} {str(station.city)[:4]}"
    assert station.station_id in [hit["key"] for hit in (await asked(http, "/search", text=words))["hits"]]
    assert (await asked(http, "/search", text="xyzzy"))["hits"] == []
    assert (await asked(http, "/search", text="' | & !('"))["hits"] == []


async def test_map_has_every_station_once_page_by_page(made: Scene, http: httpx.AsyncClient) -> None:
    found: list[tuple[str, float, float]] = []
    after: str | None = ""
    while after is not None:
        page = await asked(http, "/map", emp="driveline", limit="50", **({"after": after} if after else {}))
        found += page["stations"]
        after = page["after"]
    places = {s.station_id: [float(s.longitude), float(s.latitude)] for s in made.fleet.stations}
    assert len({key for key, *_ in found}) == len(found) > 100
    assert all(places[key] == pytest.approx([x, y]) for key, x, y in found)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/map", 400, "emp is missing"),
        ("/api/map?emp=roamer&limit=0", 400, "limit: "),
        ("/api/map?emp=roamer&limit=x", 400, "limit: "),
        ("/api/problems?state=pending", 400, "state: "),
        ("/api/problems?what=else", 400, "no such parameter: what"),
        ("/api/problems?text=%00", 400, "text: "),
        ("/api/stations/nobody%27s", 404, "nobody's"),
        ("/api/nothing", 404, "Not Found"),
        ("/stations/%1b%5b31m", 400, "cannot be printed"),
    ],
)
async def test_nonsense_is_refused_in_one_line(http: httpx.AsyncClient, path: str, status: int, said: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == status
    line = answer.json()["error"] if path.startswith("/api") else answer.text.rstrip("\n")
    assert said in line
    assert line.isprintable()


async def test_no_answer_holds_a_key_or_how_to_connect(made: Scene, http: httpx.AsyncClient) -> None:
    for view in VIEWS:
        path = view.api_path.replace("{station_id:path}", made.rejected)
        for form in (path, path.removeprefix("/api").replace("/overview", "/")):
            said = (await http.get(form, params={"emp": "roamer"} if "map" in path else {}, headers={"Accept": "text/html"})).text
            assert KEY not in said
            assert made.rigged.dsn not in said


async def test_what_fails_is_seen_at_once_and_the_minute_tells_of_it(made: Scene, http: httpx.AsyncClient) -> None:
    await fails(made)

    async def roamer() -> Any:
        return next(emp for emp in (await asked(http, "/overview"))["emps"] if emp["name"] == "roamer")

    async def is_told() -> bool:
        found = await roamer()
        return bool(found["state"] == "fails" and found["minutes"] and found["minutes"][-1]["failed"] > 0)

    await until(is_told, "the overview tells of it", 60)
    found = await roamer()
    assert not found["is_well"]
    assert "HTTP 503" in found["breaker_reason"]
    assert "HTTP 503" in found["last_error"]
    assert sum(minute["delivered"] for minute in found["minutes"]) > 100
    assert 0 < found["minutes"][0]["lag_p50_s"] <= found["minutes"][0]["lag_p99_s"] < 60
    overview = await asked(http, "/overview")
    assert any("roamer fails" in one for one in overview["wrong"])
    assert next(emp for emp in overview["emps"] if emp["name"] == "driveline")["is_well"]
    made.bad.set_faults([])
    await made.rigged.quiet()
