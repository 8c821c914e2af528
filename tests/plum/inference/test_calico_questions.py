"""CALICO's questions: the prefix forest and the predictor give what rows apart give, with modules in the layers."""

import copy
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from partonomy.__main__ import main
from partonomy.benchmarks.mixed_parts import MixedPartsOptions, MixedPartsTask, read_mixed_parts
from partonomy.harness.asking import answer_items
from partonomy.harness.ranks import deal_batches
from partonomy.models.contract import AnswerRequest, ChoiceRequest, MaskRequest, Role, Turn
from partonomy.structures import CharSpan
from plum.checkpoints.store import load_pretrained, save_pretrained
from plum.config import AdaptationConfig, CalicoConfig, CorrespondenceConfig, LoraConfig, ModelConfig
from plum.inference.answer_encoder import AnswerEncoder
from plum.inference.partonomy_adapter import BatchedPlum
from plum.inference.predictor import Predictor
from plum.inference.prefix_forest import ForestRow, ForestStates
from plum.inference.question_batch import QuestionBatch
from plum.models.backbones.calico import CalicoBackbone
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.seg_token import add_seg_token
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_calico_config
from plum.structures import ConversationImages, ImageTokens
from tests.partonomy.questions.mixed_parts.pair_world import draw_dataset, store_dataset
from tests.plum.data.tokenizers_for_tests import byte_level

