"""VersionService over the wire."""

import asyncio
import uuid
from collections.abc import Awaitable
from typing import Any

import pytest

from services.kit import faults
from tests.projects.builders import Zones, archive, make_project, production_of, struct
from tests.refusals import reason
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import version_service_pb2 as pb
from triptych.projects.v1.version_pb2 import VersionAction, VersionHistoryEntry, VersionTag
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub

V1, V2, V3 = VersionTag.VERSION_TAG_V1, VersionTag.VERSION_TAG_V2, VersionTag.VERSION_TAG_V3


@pytest.fixture
async def zones(admin: Person) -> Zones:
    return Zones(admin, await make_project(admin, {"model": "small"}))


async def _tags(admin: Person, zones: Zones) -> list[tuple[str, int, bool]]:
    listed = await admin.stub(VersionServiceStub).ListVersions(pb.ListVersionsRequest(project_id=zones.project.id))
    return [(version.id, version.tag, version.current) for version in listed.versions]


async def _history(admin: Person, project_id: str, version_id: str = "") -> list[VersionHistoryEntry]:
    request = pb.ListVersionHistoryRequest(project_id=project_id, version_id=version_id)
    return list((await admin.stub(VersionServiceStub).ListVersionHistory(request)).entries)


async def test_the_first_production_version_is_born_with_its_history(admin: Person, zones: Zones) -> None:
    versions = admin.stub(VersionServiceStub)
    request = pb.GetProductionVersionRequest(project_id=zones.project.id)
    version = (await versions.GetProductionVersion(request)).version
    assert (version.tag, version.current, version.promoted_by) == (V2, True, admin.id)
    assert version.configuration == struct({"model": "small"})
    entries = await _history(admin, zones.project.id)
    assert [(entry.action, entry.from_tag, entry.to_tag) for entry in entries] == [
        (VersionAction.VERSION_ACTION_PROMOTED, V1, V2),
        (VersionAction.VERSION_ACTION_CREATED, VersionTag.VERSION_TAG_UNSPECIFIED, V2),
    ]


async def test_a_version_is_born_as_v1_with_its_hash(admin: Person, zones: Zones) -> None:
    versions = admin.stub(VersionServiceStub)
    made = await zones.try_out({"model": "large", "name": "try"}, changelog="larger")
    assert (made.tag, made.current, made.created_by, made.changelog) == (V1, False, admin.id, "larger")
    request = pb.HashConfigurationRequest(project_id=zones.project.id, configuration=struct({"model": "large"}))
    assert (await versions.HashConfiguration(request)).configuration_hash == made.configuration_hash
    assert (await versions.GetVersion(pb.GetVersionRequest(version_id=made.id))).version == made


async def test_the_same_request_id_makes_one_version(admin: Person, zones: Zones) -> None:
    request_id = str(uuid.uuid4())
    first = await zones.try_out({"model": "large"}, request_id=request_id)
    assert await zones.try_out({"model": "large"}, request_id=request_id) == first
    assert len(await _tags(admin, zones)) == 2


async def test_a_clone_names_its_parent_which_must_be_there(zones: Zones) -> None:
    parent = await zones.try_out({"model": "large"})
    assert (await zones.try_out({"model": "large"}, parent_version_id=parent.id)).parent_version_id == parent.id
    missing = zones.try_out({"model": "large"}, parent_version_id=str(uuid.uuid4()))
    assert await reason(missing) == "VERSION_NOT_FOUND"


async def test_a_configuration_without_canonical_form_is_refused(admin: Person, zones: Zones) -> None:
    assert await reason(zones.try_out({"n": 2.0**60})) == "CONFIGURATION_INVALID"
    assert await reason(zones.try_out({"text": "x" * 70_000})) == "CONFIGURATION_INVALID"
    request = pb.HashConfigurationRequest(project_id=zones.project.id, configuration=struct({"a": {"b": float("nan")}}))
    with pytest.raises(faults.InvalidArgument) as caught:
        await admin.stub(VersionServiceStub).HashConfiguration(request)
    assert caught.value.facts == {"path": "a.b"}


