"""What the audit log is told when a person's row changes: never a secret, and personal values as commitments."""

import json
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from tests.auth.people import People, Somebody
from triptych.auth.v1 import user_service_pb2 as pb
from triptych.auth.v1.user_pb2 import User
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub


async def told(people: People, action: str, user_id: str) -> dict[str, Any]:
    """Give the payload of the newest event of an action."""
    async with people.database() as database:
        payload = await database.fetchval(
            "SELECT payload FROM outbox WHERE action = $1 AND entity = $2 ORDER BY event_id DESC LIMIT 1",
            action,
            f"user:{user_id}",
        )
    found: dict[str, Any] = json.loads(payload)
    return found


async def test_a_new_name_is_told_as_a_commitment_that_can_be_opened_until_it_has_left(
    people: People, admin: Somebody
) -> None:
    request = pb.UpdateUserRequest(user=User(display_name="Grace"), update_mask=FieldMask(paths=["display_name"]))
    async with people.database() as database, database.transaction():
        await database.execute("LOCK TABLE outbox_lease IN ACCESS EXCLUSIVE MODE")  # nothing leaves meanwhile
        await admin.stub(UserServiceStub).UpdateUser(request)
        payload = await told(people, "auth.user.update", admin.id)
    assert payload["changed"] == ["display_name"]
    assert payload["changes"].keys() == {"display_name"}
    assert payload["changes"]["display_name"]["new"].keys() == {"$c"}
    assert {opening["value"] for opening in payload["$openings"]} == {"Somebody", "Grace"}


async def test_a_deactivation_tells_since_when_and_why(people: People, admin: Somebody) -> None:
    guest = await people.join(await admin.invite())
    request = pb.DeactivateUserRequest(user_id=guest.id, reason="left the company")
    await admin.stub(UserServiceStub).DeactivateUser(request)
    payload = await told(people, "auth.user.deactivate", guest.id)
    assert payload["reason"] == "left the company"
    assert payload["changes"].keys() == {"disable_time", "disable_reason"}
    assert payload["changes"]["disable_time"]["old"] is None
    await admin.stub(UserServiceStub).DeactivateUser(request)
    assert (await told(people, "auth.user.deactivate", guest.id)).keys() == {"reason"}


async def test_a_deletion_takes_nothing_personal_along(people: People, admin: Somebody) -> None:
    guest = await people.join(await admin.invite())
    await admin.stub(UserServiceStub).DeleteUser(pb.DeleteUserRequest(user_id=guest.id, reason="asked for it"))
    payload = await told(people, "auth.user.delete", guest.id)
    assert payload["changes"].keys() == {"delete_time", "verified"}
    assert "$openings" not in payload
    assert guest.email not in json.dumps(payload)


async def test_large_settings_leave_an_event_that_the_log_can_take(people: People, admin: Somebody) -> None:
    for letter in "ab":
        user = User()
        user.settings["text"] = letter * 14_000
        request = pb.UpdateUserRequest(user=user, update_mask=FieldMask(paths=["settings"]))
        await admin.stub(UserServiceStub).UpdateUser(request)
    payload = await told(people, "auth.user.update", admin.id)
    assert payload["changes"]["settings"]["new"].keys() == {"$c"}
    assert len(json.dumps(payload)) < 2_000
