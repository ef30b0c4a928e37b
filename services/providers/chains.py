"""Chains: who may answer a call, in which order. The provider that was asked for comes first, whatever its health."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from services.kit.db import Row, Statement, Transaction
from services.providers import configs, healths, owners, providers
from services.providers.owners import Owner
from triptych.providers.v1 import model_pb2

_local = Statement(
    select(providers.table.c.id)
    .where(providers.table.c.type == providers.LOCAL, providers.table.c.active)
    .order_by(providers.table.c.name)
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Link:
    """A provider, and whose key it is asked with."""

    provider: Row
    source: "model_pb2.KeySource.ValueType"
    owner: Owner | None
    """Of the key; None: it needs none."""


async def make(tx: Transaction, request: Any) -> Sequence[Link]:
    """Give the links of a call, best first. What the tenant's configuration forbids is left out, or refused at once."""
    config, fallback, caller = await configs.see(tx), request.fallback, owners.caller()
    wanted = await providers.row(tx, request.provider_id)
    configs.check(config, str(wanted["id"]), kind=caller.kind)  # before a key is opened for nothing
    others = [await providers.row(tx, provider_id) for provider_id in fallback.provider_ids]
    others = [provider for provider in others if provider["active"]]
    if others:
        states = await healths.states(tx, [provider["id"] for provider in others])
        others.sort(key=lambda provider: healths.ORDER[states[provider["id"]]])  # stable: else the caller's order
    if fallback.local and (found := await tx.one(_local)) is not None:
        others.append(await providers.row(tx, str(found["id"])))
    others = [provider for provider in others if _is_allowed(config, provider, caller.kind)]
    chain = {provider["id"]: provider for provider in (wanted, *others)}  # each once
    platform = fallback.platform_key and config["platform_key_allowed"]
    return [link for provider in chain.values() for link in _links(provider, platform=platform)]


def _is_allowed(config: Row, provider: Row, kind: str) -> bool:
    """Say whether the tenant lets the caller fall back to a provider."""
    local = provider["type"] == providers.LOCAL
    return configs.is_allowed(config, str(provider["id"]), kind=kind) and (
        config["local_fallback_allowed"] or not local
    )


def _links(provider: Row, *, platform: bool) -> list[Link]:
    if provider["type"] == providers.LOCAL:
        return [Link(provider, model_pb2.KEY_SOURCE_NONE, None)]
    own = Link(provider, model_pb2.KEY_SOURCE_OWN, owners.caller())
    if platform and provider["platform_provided"]:
        return [own, Link(provider, model_pb2.KEY_SOURCE_PLATFORM, owners.PLATFORM)]
    return [own]
