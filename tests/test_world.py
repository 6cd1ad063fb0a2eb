"""Any order of events ends well: random plays of CPO, daemon and EMP, and mutants that show that the plays would notice.

A campaign: `WORLD_EXAMPLES=500 pytest tests/test_world.py -k plays`.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from world import EVSES, OUTCOMES, STATIONS, STATUSES, Outcome, World

from cdc_pusher import claims, reconcile
from cdc_pusher.config import ConnectorsChanged
from cdc_pusher.reconcile import Entry

EXAMPLES = int(os.environ.get("WORLD_EXAMPLES", "25"))
STEPS = 50

Story = Callable[[World], Coroutine[Any, Any, None]]
Mutant = Callable[[pytest.MonkeyPatch], None]

stations, evses = st.sampled_from(STATIONS), st.sampled_from(EVSES)


class Play(RuleBasedStateMachine):
    """One play."""

    dsn: ClassVar[str]
    mode: ClassVar[ConnectorsChanged]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World(self.dsn, self.mode)
        self.run(self.world.open())
        for station, evse in zip(STATIONS[:2], EVSES[:2], strict=True):
            self.run(self.world.add(station))
            self.run(self.world.plug(station, evse))

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(step)

    def teardown(self) -> None:
        try:
            self.run(self.world.settle())
            wrong = self.run(self.world.wrong())
        finally:
            self.run(self.world.close())
            self.runner.close()
        assert not wrong, "\n".join(wrong)

    @invariant()
    def nothing_is_broken(self) -> None:
        assert not self.world.broken, "\n".join(self.world.broken)

    @initialize(full_load_is_over=st.booleans())
    def begin(self, full_load_is_over: bool) -> None:
        if full_load_is_over:
            self.run(self.world.settle())

    @rule(station=stations)
    def add(self, station: str) -> None:
        self.run(self.world.add(station))

    @rule(station=stations)
    def remove(self, station: str) -> None:
        self.run(self.world.remove(station))

    @rule(station=stations, name=st.sampled_from("xyz"))
    def rename(self, station: str, name: str) -> None:
        self.run(self.world.rename(station, name))

    @rule(station=stations, evse=evses)
    def plug(self, station: str, evse: str) -> None:
        self.run(self.world.plug(station, evse))

    @rule(evse=evses, status=st.sampled_from(STATUSES))
    def set_status(self, evse: str, status: str) -> None:
        self.run(self.world.set_status(evse, status))

    @rule(limit=st.sampled_from([1, 3, 100]))
    def capture(self, limit: int) -> None:
        self.run(self.world.capture(limit))

    @rule()
    def walk(self) -> None:
        self.run(self.world.walk())

    @rule()
    def claim(self) -> None:
        self.run(self.world.claim())

    @precondition(lambda self: self.world.sent)
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES))
    def end(self, data: st.DataObject, outcome: Outcome) -> None:
        self.run(self.world.end(data.draw(st.sampled_from(sorted(self.world.sent))), outcome))

    @precondition(lambda self: self.world.sent)
    @rule()
    def answer_all(self) -> None:
        for key in sorted(self.world.sent):
            self.run(self.world.end(key, "answered"))

    @rule(evse=evses, first=st.sampled_from(STATUSES), second=st.sampled_from(STATUSES))
    def overtake(self, evse: str, first: str, second: str) -> None:
        """A status that the EMP leaves lying is overtaken by the next one."""
        lost: tuple[tuple[str, Outcome], ...] = ((first, "processed late"), (second, "answered"))
        for status, outcome in lost:
            self.run(self.world.set_status(evse, status))
            self._send(evse, outcome)

    @rule(station=stations, evse=evses, outcome=st.sampled_from(OUTCOMES))
    def connect_otherwise(self, station: str, evse: str, outcome: Outcome) -> None:
        """A station gets other connectors, and what becomes of its next message is not clear at once."""
        self.run(self.world.plug(station, evse))
        ends: tuple[Outcome, ...] = (outcome, "answered")
        for one in ends:
            self._send(station, one)

    def _send(self, key: str, outcome: Outcome) -> None:
        self.run(self.world.capture())
        self.run(self.world.claim())
        if key in self.world.sent:
            self.run(self.world.end(key, outcome))

    @precondition(lambda self: self.world.late)
    @rule()
    def process_late(self) -> None:
        self.run(self.world.process_late())


def play(dsn: str, mode: ConnectorsChanged, *, examples: int, phases: tuple[Phase, ...]) -> None:
    machine = type("Play", (Play,), {"dsn": dsn, "mode": mode})
    options = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        phases=phases,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(machine, settings=options)


@pytest.mark.timeout(60 + 10 * EXAMPLES)
@pytest.mark.parametrize("mode", ["hold", "replace", "send"])
def test_plays_end_with_emp_and_database_equal(watched_dsn: str, mode: ConnectorsChanged) -> None:
    play(watched_dsn, mode, examples=EXAMPLES, phases=(Phase.generate,))


# ── what is broken on purpose is noticed ───────────────────────────────────────────────────────────────────────────────────────────────


def _nothing_is_doubted(patch: pytest.MonkeyPatch) -> None:
    """Invariant 3: what may have been applied is taken for not applied."""
    patch.setattr(Entry, "uncertain", property(lambda row: False))


def _no_quiet_time(patch: pytest.MonkeyPatch) -> None:
    """Invariant 3: nothing is sent once more."""
    patch.setattr("world.QUIET_S", -1e6)


def _superseded_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Invariant 2: what changed while a request was in flight is not looked at again."""
    patch.setattr(claims, "_sql", _without(claims._sql, look_again=b"SELECT %(emp)s::text, %(stations)s::text[]"))


