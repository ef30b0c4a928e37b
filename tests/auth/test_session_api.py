"""Refresh and Logout over the wire, and who may use what they give."""

import asyncio
import re
import uuid
from dataclasses import replace
from typing import Any

import pytest

from services.auth.tokens import RefreshTokens
from services.kit import faults
from services.kit.tokens import Verifier
from tests.auth.people import People, Somebody
from tests.auth.tokens import over
from triptych.auth.v1 import auth_service_pb2 as pb, session_service_pb2 as session_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.session_service_pb2_grpc import SessionServiceStub
from triptych.common.v1.role_pb2 import Role


async def refresh(people: People, token: str) -> pb.Tokens:
    return (await people.auth.Refresh(pb.RefreshRequest(refresh_token=token))).tokens


async def refused(people: People, token: str) -> None:
    with pytest.raises(faults.Unauthenticated) as caught:
        await refresh(people, token)
    assert caught.value.reason == "SESSION_INVALID"


async def session(people: People, somebody: Somebody) -> Any:
    async with people.database() as database:
        return await database.fetchrow("SELECT * FROM sessions WHERE user_id = $1", somebody.id)


async def age(people: People, somebody: Somebody, seconds: int = 11) -> None:
    """Let time pass since the last refresh."""
    async with people.database() as database:
        statement = "UPDATE sessions SET rotate_time = rotate_time - $2 * interval '1 second' WHERE user_id = $1"
        await database.execute(statement, somebody.id, seconds)


async def test_a_refresh_gives_new_tokens_of_the_same_session(people: People, somebody: Somebody) -> None:
    first = somebody.login.tokens
    second = await refresh(people, first.refresh_token)
    third = await refresh(people, second.refresh_token)
    assert len({tokens.refresh_token for tokens in (first, second, third)}) == 3
    runtime = people.suite.runtimes["auth"]
    verifier: Verifier = runtime.verifier
    callers = [await verifier.verify(tokens.access_token) for tokens in (first, third)]
    assert callers[0] == callers[1]
    assert callers[0].role == Role.ROLE_USER


async def test_zitadel_9631_fifty_parallel_refreshes_give_one_and_the_same_child(
    people: People, somebody: Somebody
) -> None:
    token = somebody.login.tokens.refresh_token
    found = await asyncio.gather(*(refresh(people, token) for _ in range(50)))
    assert len({tokens.refresh_token for tokens in found}) == 1
    assert (await session(people, somebody))["generation"] == 1
    await refresh(people, found[0].refresh_token)


async def test_reuse_after_the_grace_ends_the_session_and_is_written(people: People, somebody: Somebody) -> None:
    old = somebody.login.tokens.refresh_token
    newest = (await refresh(people, old)).refresh_token
    await age(people, somebody)
    await refused(people, old)
    await refused(people, newest)
    row = await session(people, somebody)
    assert row["revoke_reason"] == "reuse"
    async with people.database() as database:
        logged = await database.fetchrow("SELECT * FROM audit_logs WHERE resource = $1", f"session:{row['id']}")
        event = await database.fetchval(
            "SELECT count(*) FROM outbox WHERE entity = $1 AND action = 'auth.session.revoke'", f"session:{row['id']}"
        )
        failed = await database.fetch(
            "SELECT status FROM audit_logs WHERE resource = $1 AND action = 'auth.session.revoke'",
            f"session:{row['id']}",
        )
    assert logged is not None
    assert [found["status"] for found in failed] == ["failure"]
    assert event == 1


async def test_a_token_from_long_before_ends_the_session_as_well(people: People, somebody: Somebody) -> None:
    oldest = somebody.login.tokens.refresh_token
    newest = (await refresh(people, (await refresh(people, oldest)).refresh_token)).refresh_token
    await refused(people, oldest)
    await refused(people, newest)


