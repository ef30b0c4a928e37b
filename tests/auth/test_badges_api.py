"""BadgeService over the wire: types, awards, passing on, lines, revocation."""

import asyncio
import uuid
from typing import Any

import asyncpg
import pytest

from services.auth.badges import DEEPEST, LONGEST
from services.kit import faults
from tests.auth.people import People, Somebody
from tests.auth.settlers import agent, patient, settle
from tests.suite import Person
from triptych.auth.v1 import badge_service_pb2 as pb
from triptych.auth.v1.badge_pb2 import Badge, BadgeType
from triptych.auth.v1.badge_service_pb2_grpc import BadgeServiceStub
from triptych.common.v1.role_pb2 import Role

Holder = Somebody | Person


async def kind(admin: Holder, slug: str = "water_sharer", **fields: Any) -> str:
    given = {"slug": slug, "display_name": "Water sharer"} | fields
    badges = admin.stub(BadgeServiceStub)
    return (await badges.CreateBadgeType(pb.CreateBadgeTypeRequest(badge_type=BadgeType(**given)))).badge_type.slug


@patient
async def award(who: Holder, to: str, slug: str = "water_sharer", **fields: Any) -> Badge:
    request = pb.AwardBadgeRequest(user_id=to, badge_type=slug, **fields)
    return (await who.stub(BadgeServiceStub).AwardBadge(request)).badge


async def share(who: Holder, to: str, slug: str = "water_sharer") -> Badge:
    return await award(who, to, slug, from_parent=True)


@patient
async def revoke(who: Holder, badge_id: str) -> pb.RevokeBadgeResponse:
    request = pb.RevokeBadgeRequest(badge_id=badge_id, reason="a mistake")
    return await who.stub(BadgeServiceStub).RevokeBadge(request)


async def lineage(who: Holder, badge_id: str) -> list[tuple[str, int]]:
    answer = await who.stub(BadgeServiceStub).GetBadgeLineage(pb.GetBadgeLineageRequest(badge_id=badge_id))
    assert not answer.truncated
    return [(item.badge.id, item.depth) for item in answer.lineage]


async def refused(call: Any) -> str:
    with pytest.raises(faults.FailedPrecondition) as caught:
        await call
    assert caught.value.reason == "BADGE_NOT_SHAREABLE"
    return caught.value.facts["problem"]


async def live(people: People, tenant_id: str) -> int:
    async with people.database() as database:
        found: int = await database.fetchval(
            "SELECT count(*) FROM badges WHERE tenant_id = $1 AND revoke_time IS NULL", tenant_id
        )
    return found


async def test_types_are_made_and_listed_by_slug(admin: Somebody) -> None:
    for slug in ("founder", "water_sharer", "early_bird"):
        await kind(admin, slug, shares=2, once=True, description="What it means.")
    with pytest.raises(faults.AlreadyExists) as caught:
        await kind(admin, "founder")
    assert caught.value.reason == "BADGE_TYPE_TAKEN"
    badges = admin.stub(BadgeServiceStub)
    first = await badges.ListBadgeTypes(pb.ListBadgeTypesRequest(page_size=2))
    second = await badges.ListBadgeTypes(pb.ListBadgeTypesRequest(page_size=2, page_token=first.next_page_token))
    found = [*first.badge_types, *second.badge_types]
    assert [item.slug for item in found] == ["early_bird", "founder", "water_sharer"]
    assert {(item.shares, item.once, item.description) for item in found} == {(2, True, "What it means.")}


@pytest.mark.parametrize("slug", ["Water", "water-sharer", "a", "_x_", "wäter", "x" * 41])
async def test_a_slug_of_another_form_is_refused(admin: Somebody, slug: str) -> None:
    with pytest.raises(faults.InvalidArgument):
        await kind(admin, slug)


