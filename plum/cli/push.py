"""`python -m plum push`: upload a saved model to the Hugging Face Hub."""

from pathlib import Path


def push(
    folder: Path,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    tags: tuple[str, ...] = (),
    datasets: tuple[str, ...] = (),
    summary: tuple[Path, ...] = (),
) -> None:
    """Upload a saved model to the Hugging Face Hub, with its model card.

    Args:
        folder: saved model, such as RUN/model or the folder of an export
        name: organisation/name on the Hub; the repository is created if it does not exist
        private: make a repository that is created private
        revision: branch to write, created if it does not exist (default: main)
        license: the Hub's name of the licence (default: the card's, or other)
        base_model: name on the Hub of the model under the trained weights (default: the card's)
        tags: further tags of the model card
        datasets: further names of training data for the model card
        summary: summary.json files, or their folders, whose scores the model card lists

    Raises:
        FileNotFoundError: the folder or a summary does not exist.
        ValueError: the folder holds no model, a name is malformed, or the Hub refuses the upload.
    """
    from plum.export.hub_upload import UploadRequest, push_model

    request = UploadRequest(folder, name, private, revision, license, base_model, tags, datasets, summary)
    print(f"{folder} is uploaded: {push_model(request)}")
