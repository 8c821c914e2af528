"""The runs whose metrics are golden, through the command lines, and what of their folders is compared."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from partonomy.harness import summary as harness_summary
from partonomy.harness.summary import summary_to_json
from plum.cli.main import main as plum
from tests.golden.world import World
from tests.unsigned import unsigned_lines
from validate_partonomy import main as validate_partonomy

Golden = dict[str, Any]
Finished = Callable[[str], Path]
"""From a run's name to its folder."""

PARTONOMY_RUNS: Mapping[str, tuple[str, ...]] = {
    "oracle": ("synthetic_paper", "oracle"),
    "oracle_predicted": ("synthetic_paper", "oracle", "--part_whole", "predicted"),
    "oracle_damaged": ("damaged", "oracle"),
    "empty": ("synthetic_paper", "empty"),
    "random": ("synthetic_paper", "random", "--text_matching", "char-ngram-tfidf"),
    "random_predicted": ("synthetic_balanced", "random", "--part_whole", "predicted", "--seed", "7"),
    "random_listwise": ("synthetic_paper", "random", "--choice_protocol", "listwise"),
    "random_authors": ("synthetic_authors", "random"),
    "random_paco": ("paco", "random"),
    "random_part_imagenet": ("part_imagenet", "random", "--limit", "4"),
    "plum": ("synthetic_paper", "plum"),
    "plum_predicted": ("synthetic_balanced", "plum", "--part_whole", "predicted"),
    "plum_listwise": ("synthetic_paper", "plum", "--choice_protocol", "listwise", "--part_whole", "predicted"),
    "plum_paco": ("paco", "plum"),
}
"""Question set, model, flags. All ten types, with own answers to all."""

BENCHMARK_RUNS: Mapping[str, tuple[str, ...]] = {
    "refcoco_forced": ("refcoco", "--split", "val"),
    "refcoco_forced_lisa": ("refcoco", "--split", "val", "--wording", "lisa"),
    "refcoco_generated": ("refcoco", "--split", "testA", "--mode", "generated"),
    "refcoco_forced_base": ("refcoco", "--split", "testB", "--base"),
    "refcoco+_forced": ("refcoco+", "--split", "testB"),
    "refcoco+_generated_lisa": ("refcoco+", "--split", "val", "--mode", "generated", "--wording", "lisa"),
    "refcocog_forced": ("refcocog", "--split", "test"),
    "refcocog_generated": ("refcocog", "--split", "val", "--mode", "generated", "--seed", "5"),
    "reasonseg_forced": ("reasonseg", "--split", "val"),
    "reasonseg_forced_the_target": ("reasonseg", "--split", "val", "--answers", "the_target"),
    "reasonseg_forced_lisa": ("reasonseg", "--split", "test", "--wording", "lisa"),
    "reasonseg_generated": ("reasonseg", "--split", "test", "--mode", "generated"),
    "refcocom_part_forced": ("refcocom", "--split", "val_part"),
    "refcocom_generated": ("refcocom", "--split", "testA", "--mode", "generated"),
    "refcocom_forced_lisa": ("refcocom", "--split", "testB", "--wording", "lisa"),
    "grefcoco": ("grefcoco", "--split", "val"),
    "grefcoco_lisa": ("grefcoco", "--split", "testA", "--wording", "lisa", "--min_pixels", "50"),
    "instructpart_forced": ("instructpart",),
    "instructpart_generated": ("instructpart", "--mode", "generated", "--instruction", "part_name"),
    "mmr_teacher_forced": ("mmr", "--split", "val"),
    "mmr_generate": ("mmr", "--split", "test_mixed", "--mode", "generate"),
    "mmr_union": ("mmr", "--split", "test_part_only", "--mode", "union"),
    "mmr_teacher_forced_objects": ("mmr", "--split", "test_obj_only"),
    "mmr_generate_lisa": ("mmr", "--split", "val", "--mode", "generate", "--wording", "lisa"),
    "multirefcoco_teacher_forced": ("multirefcoco", "--split", "val"),
    "multirefcoco+_generate": ("multirefcoco+", "--split", "testA", "--mode", "generate"),
    "multirefcocog_union": ("multirefcocog", "--split", "test", "--mode", "union"),
    "textvqa": ("textvqa",),
    "textvqa_no_ocr": ("textvqa", "--no_ocr"),
    "textvqa_compat": ("textvqa", "--protocol", "partonomy_compat"),
    "textvqa_base": ("textvqa", "--base"),
    "gqa": ("gqa",),
    "gqa_compat": ("gqa", "--protocol", "partonomy_compat"),
    "pope": ("pope",),
    "pope_base": ("pope", "--base", "--limit", "6"),
    "pope_compat": ("pope", "--protocol", "partonomy_compat"),
    "pope_random": ("pope", "--split", "random", "--limit", "5"),
}
"""Arguments of `python -m plum validate`; the model is the tiny PLUM."""
VQA = ("textvqa", "gqa", "pope")