async def test_forged_refresh_tokens_do_nothing(people: People, somebody: Somebody) -> None:
    token = somebody.login.tokens.refresh_token
    newest = (await refresh(people, token)).refresh_token
    ahead = re.sub(r"_1_", "_2_", newest, count=1)
    other_key = RefreshTokens(b"x" * 32)
    read = people_tokens(people).parse(newest)
    assert read is not None
    other_tenant = newest.replace(somebody.tenant_id.replace("-", ""), uuid.uuid4().hex)
    for forged in (
        ahead,
        other_key.text(read),
        other_tenant,
        newest[:-1],
        newest + "A",
        "x" * 200,
        token.replace("_0_", "_00_"),
    ):
        await refused(people, forged)
    assert (await session(people, somebody))["revoke_time"] is None
    await refresh(people, newest)


def people_tokens(people: People) -> RefreshTokens:
    """Give the service's own reader of refresh tokens."""
    adders = people.suite.runtimes["auth"]._adders
    cell = next(add.__closure__ for name, add in adders if name.endswith("AuthService"))
    servicer = next(found.cell_contents for found in cell or () if hasattr(found.cell_contents, "_minting"))
    tokens: RefreshTokens = servicer._minting.refresh
    return tokens


async def test_an_access_token_is_no_refresh_token_and_the_reverse(people: People, somebody: Somebody) -> None:
    with pytest.raises(faults.InvalidArgument):
        await refresh(people, somebody.login.tokens.access_token)  # longer than any refresh token
    kind = AuthServiceStub
    metadata = (("authorization", f"Bearer {somebody.login.tokens.refresh_token}"),)
    with pytest.raises(faults.Unauthenticated):
        await kind(people.suite.channel(kind, metadata)).Logout(pb.LogoutRequest())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE users SET disable_time = now() WHERE id = $1",
        "UPDATE users SET delete_time = now() WHERE id = $1",
        "UPDATE memberships SET remove_time = now() WHERE user_id = $1",
        "UPDATE tenants SET delete_time = now() WHERE id = (SELECT tenant_id FROM memberships WHERE user_id = $1)",
        "UPDATE sessions SET idle_expire_time = now() WHERE user_id = $1",
        "UPDATE sessions SET idle_expire_time = now(), expire_time = now() WHERE user_id = $1",
    ],
)
async def test_cve_2026_1609_what_ended_is_not_refreshed(people: People, somebody: Somebody, statement: str) -> None:
    async with people.database() as database:
        await database.execute(statement, somebody.id)
    await refused(people, somebody.login.tokens.refresh_token)


async def test_the_end_of_a_session_does_not_move_by_refreshing(people: People, somebody: Somebody) -> None:
    before = await session(people, somebody)
    async with people.database() as database:
        await database.execute(
            "UPDATE sessions SET idle_expire_time = now() + interval '1 hour', expire_time = now() + interval '2 hours'"
            " WHERE user_id = $1",
            somebody.id,
        )
    await refresh(people, somebody.login.tokens.refresh_token)
    after = await session(people, somebody)
    assert after["idle_expire_time"] == after["expire_time"] < before["expire_time"]


async def test_a_refresh_follows_a_role_that_changed(people: People, somebody: Somebody) -> None:
    async with people.database() as database:
        await database.execute("UPDATE memberships SET role = 'guest' WHERE user_id = $1", somebody.id)
    tokens = await refresh(people, somebody.login.tokens.refresh_token)
    caller = await people.suite.runtimes["auth"].verifier.verify(tokens.access_token)
    assert caller.role == Role.ROLE_GUEST


async def test_a_logout_ends_the_session_and_its_tokens(people: People, somebody: Somebody) -> None:
    auth = somebody.stub(AuthServiceStub)
    assert await auth.Logout(pb.LogoutRequest(request_id=str(uuid.uuid4()))) == pb.LogoutResponse()
    assert (await session(people, somebody))["revoke_reason"] == "logout"
    await refused(people, somebody.login.tokens.refresh_token)
    await ended(somebody)


