"""Bad input, each kind named by `check` with examples, held at run time, and none of it stops the rest."""

import asyncio
import resource
from collections.abc import Mapping
from typing import Any

import pytest
from checking import CONNECTORS, STATIONS, bad, build, checked, only, run, settings, texts
from hand import hand
from psycopg.conninfo import make_conninfo

from cdc_pusher import migrate, triggers
from cdc_pusher.config import SourceSettings
from cdc_pusher.database import connect

BAD = "UPDATE site SET {} WHERE station_id = 'bad'"
JSON_NAME = STATIONS.replace("name,", "extra AS name,")
DIVIDED = STATIONS.replace("notes FROM", "(1 / divisor)::text AS notes FROM")

# What is done to the data (or the mapping), what `check` says of it, the example.
HELD = {
    "control character": (
        BAD.format("name = E'a\\x01b'"),
        {},
        "name: has the character U+0001;",
        "bad: name: has the character U+0001 at position 2",
    ),
    "coordinate that is no number": (BAD.format("latitude = 'NaN'"), {}, "latitude: must be a number from -90 to 90", "bad: latitude: "),
    "infinite coordinate": (BAD.format("longitude = '-Infinity'"), {}, "longitude: must be a number", "bad: longitude: "),
    "unknown country": (BAD.format("country = 'XX'"), {}, "country: is no assigned ISO 3166-1 code", "bad: country: "),
    "missing value": (BAD.format("phone = NULL"), {}, "phone: is missing", "bad: phone: is missing (None)"),
    "very long text": (BAD.format("notes = repeat('x', 10000000)"), {}, "notes: has more than 65536 characters", "bad: notes: "),
    "two rows": (
        "INSERT INTO site SELECT * FROM site WHERE station_id = 'bad'",
        {},
        "station_id: the mapping returns more than one row;",
        "bad: station_id: the mapping returns more than one row for 'bad'",
    ),
    "NUL in JSON": (
        """UPDATE site SET extra = CASE station_id WHEN 'bad' THEN '"a\\u0000b"' ELSE '"ok"' END::json""",
        {"stations": JSON_NAME},
        "name: has the character U+0000",
        "bad: name: has the character U+0000 at position 2",
    ),
    "NUL in JSON as text": (
        """UPDATE site SET extra = CASE station_id WHEN 'bad' THEN '{"n": "a\\u0000b"}' ELSE '{"n": "ok"}' END::json""",
        {"stations": STATIONS.replace("name,", "extra ->> 'n' AS name,")},
        "the mapping fails for this station;",
        "bad: the mapping fails for this station: unsupported Unicode escape sequence",
    ),
    "division by zero": (
        BAD.format("divisor = 0"),
        {"stations": DIVIDED},
        "the mapping fails for this station",
        "bad: the mapping fails for this station: division by zero",
    ),
    "ten thousand connectors": (
        "INSERT INTO plug SELECT 'bad', 'DE*8PS*EX' || n, 'Type2', 22, 'Available' FROM generate_series(1, 10000) AS n",
        {},
        "connectors: must be 1 to 1000",
        "bad: connectors: must be 1 to 1000 (10001)",
    ),
    "no connector": ("DELETE FROM plug WHERE station_id = 'bad'", {}, "connectors: must be 1 to 1000", "bad: connectors: "),
    "EVSE id that is none": (
        "UPDATE plug SET evse_id = 'E1' WHERE station_id = 'bad'",
        {},
        "evse_id: is no EVSE id",
        "bad: evse_id: is no EVSE id ('E1')",
    ),
    "no EVSE id": ("UPDATE plug SET evse_id = NULL WHERE station_id = 'bad'", {}, "evse_id: is missing", "bad: evse_id: "),
    "speed that is none": (
        "UPDATE plug SET speed_kw = -1 WHERE station_id = 'bad'",
        {},
        "speed_kw: must be a number above 0",
        "bad: speed_kw: ",
    ),
}


@pytest.fixture
def cpo(dsn: str) -> str:
    build(dsn, "bad", "good1", "good2")
    return dsn


async def captured(dsn: str, source: SourceSettings) -> dict[str, tuple[str, str | None]]:
    """State and reason of every outbox row after all that a daemon would do before it sends."""
    await asyncio.to_thread(migrate.to, dsn)
    async with hand(dsn, source=source) as daemon:
        await daemon.capture()
    return {key: (state, reason) for key, state, reason in run(dsn, "SELECT key, state, reason FROM cdc_pusher.outbox")}


