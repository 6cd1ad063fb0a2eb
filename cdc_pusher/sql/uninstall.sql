-- name: schema
-- Our schema, if it is there.
SELECT nspname
FROM pg_catalog.pg_namespace
WHERE nspname = 'cdc_pusher'

-- name: daemons
-- Connections of daemons to this database.
SELECT pid, coalesce(client_addr::text, 'this machine') AS client
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database()
  AND application_name IN ('cdc-pusher capture', 'cdc-pusher pulse', 'cdc-pusher listen')
ORDER BY pid

-- name: has_grants
-- Whether there is the table that says what was granted.
SELECT to_regclass('cdc_pusher.granted') IS NOT NULL AS has_grants

-- name: drop_leftover_functions
-- Functions of triggers whose table is gone.
DO $$
DECLARE
    leftover regprocedure;
BEGIN
    FOR leftover IN
        SELECT p.oid
        FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace = to_regnamespace('cdc_pusher')
          AND p.proname ~ '^cdc_pusher_[0-9a-f]{8}$'
    LOOP
        EXECUTE format('DROP FUNCTION %s', leftover);
    END LOOP;
END
$$
