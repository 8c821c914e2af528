import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from partonomy.benchmarks.partonomy.listwise import listwise_turns
from partonomy.models.contract import Role, Turn
from partonomy.models.transformers_model import (
    REUSES_PROMPT,
    TransformersModel,
    common_prefix,
    load_transformers_model,
    text_positions,
)
from partonomy.structures import QuestionType
from tests.partonomy.conftest import write_questions
from tests.partonomy.models.tiny_checkpoints import ARCHITECTURES, FAMILIES, QWEN, keep_tokens, save_llava
from validate_partonomy import main

TURNS = (Turn(Role.USER, "What visible parts does the biplane have?"),)
CONVERSATION = (
    Turn(Role.USER, "What is the object in the image?"),
    Turn(Role.ASSISTANT, "It is a seaplane."),
    Turn(Role.USER, "What visible parts does it have?"),
)
CHOICES = ("It has a wheel.", "It has a front wheel, a wheel and a propeller.", "It has wing.")
IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved checkpoint of each architecture."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: save(root / name) for name, save in ARCHITECTURES.items()}


@pytest.fixture(params=ARCHITECTURES)
def checkpoint(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    """The checkpoint of each architecture in turn."""
    return folders[request.param]


@pytest.fixture
def llava(folders: dict[str, Path]) -> Path:
    """A saved LLaVA."""
    return folders["llava"]


def load(folder: Path, reuses_prompt: bool | None = None, max_new_tokens: int = 256) -> TransformersModel:
    """The checkpoint behind the contract, scoring in the way asked for, if it can."""
    model = load_transformers_model(str(folder), "cpu", max_new_tokens)
    if reuses_prompt is None or model._model.config.model_type not in REUSES_PROMPT:
        return model
    return TransformersModel(model._model, model._processor, model.name, reuses_prompt, max_new_tokens)


def score_by_hand(model: TransformersModel, text: str, answer: str, image_places: Sequence[int]) -> list[float]:
    """Log-probabilities from the model's logits alone, one conversation at a time.

    Args:
        text: the whole conversation, its image placeholder already expanded by hand.
        answer: its end, end token included.
        image_places: positions of tokens that are not text.

    Returns:
        Sum over the answer's tokens, their number, sum over all text tokens but the first, their number.
    """
    tokenizer = model._processor.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    num_answer = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
    pixels = model._processor.image_processor([[Image.fromarray(IMAGE)]], return_tensors="pt")
    names = ("pixel_values", "pixel_attention_mask", "image_grid_thw")
    inputs = {name: pixels[name] for name in names if name in pixels}
    tokens = torch.tensor([ids])
    if "image_grid_thw" in inputs:  # Qwen-VL's positions: the processor's 1 at the tokens of an image, 0 at text
        inputs["mm_token_type_ids"] = (tokens == model._model.config.image_token_id).int()
    with torch.no_grad():
        logits = model._model(input_ids=tokens, **inputs).logits[0]
    logits = logits.double().numpy()
    log_probs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    log_probs -= logits.max(1, keepdims=True)
    of_token = {place: log_probs[place - 1, ids[place]] for place in range(1, len(ids)) if place not in image_places}
    in_answer = [value for place, value in of_token.items() if place >= len(ids) - num_answer]
    return [sum(in_answer), len(in_answer), sum(of_token.values()), len(of_token)]


def as_numbers(model: TransformersModel, turns: Sequence[Turn], choices: Sequence[str]) -> np.ndarray:
    """Scores as an array (choices, 4)."""
    return np.array(
        [
            (score.answer_log_prob, score.answer_tokens, score.conversation_log_prob, score.conversation_tokens)
            for score in model.score_choices(IMAGE, turns, choices)
        ]
    )


@pytest.mark.parametrize("reuses_prompt", [True, False])
def test_llava_scores_are_those_of_its_logits(llava: Path, reuses_prompt: bool) -> None:
    model = load(llava, reuses_prompt)
    # 16 x 16 pixels in patches of 8: four image tokens behind "USER", ":" and " ".
    prompt = "USER: <image><image><image><image>\nWhat visible parts does the biplane have? ASSISTANT:"
    for choice, numbers in zip(CHOICES, as_numbers(model, TURNS, CHOICES), strict=True):
        ending = f" {choice}</s>"
        expected = score_by_hand(model, prompt + ending, ending, image_places=range(3, 7))
        np.testing.assert_allclose(numbers, expected, rtol=1e-5)


@pytest.mark.parametrize("reuses_prompt", [True, False])
@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
def test_scores_of_tiles_are_those_of_the_logits(folders: dict[str, Path], family: str, reuses_prompt: bool) -> None:
    model = load(folders[family], reuses_prompt)
    # 24 x 32 pixels are read as 2 x 2 tiles of one token each and once whole; a line break ends each row of tiles.
    fake = "<fake_token_around_image>"
    rows = [f"{fake}<row_{row}_col_1><image>{fake}<row_{row}_col_2><image>\n" for row in (1, 2)]
    image = "".join(rows) + f"\n{fake}<global-img><image>{fake}"
    prompt = f"<s>User:{image}What visible parts does the biplane have?<end_of_utterance>\nAssistant:"
    for choice, numbers in zip(CHOICES, as_numbers(model, TURNS, CHOICES), strict=True):
        ending = f"{choice}<end_of_utterance>"
        # After "<s>", "User" and ":" come 2 x (3 + 3 + 1) tokens of tiles and 5 of the whole image.
        expected = score_by_hand(model, prompt + ending, ending, image_places=range(3, 22))
        np.testing.assert_allclose(numbers, expected, rtol=1e-5)


@pytest.mark.parametrize("reuses_prompt", [True, False])
@pytest.mark.parametrize("family", QWEN)
def test_scores_of_qwen_are_those_of_its_logits(folders: dict[str, Path], family: str, reuses_prompt: bool) -> None:
    model = load(folders[family], reuses_prompt)
    # 24 x 32 pixels are 6 x 8 patches, 2 x 2 of them a token: 12 image tokens that count nowhere.
    image = f"<|vision_start|>{12 * '<|image_pad|>'}<|vision_end|>"
    prompt = f"<|im_start|>user\n{image}What visible parts does the biplane have?<|im_end|>\n<|im_start|>assistant\n"
    start = len(model._processor.tokenizer("<|im_start|>user\n<|vision_start|>")["input_ids"])
    for choice, numbers in zip(CHOICES, as_numbers(model, TURNS, CHOICES), strict=True):
        ending = f"{choice}<|im_end|>"
        expected = score_by_hand(model, prompt + ending, ending, image_places=range(start, start + 12))
        np.testing.assert_allclose(numbers, expected, rtol=1e-5)


@pytest.mark.parametrize("reuses_prompt", [True, False])
def test_scores_of_internvl_are_those_of_its_logits(folders: dict[str, Path], reuses_prompt: bool) -> None:
    model = load(folders["internvl"], reuses_prompt)
    # 24 x 32 pixels are cut into 2 x 2 tiles and also read whole, a token each, between two marks of the processor's.
    image = f"<img>{5 * '<IMG_CONTEXT>'}</img>"
    prompt = f"<|im_start|>user\n{image}\nWhat visible parts does the biplane have?<|im_end|>\n<|im_start|>assistant\n"
    start = len(model._processor.tokenizer("<|im_start|>user\n")["input_ids"])
    for choice, numbers in zip(CHOICES, as_numbers(model, TURNS, CHOICES), strict=True):
        ending = f"{choice}<|im_end|>"
        expected = score_by_hand(model, prompt + ending, ending, image_places=range(start, start + 7))
        np.testing.assert_allclose(numbers, expected, rtol=1e-5)


def test_a_missing_package_is_named(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(ValueError, match="smolvlm needs a package that is not installed: .*num2words"):
        load_transformers_model(str(folders["smolvlm"]), "cpu", 256)


@pytest.mark.parametrize("turns", [TURNS, CONVERSATION])
def test_reused_prompt_whole_batch_and_single_choices_agree(checkpoint: Path, turns: Sequence[Turn]) -> None:
    reusing, reading = load(checkpoint, True), load(checkpoint, False)
    together = as_numbers(reusing, turns, CHOICES)
    np.testing.assert_allclose(as_numbers(reading, turns, CHOICES), together, rtol=1e-5)
    for row, choice in enumerate(CHOICES):
        np.testing.assert_allclose(as_numbers(reusing, turns, [choice])[0], together[row], rtol=1e-5)
        np.testing.assert_allclose(as_numbers(reading, turns, [choice])[0], together[row], rtol=1e-5)


def test_every_architecture_here_but_one_reads_the_prompt_once() -> None:
    assert set(ARCHITECTURES) == REUSES_PROMPT | {"qwen3_5"}


def test_image_and_history_count(checkpoint: Path) -> None:
    model = load(checkpoint)
    scores = model.score_choices(IMAGE, CONVERSATION, CHOICES)
    assert scores != model.score_choices(255 - IMAGE, CONVERSATION, CHOICES)
    assert scores != model.score_choices(IMAGE, CONVERSATION[-1:], CHOICES)


def test_answer_merged_with_the_prompts_last_space(tmp_path: Path) -> None:
    folder = save_llava(tmp_path)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("'ASSISTANT:'", "'ASSISTANT: '"))
    model = load(folder)
    # The prompt's own tokens end in ":", " "; with the answer behind it the space belongs to " It".
    prompt = "USER: <image><image><image><image>\nWhat visible parts does the biplane have? ASSISTANT:"
    ending = f" {CHOICES[0]}</s>"
    expected = score_by_hand(model, prompt + ending, ending, image_places=range(3, 7))
    np.testing.assert_allclose(as_numbers(model, TURNS, CHOICES[:1])[0], expected, rtol=1e-5)


def test_a_reply_has_at_most_the_tokens_of_the_benchmark(llava: Path) -> None:
    whole = load(llava, max_new_tokens=12).reply(IMAGE, TURNS)
    start = load(llava, max_new_tokens=3).reply(IMAGE, TURNS)
    assert whole.startswith(start)
    assert 0 < len(start) < len(whole)


def test_reply_is_the_greedy_continuation(llava: Path) -> None:
    model = load(llava)
    reply = model.reply(IMAGE, TURNS)
    assert reply == model.reply(IMAGE, TURNS)
    prompt = "USER: <image><image><image><image>\nWhat visible parts does the biplane have? ASSISTANT:"
    tokenizer = model._processor.tokenizer
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    pixels = model._processor.image_processor([[Image.fromarray(IMAGE)]], return_tensors="pt")["pixel_values"]
    for _ in range(20):
        with torch.no_grad():
            ids = torch.cat(
                [ids, model._model(input_ids=ids, pixel_values=pixels).logits[:, -1].argmax(-1)[:, None]], 1
            )
    first = tokenizer.decode(ids[0, -20:], skip_special_tokens=True).strip()
    assert first.rstrip("�")
    assert reply.startswith(first.rstrip("�"))


def test_text_positions() -> None:
    # One placeholder (9) becomes three; then one becomes a row with marks (7) and a line break (5).
    assert text_positions([1, 2, 9, 3, 4], [1, 2, 9, 9, 9, 3, 4], 9) == (0, 1, 5, 6)
    assert text_positions([1, 5, 9, 5, 4], [1, 5, 7, 9, 5, 9, 7, 5, 4], 9) == (0, 1, 7, 8)
    assert text_positions([1, 9, 4], [1, 9, 4], 9) == (0, 2)
    assert common_prefix([1, 2], [1, 2, 3]) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_run_has_text_metrics_and_no_masks(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    types = (QuestionType.IDENTIFICATION_WITH_LABEL, QuestionType.WHOLE_TO_PART)
    questions = write_questions(tmp_path, types, num_images=2)
    flags = ["--model", "transformers", "--checkpoint", str(folders[family]), "--device", "cpu"]
    summary = main([*flags, "--questions", str(questions), "--output", str(tmp_path / "run")])
    assert summary is not None
    assert summary.provenance["config"]["options"]["choice_protocol"] == "likelihood"
    entry = summary.groups["whole_to_part"]
    assert entry.num_failed == 0
    for name, estimate in entry.metrics.items():
        assert (estimate.value is None) == ("giou" in name or "ciou" in name or name.startswith("generated_")), name


@pytest.mark.parametrize("family", FAMILIES)
def test_run_with_all_choices_at_once(tmp_path: Path, family: str) -> None:
    folder = keep_tokens(ARCHITECTURES[family](tmp_path / "checkpoint"))
    questions = write_questions(tmp_path, (QuestionType.POSITIVE,), num_images=3)
    flags = ["--model", "transformers", "--checkpoint", str(folder), "--device", "cpu", "--questions", str(questions)]
    flags += ["--choice_protocol", "listwise", "--max_new_tokens", "1", "--output", str(tmp_path / "run")]
    summary = main(flags)
    assert summary is not None
    entry = summary.groups["positive"]
    assert entry.metrics["parts_accuracy"].count == 3
    assert entry.metrics["giou_micro_paired"].value is None
    records = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    model = load(folder, max_new_tokens=1)
    for record in records:
        picked, texts = record["parts_choice"]["listwise"], record["parts_choice"]["texts"]
        turns = listwise_turns((Turn(Role.USER, record["prompt"]),), [texts[index] for index in picked["order"]])
        inputs = model._process([model._prompt.render(turns)], np.asarray(Image.open(record["image_path"])))
        with torch.no_grad():
            likeliest = model._model(**inputs).logits[0, -1].argmax()
        assert picked["reply"] == model._processor.tokenizer.decode(likeliest, skip_special_tokens=True)
        assert picked["reply"] in ("", *"ABCDE")
    assert any(record["parts_choice"]["listwise"]["reply"] for record in records)


def remove_template(folder: Path) -> None:
    """Leave a checkpoint that is no chat model."""
    (folder / "chat_template.jinja").unlink()


def foreign_code(folder: Path) -> None:
    """Make the configuration point at code beside it."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | {"model_type": "made_up", "auto_map": {"AutoConfig": "code.MadeUp"}}
    path.write_text(json.dumps(content))
    (folder / "code.py").write_text("raise SystemExit('code of a checkpoint was run')")


def remove_config(folder: Path) -> None:
    """Leave no checkpoint."""
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_template, "no chat template"),
        (foreign_code, "'made_up' is unknown to transformers .* not run"),
        (remove_config, "it has no config.json"),
    ],
)
def test_unusable_folders_say_what_is_missing(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = save_llava(tmp_path)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_transformers_model(str(folder), "cpu", 256)
