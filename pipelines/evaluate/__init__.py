"""Offline evaluation: would another retrieval, or another profile, have found what users liked?"""

from pipelines.evaluate.command import evaluate_profiles, evaluate_retrieval
from pipelines.evaluate.material import StudyOptions
from pipelines.evaluate.trial import TrialOptions

__all__ = ["StudyOptions", "TrialOptions", "evaluate_profiles", "evaluate_retrieval"]
