"""`python -m partonomy seal`: accepts a data set folder whose files were changed on purpose."""

from collections import Counter
from pathlib import Path

from partonomy.datasets.seal import (
    BUILD_FILE,
    CURATION_FILE,
    EDITED_KEY,
    QUESTIONS_FILE,
    SEAL_KEY,
    describe_files,
    has_seal,
    list_changes,
    seal_file,
)
from partonomy.datasets.store import load_dataset, load_questions
from partonomy.files import read_json, write_json
from partonomy.locks import lock_folder


def seal(folder: str) -> None:
    """Accept changes that were made to a data set folder by hand, or add hashes to one by an earlier version.

    All other commands refuse a folder of which a file was changed since it was built. This one reads the folder, which
    must be free of errors, and records the files as they are now. The folder counts as edited from then on.

    Args:
        folder: Folder of a data set.
    """
    root = Path(folder)
    path = seal_file(root)
    if path is None:
        raise FileNotFoundError(f"{root}: has neither {BUILD_FILE} nor {CURATION_FILE}; build or import it first")
    with lock_folder(root):
        content = read_json(path)
        had_seal = has_seal(root)
        changes = list_changes(root)
        if had_seal and not changes:
            print(f"{root}: unchanged since it was built, nothing to do")
            return
        dataset = load_dataset(root, accept_changes=True)
        content[SEAL_KEY] = describe_files(root)
        if path.name == BUILD_FILE:
            content["num_images"] = len(dataset.images)
            if (root / QUESTIONS_FILE).is_file():
                questions = load_questions(root, needs_images=False, accept_changes=True).questions
                counts = Counter(question.question_type for question in questions)
                kinds = dict.fromkeys((*content.get("num_questions", {}), *sorted(kind.value for kind in counts)))
                content["num_questions"] = {kind: counts[kind] for kind in kinds}
        if had_seal:
            content[EDITED_KEY] = True
        write_json(path, content, indent=2 if path.name == BUILD_FILE else None)
    for change in changes:
        print(f"accepted: {change}")
    print(f"{root}: sealed with its files as they are now")
