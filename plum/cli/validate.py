"""`python -m plum validate`: a saved model on RefCOCO, ReasonSeg, TextVQA, GQA or POPE."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from partonomy.benchmarks.gqa import read_gqa
from partonomy.benchmarks.pope import ALL_CATEGORIES, CATEGORIES, read_pope
from partonomy.benchmarks.reason_seg_data import read_reason_seg
from partonomy.benchmarks.referring_data import read_referring
from partonomy.benchmarks.segmentation_scores import SegmentationMode, Wording
from partonomy.benchmarks.textvqa import read_textvqa
from partonomy.benchmarks.vqa_items import MAX_NEW_TOKENS, VqaItem, VqaProtocol
from partonomy.evaluation.benchmark_run import BenchmarkConfig, run_benchmark
from partonomy.evaluation.benchmark_summary import benchmark_overview
from partonomy.evaluation.benchmark_tasks import (
    REASON_SEG,
    REFCOCO_NAMES,
    VQA_BENCHMARKS,
    SegmentationTask,
    VqaTask,
)
from partonomy.evaluation.provenance import hash_checkpoint
from partonomy.evaluation.sharding import Rank, rank_from_environment
from plum.benchmark_model import BenchmarkPlum, check_has_adapters
from plum.checkpoints.model_config_io import read_model_config
from plum.partonomy_adapter import load_predictor

BENCHMARKS = (*REFCOCO_NAMES, REASON_SEG, *VQA_BENCHMARKS)
DEFAULT_SPLITS = {"textvqa": "val", "gqa": "testdev", "pope": ALL_CATEGORIES}
COMPAT_GQA_SPLIT = "val"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("validate", help="score a model on a benchmark beyond Partonomy")
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--root", required=True, type=Path, help="where the data set lies")
    parser.add_argument(
        "--split",
        help="val, testA, testB (refcoco, refcoco+); val, test (refcocog, reasonseg); val (textvqa); testdev, val "
        f"(gqa); {', '.join(CATEGORIES)} or all (pope); default: val, testdev of gqa under llava_official, all of pope",
    )
    parser.add_argument("--checkpoint", required=True, help="folder of a saved model")
    parser.add_argument("--output", required=True, type=Path, help="folder for records.jsonl and summary.json")
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in SegmentationMode],
        help="segmentation: segment the phrase of a given answer (forced, the default), or all that the model's own "
        "answer tags (generated)",
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
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--device", default="auto", help="auto (each rank its own GPU), cpu, cuda, cuda:1, ...")
    parser.set_defaults(run=_run)


def read_task(arguments: argparse.Namespace) -> VqaTask | SegmentationTask:
    """Read what is to be asked.

    Raises:
        FileNotFoundError, ValueError: Files are missing or broken, or a flag belongs to other benchmarks.
    """
    name, limit = str(arguments.benchmark), arguments.limit
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    is_vqa = name in VQA_BENCHMARKS
    if is_vqa and (arguments.mode is not None or arguments.wording is not None):
        raise ValueError(f"--mode and --wording are for segmentation; {name} takes --protocol")
    if not is_vqa and arguments.protocol is not None:
        raise ValueError(f"--protocol is for questions; {name} takes --mode")
    if arguments.no_ocr and name != "textvqa":
        raise ValueError(f"--no_ocr is for textvqa, not {name}")
    if is_vqa:
        protocol = VqaProtocol(arguments.protocol or VqaProtocol.LLAVA_OFFICIAL)
        split = arguments.split or _default_split(name, protocol)
        return VqaTask(name, split, protocol, _read_questions(arguments, split, protocol))
    split = arguments.split or "val"
    if name == REASON_SEG:
        items = read_reason_seg(arguments.root, split)
    else:
        items = read_referring(arguments.root, name, split)
    mode, wording = arguments.mode or SegmentationMode.FORCED, arguments.wording or Wording.PLUM
    return SegmentationTask(name, split, SegmentationMode(mode), items[:limit], Wording(wording))


def _default_split(name: str, protocol: VqaProtocol) -> str:
    is_compat_gqa = name == "gqa" and protocol is VqaProtocol.PARTONOMY_COMPAT
    return COMPAT_GQA_SPLIT if is_compat_gqa else DEFAULT_SPLITS[name]


def _read_questions(arguments: argparse.Namespace, split: str, protocol: VqaProtocol) -> tuple[VqaItem, ...]:
    root, limit = arguments.root, arguments.limit
    if arguments.benchmark == "textvqa":
        with_ocr = protocol is VqaProtocol.LLAVA_OFFICIAL and not arguments.no_ocr
        return read_textvqa(root, split, with_ocr)[:limit]
    if arguments.benchmark == "gqa":
        return read_gqa(root, split, protocol)[:limit]
    return _first_of_each_group(read_pope(root, split), limit)


def _first_of_each_group(items: Sequence[VqaItem], limit: int | None) -> tuple[VqaItem, ...]:
    counts: dict[str, int] = {}
    kept = []
    for item in items:
        counts[item.group] = counts.get(item.group, 0) + 1
        if limit is None or counts[item.group] <= limit:
            kept.append(item)
    return tuple(kept)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.base:
        check_has_adapters(Path(arguments.checkpoint))
    task, rank = read_task(arguments), rank_from_environment()
    config = BenchmarkConfig(
        benchmark=task.benchmark,
        split=task.split,
        protocol=task.protocol,
        checkpoint=arguments.checkpoint,
        checkpoint_hash=hash_checkpoint(Path(arguments.checkpoint)),
        is_base=arguments.base,
        conversation=read_model_config(Path(arguments.checkpoint)).llava.conversation,
        max_new_tokens=MAX_NEW_TOKENS,
        limit=arguments.limit,
        root=str(arguments.root),
        content_hash=task.content_hash(),
        seed=arguments.seed,
    )

    def build_model() -> BenchmarkPlum:
        predictor = load_predictor(arguments.checkpoint, _device_of(arguments.device, rank))
        name = f"plum:{Path(arguments.checkpoint).name}"
        return BenchmarkPlum(
            predictor, f"{name}, adapters off" if arguments.base else name, arguments.base, MAX_NEW_TOKENS
        )

    try:
        # one call per type: a task is generic in its items
        if isinstance(task, VqaTask):
            summary = run_benchmark(task, config, arguments.output, build_model, resume=arguments.resume, rank=rank)
        else:
            summary = run_benchmark(task, config, arguments.output, build_model, resume=arguments.resume, rank=rank)
    except (FileExistsError, BlockingIOError) as error:
        raise ValueError(str(error)) from error
    if summary is not None:
        print(benchmark_overview(summary))
        print(f"Written: {arguments.output / 'records.jsonl'}, {arguments.output / 'summary.json'}")


def _device_of(device: str, rank: Rank) -> str:
    """With "auto" each rank of this machine takes its own GPU."""
    if device != "auto" or not torch.cuda.is_available():
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', str(rank.index))) % torch.cuda.device_count()}"