ANSWER = "A dog and a cat"
SPANS = (CharSpan(2, 5), CharSpan(12, 15))
FIRST = (Turn(Role.USER, "Which animals?"),)
LATER = (*FIRST, Turn(Role.ASSISTANT, "A dog"), Turn(Role.USER, "Any other?"))
OTHER = (Turn(Role.USER, "Where are they?"),)
PHOTOS = tuple(
    np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
    for number, size in enumerate(((12, 16, 3), (16, 8, 3)))
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(byte_level())  # the tests share byte_level's
    add_seg_token(tokenizer)
    return tokenizer


TOKENIZER = make_tokenizer()


def calico(follows_prompt: bool = True) -> CalicoConfig:
    config = tiny_calico_config(len(TOKENIZER)).calico
    assert config is not None
    return replace(config, adaptation=AdaptationConfig(num_modules=2, follows_prompt=follows_prompt))


def make_config(own: CalicoConfig, lora: LoraConfig | None = None) -> ModelConfig:
    config = with_special_tokens(tiny_calico_config(len(TOKENIZER), lora=lora, calico=own), TOKENIZER)
    language = replace(config.llava.language, num_layers=4)
    return replace(config, llava=replace(config.llava, language=language))


def make_model(own: CalicoConfig, lora: LoraConfig | None = None) -> GroundedLMM:
    torch.manual_seed(0)
    model = build_model(make_config(own, lora)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("llava.adaptation", "llava.correspondence")) or "lora_B" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            if "lm_head" in name:
                parameter.mul_(8)  # an untrained head would write one token whatever it reads
    return model


@pytest.mark.parametrize("follows_prompt", [True, False])
def test_a_batch_of_questions_gives_the_scores_masks_and_answers_of_single_ones(follows_prompt: bool) -> None:
    model = make_model(calico(follows_prompt))
    predictor = Predictor(model, TOKENIZER, model.config)
    batch = QuestionBatch(predictor, [predictor.images.read(photo) for photo in PHOTOS])
    asked = [(image, turns) for image in (0, 1) for turns in (FIRST, LATER, OTHER)]
    requests = [ChoiceRequest(image, turns, ("A dog", "A dogs tail", "No"), ((),) * 3) for image, turns in asked]
    # The second and third call find trunks of the first, and new ones.
    found = batch.score_choices(requests[:2]) + batch.score_choices(requests[2:])
    for (image, turns), scores in zip(asked, found, strict=True):
        expected = predictor.score_choices(PHOTOS[image], turns, ("A dog", "A dogs tail", "No"))
        for one, other in zip(scores, expected, strict=True):
            assert one.answer_log_prob == pytest.approx(other.answer_log_prob, abs=1e-5)
            assert one.conversation_log_prob == pytest.approx(other.conversation_log_prob, abs=1e-5)
    masks = batch.segment([MaskRequest(image, turns, ANSWER, SPANS) for image, turns in asked])
    own = batch.generate([AnswerRequest(image, turns) for image, turns in asked], max_new_tokens=6)
    texts = set()
    for (image, turns), mask, answer in zip(asked, masks, own, strict=True):
        assert np.array_equal(mask, predictor.segment(PHOTOS[image], turns, ANSWER, SPANS).masks)
        expected_answer = predictor.generate(PHOTOS[image], turns, max_new_tokens=6)
        assert answer.text == expected_answer.text
        texts.add(answer.text)
    assert len(texts) > 1


def test_modules_matter_to_scores() -> None:
    model = make_model(calico())
    predictor = Predictor(model, TOKENIZER, model.config)
    scores = [predictor.score_choices(PHOTOS[0], FIRST, ("A dog",))[0].answer_log_prob]
    model.llava.reads_images_again = False
    scores.append(predictor.score_choices(PHOTOS[0], FIRST, ("A dog",))[0].answer_log_prob)
    assert abs(scores[0] - scores[1]) > 1e-3


def test_an_open_question_keeps_the_first_prompts_end() -> None:
    predictor = Predictor(make_model(calico()), TOKENIZER, make_config(calico()))
    for num_images in (1, 2):
        slots = [predictor.encoder.slot()] * num_images
        first = predictor.answers.prompt(FIRST, slots)
        assert first.prompt_end == len(first.input_ids) - 1
        assert predictor.answers.prompt(LATER, slots).prompt_end == first.prompt_end
        finished = predictor.answers.own(slots, LATER, "No")
        assert finished.encoded.prompt_end == first.prompt_end == finished.answers[0].start - 1


def forest_row(model: GroundedLMM, images: Sequence[int], question: Sequence[int], answer: Sequence[int]) -> ForestRow:
    count = model.llava.num_image_tokens
    ids, patches = [7], []
    for number in range(len(images)):
        patches.append(tuple(range(len(ids), len(ids) + count)))
        ids += [*[model.llava.special_tokens.image] * count, 20 + number]
    prompt = (*ids, *question)
    key: Hashable = (tuple(images), prompt if model.llava.is_guided else ())
    branch = (key, tuple(question))
    return ForestRow(key, branch, (*prompt, *answer), tuple(images), tuple(patches), len(prompt) - 1)


def states_apart(model: GroundedLMM, row: ForestRow, tokens: ImageTokens) -> Tensor:
    ids = torch.tensor([row.ids])
    assert row.prompt_end is not None
    lengths = (model.llava.num_image_tokens,) * len(tokens)
    shown = ConversationImages(torch.tensor([row.images]), lengths, torch.tensor([row.prompt_end]))
    return model.hidden_states(ids, torch.ones_like(ids), shown, tokens)[0]


@pytest.mark.parametrize("follows_prompt", [True, False])
@torch.inference_mode()
def test_a_forest_of_several_images_gives_the_states_of_rows_apart(follows_prompt: bool) -> None:
    model = make_model(calico(follows_prompt)).double()
    tokens = model.llava.encode_images(torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double())
    forest = ForestStates(model.llava, tokens)
    calls = (
        [((0, 1), (30, 31), (40,)), ((0, 1), (30, 31), (41, 42)), ((0, 1), (32,), (40,)), ((2,), (30,), (40,))],
        [((0, 1), (30, 31), (40, 43)), ((1, 0), (30, 31), (40,)), ((2, 1, 0), (33, 34, 35), (44,))],
        [((0, 1), (36, 36, 36), (45,)), ((2, 1, 0), (33, 34, 35), (44, 46)), ((2,), (30,), (47,))],
    )
    for call in calls:
        rows = [forest_row(model, *parts) for parts in call]
        for row, path in zip(rows, forest.add(rows), strict=True):
            found = forest.gather([path])[0]
            torch.testing.assert_close(found, states_apart(model, row, tokens), atol=1e-9, rtol=1e-9)
    num_tokens = sum(len(forest_row(model, *parts).ids) for call in calls for parts in call)
    assert len(forest.forest) < 0.8 * num_tokens


@torch.inference_mode()
def test_an_image_is_read_again_once_however_many_answers_follow() -> None:
    model = make_model(calico())
    assert isinstance(model.llava, CalicoBackbone)
    assert model.llava.adaptation is not None
    forest = ForestStates(model.llava, model.llava.encode_images(torch.randn(2, 3, 16, 16)))
    asked: list[int] = []
    hook = model.llava.qformer.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda _reader, inputs: asked.append(len(inputs[0]))
    )
    forest.add([forest_row(model, (0, 1), (30,), (40,)), forest_row(model, (0, 1), (30,), (41,))])
    forest.add([forest_row(model, (0, 1), (30,), (40, 42))])
    forest.add([forest_row(model, (0, 1), (31,), (40,))])
    hook.remove()
    assert asked == [2] * 2 * len(model.llava.adaptation.layers)  # two images for each of two questions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load_give_the_same_model(tmp_path: Path, dtype: torch.dtype) -> None:
    model = make_model(calico(), LoraConfig(rank=2))
    save_pretrained(model, TOKENIZER, tmp_path / "saved", "")
    loaded = load_pretrained(tmp_path / "saved", dtype=dtype)
    assert loaded.config == model.config
    own, theirs = model.state_dict(), loaded.model.state_dict()
    assert own.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if name.startswith("llava."):
            assert tensor.dtype == (torch.float32 if name.startswith("llava.qformer.") else dtype), name
        assert torch.equal(tensor, own[name].to(tensor.dtype)), name
    assert isinstance(loaded.model.llava, CalicoBackbone)
    assert loaded.model.llava.qformer is not None
    assert not loaded.model.llava.qformer.training
    predictors = [Predictor(one, TOKENIZER, model.config) for one in (model, loaded.model)]
    scores = [one.score_choices(PHOTOS[0], FIRST, ("A dog",))[0].answer_log_prob for one in predictors]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5 if dtype == torch.float32 else 0.5)


