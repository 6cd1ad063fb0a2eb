"""The named queries of the `.sql` files beside this module, as attributes of one namespace a file.

A query begins with a line `-- name: NAME` and a sentence on what it does; it ends where the next one begins.
"""

from importlib.resources import files
from types import SimpleNamespace


def queries(file: str) -> SimpleNamespace:
    """The queries of `cdc_pusher/sql/FILE.sql` by name, as bytes for psycopg.

    >>> queries("outbox").lock.splitlines()[0]
    b'SELECT epoch, clock_timestamp() AS now'
    """
    text = (files(__package__) / f"{file}.sql").read_text(encoding="utf-8")
    found = {}
    for block in text.split("-- name: ")[1:]:
        name, _, rest = block.partition("\n")
        lines = rest.splitlines()
        while lines and lines[0].startswith("--"):
            lines.pop(0)
        found[name.strip()] = "\n".join(lines).strip().encode()
    return SimpleNamespace(**found)
