-- name: place
-- On which server the records of this EMP were made, and on which we are.
SELECT
    e.timeline AS recorded_on,
    concat_ws('/', s.system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8), 'cdc_pusher.outbox'::regclass::oid) AS timeline
FROM cdc_pusher.emp AS e
CROSS JOIN pg_control_system() AS s
WHERE e.name = %(emp)s

-- name: last_delivery
-- When the EMP last accepted something, as far as the records reach.
SELECT max(delivered_at) AS at
FROM cdc_pusher.outbox
WHERE emp = %(emp)s

-- name: note_timeline
-- From now on records are made on this server.
UPDATE cdc_pusher.emp
SET timeline = %(timeline)s
WHERE name = %(emp)s

-- name: doubt
-- The EMP was told this, and the database has lost the record of it: it counts as possibly applied, and all of it is captured again. What is
-- not known any more has a row again: a station, so that it can be deleted at the EMP; a status, because it may still be processed late.
WITH told AS (
    SELECT *
    FROM jsonb_to_recordset(%(told)s) AS r (kind text, key text, station_id text, payload jsonb, late boolean)
), doubted AS (
    UPDATE cdc_pusher.outbox AS o
    SET state = CASE WHEN o.state = 'held' THEN 'held' ELSE 'pending' END,
        doubtful = t.payload,
        uncertain_at = CASE WHEN t.late THEN clock_timestamp() ELSE o.uncertain_at END,
        desired_gen = o.desired_gen + 1,
        resend_gen = o.desired_gen + 1,
        next_attempt_at = NULL,
        changed_at = coalesce(o.changed_at, clock_timestamp()),
        reason = CASE WHEN o.state = 'held' THEN o.reason ELSE 'the database has lost what the EMP was told' END
    FROM told AS t
    WHERE o.emp = %(emp)s
      AND o.kind = t.kind
      AND o.key = t.key
      AND o.state <> 'in_flight'
      AND (t.late OR o.acknowledged IS DISTINCT FROM t.payload)
    RETURNING o.station_id
), found_again AS (
    INSERT INTO cdc_pusher.outbox (emp, kind, key, station_id, payload, doubtful, uncertain_at, resend_gen, state, reason, priority, changed_at)
    SELECT
        %(emp)s, kind, key, station_id, payload, payload, CASE WHEN late THEN clock_timestamp() END, 1, 'pending',
        'the database has lost what the EMP was told', 0, clock_timestamp()
    FROM told
    WHERE kind = 'station'
       OR late
    ON CONFLICT (emp, kind, key) DO NOTHING
    RETURNING station_id
)
INSERT INTO cdc_pusher.change (station_id, emp, priority)
SELECT station_id, %(emp)s, 0
FROM doubted
UNION
SELECT station_id, %(emp)s, 0
FROM found_again
RETURNING station_id