async def test_an_admin_awards_and_everybody_sees(people: People, admin: Somebody) -> None:
    await kind(admin)
    user = await settle(people, admin.tenant_id, Role.ROLE_GUEST)
    request = pb.AwardBadgeRequest(user_id=user.id, badge_type="water_sharer", request_id=str(uuid.uuid4()))
    request.metadata.update({"for": "a well"})
    badges = admin.stub(BadgeServiceStub)
    badge = (await badges.AwardBadge(request)).badge
    assert (badge.user_id, badge.awarded_by, badge.parent_id, badge.metadata["for"]) == (
        user.id,
        admin.id,
        "",
        "a well",
    )
    assert (await badges.AwardBadge(request)).badge == badge
    seen = user.stub(BadgeServiceStub)
    assert (await seen.GetBadge(pb.GetBadgeRequest(badge_id=badge.id))).badge == badge
    assert list((await seen.ListBadges(pb.ListBadgesRequest())).badges) == [badge]
    with pytest.raises(faults.AlreadyExists) as caught:
        await award(admin, user.id)
    assert caught.value.reason == "BADGE_HELD"


async def test_an_agent_with_the_scope_awards_and_revokes(people: People, admin: Somebody) -> None:
    await kind(admin, shares=3)
    badges = agent(people, admin.tenant_id, "badges.award", "badges.revoke")(BadgeServiceStub)
    request = pb.AwardBadgeRequest(user_id=admin.id, badge_type="water_sharer")
    badge = (await badges.AwardBadge(request)).badge
    assert badge.parent_id == ""
    request.from_parent = True
    with pytest.raises(faults.FailedPrecondition):  # it has none that it could pass on
        await badges.AwardBadge(request)
    assert (await badges.RevokeBadge(pb.RevokeBadgeRequest(badge_id=badge.id, reason="x"))).revoked == 1
    with pytest.raises(faults.PermissionDenied):
        await badges.ListBadges(pb.ListBadgesRequest())


@pytest.mark.parametrize("role", [Role.ROLE_GUEST, Role.ROLE_VIEWER, Role.ROLE_USER])
async def test_only_admins_and_agents_award_make_types_and_revoke(
    people: People, admin: Somebody, role: "Role.ValueType"
) -> None:
    await kind(admin)
    badge, user = await award(admin, admin.id), await settle(people, admin.tenant_id, role)
    for call in (award(user, user.id), award(user, admin.id), kind(user, "mine"), revoke(user, badge.id)):
        with pytest.raises(faults.PermissionDenied) as caught:
            await call
        assert caught.value.reason == "CALLER_NOT_PERMITTED"


async def test_what_is_not_there_is_not_found(people: People, admin: Somebody) -> None:
    await kind(admin)
    badges, nobody = admin.stub(BadgeServiceStub), str(uuid.uuid4())
    gone = await settle(people, admin.tenant_id)
    async with people.database() as database:
        await database.execute("UPDATE memberships SET remove_time = now() WHERE user_id = $1", gone.id)
    for reason, call in (
        ("BADGE_TYPE_NOT_FOUND", award(admin, admin.id, "unknown")),
        ("MEMBER_NOT_FOUND", award(admin, nobody)),
        ("MEMBER_NOT_FOUND", award(admin, gone.id)),
        ("BADGE_NOT_FOUND", badges.GetBadge(pb.GetBadgeRequest(badge_id=nobody))),
        ("BADGE_NOT_FOUND", badges.GetBadgeLineage(pb.GetBadgeLineageRequest(badge_id=nobody))),
        ("BADGE_NOT_FOUND", revoke(admin, nobody)),
    ):
        with pytest.raises(faults.NotFound) as caught:
            await call
        assert caught.value.reason == reason


async def test_metadata_has_four_kibibytes(admin: Somebody) -> None:
    await kind(admin)
    request = pb.AwardBadgeRequest(user_id=admin.id, badge_type="water_sharer")
    request.metadata.update({"much": "x" * 4_200})
    with pytest.raises(faults.InvalidArgument):
        await admin.stub(BadgeServiceStub).AwardBadge(request)


