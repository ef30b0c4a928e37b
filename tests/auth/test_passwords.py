"""Passwords: hashing, bounds, and what is refused."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.auth import addresses, blocklists, passwords
from services.auth.blocklists import generate
from services.auth.passwords import PasswordRefused, Passwords
from services.auth.settings import AuthSettings
from services.kit import faults
from tests.suite import Suite

FULLWIDTH = "\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44" * 2  # passwordpassword
ADDRESS = addresses.parse("Mike.Miller@example.com")


@pytest.fixture
async def hashing(suite: Suite) -> AsyncIterator[Passwords]:
    made = Passwords(AuthSettings.of(suite.values("auth", hash_slots=1, hash_queue=1)))
    yield made
    await made.close()


async def test_a_hash_matches_its_password_and_no_other(hashing: Passwords) -> None:
    stored = await hashing.hash("nine stairs and a heron")
    assert await hashing.matches(stored, "nine stairs and a heron")
    assert not await hashing.matches(stored, "nine stairs and a herons")
    assert not await hashing.matches(None, "nine stairs and a heron")
    assert not await hashing.matches("no hash", "nine stairs and a heron")
    assert not hashing.outdated(stored)


async def test_the_same_characters_are_the_same_password(hashing: Passwords) -> None:
    stored = await hashing.hash("caf\u00e9 \ufb01ne caf\u00e9 today")
    assert await hashing.matches(stored, "cafe\u0301 fine cafe\u0301 today")


@pytest.mark.parametrize("asked", ["m=1048576,t=2,p=1", "m=19456,t=11,p=1", "m=19456,t=2,p=17"])
async def test_a_stored_hash_cannot_ask_for_too_much(hashing: Passwords, asked: str) -> None:
    stored = f"$argon2id$v=19${asked}$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43
    began = time.thread_time()
    assert not await hashing.matches(stored, "x")
    assert time.thread_time() - began < 1


async def test_the_queue_is_bounded_and_says_when_to_come_back(hashing: Passwords) -> None:
    with hashing.place(), hashing.place(), pytest.raises(faults.ServerBusy) as caught, hashing.place():
        pass
    assert caught.value.retry_after is not None
    with hashing.place():
        pass


async def test_no_more_hashes_run_at_once_than_there_are_slots(
    hashing: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = 0, 0
    lock = threading.Lock()
    verify = Passwords._verify

    def count(self: Passwords, stored: str, password: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        try:
            return verify(self, stored, password)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(Passwords, "_verify", count)
    await asyncio.gather(*(hashing.matches(None, "x") for _ in range(5)))
    assert most == 1


@pytest.mark.parametrize(
    "password",
    ["mike.miller@example.com", "Mike.Miller@EXAMPLE.com", "mike.millermike.miller", FULLWIDTH, "qwertyuiopasdfg",
     "adminadminadmin", "correct horse battery staple", "aaaaaaaaaaaaaaaa", "triptychtriptych", "1234567890qwertyuiop"],
)  # fmt: skip
def test_what_everybody_tries_is_refused(password: str) -> None:
    with pytest.raises(PasswordRefused):
        passwords.check(password, ADDRESS)


def test_an_ordinary_long_password_is_accepted() -> None:
    passwords.check("nine stairs and a heron", ADDRESS)
    passwords.check("mike.miller has nine stairs", ADDRESS)


def test_the_list_is_long_enough_and_is_what_its_generator_makes() -> None:
    content = generate.content()
    file = Path(blocklists.__file__).with_name(blocklists.FILE)
    assert file.read_bytes() == content
    assert len(content) // blocklists.WIDTH >= 3000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a@bücher.example", "a@xn--bcher-kva.example"),
        ("A@Example.COM", "a@example.com"),
        ("a@\uff45xample.com", "a@example.com"),
    ],
)
def test_two_spellings_of_one_address_have_one_key(one: str, other: str) -> None:
    assert addresses.parse(one).key == addresses.parse(other).key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a+x@example.com", "a@example.com"),
        ("a@ex\u0430mple.com", "a@example.com"),
        ("m\u0131ke@example.com", "mike@example.com"),
        ("a.b@example.com", "ab@example.com"),
    ],
)
def test_addresses_that_only_look_alike_have_two(one: str, other: str) -> None:
    assert addresses.lenient(one).key != addresses.lenient(other).key
