-- name: table
-- The table of a watch, properly quoted, what kind of relation it is, its columns, those that are virtual (NULL in every trigger), those
-- whose text depends on settings of the session, those of a domain, which may refuse NULL, and those that hold JSON.
SELECT
    format('%%I.%%I', n.nspname, c.relname) AS name,
    c.relkind::text AS kind,
    coalesce(array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attgenerated <> 'v'), '{}') AS columns,
    coalesce(array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attgenerated = 'v'), '{}') AS virtual,
    coalesce(array_agg(a.attname::text ORDER BY a.attnum) FILTER (
        WHERE t.typcategory IN ('D', 'T', 'A', 'C', 'R')
           OR t.oid = ANY ('{bytea,real,double precision}'::regtype[])
    ), '{}') AS styled,
    coalesce(array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE t.typtype = 'd'), '{}') AS domains,
    coalesce(array_agg(a.attname::text ORDER BY a.attnum) FILTER (
        WHERE coalesce(nullif(t.typbasetype, 0), t.oid) = ANY ('{json,jsonb}'::regtype[])
    ), '{}') AS json
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n
    ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute AS a
    ON a.attrelid = c.oid
   AND a.attnum > 0
   AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_type AS t
    ON t.oid = a.atttypid
WHERE c.oid = to_regclass(%(table)s)
GROUP BY n.nspname, c.relname, c.relkind

-- name: attached
-- One watch as it stands: its function, whether that still has what keeps it harmless and useful, and its triggers with their state.
SELECT
    obj_description(p.oid, 'pg_proc') AS version,
    p.prosrc AS body,
    p.prosecdef AS is_definer,
    p.proconfig AS settings,
    has_function_privilege('public', p.oid, 'EXECUTE') AS is_public,
    pg_get_userbyid(p.proowner) AS owner,
    has_schema_privilege(p.proowner, 'cdc_pusher', 'USAGE')
        AND has_table_privilege(p.proowner, to_regclass('cdc_pusher.change'), 'INSERT')
        AND has_sequence_privilege(p.proowner, to_regclass('cdc_pusher.asleep'), 'SELECT')
        AND has_sequence_privilege(p.proowner, to_regclass('cdc_pusher.missed'), 'USAGE') AS can_record,
    ARRAY(
        SELECT t.tgname || ' ' || t.tgenabled::text
        FROM pg_catalog.pg_trigger AS t
        WHERE t.tgrelid = to_regclass(%(table)s)
          AND t.tgfoid = p.oid
    ) AS triggers
FROM (VALUES (%(name)s)) AS w (name)
LEFT JOIN pg_catalog.pg_proc AS p
    ON p.pronamespace = to_regnamespace('cdc_pusher')
   AND p.proname = w.name

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

-- name: triggers_of
-- The triggers of one watch, by whatever name.
SELECT t.tgname AS trigger
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_proc AS p
    ON p.oid = t.tgfoid
WHERE t.tgrelid = to_regclass(%(table)s)
  AND t.tgparentid = 0
  AND p.pronamespace = to_regnamespace('cdc_pusher')
  AND p.proname = %(name)s
