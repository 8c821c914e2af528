"""LISA and M2SA from training to scores, through the same runner, trainer, predictor and benchmark as PLUM."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.benchmarks.partonomy.task import PartonomyOptions, PartonomyTask, QuestionItem
from partonomy.datasets.store import load_questions
from partonomy.harness.provenance import describe_model
from partonomy.masks import encode_mask
from partonomy.metrics.matching import Matching
from partonomy.models.contract import AnswerRequest, ChoiceRequest, MarkingModel, MaskRequest, Role, Turn
from partonomy.structures import CharSpan, QuestionType
from plum.checkpoints.store import load_pretrained
from plum.config import LoraConfig, SegTokenConfig
from plum.data.build import build_mixture
from plum.data.collate import Collator
from plum.export.merged import ExportRequest, export_merged
from plum.inference.partonomy_adapter import PlumModel, load_grounded_model
from plum.inference.predictor import Predictor
from plum.inference.question_batch import QuestionBatch
from plum.inference.teacher_forced import evaluate_teacher_forced
from plum.inputs.encoding import token_id
from plum.models.segmenters.mask_resize import masks_in_original_pixels
from plum.models.systems.seg_token import SEG_TOKEN
from plum.structures import IGNORE_INDEX, Exchange, Sample
from plum.train_config import DataConfig, SourceConfig, TrainableConfig, TrainConfig
from plum.training.run import train
from tests.partonomy.running import records_of
from tests.plum.models.systems.sisters_world import make_sister, seg_tokenizer, sister_config
from tests.plum.predictor_world import ANSWER, HISTORY, QUESTION, SPANS, make_image, make_predictor
from tests.plum.training.training_world import make_config, write_inputs

System = Literal["lisa", "m2sa"]
Targets = Literal["many", "single"]
DATA = DataConfig(sources=(SourceConfig("part_vqa", "unused"),))
VARIANTS: list[tuple[System, Targets, bool]] = [
    ("lisa", "many", False),
    ("lisa", "single", False),
    ("lisa", "many", True),
    ("m2sa", "many", False),
]


def _predictor(system: System = "lisa", targets: Targets = "many", has_feedback: bool = False) -> Predictor:
    model = make_sister(sister_config(system, targets, has_feedback))
    return Predictor(model, seg_tokenizer(), model.config)


@pytest.mark.parametrize(("system", "targets", "has_feedback"), VARIANTS)
def test_segment_equals_the_training_forward(system: System, targets: Targets, has_feedback: bool) -> None:
    predictor, image = _predictor(system, targets, has_feedback), make_image()
    found = predictor.segment(image, QUESTION, ANSWER, SPANS)
    masks = (encode_mask(np.zeros(image.shape[:2], dtype=bool)),) * 3
    sample = Sample("s", "test", image, ((Exchange(QUESTION[0].text, ANSWER, SPANS, masks),),))
    batch = Collator(seg_tokenizer(), predictor.model.config, DATA)([sample])
    assert len(batch.masks) == len(batch.spans) == (3 if targets == "many" else 1)
    with torch.no_grad():
        output = predictor.model(batch, with_teacher=False)
    logits = masks_in_original_pixels(output.mask_logits, batch.frames * len(batch.masks), 32)
    expected = [logit > 0 for logit in logits] * (1 if targets == "many" else 3)
    assert np.array_equal(found.masks, torch.stack(expected).numpy())
    backwards = predictor.segment(image, QUESTION, ANSWER, SPANS[::-1])
    assert np.array_equal(backwards.masks, found.masks[::-1])


def test_a_choices_log_probability_counts_its_seg_tokens() -> None:
    predictor, image = _predictor(), make_image()
    (plain,) = predictor.score_choices(image, QUESTION, [ANSWER])
    (marked,) = predictor.score_choices(image, QUESTION, [ANSWER], [SPANS])
    assert marked.answer_tokens == plain.answer_tokens + 3
    row = predictor.answers.given([predictor.encoder.slot()], QUESTION, ANSWER, "choice", SPANS)
    seg = token_id(seg_tokenizer(), SEG_TOKEN)
    at = [i for i, token in enumerate(row.encoded.input_ids) if token == seg]
    with torch.no_grad():
        states = predictor._hidden_states([image], [row])[0]
        log_probs = predictor.model.token_logits(states).log_softmax(-1)
    answer = row.answers[-1]
    expected = sum(float(log_probs[i - 1, row.encoded.input_ids[i]]) for i in range(answer.start, answer.end))
    assert marked.answer_log_prob == pytest.approx(expected, abs=1e-3)
    assert len(at) == 3


def test_earlier_answers_carry_seg_where_their_phrases_are_known() -> None:
    answers = _predictor().answers
    told = Turn(Role.ASSISTANT, "It is the wheel.", (CharSpan(10, 15),))
    text = answers.prompt((HISTORY[0], told, HISTORY[2]), [answers.encoder.slot()]).text
    assert "It is the wheel [SEG].</s>" in text
    assert "[SEG]" not in answers.prompt(HISTORY, [answers.encoder.slot()]).text
    own = Turn(Role.ASSISTANT, "It is the wheel [SEG].")
    assert answers.prompt((HISTORY[0], own, HISTORY[2]), [answers.encoder.slot()]).text == text, "a chat goes on"


@pytest.mark.parametrize(("system", "targets", "has_feedback"), VARIANTS)
def test_batched_answers_are_those_question_by_question(system: System, targets: Targets, has_feedback: bool) -> None:
    predictor, image = _predictor(system, targets, has_feedback), make_image()
    choices, phrases = (ANSWER, "It has a wheel."), (SPANS, (CharSpan(9, 14),))
    alone = predictor.score_choices(image, QUESTION, choices, phrases)
    masks = predictor.segment(image, QUESTION, ANSWER, SPANS).masks
    batch = QuestionBatch(predictor, [predictor.images.read(image)])
    (together,) = batch.score_choices([ChoiceRequest(0, QUESTION, choices, phrases)])
    for one, other in zip(alone, together, strict=True):
        assert other.answer_log_prob == pytest.approx(one.answer_log_prob, abs=1e-3)
        assert other.answer_tokens == one.answer_tokens
    (found,) = batch.segment([MaskRequest(0, QUESTION, ANSWER, SPANS)])
    assert (found != masks).mean() < 1e-3


def test_generated_answers_are_segmented_at_their_seg_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, image, tokenizer = _predictor(), make_image(), seg_tokenizer()
    written = "It has a front wheel [SEG], a wheel [SEG] and a propeller [SEG]."

    def generate_text(*_: object) -> Tensor:
        return torch.tensor([tokenizer(" " + written + "</s>")["input_ids"]])

    monkeypatch.setattr(predictor.model, "generate_text", generate_text)
    prediction = predictor.generate(image, QUESTION)
    assert prediction.text == written
    assert [written[span.start : span.end] for span in prediction.spans] == ["front wheel", "wheel", "propeller"]
    assert np.array_equal(prediction.masks, predictor.segment(image, QUESTION, ANSWER, SPANS).masks)
    assert all(0 < confidence < 1 for confidence in prediction.tag_confidences)
    assert predictor.generate_text(image, QUESTION) == ANSWER, "words alone carry no mark"
    # Together with others the answer is written from kept keys and values; the rest is the same.
    monkeypatch.setattr(predictor.model.llava, "generate_from", generate_text)
    (found,) = QuestionBatch(predictor, [predictor.images.read(image)]).generate([AnswerRequest(0, QUESTION)])
    assert (found.text, found.spans) == (prediction.text, prediction.spans)
    assert np.array_equal(found.masks, prediction.masks)
    assert found.confidences == pytest.approx(prediction.mask_confidences, abs=1e-5)


def test_seg_in_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match=r"contains \[SEG\]"):
        _predictor().generate(make_image(), (Turn(Role.USER, "Where is [SEG]?"),))


def test_plain_scores_do_not_change_where_nothing_is_marked() -> None:
    """PLUM goes through the same seam and writes what it always wrote."""
    predictor, image = make_predictor(), make_image()
    assert predictor.score_choices(image, QUESTION, [ANSWER], [SPANS]) == predictor.score_choices(
        image, QUESTION, [ANSWER]
    )


@pytest.fixture(scope="module")
def stage_0(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A PLUM that its sisters start from; its tokenizer leaves rows free, as the shipped ones do."""
    folder = tmp_path_factory.mktemp("sisters")
    write_inputs(folder)
    config = make_config(folder, "stage_0", num_updates=2)
    language = replace(config.model.llava.language, vocab_size=config.model.llava.language.vocab_size + 8)
    config = replace(config, model=replace(config.model, llava=replace(config.model.llava, language=language)))
    train(config)
    return config


