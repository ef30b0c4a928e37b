"""Why calls fail, as tests compare it."""

from collections.abc import Awaitable

import pytest

from services.kit import faults


async def reason(call: Awaitable[object]) -> str:
    """Give the reason for which a call fails."""
    with pytest.raises(faults.Fault) as caught:
        await call
    return caught.value.reason


async def outcome(call: Awaitable[object]) -> str:
    """Give the reason for which a call fails, or nothing when it does not."""
    try:
        await call
    except faults.Fault as fault:
        return fault.reason
    return ""
