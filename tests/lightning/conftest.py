"""What the tests of Lightning share."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture
def messages(caplog):
    """Returns the warnings so far."""
    caplog.set_level(logging.WARNING, "lit_optim")
    return lambda: [record.getMessage() for record in caplog.records]
