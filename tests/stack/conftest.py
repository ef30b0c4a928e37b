"""One set of real servers for all tests of the stack."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.stack.backends import Backends
from services.cli.stack.ports import usual
from services.cli.stack.topology import read


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """Make a home that the database's user can reach, also when root runs the tests."""
    path = Path(tempfile.mkdtemp(prefix="triptych tests "))  # the space is on purpose
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def backends(home: Path) -> Iterator[Backends]:
    with Backends(home, durable=False) as running:
        yield running


@pytest.fixture(scope="session")
def parts() -> list[str]:
    """List the name of everything that has a port."""
    return list(usual(read()))
