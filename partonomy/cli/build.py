"""`python -m partonomy build`: builds a data set folder from a source's annotations, with questions about them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from partonomy.cli.data import is_already_built, refuse_shards
from partonomy.cli.stats import describe_left_out
from partonomy.datasets import record_exchange as marked_images
from partonomy.datasets.instances import InstanceRule
from partonomy.datasets.question_file import read_question_lines
from partonomy.datasets.record_exchange import MARKED_FOLDER
from partonomy.datasets.seal import EDITED_KEY
from partonomy.datasets.shard_results import SHARDS_FOLDER, remove_shards
from partonomy.datasets.sources.group_parts_by_object import SourceReading
from partonomy.datasets.sources.part_imagenet import find_object_names
from partonomy.datasets.sources.records import SkippedAnnotations
from partonomy.datasets.sources.registry import DataSource, SourceOptions, find_source, synthetic_config
from partonomy.datasets.store import BUILD_FILE, QUESTIONS_FILE, DatasetOrigin, load_dataset, read_skipped
from partonomy.datasets.synthetic.drawn_shards import WORK as DRAWN
from partonomy.datasets.synthetic.drawn_shards import draw_and_store, has_drawn_shards, join_drawn
from partonomy.files import read_json
from partonomy.locks import lock_folder
from partonomy.metrics.part_embedding import DEFAULT_EMBEDDING_MODEL
from partonomy.questions.answer_mutator import MutationMode
from partonomy.questions.build_config import BuildSummary, QuestionBuildConfig, config_to_json
from partonomy.questions.generator import build_questions
from partonomy.questions.image_questions import MarkRule
from partonomy.questions.marks import count_marks, describe_grouping
from partonomy.questions.sharded_build import build_shard, is_prepared, merge_build, prepare_build, read_preparation
from partonomy.questions.templates import NAMED_TEMPLATES, find_templates
from partonomy.reporting.blind_tables import line_on_questions
from partonomy.sharding import Shard, parse_shard
from partonomy.structures import PartDataset, QuestionType, SkippedType
from partonomy.suggestions import unknown_names

ResultT_co = TypeVar("ResultT_co", covariant=True)
SourceName = Literal[
    "coco",
    "cvat",
    "label_studio",
    "labelme",
    "via",
    "supervisely",
    "paco",
    "ade20k_part_234",
    "part_imagenet",
    "pascal_part",
    "partonomy_core",
    "dataset",
    "synthetic",
]


def build(
    *,
    source: SourceName,
    output: str,
    images: str | None = None,
    annotations: str | None = None,
    object_name: str | None = None,
    object_names: str | None = None,
    categories: str | None = None,
    name_map: str | None = None,
    label_separator: str | None = None,
    label_attribute: str | None = None,
    name: str | None = None,
    fold_sides: bool = False,
    split: Literal["train", "dev", "val"] | None = None,
    image_size: int | None = None,
    seed: int = 0,
    mutation: Literal["balanced", "paper", "authors"] = "balanced",
    question_types: list[str] | str | None = None,
    embedding_model: str = DEFAULT_EMBEDDING_MODEL,
    part_comparison: str = "exact",
    mark_objects: Literal["same_class", "ambiguous"] | None = None,
    instances: Literal["image", "class"] = "image",
    templates: str | None = None,
    num_workers: int = 1,
    invalid: Literal["raise", "collect"] = "raise",
    store_marked_images: bool = False,
    prepare: bool = False,
    shard: str | None = None,
    merge: bool = False,
    overwrite: bool = False,
) -> None:
    """Build a data set and its questions from part annotations, or draw the embedded data set.

    To split a build over machines, run three steps with the same flags: --prepare once, --shard 1/N to --shard N/N,
    --merge once. The result is byte-identical to that of a single process.

    Args:
        source: coco (any COCO-style file with part annotations), an annotation tool's own files (cvat, label_studio,
            labelme, via, supervisely; see docs/annotation_tools.md), paco, ade20k_part_234, part_imagenet, pascal_part,
            partonomy_core (any published record file), dataset (a folder made here) or synthetic (drawn objects, no
            download).
        output: Folder to write.
        images: Folder of the images, the record file or the data set; for synthetic, the number of images to draw.
        annotations: Annotation file; for annotation tools also the folder of their files, and for pascal_part that of
            the .mat files.
        object_name: Object that all parts belong to, for files without object annotations (coco and annotation tools).
        object_names: JSON file WordNet id -> object name, for classes instead of super-categories (part_imagenet);
            everyday takes the packaged table of MixedParts, with 37 names, and leaves out images of other classes.
        categories: JSON file object -> category, from which wrong parts and objects are drawn. Default: the source's
            own (paco, pascal_part, part_imagenet with --object_names); else every class is its own category, and wrong
            parts come from the class and, with --mutation paper, the classes that it is compared with.
        name_map: JSON file raw name -> natural name.
        label_separator: Text between object and part in the labels of an annotation tool (default ":", as in
            car:wheel), or part-of for labels with the part first ("wheel part-of car").
        label_attribute: Attribute that holds the label (via).
        name: Name of the data set; default the source's name, or the name of the annotation file's folder (coco).
        fold_sides: Drop left and right from part names (pascal_part).
        split: train, dev or val; default train (synthetic).
        image_size: Side of the images in pixels (synthetic).
        seed: Seed of the questions and of the drawing.
        mutation: Method for wrong answers. balanced gives the fewest hints; use paper or authors for results that are
            comparable with the paper's, whose choices give many answers away (see python -m partonomy blind).
        question_types: Types to ask, for example identification_with_label,part_to_whole; default all ten.
        embedding_model: Sentence embedding of object names; char-ngram-tfidf needs no model.
        part_comparison: Test for two names of the same part: exact, lemma (ignores plurals and hyphens) or file:PATH (a
            JSON list of lists of synonyms).
        mark_objects: When to draw a box around the object: same_class, if the image shows several of its class;
            ambiguous, also if the question does not name it and the image shows another object. Default ambiguous; with
            --mutation paper or authors same_class.
        instances: Ask about one instance of each image (image: every image has the same weight), or about one of each
            object class in it, as the authors' generator does (class: more questions, several per image).
        templates: core (the published Core file's wording, the default), plain (this project's former wording: parts
            separated by commas alone), or a YAML file with another wording.
        num_workers: Number of processes; the output does not depend on it.
        invalid: raise stops at the first bad image or annotation; collect leaves bad ones out and counts them.
        store_marked_images: Also write the images with the box drawn; otherwise it is drawn when an image is shown.
        prepare: First step of a sharded build: read the source and fit what the questions need from the whole data set.
            With --shard (synthetic only), draw the shard's images; then run --prepare alone to join them.
        shard: Second step: write the questions of one shard of the images, given as NUMBER/COUNT, for example 2/8.
        merge: Third step: join the shards and delete their files.
        overwrite: Replace a data set that was built with other settings.
    """
    folder = Path(output)
    options = SourceOptions(
        images=images,
        output=folder,
        seed=seed,
        num_workers=num_workers,
        invalid=invalid,
        annotations=_path(annotations),
        object_name=object_name,
        object_names=None if object_names is None else find_object_names(object_names),
        categories=_path(categories),
        name_map=_path(name_map),
        label_separator=label_separator,
        label_attribute=label_attribute,
        name=name,
        fold_sides=fold_sides or None,
        split=split,
        image_size=image_size,
    )
    config = QuestionBuildConfig(
        seed=seed,
        mutation=MutationMode(mutation),
        question_types=tuple(QuestionType) if question_types is None else _question_types(question_types),
        embedding_model=embedding_model,
        num_workers=num_workers,
        part_comparison=part_comparison,
        mark_objects=None if mark_objects is None else MarkRule(mark_objects),
        instances=InstanceRule(instances),
        templates=None if templates is None else find_templates(templates),
    )
    reader = find_source(source, options)
    step = BuildStep(source, options, config, reader=reader, overwrite=overwrite, is_marked=store_marked_images)
    _run(step, prepare, shard, merge)


def _run(step: "BuildStep", prepare: bool, shard: str | None, merge: bool) -> None:
    """Run the step that the flags name."""
    if merge and (prepare or shard is not None):
        raise ValueError("--merge is a separate step: run it alone, after all shards")
    if prepare and shard is not None:
        step.draw(parse_shard(shard))
    elif prepare:
        step.prepare()
    elif shard is not None:
        step.ask(parse_shard(shard))
    elif merge:
        step.merge()
    else:
        step.build()


class _DatasetStep(Protocol[ResultT_co]):
    """`build_questions` or `prepare_build`."""

    def __call__(
        self,
        dataset: PartDataset,
        config: QuestionBuildConfig,
        folder: Path,
        /,
        *,
        origin: DatasetOrigin,
        settings: Mapping[str, object],
        left_out: Sequence[SkippedAnnotations],
    ) -> ResultT_co: ...


class BuildStep:
    """One step of a build, or all of it in one process.

    Args:
        source: name of the source.
        options: the source's settings from the command line.
        config: settings of the questions.
        reader: the source's reader.
        overwrite: whether to replace a data set that was built with other settings.
        is_marked: whether to store images with the box drawn once the questions are complete.
    """

    def __init__(
        self,
        source: str,
        options: SourceOptions,
        config: QuestionBuildConfig,
        *,
        reader: DataSource,
        overwrite: bool,
        is_marked: bool,
    ) -> None:
        if config.templates is not None and not config.templates.is_file():
            known = ", ".join(NAMED_TEMPLATES)
            raise FileNotFoundError(
                f"{config.templates}: --templates is neither a packaged wording ({known}) nor an existing file"
            )
        self._source, self._options, self._config, self._reader = source, options, config, reader
        self._overwrite, self._is_marked = overwrite, is_marked
        self._folder = options.output
        self._settings = reader.settings(source, options)

    def build(self) -> None:
        """Run the whole build in one process."""
        if self._is_built():
            self._store_marked()
            return
        with lock_folder(self._folder):
            # Once more, because a process that held the lock until now may have built it, perhaps otherwise.
            if not self._is_built(is_held=True):
                self._build()
        self._store_marked()

    def _build(self) -> None:
        refuse_shards(self._folder, self._overwrite)
        reading = self._reader.read(self._options)
        summary = self._apply(build_questions, reading)
        _print_summary(self._folder, summary, reading.skipped, self._config)
        _print_notes(reading)
        _refuse_without_questions(self._folder, summary.num_questions, summary.skipped)

    def draw(self, shard: Shard) -> None:
        """Draw a shard's images; runs before `prepare`."""
        if self._source != "synthetic":
            raise ValueError(
                f"--prepare --shard draws images, which --source {self._source} does not; run --prepare alone"
            )
        if self._is_built():
            return
        if is_prepared(self._folder) and not self._overwrite:
            read_preparation(self._folder, self._config, self._settings)
            print(f"{self._folder}: already prepared with these settings, nothing to draw")
            return
        config = synthetic_config(self._options)
        if draw_and_store(config, self._folder, self._options.num_workers, shard):
            print(f"{self._folder}: shard {shard} drawn")
        else:
            print(f"{self._folder}: shard {shard} was drawn before with these settings, nothing to do")

    def prepare(self) -> None:
        """Build everything except the questions."""
        if self._is_built():
            return
        with lock_folder(self._folder):
            if is_prepared(self._folder):
                try:
                    read_preparation(self._folder, self._config, self._settings)
                    print(f"{self._folder}: already prepared with these settings, nothing to do")
                    return
                except ValueError:
                    if not self._overwrite:
                        raise
            remove_shards(self._folder / SHARDS_FOLDER, keep=DRAWN)
            if self._source == "synthetic" and has_drawn_shards(self._folder):
                reading = SourceReading(join_drawn(synthetic_config(self._options), self._folder), ())
            else:
                reading = self._reader.read(self._options)
            preparation = self._apply(prepare_build, reading)
        _print_notes(reading)
        print(f"{self._folder}: prepared, {preparation.num_images} images; next: --shard 1/N to --shard N/N")

    def ask(self, shard: Shard) -> None:
        """Write the questions of a shard; runs after `prepare`."""
        if self._is_built():
            return
        if build_shard(self._folder, shard, self._config, self._settings):
            print(f"{self._folder}: shard {shard} finished")
        else:
            print(f"{self._folder}: shard {shard} was finished before with these settings, nothing to do")

    def merge(self) -> None:
        """Join all shards into the data set that a single process would build."""
        if self._is_built():
            remove_shards(self._folder / SHARDS_FOLDER)
        else:
            with lock_folder(self._folder):
                if self._is_built(is_held=True):
                    return
                left_out = read_preparation(self._folder, self._config, self._settings).left_out
                summary = merge_build(self._folder, self._config, self._settings)
            _print_summary(self._folder, summary, left_out, self._config)
            _refuse_without_questions(self._folder, summary.num_questions, summary.skipped)
        self._store_marked()

    def _is_built(self, *, is_held: bool = False) -> bool:
        expected = {"source": self._settings, "config": config_to_json(self._config)}
        if not is_already_built(self._folder, expected, self._overwrite, is_held=is_held):
            return False
        build = read_json(self._folder / BUILD_FILE)
        edited = ", then edited by hand (--overwrite builds it anew)" if build.get(EDITED_KEY) else ""
        print(f"{self._folder}: already built with these settings{edited}, nothing to do")
        skipped = read_skipped(build, self._folder / BUILD_FILE)
        _refuse_without_questions(self._folder, build["num_questions"], skipped)
        return True

    def _apply(self, step: _DatasetStep[ResultT_co], reading: SourceReading) -> ResultT_co:
        """Build or prepare what was read, if it has a part to ask about."""
        _refuse_without_parts(reading)
        seed = self._config.seed if self._source == "synthetic" else None
        return step(
            reading.dataset,
            self._config,
            self._folder,
            origin=DatasetOrigin(self._source, seed, self._settings),
            settings=self._settings,
            left_out=reading.skipped,
        )

    def _store_marked(self) -> None:
        if self._is_marked:
            with lock_folder(self._folder):
                count = marked_images.store_marked_images(self._folder)
            print(f"{self._folder / MARKED_FOLDER}: {count} images with the box drawn")


