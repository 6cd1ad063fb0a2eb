"""Each question of docs/cookbook.md, asked of a database where it has an answer: the answer is right, and looks as the page says."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from pages import DOCS, Block, blocks, table
from psycopg.rows import dict_row
from rig import KEY, Rig, Row, evse_id, rig, until
from test_migrate import run

from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.sandbox import Sandbox, SandboxSettings

QUESTIONS = {int(block.heading.partition(".")[0]): block for block in blocks(DOCS / "cookbook.md") if block.language == "sql"}
MOMENT = "2026-03-01 14:05"
UNANSWERED = "SELECT attempts > 1 FROM cdc_pusher.outbox WHERE emp = 'north' AND key = %(key)s"
FAILS = "SELECT breaker_reason IS NOT NULL FROM cdc_pusher.emp WHERE name = 'south'"
HEALED = "SELECT min(healed) > 0 AND count(walk) = 0 FROM cdc_pusher.emp WHERE name <> 'south'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    columns: list[str]
    rows: list[Row]

    def of(self, **values: object) -> list[Row]:
        """The rows with these values."""
        return [row for row in self.rows if all(row[name] == value for name, value in values.items())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What was played, with the answers while a daemon was at work; `asked(n, …)` replaces words of a query."""

    asked: Callable[..., Answer]
    began: datetime
    moment: datetime


async def play(made: Rig, plugsurfing: Sandbox, north: Sandbox, south: Sandbox) -> datetime:
    """Stations of all kinds, a moment to ask for, a burst, and what goes wrong; returns the moment."""
    await made.sql("SET timezone = 'UTC'")
    await made.build("S1", evses=2)
    await made.build("S2", "S3", "S4", "S5", "S7")
    await made.sql("UPDATE station SET zip = '' WHERE id = 'S4'")
    await made.set_status("S5", "Foo")
    south.set_faults([{"kind": "http", "status": 503}])
    await made.ready_daemon()
    await until(lambda: _settled(made), "the full load is delivered where it can be")
    plugsurfing.set_faults([{"kind": "code", "code": 322, "match": "station", "times": 1}])
    await made.build("S6")
    await until(lambda: _settled(made), "S6 is refused by plugsurfing")
    await told(made, "S1", "Occupied", plugsurfing, north)
    moment: datetime = await made.value("SELECT clock_timestamp()")
    north.set_faults([{"kind": "hang", "match": "status"}])
    await told(made, "S1", "Reserved", plugsurfing)
    north.set_faults([])
    await until(lambda: _settled(made), "north has it, too")
    for turn in range(8):
        await told(made, "S3", ("Occupied", "Available")[turn % 2], plugsurfing)
    await made.sql("SET session_replication_role = replica")
    await made.sql("UPDATE station SET name = 'nobody told of it' WHERE id = 'S7'")
    await made.sql("SET session_replication_role = origin")
    await made.sql("SELECT nextval('cdc_pusher.missed')")
    await until(lambda: made.value(HEALED), "a sweep has healed it")
    await until(lambda: _settled(made), "it is sent")
    north.set_faults([{"kind": "hang", "match": "status"}])
    await told(made, "S2", "Occupied", plugsurfing)
    await until(lambda: made.value(UNANSWERED, key=evse_id("S2")), "north has not answered twice")
    await until(lambda: made.value(FAILS), "south fails as a whole")
    return moment


async def told(made: Rig, station: str, status: str, *emps: Sandbox) -> None:
    await made.set_status(station, status)
    await until(lambda: all(e.stations[station]["statuses"].get(evse_id(station)) == status for e in emps), f"{status} has arrived")


async def _settled(made: Rig) -> bool:
    """Whether nothing that can be sent to the EMPs that work is still to be sent."""
    query = """
        SELECT NOT EXISTS (SELECT FROM cdc_pusher.change) AND NOT EXISTS (SELECT FROM cdc_pusher.emp WHERE walk IS NOT NULL)
            AND NOT EXISTS (
                SELECT FROM cdc_pusher.outbox
                WHERE emp <> 'south' AND (state = 'in_flight' OR (state = 'pending' AND next_attempt_at IS NOT NULL))
            ) AND (SELECT count(DISTINCT emp) = 3 FROM cdc_pusher.outbox)"""
    return bool(await made.value(query))


