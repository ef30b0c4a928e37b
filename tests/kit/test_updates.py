"""Masks and etags."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.kit import faults, updates
from services.projects.projects import UPDATABLE
from triptych.auth.v1.agent_pb2 import Agent, AgentLevel
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2 import UpdateProjectRequest

STORED = Project(id="x", name="old", description="old", owner_id="o")
STORED.settings["a"] = 1


def merged(given: Project, *paths: str) -> Project:
    return updates.merge(STORED, given, FieldMask(paths=paths), UPDATABLE)


def test_only_what_the_mask_names_changes() -> None:
    assert merged(Project(name="new", description="new"), "name").description == "old"


def test_without_a_mask_what_is_populated_changes() -> None:
    changed = merged(Project(description="new"))
    assert (changed.name, changed.description, changed.settings["a"]) == ("old", "new", 1)


def test_a_masked_field_that_is_empty_is_emptied() -> None:
    changed = merged(Project(), "description", "settings")
    assert (changed.description, dict(changed.settings)) == ("", {})


def test_a_star_replaces_all_that_can_be_updated() -> None:
    changed = merged(Project(name="new", owner_id="thief"), "*")
    assert (changed.name, changed.description, changed.owner_id) == ("new", "", "o")


@pytest.mark.parametrize("path", ["owner_id", "id", "nothing", "settings.a", "etag", ""])
def test_what_cannot_be_updated_is_named(path: str) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        merged(Project(owner_id="thief"), path)
    assert caught.value.reason == "UPDATE_MASK_INVALID"


def test_the_result_is_validated_whole() -> None:
    with pytest.raises(faults.RequestInvalid) as caught:
        merged(Project(), "name")
    assert "name" in caught.value.violations


def test_a_list_is_replaced_and_not_added_to() -> None:
    stored, given = (
        Agent(display_name="a", level=AgentLevel.AGENT_LEVEL_PROJECT, scopes=["x.y", "x.z"]),
        Agent(scopes=["x.z"]),
    )
    mask = FieldMask(paths=["scopes"])
    assert list(updates.merge(stored, given, mask, ["scopes"]).scopes) == ["x.z"]
    assert list(updates.merge(stored, Agent(), mask, ["scopes"]).scopes) == []


def test_an_old_etag_aborts_and_an_empty_one_does_not() -> None:
    updates.check_etag("", 4)
    updates.check_etag('"4"', 4)
    for old in ('"3"', "4", '"44"'):
        with pytest.raises(updates.EtagMismatch):
            updates.check_etag(old, 4)


@pytest.mark.parametrize(
    "given", ["", "x", "0197b1e2-0000-7000-8000-00000000000", "0197b1e2-0000-7000-8000-00000000000g"]
)
def test_an_id_out_of_shape_is_a_violation(given: str) -> None:
    with pytest.raises(faults.RequestInvalid) as caught:
        updates.target(UpdateProjectRequest(project=Project(id=given)), "project")
    assert "project.id" in caught.value.violations