def _fine_tune(stage_0: TrainConfig, system: System, targets: Targets, has_feedback: bool, kind: str = "plain") -> Path:
    name = f"{system}_{targets}_{has_feedback}_{kind}"
    model = replace(
        stage_0.model,
        system=system,
        tagger=None,
        seg_token=SegTokenConfig(targets),
        feedback=replace(stage_0.model.feedback, is_enabled=has_feedback),
        lora=LoraConfig(train_embeddings=True),
    )
    config = replace(
        stage_0,
        run_dir=str(Path(stage_0.run_dir).parent / name),
        model=model,
        trainable=TrainableConfig(embeddings=True, sam_prompt_encoder=has_feedback),
        losses=replace(stage_0.losses, bio=0.0, kl=0.0, mask_overlap=0.5, mask_bce=2.0, overlap="dice"),
        init_from=f"{stage_0.run_dir}/model",
        tokenizer=None,
        reset_modules=("tagger", "query_projection", "feedback"),
        num_updates=2,
        engine=replace(stage_0.engine, kind=kind),  # type: ignore[arg-type]
    )
    train(config)
    return Path(config.run_dir)


@pytest.mark.parametrize(("system", "targets", "has_feedback"), VARIANTS)
def test_a_sister_trains_from_plums_stage_0_and_is_scored(
    stage_0: TrainConfig, system: System, targets: Targets, has_feedback: bool
) -> None:
    run = _fine_tune(stage_0, system, targets, has_feedback)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss_bio"] == 0.0 and line["loss_mask_overlap"] > 0 for line in lines)
    assert not any(name.startswith("accuracy_") for name in lines[0])
    loaded, before = load_pretrained(run / "model"), load_pretrained(f"{stage_0.run_dir}/model")
    assert (loaded.config.system, loaded.model.tagger) == (system, None)
    # The new row of both matrices has been learnt, and so have the others.
    seg = token_id(loaded.tokenizer, SEG_TOKEN)
    assert seg == len(before.tokenizer)
    for own, old in (
        (loaded.model.llava.stock.lm_head.weight, before.model.llava.stock.lm_head.weight),
        (
            loaded.model.llava.stock.get_input_embeddings().weight,
            before.model.llava.stock.get_input_embeddings().weight,
        ),
    ):
        assert not torch.equal(own[:seg], old[:seg])
    model = load_grounded_model(str(run / "model"), "cpu")
    assert model.name == f"{system}:model"
    questions = load_questions(Path(stage_0.data.sources[0].path)).questions
    question = next(entry for entry in questions if entry.question_type is QuestionType.IDENTIFICATION_WITH_LABEL)
    task = PartonomyTask("stage 0", PartonomyOptions(generate="all"), (QuestionItem(question),))
    (record,) = records_of(model, task)
    assert isinstance(record, QuestionRecord)
    assert record.reason == ""
    assert record.segmentation is not None
    assert len(record.segmentation.masks) == len(question.masks)
    assert len(set(record.segmentation.masks)) == 1 or targets == "many"
    marks = describe_model(model).marks
    assert "[SEG]" in marks.note
    assert marks.matching is (Matching.PAIRED if targets == "many" else Matching.UNION)


