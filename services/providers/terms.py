"""Terms: the rows under which somebody may reserve: provider with prices, tenant's configuration, owner's quota.

They are kept between reservations and compared with the rows once more in the transaction that stores one. So a change
counts from the next reservation on, in every process, and an ordinary one reads nothing beforehand.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, true

from services.kit import calls
from services.kit.db import Row, Statement, Transaction, param
from services.providers import configs, owners, providers, quotas
from services.providers.epochs import EpochPassed
from services.providers.owners import Owner

MOST = 10_000
"""Kept by a process, each about 2 kB."""
SECONDS = 60.0
"""For which they are kept, so that the clock of the database, which they carry along, stays that of the database."""
_quota = select(quotas.table.c.epoch, quotas.table.c.revision).where(owners.owned(quotas.table))
_config = select(configs.table.c.epoch, configs.table.c.revision)
# Whoever begins a new epoch, or changes a limit, waits for those who store under the old one.
_q, _c = (query.with_for_update(read=True).subquery(name) for query, name in ((_quota, "q"), (_config, "c")))
_p = providers.priced.where(providers.table.c.id == param("provider_id")).subquery("p")
_hold = Statement(
    select(
        _q.c.epoch.label("quota_epoch"),
        _q.c.revision.label("quota_revision"),
        _c.c.epoch.label("config_epoch"),
        _c.c.revision.label("config_revision"),
        _p.c.revision.label("provider_revision"),
        _p.c.price_version_id,
    ).select_from(_q.join(_c, onclause=true()).join(_p, onclause=true()))
)


@dataclass(frozen=True, slots=True)
class Terms:
    """The rows, and when they were read by this process's clock."""

    tenant_id: str
    owner: Owner
    provider: Row
    config: Row
    quota: Row
    read: float

    @property
    def now(self) -> datetime:
        """The database's time, carried along by this process's clock."""
        return self.quota["now"] + timedelta(seconds=time.monotonic() - self.read)  # type: ignore[no-any-return]


async def see(tx: Transaction, provider_id: str) -> Terms:
    """Read the caller's."""
    provider = await providers.row(tx, provider_id)
    owner = owners.caller()
    config = await configs.see(tx)
    return Terms(tx.tenant_id, owner, provider, config, await quotas.see(tx, owner), time.monotonic())


async def hold(tx: Transaction, terms: Terms) -> bool:
    """Keep the epochs as they are until the transaction ends, and tell whether all else is as it was seen."""
    row = await tx.one(_hold, **terms.owner.columns, provider_id=terms.provider["id"])
    if row is None or (row["quota_epoch"], row["config_epoch"]) != (terms.quota["epoch"], terms.config["epoch"]):
        raise EpochPassed
    now = row["quota_revision"], row["config_revision"], row["provider_revision"], row["price_version_id"]
    provider = terms.provider["revision"], terms.provider["price_version_id"]
    return now == (terms.quota["revision"], terms.config["revision"], *provider)


class Shelf:
    """The terms that this process saw lately."""

    def __init__(self, *, most: int = MOST, seconds: float = SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._held: OrderedDict[tuple[str, Owner, str], Terms] = OrderedDict()

    def find(self, provider_id: str) -> Terms | None:
        """Give those of the caller, if they are here and made for the role that the caller has now."""
        terms = self._held.get(_key(provider_id))
        if terms is None or time.monotonic() - terms.read > self._seconds:
            return None
        return terms if quotas.fits(terms.quota, terms.owner) else None

    def keep(self, terms: Terms) -> None:
        """Keep them; the oldest make room."""
        key = (terms.tenant_id, terms.owner, str(terms.provider["id"]))
        self._held[key] = terms
        self._held.move_to_end(key)
        while len(self._held) > self._most:
            self._held.popitem(last=False)

    def drop(self, provider_id: str) -> None:
        """Forget those of the caller."""
        self._held.pop(_key(provider_id), None)


def _key(provider_id: str) -> tuple[str, Owner, str]:
    return calls.caller().tenant_id, owners.caller(), provider_id.lower()
