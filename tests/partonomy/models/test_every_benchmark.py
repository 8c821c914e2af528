"""Every model is put to every benchmark: the bounds hold, and what a model cannot do is null.

The oracle's headline is 1 with two exceptions, which come from the metric: TextVQA's soft score of the best answer is
below 1 where fewer than four of ten people agree, and the Partonomy authors' score of GQA gives an exact match with
one of two answers 1/6.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.__main__ import main
from partonomy.benchmarks.partonomy.task import PartonomyOptions
from partonomy.benchmarks.registry import BENCHMARKS
from partonomy.harness.run import configure_run
from partonomy.harness.run_folder import RunConfig
from partonomy.harness.summary import Summary
from partonomy.models.bounds import BUILTIN_MODELS
from partonomy.models.contract import ChoiceScore, Generation, GroundedModel, Turn
from partonomy.models.registry import ModelSettings
from partonomy.structures import CharSpan, QuestionType
from tests.partonomy.benchmarks.test_gcg import gcg_content
from tests.partonomy.benchmarks.test_gcg import write as write_gcg
from tests.partonomy.benchmarks.vqa_world import textvqa_record, write_textvqa
from tests.partonomy.conftest import write_questions
from tests.partonomy.questions.mixed_parts.pair_world import draw_dataset, store_dataset
from tests.partonomy.running import run, run_model
from tests.plum.data.miniature_world import miniature

SEGMENTATION = ("refcoco", "refcoco+", "refcocog", "reasonseg", "refcocom", "instructpart")
MULTI_TARGET = ("mmr", "multirefcoco", "multirefcoco+", "multirefcocog", "multicityscapes", "multigtav")
VQA = ("textvqa", "gqa", "pope")
CASES = [
    *((name, {}) for name in BENCHMARKS),
    ("partonomy", {"choice_protocol": "listwise"}),
    *((name, {"mode": "generated"}) for name in SEGMENTATION),
    *((name, {"mode": mode}) for name in MULTI_TARGET for mode in ("generate", "union")),
    *((name, {"protocol": "partonomy_compat"}) for name in VQA),
]
Case = tuple[str, dict[str, str]]
NO_PAIRS = "the model does not answer questions about several images (answer_images)"
NGRAMS = {"embedding_model": "char-ngram-tfidf"}


def config_of(case: Case, folder: Path, model: str) -> RunConfig:
    name, chosen = case
    benchmark = BENCHMARKS[name]
    if name == "partonomy":
        root = write_questions(folder, tuple(QuestionType))
        options = dataclasses.asdict(PartonomyOptions(generate="all").resolve(model)) | chosen
    elif name == "mixedparts":
        root = folder / "pairs"
        dataset = store_dataset(draw_dataset("own", 40, folder), folder / "own")
        numbers = ["--num_train", "0", "--num_val", "12", "--num_test", "12", "--shares", "0,0.5,0.5"]
        assert main(["build-mixedparts", str(dataset), "--output", str(root), "--min_pixels", "1", *numbers]) == 0
        options = dataclasses.asdict(benchmark.options()) | NGRAMS
    elif name == "gcg":
        root = write_gcg(folder / "gcg", gcg_content())
        options = dataclasses.asdict(benchmark.options()) | NGRAMS
    else:
        root = miniature() / name if (miniature() / name).is_dir() else miniature()
        options = dataclasses.asdict(benchmark.options()) | chosen
    config = RunConfig(
        benchmark=name,
        split="",
        root=str(root),
        options=options,
        protocol="",
        protocol_version="",
        content_hash="",
        model=ModelSettings(model, device="cpu"),
        output=str(folder / "run"),
    )
    return configure_run(config, config.load_task())


def headlines(summary: Summary | None) -> list[float | None]:
    assert summary is not None
    return [entry.metrics[summary.headline].value for entry in summary.groups.values() if entry.num_expected]


@pytest.mark.parametrize("model", BUILTIN_MODELS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join((case[0], *case[1].values())))
def test_bounds_on_every_benchmark(tmp_path: Path, case: Case, model: str) -> None:
    summary = run(config_of(case, tmp_path, model))
    assert summary is not None
    found = headlines(summary)
    assert found
    is_free = case[0] in ("textvqa", "gqa")
    if model == "random" and is_free:
        assert found == [None]
        (entry,) = summary.groups.values()
        assert list(entry.reasons) == ["NotImplementedError: answers are free, so a guess has nothing to choose from"]
        return
    says_nothing = model == "empty" and case == ("partonomy", {"choice_protocol": "listwise"})
    assert summary.num_failed == (summary.num_expected if says_nothing else 0)
    numbers = [value for value in found if value is not None]
    assert len(numbers) == len(found)
    if model == "oracle":
        assert found == [pytest.approx(1 / 6) if case == ("gqa", {"protocol": "partonomy_compat"}) else 1.0] * len(
            found
        )
    else:
        assert all(0 <= value < 1 for value in numbers)


def test_the_oracle_gives_the_answer_on_which_most_people_agree(tmp_path: Path) -> None:
    answers = ["b", "a", "a", *(f"c{number}" for number in range(7))]
    write_textvqa(tmp_path, [textvqa_record(1, "aa", answers), textvqa_record(2, "bb", ["d"] * 4 + answers[4:])])
    config = dataclasses.replace(config_of(("textvqa", {}), tmp_path, "oracle"), root=str(tmp_path))
    config = dataclasses.replace(config, content_hash=config.load_task().content_hash())
    assert headlines(run(config)) == [pytest.approx((0.6 + 1.0) / 2)]


class TextModel:
    """Answers in words and scores choices, as chat and transformers models do; has no masks."""

    name = "text"

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        return [ChoiceScore(-float(len(choice)), 1, -float(len(choice)), 1) for choice in choices]

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        raise NotImplementedError("no masks")

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        raise NotImplementedError("no masks")

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        return "yes"


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join((case[0], *case[1].values())))
def test_a_model_without_masks_has_null_metrics_where_masks_are_asked_for(tmp_path: Path, case: Case) -> None:
    model: GroundedModel = TextModel()
    summary = run_model(config_of(case, tmp_path, "oracle"), model)
    if case[0] in VQA:
        assert summary.num_failed == 0
        assert all(value is not None for value in headlines(summary))
    elif case[0] == "partonomy":
        assert set(headlines(summary)) == {None}
        assert all(entry.metrics["parts_accuracy"].value is not None for entry in summary.groups.values())
    else:
        assert headlines(summary) == [None]
        reason = NO_PAIRS if case[0] == "mixedparts" else "no masks"
        assert summary.groups["all"].reasons == {f"NotImplementedError: {reason}": summary.num_expected}
        assert all(estimate.value is None for estimate in summary.metrics.values())
