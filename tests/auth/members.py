"""Calls of MemberService, and what the database knows of members, for the tests of auth."""

import uuid
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from tests.auth.people import People, Somebody
from tests.auth.settlers import patient
from tests.suite import Person
from triptych.auth.v1 import member_service_pb2 as pb
from triptych.auth.v1.member_pb2 import ExternalIdentity, IdentityProvider, Member
from triptych.auth.v1.member_service_pb2_grpc import MemberServiceStub

DISCORD = IdentityProvider.IDENTITY_PROVIDER_DISCORD


TELEGRAM = IdentityProvider.IDENTITY_PROVIDER_TELEGRAM


WALLET = IdentityProvider.IDENTITY_PROVIDER_WALLET


def digits() -> str:
    """Give an id that an outside service might have given."""
    return str(uuid.uuid4().int)[:18]


async def get(who: Somebody | Person, user_id: str = "") -> Member:
    """Give a member, as somebody sees them."""
    return (await who.stub(MemberServiceStub).GetMember(pb.GetMemberRequest(user_id=user_id))).member


@patient
async def change(who: Somebody | Person, user_id: str, *paths: str, **fields: Any) -> Member:
    """Change fields of a member."""
    request = pb.UpdateMemberRequest(
        member=Member(user_id=user_id, **fields), update_mask=FieldMask(paths=paths) if paths else None
    )
    return (await who.stub(MemberServiceStub).UpdateMember(request)).member


@patient
async def remove(who: Somebody | Person, user_id: str, reason: str = "") -> None:
    """Take a member out."""
    await who.stub(MemberServiceStub).RemoveMember(pb.RemoveMemberRequest(user_id=user_id, reason=reason))


@patient
async def link(who: Somebody | Person, user_id: str, provider: "IdentityProvider.ValueType", subject: str) -> Member:
    """Link an identity to a member."""
    identity = ExternalIdentity(provider=provider, subject=subject)
    request = pb.LinkIdentityRequest(user_id=user_id, identity=identity)
    return (await who.stub(MemberServiceStub).LinkIdentity(request)).member


async def admins(people: People, tenant_id: str) -> set[str]:
    """Give the admins of a tenant."""
    async with people.database() as database:
        rows = await database.fetch(
            "SELECT user_id FROM memberships WHERE tenant_id = $1 AND role = 'admin' AND remove_time IS NULL", tenant_id
        )
    return {str(row["user_id"]) for row in rows}


async def token_version(people: People, user_id: str) -> int:
    """Give the version that tokens of somebody have now."""
    async with people.database() as database:
        version: int = await database.fetchval("SELECT token_version FROM users WHERE id = $1", user_id)
    return version


async def revoked_below(people: People, user_id: str) -> int | None:
    """Give the least version that is still accepted, if tokens were revoked."""
    async with people.database() as database:
        least: int | None = await database.fetchval(
            "SELECT max(least_version) FROM revocations WHERE subject_id = $1", user_id
        )
    return least
