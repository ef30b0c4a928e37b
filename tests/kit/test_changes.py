"""Changes that tell of themselves, on a table of this test's own in the schema of projects."""

import base64
import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import rfc8785
from sqlalchemy import Column, Integer, LargeBinary, MetaData, Numeric, Table, Text, Uuid, update
from sqlalchemy.dialects.postgresql import JSONB

from services.kit import outbox
from services.kit.changes import LARGEST, LARGEST_VALUE, Change
from services.kit.db import Database, param, params
from tests.suite import Suite

table = Table(
    "samples",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid),
    Column("name", Text),
    Column("email", Text),
    Column("note", Text),
    Column("count", Integer),
    Column("price", Numeric),
    Column("settings", JSONB),
    Column("password_hash", Text),
    Column("cipher", LargeBinary),
    Column("revision", Integer),
)
ALL = "name email note count price settings password_hash cipher"
CHANGE = Change(
    update(table)
    .where(table.c.id == param("sample_id"))
    .values(**params(ALL), revision=table.c.revision + 1)
    .returning(*table.c),
    kind="sample",
    secret=("password_hash",),
    personal=("email",),
)
FIRST: dict[str, Any] = {
    "name": "a", "email": "a@example.org", "note": "", "count": 1, "price": 1, "settings": {"t": 0.7},
    "password_hash": "secret one", "cipher": b"one",
}  # fmt: skip


class Samples:
    """One row, the service that changes it, and its outbox."""

    def __init__(self, db: Database, superuser: asyncpg.Connection) -> None:
        self.db = db
        self.superuser = superuser
        self.tenant_id = str(uuid.uuid4())
        self.id = str(uuid.uuid4())

    async def change(self, details: dict[str, Any] | None = None, *, sample_id: str = "", **values: Any) -> Any:
        """Change the row to FIRST with these values."""
        async with self.db.begin(tenant=self.tenant_id) as tx:
            given: dict[str, Any] = {"action": "projects.sample.update", "actor": ("user", "somebody")} | FIRST | values
            return await CHANGE.one(tx, details, sample_id=sample_id or self.id, **given)

    async def events(self) -> list[asyncpg.Record]:
        """Give what was recorded, oldest first."""
        query = "SELECT entity, action, actor_id, payload FROM projects.outbox WHERE tenant_id = $1 ORDER BY event_id"
        return await self.superuser.fetch(query, uuid.UUID(self.tenant_id))

    async def told(self) -> dict[str, Any]:
        """Give the payload of the newest event."""
        return dict(json.loads((await self.events())[-1]["payload"]))


@pytest.fixture
async def samples(suite: Suite, superuser: asyncpg.Connection) -> AsyncIterator[Samples]:
    """A table with one row."""
    await suite.start("projects")
    await superuser.execute(
        "CREATE TABLE projects.samples (id uuid PRIMARY KEY, tenant_id uuid, name text, email text, note text,"
        " count int, price numeric, settings jsonb, password_hash text, cipher bytea, revision int);"
        " GRANT SELECT, UPDATE ON projects.samples TO triptych_projects_app"
    )
    found = Samples(suite.runtimes["projects"].db, superuser)
    await superuser.execute(
        "INSERT INTO projects.samples VALUES ($1, $2, 'a', 'a@example.org', '', 1, 1, '{\"t\": 0.7}', 'secret one',"
        " 'one', 1)",
        uuid.UUID(found.id),
        uuid.UUID(found.tenant_id),
    )
    yield found
    await superuser.execute("DROP TABLE projects.samples")


async def test_old_and_new_value_of_what_changed_are_in_the_event(samples: Samples) -> None:
    row = await samples.change({"reason": "because"}, name="b", count=2)
    assert (row["name"], row["count"], row["revision"]) == ("b", 2, 2)
    (event,) = await samples.events()
    assert (event["entity"], event["action"], event["actor_id"]) == (
        f"sample:{samples.id}",
        "projects.sample.update",
        "somebody",
    )
    assert json.loads(event["payload"]) == {
        "reason": "because",
        "changes": {"name": {"old": "a", "new": "b"}, "count": {"old": 1, "new": 2}},
    }


