"""Keeps e-mobility providers exactly as informed as the charge point operator's own Postgres database."""

__version__ = "0.1.0"
