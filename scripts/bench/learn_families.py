"""Two drawn pictures learned by a run over every family of stock models: masks and tags, before and after.

Every run takes the whole training path: a tiny stock checkpoint with random weights is adopted with a random SAM or
SAM 2, `train` reads the pictures from a data set on disk and trains adapters, towers, heads and segmenter, and the
saved model is loaded and asked again. A family that does not learn has a fault in its images, positions or gradients,
or in how training and inference prepare a conversation.

    python scripts/bench/learn_families.py --families qwen3_vl,internvl --segmenters sam2
"""

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plum.checkpoints.adopt import adopt
from plum.checkpoints.store import load_pretrained
from plum.config import FeedbackConfig, HfBackboneConfig, LoraConfig, ModelConfig, TaggerConfig
from plum.data.build import build_mixture
from plum.data.collate import Collator
from plum.inference.predictor import Predictor
from plum.losses.losses import bio_accuracy
from plum.models.backbones.hf import FAMILIES
from plum.models.grounded_lmm import GroundedLMM
from plum.train_config import (
    DataConfig,
    EngineConfig,
    OptimizerConfig,
    SourceConfig,
    TrainableConfig,
    TrainConfig,
)
from plum.training.run import build_or_load, train
from plum.training.smoke_overfit import mask_ious, turns_before
from scripts.bench.stock_checkpoints import ARCHITECTURES
from tests.plum.stock_world import write_sam, write_sam2
from tests.plum.training.smoke_world import write_pictures

SEGMENTERS = ("sam", "sam2")
NUM_PICTURES = 2
MIN_TAGS = 0.99
"""Smallest share of right tags of a family that learns."""
MIN_IOU = 0.6
"""Smallest mean IoU of a family that learns. One mask for all phrases of a picture, which no query is needed for, gives
.5."""


@dataclass(frozen=True)
class Scores:
    """Mean IoU of the masks of given phrases, and the share of right tags of answer tokens."""

    mean_iou: float
    right_tags: float


@dataclass(frozen=True)
class Learned:
    """Scores of one family and segmenter before and after training, and the CPU seconds of the training."""

    family: str
    segmenter: str
    before: Scores
    after: Scores
    seconds: float

    @property
    def has_learned(self) -> bool:
        """Whether tags are right, and masks those of their own phrases."""
        return self.after.right_tags >= MIN_TAGS and self.after.mean_iou >= MIN_IOU


def make_run(folder: Path, family: str, segmenter: str, num_updates: int) -> TrainConfig:
    """Write pictures, stock checkpoint, segmenter and base to a new folder; return the run over them."""
    write_pictures(folder / "pictures", NUM_PICTURES)
    ARCHITECTURES[family](folder / "stock")
    sam = write_sam(folder / "sam.pth") if segmenter == "sam" else write_sam2(folder / "sam2")
    adopted = adopt(folder / "stock", sam, folder / "base")
    return TrainConfig(
        run_dir=str(folder / "run"),
        model=ModelConfig(
            hf=HfBackboneConfig(),
            sam=adopted.config.sam,
            tagger=TaggerConfig(num_heads=4, feedforward_dim=64, dropout=0.0),
            feedback=FeedbackConfig(num_heads=4),
            lora=LoraConfig(dropout=0.0),
        ),
        data=DataConfig(
            sources=(SourceConfig("part_semantic", str(folder / "pictures"), targets="lists"),),
            conversations_per_image=1,
        ),
        init_from=str(folder / "base"),
        save_model="trained",
        num_updates=num_updates,
        trainable=TrainableConfig(vision_tower=True, projector=True, sam_image_encoder=True),
        optimizer=OptimizerConfig(learning_rate=4e-3, betas=(0.9, 0.98), warmup_updates=num_updates // 10),
        engine=EngineConfig(
            kind="plain",
            precision="fp32",
            micro_batch_size=NUM_PICTURES,
            accumulation=1,
            gradient_checkpointing=False,
            num_workers=0,
        ),
        save_every=num_updates,
    )


def measure(config: TrainConfig, tokenizer: PreTrainedTokenizerBase, model: GroundedLMM) -> Scores:
    """Ask a model for the pictures of its run: masks as in use, tags as in training."""
    predictor = Predictor(model.eval(), tokenizer, model.config)
    collator = Collator(tokenizer, model.config, config.data)
    mixture = build_mixture(config.data, config.seed, collator.encoder, with_part_maps=False)
    ious: list[float] = []
    hits, totals = torch.zeros(3), torch.zeros(3)
    for index in range(len(mixture.sources[0])):
        sample = mixture.sources[0].sample(index, np.random.default_rng(index))
        for number, exchange in enumerate(sample.conversations[0]):
            ious += mask_ious(predictor, sample, exchange, turns_before(sample, number))
        with torch.inference_mode():
            output = model(collator([sample]), with_teacher=False)
        assert output.tag_logits is not None
        right, counted = bio_accuracy(output.tag_logits, output.tag_labels, output.tag_chain)
        hits, totals = hits + right, totals + counted
    return Scores(float(np.mean(ious)), float(hits.sum() / totals.sum()))


def learn(folder: Path, family: str, segmenter: str, num_updates: int) -> Learned:
    """Train one family with one segmenter in a new folder, and compare before and after."""
    config = make_run(folder, family, segmenter, num_updates)
    before = measure(config, *build_or_load(config))
    start = _cpu_seconds()
    train(config)
    seconds = _cpu_seconds() - start
    loaded = load_pretrained(folder / "run" / "model")
    return Learned(family, segmenter, before, measure(config, loaded.tokenizer, loaded.model), round(seconds, 1))


def _cpu_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def describe(one: Learned) -> str:
    """Return a row of the table."""
    return (
        f"| {one.family} | {one.segmenter} | {one.before.mean_iou:.2f} | {one.after.mean_iou:.2f} | "
        f"{one.before.right_tags:.3f} | {one.after.right_tags:.3f} | {one.seconds:.0f} | "
        f"{'yes' if one.has_learned else 'NO'} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the status is 1 if a family has not learned."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--families", default=",".join(sorted(FAMILIES)), help="names with commas between")
    parser.add_argument("--segmenters", default=",".join(SEGMENTERS), help="sam, sam2 or both")
    parser.add_argument("--updates", type=int, default=400, help="number of updates, of both pictures each")
    parser.add_argument("--output", type=Path, default=None, help="JSON-lines file to which every row is appended")
    parsed = parser.parse_args(arguments)
    families, segmenters = parsed.families.split(","), parsed.segmenters.split(",")
    if unknown := [*({*families} - FAMILIES.keys()), *({*segmenters} - {*SEGMENTERS})]:
        parser.error(f"{unknown[0]!r} is none of {', '.join((*sorted(FAMILIES), *SEGMENTERS))}")
    transformers_logging.disable_progress_bar()
    found = []
    print("| family | segmenter | mIoU before | after | right tags before | after | CPU s | learned |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for family in families:
        for segmenter in segmenters:
            with tempfile.TemporaryDirectory(prefix="learn_") as folder:
                found.append(learn(Path(folder), family, segmenter, parsed.updates))
            print(describe(found[-1]), flush=True)
            if parsed.output is not None:
                with parsed.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(found[-1])) + "\n")
    return int(not all(one.has_learned for one in found))


if __name__ == "__main__":
    sys.exit(main())