def test_another_calico_is_refused_by_name(tmp_path: Path) -> None:
    model = make_model(calico())
    save_pretrained(model, TOKENIZER, tmp_path / "saved", "")
    path = tmp_path / "saved" / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"num_modules": 2', '"num_modules": 1'))
    with pytest.raises(ValueError, match="another architecture"):
        load_pretrained(tmp_path / "saved")
    path.write_text(text.replace('"source": "dino"', '"source": "dinosaur"'))
    with pytest.raises(ValueError, match=r"calico\.correspondence\.source is 'dinosaur', not one of"):
        load_pretrained(tmp_path / "saved")
    assert CorrespondenceConfig().source == "dino"


def test_a_row_that_shows_more_images_than_it_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(make_model(calico()), TOKENIZER, make_config(calico()))
    batch = QuestionBatch(predictor, [predictor.images.read(photo) for photo in PHOTOS])
    prompt = AnswerEncoder.prompt
    monkeypatch.setattr(AnswerEncoder, "prompt", lambda self, turns, images: prompt(self, turns, [*images, *images]))
    with pytest.raises(ValueError, match=r"shows 2 images, and 1 are named.*ask about several images with Predictor"):
        batch.generate([AnswerRequest(0, FIRST)])


def test_the_benchmark_asks_about_pairs_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with batches gives what the predictor gives, and is never asked for a batch of single images."""
    dataset = store_dataset(draw_dataset("own", 30, tmp_path), tmp_path / "own")
    flags = ["--num_train", "0", "--num_val", "0", "--num_test", "6", "--shares", "0,0,1", "--min_pixels", "1"]
    assert main(["build-mixedparts", str(dataset), "--output", str(tmp_path / "pairs"), *flags]) == 0
    options = MixedPartsOptions(embedding_model="char-ngram-tfidf")
    task = MixedPartsTask("mixedparts", "test", options, read_mixed_parts(tmp_path / "pairs", "test", seed=0))
    predictor = Predictor(make_model(calico()), TOKENIZER, make_config(calico()))
    model = BatchedPlum(predictor, "tiny", max_new_tokens=6)
    monkeypatch.setattr(BatchedPlum, "open_batch", lambda self, images: pytest.fail("a batch of single images"))
    records = list(answer_items(model, task, deal_batches(task.items), lambda item: True))
    assert len(records) == len(task.items) > 3
    for item, record in zip(task.items, records, strict=True):
        images = [picture.load() for picture in (item.picture, *item.further_pictures)]
        found = predictor.generate_about(images, [Turn(Role.USER, item.question)], 6)
        assert record.reply == predictor.notation.words(found[0].text)
        assert record.is_cut
    assert len({record.reply for record in records}) > 1
