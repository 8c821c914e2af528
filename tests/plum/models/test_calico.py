"""CALICO: layers read the images again, in every path alike, and nothing of an answer reaches its image tokens."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from plum.config import (
    AdaptationConfig,
    CalicoConfig,
    CorrespondenceConfig,
    DinoConfig,
    LoraConfig,
    ModelConfig,
    QFormerConfig,
)
from plum.models.backbones.calico import CalicoBackbone, adapted_layers
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_calico_config
from plum.models.trainable import set_trainable
from plum.structures import TEXT_ONLY, ConversationImages, ImageTokens
from plum.train_config import TrainableConfig

VOCAB = 60
LORA = LoraConfig(rank=2, dropout=0.0)
N_IMAGE = 3
"""Tokens of an image."""


def tiny_calico() -> CalicoConfig:
    calico = tiny_calico_config(VOCAB).calico
    assert calico is not None
    return calico


def make_config(calico: CalicoConfig | None = None, num_layers: int = 4) -> ModelConfig:
    config = tiny_calico_config(VOCAB, TINY_TOKENS, LORA, calico)
    language = replace(config.llava.language, num_layers=num_layers)
    return replace(config, llava=replace(config.llava, language=language))


def make_model(calico: CalicoConfig | None = None, dtype: torch.dtype = torch.float64) -> GroundedLMM:
    """A model in which every module has an effect: fresh adapters and adaptation modules have none."""
    torch.manual_seed(0)
    model = build_model(make_config(calico)).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.llava.named_parameters():
            if name.startswith(("adaptation", "correspondence", "patch_projection")) or "lora_B" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def variant(**changes: object) -> CalicoConfig:
    return replace(tiny_calico(), **changes)  # type: ignore[arg-type]


WITHOUT_GUIDE = variant(adaptation=AdaptationConfig(num_modules=2, follows_prompt=False))
TWO_MODULES = variant(adaptation=AdaptationConfig(num_modules=2))
VPG_C = variant(correspondence=CorrespondenceConfig("none"), dino=None)
OWN_FEATURES = variant(correspondence=CorrespondenceConfig("eva", num_heads=2), dino=None)
NO_QFORMER = variant(qformer=None)
VARIANTS = {
    "two": TWO_MODULES,
    "unguided": WITHOUT_GUIDE,
    "vpg-c": VPG_C,
    "eva": OWN_FEATURES,
    "no q-former": NO_QFORMER,
}


def image_ids(model: GroundedLMM) -> list[int]:
    return [TINY_TOKENS.image] * model.llava.num_image_tokens


def conversation(model: GroundedLMM, num_images: int, question: Sequence[int], answer: Sequence[int]) -> list[int]:
    shown = [token for number in range(num_images) for token in (*image_ids(model), 10 + number)]
    return [5, *shown, *question, *answer]


def rows(
    model: GroundedLMM, parts: Sequence[tuple[tuple[int, ...], Sequence[int], Sequence[int]]]
) -> tuple[Tensor, Tensor, ConversationImages]:
    """Right-padded rows of (images, question, answer), and which images they show."""
    ids = [conversation(model, len(images), question, answer) for images, question, answer in parts]
    ends = [len(row) - len(answer) - 1 for row, (_, _, answer) in zip(ids, parts, strict=True)]
    longest, most = max(map(len, ids)), max(1, *(len(images) for images, _, _ in parts))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    shown = torch.tensor([[*images, *[TEXT_ONLY] * (most - len(images))] for images, _, _ in parts])
    lengths = (model.llava.num_image_tokens,) * (1 + int(shown.max()))
    return padded, mask, ConversationImages(shown, lengths, torch.tensor(ends))


@torch.no_grad()
def encode(model: GroundedLMM, num_images: int) -> ImageTokens:
    pixels = torch.randn(num_images, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return model.llava.encode_images(pixels)


MIXED = (
    ((0,), (20, 21), (30, 31, 32)),
    ((1, 0), (22, 23, 24), (33,)),
    ((2, 1, 0), (25,), (34, 35)),
    ((), (26, 27), (36,)),
)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_batch_is_its_conversations_one_by_one(name: str) -> None:
    model = make_model(VARIANTS[name])
    tokens = encode(model, 3)
    ids, mask, shown = rows(model, MIXED)
    states = model.hidden_states(ids, mask, shown, tokens)
    together = model.llava.shared_hidden_states(ids, mask, shown, tokens)
    for number, part in enumerate(MIXED):
        alone = model.hidden_states(*rows(model, [part]), tokens[: 1 + max(part[0], default=-1)])[0]
        torch.testing.assert_close(states[number, : len(alone)], alone)
        torch.testing.assert_close(together[number, : len(alone)], alone)


@torch.no_grad()
def test_only_image_slots_and_what_follows_them_change_and_only_from_the_layer_on() -> None:
    model = make_model(TWO_MODULES)
    assert isinstance(model.llava, CalicoBackbone)
    tokens = encode(model, 2)
    ids, mask, shown = rows(model, MIXED[1:2])
    seen: dict[bool, list[Tensor]] = {True: [], False: []}
    for is_on in (True, False):
        hooks = [
            layer.register_forward_hook(lambda _layer, _inputs, output, is_on=is_on: seen[is_on].append(output))
            for layer in model.llava.stock.model.language_model.layers
        ]
        model.llava.reads_images_again = is_on
        model.hidden_states(ids, mask, shown, tokens)
        for hook in hooks:
            hook.remove()
    differs = [(on != off).any(-1)[0] for on, off in zip(seen[True], seen[False], strict=True)]
    assert model.llava.adaptation is not None
    assert model.llava.adaptation.layers == (1, 2)
    assert not bool(differs[0].any())
    for layer in (1, 2, 3):
        assert not bool(differs[layer][:1].any()), "the token before the first image"
        assert bool(differs[layer][1:].all())


@torch.no_grad()
def test_slots_receive_what_the_equations_say() -> None:
    model = make_model()
    llava = model.llava
    assert isinstance(llava, CalicoBackbone)
    assert llava.qformer is not None
    assert llava.adaptation is not None
    tokens = encode(model, 3)
    assert tokens.details is not None
    ids, _, shown = rows(model, MIXED)
    injection = llava.find_injection(ids, shown, tokens)
    (layer,) = llava.adaptation.layers
    module = llava.adaptation.of_layer[str(layer)]
    before = torch.randn(*ids.shape, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    after = llava.inject(layer, before.flatten(0, 1), injection).view_as(before)
    expected = before.clone()
    for row, (images, _, answer) in enumerate(MIXED):
        length = len(conversation(model, len(images), MIXED[row][1], answer))
        shift = module.adaptation(before[row, length - len(answer) - 1])  # type: ignore[union-attr, operator]
        for number, image in enumerate(images):
            found = llava.qformer.network(
                query_embeds=(llava.adaptation.queries + shift)[None],
                encoder_hidden_states=tokens.details[image : image + 1],
            ).last_hidden_state
            start = 1 + number * (N_IMAGE + 1)
            expected[row, start : start + N_IMAGE] += module.reintegration(found)[0]  # type: ignore[union-attr, operator]
    torch.testing.assert_close(after, expected)
    assert torch.equal(llava.inject(layer + 1, before.flatten(0, 1), injection).view_as(before), before)


@pytest.mark.parametrize("name", ["two", "vpg-c", "no q-former"])
@torch.no_grad()
def test_answers_do_not_reach_the_image_tokens_and_the_prompt_does(name: str) -> None:
    model = make_model(VARIANTS[name])
    tokens = encode(model, 2)
    question = (20, 21, 22)
    prompt = len(conversation(model, 2, question, ()))
    first, second = (
        model.hidden_states(*rows(model, [((0, 1), question, answer)]), tokens)[0, :prompt]
        for answer in ((30, 31), (40, 41, 42))
    )
    torch.testing.assert_close(first, second)
    other = model.hidden_states(*rows(model, [((0, 1), (20, 21, 29), (30,))]), tokens)[0]
    image = slice(1, 1 + model.llava.num_image_tokens)
    assert float((other[image] - first[image]).abs().max()) > 1e-4


@pytest.mark.parametrize("path", ["hidden_states", "shared_hidden_states"])
@torch.no_grad()
def test_a_later_turn_does_not_reach_the_first_answer(path: str) -> None:
    """The guide is the first prompt's end: with the last one's, the first answer would see itself (two turns)."""
    model = make_model()
    tokens = encode(model, 1)
    start = conversation(model, 1, (20, 21), (30,))
    compute = getattr(model.llava, path)
    found = []
    for rest in ((31, 2, 22, 23, 33), (41, 2, 28, 29, 43)):  # the end of answer 1, question 2, answer 2
        ids = torch.tensor([[*start, *rest]])
        shown = ConversationImages(torch.tensor([[0]]), (N_IMAGE,), torch.tensor([len(start) - 2]))
        found.append(compute(ids, torch.ones_like(ids), shown, tokens)[0, : len(start)])
    torch.testing.assert_close(found[0], found[1])


@torch.no_grad()
def test_the_guides_state_is_read_and_no_other() -> None:
    model = make_model()
    tokens = encode(model, 1)
    ids, mask, shown = rows(model, [((0,), (20, 21), (30,))])
    assert shown.prompt_ends is not None
    elsewhere = replace(shown, prompt_ends=shown.prompt_ends - 1)
    states = model.hidden_states(ids, mask, shown, tokens)
    assert float((states - model.hidden_states(ids, mask, elsewhere, tokens)).abs().max()) > 1e-4
    with pytest.raises(ValueError, match="no ConversationImages.prompt_ends"):
        model.hidden_states(ids, mask, replace(shown, prompt_ends=None), tokens)
    with pytest.raises(ValueError, match="give it the ImageTokens of its own"):
        model.hidden_states(ids, mask, shown, ImageTokens(tokens.values))
    with pytest.raises(ValueError, match="no ConversationImages.prompt_ends"):
        model.llava.shared_hidden_states(ids, mask, replace(shown, prompt_ends=None), tokens)


@torch.no_grad()
def test_other_prompts_share_no_beginning_and_answers_to_one_prompt_do() -> None:
    parts = [((0, 1), (20, 21), (30,)), ((0, 1), (20, 21), (31, 32)), ((0, 1), (22,), (33,)), ((1, 0), (20, 21), (34,))]
    for calico, num_sequences in ((TWO_MODULES, 3), (WITHOUT_GUIDE, 2)):
        model = make_model(calico)
        tokens = encode(model, 2)
        ids, mask, shown = rows(model, parts)
        lengths: list[int] = []
        hook = model.llava.stock.model.language_model.register_forward_pre_hook(
            lambda _model, _inputs, named, lengths=lengths: lengths.append(len(named["inputs_embeds"])),
            with_kwargs=True,
        )
        together = model.llava.shared_hidden_states(ids, mask, shown, tokens)
        hook.remove()
        assert sum(lengths) == num_sequences
        apart = model.hidden_states(ids, mask, shown, tokens)
        torch.testing.assert_close(together * mask[..., None], apart * mask[..., None])


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_generation_with_a_cache_is_generation_without(name: str) -> None:
    model = make_model(VARIANTS[name])
    tokens = encode(model, 3)
    parts = [(images, question, ()) for images, question, _ in MIXED]
    ids, mask, shown = rows(model, parts)
    calls: list[int] = []
    inject = model.llava.inject

    def count(layer: int, states: Tensor, injection: object) -> Tensor:
        calls.append(layer)
        return inject(layer, states, injection)  # type: ignore[arg-type]

    model.llava.inject = count  # type: ignore[method-assign]
    written = model.generate_text(ids, mask, shown, tokens, 5)
    assert isinstance(model.llava, CalicoBackbone)
    assert model.llava.adaptation is not None
    assert tuple(calls) == model.llava.adaptation.layers  # once, in the prefill
    for row, (images, question, _) in enumerate(parts):
        answer: list[int] = []
        while len(answer) < 5 and TINY_TOKENS.eos not in answer:
            one_ids, one_mask, one_shown = rows(model, [(images, question, answer)])
            states = model.hidden_states(one_ids, one_mask, one_shown, tokens)
            answer.append(int(model.token_logits(states[0, -1]).argmax()))
        assert written[row, : len(answer)].tolist() == answer


@torch.no_grad()
def test_the_start_is_the_model_without_modules() -> None:
    torch.manual_seed(0)
    fresh = build_model(make_config(TWO_MODULES)).eval()
    tokens = fresh.llava.encode_images(torch.randn(2, 3, 16, 16))
    ids, mask, shown = rows(fresh, MIXED[:2])
    states = fresh.hidden_states(ids, mask, shown, tokens)
    fresh.llava.reads_images_again = False
    assert torch.equal(states, fresh.hidden_states(ids, mask, shown, tokens))


@pytest.mark.parametrize("init", ["zero_reintegration", "zero_guide"])
def test_gradients_of_the_first_update(init: str) -> None:
    """With a zero last projection only that learns; with a zero guide everything does (and nothing frozen ever)."""
    adaptation = AdaptationConfig(num_modules=2, init=init)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = build_model(make_config(variant(adaptation=adaptation))).double()
    set_trainable(model, TrainableConfig(query_projection=False))
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    ids, mask, shown = rows(model, MIXED[:2])
    tokens = model.llava.encode_images(pixels)
    states = model.llava.shared_hidden_states(ids, mask, shown, tokens)
    (states * mask[..., None] * torch.randn_like(states)).sum().backward()
    trained = {name for name, one in model.llava.named_parameters() if one.requires_grad}
    moving = {n for n, p in model.llava.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert moving <= trained
    parts = {name.rsplit(".", 1)[0] for name in moving if not name.startswith("network")}
    outs = {f"adaptation.of_layer.{layer}.reintegration" for layer in (1, 2)}
    if init == "zero_reintegration":
        assert parts == outs
    else:
        assert outs | {f"adaptation.of_layer.{layer}.adaptation" for layer in (1, 2)} <= parts
        assert "adaptation.queries" in moving
        assert {"correspondence.attention", "correspondence.semantic_norm", "correspondence.query_norm"} <= parts
        assert "dino" not in {name.split(".")[0] for name in trained}
    assert any("lora_" in name for name in moving)


def test_gradients_reach_every_module_and_checkpointing_changes_none() -> None:
    gradients = []
    for is_recomputed in (False, True):
        model = make_model(TWO_MODULES).train()
        set_trainable(model, TrainableConfig(query_projection=False))
        if is_recomputed:
            model.enable_gradient_checkpointing()
        ids, mask, shown = rows(model, MIXED[:2])
        pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        states = model.llava.shared_hidden_states(ids, mask, shown, model.llava.encode_images(pixels))
        (states * mask[..., None]).square().sum().backward()
        trained = {n: p for n, p in model.llava.named_parameters() if p.requires_grad}
        silent = {n for n, p in trained.items() if p.grad is None or not bool((p.grad != 0).any())}
        # A shift of all keys by the same amount leaves a softmax as it is: torch keeps the bias, which cannot learn.
        assert silent <= {n for n in trained if "lora_" in n}
        assert all(p.grad is None for n, p in model.llava.named_parameters() if n not in trained)
        gradients.append({n: p.grad for n, p in trained.items() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_adapted_layers_are_the_papers() -> None:
    found = [adapted_layers(AdaptationConfig(num_modules=k), 32) for k in (1, 2, 3)]
    assert found == [(16,), (11, 22), (8, 16, 24)]
    assert adapted_layers(AdaptationConfig(num_modules=2), 6) == (2, 4)
    assert adapted_layers(AdaptationConfig(num_modules=1), 2) == (1,)
    assert adapted_layers(AdaptationConfig(offset=-1), 32) == (10, 21)
    assert adapted_layers(AdaptationConfig(layers=(3, 0)), 4) == (3, 0)
    for config in (
        AdaptationConfig(num_modules=2),
        AdaptationConfig(layers=()),
        AdaptationConfig(layers=(1, 1)),
        AdaptationConfig(layers=(0,), offset=-1),
    ):
        with pytest.raises(ValueError, match=r"model\.calico\.adaptation: modules before the layers"):
            adapted_layers(config, 2)


@pytest.mark.parametrize("is_moved_together", [True, False])
def test_the_q_former_is_never_rounded_and_never_in_training_mode(is_moved_together: bool) -> None:
    model = build_model(make_config())
    llava = model.llava
    assert isinstance(llava, CalicoBackbone)
    assert llava.qformer is not None
    before = copy.deepcopy(llava.qformer.state_dict())
    (model if is_moved_together else llava).to(torch.bfloat16)
    model.train()
    assert all(torch.equal(before[name], tensor) for name, tensor in llava.qformer.state_dict().items())
    assert not any(module.training for module in llava.qformer.modules())
    assert llava.stock.lm_head.weight.dtype == torch.bfloat16
    features = torch.randn(2, 5, 24)
    expected = llava.qformer(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(llava.qformer(features), expected)
    tokens = llava.encode_images(torch.randn(1, 3, 16, 16))
    assert tokens.values.dtype == torch.bfloat16
    ids, mask, shown = rows(model, MIXED[:1])
    assert bool(model.hidden_states(ids, mask, shown, tokens).isfinite().all())


def test_what_is_never_rounded_moves_and_may_be_narrowed_to_float32() -> None:
    llava = build_model(make_config()).llava
    assert isinstance(llava, CalicoBackbone)
    assert llava.qformer is not None
    llava.double().float()
    assert {one.dtype for one in llava.qformer.parameters()} == {torch.float32}
    llava.to("meta", torch.float16)
    assert all(one.is_meta and one.dtype == torch.float32 for one in llava.qformer.parameters())
    assert llava.stock.lm_head.weight.dtype == torch.float16


@torch.no_grad()
def test_queries_are_shifted_in_float32_whatever_the_modules_dtype() -> None:
    llava = make_model(dtype=torch.float32).to(torch.bfloat16).llava
    assert isinstance(llava, CalicoBackbone)
    assert llava.qformer is not None
    assert llava.adaptation is not None
    queries = llava.adaptation.queries
    assert queries is not None
    assert queries.dtype == torch.bfloat16
    generator = torch.Generator().manual_seed(5)
    details = torch.randn(2, 5, 24, generator=generator).bfloat16()
    shift = torch.randn(2, queries.shape[1], generator=generator).bfloat16()
    found = llava._read_again(details, shift)
    assert torch.equal(found, llava.qformer(details, queries.float() + shift.float()[:, None]))
    assert not torch.equal(found, llava.qformer(details, queries + shift[:, None]))


@pytest.mark.parametrize("is_trained", [True, False])
def test_f_seg_is_trained_where_the_switch_says_so(is_trained: bool) -> None:
    rows = {row.module: row for row in set_trainable(make_model(), TrainableConfig(query_projection=is_trained))}
    row = rows["query_projection"]
    assert row.total > 0
    assert row.trainable == (row.total if is_trained else 0)


def test_adapters_are_the_language_models_only() -> None:
    model = build_model(make_config(TWO_MODULES))
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(adapted) == 4 * 2
    assert all(".language_model.layers." in name and name.endswith(("q_proj", "v_proj")) for name in adapted)


@torch.no_grad()
def test_dinov2_reads_the_same_pixels_with_its_own_statistics() -> None:
    for registers, facet in ((0, "token"), (4, "token"), (0, "key"), (4, "key")):
        dino = DinoConfig(32, 8, 16, 2, 2, use_swiglu=True, num_register_tokens=registers, facet=facet)  # type: ignore[arg-type]
        llava = make_model(variant(dino=dino)).llava
        assert isinstance(llava, CalicoBackbone)
        assert llava.dino is not None
        raw = torch.rand(2, 3, 16, 16, dtype=torch.float64)
        clip_mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).double()[:, None, None]
        clip_std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).double()[:, None, None]
        mean, std = (torch.tensor(v).double()[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        network = llava.dino.network
        stock = network((raw - mean) / std, output_hidden_states=True)
        expected = stock.last_hidden_state
        if facet == "key":
            last = network.get_submodule("encoder.layer.1")
            expected = last.attention.k_proj(last.norm1(stock.hidden_states[1]))  # type: ignore[union-attr, operator]
        found = llava.dino((raw - clip_mean) / clip_std)
        assert found.shape == (2, 4, 16)
        torch.testing.assert_close(found, expected[:, 1 + registers :], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_x_embed_reads_eva_clip_and_x_global_the_correspondences() -> None:
    llava = make_model().llava
    assert isinstance(llava, CalicoBackbone)
    assert llava.qformer is not None
    assert llava.dino is not None
    assert llava.correspondence is not None
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    features = llava.stock.model.vision_tower(pixels).last_hidden_state
    tokens = llava.encode_images(pixels)
    own = llava.qformer.network(query_embeds=llava.qformer.queries.expand(2, -1, -1), encoder_hidden_states=features)
    torch.testing.assert_close(tokens.values, llava.stock.model.multi_modal_projector(own.last_hidden_state))
    cem = llava.correspondence
    keys = cem.semantic_norm(llava.dino(pixels))
    attended = cem.attention(cem.query_norm(features), keys, keys)[0]
    assert tokens.details is not None
    torch.testing.assert_close(tokens.details, features + attended)
    cem.residual = False
    torch.testing.assert_close(llava.encode_images(pixels).details, attended)


@pytest.mark.parametrize("name", VARIANTS)
def test_ablations_hold_the_modules_they_name(name: str) -> None:
    model = make_model(VARIANTS[name])
    llava = model.llava
    assert isinstance(llava, CalicoBackbone)
    assert (llava.dino is None) == (name in ("vpg-c", "eva"))
    assert (llava.correspondence is None) == (name == "vpg-c")
    assert (llava.qformer is None) == (name == "no q-former")
    assert llava.num_image_tokens == (4 if name == "no q-former" else 3)
    assert llava.is_guided == (name != "unguided")
    rows_of_table = {row.module: row for row in set_trainable(model, TrainableConfig(query_projection=False))}
    trained = {module for module, row in rows_of_table.items() if row.trainable}
    expected = {"llava.lora", "sam.mask_decoder", "sam.prompt_encoder", "calico.adaptation"}
    expected |= set() if name == "vpg-c" else {"calico.correspondence"}
    expected |= {"calico.patch_projection"} if name == "no q-former" else {"calico.queries"}
    assert trained == expected
    assert all(rows_of_table[module].trainable == rows_of_table[module].total for module in expected)


@torch.no_grad()
def test_a_model_without_modules_reads_images_once() -> None:
    model = make_model(variant(adaptation=None, dino=None))
    tokens = encode(model, 1)
    assert tokens.details is None
    ids, mask, shown = rows(model, MIXED[:1])
    states = model.hidden_states(ids, mask, replace(shown, prompt_ends=None), tokens)
    assert bool(states.isfinite().all())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(make_config(), calico=None), "model.system calico needs model.calico"),
        (replace(make_config(), seg_token=None), "model.system calico needs model.seg_token"),
        (make_config(variant(dino=None)), r"model\.calico\.dino is null, but adaptation modules need it"),
        (make_config(variant(correspondence=CorrespondenceConfig("eva"))), "modules do not read it"),
        (replace(make_config(), system="lisa"), "model.system lisa has no use for model.calico"),
        (make_config(variant(dino=DinoConfig(32, 7, 16, 2, 2))), "is no multiple of model.calico.dino.patch_size 7"),
    ],
)
def test_contradictions_are_refused(config: ModelConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(config)


def test_a_q_former_and_its_number_of_tokens_belong_together() -> None:
    config = make_config()
    vision = replace(config.llava.vision, num_query_tokens=None)
    with pytest.raises(ValueError, match=r"model\.calico\.qformer is set and model\.llava\.vision\.num_query_tokens"):
        build_model(replace(config, llava=replace(config.llava, vision=vision)))
    assert isinstance(config.calico, CalicoConfig)
    assert isinstance(config.calico.qformer, QFormerConfig)
    mlp = replace(config, llava=replace(config.llava, projector="mlp2x_gelu"))
    with pytest.raises(ValueError, match="f_image is one layer"):
        build_model(mlp)


def test_the_trained_queries_start_as_a_copy_of_the_frozen_ones() -> None:
    llava = build_model(make_config()).llava
    assert isinstance(llava, CalicoBackbone)
    assert llava.qformer is not None
    assert llava.adaptation is not None
    assert isinstance(llava.adaptation.queries, nn.Parameter)
    assert torch.equal(llava.adaptation.queries, llava.qformer.queries)
    frozen = llava.qformer.queries.detach().clone()
    with torch.no_grad():
        llava.adaptation.queries.add_(1.0)
    assert torch.equal(llava.qformer.queries, frozen)


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        (TrainableConfig(), set()),
        (TrainableConfig(dino=True), {"dino"}),
        (TrainableConfig(qformer=True), {"qformer", "projector"}),
        (TrainableConfig(projector=True), {"projector"}),
        (TrainableConfig(vision_tower=True), {"tower", "qformer", "projector"}),
    ],
    ids=["frozen", "dino", "q-former", "f_image", "tower"],
)
def test_a_frozen_tower_runs_without_a_graph(trainable: TrainableConfig, expected: set[str]) -> None:
    model = make_model().train()
    set_trainable(model, trainable)
    llava = model.llava
    assert isinstance(llava, CalicoBackbone)
    assert llava.dino is not None
    assert llava.qformer is not None
    modules = {
        "tower": llava.stock.model.vision_tower,
        "qformer": llava.qformer,
        "projector": llava.stock.model.multi_modal_projector,
        "dino": llava.dino,
    }
    recording: dict[str, bool] = {}
    for name, module in modules.items():
        module.register_forward_pre_hook(
            lambda _module, _inputs, name=name: recording.update({name: torch.is_grad_enabled()})
        )
    tokens = llava.encode_images(torch.randn(1, 3, 16, 16, dtype=torch.float64))
    assert recording.keys() == modules.keys()
    assert {name for name, is_on in recording.items() if is_on} == expected
    assert tokens.values.requires_grad == ("projector" in expected)
    assert tokens.details is not None
    assert tokens.details.requires_grad  # the correspondences are trained
    with torch.no_grad():
        llava.encode_images(torch.randn(1, 3, 16, 16, dtype=torch.float64))
    assert not any(recording.values())
