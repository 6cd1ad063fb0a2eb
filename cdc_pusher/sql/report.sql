-- name: progress
-- Per EMP: full load, counts and lag, from the operators' views.
SELECT p.*, l.undelivered, l.oldest_change_at, extract(epoch FROM l.lag)::double precision AS lag_s
FROM cdc_pusher.emp_progress AS p
JOIN cdc_pusher.delivery_lag AS l USING (emp)
ORDER BY p.emp

-- name: accepted_since
-- How many stations and EVSEs each EMP has accepted something of since a look that was made then, by the database's clock.
SELECT
    now() AS at,
    coalesce((
        SELECT jsonb_object_agg(emp, messages)
        FROM (
            SELECT emp, count(*) FILTER (WHERE delivered_at > %(since)s::timestamptz) AS messages
            FROM cdc_pusher.outbox
            GROUP BY emp
        ) AS o
    ), '{}') AS messages

-- name: change_log
-- How much waits to be captured, and since when.
SELECT count(*) AS changes, min(changed_at) AS oldest_change_at
FROM cdc_pusher.change

-- name: reasons
-- Problems counted by their reason, the most frequent first.
SELECT emp, state, left(reason, 200) AS reason, count(*) AS messages
FROM cdc_pusher.outbox_problems
WHERE %(emp)s::text IS NULL OR emp = %(emp)s
GROUP BY 1, 2, 3
ORDER BY 4 DESC, 1, 2, 3
LIMIT 20

-- name: entries
-- Outbox rows for people, problems first.
SELECT emp, kind, key, station_id, state, coalesce(reason, last_error) AS reason, attempts, changed_at, next_attempt_at
FROM cdc_pusher.outbox
WHERE (%(emp)s::text IS NULL OR emp = %(emp)s)
  AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
ORDER BY array_position(ARRAY['rejected', 'held', 'in_flight', 'pending', 'delivered'], state), emp, kind, key
LIMIT %(limit)s

-- name: entity
-- Everything about one station or EVSE, with the rows that belong to a station.
SELECT *
FROM cdc_pusher.outbox
WHERE (key = %(key)s OR station_id = %(key)s)
  AND (%(emp)s::text IS NULL OR emp = %(emp)s)
ORDER BY emp, kind, key

-- name: attempts
-- The last requests for one station or EVSE.
SELECT sent_at, emp, kind, key, gen, duration_ms, outcome, http_status, result_code, error, host
FROM cdc_pusher.attempt
WHERE key = %(key)s
  AND (%(emp)s::text IS NULL OR emp = %(emp)s)
ORDER BY sent_at DESC
LIMIT 20

-- name: remaining
-- What a resync still has to do for these EMPs.
SELECT
    (SELECT count(*) FROM cdc_pusher.emp WHERE name = ANY (%(emps)s) AND walk IS NOT NULL) AS walks,
    (SELECT coalesce(sum(walk_stations), 0) FROM cdc_pusher.emp WHERE name = ANY (%(emps)s)) AS walked,
    (SELECT count(*) FROM cdc_pusher.change WHERE emp IS NULL OR emp = ANY (%(emps)s)) AS changes,
    (
        SELECT count(*)
        FROM cdc_pusher.outbox
        WHERE emp = ANY (%(emps)s)
          AND (state = 'in_flight' OR (state = 'pending' AND next_attempt_at IS NOT NULL))
    ) AS messages

-- name: resync_size
-- What a resync would look at and could send for these EMPs: of these stations, or of all.
SELECT
    count(*) FILTER (WHERE kind = 'station') AS stations,
    count(*) FILTER (WHERE kind = 'status') AS statuses,
    count(*) FILTER (WHERE state <> 'delivered') AS undelivered
FROM cdc_pusher.outbox
WHERE emp = ANY (%(emps)s)
  AND (%(stations)s::text[] IS NULL OR station_id = ANY (%(stations)s))

-- name: emps
-- All EMPs that there are rows of, and whether some daemon serves them.
SELECT
    p.emp,
    e.mapping IS NOT NULL AS served,
    p.paused_at,
    p.breaker_reason,
    p.breaker_open_since,
    p.breaker_probe_at,
    p.stations,
    p.statuses,
    p.on_their_way,
    p.held,
    p.rejected
