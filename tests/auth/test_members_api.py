"""MemberService over the wire: who sees members, their standing, and lists of them."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from services.kit import faults
from tests.auth.members import DISCORD, change, get, link, remove
from tests.auth.people import People, Somebody
from tests.auth.settlers import settle
from triptych.auth.v1 import auth_service_pb2 as auth_pb, member_service_pb2 as pb
from triptych.auth.v1.member_pb2 import Member
from triptych.auth.v1.member_service_pb2_grpc import MemberServiceStub
from triptych.common.v1.role_pb2 import Role


async def test_a_member_sees_themselves_and_others(people: People, admin: Somebody) -> None:
    user = await settle(people, admin.tenant_id, name="Ursula")
    mine = await get(user)
    assert (mine.user_id, mine.display_name, mine.role, mine.active) == (user.id, "Ursula", Role.ROLE_USER, True)
    assert (mine.tier, mine.rank, mine.activity_score, mine.conviction_score) == (0, 0, "0", "0")
    assert (await get(user, admin.id)).role == Role.ROLE_ADMIN


async def test_a_guest_sees_nobody_else(people: People, admin: Somebody) -> None:
    guest = await settle(people, admin.tenant_id, Role.ROLE_GUEST)
    assert (await get(guest)).user_id == guest.id
    said = set()
    for other in (admin.id, str(uuid.uuid4())):
        with pytest.raises(faults.NotFound) as caught:
            await get(guest, other)
        said.add((caught.value.reason, caught.value.text))
    assert said == {("MEMBER_NOT_FOUND", "there is no such member")}
    with pytest.raises(faults.PermissionDenied):
        await guest.stub(MemberServiceStub).ListMembers(pb.ListMembersRequest())


async def test_standing_is_kept_exactly(people: People, admin: Somebody) -> None:
    user = await settle(people, admin.tenant_id)
    member = Member(
        user_id=user.id,
        tier=8,
        rank=3,
        activity_score="123456789012.000001",
        conviction_score="0.1",
        role=Role.ROLE_USER,
    )
    member.metadata.update({"since": "spring"})
    after = (await admin.stub(MemberServiceStub).UpdateMember(pb.UpdateMemberRequest(member=member))).member
    assert (after.tier, after.rank) == (8, 3)
    assert (after.activity_score, after.conviction_score) == ("123456789012.000001", "0.1")
    assert after.metadata["since"] == "spring"
    assert await get(admin, user.id) == after
    lower = await change(admin, user.id, "tier", "rank", "activity_score", activity_score="10.500000", etag=after.etag)
    assert (lower.tier, lower.rank, lower.activity_score, lower.conviction_score) == (0, 0, "10.5", "0.1")
    with pytest.raises(faults.Aborted) as caught:
        await change(admin, user.id, "tier", tier=1, etag=after.etag)
    assert caught.value.reason == "ETAG_MISMATCH"


@pytest.mark.parametrize(
    "fields",
    [
        {"activity_score": "1e3"},
        {"activity_score": "-1"},
        {"conviction_score": "1234567890123"},
        {"conviction_score": "0.1234567"},
        {"activity_score": "NaN"},
        {"activity_score": "\u0661"},
        {"tier": 9},
        {"rank": -1},
    ],
)
async def test_what_is_no_standing_is_refused(admin: Somebody, fields: dict[str, Any]) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        await change(admin, admin.id, *fields, **fields)
    assert caught.value.reason == "REQUEST_INVALID"


async def test_metadata_has_sixteen_kibibytes(admin: Somebody) -> None:
    member = Member(user_id=admin.id)
    member.metadata.update({"much": "x" * 17_000})
    with pytest.raises(faults.InvalidArgument):
        await admin.stub(MemberServiceStub).UpdateMember(pb.UpdateMemberRequest(member=member))


@pytest.mark.parametrize("path", ["user_id", "display_name", "active", "identities", "tenant_id", "remove_time"])
async def test_input_30_a_mask_cannot_reach_what_is_output_only(admin: Somebody, path: str) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        await change(admin, admin.id, path, active=True, display_name="x")
    assert caught.value.reason == "UPDATE_MASK_INVALID"


async def listed(who: Somebody, **fields: Any) -> list[str]:
    """All pages, two at a time."""
    members, found, token = who.stub(MemberServiceStub), [], ""
    while True:
        page = await members.ListMembers(pb.ListMembersRequest(page_size=2, page_token=token, **fields))
        found += [member.user_id for member in page.members]
        token = page.next_page_token
        if not token:
            return found


async def test_members_are_listed_newest_first_and_by_rank(people: People, admin: Somebody) -> None:
    joined = [await settle(people, admin.tenant_id) for _ in range(6)]
    assert await listed(admin) == [*(who.id for who in reversed(joined)), admin.id]
    for who, rank in zip(joined, (4, 1, 1, 2_147_483_647), strict=False):
        await change(admin, who.id, "rank", rank=rank)
    ties = sorted((joined[1].id, joined[2].id))
    unranked = sorted((joined[4].id, joined[5].id, admin.id))
    assert await listed(admin, order=pb.MEMBER_ORDER_RANK) == [*ties, joined[0].id, joined[3].id, *unranked]


async def test_members_are_found_by_role_tier_and_name(people: People, admin: Somebody) -> None:
    plain = await settle(people, admin.tenant_id, Role.ROLE_VIEWER, name="Percy 100% sure_thing")
    other = await settle(people, admin.tenant_id, name="Percival")
    await change(admin, other.id, "tier", tier=5)
    assert await listed(admin, role=Role.ROLE_VIEWER) == [plain.id]
    assert await listed(admin, least_tier=5) == [other.id]
    assert await listed(admin, query="PERC") == [other.id, plain.id]
    assert await listed(admin, query="0% S") == [plain.id]
    assert await listed(admin, query="%") == [plain.id]
    assert await listed(admin, query="e_t") == [plain.id]
    assert await listed(admin, query="percy", role=Role.ROLE_ADMIN) == []


async def test_a_refresh_notes_the_hour_in_which_a_member_was_seen(people: People, admin: Somebody) -> None:
    async with people.database() as database:
        await database.execute("UPDATE memberships SET last_seen_time = NULL WHERE user_id = $1", admin.id)
    await people.auth.Refresh(auth_pb.RefreshRequest(refresh_token=admin.login.tokens.refresh_token))
    seen = (await get(admin)).last_seen_time.ToDatetime(UTC)
    assert (seen.minute, seen.second, seen.microsecond) == (0, 0, 0)
    assert 0 <= (datetime.now(UTC) - seen).total_seconds() < 3700


async def test_a_refresh_does_not_wait_for_whoever_changes_the_member(people: People, admin: Somebody) -> None:
    async with people.database() as database, database.transaction():
        await database.execute("UPDATE memberships SET last_seen_time = NULL WHERE user_id = $1", admin.id)
        await people.auth.Refresh(auth_pb.RefreshRequest(refresh_token=admin.login.tokens.refresh_token))


async def test_a_repeated_request_changes_once(people: People, admin: Somebody) -> None:
    user = await settle(people, admin.tenant_id)
    request = pb.UpdateMemberRequest(member=Member(user_id=user.id, tier=3), request_id=str(uuid.uuid4()))
    members = admin.stub(MemberServiceStub)
    first = await members.UpdateMember(request)
    assert await members.UpdateMember(request) == first
    assert (await get(admin, user.id)).etag == first.member.etag


async def test_a_stub_without_a_token_sees_no_members(people: People) -> None:
    with pytest.raises(faults.Unauthenticated):
        await people.suite.anonymous(MemberServiceStub).ListMembers(pb.ListMembersRequest())


async def test_input_37_nul_is_refused_wherever_text_is_taken(people: People, admin: Somebody) -> None:
    user, members = await settle(people, admin.tenant_id), admin.stub(MemberServiceStub)
    member = Member(user_id=user.id)
    member.metadata.update({"a": "b\0c"})
    for call in (
        members.UpdateMember(pb.UpdateMemberRequest(member=member)),
        remove(admin, user.id, "why\0not"),
        link(admin, user.id, DISCORD, "123\0"),
        members.ListMembers(pb.ListMembersRequest(query="\0")),
    ):
        with pytest.raises(faults.InvalidArgument) as caught:
            await call
        assert caught.value.reason == "REQUEST_INVALID"
    assert (await get(admin, user.id)).etag == '"1"'
