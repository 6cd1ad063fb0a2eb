"""What the triggers on the CPO's tables do, as SQL: the function that records what a row says of its station. Does no IO.

They must never disturb the CPO's own work (design, invariant 1), and their form follows from that:

- One function a watch, row level, AFTER. It compares the watched columns itself, by name, when it runs: a trigger with `WHEN (OLD.x …)` or
  `UPDATE OF x` would make the CPO's own `ALTER TABLE … DROP COLUMN x` fail.
- SECURITY DEFINER with a pinned search_path: the writing role needs no right on our schema, and no other schema can shadow a name.
- Rows are compared with `*=` (by their bytes), which every type has and no search_path can change.
- It only inserts, and calls nothing that the CPO could have put there: it names the station by a column, and for anything else notes the
  columns that matter. Capture finds out after the commit, with the daemon's rights.
- It waits for a lock of ours once in a transaction, for 10 ms (30 ms if the counter is locked, too). Whatever fails inside is caught,
  tried again with dynamic SQL, and if that fails counted in the sequence `missed`, which the daemon answers with a sweep.
- NOTIFY is sent only while the daemon sleeps, the queue is not filling up, and no transaction can be prepared (PREPARE TRANSACTION refuses
  transactions that have notified).
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from cdc_pusher.config import Watch, folded
from cdc_pusher.database import STYLES
from cdc_pusher.names import CHANNEL

MOST_PAIRS = 50  # names and values of one call: a function of Postgres takes 100 arguments

_FUNCTION = """
CREATE OR REPLACE FUNCTION cdc_pusher.{name}() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '10ms'
    {settings}
AS {body}
"""
_BODY = """
DECLARE
    cdc_pusher_new {type};
    cdc_pusher_old {type};
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF {same} THEN
            RETURN NULL;
        END IF;
    END IF;
    IF current_setting('cdc_pusher.locked', true) IN ('yes', 'all') THEN
        IF current_setting('cdc_pusher.locked') = 'yes' THEN
            PERFORM nextval('cdc_pusher.missed');
        END IF;
        RETURN NULL;
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO cdc_pusher.change (station_id) VALUES (NULL);
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        cdc_pusher_new := {of_new};
    END IF;
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        cdc_pusher_old := {of_old};
    END IF;
    IF cdc_pusher_old IS DISTINCT FROM cdc_pusher_new AND cdc_pusher_old IS NOT NULL THEN
        INSERT INTO cdc_pusher.change {columns} VALUES ({watch}cdc_pusher_old);
    END IF;
    IF cdc_pusher_new IS NOT NULL THEN
        INSERT INTO cdc_pusher.change {columns} VALUES ({watch}cdc_pusher_new);
    END IF;
    {notify}
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        IF SQLSTATE = '55P03' THEN
            -- Our tables are locked: one wait in a transaction is enough.
            PERFORM set_config('cdc_pusher.locked', 'yes', true), nextval('cdc_pusher.missed');
            RETURN NULL;
        END IF;
        IF TG_OP = 'TRUNCATE' THEN
            PERFORM nextval('cdc_pusher.missed');
        END IF;
        -- A plan that this session made before the table was altered fails for ever; dynamic SQL is planned anew.
        IF TG_OP IN ('UPDATE', 'DELETE') THEN
            EXECUTE {record} USING OLD;
        END IF;
        IF TG_OP IN ('INSERT', 'UPDATE') THEN
            EXECUTE {record} USING NEW;
        END IF;
        {notify}
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            PERFORM nextval('cdc_pusher.missed');
        EXCEPTION
            WHEN lock_not_available THEN
                -- Even the counter is locked, while owners change or all is removed: only the periodic sweep can find this.
                PERFORM set_config('cdc_pusher.locked', 'all', true);
            WHEN OTHERS THEN
                NULL;
        END;
    END;
    RETURN NULL;
