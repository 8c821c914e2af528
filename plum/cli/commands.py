"""Names and summaries of the commands, which `--help` shows without importing any of them."""

from typing import Final

COMMANDS: Final[dict[str, str]] = {
    "train": "train a model from a configuration; the same program as train.py",
    "finetune": "fine-tune a saved model on your annotated images, score it and write a report",
    "segment": "answer a question about an image and segment the phrases that the answer tags",
    "chat": "chat about an image in the terminal; the model sees all earlier turns",
    "demo": "ask about photos on a web page, and segment any words of the answer",
    "train-tokenizer": "train a byte-level BPE tokenizer on all texts that data sets can yield",
    "teacher-forced": "measure span tags and next-token loss on held-out data",
    "export": "merge a trained model's adapters and save the result",
    "push": "upload a saved model to the Hugging Face Hub, with its model card",
    "pull": "download a model of the Hugging Face Hub to a folder",
    "predict": "ask about many images and write overlays, masks and an HTML page",
    "data-status": "list the data sets that are there, and where to get the others",
    "convert": "convert a published checkpoint of LISA, M2SA, GLaMM or PLUM's authors to a saved model",
    "convert-llava": "convert the published weights of LLaVA, CLIP and SAM",
    "validate": "score a model on a benchmark; same as `python -m partonomy run`, with plum as the default model",
    "retention": "compare VQA scores of runs with and without adapters (Table 5)",
    "mmr-tables": "compare runs with the rows of the MMR paper's Tables 2 to 5 and 8",
    "doctor": "check a run's installation, weights, data and memory before it starts",
    "costs": "memory and FLOPs of configurations (the MMR paper's Table 7)",
}
"""Name of each command -> its summary. Its module in this package has `add_command`."""
