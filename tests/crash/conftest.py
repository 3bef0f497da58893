"""The process that forks commands."""

from collections.abc import Iterator

import pytest
from forked import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    # Closes its standard input, which ends it, and waits.
    server.process.communicate()
