"""Alembic environment of the schema `providers`."""

from services.kit.migrations import run_environment

run_environment()
