"""Months that are over, in a database of their own, for the tests of retention."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from services.audit import classes
from services.audit.retirements import NotCovered, Retirements
from services.audit.settings import AuditSettings
from services.audit.signers import Signer
from services.cli.stack.backends import Backends
from services.kit import clock
from services.kit.db import Database
from tests.audit.events import Log, log_of, processes
from tests.conftest import copy_database
from tests.suite import Suite, superuser_of
from triptych.common.v1.role_pb2 import Role

KEEPER = "triptych_audits_relay"
OPEN = """
    CREATE TABLE audits.{name} (LIKE audits.audit_log INCLUDING ALL EXCLUDING INDEXES);
    CREATE TRIGGER no_truncation BEFORE TRUNCATE ON audits.{name} FOR EACH STATEMENT EXECUTE FUNCTION audits.refuse();
    ALTER TABLE audits.{name} ENABLE ALWAYS TRIGGER no_truncation;
    ALTER TABLE audits.{name} ENABLE ROW LEVEL SECURITY;
    ALTER TABLE audits.{name} FORCE ROW LEVEL SECURITY;
    ALTER TABLE audits.audit_log ATTACH PARTITION audits.{name} FOR VALUES FROM ('{begin}') TO ('{end}');
"""


@dataclass
class Past:
    """A log that reaches back some months, and what retires them."""

    log: Log
    other: Log
    months: Sequence[date]
    """Those that are over, oldest first."""
    superuser: asyncpg.Connection
    keeper: Database
    folder: Path
    signer: Signer

    @property
    def db(self) -> Database:
        """The database as the service's role has it."""
        return self.log.suite.runtimes["audit"].db

    @property
    def retirements(self) -> Retirements:
        """What retires months; it remembers nothing."""
        return Retirements(
            db=self.db,
            keeper=self.keeper,
            signer=self.signer,
            folder=self.folder,
            days=classes.DAYS,
            witnessed=False,
        )

    async def retire(self, *months: date) -> None:
        """Retire months; the service signs what they need meanwhile."""
        for month in months:
            try:
                await self.retirements.retire(month)
            except NotCovered:
                await self.sign()
                await self.retirements.retire(month)

    async def sign(self) -> None:
        """Have all logs signed."""
        await self.signer.sign_news()


@asynccontextmanager
async def past(
    suite: Suite, backends: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, months: int = 2
) -> AsyncIterator[Past]:
    """Two logs with ten events a month, up to now."""
    database = f"{suite.database}_{tmp_path.name}"[:60].lower().replace("-", "_")
    copy_database(backends, database)
    async with superuser_of(backends, database) as superuser:
        await superuser.execute("SET event_triggers = off")
        over = months_before(datetime.now(UTC).date(), months)
        for month in over:
            await open_month(superuser, month)
        await superuser.execute("SELECT triptych_guards.note('months of before', false)")
        async with processes(suite, tmp_path / "processes", "audit", database=database) as own:
            runtime = own.runtimes["audit"]
            assert isinstance(runtime.settings, AuditSettings)
            log = await log_of(own, own.person(Role.ROLE_ADMIN))
            other = await log_of(own, own.person(Role.ROLE_ADMIN))
            for month in over:
                with monkeypatch.context() as patch:
                    moment = datetime(month.year, month.month, 10, tzinfo=UTC)
                    patch.setattr(clock, "now", lambda moment=moment: moment)
                    await fill(log)
                    await other.grow(3)
            await fill(log)
            await other.grow(3)
            password = backends.password(KEEPER)
            keeper = await Database.connect(runtime.settings, user=KEEPER, password=password, size=1)
            signer = Signer(db=runtime.db, vault=runtime.vault, origin=runtime.settings.origin, seconds=1.0)
            try:
                yield Past(log, other, over, superuser, keeper, tmp_path / "archives", signer)
            finally:
                await keeper.close()


async def public_key(then: Past) -> bytes:
    """Give the key that signs the logs."""
    return next(iter((await then.signer.keys()).values()))


def files(then: Past) -> list[Path]:
    """Give what is in the folder of the archives."""
    return sorted(path for path in then.folder.rglob("*") if path.is_file())


async def fill(log: Log) -> None:
    """Append ten events of the three classes."""
    await log.grow(4, action="auth.session.create")  # the source is another; the class follows from the action
    await log.grow(3, action="projects.project.create")
    await log.grow(3, action="projects.policy.update")


async def open_month(superuser: asyncpg.Connection, month: date) -> None:
    """Make the partition of a month that is over, as the service made it when the month was still ahead."""
    end = (month + timedelta(days=32)).replace(day=1)
    await superuser.execute("SET ROLE triptych_audits_owner; SET timezone = 'UTC'")
    await superuser.execute(OPEN.format(name=f"audit_log_{month:%Y_%m}", begin=month, end=end))
    await superuser.execute("RESET ROLE")


def months_before(today: date, count: int) -> list[date]:
    """Give the months that ended last, oldest first."""
    found: list[date] = []
    month = today.replace(day=1)
    for _ in range(count):
        month = (month - timedelta(days=1)).replace(day=1)
        found.append(month)
    return found[::-1]