async def test_a_promotion_moves_the_incumbent_out(admin: Person, zones: Zones) -> None:
    incumbent = zones.project.production_version_id
    candidate = await zones.try_out({"model": "large"})
    answer = await zones.promote(candidate)
    assert (answer.version.tag, answer.version.current, answer.superseded_version_id) == (V2, True, incumbent)
    assert answer.version.promoted_by == admin.id
    assert await _tags(admin, zones) == [(candidate.id, V2, True), (incumbent, V2, False)]
    assert await production_of(admin, zones.project) == candidate.id
    actions = [(entry.version_id, entry.action) for entry in await _history(admin, zones.project.id)][:2]
    assert actions == [
        (candidate.id, VersionAction.VERSION_ACTION_PROMOTED),
        (incumbent, VersionAction.VERSION_ACTION_SUPERSEDED),
    ]


async def test_promoting_twice_is_no_error_and_changes_nothing(admin: Person, zones: Zones) -> None:
    candidate = await zones.try_out({"model": "large"})
    first = await zones.promote(candidate)
    entries = await _history(admin, zones.project.id)
    await archive(admin, zones.project)
    assert await zones.promote(candidate, expected=first.superseded_version_id) == first
    assert await _history(admin, zones.project.id) == entries


async def test_the_first_promotion_of_an_empty_project_expects_nothing(admin: Person) -> None:
    zones = Zones(admin, await make_project(admin))
    request = pb.GetProductionVersionRequest(project_id=zones.project.id)
    assert await reason(admin.stub(VersionServiceStub).GetProductionVersion(request)) == "PROJECT_WITHOUT_PRODUCTION"
    candidate = await zones.try_out({"model": "large"})
    assert await reason(zones.promote(candidate, expected=str(uuid.uuid4()))) == "PRODUCTION_MOVED"
    assert (await zones.promote(candidate)).superseded_version_id == ""


async def test_a_promotion_decided_on_another_production_is_refused(zones: Zones) -> None:
    seen = zones.project.production_version_id
    first, second = await zones.try_out({"n": 1}), await zones.try_out({"n": 2})
    await zones.promote(first)
    with pytest.raises(faults.Aborted) as caught:
        await zones.promote(second, expected=seen)
    assert (caught.value.reason, caught.value.facts["production_version_id"]) == ("PRODUCTION_MOVED", first.id)
    assert await reason(zones.promote(second, expected="")) == "PRODUCTION_MOVED"


async def test_of_two_promotions_at_once_exactly_one_wins(admin: Person, zones: Zones) -> None:
    seen = zones.project.production_version_id
    for number in range(5):
        candidates = [await zones.try_out({"n": number, "side": side}) for side in range(4)]
        ends = await asyncio.gather(
            *(zones.promote(candidate, expected=seen) for candidate in candidates), return_exceptions=True
        )
        won = [end for end in ends if isinstance(end, pb.PromoteVersionResponse)]
        lost = [end.reason for end in ends if isinstance(end, faults.Fault)]
        assert (len(won), lost) == (1, ["PRODUCTION_MOVED"] * 3)
        seen = won[0].version.id
        assert [id_ for id_, tag, current in await _tags(admin, zones) if current and tag == V2] == [seen]


async def test_demotion_and_promotion_at_once_leave_one_production(admin: Person, zones: Zones) -> None:
    for number in range(5):
        incumbent = await production_of(admin, zones.project)
        candidate = await zones.try_out({"n": number})
        await asyncio.gather(
            zones.promote(candidate, expected=incumbent), zones.demote(candidate.id), return_exceptions=True
        )
        tags = {id_: (tag, current) for id_, tag, current in await _tags(admin, zones)}
        assert tags[candidate.id] == (V3, False)
        assert [id_ for id_, (_, current) in tags.items() if current] == [incumbent]


async def test_only_v1_is_promotable(zones: Zones) -> None:
    first, second = await zones.try_out({"n": 1}), await zones.try_out({"n": 2})
    await zones.promote(first)
    await zones.promote(second)
    with pytest.raises(faults.FailedPrecondition) as caught:
        await zones.promote(first)
    assert (caught.value.reason, caught.value.facts) == ("VERSION_NOT_PROMOTABLE", {"tag": "v2"})
    await zones.demote(first.id)
    assert await reason(zones.promote(first)) == "VERSION_NOT_PROMOTABLE"