async def test_a_member_passes_on_their_own(people: People, admin: Somebody) -> None:
    await kind(admin, shares=1)
    await kind(admin, "medal")
    first, second, third = [await settle(people, admin.tenant_id, Role.ROLE_GUEST) for _ in range(3)]
    assert await refused(share(first, second.id)) == "the caller has none"
    parent = await award(admin, first.id)
    assert await refused(share(first, first.id)) == "nobody passes one on to themselves"
    child = await share(first, second.id)
    assert (child.parent_id, child.awarded_by, child.user_id) == (parent.id, first.id, second.id)
    assert await refused(share(first, third.id)) == "all shares are in use"
    await revoke(admin, child.id)
    await share(first, third.id)  # a share that was revoked is free again
    await award(admin, first.id, "medal")
    assert await refused(share(first, second.id, "medal")) == "badges of this type are not passed on"


async def test_what_is_given_once_is_not_given_again(people: People, admin: Somebody) -> None:
    await kind(admin, "once_only", shares=5, once=True)
    user = await settle(people, admin.tenant_id)
    badge = await award(admin, user.id, "once_only")
    with pytest.raises(faults.AlreadyExists):
        await award(admin, user.id, "once_only")
    await revoke(admin, badge.id)
    await award(admin, admin.id, "once_only")
    for call in (award(admin, user.id, "once_only"), share(admin, user.id, "once_only")):
        assert await refused(call) == "it is given once only, and this member has had it"


async def test_thirty_shares_at_once_use_no_more_than_there_are(people: People, admin: Somebody) -> None:
    await kind(admin, shares=3)
    await award(admin, admin.id)
    others = [await settle(people, admin.tenant_id) for _ in range(30)]
    outcomes = await asyncio.gather(*(share(admin, who.id) for who in others), return_exceptions=True)
    assert len([item for item in outcomes if isinstance(item, Badge)]) == 3
    assert {item.facts["problem"] for item in outcomes if isinstance(item, faults.Fault)} == {"all shares are in use"}


async def test_thirty_awards_to_one_member_at_once_give_one(people: People, admin: Somebody) -> None:
    await kind(admin, shares=10, once=True)
    givers = [await settle(people, admin.tenant_id) for _ in range(5)]
    for who in givers:
        await award(admin, who.id)
    lucky = await settle(people, admin.tenant_id)
    outcomes = await asyncio.gather(
        *(share(who, lucky.id) for who in givers for _ in range(5)),
        *(award(admin, lucky.id) for _ in range(5)),
        return_exceptions=True,
    )
    assert len([item for item in outcomes if isinstance(item, Badge)]) == 1
    assert {item.reason for item in outcomes if isinstance(item, faults.Fault)} == {"BADGE_HELD"}


async def test_two_who_pass_on_to_each_other_make_no_circle(people: People, admin: Somebody) -> None:
    await kind(admin, shares=5)
    first, second = [await settle(people, admin.tenant_id) for _ in range(2)]
    await award(admin, first.id)
    child = await share(first, second.id)
    with pytest.raises(faults.AlreadyExists):
        await share(second, first.id)
    await revoke(admin, child.parent_id)  # takes both
    assert await live(people, admin.tenant_id) == 0
    await award(admin, second.id)
    await share(second, first.id)
    await award(admin, admin.id)
    assert await live(people, admin.tenant_id) == 3


async def test_a_line_is_shown_whole_from_each_of_its_badges(people: People, admin: Somebody) -> None:
    await kind(admin, shares=2)
    root = await award(admin, admin.id)
    left, right, below, last = [await settle(people, admin.tenant_id) for _ in range(4)]
    one, two = await share(admin, left.id), await share(admin, right.id)
    three = await share(left, below.id)
    four = await share(below, last.id)
    assert await lineage(admin, root.id) == [(root.id, 0), (one.id, 1), (two.id, 1), (three.id, 2), (four.id, 3)]
    assert await lineage(last, three.id) == [(root.id, -2), (one.id, -1), (three.id, 0), (four.id, 1)]
    assert await lineage(admin, two.id) == [(root.id, -1), (two.id, 0)]
    await revoke(admin, three.id)
    assert await lineage(admin, four.id) == [(root.id, -3), (one.id, -2), (three.id, -1), (four.id, 0)]


