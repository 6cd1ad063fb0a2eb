-- name: beat
-- Say that we live and which leases we could have; keep those that we have.
WITH spoken AS (
    INSERT INTO cdc_pusher.daemon AS d (name, version, leases, listens, expires_at)
    VALUES (%(me)s, %(version)s, %(leases)s, %(listens)s, clock_timestamp() + make_interval(secs => %(lease_s)s))
    ON CONFLICT (name) DO UPDATE
    SET leases = excluded.leases,
        listens = excluded.listens,
        expires_at = excluded.expires_at
), wanted AS (
    INSERT INTO cdc_pusher.lease (name)
    SELECT unnest(%(leases)s::text[])
    EXCEPT
    SELECT name FROM cdc_pusher.lease
    ON CONFLICT (name) DO NOTHING
)
UPDATE cdc_pusher.lease
SET expires_at = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE holder = %(me)s
RETURNING name, epoch

-- name: leases
-- Who has which lease; NULL: whoever comes may take it.
SELECT name, CASE WHEN expires_at > clock_timestamp() THEN holder END AS holder
FROM cdc_pusher.lease

-- name: daemons
-- The daemons that live, and the leases that each could have.
SELECT name, leases
FROM cdc_pusher.daemon
WHERE expires_at > clock_timestamp()

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
-- We are about to end: no daemon of that name any more, nor of those that have long been silent.
DELETE FROM cdc_pusher.daemon
WHERE name = %(me)s
   OR expires_at < clock_timestamp() - interval '1 day'

-- name: forget
-- Leases of EMPs that no living daemon knows.
DELETE FROM cdc_pusher.lease AS l
WHERE (l.holder IS NULL OR l.expires_at < clock_timestamp() - interval '1 day')
  AND NOT EXISTS (SELECT FROM cdc_pusher.daemon AS d WHERE d.expires_at > clock_timestamp() AND l.name = ANY (d.leases))