@pytest.fixture(scope="module")
def situation(embedded_postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Situation]:
    run(embedded_postgres.dsn(), "CREATE DATABASE cookbook")
    dsn = embedded_postgres.dsn("cookbook")
    found: dict[str, Answer] = {}
    began = datetime.now(UTC)

    def ask(query: str) -> Answer:
        with psycopg.connect(dsn, row_factory=dict_row) as conn:
            conn.execute("SET TRANSACTION READ ONLY")
            conn.execute("SET LOCAL timezone = 'UTC'")
            cursor = conn.execute(query.encode())
            return Answer(columns=[column.name for column in cursor.description or ()], rows=cursor.fetchall())

    async def scene(directory: Path) -> datetime:
        async with AsyncExitStack() as stack:
            emps = [await stack.enter_async_context(Sandbox(SandboxSettings(api_key=KEY))) for _ in range(3)]
            made = await stack.enter_async_context(rig(dsn, directory))
            for name, emp in zip(("plugsurfing", "north", "south"), emps, strict=True):
                made.add_emp(name, emp)
            moment = await play(made, *emps)
            for block in QUESTIONS.values():
                found[block.text] = await asyncio.to_thread(ask, block.text)
            return moment

    moment = asyncio.run(scene(tmp_path_factory.mktemp("cookbook")))

    def asked(number: int, *replaced: tuple[str, str]) -> Answer:
        query = QUESTIONS[number].text
        if not replaced:
            return found[query]
        for old, new in replaced:
            assert old in query
            query = query.replace(old, new)
        return ask(query)

    yield Situation(asked=asked, began=began, moment=moment)
    run(embedded_postgres.dsn(), "DROP DATABASE cookbook WITH (FORCE)")


# ── as the page says ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_there_are_fifteen_questions() -> None:
    assert list(QUESTIONS) == list(range(1, 16))
    assert {int(name.split("_")[1]) for name in globals() if name.startswith(("test_0", "test_1"))} == set(QUESTIONS)


@pytest.mark.parametrize("block", QUESTIONS.values(), ids=lambda block: block.heading)
def test_the_answer_has_the_shape_that_is_shown(situation: Situation, block: Block) -> None:
    header, *rows = table(block.after)
    assert situation.asked(int(block.heading.partition(".")[0])).columns == header
    assert rows
    assert {len(row) for row in rows} == {len(header)}


# ── and right ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_01_every_problem_is_a_sentence(situation: Situation) -> None:
    said = [row["problem"] for row in situation.asked(1).rows]
    for wanted in (
        "plugsurfing does not get station S4 since …: held, because zip: is blank ('')",
        "plugsurfing does not get the status of EVSE DE*8PS*ES4*1 (station S4) since …: "
        "waits for its station, which is held, because zip: is blank ('')",
        "plugsurfing does not get station S6 since …: rejected, because of HTTP 400, code 322: This is a fault of the sandbox.",
        "north does not get the status of EVSE DE*8PS*ES2*1 (station S2) since …: … no answer within 1 s",
    ):
        pattern = re.escape(wanted).replace("since …", r"since [\d-]*\ ?[\d:]{8}").replace("…", ".*")
        assert any(re.fullmatch(pattern, line) for line in said), wanted
    assert not any(line.startswith("plugsurfing") and "S1" in line for line in said)


def test_02_problems_are_counted_by_cause(situation: Situation) -> None:
    (blank,) = situation.asked(2).of(emp="plugsurfing", cause="zip: is blank")
    assert (blank["state"], blank["kind"], blank["messages"]) == ("held", "station", 1)
    (waiting,) = situation.asked(2).of(emp="plugsurfing", cause="waits until the EMP has accepted its station")
    assert waiting["messages"] == 2
    assert situation.began < waiting["oldest"] < datetime.now(UTC)


