"""Where calls come from, and how many are admitted; on the real Valkey, and without it."""

import time
import uuid

import pytest
from redis.asyncio import Redis

from services.auth import sources
from services.auth.sources import LoginRate, Source, Sources
from services.kit import valkey
from services.kit.settings import Settings
from tests.auth.people import People


def somewhere() -> Source:
    return Source(f"203.0.113.{uuid.uuid4().int % 250}-{uuid.uuid4()}", "")


async def admitted(counter: Sources, source: Source, attempts: int) -> int:
    found = [await attempt(counter, source) for _ in range(attempts)]
    assert all(0 < wait <= 61 for wait in found if wait is not None)
    return found.count(None)


async def attempt(counter: Sources, source: Source) -> float | None:
    """Give the seconds to wait, or None when it was admitted."""
    try:
        await counter.admit(source)
    except LoginRate as fault:
        return fault.retry_after.total_seconds() if fault.retry_after is not None else 0
    return None


@pytest.mark.parametrize("up", [True, False])
async def test_a_source_is_limited_with_valkey_and_without(
    people: People, up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_900_000_000.0)  # one minute, however slow the machine
    settings = Settings.of(people.suite.values("auth"))
    client = valkey.connect(settings) if up else Redis.from_url("redis://127.0.0.1:1/0")
    counter = Sources(valkey=client, db=people.suite.runtimes["auth"].db, limit=3)
    try:
        one, other = somewhere(), somewhere()
        assert await admitted(counter, one, 5) == 3
        assert await admitted(counter, other, 1) == 1
    finally:
        await client.aclose()


async def test_a_new_minute_admits_again_without_valkey(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Redis.from_url("redis://127.0.0.1:1/0")
    counter = Sources(valkey=client, db=people.suite.runtimes["auth"].db, limit=1)
    source = somewhere()
    for minute in (1, 2):
        monkeypatch.setattr(time, "time", lambda minute=minute: 1_900_000_000.0 + 60 * minute)
        assert await admitted(counter, source, 2) == 1
    await client.aclose()


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.7:4711", "192.0.2.7"),
        ("ipv6:[2001:db8::1]:4711", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[fe80::1%25eth0]:4711", "fe80::1"),
        ("unix:/tmp/socket", ""),
        ("", ""),
    ],
)
def test_a_peer_has_one_address(peer: str, address: str) -> None:
    assert sources.address(peer) == address


def test_a_customer_of_ipv6_is_one_source() -> None:
    def digest(address: str) -> bytes:
        return Source(address, "").digest

    assert digest("2001:db8:1:2::1") == digest("2001:db8:1:2:ffff::9")
    assert digest("2001:db8:1:2::1") != digest("2001:db8:1:3::1")
    assert digest("::ffff:192.0.2.7") == digest("192.0.2.7")
    assert digest("192.0.2.7") != digest("192.0.2.8")
