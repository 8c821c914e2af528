from functools import cache
from pathlib import Path

import pytest

from tests.golden.runs import BENCHMARK_RUNS, PARTONOMY_RUNS, Finished, run_benchmark, run_partonomy
from tests.golden.world import World, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data and checkpoint of all golden values."""
    return write_world(tmp_path_factory.mktemp("golden") / "world")


@pytest.fixture(scope="session")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Folder of a run of `PARTONOMY_RUNS` or `BENCHMARK_RUNS`, made when a test first asks for it; only to be read."""
    folder = tmp_path_factory.mktemp("finished")

    @cache
    def make(name: str) -> Path:
        if name in PARTONOMY_RUNS:
            run_partonomy(world, folder / name, PARTONOMY_RUNS[name])
        else:
            run_benchmark(world, folder / name, BENCHMARK_RUNS[name])
        return folder / name

    return make
