-- The views answer people. Columns are only added, at the end: whatever reads these views goes on to work. What needs another row to be put
-- into words is a sub-select in its expression, so that it costs nothing where the column is not asked for.

CREATE OR REPLACE VIEW cdc_pusher.outbox_problems AS
SELECT
    o.emp,
    o.kind,
    o.key,
    o.station_id,
    o.state,
    coalesce(o.reason, o.last_error) AS reason,
    o.attempts,
    o.changed_at AS since,
    o.last_http_status,
    o.last_result_code,
    CASE
        WHEN o.state = 'pending' AND o.reason LIKE 'no longer listed%'
            THEN o.emp || ' is told nothing more of ' || w.what || ': ' || o.reason
        WHEN o.state = 'pending' AND o.reason LIKE 'sent once more%'
            THEN o.emp || ' has ' || w.what || ', and gets it once more ' || w.again || ': an earlier request may still be processed'
        ELSE o.emp || ' does not get ' || w.what || ' since ' || w.since || ': ' || CASE
            WHEN o.state = 'held' THEN 'held, because ' || o.reason
            WHEN o.state = 'rejected' THEN 'rejected, because of ' || o.reason
            WHEN o.state = 'in_flight' THEN 'being sent now' || w.after
            WHEN o.next_attempt_at IS NULL AND o.kind = 'status' AND o.reason IS NOT NULL THEN 'waits for its station' || coalesce((
                SELECT CASE s.state
                    WHEN 'held' THEN ', which is held, because ' || s.reason
                    WHEN 'rejected' THEN ', which is rejected, because of ' || s.reason
                    ELSE ', which is on its way'
                END
                FROM cdc_pusher.outbox AS s
                WHERE s.emp = o.emp
                  AND s.kind = 'station'
                  AND s.key = o.station_id
            ), '') || w.after_refusal
            WHEN o.next_attempt_at IS NULL THEN 'changed again, waits to be read again' || w.after
            WHEN o.reason LIKE 'waits until%' THEN o.reason
            WHEN o.reason LIKE 'the EMP does not know%' THEN 'sent again, because ' || o.reason
            ELSE coalesce((
                SELECT CASE
                    WHEN e.paused_at IS NOT NULL THEN 'waits until ' || o.emp || ' is resumed'
                    WHEN e.breaker_reason IS NOT NULL THEN 'waits until ' || o.emp || ' works again'
                END
                FROM cdc_pusher.emp AS e
                WHERE e.name = o.emp
            ), 'being tried again ' || w.again) || w.after
        END
    END AS problem
FROM cdc_pusher.outbox AS o
CROSS JOIN LATERAL (
    SELECT greatest(0, ceil(extract(epoch FROM o.next_attempt_at - now())))::bigint AS in_s
) AS t
CROSS JOIN LATERAL (
    SELECT
        CASE
            WHEN o.kind = 'status' THEN 'the status of EVSE ' || o.key || ' (station ' || o.station_id || ')'
            WHEN o.state <> 'held' AND (o.payload ->> 'deleted')::boolean THEN 'the deletion of station ' || o.key
            WHEN NOT (o.acknowledged ->> 'deleted')::boolean THEN 'the changes of station ' || o.key
            ELSE 'station ' || o.key
        END AS what,
        to_char(o.changed_at, CASE WHEN o.changed_at < current_date THEN 'YYYY-MM-DD HH24:MI:SS' ELSE 'HH24:MI:SS' END) AS since,
        CASE
            WHEN t.in_s < 1 THEN 'now'
            WHEN t.in_s < 120 THEN 'in ' || t.in_s || ' s'
            WHEN t.in_s < 7200 THEN 'in ' || t.in_s / 60 || ' min'
            ELSE 'in ' || t.in_s / 3600 || ' h'
        END AS again,
        CASE o.attempts WHEN 0 THEN '' WHEN 1 THEN ' after 1 attempt' ELSE ' after ' || o.attempts || ' attempts' END
            || coalesce(': ' || coalesce(o.reason, o.last_error), '') AS after,
        CASE WHEN o.reason LIKE 'waits for its station: %' THEN substr(o.reason, 22) ELSE '' END AS after_refusal
) AS w
WHERE o.state IN ('held', 'rejected')
   OR (o.state IN ('pending', 'in_flight') AND (o.reason IS NOT NULL OR o.attempts > 0 OR o.last_error IS NOT NULL));
