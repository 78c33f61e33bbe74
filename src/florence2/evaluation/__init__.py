"""Evaluation: the metrics of Florence-2's tasks, for typed answers and for files.

from florence2.evaluation import score, score_answers
score("predictions.json", "instances_val2017.json", "detection")["AP"]
"""

from florence2.evaluation.answers import score_answers as score_answers
from florence2.evaluation.files import score as score
