"""Trained models at work: `predictor.py` asks one question, `question_batch.py` many about a few images.

`api.py` is the short way in, `partonomy_adapter.py` the benchmarks' contract, `folder_prediction.py` predicts folders.
"""
