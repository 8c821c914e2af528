"""CALICO's parts, once converted, compute what the published classes compute; whatever no table names is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    Blip2ForConditionalGeneration,
    InstructBlipForConditionalGeneration,
)

from plum.checkpoints.published.conversion import ConversionResult
from plum.checkpoints.published.convert_system import SystemRequest, convert_system
from plum.checkpoints.published.source_files import OpenFile
from plum.checkpoints.store import load_pretrained
from plum.cli.main import main
from plum.config import AdaptationConfig, LoraConfig, ModelConfig
from plum.models.backbones.calico import CalicoBackbone
from plum.models.grounded_lmm import GroundedLMM
from plum.structures import ConversationImages, ImageTokens
from plum.train_config import DataConfig, EngineConfig, LossConfig, SourceConfig, TrainableConfig, TrainConfig
from plum.training.config_file import check_losses
from plum.training.run import build_or_load
from tests.plum.checkpoints.published.published_calico import (
    NUM_QUERIES,
    Change,
    blip_names,
    dino_state,
    make_blip_2,
    make_dino,
    make_instruct_blip,
    write_blip,
    write_dino,
)
from tests.plum.checkpoints.published.published_systems import (
    Original,
    encode_image,
    make_glamm,
    make_lisa,
    sam_pixels,
    write_system,
    write_unmerged,
)

CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
MEAN, STD = (torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(4))
IMAGE = np.random.default_rng(3).integers(0, 256, (21, 30, 3), dtype=np.uint8)


def write_sources(tmp_path: Path, change: Change = lambda state: None) -> SystemRequest:
    """GLaMM, InstructBLIP whose tensors `change` has changed, and DINOv2-giant, as published."""
    source, _ = write_system(tmp_path, make_glamm(), legacy=False)
    dino = make_dino()
    return SystemRequest(
        source,
        system="calico",
        blip=write_blip(tmp_path / "blip", make_instruct_blip(), change),
        dino=write_dino(tmp_path / "dino", dino, dino_state(dino)),
    )


def convert(tmp_path: Path, change: Change = lambda state: None) -> ConversionResult:
    return convert_system(write_sources(tmp_path, change), tmp_path / "model")


def load(folder: Path) -> tuple[GroundedLMM, CalicoBackbone]:
    model = load_pretrained(folder).model
    assert isinstance(model.llava, CalicoBackbone)
    return model, model.llava


def clip_pixels() -> Tensor:
    return (PIXELS - CLIP_MEAN) / CLIP_STD


@torch.no_grad()
def stock_image_tokens(model: InstructBlipForConditionalGeneration | Blip2ForConditionalGeneration) -> Tensor:
    """What the published class gives its language model of an image, without instruction text."""
    features = model.model.vision_model(clip_pixels()) if hasattr(model, "model") else model.vision_model(clip_pixels())
    named = {"input_ids": None} if isinstance(model, InstructBlipForConditionalGeneration) else {}
    queries = model.query_tokens.expand(2, -1, -1)
    asked = model.qformer(query_embeds=queries, encoder_hidden_states=features.last_hidden_state, **named)
    return model.language_projection(asked.last_hidden_state)


SHAKEN = (
    "qformer.encoder.layer.0.crossattention.attention.query.weight",
    "vision_model.encoder.layers.0.mlp.fc1.bias",
    "vision_model.embeddings.class_embedding",
    "qformer.embeddings.layernorm.weight",
    "qformer.encoder.layer.1.output_query.dense.weight",
    "query_tokens",
    "language_projection.bias",
)


@torch.no_grad()
def test_image_tokens_are_instruct_blips(tmp_path: Path) -> None:
    result = convert(tmp_path)
    stock = InstructBlipForConditionalGeneration.from_pretrained(tmp_path / "blip").eval()
    expected = stock_image_tokens(stock)
    _, llava = load(tmp_path / "model")
    found = llava.encode_images(clip_pixels())
    assert found.details is None
    torch.testing.assert_close(found.values, expected, atol=1e-6, rtol=1e-6)
    vision = result.config.llava.vision
    assert (vision.num_query_tokens, vision.fit, result.config.llava.projector) == (NUM_QUERIES, "stretch", "linear")
    for name in SHAKEN:  # a change of any of them shows
        state = stock.state_dict()
        kept = state[name].clone()
        state[name].add_(0.05 * torch.randn_like(kept))
        assert (stock_image_tokens(stock) - found.values).abs().max() > 1e-4, name
        state[name].copy_(kept)


@torch.no_grad()
def test_every_tensor_of_the_q_former_and_of_eva_clip_arrives(tmp_path: Path) -> None:
    """Field by field: a table that confuses two tensors of one shape is seen here."""
    convert(tmp_path)
    published = make_instruct_blip().state_dict()
    own = load(tmp_path / "model")[0].state_dict()
    assert torch.equal(own.pop("llava.qformer.queries"), published.pop("query_tokens")[0])
    pairs = {
        "llava.network.model.vision_tower.": "vision_model.",
        "llava.network.model.multi_modal_projector.": "language_projection.",
        "llava.qformer.network.layernorm.": "qformer.embeddings.layernorm.",
        "llava.qformer.network.": "qformer.",
    }
    compared = set()
    for name, tensor in own.items():
        prefix = next((prefix for prefix in pairs if name.startswith(prefix)), None)
        if prefix is not None:
            theirs = pairs[prefix] + name.removeprefix(prefix)
            assert torch.equal(tensor, published[theirs]), name
            compared.add(theirs)
    left = {name for name in published.keys() - compared if not name.startswith("language_model.")}
    text = ("intermediate.", "output.", "embeddings.word_embeddings", "embeddings.position_embeddings")
    assert left
    assert all(any(f".{part}" in name for part in text) for name in left)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("has_registers", [False, True])
@pytest.mark.parametrize("is_gated", [False, True])
@torch.no_grad()
def test_semantic_features_are_dinov2s(tmp_path: Path, has_registers: bool, is_gated: bool, kind: str) -> None:
    request = write_sources(tmp_path)
    dino = make_dino(has_registers, is_gated)
    folder = write_dino(tmp_path / "other", dino, dino_state(dino), kind)
    result = convert_system(replace(request, dino=folder), tmp_path / "model")
    assert result.config.calico is not None
    assert result.config.calico.dino is not None
    assert result.config.calico.dino.num_register_tokens == (4 if has_registers else 0)
    assert result.config.calico.dino.use_swiglu == is_gated
    stock = AutoModel.from_pretrained(folder).eval()
    assert type(stock) is type(dino)
    _, llava = load(tmp_path / "model")
    assert llava.dino is not None
    found = llava.dino(clip_pixels())
    expected = stock((PIXELS - MEAN) / STD).last_hidden_state[:, 1 + (4 if has_registers else 0) :]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    state = dino_state(dino)
    if is_gated:
        for name in [name for name in state if "weights_in" in name]:
            state[name] = torch.cat(state[name].chunk(2)[::-1])
    else:
        query, key = (f"encoder.layer.0.attention.attention.{part}.weight" for part in ("query", "value"))
        state[query], state[key] = state[key], state[query]
    shutil.rmtree(folder)
    write_dino(folder, dino, state, kind)
    convert_system(replace(request, dino=folder), tmp_path / "wrong")
    _, llava = load(tmp_path / "wrong")
    assert llava.dino is not None
    assert (llava.dino(clip_pixels()) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_dinov2_with_a_head_and_with_names_of_transformers_5(tmp_path: Path) -> None:
    request = write_sources(tmp_path)
    dino = make_dino(is_gated=False)
    headed = {f"dinov2.{name}": tensor for name, tensor in dino_state(dino).items()}
    headed |= {"classifier.weight": torch.ones(5, 24), "classifier.bias": torch.ones(5)}
    folders = [write_dino(tmp_path / "headed", dino, headed)]
    for number, model in enumerate((dino, make_dino(True))):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        folders.append(write_dino(tmp_path / f"new{number}", model, state))
    for number, (folder, model) in enumerate(zip(folders, (dino, dino, make_dino(True)), strict=True)):
        result = convert_system(replace(request, dino=folder), tmp_path / f"model{number}")
        _, llava = load(tmp_path / f"model{number}")
        assert llava.dino is not None
        own = llava.dino.network.state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
        note = "Left out: classifier.* (2 tensors): classifies images, which CALICO does not do"
        assert (note in result.notes) == (number == 0)


@torch.no_grad()
def test_language_masks_and_projection_are_glamms(tmp_path: Path) -> None:
    result = convert(tmp_path)
    original = make_glamm()
    model, _ = load(tmp_path / "model")
    ids = torch.arange(5, 40)[None]
    shown = ConversationImages.no_image(1, ids.device)
    nothing = ImageTokens(torch.zeros(0, NUM_QUERIES, 32))
    states = model.hidden_states(ids, torch.ones_like(ids), shown, nothing)
    theirs = original.stock.model.language_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(states, theirs, atol=1e-6, rtol=1e-6)
    marks = torch.tensor([[original.tokens[token] for token in ("[SEG]", "<p>", "</p>")]])
    states = model.hidden_states(marks, torch.ones_like(marks), shown, nothing)
    expected = original.stock.model.language_model(input_ids=marks).last_hidden_state
    torch.testing.assert_close(states, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(model.query_projection.layers(states), original.text_fc(states), atol=1e-6, rtol=1e-6)
    assert (model.query_projection.layers(states) - original.text_fc(states.roll(1, 1))).abs().max() > 1e-3
    pixels, _ = sam_pixels(IMAGE)
    torch.testing.assert_close(model.sam.image_encoder(pixels), encode_image(original, IMAGE), atol=1e-5, rtol=0)
    assert result.config.llava.conversation == "glamm"
    assert result.config.seg_token is not None
    assert result.config.seg_token.has_phrase_tags
    assert result.config.seg_token.unnamed_image == "none"
    for note in (
        "Left out: model.mm_projector.* (4 tensors): projects CLIP's tokens; CALICO's f_image projects the Q-Former's",
        "Left out: model.region_encoder.* (2 tensors): acts on boxes in the question only, which plum does not have",
        "Left out: qformer.embeddings.position_* (2 tensors): reads instruction text, which CALICO does not give the "
        "Q-Former",
    ):
        assert note in result.notes
    assert any(note.startswith("Left out: language_model.* (") for note in result.notes)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Train from it (`init_from`)" in card


def test_nothing_that_is_left_out_is_read_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a language model of 26 GB beside the towers costs no memory."""
    request = write_sources(tmp_path)
    read_names: list[str] = []
    read = OpenFile.read
    monkeypatch.setattr(OpenFile, "read", lambda self, name: read_names.append(name) or read(self, name))
    convert_system(request, tmp_path / "model")
    of_blip = [name for name in read_names if name.startswith(("vision_model.", "qformer.", "query_", "language_"))]
    expected = {name for name in blip_names(is_instruct=False) if not name.startswith("qformer.layernorm")}
    assert sorted(of_blip) == sorted(expected | {f"qformer.embeddings.layernorm.{kind}" for kind in ("weight", "bias")})


