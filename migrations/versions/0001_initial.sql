CREATE SEQUENCE cdc_pusher.asleep START WITH 1 MINVALUE 1 MAXVALUE 2 CYCLE;
CREATE SEQUENCE cdc_pusher.missed START WITH 1 MINVALUE 1;
CREATE TABLE cdc_pusher.attempt (
    sent_at TIMESTAMP WITH TIME ZONE NOT NULL,
    emp TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    gen BIGINT NOT NULL,
    duration_ms INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    http_status SMALLINT,
    result_code INTEGER,
    error TEXT,
    host TEXT NOT NULL
)
 PARTITION BY RANGE (sent_at);
CREATE INDEX attempt_key ON cdc_pusher.attempt (key, sent_at);
COMMENT ON TABLE cdc_pusher.attempt IS 'The audit trail: one row for each request, in daily partitions that are dropped when they are old.';
COMMENT ON COLUMN cdc_pusher.attempt.sent_at IS 'When the request was sent';
COMMENT ON COLUMN cdc_pusher.attempt.emp IS 'The EMP';
COMMENT ON COLUMN cdc_pusher.attempt.kind IS '''station'' or ''status''';
COMMENT ON COLUMN cdc_pusher.attempt.key IS 'The station id or the EVSE id';
COMMENT ON COLUMN cdc_pusher.attempt.gen IS 'The generation that was sent (outbox.desired_gen at that time)';
COMMENT ON COLUMN cdc_pusher.attempt.duration_ms IS 'From sending to the answer or the failure, milliseconds';
COMMENT ON COLUMN cdc_pusher.attempt.outcome IS 'accepted, retry, station_missing or rejected';
COMMENT ON COLUMN cdc_pusher.attempt.http_status IS 'HTTP status of the answer; NULL: none came';
COMMENT ON COLUMN cdc_pusher.attempt.result_code IS 'Result code of the answer';
COMMENT ON COLUMN cdc_pusher.attempt.error IS 'What came back, at most 500 printable characters';
COMMENT ON COLUMN cdc_pusher.attempt.host IS 'The machine that sent it';
CREATE TABLE cdc_pusher.capture (
    singleton BOOLEAN DEFAULT true NOT NULL,
    missed_seen BIGINT DEFAULT 0 NOT NULL,
    missed_noted BIGINT,
    missed_horizon BIGINT,
    CONSTRAINT capture_pkey PRIMARY KEY (singleton),
    CONSTRAINT capture_one_row CHECK (singleton)
);
COMMENT ON TABLE cdc_pusher.capture IS 'Who captures holds the lock of this row: two captures at once could write an older reading over a newer one.';
COMMENT ON COLUMN cdc_pusher.capture.singleton IS 'There is one row';
COMMENT ON COLUMN cdc_pusher.capture.missed_seen IS 'cdc_pusher.missed when the last sweep for it was ordered';
COMMENT ON COLUMN cdc_pusher.capture.missed_noted IS 'cdc_pusher.missed when misses were last noticed; NULL: none is to be answered for';
COMMENT ON COLUMN cdc_pusher.capture.missed_horizon IS 'Transactions below this id may have missed changes that are not committed yet';
CREATE TABLE cdc_pusher.change (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    priority SMALLINT DEFAULT 0 NOT NULL,
    station_id TEXT,
    emp TEXT,
    resend TEXT,
    changed_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT change_pkey PRIMARY KEY (priority, id),
    CONSTRAINT change_resend_is_known CHECK (resend IN ('undelivered', 'statuses', 'everything'))
);
COMMENT ON TABLE cdc_pusher.change IS 'Stations to look at again. Triggers, full load, resync and sweep insert, capture consumes. Empty when all is captured.';
COMMENT ON COLUMN cdc_pusher.change.id IS 'Order of arrival; given out before commit, so gaps mean nothing';
COMMENT ON COLUMN cdc_pusher.change.priority IS '0 a live change, 10 full load or resync, 20 sweep; low goes first';
COMMENT ON COLUMN cdc_pusher.change.station_id IS 'The station to look at again; NULL: any station may have changed (TRUNCATE)';
COMMENT ON COLUMN cdc_pusher.change.emp IS 'The EMP to look at the station for; NULL: every EMP';
COMMENT ON COLUMN cdc_pusher.change.resend IS 'NULL: send what differs; ''undelivered'': and what was rejected; ''statuses'', ''everything'': even what the EMP has';
COMMENT ON COLUMN cdc_pusher.change.changed_at IS 'When the change was made (clock time within the CPO''s transaction)';
CREATE TABLE cdc_pusher.cpo (
    emp TEXT NOT NULL,
    cpo TEXT NOT NULL,
    cpo_id TEXT,
    confirmed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT cpo_pkey PRIMARY KEY (emp, cpo)
);
COMMENT ON TABLE cdc_pusher.cpo IS 'Per EMP the CPOs that were set up with it, before their first station is sent.';
COMMENT ON COLUMN cdc_pusher.cpo.emp IS 'The EMP';
COMMENT ON COLUMN cdc_pusher.cpo.cpo IS 'The CPO''s internal identifier, as the stations carry it';
COMMENT ON COLUMN cdc_pusher.cpo.cpo_id IS 'The identifier told to the EMP (cpo-id)';
COMMENT ON COLUMN cdc_pusher.cpo.confirmed_at IS 'Since when the EMP knows this CPO';
CREATE TABLE cdc_pusher.emp (
    name TEXT NOT NULL,
    first_seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    full_load_started_at TIMESTAMP WITH TIME ZONE,
    full_load_completed_at TIMESTAMP WITH TIME ZONE,
    walk TEXT,
    walk_phase TEXT,
    walk_cursor TEXT,
    walk_resend TEXT,
    walk_stations BIGINT DEFAULT 0 NOT NULL,
    mapping TEXT,
    walk_again BOOLEAN DEFAULT false NOT NULL,
    paused_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT emp_pkey PRIMARY KEY (name),
    CONSTRAINT emp_walk_is_known CHECK (walk IN ('full load', 'resync', 'sweep')),
    CONSTRAINT emp_walk_phase_is_known CHECK (walk_phase IN ('source', 'outbox')),
    CONSTRAINT emp_a_walk_has_a_phase CHECK ((walk IS NULL) = (walk_phase IS NULL)),
    CONSTRAINT emp_walk_resend_is_known CHECK (walk_resend IN ('undelivered', 'statuses', 'everything'))
);
COMMENT ON TABLE cdc_pusher.emp IS 'Per EMP: its full load, and the walk through all stations that is under way. Its row lock orders the writers of its outbox.';
COMMENT ON COLUMN cdc_pusher.emp.name IS 'The EMP, as named in the configuration';
COMMENT ON COLUMN cdc_pusher.emp.first_seen_at IS 'When the EMP first stood in the configuration of a running daemon';
COMMENT ON COLUMN cdc_pusher.emp.full_load_started_at IS 'When the full load began';
COMMENT ON COLUMN cdc_pusher.emp.full_load_completed_at IS 'When the last station of the full load was put into the change log';
COMMENT ON COLUMN cdc_pusher.emp.walk IS 'What is going through all stations now: ''full load'', ''resync'' or ''sweep''; NULL: nothing';
COMMENT ON COLUMN cdc_pusher.emp.walk_phase IS '''source'': stations of the CPO; ''outbox'': stations that the EMP has and the CPO no longer lists';
COMMENT ON COLUMN cdc_pusher.emp.walk_cursor IS 'The last station id that was put into the change log';
COMMENT ON COLUMN cdc_pusher.emp.walk_resend IS 'change.resend of what the walk puts into the change log';
COMMENT ON COLUMN cdc_pusher.emp.walk_stations IS 'Stations the walk has put into the change log';
COMMENT ON COLUMN cdc_pusher.emp.mapping IS 'Fingerprint of the configuration that the outbox was captured with; another one orders a sweep';
COMMENT ON COLUMN cdc_pusher.emp.walk_again IS 'Begin again when this walk ends';
COMMENT ON COLUMN cdc_pusher.emp.paused_at IS 'Since when people have paused this EMP; NULL: it is served';
CREATE TABLE cdc_pusher.evse (
    emp TEXT NOT NULL,
    evse_id TEXT NOT NULL,
    station_id TEXT NOT NULL,
    listed BOOLEAN NOT NULL,
    at_emp TEXT DEFAULT 'no' NOT NULL,
    CONSTRAINT evse_pkey PRIMARY KEY (emp, evse_id, station_id),
    CONSTRAINT evse_at_emp_is_known CHECK (at_emp IN ('no', 'maybe', 'yes')),
    CONSTRAINT evse_a_row_says_something CHECK (listed OR at_emp <> 'no')
);
CREATE INDEX evse_station ON cdc_pusher.evse (emp, station_id);
COMMENT ON TABLE cdc_pusher.evse IS 'Which station an EVSE belongs to, in the CPO''s database and at the EMP: what keeps one EVSE out of two live stations.';
COMMENT ON COLUMN cdc_pusher.evse.emp IS 'The EMP';
COMMENT ON COLUMN cdc_pusher.evse.evse_id IS 'The EVSE id';
COMMENT ON COLUMN cdc_pusher.evse.station_id IS 'The station';
COMMENT ON COLUMN cdc_pusher.evse.listed IS 'The CPO''s database lists the EVSE in this station';
COMMENT ON COLUMN cdc_pusher.evse.at_emp IS 'Whether the EMP has the EVSE in this station: ''yes'' accepted, ''maybe'' sent and not answered, ''no''';
CREATE TABLE cdc_pusher.outbox (
    emp TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    station_id TEXT NOT NULL,
    payload JSONB,
    acknowledged JSONB,
    desired_gen BIGINT DEFAULT 1 NOT NULL,
    delivered_gen BIGINT DEFAULT 0 NOT NULL,
    sending_gen BIGINT,
    state TEXT NOT NULL,
    reason TEXT,
    doubtful JSONB,
    resend_gen BIGINT DEFAULT 0 NOT NULL,
    priority SMALLINT DEFAULT 0 NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    next_attempt_at TIMESTAMP WITH TIME ZONE,
    lease_until TIMESTAMP WITH TIME ZONE,
    last_http_status SMALLINT,
    last_result_code INTEGER,
    last_error TEXT,
    changed_at TIMESTAMP WITH TIME ZONE,
    delivered_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT outbox_pkey PRIMARY KEY (emp, kind, key),
    CONSTRAINT outbox_kind_is_known CHECK (kind IN ('station', 'status')),
    CONSTRAINT outbox_state_is_known CHECK (state IN ('pending', 'in_flight', 'delivered', 'held', 'rejected')),
    CONSTRAINT outbox_in_flight_has_a_lease CHECK ((state = 'in_flight') = (lease_until IS NOT NULL) AND (state = 'in_flight') = (sending_gen IS NOT NULL)),
    CONSTRAINT outbox_only_pending_is_due CHECK (next_attempt_at IS NULL OR state = 'pending'),
    CONSTRAINT outbox_a_problem_has_its_reason CHECK (state NOT IN ('held', 'rejected') OR reason IS NOT NULL),
    CONSTRAINT outbox_what_is_sent_has_a_payload CHECK (state = 'held' OR payload IS NOT NULL),
    CONSTRAINT outbox_generations_are_in_order CHECK (delivered_gen <= desired_gen AND resend_gen <= desired_gen AND coalesce(sending_gen, 0) <= desired_gen),
    CONSTRAINT outbox_delivered_means_acknowledged CHECK (state <> 'delivered' OR (delivered_gen = desired_gen AND acknowledged IS NOT NULL AND doubtful IS NULL AND resend_gen <= delivered_gen AND changed_at IS NULL)),
    CONSTRAINT outbox_undelivered_has_an_age CHECK (state = 'delivered' OR changed_at IS NOT NULL)
);
CREATE INDEX outbox_due ON cdc_pusher.outbox (emp, priority, next_attempt_at) WHERE state = 'pending' AND next_attempt_at IS NOT NULL;
CREATE INDEX outbox_lease ON cdc_pusher.outbox (emp, lease_until) WHERE state = 'in_flight';
CREATE INDEX outbox_problem ON cdc_pusher.outbox (emp, kind, key) WHERE state IN ('held', 'rejected');
CREATE INDEX outbox_station ON cdc_pusher.outbox (station_id, emp);
COMMENT ON TABLE cdc_pusher.outbox IS 'What each EMP should have and what it has: one row for each EMP and entity, no history.';
COMMENT ON COLUMN cdc_pusher.outbox.emp IS 'The EMP, as named in the configuration';
COMMENT ON COLUMN cdc_pusher.outbox.kind IS '''station'' (station-post) or ''status'' (connector-post-status)';
COMMENT ON COLUMN cdc_pusher.outbox.key IS 'The station id or the EVSE id';
COMMENT ON COLUMN cdc_pusher.outbox.station_id IS 'The station that this message belongs to';
COMMENT ON COLUMN cdc_pusher.outbox.payload IS 'What the EMP should have: the station object, or connector-id and status; no credentials';
COMMENT ON COLUMN cdc_pusher.outbox.acknowledged IS 'What the EMP last accepted, in the form of payload';
COMMENT ON COLUMN cdc_pusher.outbox.desired_gen IS 'Generation of what the EMP should have; raised when it changes';
COMMENT ON COLUMN cdc_pusher.outbox.delivered_gen IS 'Generation that the EMP accepted; 0: none yet';
COMMENT ON COLUMN cdc_pusher.outbox.sending_gen IS 'Generation of the request that is in flight';
COMMENT ON COLUMN cdc_pusher.outbox.state IS 'pending, in_flight, delivered; held: cannot be a valid message; rejected: the EMP refused it';
COMMENT ON COLUMN cdc_pusher.outbox.reason IS 'Why it is not delivered, in words';
COMMENT ON COLUMN cdc_pusher.outbox.doubtful IS 'What the EMP may have applied: the last message whose outcome is unknown; NULL: none is';
COMMENT ON COLUMN cdc_pusher.outbox.resend_gen IS 'This generation or a later one has to be sent, even if the EMP has its content already';
COMMENT ON COLUMN cdc_pusher.outbox.priority IS 'Low goes first: live before full load before sweep';
COMMENT ON COLUMN cdc_pusher.outbox.attempts IS 'Failed attempts since the last success or change of fortune';
COMMENT ON COLUMN cdc_pusher.outbox.next_attempt_at IS 'When a pending message is due; NULL: it waits for its station, or to be captured again';
COMMENT ON COLUMN cdc_pusher.outbox.lease_until IS 'In flight: when the claim ends, should the daemon die';
COMMENT ON COLUMN cdc_pusher.outbox.last_http_status IS 'HTTP status of the last answer';
COMMENT ON COLUMN cdc_pusher.outbox.last_result_code IS 'Result code of the last answer (OIOI v4, result codes)';
COMMENT ON COLUMN cdc_pusher.outbox.last_error IS 'What the last attempt failed with';
COMMENT ON COLUMN cdc_pusher.outbox.changed_at IS 'When the oldest undelivered change was made; NULL when delivered';
COMMENT ON COLUMN cdc_pusher.outbox.delivered_at IS 'When the EMP last accepted a message';

INSERT INTO cdc_pusher.capture DEFAULT VALUES;

CREATE TABLE cdc_pusher.attempt_default PARTITION OF cdc_pusher.attempt DEFAULT;
COMMENT ON TABLE cdc_pusher.attempt_default IS 'Where attempts go while the partition of their day is missing, so that delivery never waits for one';

CREATE FUNCTION cdc_pusher.maintain_attempts(retention_days integer) RETURNS void
    LANGUAGE plpgsql
    SET timezone = 'UTC'
AS $$
DECLARE
    day date;
    partition name;
BEGIN
    FOR day IN SELECT current_date + n FROM generate_series(-1, 3) AS n LOOP
        partition := 'attempt_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('cdc_pusher.' || partition) IS NOT NULL
            OR EXISTS (SELECT FROM cdc_pusher.attempt_default WHERE sent_at >= day AND sent_at < day + 1);
        EXECUTE format('CREATE TABLE cdc_pusher.%I PARTITION OF cdc_pusher.attempt FOR VALUES FROM (%L) TO (%L)', partition, day, day + 1);
    END LOOP;
    FOR partition IN
        SELECT c.relname
        FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace = 'cdc_pusher'::regnamespace
          AND c.relname ~ '^attempt_[0-9]{8}$'
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < current_date - retention_days
    LOOP
        EXECUTE format('DROP TABLE cdc_pusher.%I', partition);
    END LOOP;
    DELETE FROM cdc_pusher.attempt_default WHERE sent_at < current_date - retention_days;
END
$$;
COMMENT ON FUNCTION cdc_pusher.maintain_attempts IS 'Creates the partitions of attempt ahead of time and drops those older than the retention';

CREATE VIEW cdc_pusher.outbox_problems AS
SELECT emp, kind, key, station_id, state, coalesce(reason, last_error) AS reason, attempts, changed_at AS since, last_http_status, last_result_code
FROM cdc_pusher.outbox
WHERE state IN ('held', 'rejected')
   OR (state IN ('pending', 'in_flight') AND (reason IS NOT NULL OR attempts > 0 OR last_error IS NOT NULL));
COMMENT ON VIEW cdc_pusher.outbox_problems IS 'Every message that is not simply on its way, with the reason';

CREATE VIEW cdc_pusher.emp_progress AS
SELECT
    e.name AS emp,
    e.full_load_started_at,
    e.full_load_completed_at,
    e.walk,
    e.walk_stations,
    e.paused_at,
    o.*
FROM cdc_pusher.emp AS e
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE kind = 'station') AS stations,
        count(*) FILTER (WHERE kind = 'station' AND state = 'delivered') AS stations_delivered,
        count(*) FILTER (WHERE kind = 'status') AS statuses,
        count(*) FILTER (WHERE kind = 'status' AND state = 'delivered') AS statuses_delivered,
        count(*) FILTER (WHERE state IN ('pending', 'in_flight')) AS on_their_way,
        count(*) FILTER (WHERE state = 'held') AS held,
        count(*) FILTER (WHERE state = 'rejected') AS rejected
    FROM cdc_pusher.outbox
    WHERE emp = e.name
) AS o;
COMMENT ON VIEW cdc_pusher.emp_progress IS 'Per EMP: the full load, and how many messages are where';

CREATE VIEW cdc_pusher.delivery_lag AS
SELECT
    e.name AS emp,
    o.undelivered,
    o.oldest_change_at,
    now() - o.oldest_change_at AS lag
FROM cdc_pusher.emp AS e
CROSS JOIN LATERAL (
    SELECT count(*) AS undelivered, min(changed_at) AS oldest_change_at
    FROM cdc_pusher.outbox
    WHERE emp = e.name
      AND state IN ('pending', 'in_flight')
) AS o;
COMMENT ON VIEW cdc_pusher.delivery_lag IS 'Per EMP: how old the oldest change is that is on its way and not delivered';

CREATE VIEW cdc_pusher.station_state AS
SELECT
    s.emp,
    s.key AS station_id,
    s.state,
    s.reason,
    s.acknowledged ->> 'name' AS name_at_emp,
    coalesce((s.acknowledged ->> 'deleted')::boolean, false) AS deleted_at_emp,
    c.key AS evse_id,
    c.state AS status_state,
    c.payload ->> 'status' AS status,
    c.acknowledged ->> 'status' AS status_at_emp,
    coalesce(c.reason, c.last_error) AS status_reason
FROM cdc_pusher.outbox AS s
LEFT JOIN cdc_pusher.outbox AS c
    ON c.emp = s.emp
   AND c.kind = 'status'
   AND c.station_id = s.key
WHERE s.kind = 'station';
COMMENT ON VIEW cdc_pusher.station_state IS 'Per EMP, station and EVSE: what the EMP should have beside what it has';