async def ended(somebody: Somebody) -> None:
    """Wait until the access token is refused."""
    sessions = somebody.stub(SessionServiceStub)
    assert await over(lambda: sessions.ListSessions(session_pb.ListSessionsRequest())) == "TOKEN_INVALID"


async def test_cve_2026_1035_refreshes_in_parallel_after_the_grace_end_the_session_once(
    people: People, somebody: Somebody
) -> None:
    old = somebody.login.tokens.refresh_token
    await refresh(people, old)
    await age(people, somebody)
    found = await asyncio.gather(*(refresh(people, old) for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in found} == {faults.Unauthenticated}
    async with people.database() as database:
        revoked = await database.fetchval(
            "SELECT count(*) FROM audit_logs WHERE action = 'auth.session.revoke' AND user_id = $1", somebody.id
        )
    assert revoked == 1


async def test_a_raised_epoch_ends_sessions_and_a_new_login_begins_one(people: People, somebody: Somebody) -> None:
    async with people.database() as database:
        await database.execute("UPDATE users SET session_epoch = session_epoch + 1 WHERE id = $1", somebody.id)
    await refused(people, somebody.login.tokens.refresh_token)
    again = await people.login(somebody.email)
    await refresh(people, again.login.tokens.refresh_token)


async def test_a_token_says_which_version_of_its_person_it_is_of(people: People, somebody: Somebody) -> None:
    async with people.database() as database:
        await database.execute("UPDATE users SET token_version = 7 WHERE id = $1", somebody.id)
    tokens = await refresh(people, somebody.login.tokens.refresh_token)
    verifier = people.suite.runtimes["auth"].verifier
    assert (await verifier.verify(somebody.login.tokens.access_token)).version == 1
    assert (await verifier.verify(tokens.access_token)).version == 7


async def test_what_happens_in_a_session_is_written_with_it(people: People, somebody: Somebody) -> None:
    token = somebody.login.tokens.refresh_token
    await refresh(people, token)
    await refresh(people, token)
    await somebody.stub(AuthServiceStub).Logout(pb.LogoutRequest())
    async with people.database() as database:
        rows = await database.fetch(
            "SELECT a.* FROM session_activities a JOIN sessions s ON s.id = session_id"
            " WHERE user_id = $1 ORDER BY a.id",
            somebody.id,
        )
    assert [row["kind"] for row in rows] == ["login", "refresh", "grace", "end"]
    assert {row["ip_address"] for row in rows} == {"127.0.0.1"}
    assert all("grpc" in row["user_agent"] for row in rows)


async def test_keycloak_51312_a_refresh_that_races_with_the_logout_leaves_nothing_usable(
    people: People, admin: Somebody, somebody: Somebody
) -> None:
    for who in (admin, somebody):
        token = who.login.tokens.refresh_token
        results = await asyncio.gather(
            *(refresh(people, token) for _ in range(5)),
            who.stub(AuthServiceStub).Logout(pb.LogoutRequest()),
            *(refresh(people, token) for _ in range(5)),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, pb.Tokens):
                await refused(people, result.refresh_token)
                await ended(replace(who, login=pb.LoginResponse(tokens=result)))
            else:
                assert isinstance(result, (pb.LogoutResponse, faults.Unauthenticated))
        await refused(people, token)


async def test_a_refresh_takes_two_round_trips_beside_begin_and_commit(
    people: People, somebody: Somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.kit.db import Transaction

    asked: list[str] = []
    for name in ("one", "run", "all"):
        plain = getattr(Transaction, name)

        async def counted(self: Transaction, statement: Any, *, _plain: Any = plain, **values: Any) -> Any:
            asked.append(statement.text)
            return await _plain(self, statement, **values)

        monkeypatch.setattr(Transaction, name, counted)
    await refresh(people, somebody.login.tokens.refresh_token)
    mine = [text for text in asked if "sessions" in text or "INSERT INTO outbox (" in text]
    assert len(mine) == 2