def _statuses_wait_for_nothing(patch: pytest.MonkeyPatch) -> None:
    """Invariant 4: a status goes before its station."""
    status = reconcile.status
    patch.setattr(reconcile, "status", lambda *args, **options: status(*args, **{**options, "due": True}))


def _statuses_do_not_follow(patch: pytest.MonkeyPatch) -> None:
    """Invariant 4: after its station was accepted, a status is not sent."""
    patch.setattr(claims, "_sql", _without(claims._sql, release_statuses=b"SELECT %(emp)s::text, %(evses)s::text[]"))


def _everything_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    """Invariant 5: whatever is looked at is sent."""
    patch.setattr(reconcile.Occasion, "forces", lambda occasion, kind: True)


def _problems_are_dropped(patch: pytest.MonkeyPatch) -> None:
    """Invariant 6: what cannot be sent is forgotten."""
    station = reconcile.station

    def forgetting(row: Entry | None, desired: Any, *args: Any, **options: Any) -> Any:
        decision = station(row, desired, *args, **options)
        dropped = isinstance(decision, Entry) and decision.state == "held"
        return None if dropped else decision

    patch.setattr(reconcile, "station", forgetting)


def _successor_comes_too_early(patch: pytest.MonkeyPatch) -> None:
    """Invariant 3: a station is posted anew before the old one is surely gone."""
    patch.setattr(Entry, "is_gone", property(lambda row: True))


def _evses_are_in_two_stations(patch: pytest.MonkeyPatch) -> None:
    """An EVSE is sent in one station while the EMP has it in another."""
    query = claims._sql.claim.replace(b"AND e.station_id <> o.key", b"AND false")
    assert query != claims._sql.claim
    patch.setattr(claims, "_sql", _without(claims._sql, claim=query))


def _without(queries: Any, **others: bytes) -> Any:
    class Changed:
        def __getattr__(self, name: str) -> bytes:
            found: bytes = others[name] if name in others else getattr(queries, name)
            return found

    return Changed()


S1, E1, E2, E3 = STATIONS[0], *EVSES[:3]


async def _taken_back(world: World) -> None:
    await _lost(world, "cut off after")
    await world.set_status(E1, "Available")


async def _overtaken(world: World) -> None:
    await _lost(world, "processed late")
    await world.set_status(E1, "Occupied")
    await _send(world)
    await _answer(world)


async def _lost(world: World, outcome: Outcome) -> None:
    await world.settle()
    await world.set_status(E1, "Reserved")
    await _send(world)
    await world.end(E1, outcome)


async def _changed_in_flight(world: World) -> None:
    await world.settle()
    await world.set_status(E1, "Reserved")
    await _send(world)
    await world.set_status(E1, "Occupied")
    await world.capture()
    await _answer(world)


async def _begun(world: World) -> None:
    await _send(world)
    await _answer(world)


async def _added(world: World) -> None:
    await world.settle()
    await world.add(STATIONS[2])
    await world.plug(STATIONS[2], E3)


async def _looked_at_again(world: World) -> None:
    await world.settle()
    await world.walk()


async def _connected_otherwise(world: World) -> None:
    await world.settle()
    await world.plug(S1, E3)


async def _replaced_in_doubt(world: World) -> None:
    await _connected_otherwise(world)
    await _send(world)
    await world.end(S1, "cut off before")
    await world.rename(S1, "x")
    await _send(world)
    await _answer(world)


async def _moved(world: World) -> None:
    await world.settle()
    await world.plug(S1, E2)
    await _send(world)
    await _answer(world)


async def _send(world: World) -> None:
    await world.capture()
    await world.claim()


async def _answer(world: World) -> None:
    for key in sorted(world.sent):
        await world.end(key, "answered")


async def told(dsn: str, mode: ConnectorsChanged, story: Story) -> list[str]:
    """Two stations with an EVSE each, the story, and then everything comes to an end: what is wrong."""
    world = World(dsn, mode)
    await world.open()
    try:
        for station, evse in zip(STATIONS[:2], EVSES[:2], strict=True):
            await world.add(station)
            await world.plug(station, evse)
        await story(world)
        await world.settle()
        return await world.wrong()
    finally:
        await world.close()


@pytest.mark.parametrize(
    ("mode", "mutant", "story"),
    [
        ("hold", _nothing_is_doubted, _taken_back),
        ("hold", _no_quiet_time, _overtaken),
        ("hold", _superseded_is_forgotten, _changed_in_flight),
        ("hold", _statuses_wait_for_nothing, _begun),
        ("hold", _statuses_do_not_follow, _added),
        ("hold", _everything_is_sent_again, _looked_at_again),
        ("hold", _problems_are_dropped, _connected_otherwise),
        ("replace", _successor_comes_too_early, _replaced_in_doubt),
        ("send", _evses_are_in_two_stations, _moved),
    ],
)
def test_mutant_is_noticed_where_nothing_is_wrong_without_it(
    watched_dsn: str, mode: ConnectorsChanged, mutant: Mutant, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asyncio.run(told(watched_dsn, mode, story)) == []
    mutant(monkeypatch)
    try:
        wrong = asyncio.run(told(watched_dsn, mode, story))
    except psycopg.errors.IntegrityError as error:
        wrong = [str(error)]
    assert wrong