def test_a_merged_sister_answers_alike(stage_0: TrainConfig, tmp_path: Path) -> None:
    run = _fine_tune(stage_0, "m2sa", "many", True)
    export_merged(ExportRequest(run / "model", tmp_path / "merged"))
    image = make_image()
    masks = []
    for folder in (run / "model", tmp_path / "merged"):
        loaded = load_pretrained(folder)
        predictor = Predictor(loaded.model, loaded.tokenizer, loaded.config)
        masks.append(predictor.segment(image, QUESTION, ANSWER, SPANS).masks)
    assert (masks[0] != masks[1]).mean() < 1e-3


def test_held_out_tags_are_counted_in_answers_and_everywhere(stage_0: TrainConfig) -> None:
    """By hand from the model's own tags, conversation by conversation; padding counts nowhere."""
    loaded = load_pretrained(f"{stage_0.run_dir}/model")
    folder, kind = stage_0.data.sources[0].path, "explanatory"
    (found,) = evaluate_teacher_forced(loaded, folder, kinds=(kind,), limit=3)
    data = DataConfig(sources=(SourceConfig(kind, folder),))  # type: ignore[arg-type]
    mixture, collate = (
        build_mixture(data, seed=0, with_part_maps=False),
        Collator(loaded.tokenizer, loaded.config, data),
    )
    counts = {"answers": [0, 0], "everywhere": [0, 0]}  # of O: hits, totals
    for position in range(3):
        sample = mixture[position]
        for conversation in sample.conversations:
            batch = collate([replace(sample, conversations=(conversation,))])
            with torch.no_grad():
                states = loaded.model(batch.without_sam(), with_teacher=False).hidden_states
                is_o = loaded.model.tag(states, batch.attention_mask)[0].argmax(-1) == 0
            truth = batch.tags[0]
            for name, is_true in (("answers", truth == 0), ("everywhere", (truth == 0) | (truth == IGNORE_INDEX))):
                counts[name][0] += int((is_o & is_true).sum())
                counts[name][1] += int(is_true.sum())
    hits, total = counts["answers"]
    assert pytest.approx(hits / total) == found.tags.O
    hits, total = counts["everywhere"]
    assert pytest.approx(hits / total) == found.tags_all_tokens.O
    assert total > counts["answers"][1]


def test_held_out_text_is_measured_without_a_tagger(stage_0: TrainConfig) -> None:
    run = _fine_tune(stage_0, "lisa", "many", False)
    results = evaluate_teacher_forced(load_pretrained(run / "model"), stage_0.data.sources[0].path, limit=2)
    by_kind = {result.kind: result for result in results}
    assert by_kind["explanatory"].tags.B is None
    assert all(result.next_token_loss > 0 for result in results)


def test_models_saved_before_there_were_sisters_still_load(stage_0: TrainConfig, tmp_path: Path) -> None:
    """Format 1 had no seg_token; everything else of config.json is the same."""
    old = tmp_path / "old"
    shutil.copytree(f"{stage_0.run_dir}/model", old)
    content = json.loads((old / "config.json").read_text())
    assert content.pop("seg_token", "absent") is None
    (old / "config.json").write_text(json.dumps({**content, "format_version": 1}))
    assert load_pretrained(old).config == load_pretrained(f"{stage_0.run_dir}/model").config


def test_the_adapter_offers_marked_scoring() -> None:
    model = PlumModel(_predictor(targets="single"), "lisa:x")
    assert isinstance(model, MarkingModel)
    assert not model.has_mask_per_phrase
    assert "union" in model.protocol_note
