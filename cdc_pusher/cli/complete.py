"""What a shell offers when Tab is pressed: names from the configuration, and words that are known.

Never connects to anything, never fails, and says nothing else.
"""

from pathlib import Path
from typing import get_args

import typer

from cdc_pusher import config
from cdc_pusher.errors import CdcPusherError
from cdc_pusher.reconcile import State

STATES: tuple[str, ...] = get_args(State)


def emps(ctx: typer.Context, incomplete: str) -> list[str]:
    """EMPs of the configuration that the command line names so far, or of the default one."""
    named = ctx.params.get("config_file")
    try:
        settings = config.read(Path(named) if named else None)
    except (CdcPusherError, OSError):
        return []
    return [name for name in sorted(settings.emp) if name.startswith(incomplete)]


def states(incomplete: str) -> list[str]:
    """States of a message."""
    return [state for state in STATES if state.startswith(incomplete)]