COMMENT ON VIEW cdc_pusher.outbox_problems IS 'Every message that is not simply on its way, with the reason, and as a sentence';
COMMENT ON COLUMN cdc_pusher.outbox_problems.emp IS 'The EMP, as named in the configuration';
COMMENT ON COLUMN cdc_pusher.outbox_problems.kind IS '''station'' (station-post) or ''status'' (connector-post-status)';
COMMENT ON COLUMN cdc_pusher.outbox_problems.key IS 'The station id or the EVSE id';
COMMENT ON COLUMN cdc_pusher.outbox_problems.station_id IS 'The station that this message belongs to';
COMMENT ON COLUMN cdc_pusher.outbox_problems.state IS 'held: cannot be a valid message; rejected: the EMP refused it; pending, in_flight: waits for something, or is tried again';
COMMENT ON COLUMN cdc_pusher.outbox_problems.reason IS 'Why it is not delivered: the field and its value, the EMP''s answer, or what it waits for';
COMMENT ON COLUMN cdc_pusher.outbox_problems.attempts IS 'Failed attempts since the last success or change of fortune';
COMMENT ON COLUMN cdc_pusher.outbox_problems.since IS 'When the oldest undelivered change was made';
COMMENT ON COLUMN cdc_pusher.outbox_problems.last_http_status IS 'HTTP status of the last answer';
COMMENT ON COLUMN cdc_pusher.outbox_problems.last_result_code IS 'Result code of the last answer';
COMMENT ON COLUMN cdc_pusher.outbox_problems.problem IS 'All of it as one sentence, for people; times in the time zone of the session, without the date where it is today';

CREATE OR REPLACE VIEW cdc_pusher.emp_progress AS
SELECT
    e.name AS emp,
    e.full_load_started_at,
    e.full_load_completed_at,
    e.walk,
    e.walk_stations,
    e.paused_at,
    o.*,
    e.sweep_started_at,
    e.sweep_completed_at,
    e.healed,
    e.healed_at,
    e.breaker_reason,
    e.breaker_open_since,
    e.breaker_probe_at,
    served.by AS served_by,
    CASE
        WHEN e.mapping IS NULL THEN 'in no configuration'
        WHEN e.paused_at IS NOT NULL THEN 'paused'
        WHEN served.by IS NULL THEN 'served by no daemon'
        WHEN e.breaker_reason IS NOT NULL THEN 'fails: ' || e.breaker_reason
        WHEN e.full_load_completed_at IS NULL THEN 'full load under way'
        ELSE 'works'
    END AS condition
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
) AS o
CROSS JOIN LATERAL (
    SELECT (
        SELECT l.holder
        FROM cdc_pusher.lease AS l
        WHERE l.name = 'lane ' || e.name
          AND l.expires_at > now()
    ) AS by
) AS served;
COMMENT ON VIEW cdc_pusher.emp_progress IS 'Per EMP: how it does, the full load, and how many messages are where';
COMMENT ON COLUMN cdc_pusher.emp_progress.emp IS 'The EMP, as named in the configuration';
COMMENT ON COLUMN cdc_pusher.emp_progress.full_load_started_at IS 'When the full load began';
COMMENT ON COLUMN cdc_pusher.emp_progress.full_load_completed_at IS 'When the last station of the full load was put into the change log';
COMMENT ON COLUMN cdc_pusher.emp_progress.walk IS 'What is going through all stations now: ''full load'', ''resync'' or ''sweep''; NULL: nothing';
COMMENT ON COLUMN cdc_pusher.emp_progress.walk_stations IS 'Stations that this walk, or the last one, has put into the change log';
COMMENT ON COLUMN cdc_pusher.emp_progress.paused_at IS 'Since when people have paused this EMP; NULL: it is served';
COMMENT ON COLUMN cdc_pusher.emp_progress.stations IS 'Stations in the outbox, also those that were deleted';
COMMENT ON COLUMN cdc_pusher.emp_progress.stations_delivered IS 'Stations that the EMP has as the database has them';
COMMENT ON COLUMN cdc_pusher.emp_progress.statuses IS 'EVSEs in the outbox';
COMMENT ON COLUMN cdc_pusher.emp_progress.statuses_delivered IS 'EVSEs whose status the EMP has as the database has it';
COMMENT ON COLUMN cdc_pusher.emp_progress.on_their_way IS 'Messages that are pending or in flight';
COMMENT ON COLUMN cdc_pusher.emp_progress.held IS 'Messages that cannot be valid, and are not sent';
COMMENT ON COLUMN cdc_pusher.emp_progress.rejected IS 'Messages that the EMP refused for good, or that failed too often';
COMMENT ON COLUMN cdc_pusher.emp_progress.sweep_started_at IS 'When the last sweep began';
COMMENT ON COLUMN cdc_pusher.emp_progress.sweep_completed_at IS 'When the last sweep was through';
COMMENT ON COLUMN cdc_pusher.emp_progress.healed IS 'Stations, counted since the beginning, that a sweep found changed although no trigger had told of it';
COMMENT ON COLUMN cdc_pusher.emp_progress.healed_at IS 'When a sweep last found such a station';
COMMENT ON COLUMN cdc_pusher.emp_progress.breaker_reason IS 'Why nothing but probes is sent: the EMP fails as a whole; NULL: it works';
COMMENT ON COLUMN cdc_pusher.emp_progress.breaker_open_since IS 'Since when nothing but probes is sent';
COMMENT ON COLUMN cdc_pusher.emp_progress.breaker_probe_at IS 'When the next probe is due';
COMMENT ON COLUMN cdc_pusher.emp_progress.served_by IS 'The daemon that sends to this EMP now; NULL: none does';
COMMENT ON COLUMN cdc_pusher.emp_progress.condition IS 'How it does, in words: works, full load under way, fails and why, served by no daemon, paused, in no configuration';

CREATE OR REPLACE VIEW cdc_pusher.delivery_lag AS
SELECT
    e.name AS emp,
    o.undelivered,
    o.oldest_change_at,
    now() - o.oldest_change_at AS lag,
    o.waiting,
    now() - o.oldest_due_change_at AS late_by
FROM cdc_pusher.emp AS e
CROSS JOIN LATERAL (
    SELECT
        count(*) AS undelivered,
        min(changed_at) AS oldest_change_at,
        count(*) FILTER (WHERE waits) AS waiting,
        min(changed_at) FILTER (WHERE NOT waits) AS oldest_due_change_at
    FROM (
        SELECT
            changed_at,
            state = 'pending' AND reason IS NOT NULL
                AND ((kind = 'status' AND next_attempt_at IS NULL) OR reason LIKE 'waits until the EMP has let go%') AS waits
        FROM cdc_pusher.outbox
        WHERE emp = e.name
          AND state IN ('pending', 'in_flight')
    ) AS u
) AS o;
COMMENT ON VIEW cdc_pusher.delivery_lag IS 'Per EMP: how old the oldest change is that is on its way and not delivered';
COMMENT ON COLUMN cdc_pusher.delivery_lag.emp IS 'The EMP, as named in the configuration';
COMMENT ON COLUMN cdc_pusher.delivery_lag.undelivered IS 'Messages that are pending or in flight';
COMMENT ON COLUMN cdc_pusher.delivery_lag.oldest_change_at IS 'When the oldest change among them was made';
COMMENT ON COLUMN cdc_pusher.delivery_lag.lag IS 'How long ago that was; NULL: nothing is on its way';
COMMENT ON COLUMN cdc_pusher.delivery_lag.waiting IS 'Of those undelivered, the ones that wait for another message, which may be held or rejected: a status for its station, a station for its EVSEs';
COMMENT ON COLUMN cdc_pusher.delivery_lag.late_by IS 'As lag, but without the messages that wait for another one: how late the EMP is';

CREATE OR REPLACE VIEW cdc_pusher.station_state AS
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
    coalesce(c.reason, c.last_error) AS status_reason,
    coalesce(CASE c.state WHEN 'in_flight' THEN c.payload END, c.doubtful) ->> 'status' AS status_maybe_at_emp,
    c.delivered_at AS status_accepted_at,
    s.delivered_at AS accepted_at
FROM cdc_pusher.outbox AS s
LEFT JOIN cdc_pusher.outbox AS c
    ON c.emp = s.emp
   AND c.kind = 'status'
   AND c.station_id = s.key
WHERE s.kind = 'station';
COMMENT ON VIEW cdc_pusher.station_state IS 'Per EMP, station and EVSE: what the EMP should have beside what it has';
COMMENT ON COLUMN cdc_pusher.station_state.emp IS 'The EMP, as named in the configuration';
COMMENT ON COLUMN cdc_pusher.station_state.station_id IS 'The station, as the CPO calls it';
COMMENT ON COLUMN cdc_pusher.station_state.state IS 'State of the station''s message: pending, in_flight, delivered, held, rejected';
COMMENT ON COLUMN cdc_pusher.station_state.reason IS 'Why the station is not delivered';
COMMENT ON COLUMN cdc_pusher.station_state.name_at_emp IS 'The station''s name as the EMP last accepted it; NULL: it has accepted none';
COMMENT ON COLUMN cdc_pusher.station_state.deleted_at_emp IS 'Whether what the EMP last accepted was the deletion of the station';
COMMENT ON COLUMN cdc_pusher.station_state.evse_id IS 'The EVSE; NULL: the station has none in the outbox';
COMMENT ON COLUMN cdc_pusher.station_state.status_state IS 'State of the message about its status';
COMMENT ON COLUMN cdc_pusher.station_state.status IS 'The status that the EMP should have';
COMMENT ON COLUMN cdc_pusher.station_state.status_at_emp IS 'The status that the EMP last accepted';
COMMENT ON COLUMN cdc_pusher.station_state.status_reason IS 'Why the status is not delivered';
COMMENT ON COLUMN cdc_pusher.station_state.status_maybe_at_emp IS 'The status that the EMP may have instead: it is being sent, or nobody knows what became of it; NULL: nothing is in doubt';
COMMENT ON COLUMN cdc_pusher.station_state.status_accepted_at IS 'When the EMP last accepted a status of this EVSE';
COMMENT ON COLUMN cdc_pusher.station_state.accepted_at IS 'When the EMP last accepted a message about this station';