END
"""

_NOTIFY = """IF pg_sequence_last_value('cdc_pusher.asleep') = 2
        AND current_setting('max_prepared_transactions') = '0'
        AND pg_notification_queue_usage() < 0.5
    THEN
        PERFORM pg_notify({channel}, '');
    END IF;"""

# A name in SQL, the dot before it, and what is after it if that is a dot.
_NAME = re.compile(r'(\.\s*)?(?:"((?:[^"]|"")+)"|([^\W\d][\w$]*))(?=(\s*\.\s*\*?)?)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A watched table as it is: its name, quoted by the database, what kind of relation it is, and its columns.

    `virtual`: columns that triggers cannot see; `styled`: those whose text depends on the session; `domains`: those that may refuse NULL;
    `json`: those that hold JSON.
    """

    name: str
    kind: str
    columns: Sequence[str]
    virtual: Sequence[str] = ()
    styled: Sequence[str] = ()
    domains: Sequence[str] = ()
    json: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What stands, or should stand, on one table for one watch; `version` is the fingerprint of the function's body.

    `styles`: settings of the function beside those that all have.
    """

    table: str
    name: str
    body: str
    styles: Mapping[str, str]

    @property
    def settings(self) -> set[str]:
        """All settings, as the catalogue has them."""
        return {"search_path=pg_catalog, pg_temp", "lock_timeout=10ms", *(f"{name}={value}" for name, value in self.styles.items())}

    @property
    def version(self) -> str:
        return hashlib.sha256(self.body.encode()).hexdigest()[:16]

    @property
    def triggers(self) -> dict[str, str]:
        """The triggers by name, and when each fires."""
        return {
            f"{self.name}_row": "AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW",
            f"{self.name}_truncate": "AFTER TRUNCATE ON {} FOR EACH STATEMENT",
        }


def wanted(watch: Watch, table: Table) -> Attachment:
    """What the configuration asks for on this table."""
    columns = sql.SQL("(watch, source_row)" if watch.is_deferred else "(station_id)")
    name = sql.SQL("{}, ").format(sql.Literal(watch.name)) if watch.is_deferred else sql.SQL("")
    record = sql.SQL("INSERT INTO cdc_pusher.change {} SELECT {}r.said FROM (SELECT {}) AS r (said) WHERE r.said IS NOT NULL").format(
        columns, name, _said(sql.SQL("($1)"), watch, table)
    )
    body = sql.SQL(_BODY).format(  # one constant text
        type=sql.SQL("jsonb" if watch.is_deferred else "text"),
        columns=columns,
        watch=name,
        of_new=_said(sql.SQL("NEW"), watch, table),
        of_old=_said(sql.SQL("OLD"), watch, table),
        same=_same(watch.columns),
        record=sql.Literal(record.as_string()),
        notify=sql.SQL(_NOTIFY).format(channel=sql.Literal(CHANNEL)),
    )
    styles = STYLES if any(named_columns(watch, table.styled)) else {}
    return Attachment(table=watch.table, name=watch.name, body=body.as_string(), styles=styles)


def _said(row: sql.Composable, watch: Watch, table: Table) -> sql.Composable:
    """An expression for what one row says about its station: the id (NULL: of none), or the columns that `station` may name.

    Anything but a column is not for the trigger: a sub-select would cost the CPO's transaction time, read rows that a serializable
    transaction then depends on, and not see what others have yet to commit; a function, an operator or a cast would run with the rights of
    the trigger's owner. A column is named without a query, which PL/pgSQL evaluates in a tenth of the time.
    """
    if (column := watch.station_column) is not None:
        return _spelled(row, column)
    names = [*named_columns(watch, table.columns), *table.domains]  # capture makes a row of them again
    values = {name: _spelled(row, name) for name in names}
    values |= {name: sql.SQL("({})::jsonb").format(values[name]) for name in table.json if name in values}
    pairs = [sql.SQL("{}, {}").format(sql.Literal(name), value) for name, value in values.items()]
    parts = [pairs[start : start + MOST_PAIRS] for start in range(0, len(pairs), MOST_PAIRS)] or [[]]
    return sql.SQL(" || ").join(sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(part)) for part in parts)


def _spelled(row: sql.Composable, column: str) -> sql.Composable:
    """A value as its type writes it: the owner of the table can give the column another type at any time, with a cast of their own."""
    value = sql.SQL("{}.{}").format(row, sql.Identifier(column))
    return sql.SQL("CASE WHEN {0} IS NULL THEN NULL ELSE format('%s', {0}) END").format(value)


def named_columns(watch: Watch, table_columns: Collection[str]) -> Iterator[str]:
    """The columns whose names occur in `station`; all of them, if it may name the row as a whole.

    >>> watch = Watch(table="public.place", station='SELECT s.id FROM public.station AS s WHERE s.place = place.ID AND "Näme" = 1')
    >>> list(named_columns(watch, ["id", "Näme", "note"]))
    ['id', 'Näme']
    >>> watches = [Watch(table="Place", station=f"SELECT {what}") for what in ("f(place)", "place.*", "s.place")]
    >>> [list(named_columns(watch, ["id", "note"])) for watch in watches]
    [['id', 'note'], ['id', 'note'], []]
    """
    found = [(quoted.replace('""', '"') or folded(plain), dot, after) for dot, quoted, plain, after in _NAME.findall(watch.station)]
    names = {name for name, _, _ in found}
    whole = any(name == watch.alias and not dot and not after.strip().endswith(".") for name, dot, after in found)
    return (column for column in table_columns if whole or column in names)


def _same(columns: Sequence[str] | None) -> sql.Composable:
    if columns is None:
        return sql.SQL("NEW OPERATOR(pg_catalog.*=) OLD")
    new, old = (sql.SQL(", ").join(sql.Identifier(row, column) for column in columns) for row in ("new", "old"))
    # Without the cast the operator would be looked for column by column.
    return sql.SQL("ROW({})::record OPERATOR(pg_catalog.*=) ROW({})::record").format(new, old)


def creation(attachment: Attachment, owner: str | None) -> list[sql.Composed]:
    """The statements that make or replace function and triggers; `owner`: the role that is to own the function."""
    name = sql.Identifier(attachment.name)
    function = sql.SQL("cdc_pusher.{}()").format(name)
    settings = sql.SQL(" ").join(sql.SQL("SET {} = {}").format(sql.Identifier(n), sql.Literal(v)) for n, v in attachment.styles.items())
    return [
        sql.SQL(_FUNCTION).format(name=name, settings=settings, body=sql.Literal(attachment.body)),
        sql.SQL("COMMENT ON FUNCTION {} IS {}").format(function, sql.Literal(attachment.version)),
        sql.SQL("REVOKE ALL ON FUNCTION {} FROM PUBLIC").format(function),  # or whoever may see our schema puts it on tables of their own
        *([sql.SQL("ALTER FUNCTION {} OWNER TO {}").format(function, sql.Identifier(owner))] if owner else []),
        *(
            sql.SQL("CREATE OR REPLACE TRIGGER {} {} EXECUTE FUNCTION {}").format(
                sql.Identifier(trigger),
                sql.SQL(when).format(sql.SQL(attachment.table)),  # as the operator writes it
                function,
            )
            for trigger, when in attachment.triggers.items()
        ),
    ]
