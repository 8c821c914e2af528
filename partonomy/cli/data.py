"""`python -m partonomy build | import | export | stats`: data sets and their questions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from partonomy.datasets.coco_records import SkippedAnnotations
from partonomy.datasets.files import read_json
from partonomy.datasets.record_exchange import export_records, import_records, import_source, sidecar_path
from partonomy.datasets.registry import SourceOptions, find_source
from partonomy.datasets.statistics import compute_statistics
from partonomy.datasets.store import (
    ANNOTATIONS_FILE,
    BUILD_FILE,
    DATASET_FILE,
    QUESTIONS_FILE,
    DatasetOrigin,
    load_dataset,
    load_questions,
)
from partonomy.questions.answer_mutator import MutationMode
from partonomy.questions.generator import (
    NUM_EXAMPLE_IDS,
    BuildSummary,
    QuestionBuildConfig,
    build_questions,
    config_to_json,
)
from partonomy.questions.image_questions import MarkRule
from partonomy.questions.object_sampler import DEFAULT_EMBEDDING_MODEL
from partonomy.questions.question_types import QuestionType

OWN_FILES = {"images", DATASET_FILE, ANNOTATIONS_FILE, QUESTIONS_FILE, BUILD_FILE}
NUM_EXAMPLE_RECORDS = 20


def build(
    *,
    source: Literal["coco", "synthetic"],
    images: str,
    output: str,
    annotations: str | None = None,
    object_name: str | None = None,
    categories: str | None = None,
    name_map: str | None = None,
    name: str | None = None,
    split: Literal["train", "dev", "val"] | None = None,
    image_size: int | None = None,
    seed: int = 0,
    mutation: Literal["paper", "authors", "balanced"] = "paper",
    question_types: list[str] | str | None = None,
    embedding_model: str = DEFAULT_EMBEDDING_MODEL,
    part_comparison: Literal["exact", "lemma"] = "exact",
    mark_objects: Literal["same_class", "ambiguous"] = "same_class",
    templates: str | None = None,
    num_workers: int = 1,
    invalid: Literal["raise", "collect"] = "raise",
    overwrite: bool = False,
) -> None:
    """Build a data set with its questions from part annotations, or draw the embedded one.

    Args:
        source: coco (any COCO-style file with part annotations) or synthetic (drawn objects, no download).
        images: Folder of the images; for synthetic the number of images to draw.
        output: Folder to write.
        annotations: COCO-style annotation file (coco).
        object_name: Object of all parts, for files without object annotations (coco).
        categories: JSON file object -> category; by default all objects are in one category (coco).
        name_map: JSON file raw name -> natural name (coco).
        name: Name of the data set; default the annotation file's folder (coco).
        split: train, dev or val; default train (synthetic).
        image_size: Side of the images in pixels (synthetic).
        seed: Seed of the questions, and of the drawing.
        mutation: How wrong answers are made; balanced leaves no hint, paper is comparable with the paper.
        question_types: Types to ask, for example identification_with_label,part_to_whole; default all ten.
        embedding_model: Sentence embedding of object names; char-ngram-tfidf needs no model.
        part_comparison: When two part names are the same part; lemma ignores plurals and hyphens.
        mark_objects: When a box is drawn around the object; ambiguous also for questions that do not name it.
        templates: YAML file with another wording.
        num_workers: Processes; the output does not depend on it.
        invalid: raise stops at the first bad image or annotation; collect leaves them out and counts them.
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
        categories=_path(categories),
        name_map=_path(name_map),
        name=name,
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
        mark_objects=MarkRule(mark_objects),
        templates=_path(templates),
    )
    reader = find_source(source, options)
    settings = reader.settings(options)
    if config.templates is not None and not config.templates.is_file():
        raise FileNotFoundError(f"{config.templates}: the file of --templates does not exist")
    if is_already_built(folder, {"source": settings, "config": config_to_json(config)}, overwrite):
        print(f"{folder}: already built with these settings, nothing to do")
        return
    reading = reader.read(options)
    origin = DatasetOrigin(source, seed if source == "synthetic" else None, settings)
    summary = build_questions(
        reading.dataset, config, folder, origin=origin, settings=settings, left_out=reading.skipped
    )
    _print_summary(folder, summary, reading.skipped)


def import_questions(
    questions: str, output: str, invalid: Literal["raise", "collect"] = "raise", overwrite: bool = False
) -> None:
    """Turn a published record file (..._qa_pairs.json) into a data set folder.

    Args:
        questions: Record file; image paths in it are relative to its folder.
        output: Folder to write.
        invalid: raise stops at the first bad record; collect leaves them out and lists them.
        overwrite: Replace a data set that was made from something else.
    """
    folder, record_file = Path(output), Path(questions)
    if not record_file.is_file():
        raise FileNotFoundError(f"{record_file}: record file not found")
    if is_already_built(folder, {"import": import_source(record_file)}, overwrite):
        print(f"{folder}: already imported from {record_file}, nothing to do")
        return
    summary = import_records(record_file, folder, invalid)
    print(f"{folder}: {summary.num_questions} questions imported from {record_file}")
    for row in summary.invalid[:NUM_EXAMPLE_RECORDS]:
        print(f"  left out: record {row.record_index}: {row.reason}")
    if summary.invalid:
        print(f"  {len(summary.invalid)} bad records left out, all listed in {folder / BUILD_FILE}")