async def test_what_matches_no_row_records_nothing(samples: Samples) -> None:
    assert await samples.change(sample_id=str(uuid.uuid4()), name="b") is None
    assert await samples.events() == []


async def test_a_change_that_changes_nothing_is_an_event_without_changes(samples: Samples) -> None:
    assert await samples.change({"reason": "again"}) is not None
    assert await samples.told() == {"reason": "again"}


async def test_secrets_bytes_and_revisions_are_never_told(samples: Samples) -> None:
    await samples.change(password_hash="secret two", cipher=b"two", name="b")
    (event,) = await samples.events()
    assert json.loads(event["payload"]) == {"changes": {"name": {"old": "a", "new": "b"}}}
    assert "secret" not in event["payload"]


async def test_numbers_and_documents_are_told_as_the_log_takes_them(samples: Samples) -> None:
    await samples.change(price=0.25, settings={"t": 0.9, "list": [1.5]}, count=None)
    assert (await samples.told())["changes"] == {
        "price": {"old": 1, "new": "0.25"},
        "settings": {"old": '{"t": 0.7}', "new": '{"t": 0.9, "list": [1.5]}'},
        "count": {"old": 1, "new": None},
    }
    await samples.change(price=2**60, settings={"t": 0.9, "list": [1.5]}, count=None)
    assert (await samples.told())["changes"] == {"price": {"old": "0.25", "new": str(2**60)}}


async def test_what_is_long_is_told_by_length_and_digest(samples: Samples) -> None:
    text = "é" * LARGEST_VALUE
    await samples.change(note=text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert (await samples.told())["changes"] == {
        "note": {"old": "", "new": {"sha256": digest, "bytes": 2 * LARGEST_VALUE}}
    }


async def test_personal_columns_are_told_as_commitments_that_open(samples: Samples) -> None:
    await samples.change(email='b"\\é\n\x01\x7f@example.org')
    told = await samples.told()
    assert "@example.org" not in json.dumps(told["changes"])
    assert [opening["path"] for opening in told[outbox.OPENINGS]] == ["/changes/email/old", "/changes/email/new"]
    assert len({opening["salt"] for opening in told[outbox.OPENINGS]}) == 2
    for opening, side in zip(told[outbox.OPENINGS], ("old", "new"), strict=True):
        salt = base64.b64decode(opening["salt"])
        assert len(salt) == 16
        commitment = hashlib.sha256(salt + rfc8785.dumps(opening["value"])).hexdigest()
        assert told["changes"]["email"][side] == {"$c": commitment}
    assert told[outbox.OPENINGS][1]["value"] == 'b"\\é\n\x01\x7f@example.org'


async def test_a_missing_personal_value_is_no_secret(samples: Samples) -> None:
    await samples.change(email=None)
    told = await samples.told()
    assert told["changes"]["email"]["new"] is None
    assert [opening["path"] for opening in told[outbox.OPENINGS]] == ["/changes/email/old"]


async def test_the_event_stays_within_what_the_log_takes(samples: Samples) -> None:
    wide = {name: name * (LARGEST_VALUE // len(name) - 2) for name in ("name", "note", "email")}
    await samples.change({"text": "x" * 23_000}, **wide)
    assert len(json.dumps(await samples.told())) < 32 * 1024
    assert LARGEST + outbox.LARGEST_PAYLOAD < 32 * 1024


async def test_a_change_that_is_rolled_back_leaves_no_event(samples: Samples) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await _change_and_fail(samples)
    assert await samples.events() == []
    assert await samples.superuser.fetchval("SELECT name FROM projects.samples") == "a"


async def _change_and_fail(samples: Samples) -> None:
    async with samples.db.begin(tenant=samples.tenant_id) as tx:
        given: dict[str, Any] = {"action": "projects.sample.update", "actor": ("user", "somebody")} | FIRST
        await CHANGE.one(tx, None, sample_id=samples.id, **(given | {"name": "b"}))
        await tx.connection.execute("SELECT 1 / 0")


def test_a_column_that_is_not_there_cannot_be_declared() -> None:
    statement = update(table).values(name="b").returning(*table.c)
    with pytest.raises(ValueError, match="sample has no column token"):
        Change(statement, kind="sample", secret=("token",))