@pytest.mark.parametrize(("statement", "mapping", "text", "example"), HELD.values(), ids=HELD.keys())
async def test_bad_station_is_named_with_its_reason_and_held_and_stops_no_other(
    cpo: str, statement: str, mapping: Mapping[str, Any], text: str, example: str
) -> None:
    run(cpo, statement)
    configured = settings(cpo, **mapping)
    found = await checked(configured)
    problems = [finding for finding in bad(found) if "is json" not in finding.text]
    assert len(problems) == 1, texts(found)
    assert (problems[0].subject, problems[0].count) == ("stations", 1)
    assert problems[0].text.startswith("1 station: ")
    assert text in problems[0].text
    assert problems[0].examples[0].startswith(example)
    assert any(finding.text.startswith("2 of 3 stations") for finding in found)
    rows = await captured(cpo, configured.source)
    assert rows["bad"][0] == "held"
    assert {rows["good1"][0], rows["good2"][0], rows["DE*8PS*EGOOD1"][0], rows["DE*8PS*EGOOD2"][0]} == {"pending"}


@pytest.mark.parametrize(
    ("column", "mapping", "key", "word"),
    [("status", "statuses", "DE*8PS*EBAD", "Offline"), ("type", "connector_types", "bad", "Combo")],
)
async def test_words_that_nobody_mapped_are_listed_with_their_counts_and_held(
    cpo: str, column: str, mapping: str, key: str, word: str
) -> None:
    run(cpo, f"UPDATE plug SET {column} = 'Kaputt' WHERE station_id = 'bad'")
    run(cpo, "INSERT INTO plug SELECT 'bad', 'DE*8PS*EBAD', 'Type2', 22, 'Available' FROM generate_series(1, 2)")
    run(cpo, f"UPDATE plug SET {column} = E'\\x1b[31mOdd' WHERE station_id = 'bad' AND {column} <> 'Kaputt'")
    found = only(await checked(settings(cpo)))
    assert found.count == 3
    assert f"[source.{mapping}]" in found.text
    assert found.examples == ("' [31mOdd': 2 connectors, the first of station bad", "'Kaputt': 1 connector, the first of station bad")
    translation: dict[str, Any] = {mapping: {"Kaputt": word, "\x1b[31mOdd": word}}
    translated = settings(cpo, **translation)
    assert bad(await checked(translated)) == []
    rows = await captured(cpo, settings(cpo).source)
    assert rows[key][0] == "held"
    assert {rows["good1"][0], rows["DE*8PS*EGOOD1"][0]} == {"pending"}


async def test_missing_status_is_named_by_its_evse(cpo: str) -> None:
    run(cpo, "UPDATE plug SET status = NULL WHERE station_id = 'bad'")
    found = only(await checked(settings(cpo)))
    assert (found.subject, found.count, found.examples) == ("statuses", 1, ("DE*8PS*EBAD: status: is missing (None)",))


async def test_words_without_end_do_not_fill_the_memory_or_the_report(cpo: str) -> None:
    run(cpo, "INSERT INTO plug SELECT 'bad', 'DE*8PS*EB', 'Type2', 22, 'word ' || n FROM generate_series(1, 1100) AS n")
    found = next(finding for finding in bad(await checked(settings(cpo))) if finding.subject == "source.statuses")
    assert found.count == 1100
    assert len(found.examples) == 21
    assert found.examples[-1] == "after 1000 different words, 100 connectors with others"


async def test_rows_without_a_key_are_counted_and_left_out(cpo: str) -> None:
    run(cpo, "INSERT INTO site (station_id) VALUES (NULL), (NULL)", "INSERT INTO plug (evse_id) VALUES ('DE*8PS*EX')")
    problems = bad(await checked(settings(cpo)))
    assert [(finding.subject, finding.count) for finding in problems] == [("source.stations", 2), ("source.connectors", 1)]
    assert problems[0].text.startswith("2 rows without a station_id are left out")
    assert {state for state, _ in (await captured(cpo, settings(cpo).source)).values()} == {"pending"}


