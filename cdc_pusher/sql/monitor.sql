-- name: emps
-- The EMPs that the configuration has, or that there are rows of: what people, the breaker and walks say, and which daemon serves the lane.
SELECT
    e.name AS emp,
    e.mapping IS NOT NULL AS served,
    e.full_load_started_at,
    e.full_load_completed_at,
    e.walk,
    e.walk_stations,
    e.paused_at,
    e.sweep_completed_at,
    e.healed,
    e.healed_at,
    e.breaker_reason,
    e.breaker_open_since,
    e.breaker_probe_at,
    e.last_error,
    e.last_error_at,
    CASE WHEN l.expires_at > clock_timestamp() THEN l.holder END AS daemon
FROM cdc_pusher.emp AS e
LEFT JOIN cdc_pusher.lease AS l
    ON l.name = 'lane ' || e.name
ORDER BY e.name

-- name: minutes
-- The minutes of the last hour in which something was sent, of all daemons.
SELECT
    emp,
    greatest(0, extract(epoch FROM date_trunc('minute', now()) - minute)::integer / 60) AS ago,
    sum(delivered)::bigint AS delivered,
    sum(failed)::bigint AS failed,
    max(lag_p50_s) AS lag_p50_s,
    max(lag_p99_s) AS lag_p99_s
FROM cdc_pusher.minute
WHERE emp = ANY (%(emps)s)
  AND minute > date_trunc('minute', now()) - interval '60 min'
GROUP BY emp, minute
ORDER BY emp, minute

-- name: problems
-- What is held or rejected, in the order of its key: of each EMP, that has a text in its reason or its ids.
SELECT o.emp, o.kind, o.key, o.station_id, o.state, o.reason, o.attempts, o.changed_at AS since, o.last_http_status, o.last_result_code
FROM unnest(%(emps)s::text[]) AS e (name)
CROSS JOIN LATERAL (
    SELECT *
    FROM cdc_pusher.outbox
    WHERE emp = e.name
      AND state IN ('held', 'rejected')
      AND (%(state)s::text IS NULL OR state = %(state)s)
      AND (%(kind)s::text IS NULL OR kind = %(kind)s)
      AND strpos(lower(reason || ' ' || key || ' ' || station_id), lower(%(text)s)) > 0
    ORDER BY kind, key
    LIMIT %(limit)s
) AS o
ORDER BY o.emp, o.kind, o.key
LIMIT %(limit)s

