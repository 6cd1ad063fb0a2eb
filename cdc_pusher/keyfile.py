"""Files that hold secrets: what is open to everybody is no secret, and is not read. Knows nothing of the configuration."""

import stat
from pathlib import Path

from cdc_pusher.errors import ConfigurationError

KEY_LIMIT = 4096  # bytes


def require_private(file: Path, what: str) -> None:
    """Raise `ConfigurationError` unless this is a regular file that is not for everybody; a group may read it, as systemd's credentials."""
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{what} {file} is no regular file")
    if mode & stat.S_IRWXO:
        raise ConfigurationError(f"{what} {file} is open to everybody: chmod o= {file}")


def key_in(file: Path, what: str) -> str:
    """The text of a file that is private; `what` it is, for the error. Raises `ConfigurationError`."""
    try:
        require_private(file, what)
        with file.open("rb") as stream:
            content = stream.read(KEY_LIMIT + 1)
        if len(content) > KEY_LIMIT:
            raise ConfigurationError(f"{what} {file} has more than {KEY_LIMIT} bytes")
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what} {file} is not ASCII text") from None
    except OSError as error:
        raise ConfigurationError(f"{what} {file} cannot be read: {error.strerror}") from error
    except ValueError:  # a path with a NUL
        raise ConfigurationError(f"{what} has no name that a file can have") from None
