-- name: beat
-- Say that we live and which leases we could have, and keep those that we have (`ours`). Then who has which lease (`holders`; NULL: whoever
-- comes may take it), and the daemons that live, the leases that each could have now and by its configuration, and whether it has lived for
-- some time. What this statement has written it does not see, but returns.
WITH spoken AS (
    INSERT INTO cdc_pusher.daemon AS d (name, version, leases, wants, listens, expires_at)
    VALUES (%(me)s, %(version)s, %(leases)s, %(wants)s, %(listens)s, clock_timestamp() + make_interval(secs => %(lease_s)s))
    ON CONFLICT (name) DO UPDATE
    SET leases = excluded.leases,
        wants = excluded.wants,
        listens = excluded.listens,
        expires_at = excluded.expires_at
    RETURNING d.name, d.leases, d.wants, d.started_at
), wanted AS (
    INSERT INTO cdc_pusher.lease (name)
    SELECT unnest(%(leases)s::text[])
    EXCEPT
    SELECT name FROM cdc_pusher.lease
    ON CONFLICT (name) DO NOTHING
    RETURNING name
), renewed AS (
    UPDATE cdc_pusher.lease
    SET expires_at = clock_timestamp() + make_interval(secs => %(lease_s)s)
    WHERE holder = %(me)s
    RETURNING name, epoch
), held AS (
    SELECT l.name, CASE WHEN r.name IS NOT NULL THEN %(me)s WHEN l.expires_at > clock_timestamp() THEN l.holder END AS holder
    FROM cdc_pusher.lease AS l
    LEFT JOIN renewed AS r
        ON r.name = l.name
    UNION ALL
    SELECT name, NULL
    FROM wanted
), living AS (
    SELECT name, leases, wants, started_at
    FROM cdc_pusher.daemon
    WHERE expires_at > clock_timestamp()
      AND name <> %(me)s
    UNION ALL
    SELECT name, leases, wants, started_at
    FROM spoken
)
SELECT
    (SELECT coalesce(jsonb_object_agg(name, epoch), '{}') FROM renewed) AS ours,
    (SELECT coalesce(jsonb_object_agg(name, holder), '{}') FROM held) AS holders,
    (
        SELECT jsonb_agg(jsonb_build_object(
            'name', name,
            'leases', leases,
            'wants', wants,
            'is_settled', started_at < clock_timestamp() - make_interval(secs => %(settled_s)s)
        ))
        FROM living
    ) AS daemons

-- name: take
-- Become the holder of leases that nobody has.
WITH free AS (
    SELECT name
    FROM cdc_pusher.lease
    WHERE name = ANY (%(names)s)
      AND (holder IS NULL OR expires_at <= clock_timestamp())
    ORDER BY name
    FOR UPDATE SKIP LOCKED
)
UPDATE cdc_pusher.lease AS l
SET holder = %(me)s,
    epoch = l.epoch + 1,
    taken_at = clock_timestamp(),
    expires_at = clock_timestamp() + make_interval(secs => %(lease_s)s)
FROM free
WHERE l.name = free.name
RETURNING l.name, l.epoch

-- name: give_back
-- Let others take these leases at once.
UPDATE cdc_pusher.lease
SET holder = NULL
WHERE holder = %(me)s
  AND name = ANY (%(names)s)

-- name: leave
-- We are about to end.
DELETE FROM cdc_pusher.daemon
WHERE name = %(me)s

-- name: bury
-- Daemons that have been silent for a day.
DELETE FROM cdc_pusher.daemon
WHERE expires_at < clock_timestamp() - interval '1 day'

-- name: end_predecessor
-- Sessions that worked under a lease before us, and hang in a transaction.
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE datname = current_database()
  AND usename = current_user
  AND application_name = 'cdc-pusher ' || %(name)s
  AND pid <> pg_backend_pid()
  AND xact_start < clock_timestamp() - interval '5 s'
