"""The process that forks commands."""

from collections.abc import Iterator

import pytest
from forked import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    assert server.process.stdin is not None
    server.process.stdin.close()
    server.process.wait()
