"""Whoever fails to log in does not learn by the clock why: every kind of failure costs one hash, or the time of one.

Where there is a hash, time is processor time of this process, in which the service runs too: what else the machine does
is not in it. Behind a lock there is none, only its time on the clock.
"""

import statistics
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import pytest

from services.auth import addresses
from services.auth.passwords import Passwords
from services.kit import faults
from tests.auth.people import PASSWORD, People, Somebody
from triptych.auth.v1 import auth_service_pb2 as pb

if TYPE_CHECKING:
    from triptych.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

ROUNDS, TRIES = 15, 5
WRONG = "a lamp, a heron, ten stairs"
REFERENCE, LOCKED = "wrong password", "locked"
Clock: TypeAlias = Callable[[], float]


async def failing(people: People, admin: Somebody) -> dict[str, tuple[str, str]]:
    """Give an address and a password for each way to fail."""
    disabled, nameless, deleted, removed = [await people.join(await admin.invite()) for _ in range(4)]
    unproven, locked = await people.register(await admin.invite()), people.address()
    lock = (
        "INSERT INTO login_attempts (address_hash, failures, lock_expire_time)"
        " VALUES ($1, 10, now() + interval '1 hour')"
    )
    async with people.database() as database:
        for statement, value in (
            ("UPDATE users SET disable_time = now() WHERE id = $1", disabled.id),
            ("UPDATE users SET password_hash = NULL WHERE id = $1", nameless.id),
            ("UPDATE users SET delete_time = now() WHERE id = $1", deleted.id),
            ("UPDATE memberships SET remove_time = now() WHERE user_id = $1", removed.id),
            (lock, addresses.parse(locked).digest),
        ):
            await database.execute(statement, value)
    return {
        REFERENCE: (admin.email, WRONG),
        "unknown address": (people.address(), WRONG),
        "no address": ("nobody", WRONG),
        "empty password": (admin.email, ""),
        "disabled": (disabled.email, PASSWORD),
        "no password": (nameless.email, PASSWORD),
        "deleted": (deleted.email, PASSWORD),
        "no member": (removed.email, PASSWORD),
        "not proven": (unproven, PASSWORD),
        LOCKED: (locked, WRONG),
    }


async def differences(
    kinds: dict[str, tuple[str, str]], fail: Callable[[str, str], Awaitable[None]], clock: Clock = time.process_time
) -> dict[str, float]:
    """Give for each kind how many seconds longer than the reference it takes.

    The kinds take turns, so that what else the process does falls on all of them; of the differences to the reference
    of the same round the median counts, which a few dear calls do not move.
    """
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, (address, password) in kinds.items():
            began = clock()
            await fail(address, password)
            taken[kind].append(clock() - began)
    return {
        kind: statistics.median(ours - theirs for ours, theirs in zip(each, taken[REFERENCE], strict=True))
        for kind, each in taken.items()
    }


def attempt(auth: "AuthServiceAsyncStub") -> Callable[[str, str], Awaitable[None]]:
    async def fail(address: str, password: str) -> None:
        with pytest.raises(faults.Unauthenticated):
            await auth.Login(pb.LoginRequest(email=address, password=password))

    return fail


async def test_18_keycloak_51887_every_failure_costs_one_hash_or_none_behind_a_lock(
    people: People, admin: Somebody, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = await failing(people, admin)
    compared: list[bool] = []
    verify = Passwords._verify

    def count(self: Passwords, stored: str, password: str) -> bool:
        compared.append(stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$"))
        return verify(self, stored, password)

    monkeypatch.setattr(Passwords, "_verify", count)
    for kind, (address, password) in kinds.items():
        compared.clear()
        await attempt(people.auth)(address, password)
        assert compared == ([] if kind == LOCKED else [True]), kind


async def test_18_every_failure_takes_as_long_as_every_other(people: People, admin: Somebody) -> None:
    kinds = await failing(people, admin)
    del kinds[LOCKED]
    async with people.server(lock_failures=100) as auth:
        found = await differences(kinds, attempt(auth))
        half = await usual_seconds(people) / 2
    assert {kind: seconds for kind, seconds in found.items() if abs(seconds) >= half} == {}


async def test_18_a_locked_address_is_answered_when_a_hash_would_be_done(people: People, admin: Somebody) -> None:
    """A difference that is there is there in every try; one that the machine makes is not."""
    kinds = {kind: given for kind, given in (await failing(people, admin)).items() if kind in {REFERENCE, LOCKED}}
    found: list[float] = []
    async with people.server(lock_failures=100) as auth:
        for _ in range(TRIES):
            taken = await differences(kinds, attempt(auth), time.perf_counter)
            found.append(taken[LOCKED] / await usual_seconds(people, time.perf_counter))
            if abs(found[-1]) < 0.5:
                return
    raise AssertionError(f"in hashes, it takes longer by {found}")


@pytest.mark.parametrize("skipped", ["unknown address", "no password"])
async def test_a_branch_that_skipped_the_hash_would_be_found(
    people: People, admin: Somebody, monkeypatch: pytest.MonkeyPatch, skipped: str
) -> None:
    """The comparison above, of a server that answers at once where there is no hash to compare with."""
    kinds = await failing(people, admin)
    matches = Passwords.matches

    async def hasty(self: Passwords, stored: str | None, password: str) -> bool:
        return stored is not None and await matches(self, stored, password)

    monkeypatch.setattr(Passwords, "matches", hasty)
    async with people.server(lock_failures=100) as auth:
        found = await differences({kind: kinds[kind] for kind in (REFERENCE, skipped)}, attempt(auth))
        half = await usual_seconds(people) / 2
    assert abs(found[skipped]) >= half


async def usual_seconds(people: People, clock: Clock = time.process_time) -> float:
    """Measure hashes one after the other, as the calls were."""
    hashing, taken = Passwords(people.suite.runtimes["auth"].settings), []  # type: ignore[arg-type]
    for _ in range(ROUNDS):
        began = clock()
        await hashing.hash(WRONG)
        taken.append(clock() - began)
    await hashing.close()
    return statistics.median(taken)
