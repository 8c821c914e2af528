"""`python -m partonomy run BENCHMARK`: runs a model on a benchmark and writes records.jsonl and summary.json."""

from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from partonomy.benchmarks.partonomy.task import PartonomyTask
from partonomy.benchmarks.registry import BENCHMARKS, find_benchmark
from partonomy.cli.flags import add_config_flag, add_fields, add_switch, read_fields
from partonomy.cli.parsers import CommandParser, add_version, example, parse_words, settings_parser
from partonomy.harness.ranks import rank_from_environment
from partonomy.harness.run import Job, configure_run, require_scored, run_benchmark
from partonomy.harness.run_folder import RECORDS_FILE, SUMMARY_FILE, RunConfig
from partonomy.harness.summary import Summary
from partonomy.models.registry import ModelSettings
from partonomy.reporting.blind_tables import line_on_questions
from partonomy.reporting.overview import overview
from partonomy.sharding import parse_shard
from partonomy.stored_lines import Mapped

EXAMPLE_FOLDERS = {"questions": "data/mine", "root": "dataset"}
"""Value of each benchmark's `root_flag` in the example of its help text."""
RUN_FLAGS = "--questions data/mine --model random --output runs/mine_random"


def add_benchmarks(parser: ArgumentParser, default_model: str | None = None) -> None:
    """Add every benchmark as a subcommand with its own flags; see `benchmark_parser`."""
    benchmarks = parser.add_subcommands(dest="benchmark", metavar="BENCHMARK")
    for name, benchmark in BENCHMARKS.items():
        benchmarks.add_subcommand(name, benchmark_parser(name, default_model=default_model), help=benchmark.title)


def benchmark_parser(name: str, prog: str | None = None, default_model: str | None = None) -> CommandParser:
    """Build the parser of one benchmark; a YAML file given by --config may also set every flag.

    Args:
        name: Name of the benchmark.
        prog: Name of the command; None for `python -m partonomy run`.
        default_model: Default of `--model`; None makes the flag required.
    """
    benchmark = find_benchmark(name)
    program = prog or f"python -m partonomy run {name}"
    root = EXAMPLE_FOLDERS[benchmark.root_flag]
    parser = CommandParser(
        prog=program,
        description=f"{benchmark.title}.",
        epilog=example(
            f"{program} --{benchmark.root_flag} {root} --model plum \\\n"
            f"      --checkpoint runs/quickstart/model --output runs/{name}"
        ),
    )
    add_version(parser)
    add_config_flag(parser)
    parser.add_argument(f"--{benchmark.root_flag}", type=str, required=True, help=benchmark.root_help)
    parser.add_argument(
        "--output", type=str, required=True, help=f"folder to write {RECORDS_FILE} and {SUMMARY_FILE} to"
    )
    if benchmark.has_splits:
        parser.add_argument("--split", type=str | None, default=None, help=benchmark.splits)
    if benchmark.takes_annotations:
        parser.add_argument(
            "--annotations", type=str | None, default=None, help="annotation file to read instead of the split's own"
        )
    add_fields(parser, ModelSettings, {"model": default_model} if default_model else {})
    add_fields(parser, benchmark.options, {})
    parser.add_argument("--limit", type=int | None, default=None, help="maximum number of items (per group)")
    add_switch(parser, "resume", "continue the run in --output, and ask failed items again")
    add_switch(parser, "overwrite", "delete the run in --output and start anew")
    parser.add_argument("--num_procs", type=int, default=1, help="number of worker processes on this machine")
    parser.add_argument(
        "--shard",
        type=str | None,
        default=None,
        help="run on one part of the images, e.g. 2/8, for machines without a common launcher; join the parts with "
        "python -m partonomy merge-runs",
    )
    parser.add_argument("--local_rank", type=int, default=0, help="set by the deepspeed launcher; ignored")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the bootstrap, of --model random and of the order of choices"
    )
    return parser


