"""Identities of members elsewhere over the wire: their forms, one member each, ten each member."""

import asyncio
import uuid
from datetime import UTC, datetime

import pytest

from services.kit import faults
from tests.auth.members import (
    DISCORD,
    TELEGRAM,
    WALLET,
    digits,
    get,
    link,
)
from tests.auth.people import People, Somebody
from tests.auth.settlers import settle
from triptych.auth.v1 import member_service_pb2 as pb
from triptych.auth.v1.member_pb2 import ExternalIdentity, IdentityProvider, Member
from triptych.auth.v1.member_service_pb2_grpc import MemberServiceStub


async def test_identities_have_their_forms(people: People, admin: Somebody) -> None:
    user = await settle(people, admin.tenant_id)
    wallet = f"0x{uuid.uuid4().hex}{uuid.uuid4().hex[:8]}"
    discord, telegram = digits(), digits()
    await link(admin, user.id, DISCORD, discord)
    await link(admin, user.id, TELEGRAM, telegram)
    member = await link(admin, user.id, WALLET, wallet.upper().replace("0X", "0x"))
    assert {(item.provider, item.subject) for item in member.identities} == {
        (DISCORD, discord), (TELEGRAM, telegram), (WALLET, wallet),
    }  # fmt: skip
    assert abs(member.identities[0].create_time.ToDatetime(UTC) - datetime.now(UTC)).total_seconds() < 60
    find = pb.FindMemberRequest(identity=ExternalIdentity(provider=WALLET, subject=wallet.upper().replace("0X", "0x")))
    assert (await admin.stub(MemberServiceStub).FindMember(find)).member == member
    listed = (await admin.stub(MemberServiceStub).ListMembers(pb.ListMembersRequest())).members
    assert member in listed


@pytest.mark.parametrize(
    ("provider", "subject"),
    [
        (DISCORD, "somebody#1234"),
        (DISCORD, "007"),
        (TELEGRAM, "-100"),
        (TELEGRAM, "١٢٣"),
        (TELEGRAM, "1" * 21),
        (WALLET, "0x123"),
        (WALLET, "1" * 42),
        (WALLET, "0x" + "g" * 40),
    ],
)
async def test_subjects_of_another_form_are_refused(
    admin: Somebody, provider: "IdentityProvider.ValueType", subject: str
) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        await link(admin, admin.id, provider, subject)
    assert caught.value.reason == "REQUEST_INVALID"
    assert "identity.subject" in caught.value.violations


async def test_an_identity_is_one_members(people: People, admin: Somebody) -> None:
    first, second = await settle(people, admin.tenant_id), await settle(people, admin.tenant_id)
    subject = digits()
    once = await link(admin, first.id, DISCORD, subject)
    assert len((await link(admin, first.id, DISCORD, subject)).identities) == len(once.identities)
    with pytest.raises(faults.AlreadyExists) as caught:
        await link(admin, second.id, DISCORD, subject)
    assert caught.value.reason == "IDENTITY_TAKEN"
    identity = ExternalIdentity(provider=DISCORD, subject=subject)
    members = admin.stub(MemberServiceStub)
    for _ in range(2):  # unlinking what is not linked is no error
        await members.UnlinkIdentity(pb.UnlinkIdentityRequest(user_id=first.id, identity=identity))
    await link(admin, second.id, DISCORD, subject)
    await members.UnlinkIdentity(pb.UnlinkIdentityRequest(user_id=first.id, identity=identity))
    assert (await members.FindMember(pb.FindMemberRequest(identity=identity))).member.user_id == second.id
    stranger = await people.admin()
    assert (await link(stranger, stranger.id, DISCORD, subject)).identities[0].subject == subject


async def test_fifty_links_of_one_identity_at_once_give_it_to_one_member(people: People, admin: Somebody) -> None:
    members, subject = [await settle(people, admin.tenant_id) for _ in range(10)], digits()
    outcomes = await asyncio.gather(
        *(link(admin, who.id, DISCORD, subject) for who in members for _ in range(5)), return_exceptions=True
    )
    holders = {item.user_id for item in outcomes if isinstance(item, Member)}
    assert len(holders) == 1
    assert {item.reason for item in outcomes if isinstance(item, faults.Fault)} == {"IDENTITY_TAKEN"}


async def test_a_member_has_ten_identities_even_at_once(people: People, admin: Somebody) -> None:
    user = await settle(people, admin.tenant_id)
    outcomes = await asyncio.gather(
        *(link(admin, user.id, DISCORD, digits()) for _ in range(14)), return_exceptions=True
    )
    assert [item.reason for item in outcomes if isinstance(item, faults.Fault)] == ["IDENTITY_LIMIT"] * 4
    assert len((await get(admin, user.id)).identities) == 10


async def test_nobody_is_found_who_is_not_there(people: People, admin: Somebody) -> None:
    members = admin.stub(MemberServiceStub)
    identity = ExternalIdentity(provider=DISCORD, subject=digits())
    for request in (
        members.FindMember(pb.FindMemberRequest(identity=identity)),
        members.LinkIdentity(pb.LinkIdentityRequest(user_id=str(uuid.uuid4()), identity=identity)),
        members.UnlinkIdentity(pb.UnlinkIdentityRequest(user_id=str(uuid.uuid4()), identity=identity)),
        members.GetMember(pb.GetMemberRequest(user_id=str(uuid.uuid4()))),
        members.UpdateMember(pb.UpdateMemberRequest(member=Member(user_id=str(uuid.uuid4()), tier=1))),
    ):
        with pytest.raises(faults.NotFound) as caught:
            await request
        assert caught.value.reason == "MEMBER_NOT_FOUND"
    for user_id in ("", "me"):
        with pytest.raises(faults.InvalidArgument):
            await members.UpdateMember(pb.UpdateMemberRequest(member=Member(user_id=user_id, tier=1)))
