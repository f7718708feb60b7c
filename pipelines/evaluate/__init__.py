"""Offline evaluation: would another retrieval have found what users went on to like?"""

from pipelines.evaluate.command import evaluate_retrieval
from pipelines.evaluate.material import StudyOptions

__all__ = ["StudyOptions", "evaluate_retrieval"]
