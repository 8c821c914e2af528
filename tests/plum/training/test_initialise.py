"""Starting from a saved model: continued adapters, trained embeddings, heads started afresh."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from plum.checkpoints.store import save_pretrained
from plum.config import LoraConfig, TaggerConfig
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from plum.training.initialise import initialise_from
from tests.plum.data.tokenizers_for_tests import byte_level

EMBEDDINGS = LoraConfig(rank=2, train_embeddings=True)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level()


def _make(tokenizer: PreTrainedTokenizerFast, seed: int, lora: LoraConfig | None) -> GroundedLMM:
    torch.manual_seed(seed)
    model = build_model(with_special_tokens(tiny_model_config(len(tokenizer), lora=lora), tokenizer))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    return model


def test_continued_adapters_keep_the_teachers_embeddings(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """embed_tokens is there twice, original and trained: the teacher's must not become the trained one."""
    source = _make(tokenizer, 0, EMBEDDINGS)
    save_pretrained(source, tokenizer, tmp_path / "source", "")
    model = _make(tokenizer, 1, EMBEDDINGS)
    initialise_from(model, str(tmp_path / "source"))
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_fresh_adapters_start_both_embeddings_from_the_base(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    source = _make(tokenizer, 0, None)
    save_pretrained(source, tokenizer, tmp_path / "source", "")
    model = _make(tokenizer, 1, EMBEDDINGS)
    lines = initialise_from(model, str(tmp_path / "source"))
    assert lines[1] == "Starting afresh: adapters (8 tensors)"
    own = {name: tensor for name, tensor in model.state_dict().items() if "embed_tokens" in name}
    assert len(own) == 2
    for name, tensor in own.items():
        assert torch.equal(tensor, source.llava.stock.get_input_embeddings().weight), name


def test_reset_and_removed_heads_are_reported(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    source = _make(tokenizer, 0, None)
    save_pretrained(source, tokenizer, tmp_path / "source", "")
    sizes = tiny_model_config(len(tokenizer), tagger=TaggerConfig(context="none", num_heads=4, feedforward_dim=64))
    torch.manual_seed(1)
    model = build_model(with_special_tokens(sizes, tokenizer))
    before = {name: tensor.clone() for name, tensor in model.query_projection.state_dict().items()}
    lines = initialise_from(model, str(tmp_path / "source"), ["query_projection"])
    assert lines[1:] == ["Starting afresh: query_projection (4 tensors)", "Left behind: tagger (12 tensors)"]
    for name, tensor in model.query_projection.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert torch.equal(model.tagger.classifier.weight, source.tagger.classifier.weight)


def test_adapters_are_not_dropped_in_silence(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save_pretrained(_make(tokenizer, 0, LoraConfig(rank=2)), tokenizer, tmp_path / "source", "")
    with pytest.raises(ValueError, match=r"source has adapters .*merge them first"):
        initialise_from(_make(tokenizer, 1, None), str(tmp_path / "source"))


def test_another_backbone_is_named_by_key(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    source = _make(tokenizer, 0, None)
    save_pretrained(source, tokenizer, tmp_path / "source", "")
    source.config = replace(source.config, sam=replace(source.config.sam, decoder_depth=1))
    with pytest.raises(ValueError, match=r"source differs from this run's model .*sam\.decoder_depth: 2, 1"):
        initialise_from(source, str(tmp_path / "source"))
