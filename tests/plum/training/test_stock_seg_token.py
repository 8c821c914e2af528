"""LISA over stock models: tied and untied embeddings, vocabularies without a free row, GLaMM's tags, feedback."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from partonomy.models.contract import ChoiceRequest, MaskRequest, Role, Turn
from partonomy.models.processors import load_processor
from partonomy.structures import CharSpan
from plum.checkpoints.adopt import adopt
from plum.checkpoints.model_config_io import read_model_config
from plum.checkpoints.store import LoadedModel, load_pretrained
from plum.checkpoints.weights import list_tensors
from plum.cli.main import main
from plum.config import FeedbackConfig, HfBackboneConfig, LoraConfig, ModelConfig, SegTokenConfig
from plum.inference.predictor import Predictor
from plum.inference.question_batch import QuestionBatch
from plum.inputs.encoding import token_id
from plum.models.backbones.lora import adapters_off
from plum.models.systems.seg_token import SEG_TOKEN
from plum.train_config import LossConfig, TrainableConfig, TrainConfig
from plum.training.run import build_or_load, train
from scripts.bench.stock_checkpoints import ARCHITECTURES
from tests.plum.stock_world import write_sam2
from tests.plum.training.test_run import _train_to_the_sixth_micro_batch
from tests.plum.training.training_world import largest_difference, make_config, write_inputs

ASKED = (Turn(Role.USER, "What visible parts does it have?"),)
ANSWER = "It has a front wheel and a wing."
SPANS = tuple(CharSpan(ANSWER.index(word), ANSWER.index(word) + len(word)) for word in ("front wheel", "wing"))
PHOTO = np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Variant:
    """A family, and what is different about it."""

    family: str
    is_tied: bool
    has_phrase_tags: bool
    has_feedback: bool
    num_free_rows: int


VARIANTS = (
    Variant("qwen3_vl", is_tied=False, has_phrase_tags=False, has_feedback=False, num_free_rows=8),
    Variant("qwen3_vl", is_tied=True, has_phrase_tags=False, has_feedback=True, num_free_rows=0),
    Variant("internvl", is_tied=False, has_phrase_tags=True, has_feedback=True, num_free_rows=0),
)


def save_stock(folder: Path, variant: Variant) -> Path:
    """Write a checkpoint of random weights whose vocabulary has some rows without a token."""
    ARCHITECTURES[variant.family](folder)
    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = variant.is_tied
    config.text_config.vocab_size += variant.num_free_rows
    torch.manual_seed(0)
    stock = AutoModelForImageTextToText.from_config(config)
    is_tied = stock.get_output_embeddings().weight is stock.get_input_embeddings().weight
    assert is_tied == variant.is_tied
    stock.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class World:
    """A finished run of four updates from an adopted base."""

    folder: Path
    variant: Variant

    @property
    def model(self) -> Path:
        return self.folder / "run" / "model"

    def run(self, name: str, **changes: object) -> TrainConfig:
        base = make_config(self.folder, name)
        model = ModelConfig(
            hf=HfBackboneConfig(),
            sam=read_model_config(self.folder / "base").sam,
            system="lisa",
            tagger=None,
            seg_token=SegTokenConfig(has_phrase_tags=self.variant.has_phrase_tags),
            feedback=FeedbackConfig(self.variant.has_feedback, num_heads=4),
            lora=LoraConfig(rank=2, train_embeddings=True),
        )
        config = replace(
            base,
            model=model,
            tokenizer=None,
            init_from=str(self.folder / "base"),
            save_model="trained",
            losses=LossConfig(bio=0.0, kl=0.0, overlap="dice"),
            trainable=TrainableConfig(embeddings=True, sam_prompt_encoder=self.variant.has_feedback),
        )
        return replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda one: f"{one.family}{'_tied' * one.is_tied}")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp(request.param.family)
    write_inputs(folder)
    save_stock(folder / "stock", request.param)
    adopt(folder / "stock", write_sam2(folder / "sam2"), folder / "base")
    found = World(folder, request.param)
    train(found.run("run"))
    return found


def predictor_of(folder: Path) -> Predictor:
    loaded = load_pretrained(folder)
    return Predictor(loaded.model, loaded.tokenizer, loaded.config)


def matrices(loaded: LoadedModel) -> tuple[Tensor, Tensor]:
    """The embeddings and the output layer that are in use."""
    stock = loaded.model.backbone.stock
    return stock.get_input_embeddings().weight.detach(), stock.get_output_embeddings().weight.detach()


@torch.inference_mode()
def logits_of(predictor: Predictor) -> Tensor:
    row = predictor.answers.given(predictor.slots((PHOTO,)), ASKED, ANSWER, "given", SPANS)
    assert row.encoded.text.count(SEG_TOKEN) == len(SPANS)
    return predictor.model.token_logits(predictor._hidden_states((PHOTO,), [row]))


def test_a_run_trains_the_row_of_seg_and_all_others(world: World) -> None:
    tokenizer, fresh = build_or_load(world.run("fresh"))
    loaded = load_pretrained(world.model)
    seg = token_id(loaded.tokenizer, SEG_TOKEN)
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert seg not in loaded.model.backbone.special_tokens.suppressed
    before = matrices(LoadedModel(fresh, tokenizer, fresh.config))
    after = matrices(loaded)
    for own, old in zip(after, before, strict=True):
        assert own.shape == old.shape
        assert float((own - old)[seg].abs().max()) > 1e-4
        assert float((own - old)[:seg].abs().max()) > 1e-4
    assert torch.equal(*after) == world.variant.is_tied
    stock = AutoModelForImageTextToText.from_pretrained(world.folder / "stock")
    known = len(stock.get_input_embeddings().weight)
    for own, old in zip(before, (stock.get_input_embeddings(), stock.get_output_embeddings()), strict=True):
        assert torch.equal(own[:seg], old.weight[:seg]), "the run starts from the checkpoint's rows"
    free = world.variant.num_free_rows
    assert loaded.config.language.vocab_size == (known if free else -(-len(tokenizer) // 64) * 64)


def test_a_trained_tensor_is_saved_once(world: World) -> None:
    names = list_tensors(world.model, "trained")
    prefix = "llava.network.base_model.model."
    large = sorted(name.removeprefix(prefix) for name in names if "embed_tokens" in name or "lm_head" in name)
    copies = [name for name in large if name.endswith("embed_tokens.modules_to_save.default.weight")]
    assert len(copies) == 1
    assert large == sorted([*copies] if world.variant.is_tied else [*copies, "lm_head.weight"])


def test_a_stopped_run_goes_on_to_the_same_weights(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    config = world.run("interrupted")
    _train_to_the_sixth_micro_batch(config, monkeypatch)
    train(config)
    assert largest_difference(world.model, world.folder / "interrupted" / "model") == 0.0


def test_a_saved_model_answers_and_scores_in_all_ways_alike(world: World) -> None:
    predictor = predictor_of(world.model)
    prediction = predictor.generate(PHOTO, ASKED, 12)
    assert prediction.masks.shape[1:] == PHOTO.shape[:2]
    batch = QuestionBatch(predictor, [predictor.images.read(PHOTO)])
    choices, phrases = (ANSWER, "No."), (SPANS, ())
    (together,) = batch.score_choices([ChoiceRequest(0, ASKED, choices, phrases)])
    alone = predictor.score_choices(PHOTO, ASKED, choices, phrases)
    for one, other in zip(together, alone, strict=True):
        assert one.answer_log_prob == pytest.approx(other.answer_log_prob, abs=1e-4)
        assert one.answer_tokens == other.answer_tokens
    masks = predictor.segment(PHOTO, ASKED, ANSWER, SPANS).masks
    assert len(masks) == len(SPANS)
    (found,) = batch.segment([MaskRequest(0, ASKED, ANSWER, SPANS)])
    assert (found != masks).mean() < 1e-3


def test_a_second_run_starts_from_what_the_first_has_trained(world: World) -> None:
    first = load_pretrained(world.model)
    config = world.run("second", init_from=str(world.model), num_updates=1)
    tokenizer, second = build_or_load(config)
    assert second.config.hf == first.config.hf
    for own, old in zip(matrices(LoadedModel(second, tokenizer, second.config)), matrices(first), strict=True):
        assert torch.equal(own, old)
    train(config)
    chained = load_pretrained(world.folder / "second" / "model")
    assert torch.equal(*matrices(chained)) == world.variant.is_tied
    assert not torch.equal(matrices(chained)[1], matrices(first)[1])


@torch.inference_mode()
@pytest.mark.parametrize("source", ["model", "checkpoint"])
def test_the_stock_form_has_the_new_rows_and_the_same_logits(world: World, tmp_path: Path, source: str) -> None:
    folder = world.folder / "run" if source == "model" else world.folder / "run" / "checkpoints" / "update_000004"
    assert main(["export", str(folder), str(tmp_path / "stock"), "--stock"]) == 0
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock").eval()
    predictor = predictor_of(world.model)
    assert stock.config.text_config.vocab_size == predictor.model.config.language.vocab_size
    row = predictor.answers.given(predictor.slots((PHOTO,)), ASKED, ANSWER, "given", SPANS)
    inputs = load_processor(tmp_path / "stock")(
        text=[row.rendered.text], images=[[Image.fromarray(PHOTO)]], return_tensors="pt", add_special_tokens=False
    )
    assert inputs["input_ids"][0].tolist() == list(row.encoded.input_ids)
    own = logits_of(predictor)
    is_text = torch.isfinite(own)
    torch.testing.assert_close(own[is_text], stock(**inputs).logits[is_text], atol=1e-4, rtol=0)


def test_merged_and_adapters_exports_have_the_same_logits(world: World, tmp_path: Path) -> None:
    expected = logits_of(predictor_of(world.model))
    for name, flags in (("merged", []), ("adapters", ["--adapters_only"])):
        assert main(["export", str(world.folder / "run"), str(tmp_path / name), *flags]) == 0
        torch.testing.assert_close(logits_of(predictor_of(tmp_path / name)), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_peft_reads_the_adapters_of_a_tied_model(world: World, tmp_path: Path) -> None:
    if not world.variant.is_tied:
        pytest.skip("PLUM trains an untied lm_head in place, which is no adapter")
    assert main(["export", str(world.folder / "run"), str(tmp_path / "adapters"), "--adapters_only"]) == 0
    stock = AutoModelForImageTextToText.from_pretrained(world.folder / "stock").eval()
    stock.resize_token_embeddings(load_pretrained(world.model).config.language.vocab_size, mean_resizing=False)
    adapted = PeftModel.from_pretrained(stock, str(tmp_path / "adapters")).get_base_model()
    predictor = predictor_of(world.model)
    row = predictor.answers.given(predictor.slots((PHOTO,)), ASKED, ANSWER, "given", SPANS)
    inputs = load_processor(world.folder / "stock")(
        text=[row.rendered.text.replace(SEG_TOKEN, "")], images=[[Image.fromarray(PHOTO)]], return_tensors="pt"
    )
    inputs = {**inputs, "input_ids": torch.tensor([row.encoded.input_ids])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == predictor.model.backbone.special_tokens.image).long()
    own = logits_of(predictor)
    is_text = torch.isfinite(own)
    torch.testing.assert_close(own[is_text], adapted(**inputs).logits[is_text], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_without_adapters_a_tied_model_is_the_checkpoint(world: World) -> None:
    """The teacher of a run with train_embeddings, and `is_base` answers."""
    predictor = predictor_of(world.model)
    row = predictor.answers.given(predictor.slots((PHOTO,)), ASKED, ANSWER, "given")
    with adapters_off(predictor.model.backbone.network):
        states = predictor._hidden_states((PHOTO,), [row])
        logits = predictor.model.token_logits(states)
    inputs = load_processor(world.folder / "stock")(
        text=[row.rendered.text], images=[[Image.fromarray(PHOTO)]], return_tensors="pt", add_special_tokens=False
    )
    stock = AutoModelForImageTextToText.from_pretrained(world.folder / "stock").eval()
    expected = stock(**inputs, output_hidden_states=True)
    torch.testing.assert_close(states, expected.hidden_states[-1], atol=1e-5, rtol=0)
    if world.variant.is_tied:
        own = logits[..., : expected.logits.shape[-1]]
        is_text = torch.isfinite(own)
        torch.testing.assert_close(own[is_text], expected.logits[is_text], atol=1e-5, rtol=0)
