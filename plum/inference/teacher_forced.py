"""Teacher-forced statistics on held-out data: span tags (paper, Table 12) and next-token loss, by kind of conversation.

Answers are given, so these statistics do not measure what the model would write; `validate_partonomy.py` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from partonomy.benchmarks.refcoco import read_referring
from partonomy.progress import counted, progress
from plum.checkpoints.store import LoadedModel
from plum.data.build import build_mixture
from plum.data.collate import Collator
from plum.data.loader import load_batches
from plum.data.mixture import MixtureDataset
from plum.data.sources.referring import ReferringSource
from plum.inputs.bio_labels import Tag
from plum.losses.losses import bio_accuracy
from plum.models.grounded_lmm import GroundedLMM
from plum.structures import IGNORE_INDEX, Batch
from plum.train_config import DataConfig, SourceConfig

HELD_OUT_KINDS = ("explanatory", "part_referring", "part_vqa", "part_status")
"""Kinds of conversation to measure; `part_status` answers need look-ahead to be tagged."""


@dataclass(frozen=True)
class TagAccuracy:
    """Share of tokens of each true tag that are predicted correctly; None without such tokens or without a tagger."""

    O: float | None  # noqa: E741  (the tag's name)
    B: float | None
    I: float | None  # noqa: E741


@dataclass(frozen=True)
class HeldOutResult:
    """Result for one kind of conversation, or for the expressions of one split ("refcoco val").

    tags: over answer tokens; tags_all_tokens: prompt and image patches also count as O (as in the authors' code)
    next_token_loss: nats per answer token, end token included
    """

    kind: str
    num_images: int
    num_answer_tokens: int
    tags: TagAccuracy
    tags_all_tokens: TagAccuracy
    next_token_loss: float


def evaluate_teacher_forced(
    loaded: LoadedModel, folder: str, kinds: Sequence[str] = HELD_OUT_KINDS, limit: int = 200
) -> list[HeldOutResult]:
    """Evaluate a model on conversations made from a folder in partonomy's own format.

    Args:
        loaded: model, tokenizer and configuration.
        folder: held-out annotations and questions.
        kinds: kinds of data source.
        limit: maximum number of images per kind.
    """
    results = []
    for kind in kinds:
        data = DataConfig(sources=(SourceConfig(kind=kind, path=folder),))  # type: ignore[arg-type]
        mixture = build_mixture(data, seed=0, with_part_maps=False)
        results.append(_evaluate(loaded, mixture, data, kind, limit))
    return results


def evaluate_expressions(
    loaded: LoadedModel, root: Path, dataset: str, split: str = "val", limit: int = 200
) -> HeldOutResult:
    """Evaluate a model on the referring expressions of a split (paper, Table 12: RefCOCO).

    Questions and answers are those of training, "It is the man on the left.", with the expression as the phrase.

    Args:
        loaded: model, tokenizer and configuration.
        root: folder of the downloads.
        dataset: refclef, refcoco, refcoco+ or refcocog.
        split: a split of the data set.
        limit: maximum number of images.

    Raises:
        FileNotFoundError: a file or an image is missing.
        ValueError: data set or split is unknown, or a file or record is broken; the message names it.
    """
    name, data = f"{dataset} {split}", DataConfig(sources=())
    source = ReferringSource(name, read_referring(root, dataset, split), data.conversations_per_image)
    return _evaluate(loaded, MixtureDataset((source,), (1.0,), seed=0), data, name, limit)


class _Sums:
    """Counts over batches."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.tokens = 0
        self.answer = torch.zeros(2, 3, dtype=torch.long)
        self.everything = torch.zeros(2, 3, dtype=torch.long)

    @torch.inference_mode()
    def add(self, model: GroundedLMM, batch: Batch) -> None:
        """Run the model on a batch on its device, and add its counts."""
        output = model(batch, with_teacher=False)
        if output.token_labels.numel():
            self.loss += float(cross_entropy(output.token_logits.float(), output.token_labels, reduction="sum"))
        self.tokens += int(output.token_labels.numel())
        if output.tag_logits is None:
            return
        self.answer += torch.stack(bio_accuracy(output.tag_logits, output.tag_labels, output.tag_chain)).cpu()
        # The forward pass tags answers only; tags of the prompt need a second run of the tagger.
        is_answer, is_token = batch.tags != IGNORE_INDEX, batch.attention_mask == 1
        images = (batch.shown, output.images.tokens.values)
        everywhere = model.tag(output.hidden_states, batch.attention_mask, is_token, *images)
        assert everywhere is not None
        tags = batch.tags.masked_fill(~is_answer, Tag.O)[is_token]
        chain = model.tag_chain(is_answer, is_other=is_token)
        self.everything += torch.stack(bio_accuracy(everywhere, tags, chain)).cpu()


def _evaluate(loaded: LoadedModel, mixture: MixtureDataset, data: DataConfig, kind: str, limit: int) -> HeldOutResult:
    num_images = min(limit, len(mixture.sources[0]))
    batches = load_batches(
        mixture,
        Collator(loaded.tokenizer, loaded.config, data),
        rank=0,
        world_size=1,
        micro_batch_size=1,
        start_micro_batch=0,
        num_workers=0,
        num_micro_batches=num_images,
    )
    sums = _Sums()
    model = loaded.model.eval()
    device = next(model.parameters()).device
    with progress(num_images, f"held-out {kind}", "image") as shown:
        for batch in counted(batches, shown):
            sums.add(model, batch.without_sam().to(device))  # tags and text need no mask
    return HeldOutResult(
        kind=kind,
        num_images=num_images,
        num_answer_tokens=sums.tokens,
        tags=_accuracy(sums.answer),
        tags_all_tokens=_accuracy(sums.everything),
        next_token_loss=sums.loss / max(1, sums.tokens),
    )


def _accuracy(counts: Tensor) -> TagAccuracy:
    """Hits over totals, in the order O, B, I."""
    hits, totals = counts.tolist()
    return TagAccuracy(*(hit / total if total else None for hit, total in zip(hits, totals, strict=True)))
