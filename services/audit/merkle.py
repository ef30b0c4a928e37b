"""The Merkle tree of RFC 6962 over tiles of 256 hashes, as C2SP tlog-tiles lays them out. Pure: no I/O.

Level 0 holds leaves; a hash of level n+1 is the root over a full tile of level n. Proofs are spans of leaves; a span is
made of complete subtrees, and each of those lies in one tile.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from services.audit.verifier import Frontier, node_hash

HASH = 32
WIDTH_BITS = 8
WIDTH = 1 << WIDTH_BITS
"""Hashes in a full tile."""


class Span(NamedTuple):
    """The leaves from `begin` up to and without `end`."""

    begin: int
    end: int


class TileKey(NamedTuple):
    """Where a tile is."""

    level: int
    number: int


Tiles = Mapping[TileKey, bytes]


class TileMissing(Exception):
    """A tile, or a hash in it, that the tree needs is not there."""


def inclusion(index: int, size: int) -> list[Span]:
    """Give the spans whose hashes prove that a leaf is in a tree, from the leaf upwards (RFC 6962 section 2.1.1)."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path: list[Span] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(Span(middle, end))
            end = middle
        else:
            path.append(Span(begin, middle))
            begin = middle
    return path[::-1]


def consistency(old_size: int, size: int) -> list[Span]:
    """Give the spans whose hashes prove that a tree begins with an older one (RFC 6962 section 2.1.2)."""
    if not 0 < old_size <= size:
        raise ValueError(f"a tree of {size} cannot begin with one of {old_size}")
    path: list[Span] = []
    begin, end, whole = 0, size, True
    while old_size != end:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            path.append(Span(middle, end))
            end = middle
        else:
            path.append(Span(begin, middle))
            begin, whole = middle, False
    if not whole:
        path.append(Span(begin, end))
    return path[::-1]


def subtrees(span: Span) -> list[tuple[int, Span]]:
    """Cut a span, which begins where a subtree does, into complete subtrees with their heights, from left to right."""
    return [(height, Span(index << height, (index + 1) << height)) for height, index in _subtrees(span)]


def tiles_of(spans: Iterable[Span]) -> set[TileKey]:
    """Give the tiles that the hashes of these spans are computed from."""
    return {_place(height, index)[0] for span in spans for height, index in _subtrees(span)}


def span_hash(span: Span, tiles: Tiles) -> bytes:
    """Compute the hash of a span from tiles."""
    tree = Frontier()
    for height, index in _subtrees(span):
        key, first = _place(height, index)
        tree.push(_root(tiles, key, first, 1 << height % WIDTH_BITS), height)
    return tree.root()


class Edge:
    """The last, unfinished tile of each level; it grows by leaves and tells which tiles changed."""

    def __init__(self, size: int, tiles: Tiles) -> None:
        self.size = size
        self._levels: list[bytearray] = []
        for key in edge_tiles(size):
            count = (size >> WIDTH_BITS * key.level) & (WIDTH - 1)
            held = tiles.get(key, b"")[: count * HASH]
            if len(held) != count * HASH:
                raise TileMissing(f"tile {key.number} of level {key.level} lacks hashes")
            self._levels.append(bytearray(held))

    def extend(self, leaves: Iterable[bytes]) -> dict[TileKey, bytes]:
        """Add leaves and give every tile that changed, whole."""
        changed: dict[TileKey, bytes] = {}
        touched: set[int] = set()
        for leaf in leaves:
            self._push(0, leaf, self.size, changed, touched)
            self.size += 1
        for level in touched:
            if self._levels[level]:
                changed[_edge(self.size, level)] = bytes(self._levels[level])
        return changed

    def _push(self, level: int, value: bytes, number: int, changed: dict[TileKey, bytes], touched: set[int]) -> None:
        """Put the hash of this number on its level; a tile that is full goes up as one hash."""
        if level == len(self._levels):
            self._levels.append(bytearray())
        tile = self._levels[level]
        tile += value
        touched.add(level)
        if len(tile) == WIDTH * HASH:
            key = TileKey(level, number >> WIDTH_BITS)
            changed[key] = bytes(tile)
            tile.clear()
            self._push(level + 1, _root(changed, key, 0, WIDTH), key.number, changed, touched)


