-- name: tables
-- The CPO's tables and views with their columns and keys; partitions stand under their parent, extensions and we ourselves are left out,
-- and so are virtual columns, which triggers cannot see. The type of a column is that beneath a domain.
SELECT
    n.nspname AS schema,
    c.relname AS name,
    format('%I.%I', n.nspname, c.relname) AS quoted,
    quote_ident(c.relname) AS row_name,
    c.relkind IN ('v', 'm') AS is_view,
    greatest(c.reltuples, 0)::bigint AS rows,
    has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS readable,
    ARRAY(
        SELECT jsonb_build_object(
            'name', a.attname,
            'quoted', quote_ident(a.attname),
            'type', format_type(coalesce(nullif(t.typbasetype, 0), t.oid), -1),
            'category', t.typcategory
        )
        FROM pg_catalog.pg_attribute AS a
        JOIN pg_catalog.pg_type AS t
            ON t.oid = a.atttypid
        WHERE a.attrelid = c.oid
          AND a.attnum > 0
          AND NOT a.attisdropped
          AND a.attgenerated <> 'v'
        ORDER BY a.attnum
    ) AS columns,
    (
        SELECT ARRAY(
            SELECT a.attname::text
            FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
            JOIN pg_catalog.pg_attribute AS a
                ON a.attrelid = c.oid
               AND a.attnum = u.attnum
            ORDER BY u.place
        )
        FROM pg_catalog.pg_constraint AS k
        WHERE k.conrelid = c.oid
          AND k.contype = 'p'
    ) AS primary_key,
    ARRAY(
        SELECT jsonb_build_object(
            'column', a.attname, 'schema', fn.nspname, 'table', f.relname, 'target', fa.attname
        )
        FROM pg_catalog.pg_constraint AS k
        JOIN pg_catalog.pg_class AS f
            ON f.oid = k.confrelid
        JOIN pg_catalog.pg_namespace AS fn
            ON fn.oid = f.relnamespace
        JOIN pg_catalog.pg_attribute AS a
            ON a.attrelid = c.oid
           AND a.attnum = k.conkey[1]
        JOIN pg_catalog.pg_attribute AS fa
            ON fa.attrelid = f.oid
           AND fa.attnum = k.confkey[1]
        WHERE k.conrelid = c.oid
          AND k.contype = 'f'
          AND k.conparentid = 0
          AND cardinality(k.conkey) = 1
        ORDER BY k.conname
    ) AS foreign_keys
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n
    ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm')
  AND NOT c.relispartition
  AND c.relpersistence <> 't'
  AND n.nspname <> ALL (ARRAY['cdc_pusher', 'pg_catalog', 'information_schema'])
  AND n.nspname !~ '^pg_'
  AND NOT EXISTS (
      SELECT
      FROM pg_catalog.pg_depend AS d
      WHERE d.classid = 'pg_class'::regclass
        AND d.objid = c.oid
        AND d.deptype = 'e'
  )
ORDER BY n.nspname, c.relname

-- name: probe
-- A query's column, for its type.
SELECT {column}
FROM {query} AS q
LIMIT 0

-- name: labels
-- The words that an enum has.
SELECT e.enumlabel::text AS word
FROM pg_catalog.pg_enum AS e
WHERE e.enumtypid = %(type)s::oid
ORDER BY e.enumsortorder

-- name: words
-- The words among the first rows of a query's column, the most frequent first.
SELECT w.word, count(*) AS rows
FROM (SELECT {column}::text AS word FROM {query} AS q LIMIT 10000) AS w
WHERE w.word IS NOT NULL
GROUP BY w.word
ORDER BY 2 DESC, 1
LIMIT 50
