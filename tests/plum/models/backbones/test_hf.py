"""Every family of stock models: PLUM's paths give what transformers' own forward pass and generation give."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import plum.config
from partonomy.models.contract import ChoiceRequest, ReplyRequest, Role, Turn
from partonomy.structures import CharSpan
from plum.checkpoints.stock_folder import read_stock_checkpoint
from plum.config import HfBackboneConfig, LoraConfig
from plum.data.collate import Collator, pad_rows
from plum.inference import plain_states
from plum.inference.plain_states import conversation_states
from plum.inference.prefix_forest import ForestStates
from plum.inference.question_batch import QuestionBatch
from plum.inputs import stock_inputs
from plum.inputs.encoding import rectangle_positions
from plum.models.backbones.hf import FAMILIES, build_hf
from plum.models.backbones.lora import adapters_off, reset_adapters
from plum.models.parameter_counts import component_of
from plum.models.systems.registry import build_model
from plum.structures import IGNORE_INDEX, ConversationImages, Exchange
from plum.train_config import DataConfig
from scripts.bench.stock_checkpoints import ARCHITECTURES
from tests.plum.stock_world import TALL, WIDE, StockWorld, make_world, stock_config

ASKED = (Turn(Role.USER, "What visible parts does it have?"),)
LATER = (*ASKED, Turn(Role.ASSISTANT, "It has a wing."), Turn(Role.USER, "And its wheels?"))
CHOICES = ("It has a wing.", "It has a wheel and a wing.", "No.")
TOWERS = {"llava.vision_tower", "llava.projector"}
MRoPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
PLAIN = ("gemma3", "qwen3_5")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StockWorld]:
    return {}


@pytest.fixture(params=sorted(FAMILIES))
def world(
    request: pytest.FixtureRequest, worlds: dict[str, StockWorld], tmp_path_factory: pytest.TempPathFactory
) -> StockWorld:
    family = request.param
    if family not in worlds:
        worlds[family] = make_world(tmp_path_factory.mktemp("stock") / family, family)
    return worlds[family]


def skip_if_tiled_otherwise(world: StockWorld, images: tuple[np.ndarray, ...]) -> None:
    """LLaVA-OneVision's processor does not tile several images; here each image is read as if it were alone."""
    if len(images) > 1 and world.stock.config.model_type == "llava_onevision":
        pytest.skip("LLaVA-OneVision tiles single images only")


def test_every_family_has_a_checkpoint() -> None:
    assert set(FAMILIES) == set(ARCHITECTURES)


@torch.inference_mode()
@pytest.mark.parametrize(("images", "turns"), [((WIDE,), ASKED), ((TALL,), LATER), ((WIDE, TALL), LATER), ((), ASKED)])
def test_states_are_those_of_the_stock_forward_pass(
    world: StockWorld, images: tuple[np.ndarray, ...], turns: tuple[Turn, ...]
) -> None:
    predictor = world.predictor
    skip_if_tiled_otherwise(world, images)
    world.stock.model.rope_deltas = predictor.model.backbone.stock.model.rope_deltas = torch.tensor([[77]])  # stale
    row = predictor.answers.given(predictor.slots(images), turns, "It has a wing and a wheel.", "given")
    inputs = world.inputs(row.rendered.text, *images)
    assert row.encoded.input_ids == tuple(inputs["input_ids"][0].tolist())
    states = predictor._hidden_states(images, [row])
    world.stock.model.rope_deltas = None
    expected = world.stock.model(**inputs).last_hidden_state
    # Several images go through the stock tower together, and through ours one by one.
    assert float((states - expected).abs().max()) <= (1e-6 if len(images) < 2 else 1e-5)
    logits = predictor.model.token_logits(states)
    is_text = torch.isfinite(logits)
    assert float((logits - world.stock(**inputs).logits)[is_text].abs().max()) <= 1e-5


