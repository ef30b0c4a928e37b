"""Money in US dollars: decimal text on the wire, NUMERIC(20,12) in the ledger, whole nano-dollars in the counters.

No float ever. What does not fit is rounded up, so that a counter never shows less than the ledger.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Final

from services.kit import faults

LARGEST: Final = Decimal(9_000_000)
"""Dollars. Above it nano-dollars leave the integers that Valkey's scripts can add exactly (2^53)."""
_exact = Context(prec=60)
_PICO = Decimal("0.000000000001")


def parse(text: str) -> Decimal:
    """Read decimal text; empty is 0. Its form was checked where it came in."""
    return Decimal(text or "0")


def text(amount: Decimal) -> str:
    """Write an amount without exponent and without zeros at its end."""
    written = f"{amount:f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def nano(amount: Decimal) -> int:
    """Give nano-dollars, rounded up: what is charged."""
    return int(_exact.scaleb(amount, 9).to_integral_value(ROUND_CEILING))


def nano_floor(amount: Decimal) -> int:
    """Give nano-dollars, rounded down: what is allowed."""
    return int(_exact.scaleb(amount, 9).to_integral_value(ROUND_FLOOR))


def of_nano(amount: int) -> Decimal:
    """Give dollars."""
    return _exact.scaleb(Decimal(amount), -9)


def cost(input_tokens: int, output_tokens: int, input_price: Decimal, output_price: Decimal) -> Decimal:
    """Give the cost of tokens at prices for a thousand, rounded up to what the ledger can hold (10^-12)."""
    amount = _cost(input_tokens, output_tokens, input_price, output_price)
    if amount > LARGEST:
        raise faults.RequestInvalid(
            f"these tokens would cost {text(amount)} USD; one reservation may hold {LARGEST} USD: split the work",
            cost_usd=text(amount),
        )
    return amount


def is_chargeable(input_tokens: int, output_tokens: int, input_price: Decimal, output_price: Decimal) -> bool:
    """Tell whether these tokens have a cost that one reservation can be charged with."""
    return _cost(input_tokens, output_tokens, input_price, output_price) <= LARGEST


def _cost(input_tokens: int, output_tokens: int, input_price: Decimal, output_price: Decimal) -> Decimal:
    thousand = _exact.add(
        _exact.multiply(Decimal(input_tokens), input_price), _exact.multiply(Decimal(output_tokens), output_price)
    )
    return _exact.scaleb(thousand, -3).quantize(_PICO, ROUND_CEILING, context=_exact)