async def test_a_demotion_restores_the_last_that_is_still_v2(admin: Person, zones: Zones) -> None:
    born = zones.project.production_version_id
    first, second = await zones.try_out({"n": 1}), await zones.try_out({"n": 2})
    await zones.promote(first)
    await zones.promote(second)
    assert (await zones.demote(first.id)).restored_version_id == ""  # it was not in production any more
    answer = await zones.demote(second.id)
    assert (answer.version.tag, answer.version.current, answer.restored_version_id) == (V3, False, born)
    assert await zones.demote(second.id) == answer
    assert await production_of(admin, zones.project) == born
    actions = [(entry.version_id, entry.action) for entry in await _history(admin, zones.project.id)][:2]
    assert actions == [
        (born, VersionAction.VERSION_ACTION_RESTORED),
        (second.id, VersionAction.VERSION_ACTION_DEGRADED),
    ]


async def test_what_failed_does_not_come_back_as_an_earlier_version_of_itself(admin: Person, zones: Zones) -> None:
    born = zones.project.production_version_id
    first, between, again = [await zones.try_out({"n": n}) for n in (1, 2, 1)]
    for version in (first, between, again):
        await zones.promote(version)
    assert (await zones.demote(again.id)).restored_version_id == between.id
    assert (await zones.roll_back()).version.id == born  # `first` holds what was sealed with `again`
    assert await production_of(admin, zones.project) == born


async def test_demoting_the_last_leaves_production_empty(admin: Person, zones: Zones) -> None:
    assert (await zones.demote(zones.project.production_version_id)).restored_version_id == ""
    assert await production_of(admin, zones.project) == ""


async def test_a_v1_version_can_be_demoted(zones: Zones) -> None:
    tried = await zones.try_out({"n": 1})
    answer = await zones.demote(tried.id)
    assert (answer.version.tag, answer.version.promoted_by, answer.restored_version_id) == (V3, "", "")


async def test_an_archived_project_still_lets_a_failed_version_out(admin: Person, zones: Zones) -> None:
    tried = await zones.try_out({"n": 1})
    await archive(admin, zones.project)
    assert (await zones.demote(tried.id)).version.tag == V3


async def test_rolling_back_goes_back_step_by_step(admin: Person, zones: Zones) -> None:
    born = zones.project.production_version_id
    first, second = await zones.try_out({"n": 1}), await zones.try_out({"n": 2})
    await zones.promote(first)
    await zones.promote(second)
    answer = await zones.roll_back(expected=second.id)
    assert (answer.version.id, answer.version.current, answer.superseded_version_id) == (first.id, True, second.id)
    assert await reason(zones.roll_back(expected=second.id)) == "PRODUCTION_MOVED"
    assert (await zones.roll_back()).version.id == born
    assert await reason(zones.roll_back()) == "VERSION_WITHOUT_PREDECESSOR"
    assert {id_: tag for id_, tag, _ in await _tags(admin, zones)}[second.id] == V2


async def test_two_roll_backs_at_once_go_back_once(zones: Zones) -> None:
    first, second = await zones.try_out({"n": 1}), await zones.try_out({"n": 2})
    await zones.promote(first)
    await zones.promote(second)
    ends = await asyncio.gather(*(zones.roll_back(expected=second.id) for _ in range(3)), return_exceptions=True)
    assert sum(isinstance(end, pb.RollBackProductionResponse) for end in ends) == 1


async def test_an_archived_project_takes_nothing_in(admin: Person, zones: Zones) -> None:
    candidate = await zones.try_out({"n": 1})
    await archive(admin, zones.project)
    for call in (zones.try_out({"n": 2}), zones.promote(candidate), zones.roll_back()):
        assert await reason(call) == "PROJECT_ARCHIVED"


