"""Published checkpoints of systems with heads compute, once converted, what their authors' code computes."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from partonomy.models.contract import MaskRequest, Role, Turn
from partonomy.structures import CharSpan, QuestionType
from plum.checkpoints.published.conversion import ConversionResult
from plum.checkpoints.published.convert_system import SystemRequest, convert_system
from plum.checkpoints.published.llava_tokenizer import read_source_tokenizer
from plum.checkpoints.published.source_files import find_weight_files
from plum.checkpoints.published.survey import list_names
from plum.checkpoints.published.system_keys import LISA, PLUM
from plum.checkpoints.store import load_pretrained
from plum.config import ModelConfig, SegTokenConfig
from plum.inference.partonomy_adapter import load_grounded_model
from plum.inference.predictor import Predictor
from plum.inputs.tokenizer import load_tokenizer
from plum.structures import SpanBounds
from tests.partonomy.conftest import write_questions
from tests.plum.checkpoints.published.published_systems import (
    SYSTEM_PROMPT,
    Computed,
    Original,
    OriginalPlum,
    decode_mask,
    encode_image,
    fast_ids,
    finish_mask,
    make_glamm,
    make_lisa,
    make_m2sa,
    make_plum,
    newer_slow_ids,
    plum_masks,
    plum_tags,
    run_llava,
    seg_queries,
    slow_ids,
    write_system,
    write_unmerged,
)
from validate_partonomy import main

IMAGE = np.random.default_rng(3).integers(0, 256, (21, 30, 3), dtype=np.uint8)
QUESTION = "What visible parts does the biplane have?"
ANSWER = "It has a front wheel, a propeller and a window."
PHRASES = ("front wheel", "propeller", "window")
MARKED = "It has a front wheel [SEG], a propeller [SEG] and a window [SEG]."
TAGGED = "It has a <p> front wheel </p> [SEG], a <p> propeller </p> [SEG] and a <p> window </p> [SEG]."


def spans() -> list[CharSpan]:
    return [CharSpan(ANSWER.index(phrase), ANSWER.index(phrase) + len(phrase)) for phrase in PHRASES]


@dataclass
class Converted:
    """What plum computes about the answer: ids with -200 for patches, states, logits and low-resolution masks."""

    predictor: Predictor
    config: ModelConfig
    ids: list[int]
    states: Tensor
    logits: Tensor
    low_masks: Tensor
    masks: np.ndarray


@torch.inference_mode()
def compute(folder: Path, change: Callable[[ModelConfig], ModelConfig] = lambda config: config) -> Converted:
    loaded = load_pretrained(folder)
    config = change(loaded.config)
    predictor = Predictor(loaded.model, loaded.tokenizer, config)
    turns = [Turn(Role.USER, QUESTION)]
    forced = predictor.answers.forced([predictor.encoder.slot()], turns, ANSWER, spans())
    states = predictor._hidden_states((IMAGE,), [forced.row])
    embeddings = predictor.images.embeddings([predictor.images.find(IMAGE)])
    bounds = torch.tensor([[span.start, span.end] for span in forced.spans])
    nothing = torch.zeros(len(bounds), dtype=torch.long)
    low = loaded.model.decode_masks(states, SpanBounds(nothing, bounds[:, 0], bounds[:, 1], nothing), embeddings)
    patch = loaded.model.llava.special_tokens.image
    ids = [-200 if token == patch else token for token in forced.row.encoded.input_ids]
    masks = predictor.segment(IMAGE, turns, ANSWER, spans()).masks
    return Converted(predictor, config, ids, states[0], loaded.model.token_logits(states)[0], low, masks)


def convert(tmp_path: Path, original: Original, legacy: bool | None = None, **request: object) -> ConversionResult:
    source, clip = write_system(tmp_path, original, legacy)
    return convert_system(SystemRequest(source, clip, **request), tmp_path / "model")  # type: ignore[arg-type]


def lisa_chunks(original: Original, answer: str) -> list[list[int]]:
    prompt = f"{SYSTEM_PROMPT}USER: <im_start><image><im_end>\n{QUESTION} ASSISTANT: {answer}</s>"
    return [slow_ids(chunk, original.tokens) for chunk in prompt.split("<image>")]


def assert_same(ours: Converted, theirs: Computed, low_masks: list[Tensor]) -> None:
    """Ids are equal, states and logits within 1e-6, low-resolution masks within 1e-5, masks equal."""
    assert ours.ids == theirs.ids
    torch.testing.assert_close(ours.states, theirs.states, atol=1e-6, rtol=1e-6)
    silent = set(ours.config.llava.special_tokens.suppressed) if ours.config.llava.special_tokens else set()
    text = torch.tensor([i for i in range(theirs.logits.shape[1]) if i not in silent])
    assert len(text) == theirs.logits.shape[1]
    torch.testing.assert_close(ours.logits[:, text], theirs.logits[:, text], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.low_masks, torch.stack(low_masks), atol=1e-5, rtol=0)
    expected = np.stack([finish_mask(low, IMAGE) for low in low_masks])
    assert expected.any()
    assert not expected.all()
    assert np.array_equal(ours.masks, expected)


@pytest.mark.parametrize("make", [make_lisa, make_m2sa], ids=["lisa", "m2sa"])
def test_lisa_and_m2sa_compute_what_the_original_code_does(tmp_path: Path, make: Callable[[], Original]) -> None:
    original = make()
    result = convert(tmp_path, original, targets="many")
    assert result.config.system == ("m2sa" if original.fusion else "lisa")
    ours = compute(tmp_path / "model")
    theirs = run_llava(original, IMAGE, lisa_chunks(original, MARKED))
    embedding = encode_image(original, IMAGE)
    queries = seg_queries(original, theirs)
    assert len(queries) == len(PHRASES)
    low = [decode_mask(embedding, query) for query in queries]
    assert_same(ours, theirs, low)
    # Each of the traps shows: the state of [SEG] itself, padding, a word mark before [SEG], no early features.
    own_state = [decode_mask(embedding, query) for query in seg_queries(original, theirs, shift=0)]
    assert (torch.stack(own_state) - ours.low_masks).abs().max() > 1e-3
    padded = compute(tmp_path / "model", lambda config: with_fit(config, "pad"))
    assert padded.ids == theirs.ids
    assert (padded.logits - ours.logits)[torch.isfinite(ours.logits)].abs().max() > 1e-3
    spoil_tokenizer(tmp_path / "model", lstrip=False, rstrip=False)
    assert compute(tmp_path / "model").ids != theirs.ids
    if original.fusion:
        original.fusion = {}
        plain = [decode_mask(encode_image(original, IMAGE), query) for query in queries]
        assert (torch.stack(plain) - ours.low_masks).abs().max() > 1e-3


def with_fit(config: ModelConfig, fit: str) -> ModelConfig:
    vision = replace(config.llava.vision, fit=fit)  # type: ignore[arg-type]
    return replace(config, llava=replace(config.llava, vision=vision))


def spoil_tokenizer(folder: Path, **ways: bool) -> None:
    """Change how tokens that were added are cut out of a text."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    for token in content["added_tokens"]:
        if token["content"] in ("[SEG]", "<im_start>", "<im_end>", "<p>", "</p>"):
            token.update(ways)
    path.write_text(json.dumps(content))


