-- name: register
-- EMPs of the configuration: a new one begins its full load, one whose mapping has changed since its outbox was captured is swept.
INSERT INTO cdc_pusher.emp AS e (name, mapping, walk, walk_phase, full_load_started_at)
SELECT name, mapping, 'full load', 'source', now()
FROM unnest(%(names)s::text[], %(mappings)s::text[]) AS r (name, mapping)
ON CONFLICT (name) DO UPDATE
SET mapping = excluded.mapping,
    walk = CASE WHEN e.full_load_completed_at IS NULL THEN 'full load' ELSE coalesce(e.walk, 'sweep') END,
    walk_phase = 'source',
    walk_cursor = NULL,
    walk_stations = 0
WHERE e.mapping IS DISTINCT FROM excluded.mapping
RETURNING name, walk

-- name: unregister
-- EMPs that the configuration no longer has keep their rows; should they come back, they are swept.
UPDATE cdc_pusher.emp
SET mapping = NULL
WHERE NOT name = ANY (%(names)s)
  AND mapping IS NOT NULL

-- name: drop_changes
-- Nobody will ask for the changes of EMPs that no configuration has.
DELETE FROM cdc_pusher.change AS c
USING cdc_pusher.emp AS e
WHERE e.name = c.emp
  AND e.mapping IS NULL

-- name: register_cpos
-- CPOs that the configuration names were set up with the EMP.
INSERT INTO cdc_pusher.cpo AS c (emp, cpo, cpo_id, confirmed_at)
SELECT emp, cpo, cpo_id, now()
FROM unnest(%(emps)s::text[], %(cpos)s::text[], %(cpo_ids)s::text[]) AS r (emp, cpo, cpo_id)
ON CONFLICT (emp, cpo) DO UPDATE
SET cpo_id = excluded.cpo_id,
    confirmed_at = excluded.confirmed_at
WHERE c.cpo_id IS DISTINCT FROM excluded.cpo_id

-- name: next_walk
-- The EMP whose walk is furthest behind.
SELECT name, walk, walk_phase, walk_cursor, walk_resend
FROM cdc_pusher.emp
WHERE walk IS NOT NULL
  AND paused_at IS NULL
  AND name = ANY (%(emps)s)
ORDER BY walk_stations, name
LIMIT 1

-- name: outbox_page
-- The next stations that the EMP has rows of, in the order of their text.
SELECT key
FROM cdc_pusher.outbox
WHERE emp = %(emp)s
  AND kind = 'station'
  AND key > %(after)s
ORDER BY key
LIMIT %(limit)s

-- name: advance
-- Note how far a walk has come, unless somebody else has moved it meanwhile; at its end the full load is complete.
UPDATE cdc_pusher.emp
SET walk_cursor = %(cursor)s,
    walk_phase = coalesce(%(phase)s, CASE WHEN walk_again THEN 'source' END),
    walk_stations = CASE WHEN %(phase)s::text IS NULL AND walk_again THEN 0 ELSE walk_stations + %(stations)s END,
    walk = CASE WHEN %(phase)s::text IS NOT NULL THEN walk WHEN walk_again THEN 'sweep' END,
    walk_resend = CASE WHEN %(phase)s::text IS NOT NULL THEN walk_resend END,
    walk_again = walk_again AND %(phase)s::text IS NOT NULL,
    full_load_completed_at = CASE WHEN %(phase)s::text IS NULL THEN coalesce(full_load_completed_at, now()) ELSE full_load_completed_at END
WHERE name = %(emp)s
  AND walk = %(walk)s
  AND walk_phase = %(was_phase)s
  AND walk_cursor IS NOT DISTINCT FROM %(was_cursor)s
  AND walk_resend IS NOT DISTINCT FROM %(resend)s
RETURNING walk_stations

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
-- changes that the trigger missed.
SELECT
    EXISTS (SELECT FROM cdc_pusher.change WHERE emp IS NULL OR emp = ANY (%(emps)s)) AS changes,
    EXISTS (SELECT FROM cdc_pusher.emp WHERE walk IS NOT NULL AND paused_at IS NULL AND name = ANY (%(emps)s)) AS walks,
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

-- name: ensure_partitions
-- Partitions of the audit trail from yesterday to three days ahead, and none that is older than the retention.
SELECT cdc_pusher.maintain_attempts(%(retention_days)s)
