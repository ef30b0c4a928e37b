"""Money: exact text, exact cost, rounding that never favours the spender."""

from decimal import Decimal

import pytest
from hypothesis import given, strategies

from services.kit import faults
from services.providers import money

amounts = strategies.decimals(min_value=0, max_value=9_000_000, places=12)


@given(amounts)
def test_text_comes_back_as_the_same_amount(amount: Decimal) -> None:
    written = money.text(amount)
    assert money.parse(written) == amount
    assert "E" not in written


@given(amounts)
def test_nano_dollars_are_charged_upward_and_allowed_downward(amount: Decimal) -> None:
    assert money.of_nano(money.nano_floor(amount)) <= amount <= money.of_nano(money.nano(amount))
    assert money.nano(amount) - money.nano_floor(amount) <= 1


@given(strategies.integers(0, 100_000_000), strategies.integers(0, 100_000_000))
def test_cost_is_exact_at_usual_prices(input_tokens: int, output_tokens: int) -> None:
    exact = (input_tokens * 3 + output_tokens * 15) * Decimal("0.000001")
    assert money.cost(input_tokens, output_tokens, Decimal("0.003"), Decimal("0.015")) == exact


def test_what_the_ledger_cannot_hold_is_rounded_up() -> None:
    assert money.cost(1, 0, Decimal("0.000000000001"), Decimal(0)) == Decimal("0.000000000001")
    assert money.nano(Decimal("0.000000000001")) == 1


def test_a_cost_beyond_exact_counting_is_refused() -> None:
    with pytest.raises(faults.InvalidArgument):
        money.cost(100_000_000, 0, Decimal(99_999_999), Decimal(0))


def test_zero_has_one_form() -> None:
    assert money.text(Decimal("0.000000000000")) == "0"
    assert money.text(Decimal(100)) == "100"
