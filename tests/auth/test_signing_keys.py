"""Signing keys: made once, sealed, published ahead, retired late."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.auth.keys import KEPT, SEAL, Keys, due
from services.kit import clock, faults
from tests.auth.people import People, Somebody
from triptych.auth.v1 import auth_service_pb2 as pb

WEEK = timedelta(days=7)
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def row(generation: int, not_before: datetime) -> Any:
    return {"generation": generation, "not_before": not_before, "sign_until": not_before + WEEK}


def test_the_first_key_signs_at_once_and_the_next_follows_it() -> None:
    assert due([], NOW, WEEK) == (1, NOW)
    first = row(1, NOW)
    assert due([first], NOW, WEEK) == (2, NOW + WEEK)
    assert due([first, row(2, NOW + WEEK)], NOW, WEEK) is None


def test_when_a_key_begins_to_sign_the_one_after_it_is_made() -> None:
    rows = [row(1, NOW), row(2, NOW + WEEK)]
    assert due(rows, NOW + WEEK - timedelta(seconds=1), WEEK) is None
    assert due(rows, NOW + WEEK, WEEK) == (3, NOW + 2 * WEEK)


def test_after_a_long_stop_a_key_is_made_that_signs_at_once() -> None:
    rows = [row(1, NOW), row(2, NOW + WEEK)]
    assert due(rows, NOW + 10 * WEEK, WEEK) == (3, NOW + 10 * WEEK)


async def test_the_current_and_the_next_key_are_published_and_verify(people: People, admin: Somebody) -> None:
    answer = await people.auth.GetSigningKeys(pb.GetSigningKeysRequest())
    assert (answer.issuer, answer.audience) == ("https://triptych.local", "triptych")
    current, following = answer.keys[-2:]
    now = time.time()
    assert current.not_before.seconds <= now < current.not_after.seconds
    assert following.not_before.seconds - current.not_before.seconds == WEEK.total_seconds()
    assert current.not_after.seconds - following.not_before.seconds == KEPT.total_seconds()
    await people.suite.runtimes["auth"].verifier.verify(admin.login.tokens.access_token)


async def test_replicas_that_start_at_once_make_each_generation_once(people: People) -> None:
    runtime = people.suite.runtimes["auth"]
    replicas = [Keys(db=runtime.db, vault=runtime.vault, days=7) for _ in range(4)]
    async with people.database() as database:
        await database.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM signing_keys")
        await database.execute("DELETE FROM signing_keys")
        await asyncio.gather(*(keys.load() for keys in replicas))
        rows = await database.fetch("DELETE FROM signing_keys RETURNING *")
        await database.execute("INSERT INTO signing_keys SELECT * FROM kept")
    assert len({keys.current().key_id for keys in replicas}) == 1
    assert sorted(found["generation"] for found in rows) == [1, 2]
    assert all(found["sealed_private_key"].startswith("vault:v1:") for found in rows)


async def test_a_retired_key_is_published_for_a_day_and_cannot_sign(people: People) -> None:
    runtime = people.suite.runtimes["auth"]
    keys = Keys(db=runtime.db, vault=runtime.vault, days=7)
    await keys.load()
    now = clock.now()
    insert = "INSERT INTO signing_keys VALUES ($1, $2, $3, 'vault:v1:x', $4, $5, $6)"
    async with people.database() as database:
        for number, stopped in ((900, timedelta(hours=23)), (901, timedelta(hours=25))):
            until = now - stopped
            await database.execute(insert, number, f"old{number}", b"x" * 32, until - WEEK, until, until + KEPT)
        await keys.load()
        sealed = await database.fetch("SELECT sealed_private_key FROM signing_keys WHERE generation >= 900")
        published = {key.key_id for key in await keys.published()}
        await database.execute("DELETE FROM signing_keys WHERE generation >= 900")
    assert [found["sealed_private_key"] for found in sealed] == [None, None]
    assert "old900" in published
    assert "old901" not in published


async def test_a_private_key_is_never_in_the_database_in_clear(people: People) -> None:
    private = runtime_keys(people).current().private.private_bytes_raw()
    async with people.database() as database:
        rows = await database.fetch("SELECT k::text FROM signing_keys k")
    assert not any(private.hex() in found[0] for found in rows)
    assert SEAL == "auth-seal"


async def test_a_server_without_a_usable_key_says_so() -> None:
    with pytest.raises(faults.DependencyUnavailable):
        Keys(db=None, vault=None, days=7).current()  # type: ignore[arg-type]


def runtime_keys(people: People) -> Keys:
    """Give the keys that the server signs with."""
    for name, add in people.suite.runtimes["auth"]._adders:
        if name.endswith("AuthService"):
            for cell in add.__closure__ or ():
                if hasattr(cell.cell_contents, "_keys"):
                    keys: Keys = cell.cell_contents._keys
                    return keys
    raise AssertionError("no keys")