def export_questions(questions: str, output: str, overwrite: bool = False) -> None:
    """Write a data set folder as a published record file, with its annotations beside it.

    Args:
        questions: Folder of a data set.
        output: Record file to write (.json).
        overwrite: Replace an existing file.
    """
    record_file = Path(output)
    if record_file.suffix != ".json":
        raise ValueError(f"{record_file}: a record file's name ends in .json")
    if record_file.exists() and not overwrite:
        raise FileExistsError(f"{record_file}: exists already; pass --overwrite or another --output")
    summary = export_records(Path(questions), record_file)
    print(f"{record_file}: {summary.num_questions} questions")
    print(f"{sidecar_path(record_file)}: their annotations, for a lossless import")
    if summary.num_boxes:
        print(f"  {summary.num_boxes} questions mark their object by a box, which is only in the second file")


def stats(folder: str) -> None:
    """Print the size of a data set in the columns of the paper's Tables 1 and 8, and its questions per type.

    What the build left out, and why, stands below each.

    Args:
        folder: Folder of a data set.
    """
    dataset = load_dataset(Path(folder))
    counts = compute_statistics(dataset)
    print(f"data set              {dataset.name}")
    print(f"objects               {counts.num_objects}")
    print(f"parts                 {counts.num_parts}")
    print(f"object-part labels    {counts.num_object_parts}")
    print(f"images                {counts.num_images}")
    print(f"masks                 {counts.num_masks}")
    print(f"object instances      {counts.num_instances}")
    build_file = Path(folder) / BUILD_FILE
    built = read_json(build_file) if build_file.is_file() else {}
    for row in built.get("left_out_annotations", []):
        print(_describe_left_out(row["count"], row["example_ids"], row["reason"]))
    for row in built.get("invalid_records", []):
        print(f"  left out: record {row['record_index']}: {row['reason']}")
    if not (Path(folder) / QUESTIONS_FILE).is_file():
        print("questions             none built")
        return
    loaded = load_questions(Path(folder))
    types = [question.question_type for question in loaded.questions]
    print(f"\n{'questions':<28}{'asked':>7}  not asked")
    for question_type in QuestionType:
        reasons = [f"{row.count} ({row.reason})" for row in loaded.skipped if row.question_type is question_type]
        print(f"{question_type.value:<28}{types.count(question_type):>7}  {', '.join(reasons) or '0'}")


def is_already_built(folder: Path, expected: Mapping[str, object], overwrite: bool) -> bool:
    """Whether a finished data set of the same settings is there; an unfinished one is continued.

    Raises:
        FileExistsError: the folder holds something else and `overwrite` is off.
    """
    marker = folder / BUILD_FILE
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: is a file; choose another --output")
    if marker.is_file():
        found = read_json(marker)
        different = [key for key, value in expected.items() if found.get(key) != value]
        if not different:
            return True
        if not overwrite:
            changes = "; ".join(_describe_change(found.get(key), expected[key]) for key in different)
            raise FileExistsError(
                f"{folder}: holds a data set built with other settings ({changes}); pass --overwrite or "
                "another --output"
            )
        marker.unlink()  # from here on the folder counts as unfinished
        return False
    foreign = sorted(path.name for path in folder.iterdir() if _is_foreign(path)) if folder.is_dir() else []
    if foreign and not overwrite:
        raise FileExistsError(
            f"{folder}: holds files that no data set has ({', '.join(foreign[:5])}); pass --overwrite or another "
            "--output"
        )
    return False


def _is_foreign(path: Path) -> bool:
    return path.name not in OWN_FILES and path.suffix != ".tmp"


def _describe_change(found: object, expected: object) -> str:
    if not isinstance(found, Mapping) or not isinstance(expected, Mapping):
        return "made by another command"
    keys = [key for key in expected if found.get(key) != expected[key]]
    return ", ".join(f"{key}: {found.get(key)} there, {expected[key]} now" for key in keys)


def _print_summary(folder: Path, summary: BuildSummary, skipped: Sequence[SkippedAnnotations]) -> None:
    print(f"{folder}: {sum(summary.num_questions.values())} questions about {summary.num_images} images")
    for question_type, count in summary.num_questions.items():
        print(f"  {question_type.value:<28}{count:>7}")
    for row in summary.skipped:
        print(f"  not asked: {row.question_type.value}, {row.count} images: {row.reason}")
    for left_out in skipped:
        print(_describe_left_out(len(left_out.annotation_ids), left_out.annotation_ids, left_out.reason))
    if summary.embedding_model:
        print(f"  object names compared by {summary.embedding_model}")


def _describe_left_out(count: int, annotation_ids: Sequence[int], reason: str) -> str:
    numbers = ", ".join(str(number) for number in annotation_ids[:NUM_EXAMPLE_IDS])
    ids = f" (id {numbers}{', ...' if count > NUM_EXAMPLE_IDS else ''})" if count else ""
    return f"  left out: {count} annotation{'' if count == 1 else 's'}{ids}: {reason}"


def _question_types(names: Sequence[str] | str) -> tuple[QuestionType, ...]:
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
    known = {question_type.value: question_type for question_type in QuestionType}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown question types {', '.join(unknown)}; known: {', '.join(known)}")
    return tuple(known[name] for name in names)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
