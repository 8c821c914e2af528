"""The ablation taggers from training to a reloaded model: cross-attention, CRF, two classes, hinge loss."""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from partonomy.masks import encode_mask
from partonomy.models.contract import AnswerRequest
from partonomy.structures import CharSpan
from plum.checkpoints.store import load_pretrained, save_pretrained
from plum.config import LoraConfig, TaggerConfig
from plum.data.collate import Collator
from plum.export.merged import ExportRequest, export_merged
from plum.inference.highlight import Highlight, answer_question
from plum.inference.predictor import Prediction, Predictor, WrittenAnswer
from plum.inference.question_batch import QuestionBatch
from plum.inference.teacher_forced import _Sums
from plum.inputs.bio_labels import Tag, classes_of_tags
from plum.models.grounded_lmm import GroundedLMM
from plum.models.heads.span_tagger import predict_classes
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import IGNORE_INDEX, Batch, ConversationImages, Exchange, Sample
from plum.train_config import DataConfig, LossConfig, SourceConfig, TrainableConfig
from plum.training.config_file import load_train_config
from plum.training.initialise import initialise_from
from plum.training.objective import Objective
from tests.plum.checkpoints.saved_models import assert_same, run
from tests.plum.data.part_world import box_mask
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import ANSWER, QUESTION, SPANS, make_image

BASE = Path(__file__).resolve().parents[2] / "configs" / "ablations" / "base.yaml"
UPDATES = 40


@dataclass(frozen=True)
class Variant:
    """Changes to the tagger and to the losses."""

    tagger: dict[str, Any]
    losses: dict[str, Any]


VARIANTS = {
    "cross_attention": Variant({"use_cross_attention": True}, {}),
    "crf": Variant({"use_crf": True}, {}),
    "binary": Variant({"scheme": "binary"}, {}),
    "hinge": Variant({}, {"bio_form": "hinge"}),
    "all": Variant({"use_cross_attention": True, "use_crf": True, "scheme": "binary", "order": "block_first"}, {}),
}


def make_model(variant: Variant, lora: LoraConfig | None = None) -> GroundedLMM:
    torch.manual_seed(0)
    tagger = TaggerConfig(num_heads=4, feedforward_dim=64, dropout=0.0, **variant.tagger)
    sizes = tiny_model_config(len(byte_level()), tagger=tagger, lora=lora)
    return build_model(with_special_tokens(sizes, byte_level()))


def make_batch(model: GroundedLMM) -> Batch:
    """A conversation of two answers about an image, an answer without a phrase about another, and text alone."""
    masks = tuple(encode_mask(box_mask(2, 3 * part, 8, 7)) for part in range(3))
    asked = Exchange(QUESTION[0].text, ANSWER, SPANS, masks)
    samples = [
        Sample("two", "test", make_image(0, 24, 32), ((asked, replace(asked, question="Again?")),)),
        Sample("none", "test", make_image(1, 24, 32), ((Exchange("What is it?", "It is a biplane."),),)),
        Sample("text", "test", None, ((Exchange("Hello?", "It is a wheel.", is_tagged=False),),)),
    ]
    return Collator(byte_level(), model.config, DataConfig(sources=(SourceConfig("part_vqa", "unused"),)))(samples)


@dataclass(frozen=True)
class Trained:
    """A trained model and what training recorded: the total and BIO losses, and its tags of the last update."""

    model: GroundedLMM
    totals: list[float]
    bio: list[float]
    hits: list[int]
    tags: list[int]


@cache
def train(name: str) -> Trained:
    """Train everything on one batch."""
    variant = VARIANTS[name]
    model = make_model(variant).train()
    set_trainable(model, TrainableConfig(language_model="full"))
    objective = Objective(model, LossConfig(kl=0.0, **variant.losses))
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=3e-3)
    batch, totals, bio = make_batch(model), [], []
    for _ in range(UPDATES):
        result = objective(batch)
        assert result.terms.bio is not None
        totals.append(float(result.total.detach()))
        bio.append(float(result.terms.bio.detach()))
        optimizer.zero_grad()
        result.total.backward()
        optimizer.step()
    return Trained(model.eval(), totals, bio, result.tag_hits.tolist(), result.tag_totals.tolist())


