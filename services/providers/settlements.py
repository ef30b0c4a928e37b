"""Settlements: what counters must be told of a reservation that was committed or released, or of uses without one."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from services.kit.db import Transaction
from services.providers import epochs, owners, reservations
from services.providers.counters import Accounts
from services.providers.windows import Limits, Want


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the counters must be told after a commit or release."""

    accounts: Accounts
    reservation_id: uuid.UUID
    hold_id: str
    used: Want | None
    """None after a release."""
    counted: bool
    budget: Limits
    """The tenant's limits."""
    day: date


@dataclass(frozen=True, slots=True)
class Charge:
    """What the counters must be told of uses without a reservation."""

    accounts: Accounts
    id: uuid.UUID
    requests: int
    used: Want
    budget: Limits
    """The tenant's limits."""
    day: date


Chargeable = Settlement | Charge


async def of_reservation(tx: Transaction, reservation_id: str) -> Settlement:
    """Give what the counters must be told of a settled reservation; the epochs hold until the transaction ends."""
    row = await reservations.get(tx, reservation_id)
    accounts, budget = await epochs.share(tx, owners.in_row(row))
    committed = row["state"] == "committed"
    used = Want(row["input_tokens"] + row["output_tokens"], row["cost_nano"]) if committed else None
    return Settlement(accounts, row["id"], str(row["hold_id"]), used, row["counted"], budget, row["day"])


def reservations_of(settled: Sequence[Chargeable]) -> list[uuid.UUID]:
    """Give the ids of the reservations among them."""
    return [one.reservation_id for one in settled if isinstance(one, Settlement)]


def charges_of(settled: Sequence[Chargeable]) -> list[uuid.UUID]:
    """Give the ids of the charges among them."""
    return [one.id for one in settled if isinstance(one, Charge)]
