import pytest

from tests.golden.world import World, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data and checkpoint of all golden values."""
    return write_world(tmp_path_factory.mktemp("golden") / "world")
