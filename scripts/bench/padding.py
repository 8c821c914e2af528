"""Measures how much of a training batch is padding, as samples are drawn and in groups of similar length.

python scripts/bench/padding.py [--batch 8] [--group 48] [--samples 960]

Mixtures: those of the quickstart's two stages on freshly drawn images, each with the tiny model's 36 image tokens and
with 256 and up to three conversations an image; and the same stage 0 with, for a quarter of the samples, dialogues of
40 to 400 words (as LLaVA-Instruct has a quarter of full-size training). `padding` is the share of a micro-batch's
token places that hold padding, `grouped` the same with `data.group_by_length`. As the language model runs micro-batches
(plum/models/backbones/shared_beginnings.py, as drawn): `repeated` is the share of tokens that need not be run, being
common beginnings of an image's conversations, and `passes` the share of padding in what is run. The last line is JSON.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jsonargparse import CLI
from torch.nn.utils.rnn import pad_sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from partonomy.progress import counted, progress
from plum.data.build import build_mixture
from plum.data.mixture import MixtureDataset
from plum.data.sources.base import longest_text
from plum.inputs.conversation import IMAGE_TOKEN
from plum.inputs.encoding import ConversationEncoder, token_id
from plum.inputs.tokenizer import load_tokenizer
from plum.models.backbones.shared_beginnings import PADDING, lay_out
from plum.structures import ConversationImages, Exchange, Sample
from scripts.bench.sizes import draw_data, training_config

Rows = list[tuple[int, ...]]
"""Token ids of a sample's conversations."""
WORDS = ("the", "wheel", "of", "a", "red", "car", "is", "behind", "its", "door", "and", "under", "a", "window")


class DialogueSource:
    """Dialogues without an answer to segment, of 40 to 400 words."""

    name = "dialogues"
    shortest, longest = 40, 400

    def __len__(self) -> int:
        return 1000

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return a dialogue about a blank image."""
        count = int(generator.integers(self.shortest, self.longest))
        answer = " ".join(WORDS[i] for i in generator.integers(len(WORDS), size=count))
        exchange = Exchange("What do you see?", answer, is_tagged=False)
        return Sample(f"dialogue {index}", self.name, np.zeros((8, 8, 3), dtype=np.uint8), ((exchange,),))

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """See Source."""
        return longest_text(self.sample(index, generator).conversations)

    def exchanges(self) -> Iterator[Exchange]:
        """See Source."""
        yield Exchange("What do you see?", " ".join(WORDS), is_tagged=False)


def main(batch: int = 8, group: int = 48, samples: int = 960, images: int = 200, seed: int = 0) -> None:
    """Print a table, and one JSON line last.

    Args:
        batch: Images a micro-batch.
        group: `data.group_by_length`.
        samples: Of each mixture; a multiple of 20 groups compares the same samples.
        images: Images to draw.
        seed: Of the mixtures.
    """
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        draw_data(Path(folder), images, 64)
        tokenizer = load_tokenizer(Path(folder) / "tokenizer")
        image_token = token_id(tokenizer, IMAGE_TOKEN)
        print(f"{'mixture':<34}{'padding':>10}{'grouped':>10}{'repeated':>10}{'passes':>10}")
        for name, stage, image_tokens, per_image, has_dialogues in (
            ("stage 0, tiny", 0, 36, 1, False),
            ("stage 1, tiny", 1, 36, 1, False),
            ("stage 0, full size", 0, 256, 3, False),
            ("stage 1, full size", 1, 256, 3, False),
            ("stage 0 + dialogues, full size", 0, 256, 3, True),
            ("stage 0 + dialogues, one question", 0, 256, 1, True),
        ):
            data = replace(training_config("tiny", stage, Path(folder)).data, conversations_per_image=per_image)
            drawn = build_mixture(data, seed, with_part_maps=False)
            encoder = ConversationEncoder(tokenizer, "plain", image_tokens)
            rows = {}
            for size in (0, group):
                mixture = _with_dialogues(drawn, size) if has_dialogues else _regrouped(drawn, size)
                rows[size] = encode_rows(mixture, encoder, samples)
            repeated, in_passes = shares_of_passes(rows[0], batch, image_token)
            shares = {
                "padding": padding_share(rows[0], batch),
                "grouped": padding_share(rows[group], batch),
                "repeated": repeated,
                "passes": in_passes,
            }
            print(f"{name:<34}" + "".join(f"{share:>10.1%}" for share in shares.values()))
            results[name] = shares
    print(json.dumps({"batch": batch, "group": group, "mixtures": results}))


def encode_rows(mixture: MixtureDataset, encoder: ConversationEncoder, count: int) -> list[Rows]:
    """Token ids of each conversation of the first samples of a run."""
    rows = []
    with progress(count, "encoding", "sample") as shown:
        for position in counted(range(count), shown):
            sample = mixture[position]
            encoded = [encoder.encode(one, name=sample.sample_id).encoded for one in sample.conversations]
            rows.append([one.input_ids for one in encoded])
    return rows


def padding_share(rows: Sequence[Rows], batch: int) -> float:
    """Share of padding when every `batch` samples make a micro-batch; each conversation of a sample is a row."""
    places = tokens = 0
    for start in range(0, len(rows) - batch + 1, batch):
        lengths = [len(ids) for sample in rows[start : start + batch] for ids in sample]
        places += len(lengths) * max(lengths)
        tokens += sum(lengths)
    return 1 - tokens / places


def shares_of_passes(rows: Sequence[Rows], batch: int, image_token: int) -> tuple[float, float]:
    """Share of tokens that repeat a common beginning, and of padding in what the language model runs."""
    tokens = distinct = places = 0
    for start in range(0, len(rows) - batch + 1, batch):
        conversations = [(k, ids) for k, sample in enumerate(rows[start : start + batch]) for ids in sample]
        padded = [torch.tensor(ids) for _, ids in conversations]
        is_token = pad_sequence([torch.ones_like(ids) for ids in padded], batch_first=True)
        rows_of_images = torch.tensor([[image] for image, _ in conversations])
        lengths = tuple(int((padded[row] == image_token).sum()) for row in range(len(padded)))
        shown = ConversationImages(rows_of_images, lengths)
        layout = lay_out(pad_sequence(padded, batch_first=True), is_token, shown, image_token, 0)
        tokens += int(is_token.sum())
        distinct += sum(int((one.branches != PADDING).sum()) for one in layout.passes)
        places += layout.num_places
    return 1 - distinct / tokens, 1 - distinct / places


def _regrouped(mixture: MixtureDataset, group: int) -> MixtureDataset:
    return MixtureDataset(
        mixture.sources, mixture.block_counts, mixture.seed, mixture.part_vocabulary, group_by_length=group
    )


def _with_dialogues(mixture: MixtureDataset, group: int) -> MixtureDataset:
    """Return the mixture with a quarter of dialogues."""
    sources = [*mixture.sources, DialogueSource()]
    weights = [*mixture.block_counts, sum(mixture.block_counts) / 3]
    return MixtureDataset(sources, weights, mixture.seed, mixture.part_vocabulary, group_by_length=group)


if __name__ == "__main__":
    CLI(main, as_positional=False)