def test_03_data_to_be_mended_are_named_once(situation: Situation) -> None:
    assert situation.asked(3).rows == [
        {"station_id": "S4", "key": "S4", "reason": "zip: is blank ('')", "emps": "north, plugsurfing, south"},
        {"station_id": "S5", "key": evse_id("S5"), "reason": "status: is no OIOI status ('Foo')", "emps": "north, plugsurfing, south"},
    ]


def test_04_stations_that_hold_statuses_back_are_named(situation: Situation) -> None:
    assert [(r["station_id"], r["state"], r["statuses"]) for r in situation.asked(4).of(emp="plugsurfing")] == [
        ("S4", "held", 1),
        ("S6", "rejected", 1),
    ]
    assert [r["station_id"] for r in situation.asked(4).of(emp="north")] == ["S4"]


def test_05_refusals_are_counted_by_code(situation: Situation) -> None:
    (refused,) = situation.asked(5).rows
    assert (refused["emp"], refused["kind"], refused["result_code"], refused["requests"], refused["messages"]) == (
        *("plugsurfing", "station", 322, 1, 1),
    )
    assert "322" in refused["example"]


def test_06_what_each_emp_believes_of_a_station(situation: Situation) -> None:
    (north,) = situation.asked(6).of(emp="north")
    assert (north["status"], north["status_at_emp"], north["status_maybe_at_emp"]) == ("Occupied", "Available", "Occupied")
    (plugsurfing,) = situation.asked(6).of(emp="plugsurfing")
    assert (plugsurfing["status"], plugsurfing["status_at_emp"], plugsurfing["status_maybe_at_emp"]) == ("Occupied", "Occupied", None)
    assert plugsurfing["status_accepted_at"] > north["status_accepted_at"]


def test_07_what_was_sent_and_what_came_back(situation: Situation) -> None:
    rows = situation.asked(7).rows
    assert [row["sent_at"] for row in rows] == sorted((row["sent_at"] for row in rows), reverse=True)
    assert [row["outcome"] for row in rows if row["emp"] == "plugsurfing"] == ["accepted", "accepted"]
    north = [(row["outcome"], row["http_status"]) for row in rows if row["emp"] == "north"]
    assert north == [*[("retry", None)] * (len(north) - 1), ("accepted", 200)]
    assert len(north) > 2


def test_08_what_was_known_at_a_moment(situation: Situation) -> None:
    at = (MOMENT, situation.moment.isoformat())
    changed = situation.asked(8, at)
    (plugsurfing,) = changed.of(emp="plugsurfing")
    assert plugsurfing["accepted_at"] < situation.moment < plugsurfing["replaced_at"]
    assert plugsurfing["status"] is None, "it was Occupied; the trail has no contents"
    (later,) = situation.asked(8, (MOMENT, (situation.moment + timedelta(minutes=5)).isoformat())).of(emp="plugsurfing")
    assert (later["status"], later["replaced_at"]) == ("Reserved", None)
    assert later["gen"] > plugsurfing["gen"]
    (unchanged,) = situation.asked(8, at, (evse_id("S1"), evse_id("S1", 2))).of(emp="plugsurfing")
    assert (unchanged["status"], unchanged["replaced_at"], unchanged["unanswered"]) == ("Available", None, 0)
    before = situation.asked(8, (MOMENT, situation.began.isoformat()))
    (nothing,) = before.of(emp="north")
    assert (nothing["accepted_at"], nothing["status"]) == (None, None)
    now = (MOMENT, datetime.now(UTC).isoformat())
    (doubted,) = situation.asked(8, now, (evse_id("S1"), evse_id("S2"))).of(emp="north")
    assert (doubted["status"], doubted["unanswered"] > 0) == ("Available", True)


