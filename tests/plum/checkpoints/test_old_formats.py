"""Models of LISA and M2SA that earlier versions saved still load, as what they were.

The text below is what the code of format 4 wrote; what later formats added is not in it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from plum.checkpoints.model_config_io import FORMAT_VERSION
from plum.checkpoints.store import load_pretrained, save_pretrained
from plum.config import Conversation, FeedbackConfig, Fit, LoraConfig, SegTokenConfig
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from tests.plum.models.test_several_images import TOKENIZER

FORMAT_4 = """{
  "format_version": 4,
  "llava": {
    "vision": {"image_size": 16, "patch_size": 8, "hidden_size": 24, "intermediate_size": 48, "num_layers": 2,
      "num_heads": 2, "select_layer": -2, "fit": "stretch"},
    "language": {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_layers": 2, "num_heads": 4,
      "num_key_value_heads": 4, "max_positions": 512, "rms_norm_eps": 1e-05, "rope_theta": 10000.0},
    "projector": "mlp2x_gelu",
    "conversation": "plain",
    "special_tokens": {"image": 3, "pad": 0, "eos": 2, "suppressed": [0, 3]}
  },
  "sam": {"image_size": 32, "patch_size": 8, "encoder_dim": 32, "encoder_depth": 2, "encoder_heads": 2,
    "encoder_global_blocks": [1], "encoder_window_size": 3, "prompt_dim": 16, "mask_in_channels": 16,
    "decoder_depth": 2, "decoder_heads": 2, "decoder_mlp_dim": 32, "position_init": "sincos"},
  "tagger": null,
  "feedback": {"is_enabled": false, "detach_feedback": false, "use_order_embedding": false, "max_order": 32,
    "num_heads": 4, "position_in": "keys"},
  "lora": {"rank": 2, "alpha": 16, "dropout": 0.05, "target_modules": ["q_proj", "v_proj"],
    "train_embeddings": false},
  "system": "lisa",
  "seg_token": {"targets": "single"}
}"""


def make_model(system: Literal["lisa", "m2sa"], targets: Literal["single", "many"], fit: Fit) -> GroundedLMM:
    feedback = FeedbackConfig(is_enabled=False, num_heads=4)
    config = tiny_model_config(len(TOKENIZER), lora=LoraConfig(rank=2), feedback=feedback)
    vision = replace(config.llava.vision, fit=fit)
    conversation: Conversation = "plain" if fit == "stretch" else "llava_v1"
    llava = replace(config.llava, vision=vision, conversation=conversation)
    config = replace(config, llava=llava, tagger=None, system=system, seg_token=SegTokenConfig(targets))
    torch.manual_seed(0)
    return build_model(with_special_tokens(config, TOKENIZER)).eval()


def written_by(version: int, current: dict[str, Any]) -> dict[str, Any]:
    """What the code of a format wrote of a model whose config.json is `current` today.

    Formats 3 and 4 differ in the tagger alone, which is null. Format 2 had neither a fit nor the pooler's position.
    """
    content: dict[str, Any] = json.loads(FORMAT_4)
    content |= {"format_version": version, "system": current["system"]}
    content["seg_token"]["targets"] = current["seg_token"]["targets"]
    content["llava"]["language"]["vocab_size"] = current["llava"]["language"]["vocab_size"]
    for key in ("special_tokens", "conversation"):
        content["llava"][key] = current["llava"][key]
    content["llava"]["vision"]["fit"] = current["llava"]["vision"]["fit"]
    if version == 2:
        del content["llava"]["vision"]["fit"], content["feedback"]["position_in"]
    return content


@torch.no_grad()
def masks_of(model: GroundedLMM) -> torch.Tensor:
    config = model.config
    batch = tiny_batch(config, (2, 1), torch.Generator().manual_seed(1))
    ids = batch.input_ids.clone()
    assert config.llava.special_tokens is not None
    ids[batch.input_ids == TINY_TOKENS.image] = config.llava.special_tokens.image
    batch = replace(batch, input_ids=ids)
    return model(batch, with_teacher=False).mask_logits


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize(("system", "targets"), [("lisa", "single"), ("lisa", "many"), ("m2sa", "many")])
def test_a_model_of_an_earlier_format_is_what_it_was(
    tmp_path: Path, system: Literal["lisa", "m2sa"], targets: Literal["single", "many"], version: int, fit: Fit
) -> None:
    model = make_model(system, targets, fit)
    save_pretrained(model, TOKENIZER, tmp_path / "saved", "")
    path = tmp_path / "saved" / "config.json"
    current = json.loads(path.read_text())
    assert current["format_version"] == FORMAT_VERSION == 7
    path.write_text(json.dumps(written_by(version, current)))
    loaded = load_pretrained(tmp_path / "saved")
    assert loaded.config == model.config
    assert loaded.config.seg_token == SegTokenConfig(targets, has_phrase_tags=False, unnamed_image="last")
    assert loaded.config.calico is None
    assert torch.equal(masks_of(loaded.model), masks_of(model))
    # A key of another format is not overlooked.
    path.write_text(json.dumps({**written_by(version, current), "format_version": FORMAT_VERSION}))
    with pytest.raises(ValueError, match="missing key"):
        load_pretrained(tmp_path / "saved")