@torch.inference_mode()
@pytest.mark.parametrize(("images", "turns"), [((WIDE,), ASKED), ((TALL, WIDE), LATER), ((), ASKED)])
def test_answers_are_those_of_the_stock_generation(
    world: StockWorld, images: tuple[np.ndarray, ...], turns: tuple[Turn, ...]
) -> None:
    predictor = world.predictor
    skip_if_tiled_otherwise(world, images)
    tokens = predictor.model.backbone.special_tokens
    prompt = predictor.answers.prompt(turns, predictor.slots(images))
    shown = predictor._shown(images, [prompt])
    ids = torch.tensor([prompt.input_ids])
    features = predictor._image_tokens(images)
    own = predictor.model.generate_text(ids, torch.ones_like(ids), shown, features, 12)
    inputs = world.inputs(prompt.text, *images)
    stock = world.stock.generate(
        **inputs,
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=tokens.eos,
        pad_token_id=tokens.pad,
        suppress_tokens=list(tokens.suppressed),
    )
    assert own[0].tolist() == stock[0, ids.shape[1] :].tolist()


@torch.inference_mode()
def test_an_answer_starts_from_the_state_of_the_prompts_last_token(
    world: StockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To rounding: what an image adds may be too little to change a greedy token."""
    predictor, backbone = world.predictor, world.predictor.model.backbone
    prompt = predictor.answers.prompt(LATER, predictor.slots((WIDE,)))
    shown, images = predictor._shown((WIDE,), [prompt]), predictor._image_tokens((WIDE,))
    ids = torch.tensor([prompt.input_ids])
    expected = backbone.hidden_states(ids, torch.ones_like(ids), shown, images)[:, -1]
    seen: list[torch.Tensor] = []

    def token_logits(states: torch.Tensor) -> torch.Tensor:
        seen.append(states)
        return type(backbone).token_logits(backbone, states)

    monkeypatch.setattr(backbone, "token_logits", token_logits)
    backbone.generate(ids, torch.ones_like(ids), shown, images, 1)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_an_ended_answer_is_padded_while_others_go_on(world: StockWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, backbone = world.predictor, world.predictor.model.backbone
    tokens = backbone.special_tokens
    prompt = predictor.answers.prompt(ASKED, predictor.slots((WIDE,)))
    ids = torch.tensor([prompt.input_ids] * 2)
    shown, images = predictor._shown((WIDE,), [prompt] * 2), predictor._image_tokens((WIDE,))
    word = next(token for token in range(20, 99) if token not in {*tokens.suppressed, tokens.eos, tokens.pad})
    written = iter([[tokens.eos, word], [word, word], [word, tokens.eos]])

    def token_logits(states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(next(written)), 400).float()

    monkeypatch.setattr(backbone, "token_logits", token_logits)
    found = backbone.generate(ids, torch.ones_like(ids), shown, images, 9)
    assert found.tolist() == [[tokens.eos, tokens.pad, tokens.pad], [word, word, tokens.eos]]


@torch.inference_mode()
def test_placeholders_are_never_written(world: StockWorld) -> None:
    backbone = world.predictor.model.backbone
    logits = backbone.token_logits(torch.zeros(1, backbone.hidden_size))[0]
    assert backbone.special_tokens.image in backbone.special_tokens.suppressed
    assert (~torch.isfinite(logits)).nonzero().flatten().tolist() == list(backbone.special_tokens.suppressed)


@torch.inference_mode()
def test_a_single_conversation_keeps_its_positions(world: StockWorld) -> None:
    """Nothing is shared, so that the pass has no branches."""
    predictor, backbone = world.predictor, world.predictor.model.backbone
    row = predictor.answers.given(predictor.slots((WIDE,)), ASKED, CHOICES[0], "given")
    tokens = pad_rows([row], backbone.special_tokens.pad)
    text = (tokens.input_ids, tokens.attention_mask, predictor._shown((WIDE,), [row.encoded]))
    images = predictor._image_tokens((WIDE,))
    apart, shared = backbone.hidden_states(*text, images), backbone.shared_hidden_states(*text, images)
    torch.testing.assert_close(apart, shared, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_prompts_of_different_lengths_are_continued_together(world: StockWorld) -> None:
    predictor = world.predictor
    prompts = [predictor.answers.prompt(turns, predictor.slots((WIDE,))) for turns in (ASKED, LATER)]
    shown = predictor._shown((WIDE,), prompts)
    length = max(len(prompt.input_ids) for prompt in prompts)
    pad = predictor.model.backbone.special_tokens.pad
    ids = torch.tensor([[*one.input_ids, *[pad] * (length - len(one.input_ids))] for one in prompts])
    mask = torch.tensor([[1] * len(one.input_ids) + [0] * (length - len(one.input_ids)) for one in prompts])
    together = predictor.model.generate_text(ids, mask, shown, predictor._image_tokens((WIDE,)), 8)
    for prompt, own in zip(prompts, together, strict=True):
        ids = torch.tensor([prompt.input_ids])
        images = predictor._shown((WIDE,), [prompt])
        alone = predictor.model.generate_text(ids, torch.ones_like(ids), images, predictor._image_tokens((WIDE,)), 8)
        assert alone[0].tolist() == own[: alone.shape[1]].tolist()


@torch.inference_mode()
def test_shared_beginnings_change_nothing(world: StockWorld) -> None:
    predictor, backbone = world.predictor, world.predictor.model.backbone
    slots = predictor.slots((WIDE, TALL))
    rows = [predictor.answers.given([slot], ASKED, choice, "given") for slot in slots for choice in CHOICES]
    tokens = pad_rows(rows, backbone.special_tokens.pad)
    numbers = torch.tensor([[0]] * len(CHOICES) + [[1]] * len(CHOICES))
    shown = ConversationImages(numbers, tuple(slot.num_tokens for slot in slots), None, tokens.positions)
    images = predictor.images.tokens(predictor.images.find_all((WIDE, TALL)))
    text = (tokens.input_ids, tokens.attention_mask, shown, images)
    apart, shared = backbone.hidden_states(*text), backbone.shared_hidden_states(*text)
    is_token = tokens.attention_mask.bool()
    torch.testing.assert_close(apart[is_token], shared[is_token], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_many_questions_at_once_give_what_they_give_alone(world: StockWorld) -> None:
    predictor = world.predictor
    photos = (WIDE, TALL)
    batch = QuestionBatch(predictor, [predictor.images.read(photo) for photo in photos])
    nothing = ((),) * len(CHOICES)
    asked = [ChoiceRequest(number, turns, CHOICES, nothing) for number in (0, 1) for turns in (ASKED, LATER)]
    together = batch.score_choices(asked)
    replies = batch.reply([ReplyRequest(one.image, one.turns) for one in asked], 10)
    for request, scores, reply in zip(asked, together, replies, strict=True):
        alone = predictor.score_choices(photos[request.image], request.turns, CHOICES)
        for one, other in zip(scores, alone, strict=True):
            assert one.answer_log_prob == pytest.approx(other.answer_log_prob, abs=1e-4)
            assert one.conversation_log_prob == pytest.approx(other.conversation_log_prob, abs=1e-4)
            assert one.answer_tokens == other.answer_tokens
        assert reply == predictor.generate_text(photos[request.image], request.turns, 10)


def test_a_conversation_is_encoded_without_building_the_stock_configuration_again(
    world: StockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building it takes 20 ms, and an encoder asks for the image's id at every word."""
    predictor = world.predictor
    row = predictor.encoder.encode([Exchange("What is it?", "A wing.")], predictor.slots((WIDE,)))

    def build(config: HfBackboneConfig) -> None:
        raise AssertionError("built again")

    for module in (stock_inputs, plum.config):
        monkeypatch.setattr(module, "stock_hf_config", build)
    again = predictor.encoder.encode([Exchange("What is it?", "A wing.")], predictor.slots((TALL,)))
    assert again.labels != () != row.labels
    assert predictor.model.config.language.hidden_size > 0


def test_labels_and_phrases_are_those_of_the_answers(world: StockWorld) -> None:
    predictor, answer = world.predictor, "It has a front wheel and a wing."
    spans = tuple(CharSpan(answer.index(word), answer.index(word) + len(word)) for word in ("front wheel", "wing"))
    exchanges = [Exchange("What parts?", answer, spans), Exchange("And?", "A wing.", (CharSpan(2, 6),))]
    row = predictor.encoder.encode(exchanges, predictor.slots((WIDE,)))
    tokenizer, ids = predictor.tokenizer, row.encoded.input_ids
    supervised = [token for token in row.labels if token != IGNORE_INDEX]
    end = tokenizer.convert_ids_to_tokens(predictor.model.backbone.special_tokens.eos)
    text = tokenizer.decode(supervised)
    assert text.replace(" ", "") == f"{answer}{end}A wing.{end}".replace(" ", "")
    words = [tokenizer.decode(ids[span.start : span.end]).strip() for span in row.spans]
    assert words == ["front wheel", "wing", "wing"]
    assert ids[
        : len(predictor.answers.prompt((Turn(Role.USER, "What parts?"),), predictor.slots((WIDE,))).input_ids)
    ] == (predictor.answers.prompt((Turn(Role.USER, "What parts?"),), predictor.slots((WIDE,))).input_ids)


def test_adapters_are_in_the_decoder_alone_and_their_absence_is_the_teacher(world: StockWorld) -> None:
    model = world.predictor.model
    adapted = [name for name, _ in model.named_parameters() if "lora_" in name]
    decoder = FAMILIES[model.config.hf.model_type].decoder  # type: ignore[union-attr]
    adaptable = [name for name, _ in model.named_modules() if name.endswith((".q_proj", ".v_proj"))]
    in_decoder = [name for name in adaptable if f".{decoder}.layers." in name]
    assert len(adapted) == len(in_decoder) * 2 > 0
    assert all(f".{decoder}.layers." in name for name in adapted)
    row = world.predictor.answers.given(world.predictor.slots((WIDE,)), ASKED, "It has a wing.", "given")
    before = world.predictor._hidden_states((WIDE,), [row])
    try:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
        changed = world.predictor._hidden_states((WIDE,), [row])
        with adapters_off(model.backbone.network):
            teacher = world.predictor._hidden_states((WIDE,), [row])
    finally:
        reset_adapters(model.backbone)
    assert float((changed - before).abs().max()) > 1e-2
    assert torch.equal(teacher, before)


@pytest.mark.parametrize("family", MRoPE)
def test_positions_are_those_of_the_stock_model(
    family: str, worlds: dict[str, StockWorld], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if family not in worlds:
        worlds[family] = make_world(tmp_path_factory.mktemp("stock") / family, family)
    world = worlds[family]
    row = world.predictor.answers.given(world.predictor.slots((WIDE, TALL)), LATER, "A wing.", "given")
    inputs = world.inputs(row.rendered.text, WIDE, TALL)
    expected, _ = world.stock.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
    )
    positions = row.encoded.positions()
    assert positions is not None
    assert np.array_equal(positions, expected[:, 0].numpy())


def test_rectangles_by_hand() -> None:
    # Text 0 1, an image of 2 rows and 3 columns at 2, text from 2 + 3, an image of one token, text after it.
    found = rectangle_positions(12, [2, 9], [(2, 3), (1, 1)])
    assert found[0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7, 8]
    assert found[1].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8]
    assert found[2].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8]


