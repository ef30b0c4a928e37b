"""Valkey: counters, limits and caches. What it holds can be lost; the truth is in PostgreSQL."""

from services.kit import without
from services.kit.settings import Settings

with without("opentelemetry.sdk"):  # redis prepares metrics of its own with it
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import ExponentialBackoff


def connect(settings: Settings) -> Redis:
    """Give a client; it connects when it is first used, and again after the server was away.

    In a burst calls wait for a connection; a pool that raises at once would make a busy server look like a dead one.
    """
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        settings.valkey_url,
        password=settings.secret(settings.valkey_password_file),
        socket_timeout=1.0,
        socket_connect_timeout=0.5,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 2),
        health_check_interval=15,
        max_connections=32,
        timeout=1,
    )
    return Redis.from_pool(pool)