def read_run(name: str, arguments: Namespace) -> RunConfig:
    """Check the arguments and resolve them into the run's configuration, without the fields that depend on the data.

    Raises:
        ValueError: An argument is missing or unknown.
        FileNotFoundError: The checkpoint does not exist.
    """
    benchmark = find_benchmark(name)
    output = Path(arguments.output)
    if arguments.shard is not None:
        parse_shard(arguments.shard)
    model = read_fields(ModelSettings, arguments).resolve(output)
    options = read_fields(benchmark.options, arguments).resolve(model.model)
    return RunConfig(
        benchmark=name,
        split=arguments.get("split") or "",
        root=arguments[benchmark.root_flag],
        annotations=arguments.get("annotations"),
        options=asdict(options),
        protocol="",
        protocol_version="",
        content_hash="",
        model=model,
        output=arguments.output,
        limit=arguments.limit,
        shard=arguments.shard,
        seed=arguments.seed,
    )


def run_parsed(name: str, arguments: Namespace) -> Summary | None:
    """Run a benchmark and print its overview.

    Raises:
        OSError, ValueError, RuntimeError: See `run_benchmark`.
    """
    config = read_run(name, arguments)
    task = config.load_task()
    job = Job(configure_run(config, task))
    rank = rank_from_environment()
    summary = run_benchmark(
        job,
        task,
        resume=arguments.resume,
        rank=rank,
        num_procs=arguments.num_procs,
        overwrite=arguments.overwrite,
    )
    if summary is not None:
        print(overview(summary))
        if isinstance(task, PartonomyTask) and (line := _blind_line(task)):
            print(line)
        print(f"Written: {job.output / RECORDS_FILE}, {job.output / SUMMARY_FILE}")
        require_scored(job.output, summary.num_expected, summary.reasons)
    elif job.config.shard is not None and rank.index == 0:
        print(f"Shard {job.config.shard}: {job.output}")
        print("Join all shards: python -m partonomy merge-runs SHARDS --output FOLDER")
    return summary


def _blind_line(task: PartonomyTask) -> str:
    """Return what a guess without image and question reaches on the task's choices; "" if that is about chance."""
    questions = Mapped(task.items, attrgetter("question"))
    line = line_on_questions(task.split, questions, [item.image_id for item in task.items])
    return f"For comparison: {line}" if line else ""


def run_named(name: str, prog: str, arguments: Sequence[str], default_model: str | None = None) -> Summary | None:
    """Run one benchmark as a command of its own.

    Args:
        name: Name of the benchmark.
        prog: Name of the command, for messages.
        arguments: The command's arguments.
        default_model: See `benchmark_parser`.

    Raises:
        SystemExit: A flag is unknown, or help was requested.
        OSError, ValueError, RuntimeError: See `run_benchmark`.
    """
    return run_parsed(name, parse_words(benchmark_parser(name, prog, default_model), arguments))


def run_command(arguments: Sequence[str]) -> None:
    """Score a model on a benchmark.

    Args:
        arguments: The benchmark and its flags.

    Raises:
        SystemExit: An argument is unknown, or help was requested.
        OSError, ValueError, RuntimeError: There is no such benchmark, or the run failed; see `run_benchmark`.
    """
    name = next(iter(arguments), "")
    if name and not name.startswith("-"):
        find_benchmark(name)
    run_any("python -m partonomy run", arguments, RUN_FLAGS)


def run_any(prog: str, arguments: Sequence[str], flags: str, default_model: str | None = None) -> None:
    """Run the benchmark that the first argument names; without one, show the benchmarks.

    Args:
        prog: Name of the command, for messages.
        arguments: The benchmark and its flags.
        flags: Flags of the example in the help text.
        default_model: See `benchmark_parser`.

    Raises:
        SystemExit: The benchmark or a flag is unknown, or help was requested.
        OSError, ValueError, RuntimeError: See `run_benchmark`.
    """
    name = next(iter(arguments), "")
    if name in BENCHMARKS:
        run_named(name, f"{prog} {name}", arguments[1:], default_model)
        return
    parser = settings_parser(
        prog=prog, description="Score a model on a benchmark.", epilog=example(f"{prog} partonomy {flags}")
    )
    add_benchmarks(parser, default_model)
    parse_words(parser, arguments)
