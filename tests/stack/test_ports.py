"""Ports: demanded, usual, remembered, free."""

import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.cli.stack import ports
from services.cli.stack.backends import Backends
from services.cli.stack.faults import StackFault
from services.cli.stack.ports import Claims
from services.cli.stack.topology import Topology, read


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


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the claims a runtime folder that nobody else uses."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def unused() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def with_usual(name: str, port: int) -> Topology:
    """Return the topology with another usual port for one service."""
    plan = read()
    return replace(plan, services=tuple(replace(s, port=port) if s.name == name else s for s in plan.services))


def test_every_part_gets_a_port_of_its_own(parts: list[str], claims: Claims) -> None:
    chosen = ports.choose(read(), remembered={}, demanded={}, claims=claims)
    assert list(chosen) == parts
    assert len(set(chosen.values())) == len(chosen)


def test_a_free_demand_is_met(taken: int, claims: Claims) -> None:
    free = ports.choose(read(), remembered={"auth": taken}, demanded={}, claims=claims)["auth"]
    assert free != taken
    claims.release()
    assert ports.choose(read(), remembered={}, demanded={"auth.metrics": free}, claims=claims)["auth.metrics"] == free


def test_the_usual_port_comes_before_that_of_last_time(claims: Claims) -> None:
    """One busy port must not move a part for good: the ports in the README hold whenever they can."""
    plan = with_usual("audit", unused())
    chosen = ports.choose(plan, remembered={"audit": unused()}, demanded={}, claims=claims)
    assert chosen["audit"] == plan.service("audit").port


def test_the_port_of_last_time_comes_before_any_other(taken: int, claims: Claims) -> None:
    free = unused()
    plan = with_usual("audit", taken)
    assert ports.choose(plan, remembered={"audit": free}, demanded={}, claims=claims)["audit"] == free


def test_the_port_of_last_time_is_not_the_usual_one_of_another_part(taken: int, claims: Claims) -> None:
    plan = with_usual("auth", taken)
    chosen = ports.choose(plan, remembered={"auth": plan.service("audit").port}, demanded={}, claims=claims)
    assert chosen["auth"] != plan.service("audit").port


def test_a_folder_of_claims_that_others_can_write_is_refused(private: Path) -> None:
    claims = Claims()
    folder = private / f"triptych-ports-{os.geteuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(StackFault, match="is not a folder of your own with mode 0700: remove it"):
        claims.take(unused())
    folder.rmdir()
    (private / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(private / "elsewhere")
    with pytest.raises(StackFault, match="is not a folder of your own"):
        claims.take(unused())
    assert not list((private / "elsewhere").iterdir())


def test_a_link_in_place_of_a_claim_is_not_followed(private: Path) -> None:
    claims = Claims()
    folder = private / f"triptych-ports-{os.geteuid()}"
    folder.mkdir(mode=0o700)
    port = unused()
    (folder / str(port)).symlink_to(private / "made")
    with pytest.raises(StackFault, match="cannot be opened"):
        claims.take(port)
    assert not (private / "made").exists()


@pytest.mark.usefixtures("private")
def test_claims_fall_back_when_there_is_no_such_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    claims = Claims()
    assert claims.take(unused())
    claims.release()
    assert Path(tempfile.gettempdir(), f"triptych-ports-{os.geteuid()}").is_dir()


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
    assert not (tmp_path / "home").exists()  # it was not there before
    backends.home.open()
    backends.home.close()
    with pytest.raises(StackFault, match=f"port {taken}"):
        backends.start()
    assert not list((tmp_path / "home" / "run").iterdir())
    backends.home.open()  # the lock was given back
    backends.home.close()


def test_a_part_that_is_not_on_its_usual_port_is_named(tmp_path: Path, taken: int) -> None:
    backends = Backends(tmp_path / "home", {"audit": 9999})
    usual = ports.usual(backends.topology)
    backends.ports = usual | {"auth": taken, "audit": 9999}
    assert backends.moved() == [f"auth is on {taken}: {usual['auth']} is taken"]


def test_parts_that_are_not_started_are_not_spoken_of(tmp_path: Path, taken: int) -> None:
    backends = Backends(tmp_path / "home")
    usual = ports.usual(backends.topology)
    backends.ports = usual | {"auth": taken, "valkey": taken}
    assert backends.moved(servers_only=True) == [f"valkey is on {taken}: {usual['valkey']} is taken"]


def test_a_released_claim_leaves_no_file(private: Path) -> None:
    claims, port = Claims(), unused()
    folder = private / f"triptych-ports-{os.geteuid()}"
    assert claims.take(port)
    assert [path.name for path in folder.iterdir()] == [str(port)]
    claims.release()
    assert not list(folder.iterdir())
    assert claims.take(port)
    claims.release()


def test_a_claim_whose_file_was_removed_meanwhile_is_made_anew(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stack opens the file, another releases the port and removes it: a lock on it would keep nobody out."""
    first, second, third, port = Claims(), Claims(), Claims(), unused()
    assert first.take(port)
    open_file = second._open
    opened: list[int] = []

    def open_late(number: int) -> int:
        opened.append(open_file(number))
        first.release()
        return opened[-1]

    monkeypatch.setattr(second, "_open", open_late)
    assert second.take(port)
    assert len(opened) == 2
    assert not third.take(port)
    first.release()
    assert [path.name for path in (private / f"triptych-ports-{os.geteuid()}").iterdir()] == [str(port)]
    second.release()
