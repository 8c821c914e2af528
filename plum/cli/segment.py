"""`python -m plum segment`: ask one question about one image, or about several together."""

from pathlib import Path

from plum.cli.highlight_flags import HighlightFlags
from plum.cli.model_flags import ModelFlags


def segment(
    *, image: tuple[Path, ...], question: str, output: Path, highlight: HighlightFlags, model: ModelFlags
) -> None:
    """Answer a question about an image and segment the phrases that the answer tags.

    Args:
        image: image file; several to ask about them together, which texts call (IMAGE1), (IMAGE2), ...
        question: question about the image
        output: folder to write the overlay (PNG) and the masks (JSON) to
        highlight: what to segment.
        model: the model.

    Raises:
        FileNotFoundError: an image or the checkpoint does not exist.
        ValueError: an image cannot be read, the checkpoint holds no model, or there is nothing to highlight.
    """
    from partonomy.models.contract import Role, Turn
    from plum.cli.show import describe_answer
    from plum.inference.api import read_image
    from plum.inference.highlight import answer_about
    from plum.inference.partonomy_adapter import load_predictor
    from plum.inference.predictor import default_new_tokens

    chosen = highlight.read()
    images = [read_image(path) for path in image]
    predictor = load_predictor(model.checkpoint, model.device, dtype=model.dtype)
    turns = (Turn(Role.USER, question),)
    limit = model.max_new_tokens or default_new_tokens(len(images))
    predictions = answer_about(predictor, images, turns, chosen, limit)
    stems = [path.stem for path in image]
    if len(set(stems)) < len(stems):
        stems = [f"{stem}_{number}" for number, stem in enumerate(stems, start=1)]
    print(describe_answer(predictions, images, limit, output, stems))
