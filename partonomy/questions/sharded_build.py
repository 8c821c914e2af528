"""Sharded build: the whole data set is read and fitted once; then each shard writes the questions of its images.

1. `prepare_build` writes the annotations of the data set folder and, below `shards/`, the fits to the whole data set
   that the questions need.
2. `build_shard` reads the fits and the annotations of its own images, and writes their questions.
3. `merge_build` joins the questions, byte-identical to a single-process build, and removes `shards/`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from partonomy.datasets.seal import SEAL_KEY, break_seal, describe_files
from partonomy.datasets.shard_results import SHARDS_FOLDER, ShardResults, find_differences, remove_shards
from partonomy.datasets.sources.records import SkippedAnnotations
from partonomy.datasets.store import (
    ANNOTATIONS_FILE,
    BUILD_FILE,
    PARTIAL_QUESTIONS_FILE,
    PROGRESS_FILE,
    QUESTIONS_FILE,
    DatasetOrigin,
    load_dataset,
    save_dataset,
)
from partonomy.files import hash_files, hash_json, open_atomically, read_json_as, write_json
from partonomy.locks import lock_folder
from partonomy.questions.build_config import BuildSummary, QuestionBuildConfig, summary_to_json
from partonomy.questions.fits import find_askable_graph, fit_object_sampler, fit_questions, load_fits, save_fits
from partonomy.questions.generator import (
    make_maker,
    question_inputs,
    resolved_config,
    skipped_rows,
    write_all_questions,
)
from partonomy.questions.image_questions import SkipReason
from partonomy.questions.question_writer import (
    QuestionWriter,
    skipped_from_json,
    skipped_to_json,
    withdraw_questions,
)
from partonomy.questions.templates import DEFAULT_TEMPLATES, load_templates
from partonomy.sharding import Shard
from partonomy.structures import PartDataset, QuestionType

PREPARED_FILE = "prepared.json"
WORK = "questions"
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Preparation:
    """The content of `prepared.json`.

    Attributes:
        source: the settings of the source.
        config: the resolved configuration of the questions.
        inputs: everything that the questions depend on (`generator.question_inputs`).
        num_images: number of images of the whole data set.
        embedding_model: the embedding model used; None if no object question can be asked.
        left_out: annotations of the source that are not in the data set.
    """

    source: Mapping[str, object]
    config: Mapping[str, object]
    inputs: Mapping[str, object]
    num_images: int
    embedding_model: str | None
    left_out: tuple[SkippedAnnotations, ...]


class _ShardContent(msgspec.Struct):
    """The result of a shard."""

    num_questions: dict[QuestionType, int]
    skipped: list[tuple[QuestionType, SkipReason, int]]
    sha256: str


def prepare_build(
    dataset: PartDataset,
    config: QuestionBuildConfig,
    folder: Path,
    *,
    origin: DatasetOrigin,
    settings: Mapping[str, object],
    left_out: Sequence[SkippedAnnotations],
) -> Preparation:
    """Write everything except the questions; for the arguments see `generator.build_questions`."""
    break_seal(folder)
    (folder / QUESTIONS_FILE).unlink(missing_ok=True)
    dataset = save_dataset(dataset, folder, origin)
    graph = find_askable_graph(dataset)
    fits = fit_questions(dataset, graph, config, fit_object_sampler(graph, config))
    shards = folder / SHARDS_FOLDER
    shards.mkdir(exist_ok=True)
    save_fits(fits, shards)
    config_json = resolved_config(config)
    templates = load_templates(config.templates or DEFAULT_TEMPLATES)
    preparation = Preparation(
        source=settings,
        config=config_json,
        inputs=question_inputs(hash_files([folder / ANNOTATIONS_FILE]), config_json, templates, fits),
        num_images=len(dataset.images),
        embedding_model=fits.objects.model_name if fits.objects else None,
        left_out=tuple(left_out),
    )
    content = vars(preparation) | {"left_out": [vars(row) for row in left_out]}
    write_json(shards / PREPARED_FILE, content)
    return preparation


def is_prepared(folder: Path) -> bool:
    """Return whether a sharded build of this folder has been prepared and not yet merged."""
    return (folder / SHARDS_FOLDER / PREPARED_FILE).is_file()


def read_preparation(folder: Path, config: QuestionBuildConfig, settings: Mapping[str, object]) -> Preparation:
    """Read the preparation of a build.

    Raises:
        FileNotFoundError: the build was not prepared.
        ValueError: it was prepared with other settings, or its file is damaged; the message names them.
    """
    path = folder / SHARDS_FOLDER / PREPARED_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found; run this command once with --prepare instead of --shard or --merge"
        )
    preparation = read_json_as(path, Preparation, "prepare anew with --prepare --overwrite")
    differences = find_differences(preparation.source, settings) + find_differences(
        preparation.config, resolved_config(config)
    )
    if differences:
        raise ValueError(
            f"{path}: prepared with other settings ({'; '.join(differences)}); give every shard the settings of "
            "--prepare, or prepare anew with --prepare --overwrite"
        )
    return preparation


def build_shard(folder: Path, shard: Shard, config: QuestionBuildConfig, settings: Mapping[str, object]) -> bool:
    """Write the questions of a shard's images; a killed shard resumes after its last step.

    Returns:
        False if the shard was finished before.

    Raises:
        FileNotFoundError: the build was not prepared.
        ValueError: it was prepared with other settings, other versions or other annotations.
    """
    preparation = read_preparation(folder, config, settings)
    results = _results(folder, preparation)
    with lock_folder(results.folder, f"{WORK}-{shard.file_stem}.lock"):
        if results.is_done(shard):
            return False
        fits = load_fits(results.folder)
        templates = load_templates(config.templates or DEFAULT_TEMPLATES)
        annotations_sha256 = hash_files([folder / ANNOTATIONS_FILE])
        inputs = question_inputs(annotations_sha256, resolved_config(config), templates, fits)
        differences = find_differences(preparation.inputs, inputs)
        if differences:
            raise ValueError(
                f"{folder}: prepared with other inputs ({'; '.join(differences)}); run all shards with one version of "
                "the packages, or prepare anew with --prepare --overwrite"
            )
        dataset = load_dataset(folder, shard)
        work = _work_folder(results, shard)
        work.mkdir(exist_ok=True)
        withdraw_questions(work)
        with QuestionWriter(work, hash_json({"shard": str(shard)} | inputs)) as writer:
            maker = make_maker(fits, config, templates, dataset.image_root)
            write_all_questions(maker, dataset.images, config, writer)
            writer.finish()
        content = {
            "num_questions": writer.num_questions,
            "skipped": skipped_to_json(writer.skipped),
            "sha256": writer.sha256,
        }
        results.write(shard, content)
        writer.remove_progress()
    return True


def merge_build(folder: Path, config: QuestionBuildConfig, settings: Mapping[str, object]) -> BuildSummary:
    """Join the shards' questions into those of a single process, write `build.json` last, and remove the shards.

    Raises:
        FileNotFoundError: a shard is missing, or the build was not prepared.
        ValueError: a shard has other settings or is broken.
    """
    preparation = read_preparation(folder, config, settings)
    results = _results(folder, preparation)
    shards = results.read_all(_ShardContent)
    with open_atomically(folder / QUESTIONS_FILE) as file:
        for shard, content in shards:
            path = _work_folder(results, shard) / QUESTIONS_FILE
            if not path.is_file() or hash_files([path]) != content.sha256:
                raise ValueError(
                    f"{path}: not the file that the shard wrote; delete {results.path(shard)} and run --shard {shard} "
                    "again"
                )
            with path.open("rb") as questions:
                while block := questions.read(BLOCK_BYTES):
                    file.write(block)
    summary = _summarize(preparation, [content for _, content in shards], config)
    built = summary_to_json(summary, preparation.config, settings, preparation.left_out)
    write_json(folder / BUILD_FILE, built | {SEAL_KEY: describe_files(folder)}, indent=2)
    for name in (PARTIAL_QUESTIONS_FILE, PROGRESS_FILE):  # left by an unfinished single-process build
        (folder / name).unlink(missing_ok=True)
    remove_shards(results.folder)
    return summary


def _summarize(preparation: Preparation, shards: Sequence[_ShardContent], config: QuestionBuildConfig) -> BuildSummary:
    num_questions: Counter[QuestionType] = Counter()
    for content in shards:
        num_questions.update(content.num_questions)
    skipped = sum((skipped_from_json(content.skipped) for content in shards), Counter())
    return BuildSummary(
        num_images=preparation.num_images,
        num_questions={question_type: num_questions[question_type] for question_type in config.question_types},
        skipped=skipped_rows(skipped, config.question_types),
        embedding_model=preparation.embedding_model,
    )


def _results(folder: Path, preparation: Preparation) -> ShardResults:
    return ShardResults(folder / SHARDS_FOLDER, WORK, preparation.inputs)


def _work_folder(results: ShardResults, shard: Shard) -> Path:
    return results.path(shard).with_suffix("")
