"""`python -m partonomy import-predictions`: makes a run of predictions that another program has written."""

from dataclasses import asdict, replace
from pathlib import Path

from partonomy.benchmarks.registry import find_benchmark
from partonomy.files import check_text
from partonomy.harness.import_predictions import import_predictions as import_files
from partonomy.harness.import_predictions import read_options_text
from partonomy.harness.run import require_scored
from partonomy.harness.run_folder import RECORDS_FILE, SUMMARY_FILE, RunConfig
from partonomy.models.registry import NAMED_MODELS, ModelSettings
from partonomy.reporting.overview import overview
from partonomy.sharding import parse_shard

PARTONOMY = "partonomy"


def import_predictions(
    files: list[str],
    *,
    output: str,
    name: str,
    questions: str | None = None,
    protocol: str = "",
    benchmark: str = PARTONOMY,
    root: str | None = None,
    split: str | None = None,
    annotations: str | None = None,
    options: str | None = None,
    shares_mask: bool = False,
    limit: int | None = None,
    shard: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Make a run of predictions that another program has written, in the schema of export-predictions.

    The run is scored like any other, and tables, compare, report and merge-runs take it. It is marked as imported
    wherever its numbers are printed. docs/import_predictions.md describes the file.

    Args:
        files: Files with the predictions, a JSON list or lines of JSON (.jsonl); no item may be in two of them.
        output: Folder to write the run to; it must be empty or new.
        name: Name of the model, for tables.
        questions: Partonomy only: data set folder or published record file that the predictions were made for.
        protocol: How the predictions were made, in words; printed with every score.
        benchmark: Name of the benchmark.
        root: All other benchmarks: folder of the data.
        split: Part of the benchmark; default as in `run BENCHMARK`.
        annotations: A file that replaces the split's own, for benchmarks that take one.
        options: JSON object of the benchmark's flags as in `run BENCHMARK`, such as {"mode": "generate"}.
        shares_mask: All phrases of an answer share one mask (LISA's `single`); tables compare it with the union of the
            true masks.
        limit: Expect predictions of the first N items only (Partonomy: of each question type).
        shard: Expect predictions of one shard only, such as 2/8; merge-runs joins the shards.
        seed: Seed of the bootstrap.
        overwrite: Replace the run in the output folder.

    Raises:
        FileNotFoundError: A file or the data are missing.
        FileExistsError: The output folder is not empty.
        ValueError: A flag or an entry is malformed; the message names file and record.
        RuntimeError: No item has a usable prediction; the run is written and says so.
    """
    check_text(name.strip(), "--name")
    if name in NAMED_MODELS:
        raise ValueError(f"--name {name} is a model of this code; choose another name for the imported predictions")
    if shard is not None:
        parse_shard(shard)
    config = _configure(name, output, benchmark, {"questions": questions, "root": root})
    config = replace(config, split=split or "", annotations=annotations, limit=limit, shard=shard, seed=seed)
    given = read_options_text(options)
    config = replace(config, options={**config.options, **given})
    chosen = config.read_options()
    if benchmark != PARTONOMY:  # whose options also depend on the file
        config = replace(config, options=asdict(chosen.resolve(name)))
    done = import_files(
        config, [Path(file) for file in files], protocol=protocol, shares_mask=shares_mask, overwrite=overwrite
    )
    if done.summary is not None:
        print(overview(done.summary))
    print(f"{done.num_entries} predictions imported; {done.num_missing} items have none and count as failed")
    print(f"Answers in the file: {', '.join(done.answers) or 'none'}")
    if done.summary is None:
        print(f"Shard {shard}: {output}")
        print("Join all shards: python -m partonomy merge-runs SHARDS --output FOLDER")
    else:
        print(f"Written: {Path(output) / RECORDS_FILE}, {Path(output) / SUMMARY_FILE}")
    require_scored(Path(output), done.counts.num_expected, done.counts.reasons)


def _configure(name: str, output: str, benchmark: str, places: dict[str, str | None]) -> RunConfig:
    """Return the settings that name model and data.

    Raises:
        ValueError: The data are not named, or with the flag of another benchmark.
    """
    registered = find_benchmark(benchmark)
    for flag, place in places.items():
        if place is not None and flag != registered.root_flag:
            raise ValueError(f"name the data of {benchmark} with --{registered.root_flag}, not with --{flag}")
    root = places[registered.root_flag]
    if root is None:
        raise ValueError(f"name the data of {benchmark} with --{registered.root_flag}")
    return RunConfig(
        benchmark=benchmark,
        split="",
        root=root,
        options=asdict(registered.options()),
        protocol="",
        protocol_version="",
        content_hash="",
        model=ModelSettings(name),
        output=output,
    )
