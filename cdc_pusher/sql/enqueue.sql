-- name: register
-- EMPs of the configuration: a new one begins its full load, one whose mapping has changed since its outbox was captured is gone
-- through again.
INSERT INTO cdc_pusher.emp AS e (name, mapping, walk, walk_phase, full_load_started_at)
SELECT name, mapping, 'full load', 'source', now()
FROM unnest(%(names)s::text[], %(mappings)s::text[]) AS r (name, mapping)
ON CONFLICT (name) DO UPDATE
SET mapping = excluded.mapping,
    walk = CASE WHEN e.full_load_completed_at IS NULL THEN 'full load' ELSE 'resync' END,
    walk_phase = 'source',
    walk_cursor = NULL,
    walk_no = e.walk_no + 1,
    walk_stations = 0,
    walk_pace = NULL,
    walk_due_at = NULL
WHERE e.mapping IS DISTINCT FROM excluded.mapping
RETURNING name, walk

-- name: unregister
-- EMPs that the configuration no longer has keep their rows; should they come back, they are gone through again.
UPDATE cdc_pusher.emp
SET mapping = NULL
WHERE NOT name = ANY (%(names)s)
  AND mapping IS NOT NULL

-- name: drop_changes
-- Nobody will ask for the changes of EMPs that no configuration has.
DELETE FROM cdc_pusher.change AS c
WHERE c.emp IS NOT NULL
  AND NOT EXISTS (SELECT FROM cdc_pusher.emp AS e WHERE e.name = c.emp AND e.mapping IS NOT NULL)

-- name: register_cpos
-- The CPOs of the configuration. Another cpo-id is one that the EMP has not been told of, unless that goes without saying.
INSERT INTO cdc_pusher.cpo AS c (emp, cpo, cpo_id, confirmed_at)
SELECT emp, cpo, cpo_id, CASE WHEN automatic THEN now() END
FROM unnest(%(emps)s::text[], %(cpos)s::text[], %(cpo_ids)s::text[], %(automatic)s::boolean[]) AS r (emp, cpo, cpo_id, automatic)
ON CONFLICT (emp, cpo) DO UPDATE
SET cpo_id = excluded.cpo_id,
    confirmed_at = CASE WHEN c.cpo_id = excluded.cpo_id THEN coalesce(c.confirmed_at, excluded.confirmed_at) ELSE excluded.confirmed_at END

-- name: unregister_cpos
-- CPOs that the configuration of these EMPs no longer has.
UPDATE cdc_pusher.cpo AS c
SET cpo_id = NULL,
    confirmed_at = NULL
WHERE c.emp = ANY (%(names)s)
  AND c.cpo_id IS NOT NULL
  AND NOT EXISTS (
      SELECT
      FROM unnest(%(emps)s::text[], %(cpos)s::text[]) AS r (emp, cpo)
      WHERE r.emp = c.emp
        AND r.cpo = c.cpo
  )

-- name: confirm_cpos
-- The EMP has been told of these CPOs.
UPDATE cdc_pusher.cpo
SET confirmed_at = now()
WHERE emp = %(emp)s
  AND cpo = ANY (%(cpos)s)
  AND confirmed_at IS NULL
RETURNING cpo

-- name: order_sweep
-- Begin the periodic sweep of those EMPs whose last one is long enough ago, at a pace that spreads both its phases over most of the interval.
UPDATE cdc_pusher.emp AS e
SET walk = 'sweep',
    walk_phase = 'source',
    walk_no = walk_no + 1,
    walk_stations = 0,
    walk_pace = least(%(fastest)s, greatest(%(slowest)s, 2 * o.stations / (0.8 * %(interval_s)s))),
    walk_due_at = now(),
    sweep_started_at = now()
FROM unnest(%(emps)s::text[]) AS r (emp)
CROSS JOIN LATERAL (
    SELECT count(*) AS stations
    FROM cdc_pusher.outbox
    WHERE emp = r.emp
      AND kind = 'station'
) AS o
WHERE e.name = r.emp
  AND e.walk IS NULL
  AND e.paused_at IS NULL
  AND coalesce(e.sweep_started_at, e.full_load_completed_at) <= now() - make_interval(secs => %(interval_s)s)
RETURNING e.name

