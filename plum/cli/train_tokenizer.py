"""`python -m plum train-tokenizer`: train a tokenizer on everything that the sources can say about some data sets."""

from pathlib import Path

from partonomy.cli.flags import Positive


def train_tokenizer(*, datasets: tuple[Path, ...], output: Path, vocab_size: Positive = 1500) -> None:
    """Train a byte-level BPE tokenizer on all texts that data sets can yield.

    Args:
        datasets: folders made by `python -m partonomy build`
        output: folder to write the tokenizer to
        vocab_size: number of tokens

    Raises:
        FileNotFoundError: a folder holds no data set.
        ValueError: a data set is damaged.
    """
    from partonomy.locks import lock_folder
    from plum.data.tokenizer_texts import collect_texts
    from plum.inputs import tokenizer as tokenizers

    with lock_folder(output):
        tokenizer = tokenizers.train_tokenizer(collect_texts(datasets), vocab_size)
        tokenizer.save_pretrained(str(output))
    print(f"{len(tokenizer)} tokens -> {output}")