async def test_who_is_no_admin_sees_v2_only(admin: Person, zones: Zones, suite: Suite) -> None:
    tried = await zones.try_out({"n": 1})
    viewer = admin.colleague(Role.ROLE_VIEWER)
    versions = viewer.stub(VersionServiceStub)
    assert await reason(versions.GetVersion(pb.GetVersionRequest(version_id=tried.id))) == "VERSION_NOT_FOUND"
    born = zones.project.production_version_id
    assert (await versions.GetVersion(pb.GetVersionRequest(version_id=born))).version.id == born
    assert [id_ for id_, _, _ in await _tags(viewer, zones)] == [born]
    request = pb.ListVersionsRequest(project_id=zones.project.id, tag=V1)
    assert not (await versions.ListVersions(request)).versions
    production = (await suite.service("production", viewer)).stub(VersionServiceStub)
    assert (await production.GetVersion(pb.GetVersionRequest(version_id=tried.id))).version.id == tried.id
    background = (await suite.service("quarantine", admin.tenant_id)).stub(VersionServiceStub)
    assert (await background.GetVersion(pb.GetVersionRequest(version_id=tried.id))).version.id == tried.id


async def test_versions_are_listed_in_pages_newest_first(admin: Person, zones: Zones) -> None:
    made = [(await zones.try_out({"n": number})).id for number in range(3)]
    request = pb.ListVersionsRequest(project_id=zones.project.id, page_size=2)
    versions = admin.stub(VersionServiceStub)
    first = await versions.ListVersions(request)
    request.page_token = first.next_page_token
    second = await versions.ListVersions(request)
    listed = [version.id for version in (*first.versions, *second.versions)]
    assert listed == [*reversed(made), zones.project.production_version_id]
    assert second.next_page_token == ""
    history = pb.ListVersionHistoryRequest(project_id=zones.project.id, page_size=2)
    entries = await versions.ListVersionHistory(history)
    history.page_token = entries.next_page_token
    assert len(entries.entries) + len((await versions.ListVersionHistory(history)).entries) == 4
    assert len(await _history(admin, zones.project.id, made[0])) == 1


async def test_another_tenants_versions_look_like_none(zones: Zones, suite: Suite) -> None:
    tried = await zones.try_out({"n": 1})
    stranger = suite.person(Role.ROLE_ADMIN)
    versions = stranger.stub(VersionServiceStub)
    project_id = zones.project.id
    assert await reason(versions.GetVersion(pb.GetVersionRequest(version_id=tried.id))) == "VERSION_NOT_FOUND"
    calls: list[Awaitable[Any]] = [
        versions.ListVersions(pb.ListVersionsRequest(project_id=project_id)),
        versions.GetProductionVersion(pb.GetProductionVersionRequest(project_id=project_id)),
        versions.ListVersionHistory(pb.ListVersionHistoryRequest(project_id=project_id)),
        versions.RollBackProduction(pb.RollBackProductionRequest(project_id=project_id, reason="x")),
        versions.HashConfiguration(pb.HashConfigurationRequest(project_id=project_id, configuration=struct({}))),
        Zones(stranger, zones.project).try_out({"n": 1}),
    ]
    assert {await reason(call) for call in calls} == {"PROJECT_NOT_FOUND"}
    assert await reason(Zones(stranger, zones.project).promote(tried, expected="")) == "VERSION_NOT_FOUND"
    assert await reason(Zones(stranger, zones.project).demote(tried.id)) == "VERSION_NOT_FOUND"
    theirs = Zones(stranger, await make_project(stranger))
    assert await reason(theirs.try_out({"n": 1}, parent_version_id=tried.id)) == "VERSION_NOT_FOUND"


async def test_people_do_not_promote_and_less_than_an_admin_does_not_roll_back(admin: Person, zones: Zones) -> None:
    tried = await zones.try_out({"n": 1})
    promotion = pb.PromoteVersionRequest(version_id=tried.id, approved_by=admin.id, reason="me")
    with pytest.raises(faults.PermissionDenied):
        await admin.stub(VersionServiceStub).PromoteVersion(promotion)
    demotion = pb.DemoteVersionRequest(version_id=tried.id, approved_by=admin.id, reason="me")
    with pytest.raises(faults.PermissionDenied):
        await admin.stub(VersionServiceStub).DemoteVersion(demotion)
    user = admin.colleague(Role.ROLE_USER)
    with pytest.raises(faults.PermissionDenied):
        await Zones(user, zones.project).roll_back()