-- name: next_walk
-- The position of the walk that is furthest behind, and all EMPs whose walk stands there: they go on together. Those in haste go first.
SELECT array_agg(name ORDER BY name) AS emps, array_agg(walk_no ORDER BY name) AS numbers, walk, walk_phase, walk_cursor, walk_resend
FROM cdc_pusher.emp
WHERE walk IS NOT NULL
  AND paused_at IS NULL
  AND name = ANY (%(emps)s)
  AND (walk_due_at IS NULL OR walk_due_at <= now())
GROUP BY walk, walk_phase, walk_cursor, walk_resend, walk_pace IS NULL
ORDER BY walk_pace IS NULL DESC, min(walk_stations), min(name)
LIMIT 1

-- name: outbox_page
-- The next stations that these EMPs have rows of, in the order of their text.
SELECT DISTINCT key
FROM cdc_pusher.outbox
WHERE emp = ANY (%(emps)s)
  AND kind = 'station'
  AND key > %(after)s
ORDER BY key
LIMIT %(limit)s

-- name: advance
-- Note how far a walk has come, of those EMPs that nobody has moved meanwhile. At its end (no phase) the full load is complete, and the next
-- walk begins. One that keeps to a pace and has fallen behind makes up for a few seconds, no more.
UPDATE cdc_pusher.emp AS e
SET walk_cursor = %(cursor)s,
    walk_phase = coalesce(%(phase)s, CASE WHEN walk_next IS NOT NULL THEN 'source' END),
    walk_stations = CASE WHEN %(phase)s::text IS NULL AND walk_next IS NOT NULL THEN 0 ELSE walk_stations + %(stations)s END,
    walk = CASE WHEN %(phase)s::text IS NULL THEN walk_next ELSE walk END,
    walk_no = CASE WHEN %(phase)s::text IS NULL AND walk_next IS NOT NULL THEN walk_no + 1 ELSE walk_no END,
    walk_next = CASE WHEN %(phase)s::text IS NULL THEN NULL ELSE walk_next END,
    walk_resend = CASE WHEN %(phase)s::text IS NOT NULL THEN walk_resend END,
    walk_pace = CASE WHEN %(phase)s::text IS NOT NULL THEN walk_pace END,
    walk_due_at = CASE
        WHEN %(phase)s::text IS NOT NULL
        THEN greatest(walk_due_at, now() - interval '5 s') + make_interval(secs => %(seen)s / walk_pace)
    END,
    sweep_started_at = CASE WHEN %(phase)s::text IS NULL AND walk_next = 'sweep' THEN now() ELSE sweep_started_at END,
    sweep_completed_at = CASE WHEN %(phase)s::text IS NULL AND walk = 'sweep' THEN now() ELSE sweep_completed_at END,
    full_load_completed_at = CASE WHEN %(phase)s::text IS NULL THEN coalesce(full_load_completed_at, now()) ELSE full_load_completed_at END
FROM unnest(%(emps)s::text[], %(numbers)s::bigint[]) AS r (name, no)
WHERE e.name = r.name
  AND e.walk_no = r.no
  AND e.walk_phase = %(was_phase)s
  AND e.walk_cursor IS NOT DISTINCT FROM %(was_cursor)s
RETURNING e.name, e.walk_stations

-- name: served
-- The EMPs that some daemon serves.
SELECT name
FROM cdc_pusher.emp
WHERE mapping IS NOT NULL

-- name: note_missed
-- Whether the trigger has missed changes since that was last noticed. They are counted before they are committed, so it is also noted which
-- transactions may still have to commit what was missed.
UPDATE cdc_pusher.capture
SET missed_noted = (SELECT last_value FROM cdc_pusher.missed WHERE is_called),
    missed_horizon = pg_current_xact_id()::text::bigint
WHERE singleton
  AND coalesce(missed_noted, missed_seen) < (SELECT last_value FROM cdc_pusher.missed WHERE is_called)
RETURNING missed_noted AS missed

-- name: settle_missed
-- Whether every transaction that may have missed changes has ended: a sweep that begins now sees all of them.
UPDATE cdc_pusher.capture
SET missed_seen = missed_noted,
    missed_noted = NULL,
    missed_horizon = NULL
WHERE singleton
  AND missed_horizon <= pg_snapshot_xmin(pg_current_snapshot())::text::bigint
RETURNING missed_seen AS missed

