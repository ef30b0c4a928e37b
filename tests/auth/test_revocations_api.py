"""Revocations on their way: from the commit to a refusal in another service, whatever is away."""

import asyncio
import time
import uuid
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from services.auth import broadcasts, revocations
from services.auth.broadcasts import Broadcast
from services.kit import faults
from services.kit.access import SYSTEM_TENANT
from services.kit.server import Runtime
from tests.auth.people import People, Somebody
from tests.patience import SECONDS, eventually, within
from triptych.auth.v1 import auth_service_pb2 as auth_pb, revocation_service_pb2 as pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.revocation_pb2 import Revocation
from triptych.auth.v1.revocation_service_pb2_grpc import RevocationServiceStub
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import project_service_pb2 as project_pb
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub

TRIES = 5


@pytest.fixture
async def projects(people: People) -> Runtime:
    await people.suite.start("projects")
    return await following(people.suite.runtimes["projects"])


async def following(runtime: Runtime) -> Runtime:
    async def fresh() -> bool:
        return runtime.follower.age < 2

    await eventually(fresh)
    return runtime


def channel(runtime: Runtime, token: str) -> Any:
    """Call ListProjects of a server with a token, and say whether it was refused."""

    async def refused() -> bool:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{runtime.plaintext_port}") as connection:
            try:
                metadata, request = (("authorization", f"Bearer {token}"),), project_pb.ListProjectsRequest()
                await ProjectServiceStub(connection).ListProjects(request, metadata=metadata, timeout=SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    raise
                return True
        return False

    return refused


async def test_a_token_is_refused_by_another_service_after_the_logout(projects: Runtime, admin: Somebody) -> None:
    refused = channel(projects, admin.login.tokens.access_token)
    assert not await refused()
    await admin.stub(AuthServiceStub).Logout(auth_pb.LogoutRequest())
    await eventually(refused)


async def test_a_revoked_session_is_refused_elsewhere_within_a_second(people: People, projects: Runtime) -> None:
    """The promise of the contract; a machine that is busy with others may need more than one try to show it."""
    taken = []
    for _ in range(TRIES):
        somebody = await people.admin()
        refused = channel(projects, somebody.login.tokens.access_token)
        assert not await refused()
        await somebody.stub(AuthServiceStub).Logout(auth_pb.LogoutRequest())
        began = time.monotonic()
        await eventually(refused)
        taken.append(time.monotonic() - began)
        if taken[-1] < 1:
            return
    raise AssertionError(f"seconds it took: {taken}")


async def test_zitadel_9331_a_refresh_does_not_end_the_access_token_before_it(
    people: People, projects: Runtime, admin: Somebody
) -> None:
    refused = channel(projects, admin.login.tokens.access_token)
    await people.auth.Refresh(auth_pb.RefreshRequest(refresh_token=admin.login.tokens.refresh_token))
    other = await people.admin()
    await other.stub(AuthServiceStub).Logout(auth_pb.LogoutRequest())
    await eventually(channel(projects, other.login.tokens.access_token))
    assert not await refused()


@pytest.mark.parametrize("target", ["subject", "tenant"])
async def test_older_versions_and_whole_tenants_are_refused(
    people: People, projects: Runtime, admin: Somebody, target: str
) -> None:
    refused = channel(projects, admin.login.tokens.access_token)
    assert not await refused()
    runtime = people.suite.runtimes["auth"]
    async with runtime.db.begin(tenant=admin.tenant_id) as tx:
        if target == "subject":
            await revocations.of_subject(tx, admin.id, 2)
        else:
            await revocations.of_tenant(tx, admin.tenant_id)
    await eventually(refused)


async def test_an_agents_token_ends_with_its_credential_or_version(people: People, projects: Runtime) -> None:
    issuer = people.suite.issuer
    for revoke in ("credential", "version"):
        agent, credential, tenant = (str(uuid.uuid4()) for _ in range(3))
        token = issuer.token(
            {
                "sub": agent,
                "sid": credential,
                "tid": tenant,
                "kind": "agent",
                "role": int(Role.ROLE_UNSPECIFIED),
                "scope": "projects.list",
                "ver": 4,
            }
        )
        caller = await projects.verifier.verify(token)
        assert (caller.kind, caller.id, caller.session_id, caller.version) == ("agent", agent, credential, 4)
        async with people.suite.runtimes["auth"].db.begin(tenant=tenant) as tx:
            if revoke == "credential":
                await revocations.of_session(tx, credential)
            else:
                await revocations.of_subject(tx, agent, 5)
        await eventually(channel(projects, token))


async def test_a_second_auth_process_hears_of_it(people: People, admin: Somebody) -> None:
    second = await following(await people.suite.launch("auth"))
    try:
        caller = await second.verifier.verify(admin.login.tokens.access_token)
        await admin.stub(AuthServiceStub).Logout(auth_pb.LogoutRequest())

        async def refused() -> bool:
            return second.verifier.revocations.hit(caller)

        await eventually(refused)
    finally:
        await second.stop()


async def test_a_service_that_starts_later_knows_what_was_revoked_before(people: People, admin: Somebody) -> None:
    await admin.stub(AuthServiceStub).Logout(auth_pb.LogoutRequest())
    auth = people.suite.runtimes["auth"]
    late = await people.suite.launch("projects", neighbours={"auth": f"dns:///127.0.0.1:{auth.port}"})
    try:
        await following(late)  # it waits for that by itself, but on a slow machine not for as long as it takes
        assert await channel(late, admin.login.tokens.access_token)()
    finally:
        await late.stop()


async def test_while_auth_is_away_tokens_count_until_their_own_end(people: People, admin: Somebody) -> None:
    second = await people.suite.launch("auth")
    projects = await people.suite.launch("projects", neighbours={"auth": f"dns:///127.0.0.1:{second.port}"})
    refused = channel(projects, admin.login.tokens.access_token)
    try:
        assert not await refused()
        await second.stop()

        async def noticed() -> bool:
            return projects.follower.age > 1

        await eventually(noticed)
        assert not await refused()
    finally:
        await projects.stop()


async def insert(connection: Any, session_id: str) -> None:
    await connection.execute(
        "INSERT INTO revocations (session_id, forget_time) VALUES ($1, now() + interval '10 minutes')", session_id
    )


def away() -> Redis:
    """A Valkey that is not there."""
    return Redis(host="127.0.0.1", port=1, socket_connect_timeout=0.1)


async def told(broadcast: Broadcast) -> list[Revocation]:
    """What a new reader is told until it has caught up."""
    found: list[Revocation] = []
    async for message in broadcast.read():
        found += message.revocations
        if message.caught_up:
            return found
    raise AssertionError("it ended before")


async def test_what_commits_out_of_order_is_not_passed_over(people: People) -> None:
    broadcast = Broadcast(db=people.suite.runtimes["auth"].db, valkey=away())
    first, second, third = (str(uuid.uuid4()) for _ in range(3))
    async with people.database() as early, people.database() as late:
        slow = early.transaction()
        await slow.start()
        await insert(early, first)
        await insert(late, second)
        await broadcast.load()
        assert {first, second} & {one.session_id for one in await told(broadcast)} == {second}
        await insert(late, third)
        await broadcast.load()
        await slow.commit()
    await broadcast.load()
    found = await told(broadcast)
    assert {first, second, third} <= {one.session_id for one in found}
    assert len(found) == len({one.id for one in found})


async def test_what_was_rolled_back_is_never_told(people: People) -> None:
    auth = people.suite.runtimes["auth"]
    broadcast = Broadcast(db=auth.db, valkey=away())
    undone = str(uuid.uuid4())

    async def fail() -> None:
        async with auth.db.begin(tenant=SYSTEM_TENANT) as tx:
            await revocations.of_session(tx, undone)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await broadcast.load()
    assert undone not in {one.session_id for one in await told(broadcast)}


async def test_without_valkey_postgres_is_looked_at(people: People) -> None:
    broadcast = Broadcast(db=people.suite.runtimes["auth"].db, valkey=away())
    work = [asyncio.create_task(each()) for each in (broadcast.look, broadcast.tell, broadcast.hear)]
    broadcast.wake()
    session_id = str(uuid.uuid4())
    async with people.database() as database:
        await insert(database, session_id)

    async def heard() -> bool:
        return session_id in {one.session_id for one in await told(broadcast)}

    await eventually(heard)
    for task in work:
        task.cancel()
    assert {type(result) for result in await asyncio.gather(*work, return_exceptions=True)} == {asyncio.CancelledError}


async def test_a_thousand_at_a_time_and_all_of_them(people: People) -> None:
    broadcast = Broadcast(db=people.suite.runtimes["auth"].db, valkey=away())
    async with people.database() as database:
        await database.execute(
            "INSERT INTO revocations (session_id, forget_time)"
            " SELECT gen_random_uuid(), now() + interval '10 minutes' FROM generate_series(1, 2500)"
        )
        await broadcast.load()
        live = await database.fetchval("SELECT count(*) FROM revocations WHERE forget_time > now()")
    sizes = []
    async for message in broadcast.read():
        sizes.append(len(message.revocations))
        if message.caught_up:
            break
    assert sizes[:2] == [1000, 1000]
    assert sum(sizes) == live
    async with people.database() as database:
        await database.execute("UPDATE revocations SET forget_time = now() - interval '1 second'")
    fresh = Broadcast(db=people.suite.runtimes["auth"].db, valkey=away())
    await fresh.load()
    assert await told(fresh) == []


async def test_a_stream_beats_and_ends_by_itself(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcasts, "HEARTBEAT_SECONDS", 0.05)
    broadcast = Broadcast(db=people.suite.runtimes["auth"].db, valkey=away())
    await broadcast.load()
    stream = broadcast.read(SECONDS)
    messages = [await within(anext(stream)) for _ in range(4)]
    await stream.aclose()
    assert not any(message.revocations for message in messages[1:])
    assert [message async for message in broadcast.read(0.1)]  # and then it is over


async def test_only_services_may_watch(people: People, admin: Somebody) -> None:
    for stub in (admin.stub(RevocationServiceStub), people.suite.anonymous(RevocationServiceStub)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.WatchRevocations(pb.WatchRevocationsRequest()):
                pass
        fault = faults.from_error(caught.value, service="auth")
        assert fault.reason in {"CALLER_NOT_PERMITTED", "TOKEN_INVALID"}


async def test_a_server_that_drains_ends_its_streams(people: People, admin: Somebody) -> None:
    second = await people.suite.launch("auth", drain_seconds=2 * SECONDS)
    projects = await people.suite.launch("projects", neighbours={"auth": f"dns:///127.0.0.1:{second.port}"})
    await following(projects)
    await within(second.stop())
    await projects.stop()