def run_partonomy(world: World, output: Path, settings: Sequence[str], *flags: str) -> None:
    """Run `validate_partonomy.py`."""
    questions, model, *further = settings
    checkpoint = ("--checkpoint", str(world.checkpoint)) if model == "plum" else ()
    command = ["--model", model, *checkpoint, "--questions", str(world.questions(questions)), "--output", str(output)]
    validate_partonomy([*command, "--generate", "all", "--device", "cpu", *further, *flags])


def run_benchmark(world: World, output: Path, settings: Sequence[str], *flags: str) -> None:
    """Run `python -m plum validate`."""
    benchmark = settings[0]
    root = world.miniature / benchmark if benchmark in VQA else world.miniature
    places = ["--root", str(root), "--checkpoint", str(world.checkpoint), "--output", str(output), "--device", "cpu"]
    if plum(["validate", *settings, *places, *flags]) != 0:
        raise RuntimeError(f"python -m plum validate {' '.join(settings)} failed")


def partonomy_scores(world: World, output: Path) -> Golden:
    """Counts, reasons and metrics of `summary.json`, by question type."""
    return {name: _scores(world, entry) for name, entry in read_summary(output)["groups"].items()}


def benchmark_scores(world: World, output: Path) -> Golden:
    """Counts, reasons and metrics of `summary.json`."""
    summary = read_summary(output)
    named = {key: summary[key] for key in ("benchmark", "split", "protocol", "headline", "notes")}
    named["is_base"] = summary["provenance"]["config"]["model"]["base"]
    return {"named": named, **_scores(world, summary["groups"]["all"])}


def read_summary(output: Path) -> dict[str, Any]:
    """Read `summary.json`, by whichever version of the code it was written."""
    return summary_to_json(harness_summary.read_summary(output / "summary.json"))


def untimed_records(output: Path) -> list[dict[str, Any]]:
    """The lines of `records.jsonl` without their seconds and checksums."""
    lines = unsigned_lines(output / "records.jsonl")
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def _scores(world: World, entry: Mapping[str, Any]) -> Golden:
    counts = {key: entry[key] for key in ("num_expected", "num_scored", "num_failed")}
    reasons = {text.replace(str(world.folder), "WORLD"): count for text, count in entry["reasons"].items()}
    metrics = {name: _estimate(value) for name, value in entry["metrics"].items()}
    return {"counts": counts, "reasons": reasons, "metrics": metrics}


def _estimate(entry: Mapping[str, Any]) -> list[float | int | None]:
    """Value, lower and upper end of the interval, count."""
    low, high = (entry["ci95"] or (None, None)) if "ci95" in entry else (entry["low"], entry["high"])
    numbers = (entry["value"], low, high)
    return [*(None if one is None else float(f"{one:.9g}") for one in numbers), entry.get("n", entry.get("count"))]
