-- name: role
-- A role, and the comment that says whether we have made it.
SELECT r.rolname AS name, shobj_description(r.oid, 'pg_authid') AS comment
FROM pg_catalog.pg_roles AS r
WHERE r.rolname = %(role)s

-- name: needed
-- What these views read directly, and the schemas of that, of functions that they call, and of the watched tables.
WITH relation AS (
    SELECT DISTINCT c.relnamespace, format('%%I.%%I', n.nspname, c.relname) AS name
    FROM pg_catalog.pg_rewrite AS r
    JOIN pg_catalog.pg_depend AS d
        ON d.classid = 'pg_rewrite'::regclass
       AND d.objid = r.oid
       AND d.refclassid = 'pg_class'::regclass
       AND d.refobjid <> r.ev_class
    JOIN pg_catalog.pg_class AS c
        ON c.oid = d.refobjid
    JOIN pg_catalog.pg_namespace AS n
        ON n.oid = c.relnamespace
    WHERE r.ev_class = ANY (%(views)s::regclass[])
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
)
SELECT 'TABLE' AS kind, name AS object
FROM relation
UNION
SELECT 'SCHEMA', format('%%I', n.nspname)
FROM pg_catalog.pg_namespace AS n
WHERE n.oid IN (SELECT relnamespace FROM relation)
   OR n.oid IN (SELECT relnamespace FROM pg_catalog.pg_class WHERE oid = ANY (%(watched)s::regclass[]))
   OR n.oid IN (
       SELECT p.pronamespace
       FROM pg_catalog.pg_rewrite AS r
       JOIN pg_catalog.pg_depend AS d
           ON d.classid = 'pg_rewrite'::regclass
          AND d.objid = r.oid
          AND d.refclassid = 'pg_proc'::regclass
       JOIN pg_catalog.pg_proc AS p
           ON p.oid = d.refobjid
       WHERE r.ev_class = ANY (%(views)s::regclass[])
   )

-- name: row_like
-- The columns of a table as a row of NULLs.
SELECT string_agg(format('NULL::%%s AS %%I', format_type(a.atttypid, a.atttypmod), a.attname), ', ' ORDER BY a.attnum) AS columns
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = %(table)s::regclass
  AND a.attnum > 0
  AND NOT a.attisdropped

-- name: wanting
-- Those of these things that the role has no right on.
SELECT kind, object
FROM unnest(%(kinds)s::text[], %(objects)s::text[]) AS t (kind, object)
WHERE NOT CASE kind
    WHEN 'TABLE' THEN has_table_privilege(%(role)s, object, 'SELECT')
    ELSE EXISTS (
        SELECT
        FROM pg_catalog.pg_namespace AS n
        WHERE format('%%I', n.nspname) = object
          AND has_schema_privilege(%(role)s, n.oid, 'USAGE')
    )
END

-- name: granted
-- What we have granted to a role.
SELECT kind, object
FROM cdc_pusher.granted
WHERE role = %(role)s
ORDER BY kind DESC, object

-- name: grantees
-- The roles that we have granted something to, as far as they are still there.
SELECT DISTINCT g.role
FROM cdc_pusher.granted AS g
JOIN pg_catalog.pg_roles AS r
    ON r.rolname = g.role
ORDER BY g.role

-- name: note_granted
-- Remember a right that we have granted.
INSERT INTO cdc_pusher.granted (role, kind, object, object_id)
SELECT %(role)s, %(kind)s, %(object)s, CASE %(kind)s
    WHEN 'TABLE' THEN to_regclass(%(object)s)::oid
    ELSE (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE format('%%I', n.nspname) = %(object)s)
END
ON CONFLICT (role, kind, object) DO UPDATE
SET object_id = excluded.object_id

-- name: forget_granted
-- Forget a right that we take back.
DELETE FROM cdc_pusher.granted
WHERE role = %(role)s
  AND kind = %(kind)s
  AND object = %(object)s

