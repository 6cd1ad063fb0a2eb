"""Everything that can go wrong in a way that a person has to know about.

    CdcPusherError              exit code 1: what was asked for failed
    ├── ConfigurationError      exit code 2: the configuration or the command line is wrong
    │   └── MappingError        exit code 2: the operator's mapping does not fit the database
    ├── DatabaseUnavailable     exit code 2 at start; while running, the daemon connects again
    └── LeaseLost               never an exit code: another daemon goes on with the work

An EMP that refuses a message is not an error: that is a verdict (`model.Verdict`). Errors are translated where they enter (`raise … from`)
and say in one line what to do; nothing is logged and raised.
"""

from cdc_pusher.plain import plain


class CdcPusherError(Exception):
    """The root; its text is one line for the operator, whatever it repeats."""

    exit_code = 1

    def __init__(self, said: str) -> None:
        super().__init__(plain(said))


class ConfigurationError(CdcPusherError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class MappingError(ConfigurationError):
    """The mapping names something that the database does not have, or fails in it."""


class DatabaseUnavailable(CdcPusherError):
    """No connection to the database, or the one there was has gone."""

    exit_code = 2


class LeaseLost(CdcPusherError):
    """Another daemon has taken what this one was working at: nothing more may be written."""
