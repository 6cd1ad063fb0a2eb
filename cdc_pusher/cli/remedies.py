"""What to do about an error: the words that follow it in the line that it is. Pure but for a look at which files there are."""

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path

import psycopg

from cdc_pusher.config import DEFAULT_PATHS
from cdc_pusher.errors import DatabaseUnavailable

_OF_THE_DATABASE: tuple[tuple[type[psycopg.Error], str], ...] = (
    (psycopg.errors.InsufficientPrivilege, "run it as the role of the daemon, or have cdc-pusher migrate grant the rights"),
    (psycopg.errors.ReadOnlySqlTransaction, "database.dsn has to lead to the primary"),
    (psycopg.errors.LockNotAvailable, "somebody works with that table: try again"),
    (psycopg.errors.QueryCanceled, "the server is busy, or somebody holds a lock: try again"),
    (psycopg.errors.UndefinedColumn, "is the schema older than this program? cdc-pusher migrate"),
    (psycopg.OperationalError, "the connection has gone: try again"),
)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A guess at what was meant, to be appended; nothing if nothing is near.

    >>> did_you_mean("plugsurfin", ["plugsurfing", "hubject"]), did_you_mean("HELD", ["held"]), did_you_mean("x", ["plug"])
    ("; did you mean 'plugsurfing'?", "; did you mean 'held'?", '')
    """
    by_small = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(word.casefold(), by_small, n=1)
    return f"; did you mean '{by_small[near[0]]}'?" if near else ""


def of_error(error: Exception) -> str:
    """What to do, to be appended; nothing where the error says it."""
    match error:
        case DatabaseUnavailable():
            return f"; {_unavailable()}"
        case psycopg.Error():
            return next((f"; {words}" for kind, words in _OF_THE_DATABASE if isinstance(error, kind)), "")
        case PermissionError() as refused:
            return f"; {_refused(refused)}"
    return of_error(error.__cause__) if isinstance(error.__cause__, PermissionError) else ""


def _refused(error: PermissionError) -> str:
    """Who may read a file, as far as we can see it."""
    try:
        owner = Path(str(error.filename)).owner()
    except (OSError, KeyError, ValueError):
        owner = "cdc-pusher"
    return f"run it as {owner}: sudo -u {owner} cdc-pusher …"


def _unavailable() -> str:
    if any(path.is_file() for path in DEFAULT_PATHS) or any(argument.startswith(("--config", "--dsn")) for argument in sys.argv):
        return "does the server run, and is database.dsn right?"
    places = " nor ".join(map(str, DEFAULT_PATHS))
    return f"there is no configuration, neither {places}: name it with --config FILE, or write one with cdc-pusher init"