-- name: pulse
-- One look at everything that can be outstanding: changes to capture, walks to go on with, EMPs with due messages or expired claims, and
-- changes that the trigger missed; and whether the server still takes writes.
SELECT
    current_setting('transaction_read_only') = 'on' AS read_only,
    EXISTS (SELECT FROM cdc_pusher.change WHERE emp IS NULL OR emp = ANY (%(emps)s)) AS changes,
    EXISTS (
        SELECT
        FROM cdc_pusher.emp
        WHERE walk IS NOT NULL
          AND paused_at IS NULL
          AND name = ANY (%(emps)s)
          AND (walk_due_at IS NULL OR walk_due_at <= now())
    ) AS walks,
    EXISTS (
        SELECT
        FROM cdc_pusher.missed AS m
        CROSS JOIN cdc_pusher.capture AS c
        WHERE (m.is_called AND m.last_value > coalesce(c.missed_noted, c.missed_seen))
           OR c.missed_horizon <= pg_snapshot_xmin(pg_current_snapshot())::text::bigint
    ) AS missed,
    ARRAY(
        SELECT name
        FROM unnest(%(emps)s::text[]) AS e (name)
        WHERE EXISTS (
                SELECT
                FROM cdc_pusher.outbox AS o
                WHERE o.emp = e.name
                  AND o.state = 'pending'
                  AND o.next_attempt_at <= now()
            )
           OR EXISTS (
                SELECT
                FROM cdc_pusher.outbox AS o
                WHERE o.emp = e.name
                  AND o.state = 'in_flight'
                  AND o.lease_until < now()
            )
    ) AS due

-- name: sleep
-- Say that we sleep (2), so that the trigger sends a NOTIFY, or that we look anyway (1).
SELECT setval('cdc_pusher.asleep', %(value)s)

-- name: wake_elsewhere
-- Wake the lanes of these EMPs, which other daemons serve.
SELECT pg_notify(%(channel)s, emp)
FROM unnest(%(emps)s::text[]) AS e (emp)

-- name: ensure_partitions
-- Partitions of the audit trail from yesterday to three days ahead, and none that is older than the retention.
-- One daemon at a time.
SELECT cdc_pusher.maintain_attempts(%(retention_days)s)
WHERE pg_try_advisory_xact_lock(hashtext('cdc_pusher attempts'))

-- name: refresh_statistics
-- The first plans of a full load are made for empty tables; autovacuum comes too late for them.
SELECT cdc_pusher.refresh_statistics()

-- name: retry
-- Have what was rejected, or is in back-off, tried again now: of these stations and EVSEs, or of all.
WITH chosen AS (
    SELECT emp, station_id
    FROM cdc_pusher.outbox
    WHERE emp = ANY (%(emps)s)
      AND (%(keys)s::text[] IS NULL OR key = ANY (%(keys)s) OR station_id = ANY (%(keys)s))
      AND (state = 'rejected' OR (state = 'pending' AND attempts > 0))
), noted AS (
    INSERT INTO cdc_pusher.change (station_id, emp, priority, resend)
    SELECT DISTINCT station_id, emp, 0, 'undelivered'
    FROM chosen
)
SELECT count(*) AS messages
FROM chosen

-- name: pause
-- People want nothing to be sent to these EMPs, or go on.
UPDATE cdc_pusher.emp
SET paused_at = CASE WHEN %(paused)s THEN coalesce(paused_at, now()) END
WHERE name = ANY (%(emps)s)
RETURNING name

-- name: forget
-- All that is known of an EMP that no daemon serves any more. Unless forced, not if it has live stations under other ids: who would know them?
WITH forgotten AS (
    DELETE FROM cdc_pusher.emp
    WHERE name = %(emp)s
      AND mapping IS NULL
      AND (%(force)s OR NOT EXISTS (
          SELECT
          FROM cdc_pusher.outbox
          WHERE emp = %(emp)s
            AND kind = 'station'
            AND acknowledged ->> 'id' <> key
            AND NOT (acknowledged ->> 'deleted')::boolean
      ))
    RETURNING name
), rows AS (
    DELETE FROM cdc_pusher.outbox WHERE emp IN (SELECT name FROM forgotten)
), evses AS (
    DELETE FROM cdc_pusher.evse WHERE emp IN (SELECT name FROM forgotten)
), cpos AS (
    DELETE FROM cdc_pusher.cpo WHERE emp IN (SELECT name FROM forgotten)
), changes AS (
    DELETE FROM cdc_pusher.change WHERE emp IN (SELECT name FROM forgotten)
), leases AS (
    DELETE FROM cdc_pusher.lease WHERE name IN (SELECT 'lane ' || name FROM forgotten)
)
SELECT name
FROM forgotten
