"""Twenty thousand data keys re-wrapped by the command while keys are being opened; killed once, and called again."""

import asyncio
import os
import random
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.cli.stack.settings import toml
from services.kit.vault import Vault, VaultRefused
from services.providers import envelopes, keks, rewraps
from services.providers.envelopes import KEK
from services.providers.keks import Standing
from tests.conftest import copy_database
from tests.patience import SECONDS, end, many_rounds, output, within
from tests.providers import hoards
from tests.providers.islands import Island
from tests.suite import Suite, superuser_of
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub

STOCK = 20_000
READ = frozenset(
    (
        "service",
        "profile",
        "database_url",
        "database_password_file",
        "vault_url",
        "vault_role_id_file",
        "vault_secret_id_file",
    )
)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Shore(Island):
    """The island's OpenBao with one more database."""

    def __init__(self, island: Island, database: str, folder: Path) -> None:
        Suite.__init__(self, island.backends, database, folder)
        self.home, self.openbao, self.root = island.home, island.openbao, island.root

    async def stop(self) -> None:
        """Stop the services; OpenBao is the island's."""
        await Suite.stop(self)


@pytest.fixture
async def shore(island: Island, tmp_path: Path) -> AsyncIterator[Shore]:
    """A service whose stock of keys is empty."""
    name = f"{island.database}_{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(copy_database, island.backends, name)
    running = Shore(island, name, tmp_path / "data")
    try:
        await running.start("providers")
        yield running
    finally:
        await running.stop()


@pytest.fixture
async def all_seeing(shore: Shore) -> AsyncIterator[Any]:
    """A connection to its database that sees everything."""
    async with superuser_of(shore.backends, shore.database) as connection:
        yield connection


@pytest.fixture
def config(shore: Shore, tmp_path: Path) -> Path:
    """Settings of the service as `triptych keys` reads them."""
    file = tmp_path / "providers.toml"
    file.write_text(toml({name: str(value) for name, value in shore.values("providers").items() if name in READ}))
    return file


def vault_of(island: Island, name: str) -> Vault:
    """OpenBao as one of the identities."""
    folder = island.identity(name)
    files = {"vault_role_id_file": str(folder / "role-id"), "vault_secret_id_file": str(folder / "secret-id")}
    return Vault(island.settings("providers", **files))


async def command(island: Island, config: Path, name: str, *arguments: str) -> asyncio.subprocess.Process:
    """Start `triptych keys` as one of the two identities."""
    given = ["keys", *arguments, "--config", str(config), "--identity", str(island.identity(name))]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli.main", *given, stdout=-1, stderr=-1, env=dict(os.environ)
    )


async def said(process: asyncio.subprocess.Process, code: int = 0) -> str:
    """Wait for its end and give what it said."""
    out, err = await output(process)
    assert process.returncode == code, (out, err)
    return (out + err).decode()


async def newer(all_seeing: Any, version: int) -> int:
    count: int = await all_seeing.fetchval(
        "SELECT count(*) FROM providers.user_providers WHERE kek_version >= $1", version
    )
    return count


async def rewrap_killed_and_again(shore: Shore, all_seeing: Any, config: Path, version: int) -> None:
    """Rotate; kill the command in the middle of the stock; call it again for the rest."""
    text = await said(await command(shore, config, "providers-operator", "rotate-kek"))
    assert f"next: `triptych keys rewrap` moves {STOCK} data keys to version {version}" in text
    killed = await command(shore, config, "providers-rewrapper", "rewrap")
    try:
        async with asyncio.timeout(SECONDS):
            while await newer(all_seeing, version) < STOCK / 10:
                assert killed.returncode is None
                await asyncio.sleep(0.002)
    finally:
        end(killed)
    await within(killed.communicate())
    done = await newer(all_seeing, version)
    assert 0 < done < STOCK
    text = await said(await command(shore, config, "providers-rewrapper", "rewrap"))
    assert f"{STOCK - done} data keys are now wrapped by version {version}" in text
    assert await newer(all_seeing, version) == STOCK


