"""`push-dataset` and `pull-dataset` against a fake of the Hub's HTTP interface."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.datasets.store import load_questions
from tests.fake_hub import FakeHub, fake_hub, run_with_hub

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (requirements-hub.txt)")
FLAGS = ["--source", "synthetic", "--images", "4", "--image_size", "64", "--embedding_model", "char-ngram-tfidf"]
MODULE = ("-m", "partonomy")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as server:
        yield server


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    assert main(["build", *FLAGS, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, as the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_pushed_question_set_is_pulled_by_its_name(hub: FakeHub, questions: Path, tmp_path: Path) -> None:
    flags = ("--license", "cc-by-4.0", "--split", "val", "--private", "--title", "Drawn parts", "--output", "written")
    pushed = run_with_hub(hub, tmp_path, *MODULE, "push-dataset", str(questions), "org/parts", *flags)
    assert pushed.returncode == 0, pushed.stderr
    repository = hub.repositories["datasets/org/parts"]
    assert (repository.visibility, len(repository.commits)) == ("private", 1)
    files = repository.branches["main"]
    assert set(files) == {"README.md", "partonomy.json"} | {
        f"{name}/val-00000-of-00001.parquet" for name in ("questions", "annotations")
    }
    assert all((tmp_path / "written" / name).read_bytes() == content for name, content in files.items())
    card = files["README.md"].decode()
    assert "license: cc-by-4.0" in card
    assert "# Drawn parts" in card
    assert 'load_dataset("org/parts", "questions", split="val")' in card
    assert f"/org/parts/commit/{repository.sha('main')}" in pushed.stdout

    pulled = run_with_hub(hub, tmp_path, *MODULE, "pull-dataset", "org/parts", "back")
    assert pulled.returncode == 0, pulled.stderr
    for path in questions.rglob("*"):
        if path.is_file():
            assert (tmp_path / "back" / path.relative_to(questions)).read_bytes() == path.read_bytes()
    assert f"back: {len(load_questions(questions).questions)} questions and 4 images from org/parts" in pulled.stdout
    full = run_with_hub(hub, tmp_path, *MODULE, "pull-dataset", "org/parts", "back")
    assert full.returncode == 1
    assert "back exists; choose a new folder" in full.stderr


def test_a_branch_is_written_and_read(hub: FakeHub, questions: Path, tmp_path: Path) -> None:
    flags = ("--license", "mit", "--revision", "trial")
    pushed = run_with_hub(hub, tmp_path, *MODULE, "push-dataset", str(questions), "org/parts", *flags)
    assert pushed.returncode == 0, pushed.stderr
    repository = hub.repositories["datasets/org/parts"]
    assert (repository.visibility, repository.branches["main"]) == ("public", {})
    trial = repository.branches["trial"]
    before = set(trial)
    # What an earlier push has left: another split, more files; and a file of the owner's.
    stale = {"questions/val-00000-of-00001.parquet", "annotations/test-00001-of-00002.parquet", "published.jsonl"}
    trial.update(dict.fromkeys([*stale, "figure.png"], b""))
    again = run_with_hub(hub, tmp_path, *MODULE, "push-dataset", str(questions), "org/parts", *flags)
    assert again.returncode == 0, again.stderr
    assert set(trial) == before | {"figure.png"}
    pulled = run_with_hub(hub, tmp_path, *MODULE, "pull-dataset", "org/parts", "back", "--revision", "trial")
    assert pulled.returncode == 0, pulled.stderr
    assert load_questions(tmp_path / "back").content_hash == load_questions(questions).content_hash


def test_a_data_set_of_others_is_refused_before_it_is_downloaded(hub: FakeHub, questions: Path, tmp_path: Path) -> None:
    assert main(["push-dataset", str(questions), "--license", "mit", "--output", str(tmp_path / "written")]) == 0
    run_with_hub(hub, tmp_path, *MODULE, "push-dataset", str(questions), "org/other", "--license", "mit")
    files = hub.repositories["datasets/org/other"].branches["main"]
    (path,) = (tmp_path / "written" / "questions").iterdir()
    table = pq.read_table(path).select(["image", "question"])
    with pq.ParquetWriter(tmp_path / "train.parquet", table.schema, use_dictionary=False, compression="none") as file:
        for _ in range(8):  # much longer than its footer
            file.write_table(table)
    files.clear()
    files["data/train.parquet"] = (tmp_path / "train.parquet").read_bytes()
    hub.sent_parts.clear()
    refused = run_with_hub(hub, tmp_path, *MODULE, "pull-dataset", "org/other", "back")
    assert refused.returncode == 1
    assert (
        "partonomy.json is missing, and data/train.parquet lacks the columns choices, answer, parts" in refused.stderr
    )
    assert sum(hub.sent_parts) < len(files["data/train.parquet"]) / 2
    assert not (tmp_path / "back").exists()


def test_what_goes_wrong_is_one_line(hub: FakeHub, questions: Path, tmp_path: Path) -> None:
    flags = ("push-dataset", str(questions), "org/parts", "--license", "mit")
    refused = run_with_hub(hub, tmp_path, *MODULE, *flags, HF_TOKEN="hf_wrong")
    assert "org/parts: the Hugging Face Hub did not take" in refused.stderr
    missing = run_with_hub(hub, tmp_path, *MODULE, "pull-dataset", "org/nothing", "back")
    assert "org/nothing: no such folder here, and it could not be downloaded" in missing.stderr
    assert "hf download org/nothing --repo-type dataset" in missing.stderr
    for found in (refused, missing):
        assert found.returncode == 1
        assert len(found.stderr.strip().splitlines()) == 1, found.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push-dataset", "SET", "--license", "mit"], "name the data set on the Hub (organisation/name), or a folder"),
        (["push-dataset", "SET", "org/a/b", "--license", "mit"], "org/a/b: not a name on the Hugging Face Hub"),
        (
            ["push-dataset", "SET", "--license", "mit", "--output", "new", "--shard_megabytes", "0"],
            "at least one megabyte",
        ),
        (["push-dataset", "nowhere", "--license", "mit", "--output", "new"], "nowhere is neither a folder"),
        (["pull-dataset", "org/a/b", "new"], "org/a/b: no such folder; name a folder, or organisation/name"),
        (["pull-dataset", "SET", "new", "--revision", "main"], "is a folder, and --revision chooses"),
        (
            ["pull-dataset", "SET", "new"],
            "partonomy.json is missing, and it holds no Parquet file with the columns image",
        ),
    ],
)
def test_a_wrong_command_says_what_to_write(
    questions: Path, empty: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(questions) if word == "SET" else word for word in arguments]) == 1
    assert message in capsys.readouterr().err
    assert list(empty.iterdir()) == []