async def test_evse_in_two_stations_is_named_with_both_and_holds_both(cpo: str) -> None:
    run(cpo, "UPDATE plug SET evse_id = 'DE*8PS*EGOOD1' WHERE station_id = 'bad'")
    found = only(await checked(settings(cpo)))
    assert (found.subject, found.count, found.examples) == ("EVSE ids", 1, ("DE*8PS*EGOOD1: stations bad, good1",))
    rows = await captured(cpo, settings(cpo).source)
    assert {key: state for key, (state, _) in rows.items() if key in ("bad", "good1", "good2")} == {
        "bad": "held",
        "good1": "held",
        "good2": "pending",
    }


async def test_evse_that_a_station_shares_with_one_that_is_not_returned_is_its_own(cpo: str) -> None:
    run(cpo, "INSERT INTO plug VALUES ('gone', 'DE*8PS*EGOOD1', 'Type2', 22, 'Available')")
    found = await checked(settings(cpo))
    assert bad(found) == []
    orphans = next(finding for finding in bad(found, "warning") if finding.subject == "source.connectors")
    assert (orphans.count, orphans.examples) == (1, ("station gone: 1 row",))


async def test_examples_are_three_unless_all_are_asked_for(cpo: str) -> None:
    run(cpo, "INSERT INTO site SELECT 'x' || n FROM generate_series(1, 9) AS n")
    for verbose, examples in ((False, 3), (True, 9)):
        found = await checked(settings(cpo), verbose=verbose)
        assert {len(finding.examples) for finding in bad(found)} == {examples}, texts(found)
        assert {finding.count for finding in bad(found)} == {9}


async def test_progress_is_told_page_by_page(cpo: str) -> None:
    told: list[tuple[int, int | None]] = []
    configured = settings(cpo)
    configured = configured.model_copy(update={"daemon": configured.daemon.model_copy(update={"page_stations": 2})})
    await checked(configured, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (2, 3), (3, 3)]


async def test_emps_that_call_the_cpos_differently_are_told_apart(cpo: str) -> None:
    configured = settings(cpo, emps=("a", "b"))
    odd = configured.emp["b"].model_copy(update={"cpos": {"8ps": "DE\x01"}})
    found = await checked(configured.model_copy(update={"emp": {**configured.emp, "b": odd}}))
    assert [finding.text for finding in found if finding.subject == "stations"] == [
        "3 of 3 stations and the status of 3 of 3 EVSEs can be sent to a",
        "0 of 3 stations and the status of 3 of 3 EVSEs can be sent to b",
    ]
    assert only(found).subject == "stations of b"


async def test_two_hundred_stations_with_ten_megabytes_of_text_stay_out_of_the_memory(dsn: str) -> None:
    build(dsn, *(f"s{n}" for n in range(200)))
    long = STATIONS.replace("notes FROM", "repeat(md5(station_id), 312500) AS notes FROM")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = await checked(settings(dsn, stations=long))
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert (only(found).count, only(found).text[:52]) == (200, "200 stations: notes: has more than 65536 characters;")
    assert grown_mb < 100


async def test_everything_can_be_looked_at_without_the_right_to_write(cpo: str) -> None:
    await asyncio.to_thread(migrate.to, cpo)
    async with await connect(cpo, "test") as conn:
        await triggers.attach(conn, settings(cpo).source.watch)
    read_only = make_conninfo(cpo, options="-c default_transaction_read_only=on")
    found = only(await checked(settings(read_only)))
    assert found.text.startswith("transactions are read-only by default")


async def test_connector_query_that_fails_for_one_station_holds_that_one(cpo: str) -> None:
    run(cpo, "UPDATE plug SET type = 'x' WHERE station_id = 'bad'", "UPDATE plug SET type = '5' WHERE station_id <> 'bad'")
    query = CONNECTORS.replace("*", "station_id, evse_id, 'Type2' AS type, type::int AS speed_kw, status")
    found = await checked(settings(cpo, connectors=query))
    assert only(found).examples[0].startswith("bad: the mapping fails for this station: invalid input syntax for type integer")


async def test_station_id_that_is_too_long_for_us_is_named(cpo: str) -> None:
    run(
        cpo,
        "UPDATE site SET station_id = repeat('x', 501) WHERE station_id = 'bad'",
        "UPDATE plug SET station_id = repeat('x', 501) WHERE station_id = 'bad'",
    )
    found = only(await checked(settings(cpo)))
    assert found.text.startswith("1 station: station_id: has more than 500 characters")
    assert len(found.examples[0]) < 300
