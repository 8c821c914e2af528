"""Builds the questions of a data set in all ten types (paper, sections 3.1 and 3.2), with their wrong answers.

Each image, or each object class in it, yields at most one question per type, all about the same instance.
Every question has its own generator,
seeded by (seed, image, type), and the regressions are fitted once, so the output is byte-identical for any number of
workers.
"""

import gc
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from partonomy.datasets.question_file import question_to_line
from partonomy.datasets.seal import SEAL_KEY, break_seal, describe_files
from partonomy.datasets.sources.records import SkippedAnnotations
from partonomy.datasets.store import ANNOTATIONS_FILE, BUILD_FILE, DatasetOrigin, save_dataset
from partonomy.files import hash_files, hash_json, write_json
from partonomy.names import PartComparator
from partonomy.progress import progress
from partonomy.questions.answer_mutator import AnswerMutator
from partonomy.questions.build_config import (
    BuildSeconds,
    BuildSummary,
    QuestionBuildConfig,
    config_to_json,
    summary_to_json,
)
from partonomy.questions.fits import Fits, find_askable_graph, fit_object_sampler, fit_questions
from partonomy.questions.hints import PartWords
from partonomy.questions.image_questions import QuestionMaker, SkippedQuestion
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

    A killed build is resumed (see `question_writer`); the files are byte-identical to those of an uninterrupted build.

    Args:
        dataset: the annotations.
        config: settings of the questions.
        output_dir: the folder to write; created if missing.
        origin: origin of the annotations, for `dataset.json`.
        settings: settings of the source, stored in `build.json` next to the questions' configuration.
        left_out: annotations of the source that are not in the data set, counted in `build.json`.
        comparator: decides which part names mean the same; replaces `config.part_comparison`.

    Raises:
        ValueError: the data set has no parts.
    """
    config_json = resolved_config(config, comparator)
    clock = _Clock()
    break_seal(output_dir)
    withdraw_questions(output_dir)
    dataset = save_dataset(dataset, output_dir, origin or DatasetOrigin("python", config.seed))
    graph = find_askable_graph(dataset)
    clock.stop()
    objects = fit_object_sampler(graph, config)
    clock.stop()
    fits = fit_questions(dataset, graph, config, objects, comparator)
    clock.stop()
    templates = load_templates(config.templates or DEFAULT_TEMPLATES)
    inputs = question_inputs(hash_files([output_dir / ANNOTATIONS_FILE]), config_json, templates, fits)
    with QuestionWriter(output_dir, hash_json(inputs)) as writer:
        write_all_questions(make_maker(fits, config, templates, dataset.image_root), dataset.images, config, writer)
        writer.finish()
    clock.stop()
    summary = BuildSummary(
        num_images=len(dataset.images),
        num_questions={question_type: writer.num_questions[question_type] for question_type in config.question_types},
        skipped=skipped_rows(writer.skipped, config.question_types),
        embedding_model=objects.model_name if objects else None,
        seconds=BuildSeconds(*clock.seconds),
    )
    content = summary_to_json(summary, config_json, settings or {}, left_out) | {SEAL_KEY: describe_files(output_dir)}
    write_json(output_dir / BUILD_FILE, content, indent=2)
    writer.remove_progress()
    return summary


def resolved_config(config: QuestionBuildConfig, comparator: PartComparator | None = None) -> dict[str, object]:
    """Return the configuration in the form of `build.json`; a given comparator replaces the configured one."""
    return config_to_json(config) | ({} if comparator is None else {"part_comparison": comparator.name})


def question_inputs(
    annotations_sha256: str, config_json: Mapping[str, object], templates: Templates, fits: Fits
) -> dict[str, object]:
    """Return everything that questions depend on; an interrupted build resumes only if none of it has changed."""
    inputs = {"annotations": annotations_sha256, "config": config_json, "templates": repr(templates)}
    return inputs | fits.hashes()


class _Clock:
    """Measures the seconds of a build's steps."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: list[float] = []

    def stop(self) -> None:
        """End a step."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def make_maker(fits: Fits, config: QuestionBuildConfig, templates: Templates, image_root: Path) -> QuestionMaker:
    """Set up the maker of a data set's questions."""
    balanced = fits.balanced
    return QuestionMaker(
        graph=fits.graph,
        mutator=AnswerMutator(
            config.mutation,
            fits.parts,
            fits.synonyms,
            balanced.models if balanced else None,
            PartWords.of(fits.graph.parts),
        ),
        object_sampler=fits.objects,
        templates=templates,
        synonyms=fits.synonyms,
        seed=config.seed,
        image_root=image_root,
        mark=config.mark,
        instances=config.instances,
        right=balanced.right if balanced else None,
    )


def write_all_questions(
    maker: QuestionMaker, images: Sequence[AnnotatedImage], config: QuestionBuildConfig, writer: QuestionWriter
) -> None:
    """Write the questions of consecutive images, starting at the first one that the writer lacks."""
    with (
        _annotations_left_alone(),
        progress(len(images), "questions", "image", initial=writer.num_images) as shown,
    ):
        for made in _make_all(maker, images[writer.num_images :], config):
            writer.write(made)
            shown.update(made.num_images)


@contextmanager
def _annotations_left_alone() -> Iterator[None]:
    """Keep the garbage collector from scanning the annotations' millions of objects again and again."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def skipped_rows(
    skipped: Mapping[SkippedQuestion, int], question_types: Sequence[QuestionType]
) -> tuple[SkippedType, ...]:
    """Return what could not be asked, by type in the configured order, then by reason."""
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
    # "spawn": the parent may have torch threads (embedding model), which do not survive a fork.
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
    """The state of a worker process, sent once when it starts."""

    maker: QuestionMaker
    question_types: tuple[QuestionType, ...]


def _start_worker(maker: QuestionMaker, question_types: tuple[QuestionType, ...]) -> None:
    _Worker.maker = maker
    _Worker.question_types = question_types
    gc.freeze()


def _work(images: Sequence[AnnotatedImage]) -> MadeQuestions:
    return _make_step(_Worker.maker, _Worker.question_types, images)
