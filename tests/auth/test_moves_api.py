"""ChangeEmail, ResendVerification, and VerifyEmail after them, over the wire."""

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from services.auth import addresses, mailings
from services.kit import faults
from tests.auth.people import PASSWORD, People, Somebody, code_in
from tests.refusals import outcome
from triptych.auth.v1 import auth_service_pb2 as pb, user_service_pb2 as user_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub

if TYPE_CHECKING:
    from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

PROVE, MOVE = "Prove your address", "Prove your new address"
NEW = "two herons, eight lamps, rain"


@pytest.fixture
async def somebody(people: People, admin: Somebody) -> Somebody:
    """Somebody who has just shown again who they are."""
    found = await people.join(await admin.invite())
    await found.reauthenticate()
    return found


async def move(somebody: Somebody, address: str, auth: "AuthServiceAsyncStub | None" = None, **fields: str) -> None:
    """Ask for another address; the answer is always the same."""
    request = pb.ChangeEmailRequest(new_email=address, **fields)
    assert await (auth or somebody.stub(AuthServiceStub)).ChangeEmail(request) == pb.ChangeEmailResponse()


async def verify(people: People, code: str) -> None:
    await people.auth.VerifyEmail(pb.VerifyEmailRequest(code=code))


async def resend(
    people: People, address: str, auth: "AuthServiceAsyncStub | None" = None, request_id: str = ""
) -> None:
    request = pb.ResendVerificationRequest(email=address, request_id=request_id)
    assert await (auth or people.auth).ResendVerification(request) == pb.ResendVerificationResponse()


def bearer(somebody: Somebody) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {somebody.login.tokens.access_token}"),)


async def test_the_address_changes_when_the_new_one_is_proven_and_the_old_one_is_told(
    people: People, somebody: Somebody
) -> None:
    address = people.address()
    await move(somebody, address)
    code = await people.code(address, MOVE)
    await people.mail(somebody.email, "A new address for your Triptych account was asked for")
    before = (await somebody.stub(UserServiceStub).GetUser(user_pb.GetUserRequest())).user
    assert before.email == somebody.email
    await verify(people, code)
    assert (await people.login(address)).login.user.email == address
    with pytest.raises(faults.Unauthenticated):
        await people.login(somebody.email)
    await people.mail(somebody.email, "was changed")
    async with people.database() as database:
        rows = await database.fetch("SELECT o::text FROM outbox o UNION ALL SELECT a::text FROM audit_logs a")
    assert not any(address in row[0] or somebody.email in row[0] for row in rows)


async def test_an_address_that_was_left_can_be_registered(people: People, admin: Somebody, somebody: Somebody) -> None:
    await move(somebody, address := people.address())
    await verify(people, await people.code(address, MOVE))
    await people.register(await admin.invite(), somebody.email)
    await verify(people, await people.code(somebody.email, PROVE, 2))
    assert (await people.login(somebody.email)).id != somebody.id


async def test_a_new_address_must_be_one(people: People, somebody: Somebody) -> None:
    assert await outcome(move(somebody, "nobody at all")) == "EMAIL_REFUSED"


async def test_the_owner_of_the_address_is_told_and_no_code_is_sent(
    people: People, admin: Somebody, somebody: Somebody
) -> None:
    async with people.server(bearer(somebody)) as auth:
        await move(somebody, admin.email, auth)
    assert len(people.mailed(admin.email, "another account")) == 1
    assert people.mailed(admin.email, MOVE) == []


async def test_of_two_changes_the_newest_counts(people: People, somebody: Somebody) -> None:
    first, second = people.address(), people.address()
    for address in (first, second):
        await move(somebody, address)
    codes = [await people.code(address, MOVE) for address in (first, second)]
    assert await outcome(verify(people, codes[0])) == "VERIFICATION_INVALID"
    await verify(people, codes[1])
    await people.login(second)


async def test_a_new_password_undoes_a_change_that_a_thief_asked_for(people: People, somebody: Somebody) -> None:
    await move(somebody, stolen := people.address())
    code = await people.code(stolen, MOVE)
    changed = pb.ChangePasswordRequest(old_password=PASSWORD, new_password=NEW)
    await somebody.stub(AuthServiceStub).ChangePassword(changed)
    assert await outcome(verify(people, code)) == "VERIFICATION_INVALID"
    await people.login(somebody.email, NEW)


