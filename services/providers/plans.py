"""Plans: what a reservation would hold, at which price, against which limits; and what is said when it does not fit."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

from services.kit import faults
from services.kit.db import Row
from services.kit.faults import ResourceExhausted
from services.providers import configs, money, owners, providers, quotas, windows
from services.providers.counters import Account, Accounts, Hold
from services.providers.owners import Owner
from services.providers.terms import Terms
from services.providers.windows import Limits, Want
from triptych.providers.v1 import quota_service_pb2 as pb

USUAL_HOLD, SHORTEST_HOLD = 120, 10
"""Seconds."""
REFUSALS = (configs.AiDisabled, configs.ProviderNotAllowed, providers.ProviderArchived, providers.ProviderInactive)
"""Why terms let nothing in, whatever the quota."""


class QuotaExceeded(ResourceExhausted):
    """The hold does not fit in a window."""

    def __init__(self, exceeded: Sequence[str], limits: Limits, account: Account) -> None:
        texts = {name: windows.text(name, limits[name] or 0) for name in exceeded}
        super().__init__(
            f"the quota is used up: {', '.join(exceeded)}",
            violations={name: f"the limit is {limit}" for name, limit in texts.items()},
            retry_after=max(windows.wait(name, account.now) for name in exceeded),
            window=exceeded[0],
            limit=texts[exceeded[0]],
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What somebody wants to reserve."""

    provider_id: str
    operation: str
    input_tokens: int
    output_tokens: int
    seconds: int
    request_id: str = ""
    """The same request of a day holds once, however often and at how many servers it arrives at the same time."""
    invocation_id: str | None = None

    @classmethod
    def of(cls, request: pb.ReserveQuotaRequest) -> "Demand":
        """Read it from a request."""
        tokens = request.estimated_input_tokens, request.estimated_output_tokens
        return cls(request.provider_id, request.operation, *tokens, _seconds(request), request.request_id)


@dataclass(frozen=True, slots=True)
class Plan:
    """A reservation that is about to be made: for whom, at which price, against which limits."""

    demand: Demand
    terms: Terms
    prices: tuple[Decimal, Decimal]
    """Of 1,000 tokens in and out."""
    accounts: Accounts
    limits: Limits
    """The owner's, and the tenant's under their own names."""
    hold: Hold
    cost: Decimal

    @property
    def provider(self) -> Row:
        """Whose model."""
        return self.terms.provider

    @property
    def owner(self) -> Owner:
        """Whose quota."""
        return self.accounts.own.owner

    def on(self, accounts: Accounts) -> "Plan":
        """Give the same plan under newer epochs; it may have become another day meanwhile."""
        return replace(self, accounts=accounts, hold=replace(self.hold, day=accounts.own.day))


def make(demand: Demand, terms: Terms) -> Plan:
    """Make the plan of a reservation under these terms, or raise."""
    tenant_id, provider, config, now = terms.tenant_id, terms.provider, terms.config, terms.now
    providers.check_usable(provider, demand.provider_id)
    configs.check(config, demand.provider_id, kind=terms.owner.kind)
    own = Account(tenant_id, terms.owner, terms.quota["epoch"], now)
    accounts = Accounts(own, Account(tenant_id, owners.tenant(tenant_id), config["epoch"], now))
    prices = configs.prices(config, provider)
    cost = money.cost(demand.input_tokens, demand.output_tokens, *prices)
    hold = Hold(
        id=_hold_id(own, demand.request_id),
        want=Want(tokens=demand.input_tokens + demand.output_tokens, cost=money.nano(cost)),
        day=own.day,
        expire_time=own.now + timedelta(seconds=demand.seconds),
    )
    limits = {**quotas.limits(terms.quota), **windows.of_tenant(configs.limits(config))}
    return Plan(demand, terms, prices, accounts, limits, hold, cost)


def _hold_id(account: Account, request_id: str) -> str:
    if not request_id:
        return str(uuid.uuid4())
    name = f"{account.owner}|{request_id.lower()}|{account.day}"
    return str(uuid.uuid5(uuid.UUID(account.tenant_id), name))


def _seconds(request: pb.ReserveQuotaRequest) -> int:
    seconds = request.hold_seconds or USUAL_HOLD
    if seconds < SHORTEST_HOLD:
        problem = f"must be 0 or at least {SHORTEST_HOLD}"
        raise faults.RequestInvalid(
            f"hold_seconds: {problem}", violations={"hold_seconds": problem}, fields="hold_seconds"
        )
    return seconds
