"""The configuration and the summary of a question build, and their JSON in `build.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from partonomy.datasets.instances import InstanceRule
from partonomy.datasets.sources.records import SkippedAnnotations
from partonomy.files import hash_files
from partonomy.metrics.part_embedding import DEFAULT_EMBEDDING_MODEL
from partonomy.names import synonym_file
from partonomy.questions.answer_mutator import MutationMode
from partonomy.questions.image_questions import MarkRule
from partonomy.questions.templates import DEFAULT_TEMPLATES, NAMED_TEMPLATES
from partonomy.structures import QuestionType, SkippedType

NUM_EXAMPLE_IDS = 10


@dataclass(frozen=True)
class QuestionBuildConfig:
    """Settings for making questions.

    Attributes:
        seed: seed of all draws.
        mutation: method of deriving wrong answers: "paper", "authors" or "balanced" (see `answer_mutator`).
        question_types: the types to ask, in this order; default: all ten.
        embedding_model: embedding model of the object names (see `partonomy.metrics.part_embedding.embed_texts`).
        num_workers: number of processes; the output does not depend on it.
        part_comparison: "exact", "lemma" or "file:PATH" (see `partonomy.names.find_comparator`).
        mark_objects: when to mark the instance by a box: "same_class" or "ambiguous" (see `MarkRule`); None for
            "ambiguous", in the modes of the paper and its authors for "same_class".
        instances: which instances of an image to ask about: "image" or "class" (see `InstanceRule`).
        templates: file of the wording; default: the packaged file with the published Core file's wording.
    """

    seed: int = 0
    mutation: MutationMode = MutationMode.BALANCED
    question_types: tuple[QuestionType, ...] = tuple(QuestionType)
    embedding_model: str = DEFAULT_EMBEDDING_MODEL
    num_workers: int = 1
    part_comparison: str = "exact"
    mark_objects: MarkRule | None = None
    instances: InstanceRule = InstanceRule.IMAGE
    templates: Path | None = None

    @property
    def mark(self) -> MarkRule:
        """The rule of marking that applies."""
        if self.mark_objects is not None:
            return self.mark_objects
        return MarkRule.AMBIGUOUS if self.mutation is MutationMode.BALANCED else MarkRule.SAME_CLASS

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be 1 or more, got {self.num_workers}")
        if not self.question_types or len(set(self.question_types)) != len(self.question_types):
            raise ValueError(f"question_types must name at least one type, each once, got {list(self.question_types)}")
        synonym_file(self.part_comparison)  # raises if it is unknown


@dataclass(frozen=True)
class BuildSeconds:
    """Wall times in seconds of a build's steps: save annotations, embed object names, fit samplers, write questions."""

    save: float
    embedding: float
    fit: float
    questions: float


@dataclass(frozen=True)
class BuildSummary:
    """The result of a build.

    `embedding_model` is the model actually used; None if no object question could be asked. `seconds` is None for a
    sharded build.
    """

    num_images: int
    num_questions: Mapping[QuestionType, int]
    skipped: tuple[SkippedType, ...]
    embedding_model: str | None
    seconds: BuildSeconds | None = None


def config_to_json(config: QuestionBuildConfig) -> dict[str, object]:
    """Return the resolved configuration with hashes of its files; `num_workers` does not matter and is left out."""
    templates = config.templates or DEFAULT_TEMPLATES
    packaged = {path: name for name, path in NAMED_TEMPLATES.items()}
    files: dict[str, object] = {
        "templates": packaged.get(templates, str(templates)),
        "templates_sha256": hash_files([templates]),
    }
    synonyms = synonym_file(config.part_comparison)
    if synonyms is not None and synonyms.is_file():  # `find_comparator` reports a missing file
        files["part_comparison_sha256"] = hash_files([synonyms])
    return {
        "seed": config.seed,
        "mutation": config.mutation.value,
        "question_types": [question_type.value for question_type in config.question_types],
        "embedding_model": config.embedding_model,
        "part_comparison": config.part_comparison,
        "mark_objects": config.mark.value,
        "instances": config.instances.value,
    } | files


def summary_to_json(
    summary: BuildSummary,
    config: Mapping[str, object],
    settings: Mapping[str, object],
    left_out: Sequence[SkippedAnnotations],
) -> dict[str, object]:
    """Return the content of `build.json`.

    Args:
        summary: the result of the build.
        config: `config_to_json` of the build.
        settings: the settings of the source.
        left_out: annotations of the source that are not in the data set.
    """
    return {
        "source": dict(settings),
        "config": dict(config),
        "embedding_model": summary.embedding_model,
        "num_images": summary.num_images,
        "num_questions": {question_type.value: count for question_type, count in summary.num_questions.items()},
        "skipped": [
            {"question_type": row.question_type.value, "reason": row.reason, "count": row.count}
            for row in summary.skipped
        ],
        "left_out_annotations": [
            {
                "reason": row.reason,
                "count": len(row.annotation_ids),
                "example_ids": list(row.annotation_ids[:NUM_EXAMPLE_IDS]),
            }
            for row in left_out
        ],
    }
