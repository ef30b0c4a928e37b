"""Login over the wire."""

import asyncio
import threading
import time
from datetime import timedelta

import argon2
import grpc
import pytest

from services.auth import addresses
from services.auth.passwords import Passwords
from services.kit import faults
from tests.auth.people import PASSWORD, People, Somebody
from tests.patience import SECONDS
from tests.suite import Suite
from triptych.auth.v1 import auth_service_pb2 as pb, user_service_pb2 as user_pb
from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from triptych.auth.v1.user_service_pb2_grpc import UserServiceStub
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import project_service_pb2 as project_pb
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub


async def refusal(people: People, address: str, password: str = PASSWORD) -> tuple[str, str, str]:
    """Give what a failed login says."""
    with pytest.raises(faults.Unauthenticated) as caught:
        await people.login(address, password)
    return caught.value.reason, caught.value.text, str(caught.value.facts)


async def failures(people: People, address: str) -> int:
    """Give how many failures are counted for an address."""
    digest = addresses.lenient(address).digest
    async with people.database() as database:
        found = await database.fetchval("SELECT failures FROM login_attempts WHERE address_hash = $1", digest)
    return found or 0


async def change(people: People, statement: str, *values: object) -> None:
    async with people.database() as database:
        await database.execute(statement, *values)


async def test_a_login_gives_tokens_that_every_service_accepts(people: People, admin: Somebody) -> None:
    me = (await admin.stub(UserServiceStub).GetUser(user_pb.GetUserRequest())).user
    assert (me.id, me.role) == (admin.id, Role.ROLE_ADMIN)
    tokens = admin.login.tokens
    assert tokens.refresh_expire_time.seconds - tokens.access_expire_time.seconds == pytest.approx(
        14 * 86_400 - 600, abs=5
    )


async def test_another_service_accepts_the_token_by_the_keys_that_auth_publishes(
    people: People, admin: Somebody, suite: Suite
) -> None:
    await suite.start("auth", "projects")
    projects = admin.stub(ProjectServiceStub)
    created = await projects.CreateProject(project_pb.CreateProjectRequest(project=Project(name="signed by auth")))
    assert created.project.owner_id == admin.id
    keys = suite.runtimes["projects"].ask_auth
    published = {key.key_id for key in await keys()}
    assert published <= suite.runtimes["projects"].verifier._keys.keys()


async def test_an_address_is_the_same_in_any_case(people: People, admin: Somebody) -> None:
    assert (await people.login(admin.email.upper())).id == admin.id


async def test_18_all_failures_say_the_same(people: People, admin: Somebody) -> None:
    unproven = await people.register(await admin.invite())
    disabled, no_password, removed, homeless = [await people.join(await admin.invite()) for _ in range(4)]
    other = await people.admin()
    await change(people, "UPDATE users SET disable_time = now() WHERE id = $1", disabled.id)
    await change(people, "UPDATE users SET password_hash = NULL WHERE id = $1", no_password.id)
    await change(people, "UPDATE memberships SET remove_time = now() WHERE user_id = $1", removed.id)
    await change(people, "UPDATE users SET delete_time = now() WHERE id = $1", homeless.id)
    await change(people, "UPDATE tenants SET delete_time = now() WHERE id = $1", other.tenant_id)
    said = {
        await refusal(people, people.address()),
        await refusal(people, "not an address"),
        await refusal(people, "a\0b@example.com"),
        await refusal(people, admin.email, "another password altogether"),
        await refusal(people, admin.email, ""),
        await refusal(people, unproven),
        *[await refusal(people, who.email) for who in (disabled, no_password, removed, homeless, other)],
    }
    assert len(said) == 1
    assert said.pop()[0] == "LOGIN_FAILED"


