-- name: lock
-- Become the only capture until the transaction ends; the database's clock is the only one that due times are measured by.
SELECT epoch, clock_timestamp() AS now
FROM cdc_pusher.capture
WHERE singleton
FOR NO KEY UPDATE

-- name: raise_epoch
-- From now on whoever captures under an earlier lease is refused.
UPDATE cdc_pusher.capture
SET epoch = %(epoch)s
WHERE singleton

-- name: consume
-- Take the most urgent changes out of the log, of one priority, few if that is not live, and with them what is said of the same stations
-- further on; nobody else deletes, so the row addresses hold. What concerns every EMP is handed over to those that another daemon serves.
-- `more`: others were seen that are left, or may stand beyond what was seen.
WITH ahead AS MATERIALIZED (
    SELECT row_number() OVER () AS place, min(c.priority) OVER () AS most_urgent, c.*
    FROM (
        SELECT found.*
        FROM unnest(%(priorities)s::smallint[], %(since)s::bigint[]) WITH ORDINALITY AS p (priority, since, turn)
        CROSS JOIN LATERAL (
            SELECT ctid AS address, station_id, priority
            FROM cdc_pusher.change
            WHERE priority = p.priority
              AND id > p.since
              AND (emp IS NULL OR emp = ANY (%(emps)s))
            ORDER BY id
            LIMIT %(ahead)s
        ) AS found
        ORDER BY p.turn
        LIMIT %(ahead)s
    ) AS c
), chosen AS MATERIALIZED (
    SELECT address, station_id
    FROM ahead
    WHERE place <= CASE most_urgent WHEN 0 THEN %(batch)s ELSE %(few)s END
      AND priority = most_urgent
), taken AS (
    DELETE FROM cdc_pusher.change
    WHERE ctid = ANY (ARRAY(
        SELECT address
        FROM chosen
        UNION
        SELECT address
        FROM ahead
        WHERE (station_id IN (SELECT station_id FROM chosen)) IS TRUE -- by hashing, not by a join of what the planner takes for one row each
    ))
    RETURNING id, station_id, watch, source_row, emp, priority, resend, changed_at
), handed_over AS (
    INSERT INTO cdc_pusher.change (station_id, watch, source_row, emp, priority, resend, changed_at)
    SELECT t.station_id, t.watch, t.source_row, e.name, t.priority, t.resend, t.changed_at
    FROM taken AS t
    CROSS JOIN unnest(ARRAY(SELECT name FROM cdc_pusher.emp WHERE mapping IS NOT NULL AND NOT name = ANY (%(emps)s))) AS e (name)
    WHERE t.emp IS NULL
)
SELECT
    (SELECT count(*) >= %(ahead)s OR count(*) > (SELECT count(*) FROM taken) FROM ahead) AS more,
    id, station_id, watch, source_row, emp, priority,
    CASE WHEN resend IN ('undelivered', 'statuses', 'everything') THEN resend END AS resend, -- people may have put anything there
    changed_at
FROM taken
ORDER BY priority, id

-- name: lock_emps
-- Order ourselves with the lanes that write the outbox of these EMPs (NULL: of all), always in the order of their names.
SELECT name
FROM cdc_pusher.emp
WHERE name = ANY (%(emps)s)
   OR %(emps)s::text[] IS NULL
ORDER BY name
FOR NO KEY UPDATE

-- name: evses
-- What is known of the EVSEs of these stations, and of these and those EVSEs in any station; `leaving`: the station is about to be deleted at the EMP.
SELECT
    e.emp,
    e.evse_id,
    e.station_id,
    e.listed,
    e.at_emp,
    coalesce(o.state IN ('pending', 'in_flight') AND (o.payload ->> 'deleted')::boolean, false) AS leaving
FROM (
    SELECT emp, evse_id, station_id, listed, at_emp
    FROM cdc_pusher.evse
    WHERE emp = ANY (%(emps)s)
      AND station_id = ANY (%(stations)s)
    UNION
    SELECT emp, evse_id, station_id, listed, at_emp
    FROM cdc_pusher.evse
    WHERE emp = ANY (%(emps)s)
      AND evse_id = ANY (ARRAY(
          SELECT unnest(%(evses)s::text[])
          UNION
          SELECT evse_id
          FROM cdc_pusher.evse
          WHERE emp = ANY (%(emps)s)
            AND station_id = ANY (%(stations)s)
          UNION
          SELECT key
          FROM cdc_pusher.outbox
          WHERE emp = ANY (%(emps)s)
            AND station_id = ANY (%(stations)s)
            AND kind = 'status'
      ))
) AS e
LEFT JOIN cdc_pusher.outbox AS o
    ON o.emp = e.emp
   AND o.kind = 'station'
   AND o.key = e.station_id