-- name: problem_groups
-- The same by reason without the values in it, the most frequent first, with how many there are in all: of each EMP as far as `most`.
SELECT
    emp,
    state,
    regexp_replace(reason, '''[^'']*''|"[^"]*"|[A-Z]{2}\*[A-Z0-9*]+', '…', 'g') AS reason,
    count(*) AS messages,
    min(reason) AS example,
    (sum(count(*)) OVER ())::bigint AS found,
    bool_or(bool_or(of_emp >= %(most)s)) OVER () AS are_more
FROM (
    SELECT o.*, count(*) OVER (PARTITION BY o.emp) AS of_emp
    FROM unnest(%(emps)s::text[]) AS e (name)
    CROSS JOIN LATERAL (
        SELECT emp, state, left(reason, 300) AS reason
        FROM cdc_pusher.outbox
        WHERE emp = e.name
          AND state IN ('held', 'rejected')
          AND (%(state)s::text IS NULL OR state = %(state)s)
          AND (%(kind)s::text IS NULL OR kind = %(kind)s)
          AND strpos(lower(reason || ' ' || key || ' ' || station_id), lower(%(text)s)) > 0
        ORDER BY kind, key
        LIMIT %(most)s
    ) AS o
) AS found
GROUP BY 1, 2, 3
ORDER BY messages DESC, emp, state, 3
LIMIT %(groups)s

-- name: station_of
-- The station of an EVSE, as far as anything is known of that.
SELECT station_id
FROM cdc_pusher.outbox
WHERE emp = ANY (%(emps)s)
  AND kind = 'status'
  AND key = %(evse)s
LIMIT 1

-- name: rows
-- All rows of a station.
SELECT
    emp, kind, key, payload, acknowledged, doubtful, state, reason, attempts, next_attempt_at, changed_at, delivered_at,
    last_http_status, last_result_code, last_error
FROM cdc_pusher.outbox
WHERE station_id = %(station_id)s
ORDER BY emp, kind, key

-- name: attempts
-- The last requests for any of these keys, stations and EVSEs, the newest first.
SELECT found.*
FROM unnest(%(keys)s::text[]) AS k (key)
CROSS JOIN LATERAL (
    SELECT a.sent_at, a.emp, a.kind, a.key, a.gen, a.duration_ms, a.outcome, a.http_status, a.result_code, a.error, a.host
    FROM cdc_pusher.attempt AS a
    WHERE a.key = k.key
    ORDER BY a.sent_at DESC
    LIMIT %(limit)s
) AS found
ORDER BY found.sent_at DESC
LIMIT %(limit)s

-- name: cpos
-- The CPOs that are known for each EMP, and the cpo-id that it was told.
SELECT emp, cpo, CASE WHEN confirmed_at IS NOT NULL THEN cpo_id END AS told
FROM cdc_pusher.cpo
WHERE cpo = %(cpo)s

-- name: places
-- Where the next stations of an EMP are, and how far their own message has got; what was deleted is not shown.
SELECT
    key,
    (payload ->> 'longitude')::double precision AS longitude,
    (payload ->> 'latitude')::double precision AS latitude,
    state,
    (payload ->> 'deleted')::boolean AS deleted
FROM cdc_pusher.outbox
WHERE emp = %(emp)s
  AND kind = 'station'
  AND key > %(after)s
ORDER BY key
LIMIT %(limit)s

-- name: open
-- The stations of an EMP of which anything is not delivered, with the worst state; each state is found by its own index, and counted no further
-- than the limit.
SELECT station_id, min(rank) AS rank
FROM (
    (
        SELECT station_id, CASE state WHEN 'rejected' THEN 0 ELSE 1 END AS rank
        FROM cdc_pusher.outbox
        WHERE emp = %(emp)s
          AND state IN ('held', 'rejected')
        ORDER BY kind, key
        LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT station_id, CASE WHEN attempts > 0 THEN 2 ELSE 3 END
        FROM cdc_pusher.outbox
        WHERE emp = %(emp)s
          AND state = 'pending'
          AND next_attempt_at IS NOT NULL
        ORDER BY priority, next_attempt_at
        LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT station_id, 3
        FROM cdc_pusher.outbox
        WHERE emp = %(emp)s
          AND state = 'in_flight'
        ORDER BY lease_until
        LIMIT %(limit)s
    )
) AS o
GROUP BY station_id
LIMIT %(limit)s

-- name: by_key
-- Stations and EVSEs whose id begins like this, as far as the order of the keys has them together.
SELECT emp, kind, key, station_id, state, name
FROM unnest(%(emps)s::text[]) AS e (emp_name)
CROSS JOIN LATERAL unnest(ARRAY['station', 'status']) AS k (kind_name)
CROSS JOIN LATERAL (
    SELECT o.emp, o.kind, o.key, o.station_id, o.state, o.payload ->> 'name' AS name
    FROM cdc_pusher.outbox AS o
    WHERE o.emp = e.emp_name
      AND o.kind = k.kind_name
      AND o.key >= %(text)s
    ORDER BY o.key
    LIMIT %(limit)s
) AS found
WHERE starts_with(lower(found.key), lower(%(text)s))

-- name: by_words
-- Stations whose name or place has these words, each of them or how it begins. They are found first, then what each EMP has of them.
SELECT o.emp, o.kind, o.key, o.station_id, o.state, o.payload ->> 'name' AS name
FROM (
    SELECT DISTINCT key
    FROM (
        SELECT key
        FROM cdc_pusher.outbox
        WHERE kind = 'station'
          AND emp = ANY (%(emps)s)
          AND to_tsvector(
                  'simple',
                  translate(
                      coalesce(payload ->> 'name', '') || ' ' || coalesce(payload -> 'address' ->> 'street', '')
                          || ' ' || coalesce(payload -> 'address' ->> 'city', ''),
                      './-:@+&_*#~,;',
                      '             '
                  )
              ) @@ to_tsquery('simple', %(words)s)
        LIMIT %(limit)s * cardinality(%(emps)s::text[])
    ) AS any_of_them
    LIMIT %(limit)s
) AS found
CROSS JOIN LATERAL (
    SELECT *
    FROM cdc_pusher.outbox
    WHERE emp = ANY (%(emps)s)
      AND kind = 'station'
      AND key = found.key
) AS o
