"""Tenants are apart: hostile inputs 40, 41, 42 and 46, and what other products got wrong (by CVE)."""

import asyncio
import base64
import uuid
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from services.kit import faults
from tests.auth.people import People, Somebody
from tests.auth.settlers import agent, enter, settle
from triptych.auth.v1 import (
    badge_service_pb2 as badge_pb,
    invitation_service_pb2 as invitation_pb,
    member_service_pb2 as member_pb,
    tenant_service_pb2 as tenant_pb,
    user_service_pb2 as user_pb,
)
from triptych.auth.v1.badge_pb2 import BadgeType
from triptych.auth.v1.badge_service_pb2_grpc import BadgeServiceStub
from triptych.auth.v1.invitation_service_pb2_grpc import InvitationServiceStub
from triptych.auth.v1.member_pb2 import ExternalIdentity, IdentityProvider, Member
from triptych.auth.v1.member_service_pb2_grpc import MemberServiceStub
from triptych.auth.v1.tenant_service_pb2_grpc import TenantServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub
from triptych.common.v1.role_pb2 import Role

DISCORD = ExternalIdentity(provider=IdentityProvider.IDENTITY_PROVIDER_DISCORD, subject="12345678")
MEMBER_CALLS: dict[str, Callable[[MemberServiceStub, str], Any]] = {
    "GetMember": lambda stub, id_: stub.GetMember(member_pb.GetMemberRequest(user_id=id_)),
    "UpdateMember": lambda stub, id_: stub.UpdateMember(
        member_pb.UpdateMemberRequest(member=Member(user_id=id_, role=Role.ROLE_GUEST))
    ),
    "RemoveMember": lambda stub, id_: stub.RemoveMember(member_pb.RemoveMemberRequest(user_id=id_)),
    "LinkIdentity": lambda stub, id_: stub.LinkIdentity(member_pb.LinkIdentityRequest(user_id=id_, identity=DISCORD)),
    "UnlinkIdentity": lambda stub, id_: stub.UnlinkIdentity(
        member_pb.UnlinkIdentityRequest(user_id=id_, identity=DISCORD)
    ),
}
BADGE_CALLS: dict[str, Callable[[BadgeServiceStub, str], Any]] = {
    "GetBadge": lambda stub, id_: stub.GetBadge(badge_pb.GetBadgeRequest(badge_id=id_)),
    "GetBadgeLineage": lambda stub, id_: stub.GetBadgeLineage(badge_pb.GetBadgeLineageRequest(badge_id=id_)),
    "RevokeBadge": lambda stub, id_: stub.RevokeBadge(badge_pb.RevokeBadgeRequest(badge_id=id_, reason="x")),
}


async def badge(admin: Somebody) -> str:
    badges = admin.stub(BadgeServiceStub)
    await badges.CreateBadgeType(
        badge_pb.CreateBadgeTypeRequest(badge_type=BadgeType(slug="medal", display_name="Medal", shares=2))
    )
    return (await badges.AwardBadge(badge_pb.AwardBadgeRequest(user_id=admin.id, badge_type="medal"))).badge.id


async def answers(calls: list[Any]) -> set[tuple[str, str]]:
    said = set()
    for call in calls:
        with pytest.raises(faults.NotFound) as caught:
            await call
        said.add((caught.value.reason, caught.value.text))
    return said


@pytest.mark.parametrize("method", MEMBER_CALLS)
async def test_input_40_another_tenants_member_looks_like_none(people: People, admin: Somebody, method: str) -> None:
    members = (await people.admin()).stub(MemberServiceStub)
    said = await answers([MEMBER_CALLS[method](members, id_) for id_ in (admin.id, str(uuid.uuid4()))])
    assert len(said) == 1
    assert (await admin.stub(MemberServiceStub).GetMember(member_pb.GetMemberRequest())).member.identities == []


@pytest.mark.parametrize("method", BADGE_CALLS)
async def test_input_40_another_tenants_badge_looks_like_none(people: People, admin: Somebody, method: str) -> None:
    badge_id = await badge(admin)
    badges = (await people.admin()).stub(BadgeServiceStub)
    said = await answers([BADGE_CALLS[method](badges, id_) for id_ in (badge_id, str(uuid.uuid4()))])
    assert said == {("BADGE_NOT_FOUND", "there is no such badge")}


