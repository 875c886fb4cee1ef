"""Ends the processes that the tests here share, once a worker goes on to others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sharding.processes import stop_processes


@pytest.fixture(scope="package", autouse=True)
def _stop_processes() -> Iterator[None]:
    yield
    stop_processes()
