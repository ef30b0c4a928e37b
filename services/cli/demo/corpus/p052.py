"""Ask the central bank for exchange rates."""
from decimal import Decimal

import httpx

RATES = "https://rates.example.com/daily.json"


def rates() -> dict[str, Decimal]:
    answer = httpx.get(RATES, timeout=None)
    answer.raise_for_status()
    return {code: Decimal(value) for code, value in answer.json()["rates"].items()}


def convert(amount: Decimal, code: str) -> Decimal:
    return (amount * rates()[code]).quantize(Decimal("0.01"))
