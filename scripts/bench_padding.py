"""Measures how much of a training batch is padding, as samples are drawn and in groups of similar length.

python scripts/bench_padding.py [--batch 8] [--group 48] [--samples 960]

Mixtures: those of the quickstart's two stages on freshly drawn images, each with the tiny model's 36 image tokens and
with 256 and up to three conversations an image; and the same stage 0 with, for a quarter of the samples, dialogues of
40 to 400 words (as LLaVA-Instruct has a quarter of full-size training). `padding` is the share of a micro-batch's
token places that hold padding, `grouped` the same with `data.group_by_length`, `passes` as drawn but with short and
long conversations in passes of their own through the language model, as plum/models/row_groups.py runs them. The last
line is JSON.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jsonargparse import CLI
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plum.data.build import build_mixture
from plum.data.encoding import ConversationEncoder
from plum.data.mixture import MixtureDataset
from plum.data.sources.base import longest_text
from plum.data.tokenizer import load_tokenizer
from plum.models.row_groups import group_rows
from plum.structures import Exchange, Sample
from scripts.bench_sizes import draw_data, training_config

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
        print(f"{'mixture':<34}{'padding':>10}{'grouped':>10}{'passes':>10}")
        for name, stage, image_tokens, per_image, has_dialogues in (
            ("stage 0, tiny", 0, 36, 1, False),
            ("stage 1, tiny", 1, 36, 1, False),
            ("stage 0, full size", 0, 256, 3, False),
            ("stage 1, full size", 1, 256, 3, False),
            ("stage 0 + dialogues, full size", 0, 256, 3, True),
            ("stage 0 + dialogues, one question", 0, 256, 1, True),
        ):
            data = replace(training_config("tiny", stage, Path(folder)).data, conversations_per_image=per_image)
            drawn = build_mixture(data, seed)
            encoder = ConversationEncoder(tokenizer, "plain", image_tokens)
            rows = {}
            for size in (0, group):
                mixture = _with_dialogues(drawn, size) if has_dialogues else _regrouped(drawn, size)
                rows[size] = row_lengths(mixture, encoder, samples)
            shares = {
                "padding": padding_share(rows[0], batch),
                "grouped": padding_share(rows[group], batch),
                "passes": padding_share(rows[0], batch, in_passes=True),
            }
            print(f"{name:<34}" + "".join(f"{share:>10.1%}" for share in shares.values()))
            results[name] = shares
    print(json.dumps({"batch": batch, "group": group, "mixtures": results}))


def row_lengths(mixture: MixtureDataset, encoder: ConversationEncoder, count: int) -> list[list[int]]:
    """Tokens of each conversation of the first samples of a run."""
    lengths = []
    for position in tqdm(range(count), desc="encoding", unit="sample", leave=False):
        sample = mixture[position]
        lengths.append([len(encoder.encode(one, name=sample.sample_id).labels) for one in sample.conversations])
    return lengths


def padding_share(rows: Sequence[Sequence[int]], batch: int, in_passes: bool = False) -> float:
    """Share of padding when every `batch` samples make a micro-batch; each conversation of a sample is a row."""
    places = tokens = 0
    for start in range(0, len(rows) - batch + 1, batch):
        lengths = [length for sample in rows[start : start + batch] for length in sample]
        passes = group_rows(lengths) if in_passes else [list(range(len(lengths)))]
        places += sum(len(one) * max(lengths[row] for row in one) for one in passes)
        tokens += sum(lengths)
    return 1 - tokens / places


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
