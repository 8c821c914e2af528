"""The benchmarks of `python -m partonomy run`. To add one, write a file with a `Benchmark` and add one line here."""

from partonomy.benchmarks import (
    gcg,
    gqa,
    grefcoco,
    instruct_part,
    mixed_parts,
    mmr,
    multi_referring,
    pope,
    reason_seg,
    refcoco,
    refcocom,
    street_scenes,
    textvqa,
)
from partonomy.benchmarks.partonomy import task as partonomy
from partonomy.benchmarks.task import Benchmark
from partonomy.suggestions import did_you_mean

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        partonomy.BENCHMARK,
        *refcoco.BENCHMARKS,
        reason_seg.BENCHMARK,
        refcocom.BENCHMARK,
        grefcoco.BENCHMARK,
        instruct_part.BENCHMARK,
        mmr.BENCHMARK,
        *multi_referring.BENCHMARKS,
        mixed_parts.BENCHMARK,
        gcg.BENCHMARK,
        *street_scenes.BENCHMARKS,
        textvqa.BENCHMARK,
        gqa.BENCHMARK,
        pope.BENCHMARK,
    )
}
"""Name -> benchmark, in the order of the list that users see."""


def find_benchmark(name: str) -> Benchmark:
    """Look up a benchmark.

    Raises:
        ValueError: There is no benchmark of that name.
    """
    if name not in BENCHMARKS:
        raise ValueError(
            f"there is no benchmark {name!r}; known: {', '.join(BENCHMARKS)}{did_you_mean(name, BENCHMARKS)}"
        )
    return BENCHMARKS[name]
