"""Who is in which arm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.experiments import Arm, Experiment, arms_of, selections_of
from selection.policies import SelectionConfig


def experiment_of(*shares, name="e", salt=""):
    arms = tuple(Arm(f"a{i}", share) for i, share in enumerate(shares))
    return Experiment(name, arms=arms, salt=salt)


def test_shares_are_kept():
    n = 200_000
    arms = arms_of(np.arange(n), experiment_of(0.5, 0.2, 0.0, 0.3))
    shares = np.array([0.5, 0.2, 0.0, 0.3])
    error = np.sqrt(shares * (1 - shares) / n)
    assert np.all(abs(np.bincount(arms, minlength=4) / n - shares) <= 4 * error)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), max_size=20), st.randoms())
def test_an_arm_depends_on_the_user_alone(users, random):
    experiment = experiment_of(0.3, 0.7)
    together = dict(zip(users, arms_of(users, experiment), strict=True))
    random.shuffle(users)
    for user in users:
        assert arms_of([user], experiment)[0] == together[user]


def test_salts_and_names_deal_anew():
    users, half = np.arange(40_000), experiment_of(0.5, 0.5)
    for other in (experiment_of(0.5, 0.5, name="f"), experiment_of(0.5, 0.5, salt="s")):
        agree = np.mean(arms_of(users, half) == arms_of(users, other))
        assert abs(agree - 0.5) < 4 * np.sqrt(0.25 / len(users))
    renamed = experiment_of(0.5, 0.5, name="f", salt="e")
    assert np.array_equal(arms_of(users, half), arms_of(users, renamed))


def test_a_share_that_moves_moves_only_its_users():
    users = np.arange(10_000)
    before, after = (arms_of(users, experiment_of(s, 1 - s)) for s in (0.5, 0.6))
    assert np.all(after[before == 0] == 0)


def test_configs_by_arm():
    counts = SelectionConfig(policy="counts")
    experiment = Experiment("e", arms=(Arm("a", 0.5, counts), Arm("b", 0.5)))
    assert selections_of(experiment) == {"a": counts, "b": SelectionConfig()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: experiment_of(0.5, 0.4), "shares of the arms must sum to 1, got 0.9"),
        (lambda: experiment_of(), "shares of the arms must sum to 1, got 0"),
        (lambda: Arm(""), "name of an arm must not be empty"),
        (lambda: Arm("a", 1.5), "share must be <= 1"),
        (lambda: Experiment("", arms=(Arm("a", 1.0),)), "name of an experiment must not be empty"),
        (lambda: Experiment("e", arms=(Arm("a"), Arm("a"))), "got 'a' twice"),
        (lambda: Experiment("e", "both", (Arm("a", 1.0),)), "learning must be one of"),
    ],
)
def test_experiments_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