async def test_revoking_takes_what_was_passed_on_along_and_nothing_else(people: People, admin: Somebody) -> None:
    await kind(admin, shares=2)
    root = await award(admin, admin.id)
    left, right, below = [await settle(people, admin.tenant_id) for _ in range(3)]
    one, two = await share(admin, left.id), await share(admin, right.id)
    three = await share(left, below.id)
    await revoke(admin, three.id)
    first = await revoke(admin, one.id)
    assert (first.revoked, first.badge.revoke_reason) == (1, "a mistake")  # what was revoked before is not again
    again = await revoke(admin, one.id)
    assert (again.revoked, again.badge) == (0, first.badge)
    assert (await revoke(admin, root.id)).revoked == 2
    badges = admin.stub(BadgeServiceStub)
    assert list((await badges.ListBadges(pb.ListBadgesRequest())).badges) == []
    shown = (await badges.ListBadges(pb.ListBadgesRequest(show_revoked=True))).badges
    assert [item.id for item in shown] == [three.id, two.id, one.id, root.id]


async def test_a_badge_passed_on_while_its_line_is_revoked_is_revoked_or_refused(
    people: People, admin: Somebody
) -> None:
    await kind(admin, shares=50)
    for _ in range(4):
        root, holder = await award(admin, admin.id), await settle(people, admin.tenant_id)
        await share(admin, holder.id)
        others = [await settle(people, admin.tenant_id) for _ in range(8)]
        outcomes = await asyncio.gather(
            *(share(holder, who.id) for who in others[:4]),
            revoke(admin, root.id),
            *(share(holder, who.id) for who in others[4:]),
            return_exceptions=True,
        )
        problems = {item.facts["problem"] for item in outcomes if isinstance(item, faults.Fault)}
        assert problems <= {"the caller has none"}
        assert await live(people, admin.tenant_id) == 0


async def test_a_line_has_sixty_four_steps_at_most(people: People, admin: Somebody) -> None:
    await kind(admin, shares=1)
    holder: Holder = admin
    root = await award(admin, admin.id)
    for _ in range(DEEPEST):
        heir = await settle(people, admin.tenant_id)
        await share(holder, heir.id)
        holder = heir
    heir = await settle(people, admin.tenant_id)
    assert await refused(share(holder, heir.id)) == "the line is as long as it may be"
    assert len(await lineage(admin, root.id)) == DEEPEST + 1
    assert (await revoke(admin, root.id)).revoked == DEEPEST + 1


async def grow(people: People, admin: Somebody, root: Badge, size: int, metadata: dict[str, str]) -> None:
    """Put many children below a badge, straight into the database."""
    async with people.database() as database:
        ids = [uuid.uuid4() for _ in range(size)]
        rows = [(item, f"{item}@example.com", uuid.UUID(admin.tenant_id)) for item in ids]
        await database.executemany(
            "INSERT INTO users (id, email, email_key, display_name, verified, default_tenant_id)"
            " VALUES ($1, $2, $2, 'Many', true, $3)",
            rows,
        )
        await database.execute(
            "INSERT INTO memberships (tenant_id, user_id, role) SELECT $1, unnest($2::uuid[]), 'user'",
            admin.tenant_id,
            ids,
        )
        await database.execute(
            "INSERT INTO badges (tenant_id, user_id, badge_type, parent_id, depth, awarded_by, metadata)"
            " SELECT $1, unnest($2::uuid[]), $3, $4, 1, $5, jsonb_build_object('note', $6::text)",
            admin.tenant_id,
            ids,
            root.badge_type,
            root.id,
            admin.id,
            metadata["note"],
        )


async def test_a_line_of_thousands_is_cut_and_revoked_whole(people: People, admin: Somebody) -> None:
    await kind(admin, shares=1000)
    root = await award(admin, admin.id)
    await grow(people, admin, root, 3_000, {"note": "one of many"})
    badges = admin.stub(BadgeServiceStub)
    answer = await badges.GetBadgeLineage(pb.GetBadgeLineageRequest(badge_id=root.id))
    assert (len(answer.lineage), answer.truncated) == (LONGEST, True)
    assert (answer.lineage[0].badge.id, answer.lineage[-1].depth) == (root.id, 1)
    leaf = answer.lineage[-1].badge.id
    short = await badges.GetBadgeLineage(pb.GetBadgeLineageRequest(badge_id=leaf))
    assert [item.depth for item in short.lineage] == [-1, 0]
    assert (await revoke(admin, root.id)).revoked == 3_001