def run_from(folder: Path, config: ModelConfig, projector: bool = False) -> TrainConfig:
    """A run that adds adaptation modules to a converted start."""
    assert config.calico is not None
    assert config.calico.dino is not None
    calico = replace(
        config.calico,
        adaptation=AdaptationConfig(num_modules=1),
        correspondence=replace(config.calico.correspondence, num_heads=2),
        dino=replace(config.calico.dino, facet="key"),
    )
    model = replace(config, calico=calico, lora=LoraConfig(rank=2))
    model = replace(model, llava=replace(model.llava, special_tokens=None))
    return TrainConfig(
        run_dir="unused",
        model=model,
        data=DataConfig(sources=(SourceConfig("part_vqa", "unused"),)),
        init_from=str(folder),
        losses=LossConfig(kl=0.0, bio=0.0),
        trainable=TrainableConfig(query_projection=False, projector=projector),
        engine=EngineConfig(precision="fp32"),
    )


@torch.no_grad()
def test_a_run_starts_from_the_folder(tmp_path: Path) -> None:
    result = convert(tmp_path)
    run = run_from(tmp_path / "model", result.config)
    check_losses(run)
    _, model = build_or_load(run)
    assert isinstance(model.llava, CalicoBackbone)
    saved, _ = load(tmp_path / "model")
    tokens, expected = (one.eval().llava.encode_images(clip_pixels()) for one in (model, saved))
    torch.testing.assert_close(tokens.values, expected.values)
    assert tokens.details is not None
    assert model.llava.adaptation is not None
    assert model.llava.adaptation.queries is not None
    assert torch.equal(model.llava.adaptation.queries, saved.state_dict()["llava.qformer.queries"])
    with pytest.raises(ValueError, match=r"model\.calico\.dino is set, but nothing reads it"):
        check_losses(replace(run, model=replace(run.model, calico=result.config.calico)))


