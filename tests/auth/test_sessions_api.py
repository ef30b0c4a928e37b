"""SessionService, SwitchTenant and SecurityEventService over the wire."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.auth import purges
from services.kit import faults
from tests.auth.people import People, Somebody
from tests.auth.test_session_api import age, ended, refresh, refused
from triptych.auth.v1 import (
    auth_service_pb2 as auth_pb,
    security_event_service_pb2 as event_pb,
    session_service_pb2 as pb,
)
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.security_event_pb2 import SecurityEventStatus
from triptych.auth.v1.security_event_service_pb2_grpc import SecurityEventServiceStub
from triptych.auth.v1.session_pb2 import Session, SessionEnd
from triptych.auth.v1.session_service_pb2_grpc import SessionServiceStub
from triptych.common.v1.role_pb2 import Role


async def listed(who: Somebody, **fields: Any) -> list[Session]:
    answer = await who.stub(SessionServiceStub).ListSessions(pb.ListSessionsRequest(**fields))
    return list(answer.sessions)


async def session_id(who: Somebody) -> str:
    return next(found.id for found in await listed(who) if found.current)


async def reason(call: Callable[..., Awaitable[Any]], *given: Any) -> str:
    """Give the reason that a call fails with."""
    with pytest.raises(faults.Fault) as caught:
        await call(*given)
    return caught.value.reason


async def test_a_person_sees_their_sessions_newest_first(people: People, somebody: Somebody) -> None:
    second = await people.login(somebody.email)
    found = await listed(second)
    assert [session.current for session in found] == [True, False]
    assert [session.current for session in await listed(somebody)] == [False, True]
    newest = found[0]
    assert (newest.user_id, newest.device_name, newest.ip_address) == (somebody.id, "test", "127.0.0.1")
    assert "grpc" in newest.user_agent
    assert newest.end == SessionEnd.SESSION_END_UNSPECIFIED
    assert not newest.HasField("end_time")
    assert newest.expire_time.seconds - newest.create_time.seconds == 30 * 86_400
    assert newest.idle_expire_time.seconds - newest.create_time.seconds == 14 * 86_400


async def test_lists_have_pages(people: People, somebody: Somebody) -> None:
    newest = somebody
    for _ in range(4):
        newest = await people.login(somebody.email)
    stub = newest.stub(SessionServiceStub)
    request, seen = pb.ListSessionsRequest(page_size=2), []
    while True:
        answer = await stub.ListSessions(request)
        seen += [session.id for session in answer.sessions]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 5
    for _ in range(3):
        newest_tokens = await refresh(people, newest.login.tokens.refresh_token)
        newest.login.tokens.CopyFrom(newest_tokens)
    activities = pb.ListSessionActivitiesRequest(session_id=seen[0], page_size=3)
    first = await stub.ListSessionActivities(activities)
    assert [found.kind for found in first.activities] == ["refresh"] * 3
    activities.page_token = first.next_page_token
    last = await stub.ListSessionActivities(activities)
    assert [(found.kind, found.session_id) for found in last.activities] == [("login", seen[0])]
    assert last.next_page_token == ""


async def test_how_a_session_ended_is_said(people: People, admin: Somebody, somebody: Somebody) -> None:
    ends = {
        "UPDATE sessions SET idle_expire_time = now()": SessionEnd.SESSION_END_IDLE,
        "UPDATE sessions SET idle_expire_time = now(), expire_time = now()": SessionEnd.SESSION_END_EXPIRED,
        "UPDATE sessions SET session_epoch = session_epoch - 1": SessionEnd.SESSION_END_CREDENTIALS,
        "UPDATE sessions SET revoke_time = now(), revoke_reason = 'removed'": SessionEnd.SESSION_END_REVOKED,
        "UPDATE sessions SET revoke_time = now(), revoke_reason = 'credentials'": SessionEnd.SESSION_END_CREDENTIALS,
    }
    for statement, end in ends.items():
        victim = await session_id(await people.login(somebody.email))
        async with people.database() as database:
            await database.execute(f"{statement} WHERE id = $1", victim)
        found = {session.id: session.end for session in await listed(admin, user_id=somebody.id)}
        assert found[victim] == end
        assert victim not in {session.id for session in await listed(admin, user_id=somebody.id, live_only=True)}
    reused = await people.login(somebody.email)
    await refresh(people, reused.login.tokens.refresh_token)
    await age(people, somebody)
    await refused(people, reused.login.tokens.refresh_token)
    newest = (await listed(admin, user_id=somebody.id))[0]
    assert newest.end == SessionEnd.SESSION_END_REUSE
    assert newest.HasField("end_time")


async def test_a_revoked_session_ends_with_its_tokens_and_others_go_on(people: People, somebody: Somebody) -> None:
    other = await people.login(somebody.email)
    stub = other.stub(SessionServiceStub)
    request = pb.RevokeSessionRequest(session_id=await session_id(somebody), request_id=str(uuid.uuid4()))
    answers = [await stub.RevokeSession(request), await stub.RevokeSession(request)]
    request.request_id = ""
    answers.append(await stub.RevokeSession(request))
    assert {answer.session.end for answer in answers} == {SessionEnd.SESSION_END_REVOKED}
    assert len({answer.session.end_time.ToMicroseconds() for answer in answers}) == 1
    await ended(somebody)
    await refused(people, somebody.login.tokens.refresh_token)
    await refresh(people, other.login.tokens.refresh_token)
    kinds = await stub.ListSessionActivities(pb.ListSessionActivitiesRequest(session_id=request.session_id))
    assert [found.kind for found in kinds.activities] == ["end", "login"]


async def test_an_admin_looks_after_sessions_of_the_tenant(people: People, admin: Somebody, somebody: Somebody) -> None:
    victim = (await listed(admin, user_id=somebody.id))[0]
    assert victim.user_id == somebody.id
    await admin.stub(SessionServiceStub).RevokeSession(pb.RevokeSessionRequest(session_id=victim.id))
    await ended(somebody)


async def test_all_sessions_end_but_the_callers_own(people: People, somebody: Somebody) -> None:
    others = [somebody, await people.login(somebody.email)]
    mine = await people.login(somebody.email)
    stub = mine.stub(SessionServiceStub)
    answer = await stub.RevokeAllSessions(pb.RevokeAllSessionsRequest(keep_current=True))
    assert answer.revoked == 2
    for other in others:
        await ended(other)
        await refused(people, other.login.tokens.refresh_token)
    assert [session.current for session in await listed(mine, live_only=True)] == [True]
    assert (await stub.RevokeAllSessions(pb.RevokeAllSessionsRequest())).revoked == 1
    await ended(mine)


async def test_sessions_of_others_are_not_the_callers(people: People, admin: Somebody, somebody: Somebody) -> None:
    stub = somebody.stub(SessionServiceStub)
    theirs = await session_id(admin)
    for foreign in (theirs, await session_id(await people.admin()), str(uuid.uuid4())):
        assert await reason(stub.RevokeSession, pb.RevokeSessionRequest(session_id=foreign)) == "SESSION_NOT_FOUND"
        activities = pb.ListSessionActivitiesRequest(session_id=foreign)
        assert await reason(stub.ListSessionActivities, activities) == "SESSION_NOT_FOUND"
    list_theirs, end_theirs = pb.ListSessionsRequest(user_id=admin.id), pb.RevokeAllSessionsRequest(user_id=admin.id)
    assert await reason(stub.ListSessions, list_theirs) == "CALLER_NOT_PERMITTED"
    assert await reason(stub.RevokeAllSessions, end_theirs) == "CALLER_NOT_PERMITTED"
    assert (await listed(admin))[0].end == SessionEnd.SESSION_END_UNSPECIFIED


async def test_an_admin_of_another_tenant_finds_nobody(people: People, somebody: Somebody) -> None:
    stranger = await people.admin()
    stub = stranger.stub(SessionServiceStub)
    theirs = await session_id(somebody)
    assert await reason(stub.ListSessions, pb.ListSessionsRequest(user_id=somebody.id)) == "USER_NOT_FOUND"
    revoke_all = pb.RevokeAllSessionsRequest(user_id=somebody.id)
    assert await reason(stub.RevokeAllSessions, revoke_all) == "USER_NOT_FOUND"
    assert await reason(stub.RevokeSession, pb.RevokeSessionRequest(session_id=theirs)) == "SESSION_NOT_FOUND"
    await refresh(people, somebody.login.tokens.refresh_token)


async def belong(people: People, who: Somebody, tenant_id: str, role: str = "viewer") -> None:
    """Make somebody a member of one more tenant."""
    async with people.database() as database:
        await database.execute(
            "INSERT INTO memberships (tenant_id, user_id, role) VALUES ($1, $2, $3)", tenant_id, who.id, role
        )


async def switch(who: Somebody, tenant_id: str) -> auth_pb.SwitchTenantResponse:
    return await who.stub(AuthServiceStub).SwitchTenant(auth_pb.SwitchTenantRequest(tenant_id=tenant_id))


async def test_a_person_switches_to_another_tenant_of_theirs(people: People, somebody: Somebody) -> None:
    other = await people.admin()
    await belong(people, somebody, other.tenant_id)
    answer = await switch(somebody, other.tenant_id)
    assert (answer.user.id, answer.user.role) == (somebody.id, Role.ROLE_VIEWER)
    caller = await people.suite.runtimes["auth"].verifier.verify(answer.tokens.access_token)
    assert (caller.tenant_id, caller.role, caller.id) == (other.tenant_id, Role.ROLE_VIEWER, somebody.id)
    login = auth_pb.LoginResponse(tokens=answer.tokens, tenant_id=other.tenant_id)
    there = (await listed(Somebody(people, somebody.email, login)))[0]
    here = (await listed(somebody))[0]
    assert there.expire_time == here.expire_time
    assert there.id != here.id
    await refresh(people, answer.tokens.refresh_token)
    await refresh(people, somebody.login.tokens.refresh_token)
    async with people.database() as database:
        kinds = await database.fetch("SELECT session_id::text, kind FROM session_activities ORDER BY id")
        told = await database.fetch("SELECT tenant_id::text, payload::text FROM outbox WHERE action LIKE '%switch%'")
    assert (here.id, "switch_tenant") in [tuple(row) for row in kinds]
    assert (there.id, "switch_tenant") in [tuple(row) for row in kinds]
    assert {row["tenant_id"] for row in told} >= {somebody.tenant_id, other.tenant_id}
    assert not any(other.tenant_id in row["payload"] for row in told if row["tenant_id"] == somebody.tenant_id)


async def test_a_tenant_that_one_does_not_belong_to_is_none(people: People, somebody: Somebody) -> None:
    stranger = await people.admin()
    gone = await people.admin()
    left = await people.admin()
    await belong(people, somebody, gone.tenant_id)
    await belong(people, somebody, left.tenant_id)
    async with people.database() as database:
        await database.execute("UPDATE tenants SET delete_time = now() WHERE id = $1", gone.tenant_id)
        await database.execute("UPDATE memberships SET remove_time = now() WHERE tenant_id = $1", left.tenant_id)
    for tenant_id in (stranger.tenant_id, gone.tenant_id, left.tenant_id, str(uuid.uuid4())):
        assert await reason(switch, somebody, tenant_id) == "TENANT_NOT_FOUND"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET disable_time = now() WHERE id = $1",
        "UPDATE users SET session_epoch = session_epoch + 1 WHERE id = $1",
        "UPDATE sessions SET revoke_time = now(), revoke_reason = 'revoked' WHERE user_id = $1",
        "UPDATE sessions SET idle_expire_time = now(), expire_time = now() WHERE user_id = $1",
    ],
)
async def test_a_session_that_has_ended_leads_nowhere(people: People, somebody: Somebody, statement: str) -> None:
    other = await people.admin()
    await belong(people, somebody, other.tenant_id)
    async with people.database() as database:
        await database.execute(statement, somebody.id)
    assert await reason(switch, somebody, other.tenant_id) == "TOKEN_INVALID"
    async with people.database() as database:
        begun = await database.fetchval("SELECT count(*) FROM sessions WHERE tenant_id = $1", other.tenant_id)
    assert begun == 1


async def events(who: Somebody, **fields: Any) -> list[Any]:
    answer = await who.stub(SecurityEventServiceStub).ListSecurityEvents(event_pb.ListSecurityEventsRequest(**fields))
    return list(answer.events)


async def test_security_events_are_listed_and_filtered(people: People, admin: Somebody, somebody: Somebody) -> None:
    with pytest.raises(faults.Unauthenticated):
        await people.login(somebody.email, "not the password of anybody")
    await refresh(people, somebody.login.tokens.refresh_token)
    refused_ones = await events(admin, action="auth.session.refuse")
    assert [(found.user_id, found.status) for found in refused_ones] == [
        (somebody.id, SecurityEventStatus.SECURITY_EVENT_STATUS_FAILURE)
    ]
    assert refused_ones[0].ip_address == "127.0.0.1"
    assert somebody.email not in str(refused_ones[0])
    begun = await events(admin, action="auth.session.*", status=SecurityEventStatus.SECURITY_EVENT_STATUS_SUCCESS)
    assert {found.action for found in begun} == {"auth.session.create"}
    assert {found.user_id for found in begun} == {admin.id, somebody.id}
    now = datetime.now(UTC)
    assert await events(admin, start_time=now + timedelta(minutes=1)) == []
    assert await events(admin, end_time=now - timedelta(minutes=1)) == []
    assert await events(admin, ip_address="192.0.2.1") == []
    assert [found.id for found in await events(admin, user_id=somebody.id)] == [
        found.id for found in await events(admin) if found.user_id == somebody.id
    ]


async def test_security_events_have_pages(people: People, admin: Somebody) -> None:
    for _ in range(3):
        await people.login(admin.email)
    stub = admin.stub(SecurityEventServiceStub)
    request = event_pb.ListSecurityEventsRequest(page_size=2, action="auth.session.create")
    first = await stub.ListSecurityEvents(request)
    request.page_token = first.next_page_token
    second = await stub.ListSecurityEvents(request)
    ids = [found.id for found in (*first.events, *second.events)]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 4


async def test_who_is_no_admin_sees_only_their_own_events(people: People, admin: Somebody, somebody: Somebody) -> None:
    assert {found.user_id for found in await events(somebody)} == {somebody.id}
    theirs = event_pb.ListSecurityEventsRequest(user_id=admin.id)
    stub = somebody.stub(SecurityEventServiceStub)
    assert await reason(stub.ListSecurityEvents, theirs) == "CALLER_NOT_PERMITTED"
    stranger = await people.admin()
    assert {found.user_id for found in await events(stranger)} == {stranger.id}
    assert await events(stranger, user_id=somebody.id) == []


async def test_what_is_old_goes_and_what_is_young_stays(people: People, somebody: Somebody) -> None:
    await refresh(people, somebody.login.tokens.refresh_token)
    victim = await people.login(somebody.email)
    old = await session_id(victim)
    runtime = people.suite.runtimes["auth"]
    async with people.database() as database:
        await database.execute(
            "UPDATE sessions SET revoke_time = now() - interval '31 days', revoke_reason = 'logout' WHERE id = $1", old
        )
        await database.execute(
            "INSERT INTO session_activities (tenant_id, session_id, kind, ip_address, user_agent, create_time)"
            " SELECT tenant_id, id, 'refresh', '', 'old', now() - interval '91 days' FROM sessions WHERE user_id = $1",
            somebody.id,
        )
        await database.execute(
            "INSERT INTO audit_logs (tenant_id, action, resource, status, details, ip_address, user_agent, create_time)"
            " SELECT $1, 'auth.old', 'x:' || n, 'success', '{}', '', '', now() - interval '91 days'"
            " FROM generate_series(1, 25) n",
            somebody.tenant_id,
        )
        await database.execute(
            "INSERT INTO revocations (session_id, forget_time) VALUES ($1, now() - interval '2 minutes')", old
        )
        await database.execute(
            "INSERT INTO devices (user_id, token_hash, expire_time) VALUES ($1, sha256('old'), now())", somebody.id
        )
        before = await database.fetchval("SELECT count(*) FROM audit_logs WHERE action <> 'auth.old'")
        assert await purges.run(runtime.db, most=10) >= 25 + 2 + 1 + 1 + 1
        assert await purges.run(runtime.db, most=10) == 0
        assert await database.fetchval("SELECT count(*) FROM audit_logs WHERE action = 'auth.old'") == 0
        assert await database.fetchval("SELECT count(*) FROM audit_logs") == before
        assert await database.fetchval("SELECT count(*) FROM session_activities WHERE user_agent = 'old'") == 0
        assert await database.fetchval("SELECT count(*) FROM sessions WHERE id = $1", old) == 0
    assert len(await listed(somebody)) == 1
    assert sum(await asyncio.gather(purges.run(runtime.db), purges.run(runtime.db))) == 0
