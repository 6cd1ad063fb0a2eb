"""The clock that leases and claims are measured by: it only goes forward, also while the machine sleeps."""

import time

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)  # Linux; a monotonic clock stands still during a suspend


def now_s() -> float:
    """Seconds since some moment in the past."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)
