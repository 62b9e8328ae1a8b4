"""Two threads at most, so that the suite behaves the same on any machine."""

import gc
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def environment():
    """Scripts run in this process forget proxies; a later test may start a program that needs them."""
    before = dict(os.environ)
    yield
    for name in {*before, *os.environ}:
        if os.environ.get(name) != before.get(name) and not name.startswith("PYTEST_"):
            os.environ.pop(name, None)
            os.environ |= {name: before[name]} if name in before else {}


def pytest_collection_finish():
    """Collect garbage less often: each full collection looks through all of torch, pandas and the tests themselves."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
