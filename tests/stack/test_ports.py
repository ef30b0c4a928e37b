"""Ports: demanded, remembered, usual, free."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.stack import ports
from services.cli.stack.backends import Backends
from services.cli.stack.faults import StackFault
from services.cli.stack.ports import Claims
from services.cli.stack.topology import read


@pytest.fixture
def claims() -> Iterator[Claims]:
    held = Claims()
    yield held
    held.release()


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_every_part_gets_a_port_of_its_own(parts: list[str], claims: Claims) -> None:
    chosen = ports.choose(read(), remembered={}, demanded={}, claims=claims)
    assert list(chosen) == parts
    assert len(set(chosen.values())) == len(chosen)


def test_a_free_demand_is_met(taken: int, claims: Claims) -> None:
    free = ports.choose(read(), remembered={"auth": taken}, demanded={}, claims=claims)["auth"]
    assert free != taken
    claims.release()
    assert ports.choose(read(), remembered={}, demanded={"auth.metrics": free}, claims=claims)["auth.metrics"] == free


def test_the_port_of_last_time_comes_before_the_usual_one(claims: Claims) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    assert ports.choose(read(), remembered={"audit": free}, demanded={}, claims=claims)["audit"] == free


def test_a_taken_demand_is_a_clear_error(taken: int, claims: Claims) -> None:
    with pytest.raises(StackFault, match=f"port {taken}, demanded for auth, is taken"):
        ports.choose(read(), remembered={}, demanded={"auth": taken}, claims=claims)


def test_one_port_for_two_parts_is_a_clear_error(claims: Claims) -> None:
    free = ports.choose(read(), remembered={}, demanded={}, claims=claims)["auth"]
    with pytest.raises(StackFault, match="demanded twice"):
        ports.choose(read(), remembered={}, demanded={"auth": free, "audit": free}, claims=claims)


def test_two_stacks_that_choose_in_the_same_moment_choose_apart(claims: Claims) -> None:
    mine = ports.choose(read(), remembered={}, demanded={}, claims=claims)
    others = Claims()
    theirs = ports.choose(read(), remembered=mine, demanded={}, claims=others)
    with pytest.raises(StackFault, match="is taken"):
        ports.choose(read(), remembered={}, demanded={"auth": mine["auth"]}, claims=others)
    others.release()
    assert not set(mine.values()) & set(theirs.values())


def test_an_unknown_part_is_a_clear_error(claims: Claims) -> None:
    with pytest.raises(StackFault, match="no part is called billing"):
        ports.choose(read(), remembered={}, demanded={"billing": 7000}, claims=claims)


def test_a_taken_demand_leaves_nothing_behind(tmp_path: Path, taken: int) -> None:
    backends = Backends(tmp_path / "home", {"valkey": taken}, durable=False)
    with pytest.raises(StackFault, match=f"port {taken}"):
        backends.start()
    assert not list((tmp_path / "home" / "run").iterdir())
    backends.home.open()  # the lock was given back
    backends.home.close()
