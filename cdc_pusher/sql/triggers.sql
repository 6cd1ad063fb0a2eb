-- name: table
-- The table of a watch, properly quoted, what kind of relation it is, and which of the columns are virtual: NULL in every trigger.
SELECT
    format('%%I.%%I', n.nspname, c.relname) AS name,
    c.relkind::text AS kind,
    (
        SELECT string_agg(a.attname, ', ' ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid
          AND a.attname = ANY (%(columns)s)
          AND a.attgenerated = 'v'
    ) AS virtual
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n
    ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(%(table)s)

-- name: attached
-- One watch as it stands: the version of its function (the function's comment), and its triggers with the state that Postgres keeps of them.
SELECT
    (
        SELECT obj_description(p.oid, 'pg_proc')
        FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace = to_regnamespace('cdc_pusher')
          AND p.proname = %(name)s
    ) AS version,
    ARRAY(
        SELECT t.tgname || ' ' || t.tgenabled::text
        FROM pg_catalog.pg_trigger AS t
        JOIN pg_catalog.pg_proc AS p
            ON p.oid = t.tgfoid
        WHERE t.tgrelid = to_regclass(%(table)s)
          AND p.pronamespace = to_regnamespace('cdc_pusher')
          AND p.proname = %(name)s
    ) AS triggers

-- name: all_attached
-- Every table that a function of ours is attached to; partitions follow their parent.
SELECT DISTINCT format('%I.%I', n.nspname, c.relname) AS table, p.proname AS name
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_proc AS p
    ON p.oid = t.tgfoid
JOIN pg_catalog.pg_class AS c
    ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace AS n
    ON n.oid = c.relnamespace
WHERE p.pronamespace = to_regnamespace('cdc_pusher')
  AND t.tgparentid = 0
ORDER BY 1, 2
