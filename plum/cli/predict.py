"""`python -m plum predict`: ask about a folder of images; write overlays, masks as JSON, and one HTML page."""

from pathlib import Path

from plum.cli.highlight_flags import HighlightFlags
from plum.cli.model_flags import ModelFlags


def predict(
    images: tuple[Path, ...],
    *,
    output: Path,
    highlight: HighlightFlags,
    model: ModelFlags,
    question: tuple[str, ...] = (),
    questions: Path | None = None,
    resume: bool = False,
) -> None:
    """Ask about many images and write overlays, masks and an HTML page.

    Args:
        images: folders (searched recursively) or image files
        output: folder to write; must be new unless --resume is given
        highlight: what to segment.
        model: the model.
        question: question to ask about every image; repeatable
        questions: JSON list or CSV file of records with the key question and, if needed, image, phrases, char_ranges,
            answer
        resume: continue in --output and retry failed images

    Raises:
        FileNotFoundError: an image, the file of questions or the checkpoint does not exist.
        ValueError: flags contradict each other, a record is wrong, or an image has failed.
    """
    from plum.checkpoints.hub import find_checkpoint
    from plum.checkpoints.weights import fingerprint
    from plum.inference.folder_prediction import (
        FAILURES_FILE,
        RECORDS_FILE,
        QuestionRequest,
        build_requests,
        find_images,
        predict_folder,
    )
    from plum.inference.highlight import NOTHING
    from plum.inference.partonomy_adapter import load_predictor

    chosen = highlight.read()
    if chosen != NOTHING and not question:
        raise ValueError("--phrases, --char_range and --answer belong to --question; records have their own keys")
    asked = [QuestionRequest(one, chosen) for one in question]
    requests = build_requests(find_images(images), asked, questions)
    checkpoint = find_checkpoint(model.checkpoint)
    predictor = load_predictor(str(checkpoint), model.device, dtype=model.dtype)
    model_name = f"{model.checkpoint} ({fingerprint(checkpoint)[:12]})"
    result = predict_folder(
        predictor,
        requests,
        output,
        model_name,
        resume=resume,
        max_new_tokens=model.max_new_tokens,
    )
    before = f", {result.num_before} done earlier" if result.num_before else ""
    print(f"{result.num_done} images done{before}, {len(result.failures)} failed")
    if result.num_cut:
        limit = "--max_new_tokens, or the model's context"
        print(f"{result.num_cut} of {result.num_answers} answers were cut at the limit on their length ({limit})")
    print(f"masks: {output / RECORDS_FILE}\npage:  {result.page}")
    if result.failures:
        shown = "; ".join(f"{name}: {reason}" for name, reason in result.failures[:5])
        raise ValueError(
            f"{len(result.failures)} of {len(requests)} images failed ({shown}); see all of them in "
            f"{output / FAILURES_FILE}"
        )
