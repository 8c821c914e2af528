"""Scores a model on Partonomy questions: records.jsonl and summary.json in the output folder.

python validate_partonomy.py --model plum --checkpoint runs/quickstart/model --questions data/synthetic/validation \
    --output runs/quickstart/validation
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from partonomy.benchmarks.partonomy import Conditioning
from partonomy.cli.config_files import naming_config_files
from partonomy.datasets.store import load_questions
from partonomy.evaluation.adapters import BUILTIN_MODELS
from partonomy.evaluation.model_api import GroundedModel
from partonomy.evaluation.provenance import hash_checkpoint
from partonomy.evaluation.results import Summary
from partonomy.evaluation.run_directory import EvaluationConfig
from partonomy.evaluation.runner import Job, run_evaluation
from partonomy.evaluation.sharding import Rank, rank_from_environment
from partonomy.evaluation.tables import overview
from partonomy.questions.question_types import QuestionType

ALL_TYPES = tuple(question_type.value for question_type in QuestionType)
DEFAULT_GENERATE = QuestionType.IDENTIFICATION_WITH_LABEL.value


def build_parser() -> ArgumentParser:
    """The command line; every flag may also stand in a YAML given by --config."""
    parser = ArgumentParser(prog="validate_partonomy.py", description="Score a model on Partonomy questions.")
    parser.add_argument("--config", action="config", help="YAML file with any of the flags below")
    parser.add_argument(
        "--model", choices=["plum", *BUILTIN_MODELS], required=True, help="the model; all but plum need no weights"
    )
    parser.add_argument("--checkpoint", type=str | None, default=None, help="folder of an exported model (plum)")
    parser.add_argument("--questions", type=str, required=True, help="dataset folder, or published record (.json)")
    parser.add_argument("--output", type=str, required=True, help="folder for records.jsonl and summary.json")
    parser.add_argument("--question_types", type=str, default="all", help="comma-separated types, or all")
    parser.add_argument("--limit", type=int | None, default=None, help="ask at most N questions of each type")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument(
        "--generate",
        type=str,
        default=DEFAULT_GENERATE,
        help="types on which the model also answers in its own words: all, none, or comma-separated types",
    )
    parser.add_argument(
        "--part_whole",
        choices=[choice.value for choice in Conditioning],
        default=Conditioning.GOLD.value,
        help="first answer that the second question of a part-whole type follows: the correct one or the model's own",
    )
    parser.add_argument("--num_procs", type=int, default=1, help="worker processes on this machine")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap and of --model random")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where plum runs")
    parser.add_argument(
        "--training_metrics",
        type=str,
        default="",
        help="comma-separated metrics.jsonl files of the model's training, for the report's loss curves",
    )
    return parser


def parse_types(text: str) -> tuple[str, ...]:
    """Types of a comma-separated list, in the benchmark's order; `all` and `none` are understood.

    Raises:
        ValueError: A name is not a question type.
    """
    if text == "all":
        return ALL_TYPES
    names = {name.strip() for name in text.split(",") if name.strip()} - {"none"}
    unknown = sorted(names - set(ALL_TYPES))
    if unknown:
        raise ValueError(f"unknown question type {', '.join(unknown)}; known: {', '.join(ALL_TYPES)}")
    return tuple(name for name in ALL_TYPES if name in names)


def build_model(config: EvaluationConfig, rank: Rank) -> GroundedModel:
    """Build the model of a run in the process of `rank`."""
    if config.model in BUILTIN_MODELS:
        return BUILTIN_MODELS[config.model](config.seed)
    from plum.partonomy_adapter import load_grounded_model  # noqa: PLC0415  (here, so that the baselines need no torch)

    assert config.checkpoint is not None  # make_config has checked it
    return load_grounded_model(config.checkpoint, resolve_device(config.device, rank))


def resolve_device(device: str, rank: Rank) -> str:
    """Turn `auto` into cuda where there is one, and give each rank of this machine its own GPU."""
    import torch  # noqa: PLC0415  (only for models with weights)

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no CUDA device that torch can use; pass --device cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", str(rank.index)))
    return f"cuda:{local_rank % torch.cuda.device_count()}"


def make_config(arguments: Namespace, questions_hash: str) -> EvaluationConfig:
    """Check the arguments and resolve them into the configuration that the run records.

    Raises:
        ValueError: An argument is missing or unknown.
        FileNotFoundError: The checkpoint does not exist.
    """
    if (arguments.model == "plum") != (arguments.checkpoint is not None):
        raise ValueError("--checkpoint belongs to --model plum, which needs it")
    if arguments.checkpoint is not None and not Path(arguments.checkpoint).is_dir():
        raise FileNotFoundError(f"--checkpoint {arguments.checkpoint} is not a folder")
    if arguments.num_procs < 1:
        raise ValueError(f"--num_procs must be at least 1, got {arguments.num_procs}")
    question_types = parse_types(arguments.question_types)
    if not question_types:
        raise ValueError("--question_types names no type")
    generate = parse_types(arguments.generate)
    return EvaluationConfig(
        model=arguments.model,
        checkpoint=arguments.checkpoint,
        questions=arguments.questions,
        questions_hash=questions_hash,
        output=arguments.output,
        question_types=question_types,
        limit=arguments.limit,
        generate=tuple(name for name in generate if name in question_types),
        part_whole=arguments.part_whole,
        seed=arguments.seed,
        device=arguments.device if arguments.model == "plum" else "cpu",
        training_metrics=tuple(path for path in arguments.training_metrics.split(",") if path),
        checkpoint_hash=None if arguments.checkpoint is None else hash_checkpoint(Path(arguments.checkpoint)),
    )


def main(argv: Sequence[str] | None = None) -> Summary | None:
    """Run the command; errors in the input end it with a message instead of a trace."""
    given = sys.argv[1:] if argv is None else list(argv)
    with naming_config_files(given):
        arguments = build_parser().parse_args(given)
    try:
        question_set = load_questions(Path(arguments.questions), invalid="collect")
        job = Job(make_config(arguments, question_set.content_hash), build_model)
        rank = rank_from_environment()
        summary = run_evaluation(job, question_set, arguments.resume, rank, arguments.num_procs)
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"validate_partonomy.py: error: {error}") from error
    if summary is not None:
        sys.stdout.write(overview(summary) + "\n")
        sys.stdout.write(f"Written: {job.output / 'records.jsonl'}, {job.output / 'summary.json'}\n")
    return summary


if __name__ == "__main__":
    main()