async def test_input_40_identities_and_badge_types_of_another_tenant_are_not_there(
    people: People, admin: Somebody
) -> None:
    await badge(admin)
    await MEMBER_CALLS["LinkIdentity"](admin.stub(MemberServiceStub), admin.id)
    stranger = await people.admin()
    find = member_pb.FindMemberRequest(identity=DISCORD)
    award = badge_pb.AwardBadgeRequest(user_id=stranger.id, badge_type="medal")
    assert await answers([stranger.stub(MemberServiceStub).FindMember(find)])
    assert await answers([stranger.stub(BadgeServiceStub).AwardBadge(award)])
    await badge(stranger)
    other = badge_pb.AwardBadgeRequest(user_id=admin.id, badge_type="medal")
    assert await answers([stranger.stub(BadgeServiceStub).AwardBadge(other)]) == {
        ("MEMBER_NOT_FOUND", "there is no such member")
    }


async def test_input_41_a_pooled_connection_that_had_a_tenant_shows_nothing_without_one(
    people: People, admin: Somebody
) -> None:
    await badge(admin)
    db = people.suite.runtimes["auth"].db
    async with people.database() as database:
        tables = [
            row["relname"]
            for row in await database.fetch(
                "SELECT relname FROM pg_class WHERE relnamespace = 'auth'::regnamespace AND relkind = 'r'"
                " AND relforcerowsecurity AND has_table_privilege('triptych_auth_app', oid, 'SELECT')"
            )
        ]
    assert {"tenants", "memberships", "badges", "badge_types", "user_identities", "agents"} <= set(tables)

    async def look(tenant: str) -> int:
        async with db.begin(tenant=tenant) as tx:
            return sum([await tx.connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables])

    for _ in range(3):  # more at once than one connection could serve
        seen = await asyncio.gather(*(look(tenant) for tenant in [admin.tenant_id, "", str(uuid.uuid4())] * 8))
        assert [bool(found) for found in seen] == [True, False, False] * 8


async def test_what_has_no_tenant_is_the_persons_or_the_installations(people: People) -> None:
    """A new table without tenant_id is a decision; it is made here, too."""
    async with people.database() as database:
        rows = await database.fetch(
            "SELECT relname FROM pg_class c WHERE relnamespace = 'auth'::regnamespace AND relkind = 'r'"
            " AND NOT relforcerowsecurity"
        )
    of_people = {"users", "devices", "totp_secrets", "recovery_codes", "factor_attempts", "passkeys"}
    of_people |= {"passkey_challenges", "password_resets"}
    of_nobody = {"login_attempts", "login_sources", "mail_requests", "signing_keys", "revocations"}
    assert {row["relname"] for row in rows} == of_people | of_nobody | {"alembic_version", "outbox_lease"}


PAGES: dict[str, Callable[[Somebody, str], Any]] = {
    "ListTenants": lambda who, token: who.stub(TenantServiceStub).ListTenants(
        tenant_pb.ListTenantsRequest(page_size=1, page_token=token)
    ),
    "ListMembers": lambda who, token: who.stub(MemberServiceStub).ListMembers(
        member_pb.ListMembersRequest(page_size=1, page_token=token)
    ),
    "ListMembers by rank": lambda who, token: who.stub(MemberServiceStub).ListMembers(
        member_pb.ListMembersRequest(page_size=1, page_token=token, order=member_pb.MEMBER_ORDER_RANK)
    ),
    "ListBadges": lambda who, token: who.stub(BadgeServiceStub).ListBadges(
        badge_pb.ListBadgesRequest(page_size=1, page_token=token)
    ),
    "ListBadgeTypes": lambda who, token: who.stub(BadgeServiceStub).ListBadgeTypes(
        badge_pb.ListBadgeTypesRequest(page_size=1, page_token=token)
    ),
    "ListUsers": lambda who, token: who.stub(UserServiceStub).ListUsers(
        user_pb.ListUsersRequest(page_size=1, page_token=token)
    ),
    "ListInvitations": lambda who, token: who.stub(InvitationServiceStub).ListInvitations(
        invitation_pb.ListInvitationsRequest(page_size=1, page_token=token)
    ),
}


@pytest.mark.parametrize("method", PAGES)
@pytest.mark.parametrize(
    "token",
    [
        "x",
        "' OR 1=1 --",
        base64.urlsafe_b64encode(b"0'; DROP TABLE users; --").decode(),
        base64.urlsafe_b64encode(b'[9999999999,"00000000-0000-0000-0000-000000000000"]').decode(),
        "A" * 2048,
        "\u0661",
    ],
)
async def test_cve_2026_33505_a_forged_page_token_is_refused(admin: Somebody, method: str, token: str) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        await PAGES[method](admin, token)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


