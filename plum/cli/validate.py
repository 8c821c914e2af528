"""`python -m plum validate`: a saved model on RefCOCO, ReasonSeg, RefCOCOm, MMR, TextVQA, GQA or POPE."""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from partonomy.benchmarks import mmr
from partonomy.benchmarks.mmr import MMR_SPLITS
from partonomy.benchmarks.pope import CATEGORIES
from partonomy.benchmarks.segmentation import Wording
from partonomy.benchmarks.vqa import MAX_NEW_TOKENS, VqaProtocol
from partonomy.datasets.photographs import count_trained_on
from partonomy.harness.benchmark_run import run_benchmark
from partonomy.harness.benchmark_settings import (
    BENCHMARKS,
    MODES,
    MULTI_TARGET_NAMES,
    BenchmarkConfig,
    BenchmarkSettings,
    default_mode,
    default_split,
    read_task,
)
from partonomy.harness.benchmark_summary import BenchmarkSummary, benchmark_overview
from partonomy.harness.benchmark_tasks import VQA_BENCHMARKS, BenchmarkTask
from partonomy.harness.provenance import hash_checkpoint
from partonomy.harness.ranks import Rank, parse_shard, rank_from_environment
from plum.benchmark_model import BenchmarkPlum, check_has_adapters
from plum.checkpoints.model_config_io import read_model_config
from plum.partonomy_adapter import load_predictor


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("validate", help="score a model on a benchmark beyond Partonomy")
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--root", required=True, type=Path, help="where the data set lies")
    parser.add_argument(
        "--split",
        help="val, testA, testB (refcoco, refcoco+); val, test (refcocog, reasonseg); name of an annotation file "
        f"(refcocom); {', '.join(MMR_SPLITS)} (mmr); val (textvqa); testdev, val (gqa); {', '.join(CATEGORIES)} or all "
        "(pope); default: val, testdev of gqa under llava_official, all of pope",
    )
    parser.add_argument("--annotations", help="mmr, refcocom: a file in the place of the split's own")
    parser.add_argument("--checkpoint", required=True, help="folder of a saved model")
    parser.add_argument("--output", required=True, type=Path, help="folder for records.jsonl and summary.json")
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in MODES],
        help="one target: segment the phrase of a given answer (forced, the default), or all that the model's own "
        "answer means (generated); several (mmr, multirefcoco): the targets of the gold answer in its order "
        "(teacher_forced, the default, as M2SA's code), the model's own masks paired with them (generate), or the "
        "union of its masks with theirs (union)",
    )
    parser.add_argument(
        "--wording",
        choices=[wording.value for wording in Wording],
        help="segmentation: the question in words that PLUM is trained on (plum, the default), or in LISA's (lisa)",
    )
    parser.add_argument(
        "--protocol",
        choices=[protocol.value for protocol in VqaProtocol],
        help="VQA: LLaVA-1.5's (the default), or that of the Partonomy authors' code",
    )
    parser.add_argument("--no_ocr", action="store_true", help="textvqa: do not show the OCR tokens")
    parser.add_argument("--base", action="store_true", help="switch the adapters off: the model underneath")
    parser.add_argument("--limit", type=int, help="only the first N items (of each POPE category)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument("--num_procs", type=int, default=1, help="worker processes on this machine")
    parser.add_argument(
        "--shard",
        help="ask one part of the images, e.g. 2/8, on machines without a common launcher; python -m partonomy "
        "merge-runs joins the parts",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--device", default="auto", help="auto (each rank its own GPU), cpu, cuda, cuda:1, ...")
    parser.set_defaults(run=_run)


def read_settings(arguments: argparse.Namespace) -> BenchmarkSettings:
    """Resolve the flags.

    Raises:
        ValueError: A flag belongs to other benchmarks.
    """
    is_vqa = arguments.benchmark in VQA_BENCHMARKS
    wording = arguments.wording or (None if is_vqa else Wording.PLUM)
    protocol = arguments.protocol or (VqaProtocol.LLAVA_OFFICIAL if is_vqa else None)
    vqa_protocol = None if protocol is None else VqaProtocol(protocol)
    return BenchmarkSettings(
        arguments.benchmark,
        arguments.split or default_split(arguments.benchmark, vqa_protocol),
        next((mode for mode in MODES if mode.value == arguments.mode), default_mode(arguments.benchmark)),
        None if wording is None else Wording(wording),
        vqa_protocol,
        not arguments.no_ocr,
        arguments.limit,
        arguments.annotations,
    )


def build_model(checkpoint: str, is_base: bool, max_new_tokens: int, device: str, rank: Rank) -> BenchmarkPlum:
    """Load the checkpoint in the process of `rank`."""
    predictor = load_predictor(checkpoint, _device_of(device, rank))
    name = f"plum:{Path(checkpoint).name}"
    return BenchmarkPlum(predictor, f"{name}, adapters off" if is_base else name, is_base, max_new_tokens)


def _run(arguments: argparse.Namespace) -> None:
    checkpoint = Path(arguments.checkpoint)
    if arguments.base:
        check_has_adapters(checkpoint)
    if arguments.num_procs < 1:
        raise ValueError(f"--num_procs must be at least 1, got {arguments.num_procs}")
    if arguments.shard is not None:
        parse_shard(arguments.shard)
    settings, rank = read_settings(arguments), rank_from_environment()
    task = read_task(settings, arguments.root)
    # what the language model under the adapters has seen before is in no list
    listed = None if arguments.base else checkpoint
    config = BenchmarkConfig(
        settings=settings,
        protocol=task.protocol,
        checkpoint=arguments.checkpoint,
        checkpoint_hash=hash_checkpoint(checkpoint),
        is_base=arguments.base,
        conversation=read_model_config(checkpoint).llava.conversation,
        max_new_tokens=mmr.MAX_NEW_TOKENS if settings.benchmark in MULTI_TARGET_NAMES else MAX_NEW_TOKENS,
        root=str(arguments.root),
        content_hash=task.content_hash(),
        num_trained_on=count_trained_on(listed, {item.image_path for item in task.items}),
        shard=arguments.shard,
        seed=arguments.seed,
    )
    summary = _run_task(task, config, arguments, rank)
    if summary is not None:
        print(benchmark_overview(summary))
        print(f"Written: {arguments.output / 'records.jsonl'}, {arguments.output / 'summary.json'}")
    elif config.shard is not None and rank.index == 0:
        print(f"Shard {config.shard}: {arguments.output}")
        print("Join all: python -m partonomy merge-runs SHARDS --output DIR")


def _run_task(
    task: BenchmarkTask[Any], config: BenchmarkConfig, arguments: argparse.Namespace, rank: Rank
) -> BenchmarkSummary | None:
    build = partial(build_model, config.checkpoint, config.is_base, config.max_new_tokens, arguments.device)
    output, resume, num_procs = arguments.output, arguments.resume, arguments.num_procs
    try:
        return run_benchmark(task, config, output, build, resume=resume, rank=rank, num_procs=num_procs)
    except (FileExistsError, BlockingIOError, ChildProcessError) as error:
        raise ValueError(str(error)) from error


def _device_of(device: str, rank: Rank) -> str:
    """With "auto" each rank of this machine takes its own GPU."""
    if device != "auto" or not torch.cuda.is_available():
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', str(rank.index))) % torch.cuda.device_count()}"
