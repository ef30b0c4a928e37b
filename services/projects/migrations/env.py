"""Alembic environment of the schema `projects`."""

from services.kit.migrations import run_environment

run_environment()
