"""PostgreSQL: one transaction per RPC, tenant and time limit set in the round trip that begins it.

Tables and statements are SQLAlchemy Core, compiled once; asyncpg runs them. (SQLAlchemy's own execution costs about
half of the rate that asyncpg reaches here; see docs/ARCHITECTURE.md.) A violated constraint becomes the fault that the
context declared for its name; a lost server becomes DEPENDENCY_UNAVAILABLE.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import asyncpg
import orjson
import structlog
from sqlalchemy.dialects.postgresql import asyncpg as dialects
from sqlalchemy.sql import ClauseElement, bindparam
from sqlalchemy.sql.elements import BindParameter

from services.kit import calls, faults
from services.kit.settings import Settings

ACQUIRE_SECONDS = 1.0
LONGEST_STATEMENT = 30.0
"""Seconds for background work, which has no deadline of its own."""
_dialect = dialects.dialect()  # type: ignore[no-untyped-call]
_log = structlog.get_logger()
Row = asyncpg.Record
Connection: TypeAlias = "asyncpg.Connection[Row]"
Pool: TypeAlias = "asyncpg.Pool[Row]"
Constraints = Mapping[str, Callable[[], faults.Fault]]
"""Name of a constraint and the fault that its violation means."""


class Statement:
    """A Core statement, compiled: text for asyncpg and the names of its parameters in order."""

    __slots__ = ("_constants", "_names", "text")

    def __init__(self, clause: ClauseElement) -> None:
        compiled = clause.compile(dialect=_dialect, compile_kwargs={"render_postcompile": True})
        self.text = str(compiled)
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())  # type: ignore[attr-defined]
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Put values in the order of the text; what is not given is a constant of the statement, or NULL."""
        if unknown := values.keys() - set(self._names):
            raise TypeError(f"the statement has no parameter {', '.join(sorted(unknown))}")
        return [values[name] if name in values else self._constants.get(name) for name in self._names]


def param(name: str, type_: Any = None) -> BindParameter[Any]:
    """A named parameter of a statement."""
    return bindparam(name, type_=type_)


def params(names: str) -> dict[str, BindParameter[Any]]:
    """Parameters named as their columns, for `insert(table).values(**params("id name"))`."""
    return {name: bindparam(name) for name in names.split()}


class Transaction:
    """A transaction in progress. It commits at the end of `Database.begin()`, never before."""

    __slots__ = ("_committed", "connection", "database", "tenant_id")

    def __init__(self, connection: Connection, tenant_id: str, database: "Database") -> None:
        self.connection = connection
        """For COPY and the like."""
        self.tenant_id = tenant_id
        self.database = database
        self._committed: list[Callable[[], None]] = []

    async def one(self, statement: Statement | ClauseElement, **values: Any) -> Row | None:
        """Give the first row, or None."""
        compiled = _compiled(statement)
        return await self.connection.fetchrow(compiled.text, *compiled.arguments(values))

    async def only(self, statement: Statement | ClauseElement, **values: Any) -> Row:
        """Give the one row of a statement that cannot come back without one, such as an INSERT … RETURNING."""
        row = await self.one(statement, **values)
        if row is None:
            raise RuntimeError("a statement that must give a row gave none")
        return row

    async def all(self, statement: Statement | ClauseElement, **values: Any) -> list[Row]:
        """Give all rows."""
        compiled = _compiled(statement)
        return await self.connection.fetch(compiled.text, *compiled.arguments(values))

    async def run(self, statement: Statement | ClauseElement, **values: Any) -> int:
        """Run it and give the number of rows that it touched."""
        compiled = _compiled(statement)
        status = await self.connection.execute(compiled.text, *compiled.arguments(values))
        return int(status.rpartition(" ")[2])

    async def many(self, statement: Statement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it once for each of many rows, in one round trip."""
        await self.connection.executemany(statement.text, [statement.arguments(row) for row in rows])

    def on_commit(self, act: Callable[[], None]) -> None:
        """Do this once the transaction has been committed, and not otherwise."""
        self._committed.append(act)

    def committed(self) -> None:
        """Run what waited for the commit."""
        for act in self._committed:
            act()


def _compiled(statement: Statement | ClauseElement) -> Statement:
    return statement if isinstance(statement, Statement) else Statement(statement)


class _Connection(asyncpg.Connection):
    """A pooled connection that costs no round trip to give back: all settings here are local to a transaction."""

    def get_reset_query(self) -> str:
        return ""


class Database:
    """The pool of one service's role."""

    def __init__(self, pool: Pool, constraints: Constraints, wake: Callable[[], None], request_key: bytes) -> None:
        self.pool = pool
        self.wake = wake
        """Tells the outbox relay that something was committed."""
        self.request_key = request_key
        """Key of digests of what may be secret or personal, as request bodies are: it keeps others from guessing."""
        self._constraints = constraints
        self._listeners: dict[str, Callable[[], None]] = {}

    def listen(self, topic: str, listener: Callable[[], None]) -> None:
        """Have somebody told of what `tell` says of a topic."""
        self._listeners[topic] = listener

    def tell(self, topic: str) -> None:
        """Say that something of a topic was committed: for `Transaction.on_commit`."""
        if (listener := self._listeners.get(topic)) is not None:
            listener()

    @classmethod
    async def connect(
        cls,
        settings: Settings,
        *,
        constraints: Constraints | None = None,
        wake: Callable[[], None] = lambda: None,
        request_key: bytes = b"",
        user: str | None = None,
        password: str | None = None,
        size: int | None = None,
    ) -> "Database":
        """Open a pool; constraints maps the names of constraints to the faults that their violation means."""
        pool = await asyncpg.create_pool(
            settings.database_url,
            user=user,
            password=password or settings.secret(settings.database_password_file),
            min_size=1,
            max_size=size or settings.database_pool_size,
            max_inactive_connection_lifetime=300,
            timeout=5,
            connection_class=_Connection,
            init=_prepare,
            server_settings={"application_name": settings.service, "timezone": "UTC"},
        )
        return cls(pool, constraints or {}, wake, request_key)

    @asynccontextmanager
    async def begin(self, *, tenant: str | None = None) -> AsyncIterator[Transaction]:
        """Begin a transaction of the caller's tenant; background work names the tenant itself."""
        tenant_id = calls.caller().tenant_id if tenant is None else tenant
        connection = await self._acquire()
        try:
            with _translated(self._constraints):
                transaction = Transaction(connection, tenant_id, self)
                try:
                    await connection.execute(_begin_sql(tenant_id))
                    yield transaction
                    if await connection.execute("COMMIT") != "COMMIT":
                        raise RuntimeError("a failed statement was passed over: it was rolled back")  # noqa: TRY301
                except BaseException:
                    await _roll_back(connection)
                    raise
        finally:
            await self.pool.release(connection)
        transaction.committed()

    async def alive(self) -> bool:
        """Say whether the server answers."""
        try:
            async with asyncio.timeout(2.0):
                await self.pool.fetchval("SELECT 1")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    async def close(self) -> None:
        """Close the pool; what is still running gets a moment."""
        try:
            async with asyncio.timeout(3.0):
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()

    async def _acquire(self) -> Any:
        try:
            return await self.pool.acquire(timeout=ACQUIRE_SECONDS)
        except TimeoutError:
            raise faults.ServerBusy("all database connections are busy; retry") from None
        except (
            OSError,
            asyncpg.PostgresConnectionError,
            asyncpg.CannotConnectNowError,
            asyncpg.InterfaceError,
        ) as error:
            raise _lost(error) from None


async def _prepare(connection: Connection) -> None:
    """JSON columns are Python values."""
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name,
            schema="pg_catalog",
            encoder=lambda value: orjson.dumps(value).decode(),
            decoder=orjson.loads,
        )