@torch.no_grad()
def test_a_projection_of_another_language_model_is_left_out_and_has_to_be_trained(tmp_path: Path) -> None:
    request = write_sources(tmp_path)
    stock = make_blip_2()
    request = replace(request, blip=write_blip(tmp_path / "blip2", stock, kind="bin"))
    result = convert_system(request, tmp_path / "model")
    reason = "Left out: language_projection.* (2 tensors): f_image of opt, not of a LLaMA of width 32"
    assert reason in result.notes
    with pytest.raises(ValueError, match=r"holds no projector of images \(CALICO's f_image\): it is a base"):
        load_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="trainable.projector is false, and .* holds no projector"):
        build_or_load(run_from(tmp_path / "model", result.config))
    models = [build_or_load(run_from(tmp_path / "model", result.config, projector=True))[1] for _ in range(2)]
    llava = models[0].llava
    assert isinstance(llava, CalicoBackbone)
    projector = llava.stock.model.multi_modal_projector
    assert torch.equal(projector.weight, models[1].llava.stock.model.multi_modal_projector.weight)
    assert 0.5 < float(projector.weight.std()) * (3 * 16) ** 0.5 < 1.5  # a new linear layer's, uniform to 1 / sqrt(16)
    reader = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "blip2").eval()
    reader.language_projection.load_state_dict(projector.state_dict())
    torch.testing.assert_close(
        llava.encode_images(clip_pixels()).values, stock_image_tokens(reader), atol=1e-6, rtol=1e-6
    )


