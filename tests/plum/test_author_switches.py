"""Switches that follow the paper or the authors' code, from the configuration to a saved and reloaded model."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from plum.checkpoints.model_config_io import read_model_config
from plum.checkpoints.store import MODEL_STEM, load_pretrained, save_pretrained
from plum.checkpoints.weights import write_tensors
from plum.config import Conversation, Fit, LoraConfig, ModelConfig
from plum.inference.predictor import Predictor
from plum.inputs.bio_labels import Tag
from plum.inputs.conversation import IMAGE_END, IMAGE_START
from plum.inputs.encoding import token_id
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import add_written_tokens, initialise_new_rows, with_special_tokens
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.structures import IGNORE_INDEX
from plum.train_config import DataConfig, LossConfig, SourceConfig, TrainableConfig, TrainConfig
from plum.training.initialise import initialise_from, require_same_backbone, with_fit_of
from plum.training.objective import Objective
from plum.training.run import build_or_load
from tests.plum.checkpoints.saved_models import assert_same, run
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.models.systems.sisters_world import sister_config

ROOM = 8
EMBEDDINGS = LoraConfig(rank=2, train_embeddings=True)


def make_config(
    conversation: Conversation = "plain", fit: Fit | None = None, lora: LoraConfig | None = EMBEDDINGS
) -> ModelConfig:
    config = tiny_model_config(len(byte_level()) + ROOM, lora=lora)
    vision = replace(config.llava.vision, fit=fit)
    return replace(config, llava=replace(config.llava, conversation=conversation, vision=vision))


def make_model(config: ModelConfig, tokenizer: PreTrainedTokenizerFast | None = None) -> GroundedLMM:
    torch.manual_seed(0)
    return build_model(with_special_tokens(config, tokenizer or byte_level())).eval()


def save_base(folder: Path, conversation: Conversation, fit: Fit) -> Path:
    """A converted base: LLaVA and SAM without heads."""
    model = make_model(make_config(conversation, fit, lora=None))
    save_pretrained(model, byte_level(), folder, "")
    kept = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(("llava.", "sam."))}
    (folder / "model.safetensors").unlink()
    write_tensors(kept, folder, MODEL_STEM)
    return folder


def train_config(model: ModelConfig, init_from: Path, embeddings: bool = True) -> TrainConfig:
    data = DataConfig(sources=(SourceConfig("part_vqa", "unused"),))
    trainable = TrainableConfig(embeddings=embeddings)
    return TrainConfig("unused", model, data, init_from=str(init_from), trainable=trainable)


def test_a_model_of_the_authors_switches_is_saved_with_them(tmp_path: Path) -> None:
    config = make_config("llava_v1")
    assert config.tagger is not None
    config = replace(
        config,
        tagger=replace(config.tagger, order="block_first"),
        feedback=replace(config.feedback, position_in="keys_and_values"),
    )
    model = make_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    save_pretrained(model, byte_level(), tmp_path / "saved", "")
    loaded = load_pretrained(tmp_path / "saved")
    assert loaded.config.llava.vision.fit == "crop", "LLaVA v1's template, from scratch"
    assert loaded.config == model.config
    assert_same(run(loaded.model), run(model))
    assert Predictor(loaded.model, loaded.tokenizer, loaded.config).transform.clip_fit == "crop"
    content = json.loads((tmp_path / "saved" / "config.json").read_text())
    for group, key, default in (("tagger", "order", "mlp_first"), ("feedback", "position_in", "keys")):
        other = {**content, group: {**content[group], key: default}}
        (tmp_path / "saved" / "config.json").write_text(json.dumps(other))
        if key == "order":
            with pytest.raises(ValueError, match=r"tagger\.mlp\.2"):
                load_pretrained(tmp_path / "saved")
        else:
            masks = run(load_pretrained(tmp_path / "saved").model).mask_logits
            assert not torch.allclose(masks, run(model).mask_logits, atol=1e-4)


@pytest.mark.parametrize(
    ("conversation", "fit"),
    [("plain", "stretch"), ("llava_v1", "pad"), ("vicuna_v1.1", "pad"), ("llava_llama_2", "pad")],
)
@pytest.mark.parametrize("version", [1, 2])
def test_models_saved_before_the_switches_load_as_they_were(
    tmp_path: Path, conversation: Conversation, fit: Fit, version: int
) -> None:
    model = make_model(make_config(conversation, fit))
    save_pretrained(model, byte_level(), tmp_path / "saved", "")
    path = tmp_path / "saved" / "config.json"
    content = json.loads(path.read_text())
    del content["llava"]["vision"]["fit"], content["tagger"]["order"], content["feedback"]["position_in"]
    del content["tagger"]["scheme"], content["tagger"]["use_crf"], content["tagger"]["use_cross_attention"]
    if version == 1:
        del content["seg_token"]
    path.write_text(json.dumps({**content, "format_version": version}))
    loaded = load_pretrained(tmp_path / "saved")
    assert loaded.config == model.config
    assert_same(run(loaded.model), run(model))


def test_the_arithmetic_of_positions_is_saved_and_used(tmp_path: Path) -> None:
    config = make_config("llava_v1")
    model = make_model(replace(config, sam=replace(config.sam, position_dtype="bfloat16")))
    save_pretrained(model, byte_level(), tmp_path / "saved", "")
    loaded = load_pretrained(tmp_path / "saved")
    assert loaded.config.sam.position_dtype == "bfloat16"
    assert_same(run(loaded.model), run(model))
    path = tmp_path / "saved" / "config.json"
    content = json.loads(path.read_text())
    del content["sam"]["position_dtype"]
    path.write_text(json.dumps({**content, "format_version": 5}))
    earlier = load_pretrained(tmp_path / "saved")
    assert earlier.config == replace(model.config, sam=config.sam)
    assert config.sam.position_dtype == "float32"
    difference = (run(earlier.model).mask_logits - run(model).mask_logits).abs().max()
    assert 1e-6 < difference < 1
    m2sa = sister_config("m2sa")
    rounded = build_model(replace(m2sa, sam=replace(m2sa.sam, position_dtype="bfloat16")))
    assert (build_model(m2sa).sam.position_dtype, rounded.sam.position_dtype) == (torch.float32, torch.bfloat16)


def test_a_run_chooses_the_arithmetic_of_positions_over_a_base(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llava_v1", "crop")
    config = make_config("llava_v1", "crop")
    own = with_special_tokens(replace(config, sam=replace(config.sam, position_dtype="bfloat16")), byte_level())
    require_same_backbone(own, str(base))
    save_pretrained(make_model(config), byte_level(), tmp_path / "model", "")
    with pytest.raises(ValueError, match=r"sam\.position_dtype: float32, bfloat16"):
        require_same_backbone(own, str(tmp_path / "model"))


@pytest.mark.parametrize("version", [0, 8, "2", True, None])
def test_another_version_is_refused(tmp_path: Path, version: object) -> None:
    save_pretrained(make_model(make_config()), byte_level(), tmp_path / "saved", "")
    path = tmp_path / "saved" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": version}))
    with pytest.raises(ValueError, match="format_version is .*, this code reads 1 to 7"):
        read_model_config(tmp_path / "saved")


def test_a_fit_left_open_is_that_of_the_start(tmp_path: Path) -> None:
    for fit in ("crop", "pad"):
        base = save_base(tmp_path / fit, "llava_v1", fit)  # type: ignore[arg-type]
        _, model = build_or_load(train_config(make_config("llava_v1"), base))
        assert model.config.llava.vision.fit == fit
    assert with_fit_of(make_config("vicuna_v1.1"), None).llava.vision.fit == "pad"
    assert with_fit_of(make_config("llava_v1", "stretch"), str(tmp_path / "pad")).llava.vision.fit == "stretch"


def test_a_run_chooses_template_and_fit_over_a_base_but_not_over_a_model(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llava_llama_2", "pad")
    own = with_special_tokens(make_config("llava_v1", "crop"), byte_level())
    require_same_backbone(own, str(base))
    save_pretrained(make_model(make_config("llava_llama_2", "pad")), byte_level(), tmp_path / "model", "")
    with pytest.raises(
        ValueError, match=r"llava\.conversation: llava_llama_2, llava_v1; llava\.vision\.fit: pad, crop"
    ):
        require_same_backbone(own, str(tmp_path / "model"))


def test_a_run_adds_the_delimiters_that_its_template_writes(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llava_llama_2", "crop")
    config = replace(train_config(make_config("llava_v1_im_start_end"), base), new_token_rows="normal")
    with pytest.raises(ValueError, match="adds <im_start>, <im_end> to the vocabulary"):
        build_or_load(replace(config, trainable=TrainableConfig(embeddings=False)))
    tokenizer, model = build_or_load(config)
    ids = [token_id(tokenizer, token) for token in (IMAGE_START, IMAGE_END)]
    assert ids == [len(byte_level()), len(byte_level()) + 1]
    assert not set(ids) & set(model.llava.special_tokens.suppressed)
    save_pretrained(model, tokenizer, tmp_path / "stage_0", "")
    # A second stage finds them and changes nothing.
    again, second = build_or_load(train_config(make_config("llava_v1_im_start_end"), tmp_path / "stage_0"))
    assert again.get_vocab() == tokenizer.get_vocab()
    assert torch.equal(second.llava.embed_text(torch.tensor(ids)), model.llava.embed_text(torch.tensor(ids)))
    with pytest.raises(ValueError, match="has no <im_start> and <im_end>, which llava.conversation"):
        with_special_tokens(make_config("llava_v1_im_start_end"), byte_level())


def test_rows_of_new_tokens() -> None:
    tokenizer = copy.deepcopy(byte_level())
    config = make_config("llava_v1_im_start_end")
    new = add_written_tokens(config, tokenizer)
    assert len(new) == 2
    assert add_written_tokens(config, tokenizer) == ()
    model = make_model(config, tokenizer)
    old = [row for row in range(new[0]) if row not in model.llava.special_tokens.suppressed]
    before = {name: tensor.clone() for name, tensor in rows(model).items()}
    initialise_new_rows(model, new, "mean")
    for name, matrix in rows(model).items():
        torch.testing.assert_close(matrix[list(new)], before[name][old].mean(0).expand(2, -1))
    torch.manual_seed(3)
    initialise_new_rows(model, new, "normal")
    drawn = {name: matrix[list(new)] for name, matrix in rows(model).items()}
    embedded = [tensor for name, tensor in drawn.items() if "embed_tokens" in name]
    written = [tensor for name, tensor in drawn.items() if "lm_head" in name]
    assert len(embedded) == 2, "peft keeps the teacher's matrix"
    assert torch.equal(*embedded)
    assert not torch.allclose(embedded[0], written[0])
    assert 0.012 < float(torch.cat([embedded[0], written[0]]).std()) < 0.028  # 128 numbers of deviation .02
    for name, matrix in rows(model).items():
        assert torch.equal(matrix[: new[0]], before[name][: new[0]])


def rows(model: GroundedLMM) -> dict[str, Tensor]:
    names = ("embed_tokens", "lm_head")
    return {name: tensor.detach() for name, tensor in model.named_parameters() if any(one in name for one in names)}


def test_the_scope_of_the_bio_loss_changes_the_loss_and_not_the_reported_accuracy() -> None:
    config = tiny_model_config(40, TINY_TOKENS)
    torch.manual_seed(0)
    model = build_model(config).eval()
    batch = tiny_batch(config, (2, 0), torch.Generator().manual_seed(1))
    results = {}
    for scope in ("answer", "all"):
        objective = Objective(model, LossConfig(kl=0.0, bio_scope=scope))  # type: ignore[arg-type]
        results[scope] = objective(batch)
    logits = model.tag(model(batch, with_teacher=False).hidden_states, batch.attention_mask)
    assert logits is not None
    tags = batch.tags[0].masked_fill(batch.tags[0] == IGNORE_INDEX, int(Tag.O))
    weights = torch.tensor([0.1, 1.0, 1.0])
    expected = torch.nn.functional.cross_entropy(logits[0], tags, weights)  # the row with phrases, all its tokens
    assert results["all"].terms.bio is not None
    assert results["answer"].terms.bio is not None
    torch.testing.assert_close(results["all"].terms.bio, expected)
    assert not torch.allclose(results["answer"].terms.bio, expected, atol=1e-3)
    answer = batch.tags[0] != IGNORE_INDEX
    is_right = logits[0].argmax(-1) == batch.tags[0]
    for tag in Tag:
        of_tag = answer & (batch.tags[0] == tag)
        assert int(results["all"].tag_totals[tag]) == int(of_tag.sum())
        assert int(results["all"].tag_hits[tag]) == int((of_tag & is_right).sum())


def test_embeddings_are_exported_trained(tmp_path: Path) -> None:
    """Adapters over trained embeddings merge to one model whose matrices are the trained ones."""
    from plum.export.merged import ExportRequest, export_merged

    base = save_base(tmp_path / "base", "llava_v1", "crop")
    tokenizer, model = build_or_load(train_config(make_config("llava_v1_im_start_end"), base))
    model.float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name or "lm_head" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.eval()
    save_pretrained(model, tokenizer, tmp_path / "trained", "")
    export_merged(ExportRequest(tmp_path / "trained", tmp_path / "merged"))
    merged = load_pretrained(tmp_path / "merged")
    assert merged.config == replace(model.config, lora=None)
    assert_same(run(merged.model), run(model), tolerance=1e-4)
    fresh = make_model(replace(model.config, llava=replace(model.config.llava, special_tokens=None)), tokenizer)
    assert initialise_from(fresh, str(tmp_path / "trained"))
    assert torch.equal(fresh.llava.stock.lm_head.weight, model.llava.stock.lm_head.weight)
