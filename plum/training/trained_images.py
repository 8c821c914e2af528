"""Record which images a run was trained on, its own and those of earlier stages, in its folder and its saved model."""

import logging
from pathlib import Path

from partonomy.datasets.photographs import (
    TRAINING_IMAGES_FILE,
    StageImages,
    TrainingImageList,
    image_key,
    read_training_images,
    write_training_images,
)
from partonomy.progress import counted, progress
from plum.checkpoints.store import has_heads
from plum.data.excluded_images import TrainingImages
from plum.train_config import TrainConfig

logger = logging.getLogger(__name__)


def record_training_images(root: Path, config: TrainConfig, images: TrainingImages) -> None:
    """Write the list into the run's folder, unless the run's initial model was trained on images that are not listed.

    Args:
        root: the run's folder; images that an interrupted start of the run listed there stay in the list.
        config: configuration of the run; `init_from` may be an earlier stage.
        images: the images that building the mixture met.

    Raises:
        ValueError: the list of an earlier stage is broken.
    """
    earlier = _earlier_stages(config.init_from)
    if earlier is None:
        logger.warning(
            "%s holds a trained model without %s: results will say that the overlap with the benchmark is unknown",
            config.init_from,
            TRAINING_IMAGES_FILE,
        )
        return
    with progress(len(images.kept), "images", "image") as shown:
        keys = {image_key(path) for path in counted(sorted(images.kept), shown)}
    stage = StageImages(
        Path(config.run_dir).name,
        len(keys),
        config.data.exclude_images,
        len(images.left_out),
        config.data.count_images,
        len(images.trained_on),
    )
    interrupted = read_training_images(root)
    known = earlier.images if interrupted is None else earlier.images | interrupted.images
    write_training_images(root, TrainingImageList((*earlier.stages, stage), known | keys))


def _earlier_stages(init_from: str | None) -> TrainingImageList | None:
    """Return the images that `init_from` was trained on: none without one or for a converted base; None: unknown."""
    if init_from is None:
        return TrainingImageList((), frozenset())
    found = read_training_images(Path(init_from))
    return TrainingImageList((), frozenset()) if found is None and not has_heads(init_from) else found