def test_gradients_reach_the_adapters_through_checkpointed_layers(world: StockWorld) -> None:
    model = world.predictor.model
    row = world.predictor.answers.given(world.predictor.slots((WIDE,)), ASKED, "It has a wing.", "given")
    tokens = pad_rows([row], model.backbone.special_tokens.pad)
    shown = world.predictor._shown((WIDE,), [row.encoded])
    images = world.predictor._image_tokens((WIDE,))
    adapters = [parameter for name, parameter in model.named_parameters() if "lora_B" in name]

    def gradients() -> list[torch.Tensor]:
        states = model.backbone.shared_hidden_states(tokens.input_ids, tokens.attention_mask, shown, images)
        return list(torch.autograd.grad(states.square().sum(), adapters))

    model.train()
    try:
        plain = gradients()
        model.enable_gradient_checkpointing()
        checkpointed = gradients()
    finally:
        model.eval()
        model.backbone.stock.gradient_checkpointing_disable()
    assert all(float(gradient.abs().max()) > 0 for gradient in plain)
    for one, other in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_with_attention_of_their_own_take_the_plain_path_and_say_so(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ARCHITECTURES[family](tmp_path / family)
    config, tokenizer = stock_config(tmp_path / family), read_stock_checkpoint(tmp_path / family).tokenizer
    with caplog.at_level("INFO"):
        backbone = build_model(config).backbone
    states = conversation_states(backbone, backbone.no_images())
    assert backbone.shares_prefixes == (family not in PLAIN)
    assert isinstance(states, ForestStates) == (family not in PLAIN)
    assert ("every conversation runs by itself" in caplog.text) == (family in PLAIN)
    assert (Collator(tokenizer, config, DataConfig(sources=())).special_tokens is None) == (family in PLAIN)


@pytest.mark.parametrize("family", PLAIN)
@torch.inference_mode()
def test_a_plain_conversation_that_begins_another_is_not_computed_again(
    family: str, worlds: dict[str, StockWorld], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family not in worlds:
        worlds[family] = make_world(tmp_path / family, family)
    predictor = worlds[family].predictor
    batch = QuestionBatch(predictor, [predictor.images.read(WIDE), predictor.images.read(TALL)])
    seen: list[int] = []
    backbone = predictor.model.backbone
    compute = backbone.hidden_states

    def count(ids: torch.Tensor, *others: object) -> torch.Tensor:
        seen.extend([ids.shape[1]] * len(ids))
        return compute(ids, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(backbone, "hidden_states", count)
    asked = [ChoiceRequest(number, ASKED, CHOICES, ((),) * len(CHOICES)) for number in (0, 1)]
    batch.score_choices(asked)
    assert len(seen) == 2 * len(CHOICES)
    batch.score_choices(asked)
    batch.reply([ReplyRequest(one.image, one.turns) for one in asked], 4)
    assert len(seen) == 2 * len(CHOICES)
    states = conversation_states(backbone, predictor.images.tokens(batch._images))
    whole = predictor.answers.given(predictor.slots((WIDE,)), ASKED, CHOICES[0], "given").encoded
    prompt = predictor.answers.prompt(ASKED, predictor.slots((WIDE,)))
    short, long = states.add([batch._forest_row(asked[0], text) for text in (prompt, whole)])
    assert len(seen) == 2 * len(CHOICES) + 1, "the longer one is computed, whatever the order"
    assert short.tolist() == long[: len(short)].tolist()
    (log_probs,) = states.log_probs([long])
    assert [place for place, value in enumerate(log_probs) if value == 0] == [0, *whole.patches[0]]
    assert states.bytes_per_token > 0
    monkeypatch.setattr(plain_states, "MAX_PLACES_TOGETHER", 1)
    apart = conversation_states(backbone, predictor.images.tokens(batch._images))
    rows = [predictor.answers.given(predictor.slots((WIDE,)), ASKED, one, "given").encoded for one in CHOICES]
    both = [found.gather(found.add([batch._forest_row(asked[0], row) for row in rows])) for found in (states, apart)]
    for number, row in enumerate(rows):
        one, other = (found[number, : len(row.input_ids)] for found in both)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_gemma_images_merge_with_the_line_breaks_around_them(tmp_path: Path) -> None:
    world = make_world(tmp_path / "gemma3", "gemma3")
    prompt = world.predictor.answers.prompt(ASKED, world.predictor.slots((WIDE,)))
    merged = world.predictor.tokenizer("\n\n\n", add_special_tokens=False)["input_ids"]
    assert len(merged) == 1
    assert prompt.input_ids[prompt.patches[0][0] - 2] == merged[0]
    settings = tmp_path / "gemma3" / "processor_config.json"
    content = json.loads(settings.read_text())
    content["image_processor"]["do_pan_and_scan"] = True
    settings.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="gemma3 cuts images into crops"):
        read_stock_checkpoint(tmp_path / "gemma3")


@pytest.mark.parametrize("model_type", ["gemma4", "paligemma", "", "no_such_model"])
def test_other_architectures_are_refused_by_name(model_type: str) -> None:
    with pytest.raises(ValueError, match=r"none of the families.*qwen3_vl"):
        build_hf(HfBackboneConfig(stock={"model_type": model_type}), None)


@pytest.mark.parametrize("train_embeddings", [False, True])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_tied_embeddings_stay_one_tensor_without_memory_too(
    tmp_path: Path, family: str, train_embeddings: bool
) -> None:
    ARCHITECTURES[family](tmp_path / "stock")
    config = stock_config(tmp_path / "stock", LoraConfig(rank=2, train_embeddings=train_embeddings))
    assert config.hf is not None
    text = {**config.hf.stock["text_config"], "tie_word_embeddings": True}  # type: ignore[dict-item]
    tied = replace(
        config, hf=replace(config.hf, stock={**config.hf.stock, "text_config": text, "tie_word_embeddings": True})
    )
    for is_empty in (False, True):
        stock = build_model(tied, is_backbone_empty=is_empty).backbone.stock
        embeddings, head = stock.get_input_embeddings(), stock.get_output_embeddings()
        assert head.weight is embeddings.weight
        if train_embeddings:
            assert head.original_module.weight is embeddings.original_module.weight
            assert head.original_module.weight is not head.weight


@pytest.mark.parametrize(
    ("family", "ends"),
    [("qwen3_vl", ["<|im_end|>", "</s>"]), ("smolvlm", ["<end_of_utterance>", "</s>"]), ("llava", ["</s>"])],
)
def test_the_end_token_is_the_chat_templates_and_others_end_too(tmp_path: Path, family: str, ends: list[str]) -> None:
    ARCHITECTURES[family](tmp_path / "stock")
    config = read_stock_checkpoint(tmp_path / "stock").config
    assert list(config.end_tokens) == ends


def test_gradients_reach_every_tower_that_is_trained_and_no_other(world: StockWorld) -> None:
    model = world.predictor.model
    store = world.predictor.images
    pixels = store.transform.stack([store.read(image).inputs for image in (WIDE, TALL)])  # not of inference mode
    towers = {name: tower for name, tower in model.named_parameters() if component_of(name) in TOWERS}
    flags = {name: tower.requires_grad for name, tower in towers.items()}
    assert {component_of(name) for name in towers} == TOWERS
    try:
        for trained in TOWERS:
            for name, tower in towers.items():
                tower.requires_grad_(component_of(name) == trained)
            tokens = model.backbone.encode_images(pixels)
            assert tokens.values.requires_grad
            wanted = {name: tower for name, tower in towers.items() if tower.requires_grad}
            found = torch.autograd.grad(tokens.values.square().sum(), list(wanted.values()), allow_unused=True)
            reached = [name for name, gradient in zip(wanted, found, strict=True) if gradient is not None]
            assert reached
        for tower in towers.values():
            tower.requires_grad_(False)
        assert not model.backbone.encode_images(pixels).values.requires_grad
    finally:
        for name, tower in towers.items():
            tower.requires_grad_(flags[name])
