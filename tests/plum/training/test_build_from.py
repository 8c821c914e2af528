"""A run's model is built straight in the dtype it is trained in, with the values that the long way gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from plum.checkpoints.model_config_io import write_model_config
from plum.checkpoints.store import MODEL_STEM, load_pretrained, save_pretrained
from plum.checkpoints.weights import ShardWriter
from plum.config import LoraConfig
from plum.models.backbones.lora import is_adapter
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from plum.training.initialise import Placement, build_from, initialise_from
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.training.launching import fork_ranks
from tests.plum.training.peak_memory import sized_config

PROGRAM = Path(__file__).with_name("peak_memory.py")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level()


def make(tokenizer: PreTrainedTokenizerFast, seed: int, lora: LoraConfig | None) -> GroundedLMM:
    torch.manual_seed(seed)
    return build_model(with_special_tokens(tiny_model_config(len(tokenizer), lora=lora), tokenizer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_those_of_the_long_way(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype
) -> None:
    source = make(tokenizer, 0, LoraConfig(rank=2))
    save_pretrained(source, tokenizer, tmp_path / "source", "")
    slow = make(tokenizer, 1, LoraConfig(rank=2))
    lines = initialise_from(slow, str(tmp_path / "source"))
    fast = build_from(slow.config, str(tmp_path / "source"), Placement(dtype))
    assert fast.notes == tuple(lines)
    expected = slow.to(dtype).state_dict()
    assert fast.model.state_dict().keys() == expected.keys()
    for name, tensor in fast.model.state_dict().items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name
    # Frequencies are no part of the state and stay exact.
    for name, buffer in slow.named_buffers():
        assert torch.equal(fast.model.get_buffer(name), buffer), name
        assert fast.model.get_buffer(name).dtype == buffer.dtype, name


def test_fresh_adapters_change_nothing_and_fresh_heads_follow_the_seed(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    save_pretrained(make(tokenizer, 0, None), tokenizer, tmp_path / "source", "")
    config = make(tokenizer, 0, LoraConfig(rank=2)).config
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(build_from(config, str(tmp_path / "source"), Placement(), ["query_projection"]).model)
    first, again, other = (model.state_dict() for model in models)
    adapters = [name for name in first if is_adapter(name)]
    assert len(adapters) == 8  # A and B of q and v in two layers
    for name in adapters:
        assert bool(first[name].any()) == ("lora_A" in name), name
    assert all(torch.equal(first[name], again[name]) for name in first)
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert differing == {
        name for name in first if "lora_A" in name or (name.startswith("query_projection") and first[name].any())
    }


def test_every_parameter_has_memory(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    lora = LoraConfig(rank=2, train_embeddings=True)
    save_pretrained(make(tokenizer, 0, None), tokenizer, tmp_path / "source", "")
    model = build_from(make(tokenizer, 0, lora).config, str(tmp_path / "source"), Placement()).model
    assert not any(parameter.is_meta for parameter in model.parameters())
    loaded = load_pretrained(tmp_path / "source", dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_memory_rises_by_the_model_in_its_dtype_and_one_shard(tmp_path: Path) -> None:
    """The long way holds every parameter as float32, that is twice as much, before it rounds."""
    width, num_layers, shard = 512, 12, 8_000_000
    small, folder = tmp_path / "small", tmp_path / "base"
    write_base(small, 64, 2, shard)
    write_base(folder, width, num_layers, shard)
    rises = {way: measure(way, small, folder, tmp_path / way) for way in ("float32", "straight")}
    number = rises["straight"][1]
    assert number > 12 * width**2 * num_layers > 37_000_000
    # Beside the weights: the fresh heads in float32 (a few MB here) and what the allocator keeps.
    assert rises["straight"][0] < 2 * number + shard + 40_000_000
    assert rises["float32"][0] > 4 * number
    assert rises["straight"][0] < 0.75 * rises["float32"][0]


def write_base(folder: Path, width: int, num_layers: int, shard: int) -> None:
    """Save a model in bfloat16 with shards of `shard` bytes; every weight is 0.5."""
    config = sized_config(width, num_layers)
    folder.mkdir()
    write_model_config(config, folder)
    writer = ShardWriter(folder, MODEL_STEM, shard)
    for name, tensor in build_model(config, is_backbone_empty=True).state_dict().items():
        writer.add(name, torch.full(tensor.shape, 0.5, dtype=torch.bfloat16))
    writer.finish()


def measure(way: str, small: Path, folder: Path, output: Path) -> tuple[int, int]:
    """Rise of resident memory in bytes, and parameters. A forked process's peak begins at what it holds."""
    rise, number = fork_ranks(str(PROGRAM), [way, str(small), str(folder)], 1, output).splitlines()[-1].split()
    return int(rise), int(number)


def test_a_mismatch_names_both_values(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    source = make(tokenizer, 0, None)
    save_pretrained(source, tokenizer, tmp_path / "source", "")
    language = replace(source.config.llava.language, max_positions=4096, rms_norm_eps=1e-6)
    other = replace(source.config, llava=replace(source.config.llava, language=language))
    with pytest.raises(
        ValueError,
        match=r"llava.language.max_positions: 512, 4096; llava.language.rms_norm_eps: 1e-05, 1e-06; copy the values of "
        r"its config.json into the run's YAML",
    ):
        build_from(other, str(tmp_path / "source"), Placement())
