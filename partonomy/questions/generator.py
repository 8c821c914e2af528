"""Builds the questions of a data set, all ten types (paper, sections 3.1 and 3.2), with their wrong answers.

Per image one instance is asked about, once per type. Every question is drawn from a generator seeded by (seed, image,
type) and the regressions are fitted once, so any number of workers writes the same bytes.
"""

import gc
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from partonomy.datasets.concept_graph import ConceptGraph, build_concept_graph
from partonomy.datasets.question_file import question_to_line
from partonomy.datasets.sources.records import SkippedAnnotations
from partonomy.datasets.store import ANNOTATIONS_FILE, BUILD_FILE, DatasetOrigin, save_dataset
from partonomy.files import hash_files, hash_json, write_json
from partonomy.metrics.part_embedding import embed_texts
from partonomy.names import PartComparator, find_comparator
from partonomy.questions.answer_mutator import NUM_WRONG_ANSWERS, AnswerMutator, MutationMode
from partonomy.questions.balanced_models import BalancedFit, fit_balanced
from partonomy.questions.build_config import (
    BuildSeconds,
    BuildSummary,
    QuestionBuildConfig,
    config_to_json,
    summary_to_json,
)
from partonomy.questions.image_questions import QuestionMaker, SkippedQuestion
from partonomy.questions.object_sampler import ObjectSampler
from partonomy.questions.part_sampler import PartSampler, fit_part_sampler
from partonomy.questions.question_writer import MadeQuestions, QuestionWriter, withdraw_questions
from partonomy.questions.templates import DEFAULT_TEMPLATES, Templates, load_templates
from partonomy.structures import AnnotatedImage, PartDataset, QuestionType, SkippedType

NUM_IMAGES_PER_STEP = 64


def build_questions(
    dataset: PartDataset,
    config: QuestionBuildConfig,
    output_dir: Path,
    *,
    origin: DatasetOrigin | None = None,
    settings: Mapping[str, object] | None = None,
    left_out: Sequence[SkippedAnnotations] = (),
    comparator: PartComparator | None = None,
) -> BuildSummary:
    """Write a data set folder of the project's own form: annotations, questions, and `build.json` last.

    A build that was killed is continued (see `question_writer`); the files have the same bytes as without the kill.

    Args:
        dataset: annotations.
        config: how to ask.
        output_dir: created when missing.
        origin: where the annotations came from, for `dataset.json`.
        settings: how the source was read, stored in `build.json` beside the questions' configuration.
        left_out: annotations of the source that are not in the data set, counted in `build.json`.
        comparator: decides which part names mean the same, instead of `config.part_comparison`.

    Raises:
        ValueError: the data set has no part at all.
    """
    config_json = config_to_json(config) | ({} if comparator is None else {"part_comparison": comparator.name})
    times = [time.perf_counter()]
    (output_dir / BUILD_FILE).unlink(missing_ok=True)
    withdraw_questions(output_dir)
    dataset = save_dataset(dataset, output_dir, origin or DatasetOrigin("python", config.seed))
    graph = build_concept_graph(dataset)
    if not graph.parts:
        raise ValueError(f"{dataset.name}: no annotated part in {len(dataset.images)} images, nothing can be asked")
    times.append(time.perf_counter())
    object_sampler = _build_object_sampler(graph, config)
    times.append(time.perf_counter())
    samplers = _fit_samplers(dataset, graph, config, object_sampler, comparator)
    times.append(time.perf_counter())
    templates = load_templates(config.templates or DEFAULT_TEMPLATES)
    inputs = {
        "annotations": hash_files([output_dir / ANNOTATIONS_FILE]),
        "config": config_json,
        "templates": repr(templates),
    } | samplers.hashes()
    maker = _make_maker(dataset, graph, config, samplers, templates)
    with QuestionWriter(output_dir, hash_json(inputs)) as writer:
        _write_all(maker, dataset, config, writer)
        writer.finish()
    times.append(time.perf_counter())
    summary = BuildSummary(
        num_images=len(dataset.images),
        num_questions={question_type: writer.num_questions[question_type] for question_type in config.question_types},
        skipped=_skipped_rows(writer.skipped, config.question_types),
        embedding_model=object_sampler.model_name if object_sampler else None,
        seconds=BuildSeconds(*(after - before for before, after in pairwise(times))),
    )
    write_json(output_dir / BUILD_FILE, summary_to_json(summary, config_json, settings or {}, left_out), indent=2)
    writer.remove_progress()
    return summary


@dataclass(frozen=True)
class _Samplers:
    """What is fitted to a data set. `balanced` is None in the other mutation modes."""

    parts: PartSampler
    objects: ObjectSampler | None
    synonyms: tuple[frozenset[int], ...]
    balanced: BalancedFit | None

    def hashes(self) -> dict[str, object]:
        """Changes with anything that changes the questions."""
        return {
            "numpy": np.__version__,
            "part_sampler": self.parts.content_hash(),
            "object_sampler": self.objects.content_hash() if self.objects else None,
            "synonyms": [sorted(group) for group in self.synonyms],
        }