def test_a_projection_of_another_width_is_left_out(tmp_path: Path) -> None:
    path = write_sources(tmp_path)
    assert path.blip is not None
    config = json.loads((path.blip / "config.json").read_text())
    config["text_config"]["hidden_size"] = 40
    (path.blip / "config.json").write_text(json.dumps(config))
    result = convert_system(path, tmp_path / "model")
    assert any("f_image of llama, not of a LLaMA of width 32" in note for note in result.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({f"vision_model.extra.{i}": torch.ones(1) for i in range(7)}),
            r"blip has 7 tensors that InstructBLIP does not have: \['vision_model.extra.0', .*, \.\.\.: another model",
        ),
        (lambda s: s.update({"qformer.encoder.layer.0.gate.weight": torch.ones(1)}), "has 1 tensors that InstructBLIP"),
        (
            lambda s: s.pop("vision_model.encoder.layers.1.self_attn.qkv.bias"),
            r"blip lacks 1 tensors: \['vision_model.encoder.layers.1.self_attn.qkv.bias'\]",
        ),
        (lambda s: s.pop("language_projection.bias"), r"lacks 1 tensors: \['language_projection.bias'\]"),
        (lambda s: s.pop("language_projection.weight"), r"lacks 1 tensors: \['language_projection.weight'\]"),
        (
            lambda s: s.update({"vision_model.encoder.layers.2.layer_norm1.bias": torch.ones(24)}),
            "vision_model.encoder.layers.2.layer_norm1.bias does not belong to a model of its sizes",
        ),
        (
            lambda s: s.update({"vision_model.post_layernorm.bias": torch.ones(23)}),
            r"vision_model.post_layernorm.bias is \(23,\), but its config.json implies \(24,\)",
        ),
        (lambda s: s.update({"query_tokens": torch.ones(3, 16)}), r"query_tokens is \(3, 16\), not \[1, queries"),
        (lambda s: s.pop("query_tokens"), r"names match no known layout; the nearest is 'InstructBLIP'.*query_tokens"),
    ],
)
def test_wrong_blip_folders_are_named(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(tmp_path, change)
    assert not (tmp_path / "model").exists()


def test_wrong_dino_folders_are_named(tmp_path: Path) -> None:
    request = write_sources(tmp_path)
    dino = make_dino()
    state = dino_state(dino)
    changes: tuple[tuple[Change, str], ...] = (
        (lambda s: s.update({"blocks.0.attn.qkv.weight": torch.ones(1)}), "has 1 tensors that DINOv2 does not have"),
        (lambda s: s.pop("encoder.layer.1.mlp.weights_in.bias"), r"lacks 1 tensors: \['encoder.layer.1.mlp.weights_in"),
        (lambda s: s.update({"embeddings.register_tokens": torch.ones(1, 4, 12)}), "register_tokens does not belong"),
    )
    for number, (change, message) in enumerate(changes):
        changed = dict(state)
        change(changed)
        folder = write_dino(tmp_path / f"dino{number}", dino, changed)
        with pytest.raises(ValueError, match=message):
            convert_system(replace(request, dino=folder), tmp_path / "model")


@pytest.mark.parametrize(
    ("which", "key", "value", "message"),
    [
        ("blip", "model_type", "blip", "model_type is 'blip', not 'blip-2' or 'instructblip': --blip takes a download"),
        ("blip", "vision_config.hidden_act", "relu", "vision_config.hidden_act is 'relu', plum's CALICO has 'gelu'"),
        ("blip", "qformer_config.layer_norm_eps", 1e-5, r"qformer_config.layer_norm_eps is 1e-05"),
        ("blip", "vision_config.image_size", [16, 8], r"vision_config.image_size is \[16, 8\], not the side of"),
        ("dino", "model_type", "vit", "model_type is 'vit', not 'dinov2' or 'dinov2_with_registers'"),
        ("blip", "qformer_config.hidden_size", "wide", "config.json: .*hidden_size"),
        ("dino", "mlp_ratio", 3, "mlp_ratio is 3, plum's CALICO has 4"),
        ("dino", "num_hidden_layers", "two", "config.json: .*num_hidden_layers"),
    ],
)
def test_configurations_that_cannot_be_expressed_are_named(
    tmp_path: Path, which: str, key: str, value: object, message: str
) -> None:
    request = write_sources(tmp_path)
    path = tmp_path / which / "config.json"
    content = json.loads(path.read_text())
    *groups, last = key.split(".")
    group = content
    for name in groups:
        group = group[name]
    group[last] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        convert_system(request, tmp_path / "model")


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    request = write_sources(tmp_path)
    for changed, message in (
        (replace(request, blip=None), "--system calico needs --blip FOLDER"),
        (replace(request, system=None), "--blip and --dino belong to CALICO: add --system calico"),
        (replace(request, clip=tmp_path / "clip"), "reads images with the EVA-CLIP of --blip: omit --clip"),
        (replace(request, targets="single"), "writes a \\[SEG\\] for each mask: omit --targets"),
        (replace(request, keeps_feedback=True), "has no mask feedback: omit --feedback"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_system(changed, tmp_path / "model")
    lisa, _ = write_system(tmp_path / "lisa", make_lisa())
    with pytest.raises(ValueError, match="is LISA: --system calico starts from GLaMM"):
        convert_system(replace(request, source=lisa), tmp_path / "model")


def test_without_dinov2_the_start_has_none(tmp_path: Path) -> None:
    result = convert_system(replace(write_sources(tmp_path), dino=None), tmp_path / "model")
    assert result.config.calico is not None
    assert result.config.calico.dino is None
    assert load(tmp_path / "model")[1].dino is None


def test_calicos_own_release_is_refused_with_what_was_found(tmp_path: Path) -> None:
    original = make_glamm()
    original.state |= {"model.qformer.encoder.x": torch.ones(1), "model.cam.layers.11.down.weight": torch.ones(1)}
    source, clip = write_system(tmp_path, original)
    message = (
        r"looks like CALICO's own release.*it has \['model.cam.layers', 'model.qformer.encoder'\].*--system calico"
    )
    with pytest.raises(ValueError, match=message):
        convert_system(SystemRequest(source, clip), tmp_path / "model")


def test_adapters_of_glamm_are_merged_under_the_towers(tmp_path: Path) -> None:
    original: Original = make_glamm()
    torch.manual_seed(6)
    target = "model.layers.0.self_attn.q_proj."
    factors = {
        f"{target}lora_A.default.weight": torch.randn(2, 32),
        f"{target}lora_B.default.weight": torch.randn(32, 2),
    }
    source, base = write_unmerged(tmp_path, original, factors)
    sources = write_sources(tmp_path)
    convert_system(replace(sources, source=source, base=base, lora_alpha=4), tmp_path / "model")
    own = load(tmp_path / "model")[0].state_dict()[f"llava.network.model.language_model.{target[6:]}weight"]
    a, b = factors.values()
    torch.testing.assert_close(own, original.state[f"{target}weight"] + 2 * b @ a)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = write_sources(tmp_path)
    folders = [str(request.source), str(tmp_path / "model"), "--blip", str(request.blip), "--dino", str(request.dino)]
    main(["convert", *folders, "--system", "calico"])
    printed = capsys.readouterr().out
    assert "System: calico, from GLaMM with original LLaVA without CLIP, two projector layers" in printed
    assert f"Train from it: init_from: {tmp_path / 'model'}" in printed
    assert "plum segment" not in printed