@many_rounds
async def test_the_stock_is_rewrapped_while_keys_open_and_a_killed_run_goes_on_where_it_was(
    shore: Shore, all_seeing: Any, config: Path
) -> None:
    tenant = str(uuid.uuid4())
    stock = await hoards.fill(all_seeing, shore.root, tenant, STOCK)
    version = await all_seeing.fetchval("SELECT max(kek_version) FROM providers.user_providers") + 1
    stub = (await shore.service("experiments", tenant)).stub(KeyServiceStub)
    opened, over = 0, asyncio.Event()

    async def keep_opening() -> None:
        nonlocal opened
        while not over.is_set():
            key = random.choice(stock)  # noqa: S311 - mostly cold: OpenBao opens what is re-wrapped
            assert (await stub.ResolveKey(key.request)).api_key == key.api_key
            opened += 1

    openers = asyncio.gather(*(keep_opening() for _ in range(4)))
    try:
        await rewrap_killed_and_again(shore, all_seeing, config, version)
    finally:
        over.set()
        await openers  # none failed
    assert opened > 100
    vault = shore.runtimes["providers"].vault
    for key in random.sample(stock, 20):
        row = await all_seeing.fetchrow("SELECT * FROM providers.user_providers WHERE id = $1", key.binding.key_id)
        dek = await envelopes.unwrap(vault, row)
        assert envelopes.unseal(row, dek).reveal_text() == key.api_key
    text = await said(await command(shore, config, "providers-operator", "status"))
    assert f"version {version}: {STOCK} data keys  newest" in text
    text = await said(await command(shore, config, "providers-operator", "retire"), code=1)
    assert "the grace ends at" in text
    actions = await all_seeing.fetch("SELECT action FROM providers.outbox WHERE entity = 'kek:providers-kek'")
    assert sorted(row["action"] for row in actions) == ["providers.kek.rewrap", "providers.kek.rotate"]


async def test_what_does_not_open_is_named_and_the_rest_is_done(shore: Shore, all_seeing: Any, config: Path) -> None:
    stock = await hoards.fill(all_seeing, shore.root, str(uuid.uuid4()), 250)
    moved, revoked = stock[3].binding.key_id, stock[4].binding.key_id
    await all_seeing.execute(
        "UPDATE providers.user_providers SET encrypted_dek ="
        " (SELECT encrypted_dek FROM providers.user_providers WHERE id = $2) WHERE id = $1",
        moved,
        stock[5].binding.key_id,
    )
    await all_seeing.execute(
        "UPDATE providers.user_providers SET state = 'revoked', revoke_time = now(), encrypted_api_key = NULL,"
        " encrypted_dek = NULL WHERE id = $1",
        revoked,
    )
    db, operator = shore.runtimes["providers"].db, vault_of(shore, "providers-operator")
    await operator.write(f"transit/keys/{KEK}/rotate")
    told: list[int] = []
    report = await rewraps.run(db, vault_of(shore, "providers-rewrapper"), lambda now: told.append(now.seen))
    assert (report.total, report.stored, report.failed) == (249, 248, [moved])
    assert (told[0], told[-1]) == (0, 249)
    text = await said(await command(shore, config, "providers-rewrapper", "rewrap"), code=1)
    assert "0 data keys are now wrapped" in text
    assert f"have these keys revoked: {moved}" in text
    with pytest.raises(keks.TooEarly, match="1 data keys"):
        await keks.retire(db, operator, by="a test", destroy=False)


async def test_a_wrapping_that_changed_meanwhile_is_left_alone(shore: Shore, all_seeing: Any) -> None:
    (key,) = await hoards.fill(all_seeing, shore.root, str(uuid.uuid4()), 1)
    async with shore.runtimes["providers"].db.begin(tenant=key.binding.tenant_id) as tx:
        before = await tx.connection.fetchval("SELECT encrypted_dek FROM user_providers")
        stored = await tx.connection.fetchval(
            "SELECT store_wrappings($1::uuid[], $2::text[], $3::text[])",
            [key.binding.key_id],
            ["vault:v1:another"],
            ["vault:v9:newest"],
        )
        assert stored == 0
        assert await tx.connection.fetchval("SELECT encrypted_dek FROM user_providers") == before


_SCANS = "SELECT pg_stat_get_xact_numscans($1)"
"""How often a table was read as a whole."""


async def test_a_page_is_stored_by_its_keys_without_reading_the_others(shore: Shore, all_seeing: Any) -> None:
    stock = await hoards.fill(all_seeing, shore.root, str(uuid.uuid4()), 500)
    rows = await all_seeing.fetch("SELECT id, encrypted_dek FROM providers.user_providers ORDER BY id LIMIT 250")
    table = await all_seeing.fetchval("SELECT 'providers.user_providers'::regclass::oid")
    async with shore.runtimes["providers"].db.begin(tenant=stock[0].binding.tenant_id) as tx:
        before = await tx.connection.fetchval(_SCANS, table)  # what this session has not reported yet counts as well
        stored = await tx.connection.fetchval(
            "SELECT store_wrappings($1::uuid[], $2::text[], $3::text[])",
            [row["id"] for row in rows],
            [row["encrypted_dek"] for row in rows],
            [f"vault:v9:{row['id']}" for row in rows],
        )
        assert stored == 250
        assert await tx.connection.fetchval(_SCANS, table) == before
    assert await newer(all_seeing, 9) == 250