TEXTS = (
    "It is [SEG].",
    "[SEG]",
    "It is [SEG] , [SEG] and [SEG]\n\n.",
    " the  wheel\n[SEG]\nthe wheel [SEG][SEG] a",
    "<im_start> <im_end>\n\nWhere is it?",
    "no mark at all, a fa\u00e7ade\n",
)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_the_slow_tokenizers(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    tmp_path = tmp_path_factory.mktemp("lisa")
    original = make_lisa()
    source, _ = write_system(tmp_path, original)
    tokenizer = read_source_tokenizer(source, LISA.marks).tokenizer
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == slow_ids(text, original.tokens)


def test_ids_of_the_authors_plum_are_the_fast_tokenizers(tmp_path: Path) -> None:
    original = make_plum()
    source, _ = write_system(tmp_path, original, legacy=False)
    text = "It is the wheel.</s>USER: the <im_start> <im_end>\n\nwheel"
    tokenizer = read_source_tokenizer(source, PLUM.marks).tokenizer
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == fast_ids(text, original.tokens)


def test_an_answer_of_its_own_keeps_its_marks(tmp_path: Path) -> None:
    original = make_lisa()
    result = convert(tmp_path, original)
    assert result.config.seg_token is not None
    assert result.config.seg_token.targets == "single"
    loaded = load_pretrained(tmp_path / "model")
    predictor = Predictor(loaded.model, loaded.tokenizer, loaded.config)
    ids = [*slow_ids("Sure, it is [SEG].", original.tokens), 2]
    assert predictor.read_answer(torch.tensor(ids)) == "Sure, it is [SEG]."
    tokenizer = load_tokenizer(tmp_path / "model")
    assert tokenizer.convert_tokens_to_ids("[SEG]") == original.seg
    assert "[SEG]" in str(tokenizer.decode(ids, skip_special_tokens=True))


def test_lisa_with_legacy_false_reads_whole_pieces(tmp_path: Path) -> None:
    original = make_lisa()
    convert(tmp_path, original, legacy=False, targets="many")
    prompt = f"{SYSTEM_PROMPT}USER: <im_start><image><im_end>\n{QUESTION} ASSISTANT: "
    text = f"{prompt}{MARKED}</s>"
    first, second = (newer_slow_ids(chunk, original.tokens, has_lone_mark=False) for chunk in text.split("<image>"))
    assert compute(tmp_path / "model").ids == [1, *first, *[-200] * 4, *second]


def test_the_slow_tokenizer_of_the_training_is_read_where_a_fast_one_lies_beside_it(tmp_path: Path) -> None:
    original = make_lisa()
    source, clip = write_system(tmp_path, original)
    PreTrainedTokenizerFast(tokenizer_object=Backend(models.BPE({"<unk>": 0}, []))).save_pretrained(str(tmp_path))
    (tmp_path / "tokenizer.json").rename(source / "tokenizer.json")
    convert_system(SystemRequest(source, clip), tmp_path / "model")
    ids = load_tokenizer(tmp_path / "model")("It is [SEG].", add_special_tokens=False)["input_ids"]
    assert ids == slow_ids("It is [SEG].", original.tokens)


def glamm_chunks(original: Original, answer: str) -> list[list[int]]:
    prompt = f"{SYSTEM_PROMPT}USER: The <im_start><image><im_end> provides an overview of the picture.\n{QUESTION}"
    prompt += f" ASSISTANT: {answer}</s>"
    return [newer_slow_ids(chunk, original.tokens) for chunk in prompt.split("<image>")]


def test_glamm_computes_what_the_original_code_does(tmp_path: Path) -> None:
    original = make_glamm()
    result = convert(tmp_path, original, legacy=False)
    assert result.config.llava.conversation == "glamm"
    assert any("model.region_encoder.* (2 tensors): acts on boxes" in note for note in result.notes)
    ours = compute(tmp_path / "model")
    theirs = run_llava(original, IMAGE, glamm_chunks(original, TAGGED))
    at = theirs.ids.index(-200)
    mark = load_tokenizer(tmp_path / "model").convert_tokens_to_ids("\N{LOWER ONE EIGHTH BLOCK}")
    assert theirs.ids[at + 4 : at + 6] == [mark, original.tokens["<im_end>"]]  # the published id list's lone mark
    queries = seg_queries(original, theirs)
    assert_same(ours, theirs, [decode_mask(encode_image(original, IMAGE), query) for query in queries])
    words = "It has a <p> front wheel </p> [SEG]."
    ids = newer_slow_ids(words, original.tokens)
    assert ours.predictor.read_answer(torch.tensor([*ids, 2])) == words
    assert "<p> and </p> around each phrase" in ours.predictor.notation.protocol_note
    spoil_tokenizer(tmp_path / "model", rstrip=False)
    assert compute(tmp_path / "model").ids != theirs.ids


def test_glamm_with_the_older_tokenizer_has_no_lone_mark(tmp_path: Path) -> None:
    original = make_glamm()
    assert convert(tmp_path, original, legacy=True).config.llava.conversation == "glamm_legacy"
    prompt = f"{SYSTEM_PROMPT}USER: The <im_start><image><im_end> provides an overview of the picture.\n{QUESTION}"
    first, second = f"{prompt} ASSISTANT: {TAGGED}</s>".split("<image>")
    expected = [1, *slow_ids(first, original.tokens), *[-200] * 4, *slow_ids(second, original.tokens)]
    assert compute(tmp_path / "model").ids == expected


def plum_expected(original: OriginalPlum) -> tuple[Computed, Tensor, list[range]]:
    """What the authors' code computes, its queries, and the places of the phrases' tokens."""
    prompt = f"{SYSTEM_PROMPT}USER: <im_start><image><im_end>\n{QUESTION} ASSISTANT: {ANSWER}</s>"
    chunks = [fast_ids(chunk, original.tokens) for chunk in prompt.split("<image>")]
    theirs = run_llava(original, IMAGE, chunks)
    places = [find_phrase(theirs.ids, phrase) for phrase in PHRASES]
    with torch.no_grad():
        queries = torch.stack([original.text_fc(theirs.states[list(place)]).mean(0) for place in places])
    return theirs, queries, places


def find_phrase(ids: list[int], phrase: str) -> range:
    """Place of the last occurrence of a phrase's ids; a word mark that is a token of its own is no part of it."""
    wanted = fast_ids(phrase, {})
    start = max(i for i in range(len(ids)) if ids[i : i + len(wanted)] == wanted)
    is_alone = wanted[0] == fast_ids("\n", {})[0]
    return range(start + is_alone, start + len(wanted))


@pytest.mark.parametrize("with_feedback", [False, True], ids=["as_evaluated", "with_feedback"])
def test_the_authors_plum_computes_what_its_code_does(tmp_path: Path, with_feedback: bool) -> None:
    original = make_plum()
    # The fast tokenizer of the training knows no `legacy`.
    result = convert(tmp_path, original, legacy=False if with_feedback else None, keeps_feedback=with_feedback)
    assert result.config.feedback.is_enabled == with_feedback
    note = "Mask feedback: kept" if with_feedback else "Mask feedback: off, as in the authors' evaluation"
    assert any(line.startswith(note) for line in result.notes)
    ours = compute(tmp_path / "model")
    theirs, queries, _ = plum_expected(original)
    low = plum_masks(original, IMAGE, queries, with_feedback)
    assert_same(ours, theirs, low)
    with torch.inference_mode():
        tags = ours.predictor.model.tag(ours.states[None], torch.ones(1, len(ours.ids)))
    assert tags is not None
    torch.testing.assert_close(tags[0], plum_tags(original, theirs.states), atol=1e-5, rtol=1e-5)
    assert (tags[0] - plum_tags(original, theirs.states, is_block_first=False)).abs().max() > 1e-2
    other = plum_masks(original, IMAGE, queries, not with_feedback)
    assert (torch.stack(other) - ours.low_masks).abs().max() > 1e-3
    if with_feedback:
        keys_only = plum_masks(original, IMAGE, queries, True, in_values=False)
        assert (torch.stack(keys_only) - ours.low_masks).abs().max() > 1e-3


def test_the_papers_protocol_switches_feedback_off(tmp_path: Path) -> None:
    """Masks of given phrases, each decoded without the earlier ones and without the tagger's own phrases."""
    original = make_plum()
    convert(tmp_path, original, keeps_feedback=True)
    _, queries, _ = plum_expected(original)
    turns = [Turn(Role.USER, QUESTION)]
    found = {}
    for has_feedback in (True, False):
        model = load_grounded_model(str(tmp_path / "model"), "cpu", has_feedback=has_feedback)
        assert model.name == ("plum:model" if has_feedback else "plum:model, feedback off")
        found[has_feedback] = model.segment(IMAGE, turns, ANSWER, spans())
        batch = model.open_batch([model.read_image(IMAGE)])
        (batched,) = batch.segment([MaskRequest(0, tuple(turns), ANSWER, tuple(spans()))])
        assert np.array_equal(batched, found[has_feedback])
        low = plum_masks(original, IMAGE, queries, has_feedback)
        assert np.array_equal(found[has_feedback], np.stack([finish_mask(mask, IMAGE) for mask in low]))
    assert np.array_equal(found[True][0], found[False][0])
    assert not np.array_equal(found[True], found[False])


def test_a_run_of_the_papers_protocol_says_so(tmp_path: Path) -> None:
    convert(tmp_path, make_plum(), keeps_feedback=True)
    questions = write_questions(tmp_path, (QuestionType.POSITIVE,), num_images=2)
    flags = [
        "--model",
        "plum",
        "--checkpoint",
        str(tmp_path / "model"),
        "--device",
        "cpu",
        "--questions",
        str(questions),
    ]
    records = {}
    for name, more in (("on", []), ("off", ["--no_feedback"])):
        summary = main([*flags, "--output", str(tmp_path / name), *more])
        assert summary is not None
        assert summary.model_label == ("model" if name == "on" else "model, feedback off")
        lines = (tmp_path / name / "records.jsonl").read_text().splitlines()
        records[name] = [json.loads(line)["segmentation"]["paired"] for line in lines]
    assert records["on"] != records["off"]
    convert_system(SystemRequest(tmp_path / "source", tmp_path / "clip"), tmp_path / "without")
    with pytest.raises(ValueError, match="--no_feedback: .*without has no mask feedback to switch off"):
        load_grounded_model(str(tmp_path / "without"), "cpu", has_feedback=False)


@pytest.mark.parametrize(
    ("make", "more"),
    [(make_lisa, {}), (make_m2sa, {}), (make_glamm, {}), (make_plum, {}), (make_plum, {"keeps_feedback": True})],
    ids=["lisa", "m2sa", "glamm", "plum", "plum_with_feedback"],
)
def test_what_is_left_out_is_listed_with_a_reason(
    tmp_path: Path, make: Callable[[], Original], more: dict[str, bool]
) -> None:
    original = make()
    for layer in range(2):
        original.state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    source, clip = write_system(tmp_path, original)
    result = convert_system(SystemRequest(source, clip, **more), tmp_path / "model")  # type: ignore[arg-type]
    listed = [line for line in result.notes if line.startswith("Left out: ")]
    assert all(
        re.fullmatch(r"Left out: .+ \(\d+ tensors\): .{9,}|Left out: \d+ second names .+", line) for line in listed
    )
    assert any("model.layers.{}.self_attn.rotary_emb.inv_freq (2 tensors): frequencies" in line for line in listed)
    assert any("text_model.* (1 tensors): of CLIP's text side" in line for line in listed)
    num_left = sum(int(re.search(r"\((\d+) tensors\)|(\d+) second", line)[0].strip("(").split()[0]) for line in listed)
    num_read = sum(len(list_names(find_weight_files(folder))) for folder in (source, clip))
    num_made = 2 if result.config.llava.projector == "linear" else 0  # the identity for a second layer
    num_cut = 4 if more else 0  # two joint projections become three tensors each
    assert num_read - num_left == result.num_tensors - num_made - num_cut


@pytest.mark.parametrize("make", [make_lisa, make_m2sa, make_plum], ids=["lisa", "m2sa", "plum"])
def test_positions_in_bfloat16_are_an_option(tmp_path: Path, make: Callable[[], Original]) -> None:
    original = make()
    result = convert(tmp_path, original, position_dtype="bfloat16")
    assert any(note.startswith("SAM's positional encoding: bfloat16") for note in result.notes)
    sam = load_pretrained(tmp_path / "model").model.sam
    matrix = original.state["model.visual_model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    side = sam.grid[0]
    ones = torch.ones(side, side, dtype=torch.bfloat16)
    places = torch.stack([(ones.cumsum(1) - 0.5) / side, (ones.cumsum(0) - 0.5) / side], dim=-1)
    angles = 2 * np.pi * ((2 * places - 1) @ matrix.to(torch.bfloat16))
    expected = torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)
    assert torch.equal(sam.dense_position()[0], expected.float())
    assert not torch.equal(sam.dense_position(), sam.prompt_encoder.get_dense_pe())


def test_second_names_must_repeat_the_first(tmp_path: Path) -> None:
    original = make_plum()
    original.state["mask_pooler.block2.0.4.bias"] += 0.5
    with pytest.raises(ValueError, match=r"mask_pooler.block2.0.4.bias should repeat model.visual_model.*differs"):
        convert(tmp_path, original)


@pytest.mark.parametrize("make", [make_lisa, make_m2sa, make_plum], ids=["lisa", "m2sa", "plum"])
def test_unmerged_adapters_are_merged_in_float32(tmp_path: Path, make: Callable[..., Original]) -> None:
    merged = make(with_clip=True)
    torch.manual_seed(31)
    factors: dict[str, Tensor] = {}
    plain = dict(merged.state)
    for name in [name for name in plain if name.endswith(("self_attn.q_proj.weight", "self_attn.v_proj.weight"))]:
        if not name.startswith("model.layers."):
            continue
        stem = name.removesuffix("weight")
        down, up = 0.2 * torch.randn(8, 32), 0.2 * torch.randn(32, 8)
        factors |= {f"{stem}lora_A.default.weight": down, f"{stem}lora_B.default.weight": up}
        merged.state[name] = plain[name] + 2 * (up @ down)
    assert len(factors) == 8
    (tmp_path / "merged").mkdir()
    source, _ = write_system(tmp_path / "merged", merged)
    convert_system(SystemRequest(source), tmp_path / "expected")
    unmerged = replace(merged, state=plain)
    checkpoint, base = write_unmerged(tmp_path, unmerged, factors)
    result = convert_system(SystemRequest(checkpoint / "pytorch_model.bin", base=base), tmp_path / "model")
    assert any(line.startswith("Adapters merged in float32: 4 matrices, rank 8, alpha 16") for line in result.notes)
    assert result.config.seg_token == {"lisa": SegTokenConfig("single"), "m2sa": SegTokenConfig("many")}.get(
        result.config.system
    )
    assert load_pretrained(tmp_path / "expected").config == result.config
    expected, found = (load_pretrained(tmp_path / name).model.state_dict() for name in ("expected", "model"))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6)
    ids = [load_tokenizer(tmp_path / name)(ANSWER + "[SEG] <im_start>")["input_ids"] for name in ("expected", "model")]
    assert ids[0] == ids[1]
    convert_system(SystemRequest(checkpoint, base=base, lora_alpha=8), tmp_path / "half")
    half = load_pretrained(tmp_path / "half").model.state_dict()
    name = "llava.network.model.language_model.layers.0.self_attn.q_proj.weight"
    published = plain["model.layers.0.self_attn.q_proj.weight"]
    torch.testing.assert_close(half[name] - published, (found[name] - published) / 2, atol=1e-6, rtol=1e-5)