-- name: entries
-- The outbox rows of these stations, and the status rows of their EVSEs, those before and those now, whatever station they stand under.
-- `same`: the EMP has the payload.
SELECT
    coalesce(acknowledged = payload, false) AS same, emp, kind, key, station_id, payload::text,
    CASE WHEN acknowledged IS DISTINCT FROM payload THEN acknowledged END AS acknowledged,
    desired_gen, delivered_gen, sending_gen, state, reason, doubtful, resend_gen, priority, attempts, next_attempt_at, changed_at
FROM cdc_pusher.outbox
WHERE emp = ANY (%(emps)s)
  AND station_id = ANY (%(stations)s)
UNION ALL
SELECT
    coalesce(acknowledged = payload, false) AS same, emp, kind, key, station_id, payload::text,
    CASE WHEN acknowledged IS DISTINCT FROM payload THEN acknowledged END AS acknowledged,
    desired_gen, delivered_gen, sending_gen, state, reason, doubtful, resend_gen, priority, attempts, next_attempt_at, changed_at
FROM cdc_pusher.outbox
WHERE emp = ANY (%(emps)s)
  AND kind = 'status'
  AND key = ANY (ARRAY(
      SELECT unnest(%(evses)s::text[])
      UNION
      SELECT evse_id
      FROM cdc_pusher.evse
      WHERE emp = ANY (%(emps)s)
        AND station_id = ANY (%(stations)s)
  ))
  AND station_id NOT IN (SELECT unnest(%(stations)s::text[])) -- by hashing

-- name: insert_entries
-- New outbox rows. What becomes due is due from now on, not from when the batch began: a lane may have looked meanwhile (`claim`).
INSERT INTO cdc_pusher.outbox (
    emp, kind, key, station_id, payload, desired_gen, state, reason, resend_gen, priority, next_attempt_at, changed_at
)
SELECT
    emp, kind, key, station_id, payload, desired_gen, state, reason, resend_gen, priority,
    CASE WHEN next_attempt_at IS NOT NULL THEN greatest(next_attempt_at, clock_timestamp()) END, changed_at
FROM jsonb_to_recordset(%(rows)s) AS r (
    emp text, kind text, key text, station_id text, payload jsonb, desired_gen bigint, state text, reason text, resend_gen bigint,
    priority smallint, next_attempt_at timestamptz, changed_at timestamptz
)

-- name: update_entries
-- Outbox rows as capture has decided; what only delivery knows (acknowledged, doubtful, lease) is left alone.
UPDATE cdc_pusher.outbox AS o
SET station_id = r.station_id,
    payload = r.payload,
    desired_gen = r.desired_gen,
    delivered_gen = r.delivered_gen,
    state = r.state,
    reason = r.reason,
    resend_gen = r.resend_gen,
    priority = r.priority,
    attempts = r.attempts,
    failing_since = CASE WHEN r.attempts > 0 AND r.payload = o.payload THEN o.failing_since END,
    strikes = CASE WHEN r.attempts > 0 AND r.payload = o.payload THEN o.strikes ELSE 0 END,
    next_attempt_at = CASE
        WHEN r.next_attempt_at IS NULL OR r.next_attempt_at = o.next_attempt_at THEN r.next_attempt_at
        ELSE greatest(r.next_attempt_at, clock_timestamp())
    END,
    changed_at = r.changed_at
FROM jsonb_to_recordset(%(rows)s) AS r (
    emp text, kind text, key text, station_id text, payload jsonb, desired_gen bigint, delivered_gen bigint, state text, reason text,
    resend_gen bigint, priority smallint, attempts integer, next_attempt_at timestamptz, changed_at timestamptz
)
WHERE o.emp = r.emp
  AND o.kind = r.kind
  AND o.key = r.key

-- name: forget_entries
-- Rows of what the EMP never had and need not have, and of statuses that nobody wants; but what may still be processed late is remembered,
-- for the entity may come back.
WITH unwanted AS MATERIALIZED (
    SELECT emp, kind, key
    FROM unnest(%(emp)s::text[], %(kind)s::text[], %(key)s::text[]) AS r (emp, kind, key)
), remembered AS (
    UPDATE cdc_pusher.outbox AS o
    SET state = 'pending',
        reason = %(reason)s,
        priority = %(priority)s,
        acknowledged = NULL,
        doubtful = NULL,
        delivered_gen = 0,
        resend_gen = 0,
        attempts = 0,
        next_attempt_at = clock_timestamp(),
        changed_at = coalesce(o.changed_at, clock_timestamp())
    FROM unwanted AS r
    WHERE o.emp = r.emp
      AND o.kind = r.kind
      AND o.key = r.key
      AND o.uncertain_at IS NOT NULL
)
DELETE FROM cdc_pusher.outbox AS o
USING unwanted AS r
WHERE o.emp = r.emp
  AND o.kind = r.kind
  AND o.key = r.key
  AND o.uncertain_at IS NULL