async def test_input_42_a_page_token_of_another_tenant_caller_or_method_is_refused(
    people: People, admin: Somebody
) -> None:
    await badge(admin)
    await badge_of_another_type(admin)
    colleague = await people.join(await admin.invite(Role.ROLE_ADMIN))
    await admin.invite()
    tokens = {}
    for method in (
        "ListMembers",
        "ListMembers by rank",
        "ListBadges",
        "ListBadgeTypes",
        "ListUsers",
        "ListInvitations",
    ):
        tokens[method] = (await PAGES[method](admin, "")).next_page_token
        assert tokens[method], method
        await PAGES[method](admin, tokens[method])
    stranger = await people.admin()
    for method, token in tokens.items():
        others = [PAGES[other](admin, token) for other in PAGES if other != method]
        for call in (PAGES[method](stranger, token), PAGES[method](colleague, token), *others):
            with pytest.raises(faults.InvalidArgument) as caught:
                await call
            assert caught.value.reason == "PAGE_TOKEN_INVALID"


async def badge_of_another_type(admin: Somebody) -> None:
    badges = admin.stub(BadgeServiceStub)
    await badges.CreateBadgeType(
        badge_pb.CreateBadgeTypeRequest(badge_type=BadgeType(slug="other_medal", display_name="Other"))
    )
    await badges.AwardBadge(badge_pb.AwardBadgeRequest(user_id=admin.id, badge_type="other_medal"))


async def test_cve_2026_9090_to_9098_a_role_in_one_tenant_is_none_in_another(people: People, admin: Somebody) -> None:
    """Casdoor let who was somebody in one organisation act in another."""
    other = await people.admin()
    await enter(people, admin.id, other.tenant_id, Role.ROLE_GUEST)
    members = admin.stub(MemberServiceStub)
    found = (await members.ListMembers(member_pb.ListMembersRequest())).members
    assert [item.user_id for item in found] == [admin.id]
    with pytest.raises(faults.NotFound):
        await MEMBER_CALLS["UpdateMember"](members, other.id)
    both = await admin.stub(TenantServiceStub).ListTenants(tenant_pb.ListTenantsRequest())
    assert {(item.tenant_id, item.role) for item in both.tenants} == {
        (admin.tenant_id, Role.ROLE_ADMIN),
        (other.tenant_id, Role.ROLE_GUEST),
    }
    # An admin of the one changes what the person is there, and nothing that they are elsewhere.
    await other.stub(MemberServiceStub).UpdateMember(
        member_pb.UpdateMemberRequest(member=Member(user_id=admin.id, role=Role.ROLE_VIEWER))
    )
    assert (await members.GetMember(member_pb.GetMemberRequest())).member.role == Role.ROLE_ADMIN


async def test_cve_2026_9090_to_9098_an_agent_of_one_tenant_finds_nobody_in_another(
    people: People, admin: Somebody
) -> None:
    stranger = await people.admin()
    members = agent(people, stranger.tenant_id, "members.get", "members.update")(MemberServiceStub)
    for method in ("GetMember", "UpdateMember"):
        with pytest.raises((faults.NotFound, faults.PermissionDenied)):
            await MEMBER_CALLS[method](members, admin.id)
    assert (await admin.stub(MemberServiceStub).GetMember(member_pb.GetMemberRequest())).member.role == Role.ROLE_ADMIN


async def test_the_database_shows_a_person_their_own_tenants_and_nobody_elses(people: People, admin: Somebody) -> None:
    """The one function that looks across tenants takes a person and gives what the person may know."""
    other = await people.admin()
    db = people.suite.runtimes["auth"].db
    async with db.begin(tenant=other.tenant_id) as tx:
        rows = await tx.connection.fetch("SELECT tenant_id FROM tenants_of($1)", other.id)
        assert [str(row["tenant_id"]) for row in rows] == [other.tenant_id]
        assert await tx.connection.fetchval("SELECT count(*) FROM memberships WHERE user_id = $1", admin.id) == 0
        assert await tx.connection.fetchval("SELECT count(*) FROM tenants WHERE id = $1", admin.tenant_id) == 0


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO badges (tenant_id, user_id, badge_type, awarded_by) VALUES ($1, $2, 'medal', $2)",
        "INSERT INTO user_identities (tenant_id, provider, subject, user_id) VALUES ($1, 'discord', '1', $2)",
        "INSERT INTO memberships (tenant_id, user_id, role) VALUES ($1, $2, 'admin')",
        "INSERT INTO badge_types (tenant_id, slug, display_name) SELECT $1, 'mine', $2::uuid::text",
        "INSERT INTO agents (tenant_id, display_name, level, scopes, created_by) VALUES ($1, 'a', 'project', '{}', $2)",
        "INSERT INTO session_activities (tenant_id, session_id, kind, ip_address, user_agent)"  # noqa: ISC004
        " VALUES ($1, $2, 'login', '', '')",
    ],
)
async def test_the_database_itself_takes_no_row_of_another_tenant(
    people: People, admin: Somebody, statement: str
) -> None:
    stranger = await settle(people, admin.tenant_id)
    db = people.suite.runtimes["auth"].db
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with db.begin(tenant=str(uuid.uuid4())) as tx:
            await tx.connection.execute(statement, admin.tenant_id, stranger.id)


