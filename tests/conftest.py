"""One set of servers for the whole session, one database for each worker, real gRPC servers on port 0."""

import asyncio
import io
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from services.cli.stack.backends import Backends
from services.cli.stack.postgres import Postgres
from services.kit import migrations
from tests.patience import within
from tests.suite import Suite, superuser_of

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("patient")  # how quick the machine is decides nothing
TEMPLATE = "triptych_template"
HOME = pytest.StashKey[Path]()
BACKENDS = pytest.StashKey[Backends]()
LOOP = pytest.StashKey[asyncio.AbstractEventLoop]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the servers, in the process that controls the session; workers are told where they are."""
    config = session.config
    if hasattr(config, "workerinput"):
        return
    home = Path(tempfile.mkdtemp(prefix="triptych-tests-"))
    home.chmod(0o755)  # the database's own user must pass
    config.stash[HOME] = home
    backends = Backends(home / "stack", durable=False)
    backends.start()
    config.stash[BACKENDS] = backends
    backends.create_database(TEMPLATE)
    asyncio.run(_migrate(backends, TEMPLATE))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the servers and remove their folder."""
    if (backends := session.config.stash.get(BACKENDS, None)) is not None:
        backends.stop()
        shutil.rmtree(session.config.stash[HOME], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Tell a worker of pytest-xdist where the servers are."""
    node.workerinput["home"] = str(node.config.stash[HOME])  # type: ignore[attr-defined]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show where everything stands when a test took too long: its traceback says only that the loop waits."""
    report = yield
    loop = item.config.stash.get(LOOP, None)
    if loop is not None and call.excinfo is not None and "pytest-timeout" in str(call.excinfo.value):
        text = io.StringIO()
        for task in asyncio.all_tasks(loop):
            task.print_stack(file=text)
        report.sections.append(("What waits", text.getvalue()))
    return report


@pytest.fixture(scope="session", autouse=True)
async def loop(request: pytest.FixtureRequest) -> None:
    """Note the loop of the session."""
    request.config.stash[LOOP] = asyncio.get_running_loop()


@pytest.fixture(scope="session")
def backends(request: pytest.FixtureRequest) -> Backends:
    """The servers of the session."""
    config = request.config
    if hasattr(config, "workerinput"):
        return attach(Path(config.workerinput["home"]) / "stack")
    return config.stash[BACKENDS]


@pytest.fixture(scope="session")
def database(backends: Backends, request: pytest.FixtureRequest) -> str:
    """A migrated database of this worker's own."""
    worker = getattr(request.config, "workerinput", {}).get("workerid", "single")
    name = f"triptych_{worker}"
    copy_database(backends, name)
    return name


@pytest.fixture(scope="session")
async def services(backends: Backends, database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    """The services of this worker."""
    running = Suite(backends, database, tmp_path_factory.mktemp("data"))
    yield running
    await running.stop()


@pytest.fixture
async def superuser(suite: Suite) -> AsyncIterator[asyncpg.Connection]:
    """A connection that sees everything."""
    async with superuser_of(suite.backends, suite.database) as connection:
        yield connection


@pytest.fixture
async def suite(services: Suite) -> AsyncIterator[Suite]:
    """The services of this worker: a test starts those that it needs, and whatever else it began ends with it."""
    yield services
    await services.tidy()


def attach(home: Path) -> Backends:
    """Give servers that another process started."""
    backends = Backends(home)
    backends.ports = backends.home.recall("ports.json")
    backends.postgres = Postgres(backends.home, backends.ports["postgres"], durable=False)
    return backends


def copy_database(backends: Backends, name: str) -> None:
    """Make a database of the migrated template; its privileges are not part of the copy and are given anew."""

    async def copy() -> None:
        async with superuser_of(backends) as connection:
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, within(copy())).result()
    backends.create_database(name)


async def _migrate(backends: Backends, name: str) -> None:
    for service in backends.topology.services:
        await migrations.upgrade(
            module=service.module,
            schema=service.schema,
            owner=f"triptych_{service.schema}_owner",
            url=backends.migrator_url(name),
            password=backends.password("triptych_migrator"),
        )