async def test_a_change_racing_a_registration_of_the_address_leaves_one_owner(
    people: People, admin: Somebody, somebody: Somebody
) -> None:
    await move(somebody, address := people.address())
    code = await people.code(address, MOVE)
    invitations = [await admin.invite() for _ in range(4)]
    found = await asyncio.gather(
        outcome(verify(people, code)), *(outcome(people.register(invitation, address)) for invitation in invitations)
    )
    key = addresses.parse(address).key
    async with people.database() as database:
        owners = await database.fetch("SELECT id FROM users WHERE email_key = $1", key)
    assert len(owners) == 1
    assert (found[0] == "") == (str(owners[0]["id"]) == somebody.id)
    assert found[0] in {"", "VERIFICATION_INVALID"}
    assert found[1:] == [""] * 4  # who registers learns nothing of it


async def test_an_address_that_was_registered_meanwhile_is_not_taken(
    people: People, admin: Somebody, somebody: Somebody
) -> None:
    await move(somebody, address := people.address())
    code = await people.code(address, MOVE)
    await people.register(await admin.invite(), address)
    assert await outcome(verify(people, code)) == "VERIFICATION_INVALID"
    await people.login(somebody.email)


async def test_ten_uses_of_one_code_move_once(people: People, somebody: Somebody) -> None:
    await move(somebody, address := people.address())
    code = await people.code(address, MOVE)
    found = await asyncio.gather(*(outcome(verify(people, code)) for _ in range(10)))
    assert sorted(found) == [""] + ["VERIFICATION_INVALID"] * 9


async def test_a_replayed_change_mails_once(people: People, somebody: Somebody) -> None:
    request_id, address = str(uuid.uuid4()), people.address()
    async with people.server(bearer(somebody)) as auth:
        for _ in range(3):
            await move(somebody, address, auth, request_id=request_id)
    assert len(people.mailed(address)) == 1


async def test_five_changes_an_hour_are_mailed_whichever_the_address(people: People, somebody: Somebody) -> None:
    fresh = [people.address() for _ in range(mailings.MOST + 1)]
    async with people.server(bearer(somebody)) as auth:
        for address in fresh:
            await move(somebody, address, auth)
    assert [len(people.mailed(address)) for address in fresh] == [1] * mailings.MOST + [0]
    assert len(people.mailed(somebody.email, "was asked for")) == mailings.MOST


async def test_a_person_takes_another_spelling_of_their_address(people: People, somebody: Somebody) -> None:
    await move(somebody, spelled := somebody.email.upper())
    mail = (await people.mails(addresses.parse(spelled).text, MOVE))[0]
    await verify(people, code_in(mail))
    assert (await people.login(somebody.email)).login.user.email == addresses.parse(spelled).text


async def test_a_lost_mail_can_be_asked_for_again_and_the_old_code_ends(people: People, admin: Somebody) -> None:
    address = await people.register(await admin.invite())
    lost = await people.code(address, PROVE)
    await resend(people, address.upper())
    code = await people.code(address, PROVE, 2)
    assert await outcome(verify(people, lost)) == "VERIFICATION_INVALID"
    await verify(people, code)
    await people.login(address)


async def test_nothing_is_sent_again_to_who_needs_it_not(people: People, admin: Somebody) -> None:
    nobody = people.address()
    async with people.server() as auth:
        for address in (admin.email, nobody):
            await resend(people, address, auth)
    assert (len(people.mailed(admin.email, PROVE)), people.mailed(nobody)) == (1, [])


async def test_five_mails_an_hour_are_sent_again(people: People, admin: Somebody) -> None:
    address = await people.register(await admin.invite())
    request_id = str(uuid.uuid4())
    async with people.server() as auth:
        for number in range(mailings.MOST + 3):
            await resend(people, address, auth, request_id if number < 2 else "")
    assert len(people.mailed(address, PROVE)) == 1 + mailings.MOST
    assert await outcome(resend(people, "nobody at all")) == "EMAIL_REFUSED"


async def test_a_resent_code_does_not_end_a_change_and_the_other_way_round(people: People, somebody: Somebody) -> None:
    await move(somebody, address := people.address())
    code = await people.code(address, MOVE)
    await resend(people, somebody.email)
    await resend(people, address)
    await verify(people, code)
    await people.login(address)
