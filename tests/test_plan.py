"""What ties outbox rows together: an EVSE has one station and leaves it before it joins another; a status follows its station."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_pusher import capture, enqueue, migrate, oioi, outbox, plan
from cdc_pusher.config import ConnectorsChanged, Settings
from cdc_pusher.database import Connection, connect
from cdc_pusher.model import Connector, Held, Payload, Station
from cdc_pusher.plan import Evse, Plan, Receiver
from cdc_pusher.reconcile import Entry, Occasion
from cdc_pusher.source import Source

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LIVE = Occasion(now=NOW, changed_at=NOW)
MODES: tuple[ConnectorsChanged, ...] = ("hold", "replace", "send")
E1, E2, E3 = "DE*8PS*E1", "DE*8PS*E2", "DE*8PS*E3"


def a_station(station_id: str, *evse_ids: str, status: Any = "Available", **changes: Any) -> Station:
    one = Station(
        station_id=station_id,
        name="Rathaus",
        latitude=52.5,
        longitude=13.25,
        street="Hauptstraße",
        street_number="1",
        city="Köln",
        zip="01067",
        country="DE",
        phone="+49 30 1234",
        cpo="8ps",
        is_open_24=True,
        connectors=tuple(Connector(evse_id=evse_id, type="Type2", speed_kw=22, status=status) for evse_id in evse_ids),
    )
    return replace(one, **changes)


def sent(*stations: Station) -> dict[str, Payload]:
    found = {}
    for one in stations:
        payload = oioi.encode_station(one, cpo_id="DE*8PS")
        assert not isinstance(payload, Held)
        found[one.station_id] = payload
    return found


@dataclass
class Outbox:
    """The tables outbox and evse of one EMP in memory: just what `plan` reads and writes, and an EMP that accepts everything."""

    connectors_changed: ConnectorsChanged = "hold"
    cpos: Mapping[str, str] = field(default_factory=lambda: {"8ps": "DE*8PS"})
    rows: dict[tuple[str, str], Entry] = field(default_factory=dict)
    evses: dict[tuple[str, str], tuple[bool, Literal["no", "maybe", "yes"]]] = field(default_factory=dict)

    def capture(self, *found: Station | str, held: Mapping[str, str] | None = None, occasion: Occasion = LIVE) -> Plan:
        """One batch: a station as it is now, or the id of one that is gone."""
        reading: dict[str, Station | Held] = {one.station_id: one for one in found if isinstance(one, Station)}
        reading |= {key: Held(reason=reason) for key, reason in (held or {}).items()}
        stations = [one if isinstance(one, str) else one.station_id for one in found] + list(held or {})
        listed = {e for one in reading.values() for e in plan.listed_evses(one)}
        concerned = listed | {evse_id for evse_id, station_id in self.evses if station_id in stations}
        evses = [
            Evse(evse_id, station_id, is_listed, at_emp, self._leaves(station_id))
            for (evse_id, station_id), (is_listed, at_emp) in self.evses.items()
            if evse_id in concerned
        ]
        entries = [r for r in self.rows.values() if r.station_id in stations or (r.kind == "status" and r.key in concerned)]
        receiver = Receiver(name="e", connectors_changed=self.connectors_changed, cpos=self.cpos)
        made = plan.make(receiver, dict.fromkeys(stations, occasion), reading, entries, evses, dict(self.cpos))
        self._write(made)
        return made

    def _leaves(self, station_id: str) -> bool:
        row = self.rows.get(("station", station_id))
        return row is not None and row.state != "held" and row.payload is not None and oioi.is_deleted(row.payload)

    def _write(self, made: Plan) -> None:
        for row in made.insert:
            assert (row.kind, row.key) not in self.rows
        for row in made.update:
            assert (row.kind, row.key) in self.rows
        for row in (*made.insert, *made.update):
            self.rows[row.kind, row.key] = row
        for row in made.forget:
            del self.rows[row.kind, row.key]
        for pair in made.listed:
            self.evses[pair] = (True, self.evses.get(pair, (True, "no"))[1])
        for pair in made.unlisted:
            at_emp = self.evses.pop(pair)[1]
            if at_emp != "no":
                self.evses[pair] = (False, at_emp)

    def accept(self, kind: str, key: str) -> None:
        """The EMP takes the message, as `claims.sql` records it: carried EVSEs are there, others gone, their statuses due."""
        row = self.rows[kind, key]
        assert row.state == "pending"
        assert row.payload is not None
        gen = row.desired_gen
        self.rows[kind, key] = row._replace(
            state="delivered",
            acknowledged=row.payload,
            delivered_gen=gen,
            next_attempt_at=None,
            changed_at=None,
            doubtful=None,
            reason=None,
        )
        if kind == "station":
            carried = set() if oioi.is_deleted(row.payload) else set(oioi.evse_ids(row.payload))
            for (evse_id, station_id), (listed, _) in list(self.evses.items()):
                if station_id == key and evse_id not in carried:
                    self.evses[evse_id, key] = (listed, "no")
                    if not listed:
                        del self.evses[evse_id, key]
            for evse_id in carried:
                self.evses[evse_id, key] = (self.evses.get((evse_id, key), (False, "no"))[0], "yes")
                status = self.rows.get(("status", evse_id))
                if status is not None:
                    self.rows["status", evse_id] = status._replace(
                        state="held" if status.state == "held" else "pending",
                        resend_gen=status.desired_gen + 1,
                        reason=status.reason if status.state == "held" else None,
                        desired_gen=status.desired_gen + 1,
                        next_attempt_at=None if status.state == "held" else NOW,
                        changed_at=NOW,
                    )

    def settled(self, *stations: Station) -> "Outbox":
        """These stations are delivered, with all their statuses."""
        self.capture(*stations)
        for one in stations:
            self.accept("station", one.station_id)
        for kind, key in list(self.rows):
            if kind == "status":
                self.accept(kind, key)
        return self

    def station(self, station_id: str) -> Entry:
        return self.rows["station", station_id]

    def status(self, evse_id: str) -> Entry:
        return self.rows["status", evse_id]

    def states(self) -> dict[str, str]:
        return {row.key: row.state for row in self.rows.values()}

    def due(self) -> set[str]:
        return {row.key for row in self.rows.values() if row.state == "pending" and row.next_attempt_at is not None}


# ── statuses follow their station ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_new_station_is_due_and_its_statuses_wait_for_it() -> None:
    outbox = Outbox()
    made = outbox.capture(a_station("s", E1, E2))
    assert outbox.states() == {"s": "pending", E1: "pending", E2: "pending"}
    assert outbox.due() == {"s"}
    assert outbox.station("s").payload == sent(a_station("s", E1, E2))["s"]
    assert outbox.status(E1).payload == {"connector-id": E1, "status": "Available"}
    assert sorted(made.listed) == [(E1, "s"), (E2, "s")]
    assert (made.unlisted, made.look_again, made.forget) == ([], set(), [])


def test_second_look_at_the_same_station_writes_nothing() -> None:
    for some in (Outbox(), Outbox().settled(a_station("s", E1))):
        some.capture(a_station("s", E1))
        assert some.capture(a_station("s", E1)) == Plan(emp="e")


def test_status_of_an_accepted_station_is_due_and_its_station_untouched() -> None:
    outbox = Outbox().settled(a_station("s", E1, E2))
    outbox.capture(a_station("s", E1, E2, status="Occupied"))
    assert outbox.due() == {E1, E2}
    assert outbox.states()["s"] == "delivered"


def test_status_is_due_while_an_edit_of_its_accepted_station_is_on_its_way_or_held() -> None:
    for edit in ({"name": "New"}, {"zip": None}):
        outbox = Outbox().settled(a_station("s", E1))
        outbox.capture(a_station("s", E1, status="Occupied", **edit))
        assert outbox.status(E1).next_attempt_at == NOW


def test_several_connectors_of_one_evse_have_one_status() -> None:
    outbox = Outbox()
    one = a_station("s", E1, E1)
    charging = one.connectors[1]._replace(status="Occupied")
    outbox.capture(replace(one, connectors=(one.connectors[0], charging)))
    assert outbox.status(E1).payload == {"connector-id": E1, "status": "Occupied"}


def test_unknown_status_is_held_and_holds_nothing_else() -> None:
    outbox = Outbox().settled(a_station("s", E1, E2))
    one = a_station("s", E1, E2)
    outbox.capture(replace(one, connectors=(one.connectors[0]._replace(status="Odd"), one.connectors[1])))
    assert outbox.states() == {"s": "delivered", E1: "held", E2: "delivered"}
    assert "'Odd'" in (outbox.status(E1).reason or "")
    outbox.capture(one)
    assert outbox.states()[E1] == "delivered"


# ── deletion ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_station_that_is_gone_is_deleted_with_what_the_emp_has_and_its_statuses_are_forgotten() -> None:
    outbox = Outbox().settled(a_station("s", E1, E2))
    made = outbox.capture("s")
    assert outbox.station("s").payload == {**sent(a_station("s", E1, E2))["s"], "deleted": True}
    assert {row.key for row in made.forget} == {E1, E2}
    assert sorted(made.unlisted) == [(E1, "s"), (E2, "s")]
    assert outbox.due() == {"s"}
    outbox.accept("station", "s")
    assert outbox.evses == {}
    assert outbox.capture("s") == Plan(emp="e")


def test_station_that_is_gone_before_it_was_sent_leaves_nothing() -> None:
    outbox = Outbox()
    outbox.capture(a_station("s", E1), held={"t": "two rows"})
    outbox.capture("s", "t")
    assert (outbox.rows, outbox.evses) == ({}, {})


def test_station_that_comes_back_is_sent_again_with_its_statuses_after_it() -> None:
    outbox = Outbox().settled(a_station("s", E1))
    outbox.capture("s")
    outbox.accept("station", "s")
    outbox.capture(a_station("s", E1))
    assert outbox.due() == {"s"}
    assert outbox.status(E1).reason == "waits until the EMP has accepted its station"
    outbox.accept("station", "s")
    assert outbox.due() == {E1}


def test_status_waits_for_a_station_that_is_leaving() -> None:
    """The deletion is not accepted yet, and the EVSE stands in another station already."""
    outbox = Outbox().settled(a_station("s", E1))
    outbox.capture("s", a_station("t", E1, status="Occupied"))
    assert outbox.due() == {"s", "t"}
    assert outbox.status(E1).next_attempt_at is None
    assert outbox.station("t").reason == f"waits until the EMP has let go of {E1} in another station"


def test_status_waits_for_a_leaving_station_outside_the_batch() -> None:
    outbox = Outbox().settled(a_station("s", E1))
    outbox.capture("s")
    outbox.capture(a_station("t", E1, status="Occupied"))
    assert outbox.due() == {"s", "t"}
    assert outbox.status(E1).station_id == "t"


def test_deletion_that_is_taken_back_lets_statuses_go_again() -> None:
    outbox = Outbox().settled(a_station("s", E1))
    outbox.capture("s")
    outbox.capture(a_station("s", E1, status="Occupied"))
    assert outbox.states() == {"s": "delivered", E1: "pending"}
    assert outbox.due() == {E1}


# ── what is held ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_mapping_that_fails_for_a_station_holds_it_and_keeps_what_the_emp_has() -> None:
    outbox = Outbox().settled(a_station("s", E1), a_station("t", E2))
    outbox.capture(a_station("t", E2, status="Occupied"), held={"s": "division by zero"})
    assert (outbox.station("s").state, outbox.station("s").reason) == ("held", "division by zero")
    assert outbox.station("s").acknowledged == sent(a_station("s", E1))["s"]
    assert outbox.due() == {E2}
    assert outbox.evses[E1, "s"] == (False, "yes")
    outbox.capture(a_station("s", E1))
    assert outbox.station("s").state == "delivered"
    assert outbox.evses[E1, "s"] == (True, "yes")


def test_station_of_an_unknown_cpo_is_held_until_the_cpo_is_known() -> None:
    outbox = Outbox(cpos={})
    outbox.capture(a_station("s", E1))
    assert outbox.station("s").reason == "cpo: has no cpo-id for this EMP ('8ps')"
    outbox.cpos = {"8ps": "DE*8PS"}
    outbox.capture(a_station("s", E1))
    assert outbox.due() == {"s"}


def test_changed_connectors_are_held_and_the_statuses_of_the_old_ones_go_on() -> None:
    outbox = Outbox().settled(a_station("s", E1))
    outbox.capture(a_station("s", E1, E2, status="Occupied"))
    assert outbox.states() == {"s": "held", E1: "pending", E2: "pending"}
    assert f"added {E2}" in (outbox.station("s").reason or "")
    assert outbox.due() == {E1}


# ── one EVSE, one station ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("together", [True, False])
def test_evse_in_two_stations_holds_both_and_mending_releases_both(together: bool) -> None:
    outbox = Outbox()
    first, second = a_station("s", E1, E2), a_station("t", E2, E3)
    if together:
        outbox.capture(first, second)
    else:
        outbox.capture(first)
        made = outbox.capture(second)
        assert made.look_again == {"s"}
        outbox.capture(first)
    assert outbox.states() == {"s": "held", "t": "held", E1: "pending", E2: "held", E3: "pending"}
    for key, kind in (("s", "station"), ("t", "station"), (E2, "status")):
        assert outbox.rows[kind, key].reason == f"evse_id: '{E2}' stands in more than one station (s, t)"
    assert outbox.due() == set()
    made = outbox.capture(a_station("t", E3))
    assert made.look_again == {"s"}
    outbox.capture(first)
    assert outbox.states() == {"s": "pending", "t": "pending", E1: "pending", E2: "pending", E3: "pending"}
    assert outbox.due() == {"s", "t"}


def test_deletion_of_one_of_two_stations_releases_the_other() -> None:
    outbox = Outbox()
    outbox.capture(a_station("s", E1), a_station("t", E1))
    assert outbox.capture("t").look_again == {"s"}
    outbox.capture(a_station("s", E1))
    assert outbox.due() == {"s"}
    assert "t" not in outbox.states()


def test_known_station_with_a_contested_evse_keeps_what_the_emp_has() -> None:
    outbox = Outbox().settled(a_station("s", E1))
    outbox.capture(a_station("t", E1))
    outbox.capture(a_station("s", E1))
    assert (outbox.station("s").state, outbox.status(E1).state) == ("held", "held")
    outbox.capture("t")
    outbox.capture(a_station("s", E1))
    assert (outbox.station("s").state, outbox.status(E1).state) == ("delivered", "delivered")
    assert outbox.due() == set()


def test_evse_that_moves_to_a_new_station_leaves_the_old_one_first() -> None:
    outbox = Outbox(connectors_changed="send").settled(a_station("s", E1, E2))
    outbox.capture(a_station("s", E1), a_station("t", E2))
    assert outbox.station("t").reason == f"waits until the EMP has let go of {E2} in another station"
    assert outbox.station("s").reason is None
    outbox.accept("station", "s")
    outbox.capture(a_station("t", E2))
    assert outbox.station("t").reason is None
    assert outbox.status(E2).next_attempt_at is None
    outbox.accept("station", "t")
    assert E2 in outbox.due()
    assert outbox.evses == {(E1, "s"): (True, "yes"), (E2, "t"): (True, "yes")}


@pytest.mark.parametrize("mode", ["send", "replace"])
def test_swap_comes_to_an_end(mode: ConnectorsChanged) -> None:
    """Each of two stations has what the other wants: whatever is sent first is a deletion, and in the end all is as desired."""
    outbox = Outbox(connectors_changed=mode).settled(a_station("s", E1), a_station("t", E2))
    after = (a_station("s", E2), a_station("t", E1))
    outbox.capture(*after)
    first = [row for row in outbox.rows.values() if row.kind == "station" and row.payload is not None and oioi.is_deleted(row.payload)]
    assert first
    for _ in range(10):
        for one in after:
            row, elsewhere = outbox.station(one.station_id), plan.listed_evses(one)
            deletes = row.payload is not None and oioi.is_deleted(row.payload)
            blocked = any(e in elsewhere and s != one.station_id and at != "no" for (e, s), (_, at) in outbox.evses.items())
            if row.state == "pending" and (deletes or not blocked):
                outbox.accept("station", one.station_id)
        outbox.capture(*after)
    renamed = "~2" if mode == "replace" else ""
    assert {s: outbox.station(s).acknowledged for s in "st"} == {s: {**one, "id": s + renamed} for s, one in sent(*after).items()}
    assert outbox.evses == {(E2, "s"): (True, "yes"), (E1, "t"): (True, "yes")}


def test_status_row_moves_with_its_evse() -> None:
    outbox = Outbox()
    outbox.capture(a_station("s", E1), a_station("t", E2))
    outbox.capture(a_station("s", E3), a_station("t", E1, E2))
    assert outbox.status(E1).station_id == "t"


def test_station_named_by_the_full_load_and_live_goes_by_the_live_change() -> None:
    outbox = Outbox()
    outbox.capture(a_station("s", E1), occasion=LIVE._replace(priority=10))
    assert (outbox.station("s").priority, outbox.status(E1).priority) == (11, 10)
    outbox.capture(a_station("s", E1, status="Occupied", name="New"))
    assert (outbox.station("s").priority, outbox.status(E1).priority) == (1, 0)


def test_connectors_without_an_evse_id_hold_their_station_only() -> None:
    for evse_id in (None, "", 7):
        outbox = Outbox()
        one = a_station("s", E1, E2)
        outbox.capture(replace(one, connectors=(one.connectors[0]._replace(evse_id=evse_id), one.connectors[1])))
        assert outbox.states() == {"s": "held", E2: "pending"}


# ── the same with what capture reads from the tables ───────────────────────────────────────────────────────────────────────────────────

REFERENCE_SCHEMA = Path(__file__).parent.parent / "examples" / "reference_schema.sql"
STATION = """
INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
VALUES (%s, 'Rathaus', 52.5, 13.25, 'Hauptstr.', '1', 'Berlin', '10243', 'DE', '+49 30 1', '8ps')
"""
SETTINGS = Settings.model_validate(
    {"emp": {"e": {"url": "http://127.0.0.1:1/", "partner_identifier": "p" * 16, "api_key": "key", "cpos": {"8ps": "DE*8PS"}}}}
)


class Cpo:
    """The reference tables without triggers: the test says which stations are captured, and when."""

    def __init__(self, conn: Connection, source: Source) -> None:
        self.conn, self.source = conn, source

    async def add(self, station_id: str, *evse_ids: str) -> None:
        await self.conn.execute(STATION.encode(), [station_id])
        for evse_id in evse_ids:
            await self.conn.execute(
                "INSERT INTO connector (station_id, evse_id, type, speed_kw, status) VALUES (%s, %s, 'Type2', 22, 'Available')",
                [station_id, evse_id],
            )

    async def capture(self, *stations: str) -> list[str | None]:
        """Capture these; returns the stations that are to be looked at again, which are captured, too."""
        await outbox.record_changes(self.conn, stations, priority=0)
        await capture.batch(self.conn, self.source, capture.receivers(SETTINGS), 100)
        again = [row["station_id"] async for row in await self.conn.execute("SELECT DISTINCT station_id FROM cdc_pusher.change")]
        if again:
            await capture.batch(self.conn, self.source, capture.receivers(SETTINGS), 100)
        return again

    async def states(self) -> dict[str, tuple[str, str]]:
        rows = await self.conn.execute("SELECT key, station_id, state FROM cdc_pusher.outbox")
        return {row["key"]: (row["station_id"], row["state"]) async for row in rows}


@pytest.fixture
async def cpo(dsn: str) -> AsyncIterator[Cpo]:
    migrate.to(dsn)
    async with await connect(dsn, "test") as conn, await connect(dsn, "source") as source_conn:
        await conn.execute(REFERENCE_SCHEMA.read_bytes())
        await enqueue.register(conn, SETTINGS)
        await enqueue.confirm_cpos(conn, SETTINGS, "e", ["8ps"])
        yield Cpo(conn, await Source.open(source_conn, SETTINGS.source))


async def test_mending_one_of_two_stations_in_the_database_releases_both(cpo: Cpo) -> None:
    await cpo.add("s", E1)
    await cpo.add("t", E1, E2)
    await cpo.capture("s", "t")
    assert await cpo.states() == {"s": ("s", "held"), "t": ("t", "held"), E1: ("s", "held"), E2: ("t", "pending")}
    await cpo.conn.execute("DELETE FROM connector WHERE station_id = 't' AND evse_id = %s", [E1])
    assert await cpo.capture("t") == ["s"]
    assert await cpo.states() == {"s": ("s", "pending"), "t": ("t", "pending"), E1: ("s", "pending"), E2: ("t", "pending")}


async def test_evse_that_was_captured_in_its_new_station_first_keeps_its_status(cpo: Cpo) -> None:
    await cpo.add("s", E1, E2)
    await cpo.add("t", E3)
    await cpo.capture("s", "t")
    await cpo.conn.execute("UPDATE connector SET station_id = 't' WHERE evse_id = %s", [E1])
    await cpo.capture("t")
    await cpo.capture("s")
    assert await cpo.states() == {
        "s": ("s", "pending"),
        "t": ("t", "pending"),
        E1: ("t", "pending"),
        E2: ("s", "pending"),
        E3: ("t", "pending"),
    }


async def test_waiting_status_moves_with_its_evse_in_the_database(cpo: Cpo) -> None:
    await cpo.add("s", E1, E2)
    await cpo.add("t", E3)
    await cpo.capture("s", "t")
    await cpo.conn.execute("UPDATE connector SET station_id = 't' WHERE evse_id = %s", [E1])
    await cpo.capture("s", "t")
    assert (await cpo.states())[E1] == ("t", "pending")


# ── whatever happens ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

listings = st.dictionaries(st.sampled_from("stu"), st.lists(st.sampled_from([E1, E2, E3]), min_size=1, max_size=2, unique=True))


@given(
    st.lists(st.tuples(listings, st.sampled_from(["Available", "Occupied"])), min_size=1, max_size=6),
    st.sampled_from(["hold", "replace", "send"]),
)
def test_no_status_is_due_without_a_station_that_carries_it_and_rows_match_the_last_reading(
    history: Iterable[tuple[dict[str, list[str]], str]], mode: ConnectorsChanged
) -> None:
    outbox = Outbox(connectors_changed=mode)
    for listing, status in history:
        now = [a_station(s, *listing[s], status=status) if s in listing else s for s in "stu"]
        outbox.capture(*now)
        for key in outbox.due() & {E1, E2, E3}:
            carriers = {s for (e, s), (_, at) in outbox.evses.items() if e == key and at == "yes"}
            assert any(not outbox._leaves(s) for s in carriers)
        assert {r.key for r in outbox.rows.values() if r.kind == "status"} == {e for ids in listing.values() for e in ids}
        for station_id in "stu":
            row = outbox.rows.get(("station", station_id))
            blocked = row is not None and any(
                e in oioi.evse_ids(row.payload or {"connectors": []}) and s != station_id and at != "no"
                for (e, s), (_, at) in outbox.evses.items()
            )
            if row is not None and row.state == "pending" and row.payload and (oioi.is_deleted(row.payload) or not blocked):
                outbox.accept("station", station_id)
        at_emp = [e for (e, _), (_, at) in outbox.evses.items() if at == "yes"]
        assert len(at_emp) == len(set(at_emp)), "the EMP never has one EVSE in two stations"


def test_id_that_only_replacing_gives_is_held_when_replacing() -> None:
    found = {mode: Outbox(connectors_changed=mode) for mode in MODES}
    for one in found.values():
        one.capture(a_station("s~2", E1))
    assert [one.station("s~2").state for one in found.values()] == ["pending", "held", "pending"]
