"""Servers of storages, one for all tests of this folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.search.servers import BINARIES, GrpcServer, Postgres


@pytest.fixture(scope="session")
def grpc_server(tmp_path_factory):
    pytest.importorskip("grpc")
    server = GrpcServer(tmp_path_factory.mktemp("grpc"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgres():
    pytest.importorskip("psycopg")
    if not BINARIES:
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(prefix="postgres") as folder:
        server = Postgres(Path(folder))
        yield server
        server.kill()
