"""The order of the whole suite: what takes longest comes first, so that several workers end together."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with tests of several processes before the others; a file stays together, for its fixtures."""
    slow = {item.path for item in items if item.get_closest_marker("distributed") or item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
