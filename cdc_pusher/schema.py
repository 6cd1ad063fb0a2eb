"""The tables of the schema `cdc_pusher`: the one description that the migrations are checked against.

Nothing here runs SQL. The migrations in `migrations/` create what stands here, and a test fails when the two differ. Every table and column
carries a comment, since operators read these tables with SQL.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, DOUBLE_PRECISION, JSONB, OID

from cdc_pusher.names import PUNCTUATION, SCHEMA

WORDS = (
    "translate(coalesce(payload ->> 'name', '') || ' ' || coalesce(payload -> 'address' ->> 'street', '')"
    f" || ' ' || coalesce(payload -> 'address' ->> 'city', ''), '{PUNCTUATION}', '{' ' * len(PUNCTUATION)}')"
)
"""The words that a station is found by; queries that are to use the index have to spell it so."""

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={"pk": "%(table_name)s_pkey", "ck": "%(table_name)s_%(constraint_name)s", "ix": "%(table_name)s_%(column_0_N_name)s"},
)

# Read by the trigger outside any snapshot (only DDL waits for its lock): 2 while the daemon sleeps and wants a NOTIFY, 1 while it polls.
asleep = Sequence("asleep", metadata=metadata, start=1, minvalue=1, maxvalue=2, cycle=True)
# Counted up by the trigger whenever it could not record a change; the daemon answers with a sweep.
missed = Sequence("missed", metadata=metadata, start=1, minvalue=1)


def _timestamp(name: str, comment: str, *, nullable: bool = True, default: str | None = None) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=text(default) if default else None, comment=comment)


change = Table(
    "change",
    metadata,
    Column(
        "id", BigInteger, Identity(always=True), nullable=False, comment="Order of arrival; given out before commit, so gaps mean nothing"
    ),
    Column(
        "priority",
        SmallInteger,
        nullable=False,
        server_default=text("0"),
        comment="0 a live change, 10 full load or resync, 20 sweep; low goes first",
    ),
    Column("station_id", Text, comment="The station to look at again; NULL: see watch, or any station may have changed (TRUNCATE)"),
    Column("emp", Text, comment="The EMP to look at the station for; NULL: every EMP"),
    Column(
        "resend",
        Text,
        comment="NULL: send what differs; 'undelivered': and what was rejected; 'statuses', 'everything': even what the EMP has",
    ),
    _timestamp(
        "changed_at", "When the change was made (clock time within the CPO's transaction)", nullable=False, default="clock_timestamp()"
    ),
    Column("watch", Text, comment="The watch whose sub-select says which stations source_row concerns; NULL: station_id says it"),
    Column("source_row", JSONB, comment="The changed row of the CPO's table: the columns that the watch's sub-select may name"),
    PrimaryKeyConstraint("priority", "id"),
    comment="Stations to look at again. Triggers, full load, resync and sweep insert, capture consumes; without CHECK constraints, which"
    " would cost the CPO's writers. Empty when all is captured.",
)

outbox = Table(
    "outbox",
    metadata,
    Column("emp", Text, nullable=False, comment="The EMP, as named in the configuration"),
    Column("kind", Text, nullable=False, comment="'station' (station-post) or 'status' (connector-post-status)"),
    Column("key", Text, nullable=False, comment="The station id or the EVSE id"),
    Column("station_id", Text, nullable=False, comment="The station that this message belongs to"),
    Column("payload", JSONB, comment="What the EMP should have: the station object, or connector-id and status; no credentials"),
    Column("acknowledged", JSONB, comment="What the EMP last accepted, in the form of payload"),
    Column(
        "desired_gen",
        BigInteger,
        nullable=False,
        server_default=text("1"),
        comment="Generation of what the EMP should have; raised when it changes",
    ),
    Column("delivered_gen", BigInteger, nullable=False, server_default=text("0"), comment="Generation that the EMP accepted; 0: none yet"),
    Column("sending_gen", BigInteger, comment="Generation of the request that is in flight"),
    Column(
        "state",
        Text,
        nullable=False,
        comment="pending, in_flight, delivered; held: cannot be a valid message; rejected: the EMP refused it",
    ),
    Column("reason", Text, comment="Why it is not delivered, in words"),
    Column("doubtful", JSONB, comment="What the EMP may have applied: the last message whose outcome is unknown; NULL: none is"),
    Column(
        "resend_gen",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="This generation or a later one has to be sent, even if the EMP has its content already",
    ),
    Column(
        "priority", SmallInteger, nullable=False, server_default=text("0"), comment="Low goes first: live before full load before sweep"
    ),
    Column(
        "attempts", Integer, nullable=False, server_default=text("0"), comment="Failed attempts since the last success or change of fortune"
    ),
    _timestamp("next_attempt_at", "When a pending message is due; NULL: it waits for its station, or to be captured again"),
    _timestamp("lease_until", "In flight: when the claim ends, should the daemon die"),
    Column("last_http_status", SmallInteger, comment="HTTP status of the last answer"),
    Column("last_result_code", Integer, comment="Result code of the last answer (OIOI v4, result codes)"),
    Column("last_error", Text, comment="What the last attempt failed with"),
    _timestamp("changed_at", "When the oldest undelivered change was made; NULL when delivered"),
    _timestamp("delivered_at", "When the EMP last accepted a message"),
    _timestamp("failing_since", "When the first of the attempts failed; a message that fails for too long is rejected"),
    Column(
        "strikes",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="Failed attempts while the EMP took other messages; with too many of them it is rejected",
    ),
    _timestamp(
        "uncertain_at", "When a request was last sent that may still be processed late; what is accepted soon after is sent once more"
    ),
    PrimaryKeyConstraint("emp", "kind", "key"),
    CheckConstraint("kind IN ('station', 'status')", name="kind_is_known"),
    CheckConstraint("state IN ('pending', 'in_flight', 'delivered', 'held', 'rejected')", name="state_is_known"),
    CheckConstraint(
        "(state = 'in_flight') = (lease_until IS NOT NULL) AND (state = 'in_flight') = (sending_gen IS NOT NULL)",
        name="in_flight_has_a_lease",
    ),
    CheckConstraint("next_attempt_at IS NULL OR state = 'pending'", name="only_pending_is_due"),
    CheckConstraint("state NOT IN ('held', 'rejected') OR reason IS NOT NULL", name="a_problem_has_its_reason"),
    CheckConstraint("state = 'held' OR payload IS NOT NULL", name="what_is_sent_has_a_payload"),
    CheckConstraint(
        "delivered_gen <= desired_gen AND resend_gen <= desired_gen AND coalesce(sending_gen, 0) <= desired_gen",
        name="generations_are_in_order",
    ),
    CheckConstraint(
        "state <> 'delivered' OR (delivered_gen = desired_gen AND acknowledged IS NOT NULL"
        " AND doubtful IS NULL AND resend_gen <= delivered_gen AND changed_at IS NULL)",
        name="delivered_means_acknowledged",
    ),
    CheckConstraint("state = 'delivered' OR changed_at IS NOT NULL", name="undelivered_has_an_age"),
    Index("outbox_station", "station_id", "emp"),
    Index("outbox_due", "emp", "priority", "next_attempt_at", postgresql_where=text("state = 'pending' AND next_attempt_at IS NOT NULL")),
    Index("outbox_lease", "emp", "lease_until", postgresql_where=text("state = 'in_flight'")),
    Index("outbox_problem", "emp", "kind", "key", postgresql_where=text("state IN ('held', 'rejected')")),
    Index(
        "outbox_words",
        text(f"to_tsvector('simple', {WORDS})"),
        postgresql_using="gin",
        postgresql_where=text("kind = 'station'"),
        postgresql_with={"gin_pending_list_limit": 256},  # kB: whoever fills it has to empty it
    ),
    comment="What each EMP should have and what it has: one row for each EMP and entity, no history.",
)

evse = Table(
    "evse",
    metadata,
    Column("emp", Text, nullable=False, comment="The EMP"),
    Column("evse_id", Text, nullable=False, comment="The EVSE id"),
    Column("station_id", Text, nullable=False, comment="The station"),
    Column("listed", Boolean, nullable=False, comment="The CPO's database lists the EVSE in this station"),
    Column(
        "at_emp",
        Text,
        nullable=False,
        server_default=text("'no'"),
        comment="Whether the EMP has the EVSE in this station: 'yes' accepted, 'maybe' sent and not answered, 'no'",
    ),
    PrimaryKeyConstraint("emp", "evse_id", "station_id"),
    CheckConstraint("at_emp IN ('no', 'maybe', 'yes')", name="at_emp_is_known"),
    CheckConstraint("listed OR at_emp <> 'no'", name="a_row_says_something"),
    Index("evse_station", "emp", "station_id"),
    comment="Which station an EVSE belongs to, in the CPO's database and at the EMP: what keeps one EVSE out of two live stations.",
)

attempt = Table(
    "attempt",
    metadata,
    _timestamp("sent_at", "When the request was sent", nullable=False),
    Column("emp", Text, nullable=False, comment="The EMP"),
    Column("kind", Text, nullable=False, comment="'station' or 'status'"),
    Column("key", Text, nullable=False, comment="The station id or the EVSE id"),
    Column("gen", BigInteger, nullable=False, comment="The generation that was sent (outbox.desired_gen at that time)"),
    Column("duration_ms", Integer, nullable=False, comment="From sending to the answer or the failure, milliseconds"),
    Column("outcome", Text, nullable=False, comment="accepted, retry, station_missing or rejected"),
    Column("http_status", SmallInteger, comment="HTTP status of the answer; NULL: none came"),
    Column("result_code", Integer, comment="Result code of the answer"),
    Column("error", Text, comment="What came back, at most 500 printable characters"),
    Column("host", Text, nullable=False, comment="The daemon that sent it"),
    Index("attempt_key", "key", "sent_at"),
    comment="The audit trail: one row for each request, in daily partitions that are dropped when they are old.",
    postgresql_partition_by="RANGE (sent_at)",
)

minute = Table(
    "minute",
    metadata,
    Column("emp", Text, nullable=False, comment="The EMP"),
    _timestamp("minute", "When the minute began", nullable=False),
    Column("daemon", Text, nullable=False, comment="The daemon that sent it"),
    Column("delivered", BigInteger, nullable=False, comment="Messages that the EMP accepted"),
    Column("failed", BigInteger, nullable=False, comment="Requests that came to nothing"),
    Column(
        "lag_p50_s",
        DOUBLE_PRECISION,
        comment="From the change to the record of its acceptance: the median, seconds, by the buckets of the metric;"
        " NULL: none was accepted",
    ),
    Column("lag_p99_s", DOUBLE_PRECISION, comment="The same: the 99th percentile"),
    PrimaryKeyConstraint("emp", "minute", "daemon"),
    comment="What each EMP was sent, minute by minute, of the last seven days; minutes without a request have no row.",
)

emp = Table(
    "emp",
    metadata,
    Column("name", Text, nullable=False, comment="The EMP, as named in the configuration"),
    _timestamp("first_seen_at", "When the EMP first stood in the configuration of a running daemon", nullable=False, default="now()"),
    _timestamp("full_load_started_at", "When the full load began"),
    _timestamp("full_load_completed_at", "When the last station of the full load was put into the change log"),
    Column("walk", Text, comment="What is going through all stations now: 'full load', 'resync' or 'sweep'; NULL: nothing"),
    Column("walk_phase", Text, comment="'source': stations of the CPO; 'outbox': stations that the EMP has and the CPO no longer lists"),
    Column("walk_cursor", Text, comment="The last station id that was put into the change log"),
    Column("walk_resend", Text, comment="change.resend of what the walk puts into the change log"),
    Column("walk_stations", BigInteger, nullable=False, server_default=text("0"), comment="Stations the walk has put into the change log"),
    Column("mapping", Text, comment="Fingerprint of the configuration that the outbox was captured with; another one orders a sweep"),
    Column("walk_next", Text, comment="The walk to begin when this one ends; NULL: none"),
    _timestamp("paused_at", "Since when people have paused this EMP; NULL: it is served"),
    Column("walk_pace", DOUBLE_PRECISION, comment="Stations a second that the walk keeps to; NULL: as fast as it goes"),
    _timestamp("walk_due_at", "When the next page of a walk that keeps to a pace is to be put into the change log"),
    _timestamp("sweep_started_at", "When the last sweep began"),
    _timestamp("sweep_completed_at", "When the last sweep was through"),
    Column(
        "healed",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Stations, counted since the beginning, that a sweep found changed although no trigger had told of it",
    ),
    _timestamp("healed_at", "When a sweep last found such a station"),
    Column(
        "walk_no",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Number of the walk: one that was ordered anew is another, wherever it stands",
    ),
    Column("breaker_reason", Text, comment="Why nothing but probes is sent: the EMP fails as a whole; NULL: it works"),
    _timestamp("breaker_open_since", "Since when nothing but probes is sent"),
    _timestamp("breaker_probe_at", "When the next probe is due"),
    Column(
        "lane_epoch",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Epoch of the lane that last wrote; one with a lower epoch has lost its lease and writes nothing",
    ),
    Column(
        "timeline",
        Text,
        comment="Where the lane has recorded: system identifier, timeline, oid of the outbox; another place may have lost records",
    ),
    Column("last_error", Text, comment="What a request to the EMP last failed with; noted once a second at most"),
    _timestamp("last_error_at", "When that was"),
    PrimaryKeyConstraint("name"),
    CheckConstraint("(last_error IS NULL) = (last_error_at IS NULL)", name="an_error_has_its_time"),
    CheckConstraint("walk IN ('full load', 'resync', 'sweep')", name="walk_is_known"),
    CheckConstraint("walk_next IN ('resync', 'sweep')", name="walk_next_is_known"),
    CheckConstraint("walk_pace IS NULL OR walk = 'sweep'", name="only_a_sweep_has_a_pace"),
    CheckConstraint("walk IS NOT NULL OR walk_next IS NULL", name="a_next_walk_follows_one"),
    CheckConstraint("walk_phase IN ('source', 'outbox')", name="walk_phase_is_known"),
    CheckConstraint("(walk IS NULL) = (walk_phase IS NULL)", name="a_walk_has_a_phase"),
    CheckConstraint(
        "(breaker_reason IS NULL) = (breaker_open_since IS NULL) AND (breaker_reason IS NULL) = (breaker_probe_at IS NULL)",
        name="an_open_breaker_has_its_reason",
    ),
    CheckConstraint("walk_resend IN ('undelivered', 'statuses', 'everything')", name="walk_resend_is_known"),
    comment="Per EMP: its full load, and the walk through all stations that is under way. Its row lock orders the writers of its outbox.",
)

cpo = Table(
    "cpo",
    metadata,
    Column("emp", Text, nullable=False, comment="The EMP"),
    Column("cpo", Text, nullable=False, comment="The CPO's internal identifier, as the stations carry it"),
    Column("cpo_id", Text, comment="The identifier told to the EMP (cpo-id); NULL: the configuration has none"),
    _timestamp("confirmed_at", "Since when the EMP is known to know this CPO; NULL: its stations are held"),
    PrimaryKeyConstraint("emp", "cpo"),
    CheckConstraint("confirmed_at IS NULL OR cpo_id IS NOT NULL", name="confirmed_with_an_identifier"),
    comment="Per EMP the CPOs that occur in the stations or the configuration; the EMP has to know one before its first station is sent.",
)

capture = Table(
    "capture",
    metadata,
    Column("singleton", Boolean, nullable=False, server_default=text("true"), comment="There is one row"),
    Column(
        "missed_seen",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="cdc_pusher.missed when the last sweep for it was ordered",
    ),
    Column("missed_noted", BigInteger, comment="cdc_pusher.missed when misses were last noticed; NULL: none is to be answered for"),
    Column("missed_horizon", BigInteger, comment="Transactions below this id may have missed changes that are not committed yet"),
    Column(
        "epoch",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Epoch of the capture that last wrote; one with a lower epoch has lost its lease and writes nothing",
    ),
    PrimaryKeyConstraint("singleton"),
    CheckConstraint("singleton", name="one_row"),
    comment="Who captures holds the lock of this row: two captures at once could write an older reading over a newer one.",
)

lease = Table(
    "lease",
    metadata,
    Column("name", Text, nullable=False, comment="'capture', or 'lane' and the EMP"),
    Column("holder", Text, comment="The daemon that has it; NULL: it was given back"),
    Column(
        "epoch",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="Counts the holders; what is recorded under a lower one than the last is refused",
    ),
    _timestamp("expires_at", "From when on another daemon may take it, unless the holder renews it"),
    _timestamp("taken_at", "When the holder took it"),
    PrimaryKeyConstraint("name"),
    CheckConstraint("holder IS NULL OR (expires_at IS NOT NULL AND taken_at IS NOT NULL)", name="held_for_a_time"),
    comment="Which daemon captures, and which serves the lane of which EMP",
)

daemon = Table(
    "daemon",
    metadata,
    Column("name", Text, nullable=False, comment="Machine, process id and a number by chance"),
    Column("version", Text, nullable=False, comment="The version of the program"),
    Column(
        "leases",
        ARRAY(Text),
        nullable=False,
        comment="The leases that it may take now: none when it is about to stop, and not those whose work fails here",
    ),
    Column("wants", ARRAY(Text), nullable=False, comment="The leases that its configuration names"),
    Column("listens", Boolean, nullable=False, server_default=text("false"), comment="Whether it hears NOTIFY; if not, it polls"),
    _timestamp("started_at", "When it started", nullable=False, default="now()"),
    _timestamp("expires_at", "From when on it counts as dead, unless it speaks up again", nullable=False),
    PrimaryKeyConstraint("name"),
    comment="The daemons that run on this database, on whatever machine",
)

granted = Table(
    "granted",
    metadata,
    Column("role", Text, nullable=False, comment="The role that was given the right"),
    Column("kind", Text, nullable=False, comment="'TABLE' or 'SCHEMA'"),
    Column("object", Text, nullable=False, comment="The table (SELECT) or schema (USAGE) of the CPO, quoted, as it was called then"),
    Column("object_id", OID, nullable=False, comment="The same by its oid, whatever it is called now"),
    PrimaryKeyConstraint("role", "kind", "object"),
    CheckConstraint("kind IN ('TABLE', 'SCHEMA')", name="kind_is_known"),
    comment="Rights on the CPO's things that cdc-pusher migrate has given; cdc-pusher uninstall takes back these and no others.",
)
