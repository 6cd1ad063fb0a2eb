"""No image of this process is left anywhere, nor shown to others of its user: the keys of the EMPs would be in it."""

import ctypes
import resource

_PR_SET_DUMPABLE = 4  # prctl(2); Linux


def no_dumps() -> None:
    """Have the kernel write no core dump, and pass none on; on Linux `/proc/PID/environ` and `mem` then are root's alone, too."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except AttributeError:  # another system
        return