-- name: held_by
-- What a thing that something was granted on is called now, the columns that the role was granted beside it, and whether it still has the
-- right that is to be taken back. Nothing if the thing or the role is gone.
SELECT
    CASE g.kind WHEN 'TABLE' THEN format('%%s.%%I', c.relnamespace::regnamespace, c.relname) ELSE format('%%I', n.nspname) END AS object,
    ARRAY(
        SELECT a.attname::text
        FROM pg_catalog.pg_attribute AS a
        CROSS JOIN LATERAL aclexplode(a.attacl) AS x
        WHERE g.kind = 'TABLE'
          AND a.attrelid = g.object_id
          AND x.grantee = r.oid
          AND x.privilege_type = 'SELECT'
        ORDER BY a.attnum
    ) AS columns,
    CASE g.kind
        WHEN 'TABLE' THEN has_table_privilege(r.oid, g.object_id, 'SELECT')
        ELSE has_schema_privilege(r.oid, g.object_id, 'USAGE')
    END AS granted
FROM cdc_pusher.granted AS g
JOIN pg_catalog.pg_roles AS r
    ON r.rolname = g.role
LEFT JOIN pg_catalog.pg_class AS c
    ON g.kind = 'TABLE'
   AND c.oid = g.object_id
LEFT JOIN pg_catalog.pg_namespace AS n
    ON g.kind = 'SCHEMA'
   AND n.oid = g.object_id
WHERE g.role = %(role)s
  AND g.kind = %(kind)s
  AND g.object = %(object)s
  AND coalesce(c.oid, n.oid) IS NOT NULL

-- name: created
-- The roles that we have made and that may use our schema or were granted something.
SELECT r.rolname AS role
FROM pg_catalog.pg_roles AS r
WHERE shobj_description(r.oid, 'pg_authid') = %(comment)s
  AND (
      r.oid IN (
          SELECT a.grantee
          FROM pg_catalog.pg_namespace AS n
          CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
          WHERE n.nspname = 'cdc_pusher'
      )
      OR r.rolname IN (SELECT role FROM cdc_pusher.granted)
  )
ORDER BY r.rolname

-- name: strangers
-- What in our schema belongs to another role than the owner, as statements that change that: the schema first, or the
-- owner could not have the others. What belongs to a table goes with it.
SELECT format('ALTER SCHEMA cdc_pusher OWNER TO %%I', %(owner)s::text) AS statement
FROM pg_catalog.pg_namespace AS n
WHERE n.nspname = 'cdc_pusher'
  AND pg_get_userbyid(n.nspowner) <> %(owner)s
UNION ALL
SELECT format(
    'ALTER %%s cdc_pusher.%%I OWNER TO %%I',
    CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
    c.relname,
    %(owner)s::text
)
FROM pg_catalog.pg_class AS c
WHERE c.relnamespace = to_regnamespace('cdc_pusher')
  AND c.relkind IN ('r', 'p', 'v', 'S')
  AND pg_get_userbyid(c.relowner) <> %(owner)s
  AND NOT EXISTS (
      SELECT
      FROM pg_catalog.pg_depend AS d
      WHERE d.classid = 'pg_class'::regclass
        AND d.objid = c.oid
        AND d.deptype IN ('a', 'i')
        AND d.refclassid = 'pg_class'::regclass
        AND c.relkind = 'S'
  )
UNION ALL
SELECT format('ALTER FUNCTION %%s OWNER TO %%I', p.oid::regprocedure, %(owner)s::text)
FROM pg_catalog.pg_proc AS p
WHERE p.pronamespace = to_regnamespace('cdc_pusher')
  AND pg_get_userbyid(p.proowner) <> %(owner)s

-- name: is_foreign
-- Whether our schema has tables, but not the one that every version of ours has had.
SELECT to_regclass('cdc_pusher.alembic_version') IS NULL
    AND EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.relnamespace = to_regnamespace('cdc_pusher'))

-- name: left_over
-- What is in our schema after all that migrations made has gone, and is none of a trigger's functions either.
SELECT c.relname AS name
FROM pg_catalog.pg_class AS c
WHERE c.relnamespace = to_regnamespace('cdc_pusher')
  AND c.relname NOT IN ('alembic_version', 'alembic_version_pkc')
UNION
SELECT p.proname
FROM pg_catalog.pg_proc AS p
WHERE p.pronamespace = to_regnamespace('cdc_pusher')
  AND p.proname !~ '^cdc_pusher_[0-9a-f]{8}$'
UNION
SELECT t.typname
FROM pg_catalog.pg_type AS t
WHERE t.typnamespace = to_regnamespace('cdc_pusher')
  AND t.typrelid = 0
  AND t.typelem = 0
ORDER BY 1