async def test_the_database_itself_changes_no_row_of_another_tenant(people: People, admin: Somebody) -> None:
    badge_id = await badge(admin)
    db = people.suite.runtimes["auth"].db
    async with db.begin(tenant=(await people.admin()).tenant_id) as tx:
        run = tx.connection.execute
        assert await run("UPDATE badges SET revoke_time = now() WHERE id = $1", badge_id) == "UPDATE 0"
        assert await run("UPDATE memberships SET role = 'guest' WHERE user_id = $1", admin.id) == "UPDATE 0"
        assert await run("UPDATE tenants SET delete_time = now() WHERE id = $1", admin.tenant_id) == "UPDATE 0"
        assert await run("DELETE FROM user_identities WHERE user_id = $1", admin.id) == "DELETE 0"
        assert await tx.connection.fetch("SELECT * FROM badges WHERE id = $1", badge_id) == []
        assert await tx.connection.fetch("SELECT * FROM audit_logs WHERE tenant_id = $1", admin.tenant_id) == []


@pytest.mark.parametrize(
    "statement",
    [
        # input 46: what happened stays as it was written
        "UPDATE audit_logs SET status = 'success'",
        "DELETE FROM audit_logs",
        "TRUNCATE audit_logs",
        "UPDATE session_activities SET kind = 'login'",
        "DELETE FROM session_activities",
        "UPDATE credential_usage_logs SET success = true",
        "DELETE FROM credential_usage_logs",
        "SELECT * FROM outbox",
        "UPDATE outbox SET action = 'auth.tenant.update'",
        "DELETE FROM outbox",
        "TRUNCATE outbox",
        # who and whose
        "DELETE FROM users",
        "UPDATE users SET id = gen_random_uuid()",
        "UPDATE users SET create_time = now()",
        "UPDATE tenants SET slug = 'other'",
        "UPDATE tenants SET created_by = NULL",
        "DELETE FROM tenants",
        "UPDATE memberships SET tenant_id = gen_random_uuid()",
        "UPDATE memberships SET user_id = gen_random_uuid()",
        "DELETE FROM memberships",
        "UPDATE user_identities SET user_id = gen_random_uuid()",
        # ways in
        "UPDATE invitations SET max_uses = 1000",
        "UPDATE invitations SET role = 'admin'",
        "UPDATE invitations SET expire_time = now() + interval '1 day'",
        "DELETE FROM invitation_uses",
        "UPDATE sessions SET user_id = gen_random_uuid()",
        "UPDATE sessions SET expire_time = now() + interval '1 year'",
        "UPDATE sessions SET session_epoch = 1",
        "UPDATE sessions SET follows = NULL",
        "DELETE FROM sessions",
        "UPDATE login_tickets SET user_id = gen_random_uuid()",
        "UPDATE password_resets SET user_id = gen_random_uuid()",
        "UPDATE devices SET user_id = gen_random_uuid()",
        "UPDATE passkeys SET public_key = ''",
        "UPDATE passkeys SET user_id = gen_random_uuid()",
        "UPDATE signing_keys SET public_key = public_key",
        "DELETE FROM signing_keys",
        "UPDATE revocations SET forget_time = now()",
        # agents and badges
        "UPDATE agents SET tenant_id = gen_random_uuid()",
        "UPDATE agents SET created_by = gen_random_uuid()",
        "DELETE FROM agents",
        "UPDATE agent_credentials SET secret_hash = ''",
        "UPDATE agent_credentials SET expire_time = now() + interval '1 year'",
        "UPDATE agent_credentials SET scopes = '{}'",
        "UPDATE badges SET user_id = gen_random_uuid()",
        "UPDATE badges SET parent_id = NULL",
        "UPDATE badges SET badge_type = 'other'",
        "DELETE FROM badges",
        "TRUNCATE badges",
        "UPDATE badge_types SET shares = 1000",
        "DELETE FROM badge_types",
        # the law itself
        "ALTER TABLE badges DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant ON badges",
        "CREATE TABLE auth.mine (id int)",
        "SET ROLE triptych_auth_owner",
    ],
)
async def test_input_46_the_service_may_not(people: People, statement: str) -> None:
    db = people.suite.runtimes["auth"].db
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.begin(tenant=str(uuid.uuid4())) as tx:
            await tx.connection.execute(statement)
