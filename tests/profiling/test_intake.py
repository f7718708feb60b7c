import json

import numpy as np
import pyarrow as pa
import pytest

from profiling.intake import Refusal, admit_rows


def rows(*triples):
    """Rows of (event_id, user_id, content_digest)."""
    columns = np.array(triples, np.int64).reshape(-1, 3).T
    return pa.table(dict(zip(("event_id", "user_id", "content_digest"), columns, strict=True)))


def admit(new, known=None, refusals=()):
    known = rows() if known is None else known
    return admit_rows(new, known, list(refusals), source="ENGAGEMENTS", id_column="event_id")


def reasons(admitted):
    return dict(
        zip(
            admitted.rejected["row"].to_pylist(),
            admitted.rejected["reason"].to_pylist(),
            strict=True,
        )
    )


def test_new_rows_come_in_by_id():
    admitted = admit(rows((5, 1, 50), (3, 2, 30)))
    assert admitted.rows["event_id"].to_pylist() == [3, 5]
    assert admitted.duplicates == 0
    assert admitted.rejected.num_rows == 0


def test_no_rows():
    admitted = admit(rows())
    assert (admitted.rows.num_rows, admitted.duplicates, admitted.rejected.num_rows) == (0, 0, 0)


def test_a_row_counts_once():
    admitted = admit(rows((5, 1, 50), (5, 1, 50), (5, 1, 50)))
    assert admitted.rows["event_id"].to_pylist() == [5]
    assert admitted.duplicates == 2


def test_known_rows_are_duplicates():
    admitted = admit(rows((5, 1, 50), (6, 1, 60)), rows((9, 1, 90), (5, 1, 50)))
    assert admitted.rows["event_id"].to_pylist() == [6]
    assert admitted.duplicates == 1


def test_known_content_holds():
    admitted = admit(rows((5, 1, 7), (5, 1, 50)), rows((5, 1, 50)))
    assert admitted.rows.num_rows == 0
    assert admitted.duplicates == 1
    assert "other content" in reasons(admitted)[5]
    assert json.loads(admitted.rejected["raw"][0].as_py())["content_digest"] == 7


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_among_new_contents_the_smallest_digest_holds_in_any_order(order):
    triples = [(5, 1, 20), (5, 1, 10), (5, 1, 30)]
    admitted = admit(rows(*(triples[k] for k in order)))
    assert admitted.rows["content_digest"].to_pylist() == [10]
    assert admitted.rejected.num_rows == 2
    assert admitted.duplicates == 0


def test_refusals_give_the_first_reason_and_refuse_copies_too():
    new = rows((5, 1, 50), (6, 1, 60), (5, 1, 50), (7, 1, 70))
    both = Refusal(np.array([True, True, True, False]), "first")
    some = Refusal(np.array([False, True, False, False]), "second")
    admitted = admit(new, refusals=[both, some])
    assert reasons(admitted) == {5: "first", 6: "first"}
    assert admitted.rejected.num_rows == 3
    assert admitted.duplicates == 0
    assert admitted.rows["event_id"].to_pylist() == [7]
