"""Known devices: their owners pass the lock that strangers put on an address, and nobody else does."""

import asyncio

import pytest

from services.auth import addresses, devices
from services.kit import faults
from tests.auth.people import PASSWORD, People, Somebody
from tests.auth.settlers import patient
from triptych.auth.v1 import auth_service_pb2 as pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub


async def attempt(people: People, address: str, device_token: str = "", password: str = PASSWORD) -> str:
    """Log in and give the device's token; empty when it is refused."""
    request = pb.LoginRequest(email=address, password=password, device_token=device_token)
    try:
        answer = await patient(people.auth.Login)(request)
    except faults.Unauthenticated:
        return ""
    return answer.device_token


async def lock(people: People, address: str) -> None:
    """Lock an address as a stranger would."""
    for _ in range(10):
        assert not await attempt(people, address, password="wrong")


async def locked(people: People, address: str) -> bool:
    async with people.database() as database:
        return bool(
            await database.fetchval(
                "SELECT lock_expire_time > now() FROM login_attempts WHERE address_hash = $1",
                addresses.parse(address).digest,
            )
        )


async def rows(people: People, user_id: str) -> int:
    async with people.database() as database:
        return int(await database.fetchval("SELECT count(*) FROM devices WHERE user_id = $1", user_id))


async def test_21_the_owner_of_a_locked_address_logs_in_with_a_known_device(people: People, admin: Somebody) -> None:
    token = admin.login.device_token
    await lock(people, admin.email)
    assert not await attempt(people, admin.email)
    assert await attempt(people, admin.email, token) == token
    assert await locked(people, admin.email)  # for everybody else it stays as it is
    assert not await attempt(people, admin.email)


async def test_22_the_right_password_is_refused_to_strangers_while_locked(people: People, admin: Somebody) -> None:
    other = await people.admin()
    await lock(people, admin.email)
    for token in ("", "x" * 200, f"trd_{'A' * 43}", other.login.device_token, admin.login.device_token + "x"):
        assert not await attempt(people, admin.email, token)


async def test_a_device_has_ten_failures_of_its_own(people: People, admin: Somebody) -> None:
    token = admin.login.device_token
    for _ in range(10):
        assert not await attempt(people, admin.email, token, "wrong")
    assert not await locked(people, admin.email)  # they were not counted at the address
    await lock(people, admin.email)
    assert not await attempt(people, admin.email, token)  # and now the device is a stranger as any other
    async with people.database() as database:
        await database.execute("DELETE FROM login_attempts")
    assert await attempt(people, admin.email, token) == token
    await lock(people, admin.email)
    assert await attempt(people, admin.email, token) == token


async def test_parallel_attempts_with_one_device_get_ten_and_no_more(people: People, admin: Somebody) -> None:
    await lock(people, admin.email)
    token = admin.login.device_token
    await asyncio.gather(*(attempt(people, admin.email, token, f"wrong {n}") for n in range(40)))
    async with people.database() as database:
        failures = await database.fetchval("SELECT failures FROM devices WHERE user_id = $1", admin.id)
    assert failures == 10
    assert not await attempt(people, admin.email, token)


async def test_a_device_is_known_by_the_hash_of_its_token_and_for_a_year(people: People, admin: Somebody) -> None:
    token = admin.login.device_token
    async with people.database() as database:
        whole = await database.fetchval("SELECT d::text FROM devices d WHERE user_id = $1", admin.id)
        life = await database.fetchval("SELECT expire_time - create_time FROM devices WHERE user_id = $1", admin.id)
        assert token not in whole
        assert life == devices.LIFETIME
        await database.execute("UPDATE devices SET expire_time = now() WHERE user_id = $1", admin.id)
    fresh = await attempt(people, admin.email, token)
    assert fresh not in {"", token}


async def test_a_person_has_twenty_devices_at_most_and_the_idlest_goes(people: People, admin: Somebody) -> None:
    for _ in range(devices.MOST):
        last = await attempt(people, admin.email)
    assert await rows(people, admin.id) == devices.MOST
    await lock(people, admin.email)
    assert await attempt(people, admin.email, last) == last
    assert not await attempt(people, admin.email, admin.login.device_token)


async def test_a_new_password_makes_all_devices_strangers(people: People, admin: Somebody) -> None:
    request = pb.ChangePasswordRequest(old_password=PASSWORD, new_password="eleven herons on one stair")
    await admin.stub(AuthServiceStub).ChangePassword(request)
    assert await rows(people, admin.id) == 0
    with pytest.raises(faults.Unauthenticated):
        await people.login(admin.email)
