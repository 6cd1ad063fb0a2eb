"""The progress bar of a command: on standard error, for people only, and not before the command has lasted for `UNSEEN_S`.

It never stands in what is printed: not where nobody looks (no terminal), and not with `--json`.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from rich.console import Console

from cdc_pusher import show

T = TypeVar("T")

UNSEEN_S = 0.5


class Bar:
    """What a command does at the moment, and how much of it is done if that is known."""

    def __init__(self, doing: str, *, hidden: bool = False) -> None:
        console = Console(stderr=True)
        self._progress = show.progress(console, disable=hidden or not console.is_interactive, transient=True)
        self._task = self._progress.add_task(doing, total=None)

    def tell(self, doing: str, done: int = 0, total: int | None = None) -> None:
        """Go on to something else, or with it."""
        self._progress.update(self._task, description=doing, completed=done, total=total)

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work, and be seen if that lasts."""
        if self._progress.disable:
            return await work
        showing = asyncio.get_running_loop().call_later(UNSEEN_S, self._progress.start)
        try:
            return await work
        finally:
            showing.cancel()
            self._progress.stop()