@pytest.fixture(params=list(VARIANTS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def answer_with(monkeypatch: pytest.MonkeyPatch, model: GroundedLMM, answer: str = ANSWER) -> None:
    """Let a model write a given answer; it tags the answer itself."""
    ids = torch.tensor([byte_level()(" " + answer + "</s>")["input_ids"]])
    monkeypatch.setattr(model, "generate_text", lambda *_: ids)


def predict(model: GroundedLMM, monkeypatch: pytest.MonkeyPatch, image: np.ndarray) -> Prediction:
    answer_with(monkeypatch, model)
    return Predictor(model, byte_level(), model.config).generate(image, QUESTION)


def test_training_lowers_the_loss_and_learns_the_tags(name: str) -> None:
    trained = train(name)
    assert trained.totals[-1] < 0.7 * trained.totals[0]
    assert trained.bio[-1] < 0.2 * trained.bio[0]
    assert trained.hits == trained.tags
    assert trained.tags[Tag.B] == 6


def test_every_tensor_of_the_tagger_gets_a_gradient(name: str) -> None:
    model = make_model(VARIANTS[name]).train()
    set_trainable(model, TrainableConfig(language_model="full"))
    Objective(model, LossConfig(kl=0.0, **VARIANTS[name].losses))(make_batch(model)).total.backward()
    assert model.tagger is not None
    still = [key for key, one in model.tagger.named_parameters() if one.grad is None or not bool(one.grad.any())]
    assert not still


def test_the_model_reads_its_own_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = train(name).model, make_image(0, 24, 32)
    found = predict(model, monkeypatch, image)
    assert found.spans == SPANS
    assert found.masks.shape == (3, 24, 32)
    assert all(0 < one <= 1 for one in found.tag_confidences)
    predictor = Predictor(model, byte_level(), model.config)
    batch = QuestionBatch(predictor, [predictor.images.read(image)])
    monkeypatch.setattr(batch, "write_answers", lambda *_: [WrittenAnswer(ANSWER, 12, "stop")])
    (together,) = batch.generate([AnswerRequest(0, QUESTION)])
    assert together.spans == SPANS
    assert np.array_equal(together.masks, found.masks)


def test_confidence_is_the_mean_probability_of_a_phrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the CRF's marginal probabilities over the whole answer, or of the softmax."""
    for name in ("crf", "cross_attention"):
        model = train(name).model
        found = predict(model, monkeypatch, make_image(0, 24, 32))
        predictor = Predictor(model, byte_level(), model.config)
        row = predictor.answers.own([predictor.encoder.slot()], QUESTION, ANSWER)
        states, images = (
            predictor._hidden_states([make_image(0, 24, 32)], [row]),
            predictor._image_tokens([make_image(0, 24, 32)]).values,
        )
        is_answer = torch.zeros(states.shape[:2], dtype=torch.bool)
        is_answer[:, row.answers[-1].start : row.answers[-1].end] = True  # as in training, with the end token
        with torch.no_grad():
            shown = ConversationImages.of_one_image(1, images.shape[1], images.device)
            logits = model.tag(states, torch.ones_like(is_answer).long(), is_answer, shown, images)
            assert logits is not None
            probabilities = predict_classes(logits, model.tag_chain(is_answer)).probabilities
        offset = row.answers[-1].start
        spans = predictor.answers.forced([predictor.encoder.slot()], QUESTION, ANSWER, SPANS).spans
        expected = [float(probabilities[one.start - offset : one.end - offset].mean()) for one in spans]
        assert found.tag_confidences == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scheme", ["bio", "binary"])
def test_a_crf_that_ends_outside_keeps_a_phrase_at_the_end_of_an_answer(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training every sequence ends with the end token, which is O: no other last tag is likely."""
    model = make_model(Variant({"scheme": scheme, "use_crf": True}, {})).eval()
    assert model.tagger is not None
    assert model.tagger.crf is not None
    with torch.no_grad():
        model.tagger.crf.end[1:] = -50.0
    answer = "It has a wheel"
    answer_with(monkeypatch, model, answer)
    exchange = Exchange(QUESTION[0].text, answer, (CharSpan(9, 14),))
    row = Predictor(model, byte_level(), model.config).encoder.encode([exchange])
    tags = classes_of_tags(torch.tensor(row.tags).clamp(min=0), model.tagger.classifier.out_features)
    logits = nn.functional.one_hot(tags, model.tagger.classifier.out_features)[None].float() * 4
    monkeypatch.setattr(model, "tag", lambda _states, _mask, is_read, *_: logits[is_read])
    found = Predictor(model, byte_level(), model.config).generate(make_image(0, 24, 32), QUESTION)
    assert found.spans == (CharSpan(9, 14),)


def test_only_cross_attention_lets_tags_depend_on_the_given_image_tokens() -> None:
    for name, depends in (("cross_attention", True), ("crf", False)):
        model = train(name).model
        batch = make_batch(model)
        with torch.no_grad():
            output = model(batch, with_teacher=False)
            is_read = batch.tags != IGNORE_INDEX
            inputs = (output.hidden_states, batch.attention_mask, is_read, batch.shown)
            assert output.tag_logits is not None
            torch.testing.assert_close(model.tag(*inputs, output.images.tokens.values), output.tag_logits)
            other = model.tag(*inputs, output.images.tokens.values.flip(0))
        assert other is not None
        assert torch.allclose(other, output.tag_logits, atol=1e-5) != depends


def test_highlights_override_the_tags(name: str) -> None:
    model, image = train(name).model, make_image(0, 24, 32)
    predictor = Predictor(model, byte_level(), model.config)
    found = answer_question(predictor, image, QUESTION, Highlight(("propeller", "It has"), answer=ANSWER))
    assert [ANSWER[span.start : span.end] for span in found.spans] == ["It has", "propeller"]
    assert found.tag_confidences == (1.0, 1.0)
    assert len(found.masks) == 2


def test_a_saved_model_is_the_same_and_says_what_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = train(name).model
    save_pretrained(model, byte_level(), tmp_path / "saved", "")
    loaded = load_pretrained(tmp_path / "saved")
    assert loaded.config == model.config
    before, after = (predict(one, monkeypatch, make_image(2, 24, 32)) for one in (model, loaded.model))
    assert (before.spans, before.tag_confidences) == (after.spans, after.tag_confidences)
    assert np.array_equal(before.masks, after.masks)


def test_a_merged_export_computes_the_same(tmp_path: Path) -> None:
    model = make_model(VARIANTS["all"], LoraConfig(rank=2)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key or "tagger" in key:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    save_pretrained(model, byte_level(), tmp_path / "saved", "")
    export_merged(ExportRequest(tmp_path / "saved", tmp_path / "merged"))
    merged = load_pretrained(tmp_path / "merged")
    assert merged.config == replace(model.config, lora=None)
    assert_same(run(merged.model), run(model), tolerance=1e-4)
    assert merged.model.tagger is not None
    assert merged.model.tagger.crf is not None
    assert torch.equal(merged.model.tagger.crf.transitions, model.tagger.crf.transitions)  # type: ignore[union-attr]


def test_a_model_from_before_the_switches_has_none_of_them(tmp_path: Path) -> None:
    model = make_model(Variant({}, {})).eval()
    save_pretrained(model, byte_level(), tmp_path / "saved", "")
    path = tmp_path / "saved" / "config.json"
    content = json.loads(path.read_text())
    for key in ("scheme", "use_crf", "use_cross_attention"):
        del content["tagger"][key]
    path.write_text(json.dumps({**content, "format_version": 3}))
    loaded = load_pretrained(tmp_path / "saved")
    assert loaded.config == model.config
    assert_same(run(loaded.model), run(model))
    path.write_text(json.dumps({**content, "format_version": 4}))
    with pytest.raises(ValueError, match=r"missing key tagger\.scheme"):
        load_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(("name", "part"), [("crf", "crf"), ("cross_attention", "cross_attention")])
def test_a_run_adds_and_drops_what_the_start_has_not(name: str, part: str, tmp_path: Path) -> None:
    plain, other = make_model(Variant({}, {})), make_model(VARIANTS[name])
    own: nn.Module = getattr(other.tagger, part)
    number = len(list(own.parameters()))
    save_pretrained(plain.eval(), byte_level(), tmp_path / "plain", "")
    save_pretrained(other.eval(), byte_level(), tmp_path / "other", "")
    assert initialise_from(other, str(tmp_path / "plain"))[1] == f"Starting afresh: tagger ({number} tensors)"
    assert initialise_from(plain, str(tmp_path / "other"))[2] == f"Left behind: tagger ({number} tensors)"


def test_another_number_of_classes_needs_a_fresh_tagger(tmp_path: Path) -> None:
    save_pretrained(make_model(Variant({}, {})).eval(), byte_level(), tmp_path / "plain", "")
    binary = make_model(VARIANTS["binary"])
    message = r"tagger\.classifier\.weight is \(3, 32\), this run needs \(2, 32\); add tagger to reset_modules"
    with pytest.raises(ValueError, match=message):
        initialise_from(binary, str(tmp_path / "plain"))
    assert initialise_from(binary, str(tmp_path / "plain"), ["tagger"])[1].startswith("Starting afresh: tagger (")


def test_held_out_tags_are_those_of_the_best_sequence(name: str) -> None:
    """Whatever the prompt's tokens are tagged as, an answer's tags stay those of the answer alone."""
    model = make_model(VARIANTS[name]).eval()
    assert model.tagger is not None
    if model.tagger.crf is not None:
        torch.nn.init.normal_(model.tagger.crf.transitions, std=2.0)
        torch.nn.init.normal_(model.tagger.crf.start, std=2.0)
    batch, sums = make_batch(model), _Sums()
    sums.add(model, batch)
    with torch.no_grad():
        output = model(batch, with_teacher=False)
    assert output.tag_logits is not None
    classes = predict_classes(output.tag_logits, output.tag_chain).classes
    truth = output.tag_labels if model.config.tagger.scheme == "bio" else output.tag_labels.clamp(max=1)  # type: ignore[union-attr]
    for tag in Tag:
        of_tag = output.tag_labels == tag
        counts = [int((of_tag & (classes == truth)).sum()), int(of_tag.sum())]
        assert sums.answer[:, tag].tolist() == counts
        if tag != Tag.O:
            assert sums.everything[:, tag].tolist() == counts
    assert int(sums.everything[1].sum()) == int(batch.attention_mask.sum())


def test_each_answer_is_a_sequence_of_the_crf() -> None:
    model = make_model(VARIANTS["crf"])
    batch = make_batch(model)
    chain = model(batch, with_teacher=False).tag_chain
    assert chain is not None
    lengths = chain.sequence.unique_consecutive(return_counts=True)[1].tolist()
    tagged: list[int] = []
    for row in (batch.tags != IGNORE_INDEX).tolist():
        text = "".join("x" if one else " " for one in row)
        tagged += [len(part) for part in text.split()]
    assert lengths == tagged
    assert len(lengths) == 3
    # With prompts: prompt, answer, prompt, answer; prompt, answer; text without tags.
    everywhere = model.tag_chain(batch.tags != IGNORE_INDEX, is_other=batch.attention_mask == 1)
    assert everywhere is not None
    runs = everywhere.sequence.unique_consecutive(return_counts=True)[1].tolist()
    assert len(runs) == 7
    assert [runs[1], runs[3], runs[5]] == tagged


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--model.tagger.use_crf", "true", "--losses.bio_form", "hinge"],
            r"losses\.bio_form is 'hinge', but a CRF \(model\.tagger\.use_crf\) has its own loss",
        ),
        (
            ["--model.tagger.use_crf", "true", "--losses.bio_scope", "all"],
            r"losses\.bio_scope is 'all', but the sequences of a CRF .* are answers",
        ),
        (["--losses.bio_margin", "0"], r"losses\.bio_margin is 0(\.0)?, it must be above 0"),
        (["--model.tagger.scheme", "io"], "scheme"),
    ],
)
def test_settings_that_do_not_fit_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_train_config(["--config", str(BASE), *flags])


def test_what_fits_together_is_accepted() -> None:
    flags = ["--model.tagger.scheme", "binary", "--losses.bio_form", "hinge", "--losses.bio_scope", "all"]
    config = load_train_config(["--config", str(BASE), *flags])
    assert (config.losses.bio_form, config.losses.bio_margin) == ("hinge", 1.0)
    assert load_train_config(["--config", str(BASE), "--model.tagger.use_crf", "true"]).model.tagger is not None


def test_cross_attention_gets_each_conversations_own_image() -> None:
    """The same states with the images of two conversations exchanged: their tags are exchanged, too."""
    model = make_model(VARIANTS["cross_attention"]).eval()
    assert model.tagger is not None
    states: Tensor = torch.randn(1, 6, 32).expand(2, 6, 32)
    images = torch.randn(2, 4, 32)
    mask, is_read = torch.ones(2, 6, dtype=torch.long), torch.ones(2, 6, dtype=torch.bool)
    with torch.no_grad():
        first, second = (
            model.tagger(states, mask, is_read, ConversationImages(torch.tensor(rows), (4, 4)), images).view(2, 6, 3)
            for rows in ([[0], [1]], [[1], [0]])
        )
    torch.testing.assert_close(first, second.flip(0))
    assert not torch.allclose(first[0], first[1], atol=1e-3)
