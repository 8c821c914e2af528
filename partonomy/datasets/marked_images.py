"""Images with the box drawn that marks the instance a question asks about, for use outside of this project.

Nothing here reads them: the box is part of the question and drawn when its image is loaded.
"""

from pathlib import Path

from PIL import Image
from tqdm import tqdm

from partonomy.datasets.store import load_questions
from partonomy.images import draw_box, load_image

MARKED_FOLDER = "marked_images"


def store_marked_images(folder: Path) -> int:
    """Write `marked_images/IMAGE_ID.png` for every image of a data set whose questions mark their instance.

    An image's questions all ask about one instance, so that one picture serves them all.

    Args:
        folder: of a data set with questions.

    Returns:
        The number of images.
    """
    marked = {question.image_id: question for question in load_questions(folder).questions if question.box is not None}
    (folder / MARKED_FOLDER).mkdir(exist_ok=True)
    for image_id, question in tqdm(marked.items(), desc=MARKED_FOLDER, unit="image", disable=None):
        assert question.box is not None
        image = load_image(question.image_path, question.height, question.width)
        Image.fromarray(draw_box(image, question.box)).save(folder / MARKED_FOLDER / f"{image_id}.png")
    return len(marked)
