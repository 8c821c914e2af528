"""Makes Partonomy's questions: `generator.py` builds them, `answer_mutator.py` draws wrong answers (paper, section 3).

`mmr/` makes MMR-like questions.
"""
