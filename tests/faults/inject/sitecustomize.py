"""Python runs this before the daemon, when this directory is in PYTHONPATH."""

from faults import points

points.install()
