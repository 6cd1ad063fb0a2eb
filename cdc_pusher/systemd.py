"""What systemd is told, if it started us (sd_notify(3), sd_watchdog_enabled(3))."""

import os
import socket


def is_service() -> bool:
    """Whether systemd has started us and listens."""
    return "NOTIFY_SOCKET" in os.environ


def notify(*states: str) -> None:
    """Tell systemd our state: `READY=1`, `STATUS=…`; nothing happens if it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
                sock.sendall("\n".join(states).encode())
            except OSError:
                return  # a manager that does not listen any more is no reason to stop


def watchdog_s() -> float | None:
    """In how many seconds systemd wants to hear that we move; None: it does not watch us."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) else None
