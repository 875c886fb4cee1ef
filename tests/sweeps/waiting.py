"""Waits for what another process does."""

from __future__ import annotations

import time


def wait_for(look, seconds=30):
    """Look again and again, until there is something; returns it."""
    end = time.monotonic() + seconds
    while (found := look()) is None or found is False:
        assert time.monotonic() < end
        time.sleep(0.005)
    return found
