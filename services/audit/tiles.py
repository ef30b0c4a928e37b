"""Tiles: the Merkle tree of a log as it is stored. Never dropped, so proofs outlive the entries that they are about."""

from collections.abc import Iterable, Mapping

from services.audit import merkle
from services.audit.merkle import Span, TileKey
from services.kit.db import Transaction

_FETCH = """
    SELECT level, idx, hashes FROM tiles
    WHERE tenant_id = $1 AND (level, idx) IN (SELECT * FROM unnest($2::smallint[], $3::bigint[]))
"""
_STORE = """
    INSERT INTO tiles (tenant_id, level, idx, hashes)
    SELECT $1, * FROM unnest($2::smallint[], $3::bigint[], $4::bytea[])
    ON CONFLICT (tenant_id, level, idx) DO UPDATE SET hashes = excluded.hashes
"""


async def fetch(tx: Transaction, keys: Iterable[TileKey]) -> dict[TileKey, bytes]:
    """Give tiles; one that is not there is left out."""
    wanted = list(keys)
    levels, indexes = [key.level for key in wanted], [key.number for key in wanted]
    rows = await tx.connection.fetch(_FETCH, tx.tenant_id, levels, indexes)
    return {TileKey(row["level"], row["idx"]): row["hashes"] for row in rows}


async def store(tx: Transaction, changed: Mapping[TileKey, bytes]) -> None:
    """Store tiles that are new or have grown."""
    levels, indexes = [key.level for key in changed], [key.number for key in changed]
    await tx.connection.execute(_STORE, tx.tenant_id, levels, indexes, list(changed.values()))


async def edge(tx: Transaction, size: int) -> merkle.Edge:
    """Give the right edge of the log's tree, to grow on."""
    return merkle.Edge(size, await fetch(tx, merkle.edge_tiles(size)))


async def hashes(tx: Transaction, spans: list[Span]) -> list[bytes]:
    """Give the hash of each span."""
    held = await fetch(tx, merkle.tiles_of(spans))
    return [merkle.span_hash(span, held) for span in spans]


async def root(tx: Transaction, size: int) -> bytes:
    """Give the root over the first entries."""
    return (await hashes(tx, [Span(0, size)]))[0]