-- name: list_evses
-- Which station lists which EVSE now.
INSERT INTO cdc_pusher.evse AS e (emp, evse_id, station_id, listed)
SELECT emp, evse_id, station_id, true
FROM unnest(%(emp)s::text[], %(evse)s::text[], %(station)s::text[]) AS r (emp, evse_id, station_id)
ON CONFLICT (emp, evse_id, station_id) DO UPDATE
SET listed = true
WHERE NOT e.listed

-- name: unlist_evses
-- EVSEs that a station no longer lists: the row stays as long as the EMP may have them there.
WITH gone AS (
    SELECT emp, evse_id, station_id
    FROM unnest(%(emp)s::text[], %(evse)s::text[], %(station)s::text[]) AS r (emp, evse_id, station_id)
), dropped AS (
    DELETE FROM cdc_pusher.evse AS e
    USING gone AS g
    WHERE e.emp = g.emp
      AND e.evse_id = g.evse_id
      AND e.station_id = g.station_id
      AND e.at_emp = 'no'
)
UPDATE cdc_pusher.evse AS e
SET listed = false
FROM gone AS g
WHERE e.emp = g.emp
  AND e.evse_id = g.evse_id
  AND e.station_id = g.station_id
  AND e.at_emp <> 'no'

-- name: record_changes
-- Put stations into the change log: of full load, resync and sweep, or because another change concerns them. Unset EMPs: for every one.
INSERT INTO cdc_pusher.change (station_id, emp, priority, resend, changed_at)
SELECT s.station_id, e.emp, %(priority)s, %(resend)s, coalesce(%(changed_at)s, clock_timestamp())
FROM unnest(%(stations)s::text[]) WITH ORDINALITY AS s (station_id, place)
CROSS JOIN unnest(%(emps)s::text[]) AS e (emp)
ORDER BY s.place, e.emp

-- name: told_of
-- Those of these stations that a change in the log names, and all of them while a row is there whose stations are not known yet.
SELECT r.station_id
FROM unnest(%(stations)s::text[]) AS r (station_id)
WHERE r.station_id IN (SELECT station_id FROM cdc_pusher.change WHERE priority = 0)
   OR EXISTS (SELECT FROM cdc_pusher.change WHERE priority = 0 AND station_id IS NULL)

-- name: note_healed
-- A sweep has found stations changed that nobody had told of; unless somebody has meanwhile had all stations gone through for a reason.
UPDATE cdc_pusher.emp
SET healed = healed + %(stations)s,
    healed_at = now()
WHERE name = %(emp)s
  AND coalesce(walk, 'sweep') = 'sweep'
  AND walk_next IS DISTINCT FROM 'resync'
RETURNING name

-- name: note_cpos
-- CPOs that occur in the stations of an EMP and that the configuration does not name.
INSERT INTO cdc_pusher.cpo (emp, cpo)
SELECT emp, cpo
FROM unnest(%(emps)s::text[], %(cpos)s::text[]) AS r (emp, cpo)
ON CONFLICT (emp, cpo) DO NOTHING

-- name: cpos
-- Those of these CPOs that are known for the EMPs, and the cpo-id that each EMP was told, if any.
SELECT emp, cpo, CASE WHEN confirmed_at IS NOT NULL THEN cpo_id END AS told
FROM cdc_pusher.cpo
WHERE emp = ANY (%(emps)s)
  AND cpo = ANY (%(cpos)s)

-- name: order_walk
-- Have these EMPs' stations gone through from the beginning; a full load that is under way stays one.
UPDATE cdc_pusher.emp
SET walk = CASE WHEN full_load_completed_at IS NULL THEN 'full load' ELSE 'resync' END,
    walk_next = NULL,
    walk_phase = 'source',
    walk_cursor = NULL,
    walk_no = walk_no + 1,
    walk_resend = %(resend)s,
    walk_stations = 0,
    walk_pace = NULL,
    walk_due_at = NULL
WHERE name = ANY (%(emps)s)

-- name: order_walk_after
-- Have these EMPs' stations gone through; a walk that is under way comes to its end first, and in haste, or the next one might never begin.
UPDATE cdc_pusher.emp
SET walk_next = CASE WHEN walk IS NOT NULL THEN CASE WHEN 'resync' IN (walk_next, %(walk)s) THEN 'resync' ELSE 'sweep' END END,
    walk = coalesce(walk, CASE WHEN full_load_completed_at IS NULL THEN 'full load' ELSE %(walk)s END),
    walk_phase = coalesce(walk_phase, 'source'),
    walk_no = CASE WHEN walk IS NULL THEN walk_no + 1 ELSE walk_no END,
    walk_stations = CASE WHEN walk IS NULL THEN 0 ELSE walk_stations END,
    walk_pace = NULL,
    walk_due_at = NULL,
    sweep_started_at = CASE WHEN walk IS NULL AND %(walk)s = 'sweep' THEN now() ELSE sweep_started_at END
WHERE name = ANY (%(emps)s)
