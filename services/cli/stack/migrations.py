"""Brings the schemas of a stack to their newest migrations."""

from services.cli.stack import topology
from services.cli.stack.backends import Backends
from services.kit import migrations


async def upgrade(backends: Backends, *, database: str | None = None) -> list[str]:
    """Migrate every schema and return those that changed; one by one: Alembic has one context."""
    return [
        service.schema
        for service in backends.topology.services
        if await migrations.upgrade(
            module=service.module,
            schema=service.schema,
            owner=service.owner,
            url=backends.migrator_url(database),
            password=backends.password(topology.MIGRATOR),
        )
    ]
