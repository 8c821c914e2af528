import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from partonomy.masks import encode_mask
from partonomy.structures import CharSpan
from plum.config import LoraConfig
from plum.inputs import image_transforms
from plum.models.segmenters.sam import SegmentAnything
from plum.train_config import TrainableConfig, TrainConfig
from plum.training.run import train
from tests.plum.training.training_world import largest_difference, make_config, write_inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam_features")
    write_inputs(folder)
    train(make_config(folder, "stage_0", num_updates=1))
    return folder


def _config(folder: Path, name: str, cache: str | None, num_workers: int = 0) -> TrainConfig:
    config = make_config(folder, name, num_updates=6, num_workers=num_workers)
    return replace(
        config,
        model=replace(config.model, lora=LoraConfig()),
        trainable=TrainableConfig(),
        losses=replace(config.losses, kl=0.1),
        init_from=str(folder / "stage_0" / "model"),
        tokenizer=None,
        data=replace(config.data, sam_feature_cache=cache),
    )


def _losses(config: TrainConfig) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key.startswith("loss_")} for line in lines]


def test_losses_are_the_same_to_the_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = folder / "cache"
    plain, cold, warm = (
        _config(folder, *pair) for pair in (("plain", None), ("cold", str(cache)), ("warm", str(cache)))
    )
    train(plain)
    train(cold)
    assert len(list(cache.rglob("*.safetensors"))) > 1
    with monkeypatch.context() as patch:
        patch.setattr(SegmentAnything, "encode_images", lambda self, pixels: pytest.fail("an image was encoded again"))
        patch.setattr(image_transforms, "sam_input", lambda *_: pytest.fail("an image was resized for SAM"))
        train(warm)
    assert _losses(plain) == _losses(cold) == _losses(warm)
    assert _losses(plain)[0]["loss_mask_bce"] > 0
    for config in (cold, warm):
        assert largest_difference(folder / "plain" / "model", Path(config.run_dir) / "model") == 0.0


def test_loader_processes_read_the_cache(folder: Path) -> None:
    one, other = (_config(folder, f"workers_{i}", str(folder / f"cache_{i}"), num_workers=i) for i in (0, 1))
    train(one)
    train(other)
    assert _losses(one) == _losses(other)


def test_another_encoder_finds_nothing(folder: Path) -> None:
    cache = folder / "cache_of_two"
    first = _config(folder, "first_encoder", str(cache))
    train(first)
    train(make_config(folder, "stage_0_longer", num_updates=2))
    train(replace(first, run_dir=str(folder / "second"), init_from=str(folder / "stage_0_longer" / "model")))
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2


def test_a_trained_encoder_is_refused(folder: Path) -> None:
    config = _config(folder, "trained_encoder", str(folder / "cache"))
    config = replace(config, trainable=replace(config.trainable, sam_image_encoder=True))
    with pytest.raises(ValueError, match=r"trainable\.sam_image_encoder is true"):
        train(config)


def test_a_limit_without_a_cache_is_refused(folder: Path) -> None:
    config = _config(folder, "limit_alone", None)
    config = replace(config, data=replace(config.data, sam_feature_cache_gb=1.0))
    with pytest.raises(ValueError, match="sam_feature_cache_gb limits"):
        train(config)


def test_images_with_and_without_an_embedding_in_one_batch(folder: Path) -> None:
    from plum.data.collate import Collator
    from plum.data.sam_feature_cache import SamFeatureCache, SamPreprocessing
    from plum.models.systems.registry import build_model
    from plum.models.systems.special_tokens import with_special_tokens
    from plum.models.tiny import tiny_model_config
    from plum.structures import Exchange, Sample
    from plum.train_config import DataConfig
    from plum.training.sam_features import complete_embeddings
    from tests.plum.data.tokenizers_for_tests import byte_level
    from tests.plum.predictor_world import make_image

    tokenizer = byte_level()
    config = with_special_tokens(tiny_model_config(len(tokenizer)), tokenizer)
    sam = build_model(config).sam
    cache = SamFeatureCache(folder / "mixed", "weights", SamPreprocessing(32, "float32"))
    collate = Collator(tokenizer, config, DataConfig(sources=()), cache)
    mask = encode_mask(np.ones((20, 28), dtype=bool))
    asked = Exchange("What?", "a wheel", (CharSpan(2, 7),), (mask,))
    exchanges = (asked, asked, Exchange("What?", "a wheel"), asked, asked)  # nothing to segment in the third image
    samples = [Sample(str(i), "test", make_image(i), ((one,),)) for i, one in enumerate(exchanges)]
    expected = sam.encode_images(torch.stack([collate.transform(make_image(i)).sam_pixels for i in range(5)])).main
    complete_embeddings(collate(samples[1:4]), sam, cache)
    assert cache.count_images() == 2
    batch = collate(samples)
    assert batch.sam_pixels.shape == (2, 3, 32, 32)
    assert batch.sam_rows is not None
    assert batch.sam_rows.tolist() == [0, 4]
    found = complete_embeddings(batch, sam, cache)
    assert found is not None
    assert found.rows.tolist() == [0, 1, 3, 4]
    torch.testing.assert_close(found.embeddings.main, expected[[0, 1, 3, 4]], atol=1e-5, rtol=1e-5)
    assert complete_embeddings(collate(samples[2:3]), sam, cache) is None


def test_text_only_batches_need_no_embedding(folder: Path) -> None:
    from plum.data.sam_feature_cache import SamFeatureCache, SamPreprocessing
    from plum.models.systems.registry import build_model
    from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
    from plum.training.sam_features import complete_embeddings

    config = tiny_model_config(50, TINY_TOKENS)
    batch = tiny_batch(config, (-1,), torch.Generator().manual_seed(0))
    cache = SamFeatureCache(folder / "unused", "weights", SamPreprocessing(32, "float32"))
    assert complete_embeddings(batch, build_model(config).sam, cache) is None
