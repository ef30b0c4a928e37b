"""What vouches for a month that leaves the log: without it the database lets nothing go, and a forged one is missed."""

import uuid

import asyncpg
import pytest

from services.audit import verifier
from services.kit.access import SYSTEM_TENANT
from tests.audit.months import KEEPER, Past
from triptych.audit.v1 import audit_service_pb2 as pb

DENIED = asyncpg.InsufficientPrivilegeError


async def test_the_services_role_cannot_retire_anything(then: Past) -> None:
    for statement in (
        "SELECT detach_month('2026-01-01')",
        "SELECT drop_month('2026-01-01')",
        "SELECT logs_of_month('2026-01-01')",
        "DELETE FROM manifests",
        "DELETE FROM archives",
        "INSERT INTO retirements VALUES (now())",
        "UPDATE manifests SET last_leaf = last_leaf",
    ):
        with pytest.raises(DENIED):
            async with then.db.begin(tenant=then.log.tenant_id) as tx:
                await tx.connection.execute(statement)


async def test_the_role_that_retires_reads_and_writes_no_entries(then: Past) -> None:
    for statement in (
        "SELECT * FROM audit_log",
        "DELETE FROM audit_log",
        f"DROP TABLE audit_log_{then.months[0]:%Y_%m}",
        f"SELECT * FROM audit_log_{then.months[0]:%Y_%m}",
        "UPDATE manifests SET state = 'retired'",
        "UPDATE retirements SET state = 'dropped'",
        "SELECT create_partitions(3)",
        "SELECT * FROM openings",
    ):
        with pytest.raises(DENIED):
            async with then.keeper.begin(tenant=then.log.tenant_id) as tx:
                await tx.connection.execute(statement)
    member = "SELECT pg_has_role($1, 'triptych_audits_owner', 'MEMBER')"
    assert not await then.superuser.fetchval(member, KEEPER)


async def test_a_month_that_nothing_vouches_for_is_not_detached(then: Past) -> None:
    month = then.months[0]

    async def attempt(statement: str = "SELECT detach_month($1)") -> None:
        async with then.keeper.begin(tenant=SYSTEM_TENANT) as tx:
            await tx.connection.execute(statement, month)

    with pytest.raises(DENIED, match="nothing vouches"):
        await attempt()
    with pytest.raises(DENIED, match="has not been detached"):
        await attempt("SELECT drop_month($1)")
    held = await then.superuser.fetch("SELECT * FROM audits.logs_of_month($1) ORDER BY 1", month)
    for log in held:
        await then.retirements._manifest(month, log)
    with pytest.raises(DENIED, match="nothing vouches"):
        await attempt()  # no archives yet
    await then.sign()
    await then.retirements._archive(month, str(held[0]["tenant_id"]))
    with pytest.raises(DENIED, match=str(held[1]["tenant_id"])):
        await attempt()  # one log of two
    present = then.months[-1].replace(year=9000)
    with pytest.raises(asyncpg.RaiseError, match="no month that can be retired"):
        async with then.keeper.begin(tenant=SYSTEM_TENANT) as tx:
            await tx.connection.execute("SELECT detach_month($1)", present)


async def test_a_manifest_only_goes_onwards(then: Past) -> None:
    await then.retire(then.months[0])
    tenant_id = uuid.UUID(then.log.tenant_id)
    for statement in (
        "UPDATE audits.manifests SET state = 'manifested' WHERE tenant_id = $1",
        "DELETE FROM audits.manifests WHERE tenant_id = $1",
        "UPDATE audits.archives SET delete_time = now() WHERE tenant_id = $1",
        "DELETE FROM audits.archives WHERE tenant_id = $1",
    ):
        with pytest.raises(DENIED):
            await then.superuser.execute(statement, tenant_id)


async def test_the_detached_month_stays_guarded_until_it_is_dropped(then: Past) -> None:
    month = then.months[0]
    held = await then.superuser.fetch("SELECT * FROM audits.logs_of_month($1)", month)
    for log in held:
        await then.retirements._manifest(month, log)
    await then.sign()
    for log in held:
        await then.retirements._archive(month, str(log["tenant_id"]))
    await then.retirements._until_free("SELECT detach_month($1)", month)
    name = f"audits.audit_log_{month:%Y_%m}"
    for statement in (f"DELETE FROM {name}", f"UPDATE {name} SET entity = 'x'", f"TRUNCATE {name}"):
        with pytest.raises(DENIED, match="only grows"):
            await then.superuser.execute(statement)


async def test_a_partition_that_is_dropped_under_a_forged_manifest_row_is_missed(then: Past) -> None:
    tenant_id = uuid.UUID(then.log.tenant_id)
    await then.log.verify()
    leaf = await then.superuser.fetchval(
        "SELECT leaf FROM audits.audit_log WHERE tenant_id = $1 AND seq = 9", tenant_id
    )
    await then.superuser.execute(f"DROP TABLE audits.audit_log_{then.months[0]:%Y_%m}")
    result = await then.log.verify()
    assert (result.verdict, "entry 0 is missing" in result.finding) == (pb.LOG_VERDICT_TAMPERED, True), result.finding
    await then.superuser.execute(
        "INSERT INTO audits.manifests VALUES ($1, $2, 0, 10, $3, 12, uuidv7(), '{\"projects\": [[1, 10]]}', 'retired')",
        tenant_id,
        then.months[0],
        leaf,
    )
    result = await then.log.verify()
    assert result.verdict == pb.LOG_VERDICT_INCOMPLETE
    assert "no manifest in the log vouches for them" in result.finding
    answer = verifier.verify((await then.log.export()).splitlines(keepends=True))
    assert (answer.verdict, "no manifest vouches" in answer.text) == ("incomplete", True)
