"""Alembic environment of the schema `quarantine`."""

from services.kit.migrations import run_environment

run_environment()
