"""Fits to the whole data set that questions need; shards of a build read them from two files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from partonomy.datasets.concept_graph import ConceptGraph, build_concept_graph
from partonomy.files import RECORD_ERRORS, open_atomically, read_json_as, reason_of, write_json
from partonomy.metrics.part_embedding import embed_texts
from partonomy.names import PartComparator, find_comparator
from partonomy.questions.answer_model import AnswerKind, AnswerModel
from partonomy.questions.answer_mutator import NUM_WRONG_ANSWERS, MutationMode
from partonomy.questions.balanced_models import BalancedFit, fit_balanced
from partonomy.questions.build_config import QuestionBuildConfig
from partonomy.questions.object_sampler import ObjectSampler
from partonomy.questions.part_sampler import PartSampler, fit_part_sampler
from partonomy.questions.right_answers import RightAnswers, find_owned_parts
from partonomy.structures import PartDataset

FITS_FILE = "fits.json"
ARRAYS_FILE = "fits.npz"
CURE = "prepare the build anew with --prepare --overwrite"


@dataclass(frozen=True)
class Fits:
    """The fits to a data set.

    Attributes:
        graph: the vocabulary.
        parts: draws parts to add.
        objects: draws wrong objects; None if no object question can be asked.
        synonyms: for every part, the parts that mean the same, including itself.
        balanced: right answers and their models; None in the other mutation modes.
    """

    graph: ConceptGraph
    parts: PartSampler
    objects: ObjectSampler | None
    synonyms: tuple[frozenset[int], ...]
    balanced: BalancedFit | None

    def hashes(self) -> dict[str, object]:
        """Return hashes that change with anything that changes the questions."""
        return {
            "numpy": np.__version__,
            "part_sampler": self.parts.content_hash(),
            "object_sampler": self.objects.content_hash() if self.objects else None,
            "synonyms": [sorted(group) for group in self.synonyms],
        }


def find_askable_graph(dataset: PartDataset) -> ConceptGraph:
    """Return the data set's vocabulary.

    Raises:
        ValueError: it has no parts, so that nothing can be asked.
    """
    graph = build_concept_graph(dataset)
    if not graph.parts:
        raise ValueError(f"{dataset.name}: no annotated part in {len(dataset.images)} images, nothing can be asked")
    return graph


def fit_object_sampler(graph: ConceptGraph, config: QuestionBuildConfig) -> ObjectSampler | None:
    """Embed the object names if an object question can be asked; otherwise save the seconds of loading the model."""
    is_asked = any(question_type.is_part_whole for question_type in config.question_types)
    if not is_asked or len(graph.objects) <= NUM_WRONG_ANSWERS:
        return None
    return ObjectSampler.from_embedding(graph, embed_texts(graph.objects, config.embedding_model))


def fit_questions(
    dataset: PartDataset,
    graph: ConceptGraph,
    config: QuestionBuildConfig,
    objects: ObjectSampler | None,
    comparator: PartComparator | None = None,
) -> Fits:
    """Fit everything else.

    Args:
        dataset: the annotations.
        graph: the data set's vocabulary.
        config: settings of the questions.
        objects: `fit_object_sampler` of the same data set.
        comparator: decides which part names mean the same; replaces `config.part_comparison`.
    """
    index = {label: number for number, label in enumerate(graph.parts)}
    part_sets = (
        frozenset(index[part.label] for part in instance.parts)
        for image in dataset.images
        for instance in image.objects
        if instance.parts
    )
    parts = fit_part_sampler(part_sets, len(index))
    synonyms = _synonym_indices(graph, comparator or find_comparator(config.part_comparison))
    is_balanced = config.mutation is MutationMode.BALANCED
    balanced = fit_balanced(dataset, graph, synonyms, config.seed, config.instances) if is_balanced else None
    return Fits(graph, parts, objects, synonyms, balanced)


def _synonym_indices(graph: ConceptGraph, comparator: PartComparator) -> tuple[frozenset[int], ...]:
    index = {label: number for number, label in enumerate(graph.parts)}
    synonyms = comparator.find_synonyms(graph.parts)
    return tuple(frozenset(index[other] for other in synonyms[label]) for label in graph.parts)


def save_fits(fits: Fits, folder: Path) -> None:
    """Write `fits.npz` (arrays) and `fits.json` (everything else); numbers are stored exactly."""
    arrays = {"weights": fits.parts.weights, "biases": fits.parts.biases}
    if fits.objects is not None:
        arrays["similarities"] = fits.objects.similarities
    with open_atomically(folder / ARRAYS_FILE) as file:
        np.savez(file, allow_pickle=False, **arrays)
    content = {
        "object_parts": fits.graph.object_parts,
        "object_category": fits.graph.object_category,
        "category_objects": fits.graph.category_objects,
        "synonyms": [sorted(group) for group in fits.synonyms],
        "embedding_model": None if fits.objects is None else fits.objects.model_name,
        "balanced": None if fits.balanced is None else _balanced_to_json(fits.balanced),
    }
    write_json(folder / FITS_FILE, content)


class _FitsContent(msgspec.Struct):
    """The content of `fits.json`."""

    object_parts: dict[str, tuple[str, ...]]
    object_category: dict[str, str]
    category_objects: dict[str, tuple[str, ...]]
    synonyms: list[list[int]]
    embedding_model: str | None
    balanced: dict[str, Any] | None


def load_fits(folder: Path) -> Fits:
    """Read the files of `save_fits`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken.
    """
    content = read_json_as(folder / FITS_FILE, _FitsContent, CURE)
    with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
        weights, biases = arrays["weights"], arrays["biases"]
        similarities = arrays.get("similarities")
    graph = ConceptGraph(
        object_parts=content.object_parts,
        object_category=content.object_category,
        category_objects=content.category_objects,
    )
    synonyms = tuple(map(frozenset, content.synonyms))
    try:
        balanced = None if content.balanced is None else _balanced_from_json(content.balanced, graph, synonyms)
    except RECORD_ERRORS as error:
        raise ValueError(f"{folder / FITS_FILE}: 'balanced': {reason_of(error)}; {CURE}") from error
    if similarities is not None and content.embedding_model is None:
        raise ValueError(f"{folder / FITS_FILE}: 'embedding_model' is null, but {ARRAYS_FILE} has similarities; {CURE}")
    return Fits(
        graph=graph,
        parts=PartSampler(weights, biases),
        objects=None
        if similarities is None or content.embedding_model is None
        else ObjectSampler(graph, similarities, content.embedding_model),
        synonyms=synonyms,
        balanced=balanced,
    )


def _balanced_to_json(fit: BalancedFit) -> dict[str, object]:
    """Convert to JSON: part sets as lists of parts, mappings as pairs, because JSON keys would become texts."""
    return {
        "right": [
            {**vars(kind), "weights": [[f"{bits:x}", weight] for bits, weight in weights.items()]}
            for kind, weights in fit.right.weights.items()
        ],
        "listed": [[*place, f"{bits:x}"] for place, bits in fit.right.listed.items()],
        "models": [
            {
                **vars(kind),
                "root_odds": list(model.root_odds.items()),
                "up": model.up,
                "down": model.down,
                "swap": model.swap,
                "hint_shares": list(model.hint_shares.items()),
                "hint_weights": model.hint_weights,
                "few": [[sorted(answer), share] for answer, share in model.few.items()],
            }
            for kind, model in fit.models.items()
        ],
    }


def _balanced_from_json(
    content: Mapping[str, Any], graph: ConceptGraph, synonyms: Sequence[frozenset[int]]
) -> BalancedFit:
    weights = {_kind(row): {int(bits, 16): weight for bits, weight in row["weights"]} for row in content["right"]}
    models = {
        _kind(row): AnswerModel(
            root_odds=dict(row["root_odds"]),
            up=tuple(row["up"]),
            down=tuple(row["down"]),
            swap=tuple(row["swap"]),
            hint_shares=dict(row["hint_shares"]),
            hint_weights=tuple(row["hint_weights"]),
            few={frozenset(answer): share for answer, share in row["few"]},
        )
        for row in content["models"]
    }
    listed = {(form, label): int(bits, 16) for form, label, bits in content["listed"]}
    return BalancedFit(RightAnswers.from_weights(graph, find_owned_parts(graph, synonyms), weights, listed), models)


def _kind(row: Mapping[str, Any]) -> AnswerKind:
    return AnswerKind(row["form"], row["category"])
