"""MMR as downloaded, question by question: `MMR/MMR_SPLIT.json`, photographs below `refer_seg/images/mscoco/images`."""

from pathlib import Path

from partonomy.benchmarks.multi_target_items import MultiTargetItem
from partonomy.datasets.mmr import mmr_file, mmr_image_path, read_mmr
from partonomy.datasets.mmr_answers import ground_answer

MMR_SPLITS = ("val", "test_mixed", "test_obj_only", "test_part_only", "train")


def read_mmr_items(root: Path, split: str, annotations: Path | None = None) -> tuple[MultiTargetItem, ...]:
    """Read the questions of a split, in file order.

    Args:
        root: Folder of the downloads.
        split: One of `MMR_SPLITS`.
        annotations: Another file in MMR's form; its images lie where MMR's do.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: An unknown split, or a broken file or record, naming both.
    """
    if split not in MMR_SPLITS:
        raise ValueError(f"mmr has no split {split!r}; known: {', '.join(MMR_SPLITS)}")
    return tuple(
        MultiTargetItem(
            item_id=question.question_id,
            image_id=image.image_id,
            image_path=mmr_image_path(root, image),
            height=image.height,
            width=image.width,
            text=question.question.strip(),
            is_sentence=True,
            targets=question.targets,
            answer=ground_answer(question),
        )
        for image in read_mmr(annotations or mmr_file(root, split))
        for question in image.questions
    )