async def test_a_line_of_large_badges_fits_into_one_answer(people: People, admin: Somebody) -> None:
    await kind(admin, shares=1000)
    root = await award(admin, admin.id)
    await grow(people, admin, root, 900, {"note": "x" * 4_000})
    answer = await admin.stub(BadgeServiceStub).GetBadgeLineage(pb.GetBadgeLineageRequest(badge_id=root.id))
    assert answer.truncated
    assert 100 < len(answer.lineage) < 900


async def test_badges_are_listed_by_member_and_type_and_page(people: People, admin: Somebody) -> None:
    await kind(admin)
    await kind(admin, "medal")
    user = await settle(people, admin.tenant_id)
    given = [await award(admin, who, slug) for who in (admin.id, user.id) for slug in ("water_sharer", "medal")]
    badges = admin.stub(BadgeServiceStub)
    mine = await badges.ListBadges(pb.ListBadgesRequest(user_id=user.id))
    assert [item.id for item in mine.badges] == [given[3].id, given[2].id]
    medals = await badges.ListBadges(pb.ListBadgesRequest(badge_type="medal", page_size=1))
    rest = await badges.ListBadges(
        pb.ListBadgesRequest(badge_type="medal", page_size=1, page_token=medals.next_page_token)
    )
    assert [item.id for item in (*medals.badges, *rest.badges)] == [given[3].id, given[1].id]


async def test_awards_and_revocations_are_recorded(people: People, admin: Somebody) -> None:
    await kind(admin)
    badge = await award(admin, admin.id)
    await revoke(admin, badge.id)
    async with people.database() as database:
        rows = await database.fetch(
            "SELECT action, payload->>'revoked' AS revoked FROM outbox WHERE entity = $1 ORDER BY event_id",
            f"badge:{badge.id}",
        )
    assert [tuple(row) for row in rows] == [("auth.badge.award", None), ("auth.badge.revoke", "1")]


@pytest.mark.parametrize(
    ("parent", "depth"),
    [("a", 5), ("a", 0), ("b", 1), ("c", 1), (None, 1), ("a", 64)],
    ids=["a step too far", "no step", "another type", "another tenant", "no parent", "too deep"],
)
async def test_the_database_itself_refuses_a_line_that_is_none(
    people: People, admin: Somebody, parent: str | None, depth: int
) -> None:
    await kind(admin, "a_type")
    await kind(admin, "b_type")
    stranger = await people.admin()
    await kind(stranger, "a_type")
    parents = {
        "a": (await award(admin, admin.id, "a_type")).id,
        "b": (await award(admin, admin.id, "b_type")).id,
        "c": (await award(stranger, stranger.id, "a_type")).id,
        None: None,
    }
    user = await settle(people, admin.tenant_id)
    db = people.suite.runtimes["auth"].db
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        async with db.begin(tenant=admin.tenant_id) as tx:
            await tx.connection.execute(
                "INSERT INTO badges (tenant_id, user_id, badge_type, parent_id, depth, awarded_by)"
                " VALUES ($1, $2, 'a_type', $3, $4, $2)",
                admin.tenant_id,
                user.id,
                parents[parent],
                depth,
            )


async def test_the_database_itself_refuses_a_circle_made_at_once(people: People, admin: Somebody) -> None:
    await kind(admin)
    user, ids = await settle(people, admin.tenant_id), [uuid.uuid4(), uuid.uuid4()]
    db = people.suite.runtimes["auth"].db
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        async with db.begin(tenant=admin.tenant_id) as tx:
            await tx.connection.execute(
                "INSERT INTO badges (id, tenant_id, user_id, badge_type, parent_id, depth, awarded_by) VALUES"
                " ($1, $3, $4, 'water_sharer', $2, 1, $4), ($2, $3, $5, 'water_sharer', $1, 2, $4)",
                *ids,
                admin.tenant_id,
                admin.id,
                user.id,
            )
