"""Alembic environment of the schema `production`."""

from services.kit.migrations import run_environment

run_environment()