def test_09_where_drivers_may_see_something_wrong(situation: Situation) -> None:
    wrong = {(row["emp"], row["station_id"]) for row in situation.asked(9).rows if row["emp"] != "south"}
    assert wrong == {("north", "S2"), ("north", "S4"), ("plugsurfing", "S4"), ("plugsurfing", "S6")}
    assert {row["evse_id"] for row in situation.asked(9).of(emp="south", station_id="S1")} == {evse_id("S1"), evse_id("S1", 2)}


def test_10_which_emp_lags(situation: Situation) -> None:
    lag = {row["emp"]: row for row in situation.asked(10).rows}
    assert [row["emp"] for row in situation.asked(10).rows] == ["south", "north", "plugsurfing"]
    assert (lag["plugsurfing"]["waiting"], lag["plugsurfing"]["late_by"]) == (2, None)
    assert lag["plugsurfing"]["lag"] > lag["north"]["late_by"] > timedelta(0)
    assert lag["south"]["undelivered"] > 10


def test_11_how_each_emp_does_and_who_serves_it(situation: Situation) -> None:
    does = {row["emp"]: row for row in situation.asked(11).rows}
    assert (does["plugsurfing"]["condition"], does["north"]["condition"]) == ("works", "works")
    assert does["south"]["condition"].startswith("fails: HTTP 503")
    assert [(does[e]["stations_delivered"], does[e]["stations"], does[e]["rejected"]) for e in ("plugsurfing", "north", "south")] == [
        *((5, 7, 1), (6, 7, 0), (0, 7, 0)),
    ]
    assert len({row["served_by"] for row in does.values()} - {None}) == 1


def test_12_which_emp_is_slow_or_fails(situation: Situation) -> None:
    rows = situation.asked(12).rows
    of = {name: [row for row in rows if row["emp"] == name] for name in ("plugsurfing", "north", "south")}
    assert all(row["requests"] == row["failed"] > 0 for row in of["south"])
    assert sum(row["failed"] for row in of["plugsurfing"]) == 1
    assert all(row["p50_ms"] < 1000 for row in of["plugsurfing"])
    slowest = situation.asked(12, ("percentile_disc(0.95)", "percentile_disc(1)")).of(emp="north")
    assert max(row["p95_ms"] for row in slowest) >= 1000, "one that did not answer"


def test_13_whether_capture_keeps_up(situation: Situation) -> None:
    assert situation.asked(13).rows == []
    waits = "(VALUES (0, 'S1', now() - interval '3 s'), (0, 'S1', now()), (10, 'S2', now())) AS c (priority, station_id, changed_at)"
    answer = situation.asked(13, ("cdc_pusher.change", waits)).rows
    assert [(row["what"], row["changes"], row["stations"]) for row in answer] == [("live", 2, 1), ("full load or resync", 1, 1)]
    assert answer[0]["oldest"] == timedelta(seconds=3)


def test_14_which_stations_burst(situation: Situation) -> None:
    messages: dict[str, int] = {}
    requests: dict[str, int] = {}
    of_one_minute: dict[str, int] = {}  # what is sent again in the next minute is counted there, too
    for row in situation.asked(14).rows:
        station = row["station_id"]
        messages[station] = messages.get(station, 0) + row["messages"]
        requests[station] = requests.get(station, 0) + row["requests"]
        of_one_minute[station] = max(of_one_minute.get(station, 0), row["messages"])
    assert max(messages, key=messages.__getitem__) == "S3"
    assert messages["S3"] >= 8
    assert requests["S2"] > of_one_minute["S2"], "tried again"


def test_15_what_a_sweep_found(situation: Situation) -> None:
    for name in ("plugsurfing", "north"):
        (found,) = situation.asked(15).of(emp=name)
        assert found["healed"] == 1
        assert situation.moment < found["healed_at"] <= found["sweep_completed_at"]


def test_the_answer_does_not_depend_on_more_than_the_right_to_read(situation: Situation) -> None:
    assert all(block.text.lstrip().upper().startswith(("SELECT", "WITH")) for block in QUESTIONS.values())
    assert situation.asked(1).rows