async def test_19_cve_2023_47111_two_hundred_wrong_passwords_at_once_cost_ten_hashes(
    people: People, admin: Somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GHSA-7h8m-vrxx-vr4m: parallel attempts outran the counter."""
    compared: list[str] = []
    verify = Passwords._verify

    def count(self: Passwords, stored: str, password: str) -> bool:
        compared.append(password)
        return verify(self, stored, password)

    monkeypatch.setattr(Passwords, "_verify", count)

    async def attempt(number: int) -> str:
        try:
            await people.login(admin.email, f"wrong {number}")
        except faults.Fault as fault:
            return fault.reason
        return ""

    found = set(await asyncio.gather(*(attempt(number) for number in range(200))))
    assert "LOGIN_FAILED" in found
    assert found <= {"LOGIN_FAILED", "SERVER_BUSY"}  # which comes before anything is compared
    assert len(compared) <= 10
    assert await attempt(200) == "LOGIN_FAILED"
    assert len(compared) <= 10


@pytest.mark.parametrize("known", [True, False])
async def test_22_the_right_password_is_refused_while_locked(people: People, admin: Somebody, known: bool) -> None:
    address = admin.email if known else people.address()
    said = {await refusal(people, address, "wrong") for _ in range(10)}
    said.add(await refusal(people, address))
    assert len(said) == 1
    assert await failures(people, address) == 10  # a refused attempt is not counted, so a lock ends
    if known:
        digest = addresses.parse(address).digest
        await change(people, "UPDATE login_attempts SET lock_expire_time = now() WHERE address_hash = $1", digest)
        await people.login(address)
        assert await failures(people, address) == 0


async def test_a_lock_doubles_up_to_an_hour_and_is_a_day_from_the_hard_cap_on(people: People) -> None:
    address = people.address()
    digest = addresses.parse(address).digest
    found = []
    for before in (9, 19, 29, 39, 99):
        await change(people, "DELETE FROM login_attempts WHERE address_hash = $1", digest)
        await change(people, "INSERT INTO login_attempts (address_hash, failures) VALUES ($1, $2)", digest, before)
        await refusal(people, address)
        async with people.database() as database:
            locked = "SELECT lock_expire_time - update_time FROM login_attempts WHERE address_hash = $1"
            found.append(await database.fetchval(locked, digest))
    assert found == [timedelta(minutes=m) for m in (15, 30, 60, 60, 24 * 60)]


async def test_old_failures_are_forgotten(people: People) -> None:
    address = people.address()
    digest = addresses.parse(address).digest
    old = "INSERT INTO login_attempts (address_hash, failures, update_time) VALUES ($1, 9, now() - interval '8 days')"
    await change(people, old, digest)
    await refusal(people, address)
    assert await failures(people, address) == 1


async def test_20_cve_2026_35597_the_failure_counter_survives_a_call_that_fails_or_breaks_off(
    people: People, admin: Somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    await refusal(people, admin.email, "wrong")
    assert await failures(people, admin.email) == 1
    began, go_on = threading.Event(), threading.Event()

    def wait(_: Passwords, stored: str, password: str) -> bool:
        began.set()
        return go_on.wait(SECONDS)

    monkeypatch.setattr(Passwords, "_verify", wait)
    login = asyncio.create_task(people.login(admin.email, "wrong"))
    try:
        assert await asyncio.to_thread(began.wait, SECONDS)
        login.cancel()
        with pytest.raises(asyncio.CancelledError):
            await login
    finally:
        go_on.set()  # a thread waits for it
    assert await failures(people, admin.email) == 2


async def test_failures_are_written_with_their_source_and_without_the_address(people: People, admin: Somebody) -> None:
    unknown = people.address()
    await refusal(people, unknown)
    await refusal(people, admin.email, "wrong password of the admin")
    resource = f"address:{addresses.parse(unknown).digest.hex()}"
    async with people.database() as database:
        row = await database.fetchrow("SELECT * FROM audit_logs WHERE resource = $1", resource)
        mine = await database.fetch(
            "SELECT action, status FROM audit_logs WHERE tenant_id = $1 AND user_id = $2 ORDER BY id",
            admin.tenant_id,
            admin.id,
        )
        event = await database.fetchrow("SELECT * FROM outbox WHERE entity = $1", resource)
        whole = await database.fetch("SELECT o::text FROM outbox o UNION ALL SELECT a::text FROM audit_logs a")
    assert row is not None
    assert event is not None
    assert (row["action"], row["status"], row["ip_address"]) == ("auth.session.refuse", "failure", "127.0.0.1")
    assert "grpc" in row["user_agent"]
    assert event["action"] == "auth.session.refuse"
    assert [tuple(found) for found in mine] == [
        ("auth.user.register", "success"),
        ("auth.user.verify_email", "success"),
        ("auth.session.create", "success"),
        ("auth.session.refuse", "failure"),
    ]
    assert not any(unknown in found[0] for found in whole)


async def test_a_password_made_with_other_parameters_is_hashed_anew_at_login(people: People, admin: Somebody) -> None:
    old = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    await change(people, "UPDATE users SET password_hash = $2 WHERE id = $1", admin.id, old)
    await people.login(admin.email)
    async with people.database() as database:
        stored = await database.fetchval("SELECT password_hash FROM users WHERE id = $1", admin.id)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    await people.login(admin.email)


async def test_23_a_flood_from_one_source_is_told_when_to_come_back(people: People, suite: Suite) -> None:
    flooded = await suite.launch("auth", source_logins=0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{flooded.plaintext_port}") as channel:
            spoofed = (("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=203.0.113.9"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await AuthServiceStub(channel).Login(pb.LoginRequest(email="a@example.com"), metadata=spoofed)
        fault = faults.from_error(caught.value, service="auth")
    finally:
        await flooded.stop()
    assert fault.reason == "LOGIN_RATE"
    assert fault.retry_after is not None
    assert timedelta(0) < fault.retry_after <= timedelta(seconds=61)


async def test_a_server_with_too_many_passwords_to_check_says_so(people: People, suite: Suite) -> None:
    busy = await suite.launch("auth", hash_slots=1, hash_queue=0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{busy.plaintext_port}") as channel:
            auth = AuthServiceStub(channel)

            async def attempt(number: int) -> str:
                try:
                    await auth.Login(pb.LoginRequest(email=people.address(), password=f"{number}"))
                except grpc.aio.AioRpcError as error:
                    fault = faults.from_error(error, service="auth")
                    assert fault.reason != "SERVER_BUSY" or fault.retry_after is not None
                    return fault.reason
                return ""

            found = set(await asyncio.gather(*(attempt(n) for n in range(20))))
    finally:
        await busy.stop()
    assert found == {"SERVER_BUSY", "LOGIN_FAILED"}


async def test_a_password_of_a_megabyte_is_refused(people: People) -> None:
    with pytest.raises(faults.InvalidArgument):
        await people.login("a@example.com", "x" * 1_000_000)
    with pytest.raises(faults.ResourceExhausted):
        await people.login("a@example.com", "x" * 5_000_000)


async def test_who_has_failed_often_waits_for_each_refusal(people: People) -> None:
    address, waited = people.address(), []
    async with people.server(tarpit_seconds=0.1) as auth:
        for _ in range(10):
            began = time.perf_counter()
            with pytest.raises(faults.Unauthenticated):
                await auth.Login(pb.LoginRequest(email=address, password="wrong"))
            waited.append(time.perf_counter() - began)
    assert min(waited[4:9]) >= 0.1
    assert waited[9] >= 0.2