def _begin_sql(tenant_id: str) -> str:
    """Begin, tenant and statement timeout in one message. The tenant was checked to be a UUID where it came in."""
    if tenant_id and not calls.UUID.fullmatch(tenant_id):
        raise ValueError("a tenant is a UUID")
    call = calls.current()
    seconds = LONGEST_STATEMENT if call is None else max(call.expires - asyncio.get_running_loop().time(), 0.01)
    return (
        "BEGIN; SELECT set_config('app.tenant', '" + tenant_id + "', true),"
        f" set_config('statement_timeout', '{int(seconds * 1000)}', true)"
    )


async def _roll_back(connection: Any) -> None:
    try:
        if not connection.is_closed():
            await asyncio.shield(connection.execute("ROLLBACK"))
    except BaseException as error:
        # Its server is gone, or we are cancelled once more: what it would do is not known. One that is lost the pool
        # may have taken back; if that were raised, nobody would know any more that they were cancelled.
        with suppress(asyncpg.InterfaceError):
            connection.terminate()
        gone = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
        if not isinstance(error, gone):
            raise


class _translated:  # noqa: N801 - reads as the verb it is
    """Turns what PostgreSQL says into faults."""

    def __init__(self, constraints: Constraints) -> None:
        self._constraints = constraints

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, asyncpg.IntegrityConstraintViolationError):
            if (make := self._constraints.get(error.constraint_name or "")) is not None:
                raise make() from error
        elif isinstance(error, (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)):
            raise faults.RequestInvalid("strings must not contain the character U+0000") from error
        elif isinstance(error, asyncpg.QueryCanceledError):
            raise faults.DeadlineTooShort("the work did not end in time; repeat with the same request_id") from error
        elif isinstance(
            error, (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)
        ):
            raise faults.DependencyUnavailable(
                "the change collided with another; retry", dependency="postgres"
            ) from error
        elif isinstance(
            error,
            (
                asyncpg.PostgresConnectionError,
                asyncpg.OperatorInterventionError,
                asyncpg.InsufficientResourcesError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,  # a server that died within a message leaves asyncpg between two states
                ConnectionError,
            ),
        ):
            raise _lost(error) from error


def _lost(error: BaseException) -> faults.DependencyUnavailable:
    _log.warning("postgres unavailable", error=type(error).__name__)
    return faults.DependencyUnavailable("the database does not answer; retry", dependency="postgres")
