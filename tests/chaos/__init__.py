"""Faults, and what is left of them: `make chaos`, and the crash tests of `make test`."""
