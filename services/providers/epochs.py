"""Epochs: which counters count. Each quota and each tenant's configuration has one, and a rebuild begins the next.

Whoever writes what counters must show holds the epoch until its transaction ends; so a rebuild sees all of it, or is
over before it.
"""

from collections.abc import Sequence

from services.kit.db import Transaction
from services.providers import configs, quotas
from services.providers.counters import Account, Accounts
from services.providers.owners import Owner, tenant
from services.providers.windows import Limits


class EpochPassed(Exception):
    """The counters under which a hold was admitted are not those that count any more: begin again."""


async def share(tx: Transaction, owner: Owner, *, epoch: int | None = None) -> tuple[Accounts, Limits]:
    """Give the accounts that an owner's use is charged to, and the tenant's limits.

    Nobody can rebuild the counters until the transaction ends. Whoever has locked the owner's row knows its epoch.
    """
    epoch = await quotas.share(tx, owner) if epoch is None else epoch
    config = await configs.share(tx)
    own = Account(tx.tenant_id, owner, epoch, config["now"])
    whole = Account(tx.tenant_id, tenant(tx.tenant_id), config["epoch"], config["now"])
    return Accounts(own, whole), configs.limits(config)


async def share_tenant(tx: Transaction, tenant_id: str) -> Account:
    """Give the tenant's account; nobody can rebuild its counters until the transaction ends."""
    config = await configs.share(tx)
    return Account(tenant_id, tenant(tenant_id), config["epoch"], config["now"])


async def renew(tx: Transaction, owner: Owner, *, seen: int | None = None) -> Account | None:
    """Begin a new epoch: whoever reserved under the old one must begin again.

    None when there is no row, or when the epoch is not the one that was seen.
    """
    renewing = configs.renew(tx, seen=seen) if owner.kind == "tenant" else quotas.renew(tx, owner, seen=seen)
    row = await renewing
    return None if row is None else Account(tx.tenant_id, owner, row["epoch"], row["now"])


async def renew_all(tx: Transaction, owners: Sequence[Owner]) -> None:
    """Begin new epochs, and leave the counters to whoever needs them next."""
    for owner in owners:
        await renew(tx, owner)
