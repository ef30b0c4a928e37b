"""Rows written as the service's own database role: what the database itself lets through, and what it refuses."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests.suite import Suite

HASH = "a" * 64
ANOTHER = "b" * 64


class Rows:
    """One connection of the app role, within one tenant."""

    def __init__(self, connection: Any, tenant_id: str) -> None:
        self.connection = connection
        self.tenant_id = tenant_id
        self.author = str(uuid.uuid4())
        self.requester = str(uuid.uuid4())

    async def run(self, text: str, *values: Any) -> Any:
        """Run a statement in a transaction of its own and give its first value."""
        async with self.connection.transaction():
            await self.connection.execute("SELECT set_config('app.tenant', $1, true)", self.tenant_id)
            return await self.connection.fetchval(text, *values)

    async def add(self, table: str, **values: Any) -> Any:
        """Insert a row and give its first column."""
        values = {"tenant_id": self.tenant_id} | values
        names, marks = ", ".join(values), ", ".join(f"${n + 1}" for n in range(len(values)))
        return await self.run(f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING {table}.*", *values.values())

    async def dataset(self) -> Any:
        """A dataset of two items."""
        async with self.connection.transaction():
            await self.connection.execute("SELECT set_config('app.tenant', $1, true)", self.tenant_id)
            dataset_id = await self.connection.fetchval(
                "INSERT INTO datasets (tenant_id, name, description, digest, item_count, created_by)"
                " VALUES ($1, $2, '', $3, 2, $4) RETURNING id",
                self.tenant_id,
                str(uuid.uuid4()),
                HASH,
                self.author,
            )
            await self.connection.execute(
                "INSERT INTO dataset_items (tenant_id, dataset_id, item_id, content_sha256, label, item_group)"
                " SELECT $1, $2, i, $3, 'weak', '' FROM unnest(ARRAY['p1', 'p2']) AS i",
                self.tenant_id,
                dataset_id,
                HASH,
            )
        return dataset_id

    async def configuration(self, configuration_hash: str = HASH) -> None:
        """A configuration that is not blocked."""
        await self.run(
            "INSERT INTO configurations (tenant_id, configuration_hash) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            self.tenant_id,
            configuration_hash,
        )

    async def experiment(self, configuration_hash: str = HASH, **more: Any) -> Any:
        """A created experiment."""
        await self.configuration(configuration_hash)
        values = {
            "project_id": str(uuid.uuid4()),
            "dataset_id": await self.dataset(),
            "name": "e",
            "description": "",
            "configuration": {},
            "configuration_hash": configuration_hash,
            "version_id": str(uuid.uuid4()),
            "created_by": self.author,
        }
        return await self.add("experiments", **values | more)

    async def evaluation(self, verdict: str = "pass", **more: Any) -> Any:
        """An evaluated experiment's evaluation."""
        experiment_id = await self.experiment(**more)
        for state in ("running", "completed"):
            await self.run("UPDATE experiments SET state = $2 WHERE id = $1", experiment_id, state)
        project_id = await self.run("SELECT project_id FROM experiments WHERE id = $1", experiment_id)
        evaluation_id = await self.add(
            "evaluations",
            experiment_id=experiment_id,
            experiment_created_by=self.author,
            project_id=project_id,
            configuration_hash=HASH,
            dataset_digest=HASH,
            baseline_revision="r",
            metrics=[],
            gates=[],
            verdict=verdict,
            confidence=1,
            seed=1,
            created_by=self.author,
        )
        await self.run("UPDATE experiments SET state = 'evaluating' WHERE id = $1", experiment_id)
        return evaluation_id

    async def promotion(self, evaluation_id: Any = None, **more: Any) -> Any:
        """A promotion that waits for approval."""
        evaluation_id = evaluation_id or await self.evaluation()
        async with self.connection.transaction():
            await self.connection.execute("SELECT set_config('app.tenant', $1, true)", self.tenant_id)
            evaluation = await self.connection.fetchrow("SELECT * FROM evaluations WHERE id = $1", evaluation_id)
        values = {
            "project_id": evaluation["project_id"],
            "experiment_id": evaluation["experiment_id"],
            "evaluation_id": evaluation_id,
            "from_version_id": str(uuid.uuid4()),
            "configuration_hash": HASH,
            "subject": {},
            "subject_digest": HASH,
            "reason": "r",
            "requested_by": self.requester,
            "required_approvals": 1,
            "policy_decisions": [],
        }
        values |= more
        names, marks = ", ".join(values), ", ".join(f"${n + 2}" for n in range(len(values)))
        return await self.run(
            f"INSERT INTO promotions (tenant_id, {names}, expire_time) VALUES ($1, {marks}, now() + interval '1 day')"
            " RETURNING id",
            self.tenant_id,
            *values.values(),
        )

    async def approve(self, promotion_id: Any, **more: Any) -> Any:
        """Somebody else's yes."""
        values = {
            "promotion_id": promotion_id,
            "requested_by": self.requester,
            "approver_id": str(uuid.uuid4()),
            "approve": True,
            "reason": "r",
            "subject_digest": HASH,
        }
        return await self.add("approvals", **values | more)


@asynccontextmanager
async def rows(suite: Suite) -> AsyncIterator[Rows]:
    """Give rows of a new tenant, on a connection of the service's own pool."""
    pool: asyncpg.Pool[asyncpg.Record] = suite.runtimes["experiments"].db.pool
    async with pool.acquire() as connection:
        yield Rows(connection, str(uuid.uuid4()))