def _print_summary(
    folder: Path, summary: BuildSummary, skipped: Sequence[SkippedAnnotations], config: QuestionBuildConfig
) -> None:
    print(f"{folder}: {sum(summary.num_questions.values())} questions about {summary.num_images} images")
    for question_type, count in summary.num_questions.items():
        print(f"  {question_type.value:<28}{count:>7}")
    for row in summary.skipped:
        asked_about = "images" if config.instances is InstanceRule.IMAGE else "instances"
        print(f"  not asked: {row.question_type.value}, {row.count} {asked_about}: {row.reason}")
    for left_out in skipped:
        print(describe_left_out(len(left_out.annotation_ids), left_out.annotation_ids, left_out.reason))
    if summary.embedding_model:
        print(f"  object names compared by {summary.embedding_model}")
    dataset = load_dataset(folder)
    questions, _ = read_question_lines(folder / QUESTIONS_FILE, dataset, "raise")
    print(f"  {describe_grouping(dataset, config.mutation)}")
    print(f"  {count_marks(dataset, questions).describe()}")
    if line := line_on_questions(folder.name, questions):
        print(f"  {line}")


def _refuse_without_parts(reading: SourceReading) -> None:
    """Refuse a data set without parts, after the reasons for which annotations were left out.

    Raises:
        ValueError: it has no part.
    """
    dataset = reading.dataset
    if any(instance.parts for image in dataset.images for instance in image.objects):
        return
    for left_out in reading.skipped:
        print(describe_left_out(len(left_out.annotation_ids), left_out.annotation_ids, left_out.reason))
    _print_notes(reading)
    most = max(reading.skipped, key=lambda row: len(row.annotation_ids), default=None)
    reason = "" if most is None else f"; most annotations were left out for this reason: {most.reason}"
    raise ValueError(f"{dataset.name}: no annotated part in {len(dataset.images)} images, nothing can be asked{reason}")


def _refuse_without_questions(folder: Path, num_questions: Mapping[Any, int], skipped: Sequence[SkippedType]) -> None:
    """Refuse a build that asks nothing, with the reasons.

    Raises:
        ValueError: there is no question.
    """
    if sum(num_questions.values()):
        return
    reasons = Counter[str]()
    for row in skipped:
        reasons[row.reason] = max(reasons[row.reason], row.count)
    why = "; ".join(f"{reason} ({count} images)" for reason, count in reasons.most_common()) or "no image has a part"
    raise ValueError(
        f"{folder}: 0 questions: {why}. The annotations are in the folder; add images or parts, or change the "
        "settings of the questions"
    )


def _print_notes(reading: SourceReading) -> None:
    for note in reading.notes:
        print(f"  {note}")


def _question_types(names: Sequence[str] | str) -> tuple[QuestionType, ...]:
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
    known = {question_type.value: question_type for question_type in QuestionType}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(unknown_names("question type", unknown, known))
    return tuple(known[name] for name in names)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