async def test_old_versions_go_when_nothing_needs_them_and_not_before(shore: Shore, all_seeing: Any) -> None:
    (key,) = await hoards.fill(all_seeing, shore.root, str(uuid.uuid4()), 1)
    old = await all_seeing.fetchval("SELECT encrypted_dek FROM providers.user_providers")
    db, operator = shore.runtimes["providers"].db, vault_of(shore, "providers-operator")
    rotated = await keks.rotate(db, operator, by="a test")
    assert rotated.older == 1
    await rewraps.run(db, vault_of(shore, "providers-rewrapper"))
    with pytest.raises(keks.TooEarly, match="grace"):
        await keks.retire(db, operator, by="a test", destroy=False)
    retired = await keks.retire(db, operator, by="a test", destroy=True, grace=timedelta(0))
    assert retired.oldest_accepted == retired.oldest_kept == rotated.newest
    row = await all_seeing.fetchrow("SELECT * FROM providers.user_providers")
    vault = vault_of(shore, "providers")
    assert envelopes.unseal(row, await envelopes.unwrap(vault, row)).reveal_text() == key.api_key
    with pytest.raises(VaultRefused):  # what a backup still holds opens nothing
        await vault.write(f"transit/decrypt/{KEK}", ciphertext=old, context=key.binding.context)


async def test_settings_and_identities_that_cannot_be_read_are_said_in_a_line(
    shore: Shore, config: Path, tmp_path: Path
) -> None:
    text = await said(await command(shore, tmp_path / "none.toml", "providers-operator", "status"), code=2)
    assert "does not exist" in text
    text = await said(await command(shore, config, "providers", "rotate-kek"), code=1)
    assert "OpenBao refused post transit/keys/providers-kek/rotate" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("keys", "hours_since_created", "hours_since_rewrap", "problem"),
    [
        ({2: 5}, 25, 25, ""),
        ({2: 5}, 25, None, ""),
        ({}, 25, None, ""),
        ({1: 1, 2: 5}, 1000, 1000, "1 data keys"),
        ({2: 5}, 23, None, "grace"),
        ({2: 5}, 25, 23, "grace"),
    ],
)
def test_an_old_version_may_go_a_day_after_the_last_that_needed_it(
    keys: dict[int, int], hours_since_created: int, hours_since_rewrap: int | None, problem: str
) -> None:
    last = None if hours_since_rewrap is None else NOW - timedelta(hours=hours_since_rewrap)
    standing = Standing(2, NOW - timedelta(hours=hours_since_created), 1, 0, keys, last)
    found = standing.retirable(NOW)
    assert problem in found
    assert bool(problem) == bool(found)


@pytest.mark.parametrize(
    ("identity", "path", "data"),
    [
        ("providers", f"transit/rewrap/{KEK}", {"ciphertext": "vault:v1:x"}),
        ("providers", f"transit/keys/{KEK}/rotate", {}),
        ("providers", f"transit/keys/{KEK}/config", {"min_decryption_version": 1}),
        ("providers", f"transit/encrypt/{KEK}", {"plaintext": "YQ=="}),
        ("providers-rewrapper", f"transit/decrypt/{KEK}", {"ciphertext": "vault:v1:x"}),
        ("providers-rewrapper", f"transit/keys/{KEK}/rotate", {}),
        ("providers-rewrapper", f"transit/datakey/plaintext/{KEK}", {"bits": 256}),
        ("providers-operator", f"transit/decrypt/{KEK}", {"ciphertext": "vault:v1:x"}),
        ("providers-operator", f"transit/rewrap/{KEK}", {"ciphertext": "vault:v1:x"}),
        ("providers-operator", f"transit/datakey/plaintext/{KEK}", {"bits": 256}),
        ("providers-operator", f"transit/keys/{KEK}/config", {"exportable": True}),
        ("providers-operator", f"transit/keys/{KEK}/config", {"deletion_allowed": True}),
        ("providers-operator", f"transit/export/encryption-key/{KEK}", {}),
    ],
)
async def test_each_identity_may_do_its_own_and_nothing_else(
    island: Island, identity: str, path: str, data: dict[str, Any]
) -> None:
    vault = vault_of(island, identity)
    with pytest.raises(VaultRefused) as caught:
        await (vault.write(path, **data) if "export" not in path else vault.read(path))
    assert type(caught.value.__cause__).__name__ == "Forbidden"
    vault.close()


@pytest.mark.parametrize("name", ["wrappings_below", "store_wrappings", "wrapping_standing", "tenants_with_due_keys"])
async def test_no_role_but_the_services_own_calls_its_functions(all_seeing: Any, name: str) -> None:
    grantees = await all_seeing.fetchval(
        "SELECT array_agg(acl.grantee::regrole::text ORDER BY acl.grantee::regrole::text)"
        " FROM pg_proc p, aclexplode(p.proacl) acl WHERE p.proname = $1",
        name,
    )
    assert grantees == ["triptych_providers_app", "triptych_providers_owner"]
