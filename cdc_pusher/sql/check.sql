-- name: server
-- The server, the database and the role we are.
SELECT
    current_database() AS database,
    r.rolname AS role,
    r.rolsuper AS superuser,
    r.rolbypassrls AS sees_all_rows,
    pg_backend_pid() AS pid,
    pg_is_in_recovery() AS standby,
    current_setting('default_transaction_read_only') = 'on' AS read_only,
    current_setting('server_version') AS version,
    current_setting('server_encoding') AS encoding,
    current_setting('max_prepared_transactions') <> '0' AS prepares_transactions
FROM pg_catalog.pg_roles AS r
WHERE r.rolname = current_user

-- name: schema
-- Whether our schema is there, and whether we may use it.
SELECT has_schema_privilege(n.oid, 'USAGE') AS usable
FROM pg_catalog.pg_namespace AS n
WHERE n.nspname = 'cdc_pusher'

-- name: lacking
-- The rights that the daemon needs in our schema and that our role does not have.
SELECT object, right_needed
FROM (
    SELECT object, right_needed, has_table_privilege(to_regclass('cdc_pusher.' || object), right_needed) AS granted
    FROM unnest(%(tables)s::text[], %(rights)s::text[]) AS t (object, right_needed)
    UNION ALL
    SELECT object, right_needed, has_sequence_privilege(to_regclass('cdc_pusher.' || object), right_needed)
    FROM (VALUES ('asleep', 'SELECT'), ('asleep', 'UPDATE'), ('missed', 'SELECT')) AS s (object, right_needed)
    UNION ALL
    SELECT object, 'EXECUTE', has_function_privilege(to_regprocedure('cdc_pusher.' || object), 'EXECUTE')
    FROM (VALUES ('maintain_attempts(integer)'), ('refresh_statistics()')) AS f (object)
) AS needed
WHERE granted IS NOT TRUE
ORDER BY object, right_needed

-- name: relations
-- Relations by schema and name: quoted, their rows as the statistics say (as their size says, if there are none), and whether row-level
-- security hides rows of them from our role. A policy that lets through everything hides nothing.
SELECT
    n.nspname AS schema,
    c.relname AS relation,
    format('%%I.%%I', n.nspname, c.relname) AS name,
    CASE WHEN c.reltuples >= 0 THEN c.reltuples ELSE pg_relation_size(c.oid) / 100 END::bigint AS rows,
    row_security_active(c.oid) AND (
        NOT EXISTS (
            SELECT
            FROM pg_catalog.pg_policy AS p
            WHERE p.polrelid = c.oid
              AND p.polcmd IN ('r', '*')
              AND p.polpermissive
              AND pg_get_expr(p.polqual, p.polrelid) = 'true'
              AND (0 = ANY (p.polroles) OR EXISTS (SELECT FROM unnest(p.polroles) AS r (oid) WHERE pg_has_role(r.oid, 'USAGE')))
        )
        OR EXISTS (
            SELECT
            FROM pg_catalog.pg_policy AS p
            WHERE p.polrelid = c.oid
              AND p.polcmd IN ('r', '*')
              AND NOT p.polpermissive
        )
    ) AS hides_rows,
    row_security_active(c.oid) AS has_policies
FROM unnest(%(schemas)s::text[], %(relations)s::text[]) AS r (schema, relation)
JOIN pg_catalog.pg_namespace AS n
    ON n.nspname = r.schema
JOIN pg_catalog.pg_class AS c
    ON c.relnamespace = n.oid
   AND c.relname = r.relation
ORDER BY name

-- name: one_row
-- One row of a watched table, as the trigger would note it.
SELECT to_jsonb(t) AS row
FROM {table} AS t
LIMIT 1

-- name: shared_evses
-- EVSE ids that stand in more than one station, with two of the stations.
SELECT
    left(evse_id, 100) AS evse_id,
    left(one, 100) AS one,
    left(another, 100) AS another,
    count(*) OVER () AS total
FROM (
    SELECT c.evse_id::text AS evse_id, min(c.station_id::text) AS one, max(c.station_id::text) AS another
    FROM {connectors} AS c
    WHERE c.evse_id IS NOT NULL
      AND c.station_id::text IN (SELECT s.station_id::text FROM {stations} AS s)
    GROUP BY c.evse_id::text
) AS e
WHERE one <> another
ORDER BY evse_id
LIMIT %(limit)s

-- name: stations_without_id
-- Rows of the station query that are left out since they have no id.
SELECT count(*) AS rows
FROM {stations} AS s
WHERE s.station_id IS NULL

-- name: connectors_without_id
-- Rows of the connector query that are left out since they have no station.
SELECT count(*) AS rows
FROM {connectors} AS c
WHERE c.station_id IS NULL

-- name: orphans
-- Connectors whose station the station query does not return.
SELECT
    left(c.station_id::text, 100) AS station_id,
    count(*) AS connectors,
    sum(count(*)) OVER ()::bigint AS total
FROM {connectors} AS c
WHERE c.station_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM {stations} AS s WHERE s.station_id::text = c.station_id::text)
GROUP BY c.station_id::text
ORDER BY station_id
LIMIT %(limit)s

-- name: unwatched
-- Those of these tables that no watch covers, itself or by the table that it is a partition of.
SELECT DISTINCT format('%%I.%%I', n.nspname, coalesce(parent.relname, c.relname)) AS name
FROM unnest(%(schemas)s::text[], %(relations)s::text[]) AS r (schema, relation)
JOIN pg_catalog.pg_namespace AS n
    ON n.nspname = r.schema
JOIN pg_catalog.pg_class AS c
    ON c.relnamespace = n.oid
   AND c.relname = r.relation
LEFT JOIN pg_catalog.pg_class AS parent
    ON parent.oid = pg_partition_root(c.oid)
WHERE c.relkind IN ('r', 'p')
  AND n.nspname <> 'pg_catalog'
  AND NOT EXISTS (
      SELECT
      FROM unnest(%(watched)s::text[]) AS w (name)
      WHERE to_regclass(w.name) = c.oid
         OR to_regclass(w.name) IN (SELECT relid FROM pg_partition_ancestors(c.oid))
  )
ORDER BY 1
