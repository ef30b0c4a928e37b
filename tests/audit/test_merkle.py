"""The tree against RFC 6962's reference data and against the definition, written as the RFC states it."""

import hashlib

import pytest
from hypothesis import given, settings, strategies as st

from services.audit import merkle
from services.audit.merkle import Edge, Span, TileKey, consistency, inclusion, span_hash, tiles_of
from services.audit.verifier import Frontier, extends, includes, leaf_hash, node_hash

# Inputs and roots of the reference implementation's tests (certificate-transparency, merkletree_test).
INPUTS = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [hashlib.sha256(b"\0" + value).digest() for value in INPUTS]


def naive(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    middle = 1
    while middle * 2 < len(leaves):
        middle *= 2
    return node_hash(naive(leaves[:middle]), naive(leaves[middle:]))


def made(count: int) -> list[bytes]:
    return [leaf_hash(str(number)) for number in range(count)]


def tiles_over(leaves: list[bytes]) -> dict[TileKey, bytes]:
    return Edge(0, {}).extend(leaves)


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert Frontier().root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_reference_implementation(size: int) -> None:
    tree = Frontier()
    for leaf in LEAVES[:size]:
        tree.push(leaf)
    assert tree.root().hex() == ROOTS[size - 1]
    assert span_hash(Span(0, size), tiles_over(LEAVES[:size])).hex() == ROOTS[size - 1]
    assert naive(LEAVES[:size]).hex() == ROOTS[size - 1]


# Paths of the reference implementation: (leaf from 0, size, hashes) and (older, newer, hashes).
PATHS = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
]
STEPS = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


@pytest.mark.parametrize(("index", "size", "expected"), PATHS)
def test_inclusion_proofs_are_those_of_the_reference_implementation(index: int, size: int, expected: list[str]) -> None:
    tiles = tiles_over(LEAVES)
    assert [span_hash(span, tiles).hex() for span in inclusion(index, size)] == expected


@pytest.mark.parametrize(("old", "size", "expected"), STEPS)
def test_consistency_proofs_are_those_of_the_reference_implementation(old: int, size: int, expected: list[str]) -> None:
    tiles = tiles_over(LEAVES)
    assert [span_hash(span, tiles).hex() for span in consistency(old, size)] == expected


@given(st.integers(0, 1500), st.data())
@settings(max_examples=60)
def test_tiles_grown_in_any_steps_give_the_root_by_definition(size: int, data: st.DataObject) -> None:
    tiles: dict[TileKey, bytes] = {}
    leaves, done = made(size), 0
    while done < size:
        step = data.draw(st.integers(1, size - done))
        tiles |= Edge(done, tiles).extend(leaves[done : done + step])
        done += step
    assert span_hash(Span(0, size), tiles) == naive(leaves)


@given(st.lists(st.integers(0, 600), min_size=1, max_size=5))
@settings(max_examples=60)
def test_leaves_that_are_added_together_make_the_same_tree(counts: list[int]) -> None:
    together, one_by_one, frontier = merkle.Tree(), merkle.Tree(), Frontier()
    for count in counts:
        leaves = [leaf_hash(f"{together.size + step}") for step in range(count)]
        together.extend(leaves)
        frontier.extend(leaves)
        for leaf in leaves:
            one_by_one.push(leaf)
        assert together.changed() == one_by_one.changed()
        assert together.size == frontier.size == one_by_one.size
        assert together.root() == frontier.root() == one_by_one.root()
    assert together.root() == naive(made(together.size))


@given(st.integers(1, 700), st.data())
@settings(max_examples=60)
def test_an_inclusion_proof_holds_for_its_leaf_and_no_other(size: int, data: st.DataObject) -> None:
    leaves = made(size)
    tiles, root = tiles_over(leaves), naive(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = [span_hash(span, tiles) for span in inclusion(index, size)]
    assert includes(leaf=leaves[index], index=index, size=size, hashes=path, root=root)
    assert not includes(leaf=leaf_hash("forged"), index=index, size=size, hashes=path, root=root)
    assert not includes(leaf=leaves[index], index=index, size=size, hashes=[*path, root], root=root)
    if size > 1:
        assert not includes(leaf=leaves[index], index=(index + 1) % size, size=size, hashes=path, root=root)
        assert not includes(leaf=leaves[index], index=index, size=size, hashes=path[:-1], root=root)


@given(st.integers(1, 700), st.data())
@settings(max_examples=60)
def test_a_consistency_proof_holds_for_its_older_tree_and_no_other(size: int, data: st.DataObject) -> None:
    leaves = made(size)
    tiles, root = tiles_over(leaves), naive(leaves)
    old = data.draw(st.integers(1, size))
    path = [span_hash(span, tiles) for span in consistency(old, size)]
    older = naive(leaves[:old])
    assert extends(old_size=old, old_root=older, size=size, root=root, hashes=path)
    other = naive([*leaves[: old - 1], leaf_hash("forged")])
    assert not extends(old_size=old, old_root=other, size=size, root=root, hashes=path)
    if path:
        assert not extends(old_size=old, old_root=older, size=size, root=root, hashes=path[:-1])


def test_a_proof_in_sixteen_million_entries_reads_few_tiles() -> None:
    assert len(tiles_of(inclusion(5_000_000, 2**24))) <= 3
    assert len(inclusion(5_000_000, 2**24)) == 24


def test_a_tile_that_lacks_hashes_is_an_error_and_no_other_root() -> None:
    tiles = tiles_over(made(300))
    tiles[TileKey(0, 1)] = tiles[TileKey(0, 1)][:32]
    with pytest.raises(merkle.TileMissing):
        span_hash(Span(0, 300), tiles)
    with pytest.raises(merkle.TileMissing):
        Edge(300, tiles)


def test_there_is_no_proof_of_what_is_not_in_the_tree() -> None:
    with pytest.raises(ValueError, match="not in a tree"):
        inclusion(8, 8)
    with pytest.raises(ValueError, match="cannot begin"):
        consistency(9, 8)
