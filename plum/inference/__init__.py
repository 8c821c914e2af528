"""Inference with trained models: `predictor.py` answers one question, `question_batch.py` many about a few images.

`api.py` is the Python entry point, `partonomy_adapter.py` implements the benchmarks' model contract, and
`folder_prediction.py` predicts folders of images.
"""
