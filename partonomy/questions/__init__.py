"""Makes Partonomy's questions: `generator.py` builds them, `answer_mutator.py` their wrong answers (paper, section 3).

`mmr/` makes MMR-like questions.
"""