FROM cdc_pusher.emp_progress AS p
JOIN cdc_pusher.emp AS e
    ON e.name = p.emp
ORDER BY p.emp

-- name: backlog
-- Messages that are not delivered, by EMP, state and cause (of a set that does not grow), with the oldest change among those on their way:
-- neither held nor rejected, nor waiting for another message, which may be.
SELECT
    emp,
    state,
    cause,
    count(*) AS messages,
    min(changed_at) FILTER (WHERE state IN ('pending', 'in_flight') AND cause NOT IN ('station', 'evse')) AS oldest_change_at
FROM (
    SELECT
        emp,
        state,
        changed_at,
        CASE state
            WHEN 'in_flight' THEN 'sending'
            WHEN 'rejected' THEN 'refused'
            WHEN 'held' THEN CASE
                WHEN reason LIKE 'cpo%%' THEN 'cpo'
                WHEN reason LIKE 'connectors: %%the EMP does not allow%%' THEN 'connectors'
                WHEN reason LIKE 'evse_id: %%stands in more than one station%%' THEN 'evse'
                WHEN reason LIKE 'only:%%' OR reason LIKE 'the mapping fails%%' THEN 'mapping'
                ELSE 'invalid'
            END
            ELSE CASE
                WHEN next_attempt_at IS NULL THEN CASE WHEN kind = 'status' AND reason IS NOT NULL THEN 'station' ELSE 'capture' END
                WHEN reason LIKE 'waits until the EMP has let go%%' THEN 'evse'
                WHEN reason LIKE 'sent once more%%' THEN 'late'
                WHEN attempts > 0 OR next_attempt_at > now() THEN 'backoff'
                ELSE 'due'
            END
        END AS cause
    FROM cdc_pusher.outbox
    WHERE state <> 'delivered'
) AS o
GROUP BY emp, state, cause

-- name: served
-- The EMPs that the configuration of the daemons has, as they are.
SELECT
    name AS emp,
    full_load_completed_at IS NOT NULL AS is_loaded,
    paused_at IS NOT NULL AS is_paused,
    breaker_reason IS NOT NULL AS is_failing,
    CASE WHEN walk IS NOT NULL THEN walk_stations ELSE 0 END AS walk_stations,
    coalesce(sweep_completed_at, full_load_completed_at) AS sweep_completed_at,
    healed
FROM cdc_pusher.emp
WHERE mapping IS NOT NULL

-- name: log_depth
-- Changes that wait to be captured, as far as counting is worth the while, their age in seconds, and how many the triggers have missed.
SELECT
    count(*) AS changes,
    coalesce(extract(epoch FROM clock_timestamp() - min(changed_at)), 0)::double precision AS age_s,
    (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM cdc_pusher.missed) AS missed
FROM (SELECT changed_at FROM cdc_pusher.change LIMIT 10000) AS c

-- name: stations
-- Stations in the outbox, by EMP.
SELECT emp, count(*) AS stations
FROM cdc_pusher.outbox
WHERE kind = 'station'
GROUP BY emp

-- name: daemons
-- The daemons that live, and what each does.
SELECT
    d.name AS daemon,
    d.version,
    d.started_at,
    d.listens,
    ARRAY(SELECT l.name FROM cdc_pusher.lease AS l WHERE l.holder = d.name AND l.expires_at > clock_timestamp() ORDER BY l.name) AS leases
FROM cdc_pusher.daemon AS d
WHERE d.expires_at > clock_timestamp()
ORDER BY d.name

-- name: unheld
-- What no daemon does although one that lives could, or none lives.
SELECT l.name
FROM cdc_pusher.lease AS l
WHERE (l.holder IS NULL OR l.expires_at <= clock_timestamp())
  AND (l.name = 'capture' OR EXISTS (SELECT FROM cdc_pusher.emp AS e WHERE l.name = 'lane ' || e.name AND e.mapping IS NOT NULL))
ORDER BY l.name
