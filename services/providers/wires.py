"""The wire to providers: a client that keeps nothing from one call to the next, and reading that lets others go on.

No proxy, no redirects, no connections or cookies that outlive a call: in our URLs the address stands where the host
does, many hosts share one, and what one of them left would go to the others.
"""

import asyncio
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

TURN = 16 * 1024
"""Bytes after which others have their turn; what a provider sent at once would be read at once otherwise."""
PART = 256
"""Bytes that a part counts for at least, because the smallest costs as much time."""
FREE_PARTS, LEAST_PART = 10_000, 16
"""Parts whose size does not matter, and how many bytes those beyond them must have on average."""


class Crumbled(Exception):
    """An answer in so many small parts that reading it would take all our time."""


def client() -> httpx.AsyncClient:
    """Give a client whose calls know nothing of each other."""
    return httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        limits=httpx.Limits(max_keepalive_connections=0, max_connections=None),
    )


async def parts(response: httpx.Response) -> AsyncIterator[bytes]:
    """Give the bytes of an answer as they come, as they are."""
    count = total = read = 0
    async for part in response.aiter_raw():
        count += 1
        total += len(part)
        if count > FREE_PARTS + total // LEAST_PART:
            raise Crumbled
        read += max(len(part), PART)
        if read >= TURN:
            read = 0
            await asyncio.sleep(0)
        yield part
