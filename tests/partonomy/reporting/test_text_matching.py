"""Embedding matching is computed from finished records: on request, later, and the same over shards."""

import dataclasses
from pathlib import Path

import pytest

from partonomy.benchmarks.partonomy.task import PartonomyOptions
from partonomy.harness.merge_runs import merge_runs
from partonomy.harness.summary import Summary
from partonomy.metrics.part_embedding import FALLBACK_EMBEDDING_MODEL
from tests.partonomy.running import make_config, run
from validate_partonomy import main as validate

MATCHING = PartonomyOptions(generate="all", text_matching=FALLBACK_EMBEDDING_MODEL, text_threshold=0.02)


def named(summary: Summary | None) -> set[str]:
    """All metric names of a summary."""
    assert summary is not None
    return {name for entry in summary.groups.values() for name in entry.metrics}


def test_metrics_come_when_asked_for_and_leave_the_others_alone(question_file: Path, tmp_path: Path) -> None:
    plain = run(make_config(question_file, tmp_path / "run", "random"))
    added = run(
        make_config(question_file, tmp_path / "run", "random", MATCHING), resume=True
    )  # no question is asked again: only the summary changes
    assert plain is not None
    assert added is not None
    extra = {
        f"{prefix}parts_{name}_embedding" for prefix in ("", "generated_") for name in ("precision", "recall", "f1")
    }
    assert named(added) - named(plain) == extra
    options = added.config["options"]
    assert (options["text_matching"], options["text_threshold"]) == (FALLBACK_EMBEDDING_MODEL, 0.02)
    assert plain.config["options"]["text_matching"] == "exact"
    for name, entry in added.groups.items():
        assert {key: entry.metrics[key] for key in plain.groups[name].metrics} == plain.groups[name].metrics
        for metric in ("parts_recall", "generated_parts_precision"):
            exact, close = entry.metrics[metric].value, entry.metrics[f"{metric}_embedding"].value
            assert exact is not None
            assert close is not None
            assert close >= exact  # equal names are close
    assert any(
        entry.metrics["parts_recall_embedding"].value != entry.metrics["parts_recall"].value
        for entry in added.groups.values()
    )


def test_shards_give_the_numbers_of_one(question_file: Path, tmp_path: Path) -> None:
    config = make_config(question_file, tmp_path / "one", "random", MATCHING)
    single = run(config)
    folders = [tmp_path / "first", tmp_path / "second"]
    for number, folder in enumerate(folders, start=1):
        run(dataclasses.replace(config, shard=f"{number}/2", output=str(folder)))
    merged = merge_runs(folders, tmp_path / "whole", None, allow_missing=False)
    assert single is not None
    assert merged.summary.groups == single.groups


def test_a_model_that_cannot_be_loaded_is_told_before_the_work(question_file: Path, tmp_path: Path) -> None:
    flags = ["--model", "random", "--questions", str(question_file), "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="cannot be loaded"):
        validate([*flags, "--text_matching", str(tmp_path / "nowhere")])
    assert not (tmp_path / "run").exists()
