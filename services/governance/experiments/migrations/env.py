"""Alembic environment of the schema `experiments`."""

from services.kit.migrations import run_environment

run_environment()
