"""Access tokens that are over. Services hear of it a moment later; that it is within a second is a bench's to say."""

from collections.abc import Awaitable, Callable

from services.kit import faults
from tests.patience import eventually


async def over(call: Callable[[], Awaitable[object]]) -> str:
    """Call until the token is refused, and give the reason."""

    async def refused() -> str:
        try:
            await call()
        except faults.Unauthenticated as fault:
            return fault.reason
        except faults.NotFound:
            pass  # the token still counts, and nothing is there for it
        return ""

    return await eventually(refused)