class Tree(Frontier):
    """A tree that grows from nothing: its root at every size, and the tiles that changed since they were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._levels = [bytearray()]
        self._begins = [0]

    def push(self, leaf: bytes, height: int = 0) -> None:
        """Add a leaf; a subtree that is as high as a tile is wide goes one level up."""
        peaks = self._peaks
        self.size += 1 << height
        if not height:
            self._levels[0] += leaf
        elif height == WIDTH_BITS:
            self._raise(1, leaf)
        while peaks and peaks[-1][0] == height:
            leaf = node_hash(peaks.pop()[1], leaf)
            height += 1
            if not height & (WIDTH_BITS - 1):
                self._raise(height // WIDTH_BITS, leaf)
        peaks.append((height, leaf))

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add many leaves, as the subtrees that they make: none is higher than a tile is wide."""
        held = self._levels[0]
        before = len(held)
        super().extend(leaves)
        held[before:] = b"".join(leaves)

    def _raise(self, level: int, value: bytes) -> None:
        """Put the hash of a full tile on the level above it."""
        if level == len(self._levels):
            self._levels.append(bytearray())
            self._begins.append(0)
        self._levels[level] += value

    def changed(self) -> dict[TileKey, bytes]:
        """Give every tile that changed, whole."""
        found: dict[TileKey, bytes] = {}
        for level, held in enumerate(self._levels):
            for place in range(0, len(held), WIDTH * HASH):
                number = self._begins[level] + place // (WIDTH * HASH)
                found[TileKey(level, number)] = bytes(held[place : place + WIDTH * HASH])
            whole = len(held) // (WIDTH * HASH)
            self._begins[level] += whole
            del held[: whole * WIDTH * HASH]
        return found


def edge_tiles(size: int) -> list[TileKey]:
    """Give the unfinished tile of each level of a tree, empty when the one before it has just been filled."""
    keys: list[TileKey] = []
    while size >> WIDTH_BITS * len(keys):
        keys.append(_edge(size, len(keys)))
    return keys


def _edge(size: int, level: int) -> TileKey:
    return TileKey(level, size >> WIDTH_BITS * (level + 1))


def _split(count: int) -> int:
    """Give the largest power of two below a count."""
    return 1 << (count - 1).bit_length() - 1


def _subtrees(span: Span) -> list[tuple[int, int]]:
    """Cut a span, which begins where a subtree does, into complete subtrees: (height, index), from left to right."""
    found: list[tuple[int, int]] = []
    begin = span.begin
    while begin < span.end:
        height = (span.end - begin).bit_length() - 1
        if begin:
            height = min(height, (begin & -begin).bit_length() - 1)
        found.append((height, begin >> height))
        begin += 1 << height
    return found


def _place(height: int, index: int) -> tuple[TileKey, int]:
    """Give the tile of a complete subtree and the first of its hashes in there."""
    level, rest = divmod(height, WIDTH_BITS)
    first = index << rest
    return TileKey(level, first >> WIDTH_BITS), first & (WIDTH - 1)


def _root(tiles: Tiles, key: TileKey, first: int, count: int) -> bytes:
    tree = Frontier()
    for value in _hashes(tiles, key, first, count):
        tree.push(value)
    return tree.root()


def _hashes(tiles: Tiles, key: TileKey, first: int, count: int) -> Sequence[bytes]:
    held = tiles.get(key, b"")
    if len(held) < (first + count) * HASH:
        raise TileMissing(f"tile {key.number} of level {key.level} lacks hashes")
    return [held[place * HASH : (place + 1) * HASH] for place in range(first, first + count)]
