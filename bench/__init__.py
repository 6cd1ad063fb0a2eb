"""Benchmarks with goals: real processes on the wheel's Postgres; each prints what it measured, and fails if a goal is missed.

They measure, they do not test: `tests/` has no time in it.
"""
