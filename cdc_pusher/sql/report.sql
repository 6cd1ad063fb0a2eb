-- name: progress
-- Per EMP: full load, counts and lag, from the operators' views.
SELECT p.*, l.undelivered, l.oldest_change_at, extract(epoch FROM l.lag)::double precision AS lag_s
FROM cdc_pusher.emp_progress AS p
JOIN cdc_pusher.delivery_lag AS l USING (emp)
ORDER BY p.emp

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
