-- name: beat
-- Say that we live and which leases we could have, and keep those that we have (`ours`). Those that we hold by our own clock are ours although
-- a fail-over has taken back that we took them: then the row has an earlier epoch than ours, or there is none. Then who has which lease
-- (`holders`; NULL: whoever comes may take it), and the daemons that live, the leases that each could have now and by its configuration, and
-- whether it has lived for some time. What this statement has written it does not see, but returns.
WITH spoken AS (
    INSERT INTO cdc_pusher.daemon AS d (name, version, leases, wants, listens, expires_at)
    VALUES (%(me)s, %(version)s, %(leases)s, %(wants)s, %(listens)s, clock_timestamp() + make_interval(secs => %(lease_s)s))
    ON CONFLICT (name) DO UPDATE
    SET leases = excluded.leases,
        wants = excluded.wants,
        listens = excluded.listens,
        expires_at = excluded.expires_at
    RETURNING d.name, d.leases, d.wants, d.started_at
), kept AS (
    SELECT key AS name, value::bigint AS epoch
    FROM jsonb_each_text(%(held)s)
), wanted AS (
    INSERT INTO cdc_pusher.lease AS l (name, holder, epoch, taken_at, expires_at)
    SELECT name, k.holder, coalesce(k.epoch, 0), clock_timestamp(), clock_timestamp() + make_interval(secs => %(lease_s)s)
    FROM unnest(%(leases)s::text[]) AS w (name)
    LEFT JOIN (SELECT name, epoch, %(me)s AS holder FROM kept) AS k USING (name)
    WHERE NOT EXISTS (SELECT FROM cdc_pusher.lease AS l WHERE l.name = w.name)
    ON CONFLICT (name) DO UPDATE
    SET holder = excluded.holder,
        epoch = excluded.epoch,
        taken_at = excluded.taken_at,
        expires_at = excluded.expires_at
    WHERE l.epoch < excluded.epoch
    RETURNING l.name, l.holder, l.epoch
), renewed AS (
    UPDATE cdc_pusher.lease AS l
    SET holder = %(me)s,
        epoch = k.epoch,
        taken_at = CASE WHEN l.holder = %(me)s THEN l.taken_at ELSE clock_timestamp() END,
        expires_at = clock_timestamp() + make_interval(secs => %(lease_s)s)
    FROM kept AS k
    WHERE l.name = k.name
      AND (l.epoch < k.epoch OR (l.epoch = k.epoch AND l.holder = %(me)s))
    RETURNING l.name, l.epoch
), ours AS (
    SELECT name, epoch
    FROM renewed
    UNION ALL
    SELECT name, epoch
    FROM wanted
    WHERE holder IS NOT NULL
), held AS (
    SELECT l.name, CASE WHEN r.name IS NOT NULL THEN %(me)s WHEN l.expires_at > clock_timestamp() AND l.holder <> %(me)s THEN l.holder END AS holder
    FROM cdc_pusher.lease AS l
    LEFT JOIN renewed AS r
        ON r.name = l.name
    UNION ALL
    SELECT name, holder
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
    (SELECT coalesce(jsonb_object_agg(name, epoch), '{}') FROM ours) AS ours,
    (SELECT coalesce(jsonb_object_agg(name, holder), '{}') FROM held) AS holders,
    (
        SELECT jsonb_agg(jsonb_build_object(
            'name', name,
            'leases', leases,
            'wants', wants,
            'is_settled', started_at < clock_timestamp() - make_interval(secs => %(settled_s)s)
        ))
        FROM living
    ) AS daemons,
    (
        SELECT concat_ws('/', system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8))
        FROM pg_control_system()
    ) AS timeline

-- name: take
-- Become the holder of leases that nobody has, under epochs that nobody has written under as far as is known here (`epochs`: the last that we had).
WITH free AS (
    SELECT name
    FROM cdc_pusher.lease
    WHERE name = ANY (%(names)s)
      AND (holder IS NULL OR holder = %(me)s OR expires_at <= clock_timestamp())
    ORDER BY name
    FOR UPDATE SKIP LOCKED
)
UPDATE cdc_pusher.lease AS l
SET holder = %(me)s,
    epoch = 1 + greatest(
        l.epoch,
        (%(epochs)s::jsonb ->> l.name)::bigint,
        (SELECT e.lane_epoch FROM cdc_pusher.emp AS e WHERE 'lane ' || e.name = l.name),
        (SELECT c.epoch FROM cdc_pusher.capture AS c WHERE l.name = 'capture')
    ),
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