def _fit_samplers(
    dataset: PartDataset,
    graph: ConceptGraph,
    config: QuestionBuildConfig,
    objects: ObjectSampler | None,
    comparator: PartComparator | None,
) -> _Samplers:
    parts = _fit_part_sampler(dataset, graph)
    synonyms = _synonym_indices(graph, comparator or find_comparator(config.part_comparison))
    is_balanced = config.mutation is MutationMode.BALANCED
    balanced = fit_balanced(dataset, graph, synonyms, config.seed) if is_balanced else None
    return _Samplers(parts, objects, synonyms, balanced)


def _make_maker(
    dataset: PartDataset, graph: ConceptGraph, config: QuestionBuildConfig, samplers: _Samplers, templates: Templates
) -> QuestionMaker:
    balanced = samplers.balanced
    models = balanced.models if balanced else None
    return QuestionMaker(
        graph=graph,
        mutator=AnswerMutator(config.mutation, samplers.parts, samplers.synonyms, models),
        object_sampler=samplers.objects,
        templates=templates,
        synonyms=samplers.synonyms,
        seed=config.seed,
        image_root=dataset.image_root,
        mark=config.mark_objects,
        right=balanced.right if balanced else None,
    )


def _synonym_indices(graph: ConceptGraph, comparator: PartComparator) -> tuple[frozenset[int], ...]:
    index = {label: number for number, label in enumerate(graph.parts)}
    synonyms = comparator.find_synonyms(graph.parts)
    return tuple(frozenset(index[other] for other in synonyms[label]) for label in graph.parts)


def _fit_part_sampler(dataset: PartDataset, graph: ConceptGraph) -> PartSampler:
    index = {label: number for number, label in enumerate(graph.parts)}
    part_sets = (
        frozenset(index[part.label] for part in instance.parts)
        for image in dataset.images
        for instance in image.objects
        if instance.parts
    )
    return fit_part_sampler(part_sets, len(index))


def _build_object_sampler(graph: ConceptGraph, config: QuestionBuildConfig) -> ObjectSampler | None:
    """The embedding model takes seconds to load: only when an object question can be asked."""
    is_asked = any(question_type.is_part_whole for question_type in config.question_types)
    if not is_asked or len(graph.objects) <= NUM_WRONG_ANSWERS:
        return None
    return ObjectSampler(graph, embed_texts(graph.objects, config.embedding_model))


def _write_all(maker: QuestionMaker, dataset: PartDataset, config: QuestionBuildConfig, writer: QuestionWriter) -> None:
    images = dataset.images
    with (
        _annotations_left_alone(),
        tqdm(total=len(images), initial=writer.num_images, desc="questions", unit="image", disable=None) as progress,
    ):
        for made in _make_all(maker, images[writer.num_images :], config):
            writer.write(made)
            progress.update(made.num_images)


@contextmanager
def _annotations_left_alone() -> Iterator[None]:
    """Keep the collector of unused objects from searching the annotations, millions of objects, again and again."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _skipped_rows(
    skipped: Mapping[SkippedQuestion, int], question_types: Sequence[QuestionType]
) -> tuple[SkippedType, ...]:
    order = list(question_types)
    rows = sorted(skipped.items(), key=lambda row: (order.index(row[0].question_type), row[0].reason.value))
    return tuple(SkippedType(key.question_type, key.reason.value, count) for key, count in rows)


def _make_all(
    maker: QuestionMaker, images: Sequence[AnnotatedImage], config: QuestionBuildConfig
) -> Iterator[MadeQuestions]:
    starts = range(0, len(images), NUM_IMAGES_PER_STEP)
    steps = (images[start : start + NUM_IMAGES_PER_STEP] for start in starts)
    if config.num_workers == 1:
        for step in steps:
            yield _make_step(maker, config.question_types, step)
        return
    # "spawn": the parent may hold torch threads (embedding model), which a forked child would inherit half-dead.
    context = multiprocessing.get_context("spawn")
    with context.Pool(config.num_workers, _start_worker, (maker, config.question_types)) as pool:
        yield from pool.imap(_work, steps)


def _make_step(
    maker: QuestionMaker, question_types: Sequence[QuestionType], images: Sequence[AnnotatedImage]
) -> MadeQuestions:
    lines: list[bytes] = []
    asked: list[QuestionType] = []
    skipped: list[SkippedQuestion] = []
    for image in images:
        questions, not_asked = maker.make(image, question_types)
        lines += [question_to_line(question) for question in questions]
        asked += [question.question_type for question in questions]
        skipped += not_asked
    return MadeQuestions(len(images), tuple(lines), tuple(asked), tuple(skipped))


class _Worker:
    """What a worker process holds: sent once, when it starts."""

    maker: QuestionMaker
    question_types: tuple[QuestionType, ...]


def _start_worker(maker: QuestionMaker, question_types: tuple[QuestionType, ...]) -> None:
    _Worker.maker = maker
    _Worker.question_types = question_types
    gc.freeze()


def _work(images: Sequence[AnnotatedImage]) -> MadeQuestions:
    return _make_step(_Worker.maker, _Worker.question_types, images)
