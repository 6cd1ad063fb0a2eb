"""How the daemon logs, always to standard error: text on a terminal, else JSON, with its priority where the journal listens; UTC.

A constant message and fields. What repeats itself is told `OFTEN` times a minute, and then counted: the next one says how many there were.
At the level debug every change can be followed by `emp`, `kind`, `key` and `gen`: "captured", then "answered"; `gen` is what the tables
`outbox` and `attempt` call it, too.
"""

import json
import logging
import os
import sys
import time
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

from cdc_pusher.plain import plain, plain_json

Level = Literal["debug", "info", "warning", "error"]

OFTEN = 5
WINDOW_S = 60.0
PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}  # syslog(3)


class Repeats:
    """Drops warnings and errors that repeat themselves: the same message about the same EMP, part or lease."""

    def __init__(self) -> None:
        self._told: dict[tuple[object, ...], tuple[float, int]] = {}

    def __call__(self, _: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """A processor of structlog."""
        if method in ("debug", "info"):
            return event
        key = (event.get("event"), event.get("emp"), event.get("part"), event.get("lease"))
        now = time.monotonic()
        since, count = self._told.get(key, (now, 0))
        if now - since >= WINDOW_S:
            if count > OFTEN:
                event["not_told"] = count - OFTEN
            since, count = now, 0
        self._told[key] = since, count + 1
        if count >= OFTEN:
            raise structlog.DropEvent
        return event


def configure(level: Level = "info") -> None:
    """Set up structlog, and send what libraries log the same way from WARNING on. Called again, it changes the level."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, Repeats(), *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers()]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # the daemon tells of failed jobs itself, in one line
    logging.getLogger("cdc_pusher").setLevel(number)


def is_debug() -> bool:
    """Whether everything is followed: ask before a loop that tells of every change."""
    return logging.getLogger("cdc_pusher").isEnabledFor(logging.DEBUG)


def _renderers() -> list[structlog.typing.Processor]:
    if sys.stderr.isatty():
        return [_plainly, structlog.dev.ConsoleRenderer()]
    renderer = structlog.processors.JSONRenderer(serializer=_as_json)
    if not _is_journal():
        return [renderer]

    def prioritised(logger: WrappedLogger, method: str, event: EventDict) -> str:
        return f"<{PRIORITIES.get(event.get('level', ''), 6)}>{renderer(logger, method, event)!s}"

    return [prioritised]


def _plainly(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A processor of structlog; a traceback keeps its lines, none of which can be taken for one of the log."""
    return {name: _indented(str(value)) if name == "exception" else _shown(value) for name, value in event.items()}


def _indented(text: str) -> str:
    return "\n".join(f"  {plain(line)}" for line in text.split("\n"))


def _shown(value: object) -> object:
    return plain(value if isinstance(value, str) else repr(value)) if not isinstance(value, bool | int | float | None) else value


def _as_json(event: object, **options: Any) -> str:
    return plain_json(json.dumps(event, ensure_ascii=False, **options))


def _is_journal() -> bool:
    """Whether standard error leads to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    found = os.fstat(sys.stderr.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
