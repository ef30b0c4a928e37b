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


async def subtrees(tx: Transaction, span: Span) -> list[tuple[int, str]]:
    """Give the complete subtrees that a span is made of: height and hash (hex)."""
    parts = merkle.subtrees(span)
    found = await hashes(tx, [part for _, part in parts])
    return [(height, value.hex()) for (height, _), value in zip(parts, found, strict=True)]


async def leaves(tx: Transaction, begin: int, end: int) -> list[bytes]:
    """Give the leaf hashes from one place up to another; these are there when the entries have left the log."""
    first, last = begin >> merkle.WIDTH_BITS, (end - 1) >> merkle.WIDTH_BITS
    held = await fetch(tx, [TileKey(0, number) for number in range(first, last + 1)])
    joined = b"".join(held.get(TileKey(0, number), b"") for number in range(first, last + 1))
    before = first << merkle.WIDTH_BITS
    cut = joined[(begin - before) * merkle.HASH : (end - before) * merkle.HASH]
    if len(cut) != (end - begin) * merkle.HASH:
        raise merkle.TileMissing(f"leaf hashes between {begin} and {end} are missing")
    return [cut[place : place + merkle.HASH] for place in range(0, len(cut), merkle.HASH)]


async def root(tx: Transaction, size: int) -> bytes:
    """Give the root over the first entries."""
    return (await hashes(tx, [Span(0, size)]))[0]
