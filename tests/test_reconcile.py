"""What is decided about one outbox row: each rule by itself, and that no decision makes a row that cannot be."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_pusher import oioi, reconcile
from cdc_pusher.config import ConnectorsChanged
from cdc_pusher.model import Desired, Held, Payload
from cdc_pusher.reconcile import FORGET, Decision, Entry, Occasion, Resend

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EARLIER = NOW - timedelta(minutes=5)
LIVE = Occasion(now=NOW, changed_at=NOW - timedelta(seconds=1))
SOON = NOW + timedelta(seconds=30)


def payload(name: str = "A", *evse_ids: str, deleted: bool = False) -> Payload:
    return {"id": "s", "name": name, "connectors": [{"id": evse_id} for evse_id in evse_ids or ("E1", "E2")], "deleted": deleted}


A, B = payload("A"), payload("B")
AVAILABLE, OCCUPIED = {"connector-id": "E1", "status": "Available"}, {"connector-id": "E1", "status": "Occupied"}


def delivered(what: Payload = A, **changes: Any) -> Entry:
    row = Entry(
        emp="e", kind="station", key="s", station_id="s", payload=what, acknowledged=what, desired_gen=3, delivered_gen=3, state="delivered"
    )
    return row._replace(**changes)


def pending(what: Payload = B, **changes: Any) -> Entry:
    row = delivered(A, payload=what, desired_gen=4, state="pending", next_attempt_at=EARLIER, changed_at=EARLIER)
    return row._replace(**changes)


def in_flight(what: Payload = B, **changes: Any) -> Entry:
    return delivered(A, payload=what, desired_gen=4, sending_gen=4, state="in_flight", changed_at=EARLIER, **changes)


def status_row(**changes: Any) -> Entry:
    return delivered(AVAILABLE, kind="status", key="E1", **changes)


def station(
    row: Entry | None,
    desired: Desired,
    occasion: Occasion = LIVE,
    *,
    mode: ConnectorsChanged = "hold",
    elsewhere: frozenset[str] = frozenset(),
) -> Decision:
    return reconcile.station(row, desired, occasion, emp="e", key="s", connectors_changed=mode, elsewhere=elsewhere)


def status(row: Entry | None, desired: Desired, occasion: Occasion = LIVE, *, station_id: str = "s", due: bool = True) -> Decision:
    return reconcile.status(row, desired, occasion, emp="e", key="E1", station_id=station_id, due=due)


def written(decision: Decision) -> Entry:
    assert isinstance(decision, Entry), decision
    return decision


# ── a row at rest ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_new_station_is_due_at_once_after_live_statuses() -> None:
    row = written(station(None, A))
    assert (row.state, row.payload, row.desired_gen, row.delivered_gen) == ("pending", A, 1, 0)
    assert (row.next_attempt_at, row.changed_at, row.priority, row.attempts) == (NOW, LIVE.changed_at, 1, 0)
    assert (row.emp, row.kind, row.key, row.station_id) == ("e", "station", "s", "s")


def test_nothing_is_written_for_what_nobody_has_or_wants() -> None:
    assert station(None, None) is None
    assert status(None, None) is None


def test_station_that_the_emp_has_as_it_is_needs_nothing() -> None:
    assert station(delivered(A), dict(A)) is None


def test_changed_station_is_due_at_once() -> None:
    row = written(station(delivered(A), B))
    assert (row.state, row.payload, row.acknowledged, row.desired_gen, row.delivered_gen) == ("pending", B, A, 4, 3)
    assert (row.next_attempt_at, row.changed_at) == (NOW, LIVE.changed_at)


def test_change_that_is_taken_back_before_it_was_sent_needs_no_message() -> None:
    row = written(station(written(station(delivered(A), B)), A))
    assert (row.state, row.payload, row.reason, row.next_attempt_at, row.changed_at) == ("delivered", A, None, None, None)
    assert row.desired_gen == row.delivered_gen == 5


def test_change_that_is_taken_back_is_sent_when_an_outcome_is_unknown() -> None:
    """The EMP may have applied the request whose answer was lost."""
    row = written(station(pending(B, doubtful=B, attempts=1, next_attempt_at=SOON), A))
    assert (row.state, row.payload, row.uncertain) == ("pending", A, True)
    assert row.next_attempt_at is not None


def test_change_that_is_taken_back_ends_a_rejection() -> None:
    row = pending(B)._replace(state="rejected", reason="no", next_attempt_at=None, attempts=3)
    assert written(station(row, A)).state == "delivered"


def test_rejected_message_is_tried_again_only_when_its_data_change_or_somebody_asks() -> None:
    row = pending(B)._replace(state="rejected", reason="no", next_attempt_at=None, attempts=3)
    assert station(row, B) is None
    for decision in (station(row, payload("C")), station(row, B, LIVE._replace(resend="undelivered"))):
        again = written(decision)
        assert (again.state, again.reason, again.attempts, again.next_attempt_at) == ("pending", None, 0, NOW)


def test_unchanged_pending_message_keeps_its_turn() -> None:
    assert station(pending(B, attempts=2, next_attempt_at=SOON), B) is None


def test_change_during_back_off_does_not_jump_it() -> None:
    row = written(station(pending(B, attempts=2, next_attempt_at=SOON), payload("C")))
    assert (row.payload, row.attempts, row.next_attempt_at, row.changed_at) == (payload("C"), 2, SOON, EARLIER)


def test_resync_ends_a_back_off() -> None:
    row = written(station(pending(B, attempts=2, next_attempt_at=SOON), B, LIVE._replace(resend="undelivered")))
    assert (row.attempts, row.next_attempt_at) == (0, NOW)


@pytest.mark.parametrize(
    ("resend", "of_station", "of_status"),
    [(None, False, False), ("undelivered", False, False), ("statuses", False, True), ("everything", True, True)],
)
def test_what_the_emp_has_is_sent_again_only_on_demand(resend: Resend, of_station: bool, of_status: bool) -> None:
    occasion = LIVE._replace(resend=resend)
    for decision, sent in ((station(delivered(A), A, occasion), of_station), (status(status_row(), AVAILABLE, occasion), of_status)):
        if sent:
            row = written(decision)
            assert (row.state, row.again, row.next_attempt_at) == ("pending", True, NOW)
        else:
            assert decision is None


def test_demand_to_send_again_is_not_forgotten_by_a_later_look() -> None:
    row = written(station(delivered(A), A, LIVE._replace(resend="everything")))
    later = station(row, A)
    assert later is None or (written(later).state == "pending" and written(later).again)


def test_live_change_goes_before_the_full_load_and_a_sweep_takes_no_urgency_away() -> None:
    loading = written(station(None, A, LIVE._replace(priority=10)))
    assert loading.priority == 11
    live = written(station(loading, B))
    assert live.priority == 1
    assert written(station(live, payload("C"), LIVE._replace(priority=20))).priority == 1


def test_statuses_go_before_stations_of_the_same_urgency() -> None:
    assert written(status(None, AVAILABLE)).priority < written(station(None, A)).priority


# ── held ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_sent_is_held_with_its_reason() -> None:
    row = written(station(None, Held(reason="zip: is missing")))
    assert (row.state, row.reason, row.payload, row.next_attempt_at, row.desired_gen) == ("held", "zip: is missing", None, None, 1)


def test_holding_forgets_nothing_that_the_emp_has_and_mending_sends_only_a_difference() -> None:
    held = written(station(delivered(A), Held(reason="zip")))
    assert (held.state, held.acknowledged, held.payload, held.delivered_gen) == ("held", A, A, 3)
    assert station(held, Held(reason="zip")) is None
    assert written(station(held, Held(reason="city"))).reason == "city"
    assert written(station(held, A)).state == "delivered"
    mended = written(station(held, B))
    assert (mended.state, mended.payload, mended.reason, mended.next_attempt_at) == ("pending", B, None, NOW)


def test_holding_keeps_the_age_of_the_oldest_change() -> None:
    assert written(station(pending(B), Held(reason="zip"))).changed_at == EARLIER


def test_unknown_outcome_outlives_being_held() -> None:
    held = written(station(pending(B, doubtful=B), Held(reason="zip")))
    assert held.uncertain
    assert written(station(held, A)).state == "pending"


@pytest.mark.parametrize(
    ("evse_ids", "words"),
    [
        (("E1", "E2", "E3"), "added E3"),
        (("E1",), "removed E2"),
        (("E1", "E9"), "added E9, removed E2"),
        (("E1", "E2", "E2"), "2 connectors became 3"),
    ],
)
def test_changed_connectors_of_a_known_station_are_held_with_what_changed(evse_ids: tuple[str, ...], words: str) -> None:
    row = written(station(delivered(A), payload("A", *evse_ids)))
    assert row.state == "held"
    assert row.reason == f"connectors: {words}; the EMP does not allow that for a station it has"


def test_connectors_in_another_order_have_not_changed() -> None:
    assert written(station(delivered(A), payload("B", "E2", "E1"))).state == "pending"


def test_connectors_may_change_before_the_emp_has_the_station_and_where_it_allows_it() -> None:
    never_sent = written(station(None, A))
    assert written(station(never_sent, payload("A", "E3"))).state == "pending"
    assert written(station(delivered(A), payload("A", "E3"), mode="send")).payload == payload("A", "E3")


def test_station_that_was_deleted_comes_back_with_the_same_connectors_only() -> None:
    gone = delivered(payload("A", deleted=True))
    assert written(station(gone, A)).payload == A
    assert written(station(gone, payload("A", "E3"))).state == "held"
    assert written(station(gone, payload("A", "E3"), mode="send")).payload == payload("A", "E3")


# ── deletion ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_deletion_repeats_what_the_emp_last_accepted() -> None:
    for row in (delivered(A), pending(B), pending(B)._replace(state="held", reason="zip", next_attempt_at=None)):
        gone = written(station(row, None))
        assert (gone.state, gone.payload, gone.next_attempt_at) == (
            "pending",
            {**A, "deleted": True},
            NOW if row.state != "pending" else EARLIER,
        )


def test_deletion_of_what_may_have_arrived_is_sent() -> None:
    gone = written(station(pending(B, acknowledged=None, delivered_gen=0, doubtful=B), None))
    assert gone.payload == {**B, "deleted": True}


@pytest.mark.parametrize("state", ["pending", "held", "rejected"])
def test_station_that_never_was_sent_is_forgotten(state: Any) -> None:
    row = pending(B, acknowledged=None, delivered_gen=0)
    row = row if state == "pending" else row._replace(state=state, reason="no", next_attempt_at=None)
    assert station(row, None) is FORGET


def test_deleted_station_needs_nothing_more() -> None:
    assert station(delivered(payload("A", deleted=True)), None) is None


def test_status_without_a_station_is_forgotten() -> None:
    assert status(status_row(), None) is FORGET


# ── in flight ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("desired", [A, payload("C"), Held(reason="zip"), None])
def test_row_in_flight_is_only_marked(desired: Desired) -> None:
    row = in_flight(B)
    marked = written(station(row, desired))
    assert marked == row._replace(desired_gen=5)
    assert station(marked, desired) is None


def test_what_is_under_way_is_not_marked_for_being_looked_at() -> None:
    assert station(in_flight(B), B) is None


def test_demand_to_send_again_marks_what_is_under_way() -> None:
    occasion = LIVE._replace(resend="everything")
    marked = written(station(in_flight(B), B, occasion))
    assert (marked.state, marked.desired_gen, marked.again) == ("in_flight", 5, True)
    assert written(station(in_flight(B)._replace(desired_gen=5), B, occasion)).again
    assert station(marked, B, occasion) is None


def test_first_message_in_flight_is_not_forgotten_with_its_station() -> None:
    row = in_flight(B, acknowledged=None, delivered_gen=0)
    assert written(station(row, None)).desired_gen == 5
    assert written(status(status_row()._replace(state="in_flight", sending_gen=3, changed_at=NOW), None)).desired_gen == 4


# ── beside other rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_status_waits_for_its_station_with_a_reason_and_goes_when_it_is_due() -> None:
    waits = written(status(None, AVAILABLE, due=False))
    assert (waits.state, waits.next_attempt_at, waits.reason) == ("pending", None, "waits until the EMP has accepted its station")
    assert status(waits, AVAILABLE, due=False) is None
    newer = written(status(waits, OCCUPIED, due=False))
    assert (newer.payload, newer.next_attempt_at) == (OCCUPIED, None)
    goes = written(status(newer, OCCUPIED, due=True))
    assert (goes.next_attempt_at, goes.reason) == (NOW, None)
    back = written(status(goes, OCCUPIED, due=False))
    assert (back.next_attempt_at, back.reason) == (None, waits.reason)


def test_status_moves_with_its_evse_even_if_nothing_is_to_be_sent() -> None:
    moved = written(status(status_row(), AVAILABLE, station_id="t"))
    assert moved == status_row(station_id="t")


def test_station_waits_for_evses_that_the_emp_has_elsewhere_and_says_so() -> None:
    row = written(station(None, A, elsewhere=frozenset({"E2", "E7"})))
    assert (row.state, row.reason) == ("pending", "waits until the EMP has let go of E2 in another station")
    assert station(row, A, elsewhere=frozenset({"E2"})) is None
    assert written(station(row, A)).reason is None


def test_swap_under_send_deletes_a_station_that_gives_and_waits() -> None:
    swapped = payload("A", "E2", "E9")
    row = written(station(delivered(A), swapped, mode="send", elsewhere=frozenset({"E9"})))
    assert (row.payload, row.reason) == ({**A, "deleted": True}, None)
    accepted = row._replace(
        state="delivered", acknowledged=row.payload, delivered_gen=row.desired_gen, changed_at=None, next_attempt_at=None
    )
    waits = written(station(accepted, swapped, mode="send", elsewhere=frozenset({"E9"})))
    assert (waits.payload, waits.reason) == (swapped, "waits until the EMP has let go of E9 in another station")
    only_gains = written(station(delivered(A), payload("A", "E1", "E2", "E9"), mode="send", elsewhere=frozenset({"E9"})))
    assert not oioi.is_deleted(only_gains.payload or {})


# ── a station whose connectors changed becomes another one ─────────────────────────────────────────────────────────────────────────────


def accepted(decision: Decision) -> Entry:
    """The EMP took it."""
    row = written(decision)
    return row._replace(
        state="delivered",
        acknowledged=row.payload,
        doubtful=None,
        delivered_gen=row.desired_gen,
        changed_at=None,
        next_attempt_at=None,
    )


C = payload("A", "E1", "E9")


def test_replacing_deletes_the_station_and_posts_it_under_a_new_id_from_then_on() -> None:
    gone = accepted(station(delivered(A), C, mode="replace"))
    assert gone.payload == {**A, "deleted": True}
    second = accepted(station(gone, C, mode="replace"))
    assert second.payload == {**C, "id": "s~2"}
    assert station(second, C, mode="replace") is None
    assert written(station(second, {**C, "name": "new"}, mode="replace")).payload == {**C, "id": "s~2", "name": "new"}
    third = accepted(station(accepted(station(second, A, mode="replace")), A, mode="replace"))
    assert third.payload == {**A, "id": "s~3"}
    for mode in ("hold", "send"):
        assert station(third, A, mode=mode) is None, "the id is kept whatever is configured later"


def test_replacing_leaves_alone_what_the_emp_never_had_or_what_has_the_same_connectors() -> None:
    assert written(station(None, A, mode="replace")).payload == A
    assert written(station(delivered(A), payload("B"), mode="replace")).payload == payload("B")


def test_deleted_station_that_returns_is_posted_under_a_new_id_when_replacing() -> None:
    gone = accepted(station(delivered(A), None, mode="replace"))
    assert written(station(gone, A, mode="replace")).payload == {**A, "id": "s~2"}
    assert written(station(gone, A, mode="hold")).payload == A


def test_replacing_takes_a_new_id_only_when_the_old_one_is_surely_gone() -> None:
    deletion = {**A, "deleted": True}
    doubted = delivered(A, payload=deletion, doubtful=deletion, desired_gen=4, state="pending", changed_at=EARLIER)
    assert written(station(doubted, A, mode="replace", occasion=LIVE)).payload == deletion
    unsure = delivered(A, acknowledged=None, payload=A, doubtful=A, desired_gen=4, state="pending", changed_at=EARLIER)
    assert written(station(unsure, C, mode="replace")).payload == A, "perhaps it is there: that is found out first"
    posted = delivered(
        deletion, payload={**C, "id": "s~2"}, doubtful={**C, "id": "s~2"}, desired_gen=4, state="pending", changed_at=EARLIER
    )
    assert written(station(posted, A, mode="replace")).payload == posted.doubtful, "perhaps it is there: that is found out first"
    there = accepted(station(posted, A, mode="replace"))
    assert written(station(there, A, mode="replace")).payload == {**C, "id": "s~2", "deleted": True}


def test_new_id_in_flight_is_not_mistaken_for_something_else() -> None:
    row = in_flight({**C, "id": "s~2"}, acknowledged={**A, "deleted": True})
    assert station(row, C, mode="replace") is None
    assert written(station(row, A, mode="replace")).desired_gen == row.desired_gen + 1


# ── no decision makes a row that cannot be ─────────────────────────────────────────────────────────────────────────────────────────────


def can_be(row: Entry, lease: bool) -> bool:
    """The CHECK constraints of `schema.outbox` in Python; `lease`: whether lease_until is set, which reconciling never touches."""
    return all(
        (
            row.kind in ("station", "status"),
            row.state in ("pending", "in_flight", "delivered", "held", "rejected"),
            (row.state == "in_flight") == lease == (row.sending_gen is not None),
            row.next_attempt_at is None or row.state == "pending",
            row.state not in ("held", "rejected") or row.reason is not None,
            row.state == "held" or row.payload is not None,
            max(row.delivered_gen, row.resend_gen, row.sending_gen or 0) <= row.desired_gen,
            row.state != "delivered"
            or (
                row.delivered_gen == row.desired_gen
                and row.acknowledged is not None
                and not row.uncertain
                and not row.again
                and row.changed_at is None
            ),
            row.state == "delivered" or row.changed_at is not None,
        )
    )


payloads = st.builds(
    lambda name, ids, deleted: payload(name, *ids, deleted=deleted),
    st.sampled_from("AB"),
    st.lists(st.sampled_from(["E1", "E2", "E3"]), min_size=1, max_size=3),
    st.booleans(),
)
times = st.sampled_from([EARLIER, NOW, SOON])
rows = st.builds(
    Entry,
    emp=st.just("e"),
    kind=st.sampled_from(["station", "status"]),
    key=st.just("s"),
    station_id=st.sampled_from(["s", "t"]),
    payload=st.none() | payloads,
    acknowledged=st.none() | payloads,
    desired_gen=st.integers(1, 4),
    delivered_gen=st.integers(0, 4),
    sending_gen=st.none() | st.integers(1, 4),
    state=st.sampled_from(["pending", "in_flight", "delivered", "held", "rejected"]),
    reason=st.none() | st.just("because"),
    doubtful=st.none() | payloads,
    resend_gen=st.integers(0, 4),
    priority=st.sampled_from([0, 1, 11, 21]),
    attempts=st.integers(0, 3),
    next_attempt_at=st.none() | times,
    changed_at=st.none() | times,
)


def lawful(row: Entry) -> Entry:
    """The row with what its state rules out taken away: drawing and refusing would leave few."""
    maybe = row.payload or row.acknowledged or A
    if row.state == "in_flight":
        row = row._replace(payload=maybe, sending_gen=min(row.sending_gen or 1, row.desired_gen), next_attempt_at=None)
    else:
        row = row._replace(sending_gen=None)
    if row.state == "delivered":
        return row._replace(
            payload=maybe,
            acknowledged=maybe,
            delivered_gen=row.desired_gen,
            doubtful=None,
            resend_gen=min(row.resend_gen, row.desired_gen),
            changed_at=None,
            next_attempt_at=None,
            reason=None,
        )
    if row.acknowledged is not None or row.uncertain or row.state != "held":
        row = row._replace(payload=maybe)  # what was sent had a payload
    return row._replace(
        reason="because" if row.state in ("held", "rejected") else row.reason,
        next_attempt_at=row.next_attempt_at if row.state == "pending" else None,
        delivered_gen=min(row.delivered_gen, row.desired_gen) if row.acknowledged is not None else 0,
        resend_gen=min(row.resend_gen, row.desired_gen),
        changed_at=row.changed_at or EARLIER,
    )


occasions = st.builds(
    Occasion,
    now=st.just(NOW),
    changed_at=times,
    priority=st.sampled_from([0, 10, 20]),
    resend=st.sampled_from([None, "undelivered", "statuses", "everything"]),
)
desires = st.none() | payloads.map(lambda p: {**p, "deleted": False}) | st.sampled_from([Held(reason="zip"), Held(reason="because")])


@given(
    st.none() | rows.map(lawful),
    desires,
    occasions,
    st.sampled_from(["hold", "replace", "send"]),
    st.frozensets(st.sampled_from(["E1", "E2", "E3"])),
    st.booleans(),
)
def test_every_decision_is_a_row_that_can_be(
    row: Entry | None, desired: Desired, occasion: Occasion, mode: ConnectorsChanged, elsewhere: frozenset[str], due: bool
) -> None:
    assert row is None or can_be(row, row.in_flight), "the generator of rows is wrong"

    def decide(row: Entry | None, occasion: Occasion) -> Decision:
        if row is not None and row.kind == "status":
            return reconcile.status(row, desired, occasion, emp="e", key="s", station_id="s", due=due)
        return reconcile.station(row, desired, occasion, emp="e", key="s", connectors_changed=mode, elsewhere=elsewhere)

    decision = decide(row, occasion)
    before = row or Entry(emp="e", kind="station", key="s", station_id="s")
    match decision:
        case Entry():
            assert can_be(decision, before.in_flight)
            assert decision.desired_gen >= max(before.desired_gen, 1)
            assert (decision.acknowledged, decision.doubtful, decision.sending_gen) == (
                before.acknowledged,
                before.doubtful,
                before.sending_gen,
            )
            assert decision.state != "delivered" or decision.payload == decision.acknowledged
            if before.in_flight:
                same: dict[str, Any] = {"desired_gen": 0, "resend_gen": 0, "priority": 0, "station_id": ""}
                assert decision._replace(**same) == before._replace(**same)
            if not decision.again:
                assert decide(decision, occasion._replace(resend=None)) is None, "a second look finds nothing new"
        case None:
            pass
        case _:
            assert decision is FORGET
            assert row is not None
            assert not row.in_flight
            assert row.kind == "status" or not row.maybe_at_emp


@given(rows.map(lawful), payloads.map(lambda p: {**p, "deleted": False}))
def test_what_the_emp_may_have_differently_never_counts_as_delivered(row: Entry, desired: Payload) -> None:
    decision = reconcile.station(row._replace(kind="station"), desired, LIVE, emp="e", key="s", connectors_changed="send")
    after = decision if isinstance(decision, Entry) else row
    if after.state == "delivered":
        assert after.acknowledged is not None
        assert after.acknowledged == oioi.with_id(desired, after.acknowledged["id"])
        assert not row.uncertain


# ── what a sweep heals ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

ROW = Entry(emp="e", kind="status", key="E", station_id="s", payload={"status": "Available"}, desired_gen=3, state="delivered")


@pytest.mark.parametrize(
    ("row", "decision", "healed"),
    [
        (None, None, False),
        (None, ROW, True),
        (ROW, None, False),
        (ROW, reconcile.FORGET, True),
        (ROW, ROW._replace(payload={"status": "Occupied"}, state="pending"), True),
        (ROW, ROW._replace(state="held", reason="x"), True),
        (ROW._replace(state="held", reason="x"), ROW._replace(state="held", reason="y"), True),
        (ROW._replace(state="held", reason="x"), ROW._replace(state="pending"), True),
        (ROW._replace(state="pending"), ROW._replace(state="pending", next_attempt_at=datetime(2026, 1, 1, tzinfo=UTC)), False),
        (ROW._replace(state="pending"), ROW, False),
        (ROW, ROW._replace(station_id="other"), False),
        (ROW._replace(state="in_flight", sending_gen=3), ROW._replace(state="in_flight", sending_gen=3, desired_gen=4), True),
        (ROW._replace(state="in_flight", sending_gen=3), ROW._replace(state="in_flight", sending_gen=3, station_id="other"), False),
    ],
)
def test_only_a_difference_that_was_not_captured_before_is_healed(row: Entry | None, decision: reconcile.Decision, healed: bool) -> None:
    assert reconcile.heals(row, decision) is healed


def test_swap_of_stations_in_doubt_under_send_deletes_what_may_be_there() -> None:
    """Found by the plays: both wait for the other, and nobody knows whether the EMP has either."""
    unsure = delivered(A, acknowledged=None, payload=A, doubtful=A, desired_gen=4, state="pending", changed_at=EARLIER)
    row = written(station(unsure, payload("A", "E2", "E9"), mode="send", elsewhere=frozenset({"E9"})))
    assert row.payload == {**A, "deleted": True}
    assert written(station(accepted(row), payload("A", "E2", "E9"), mode="send")).payload == payload("A", "E2", "E9")
