"""The catalogue as arrays: ids to rows, by a table where they lie close and by search elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from profiling.items import Items

FAR = 1 << 62


@pytest.mark.parametrize("ids", [[3, 4, 6, 9], [-2, 0, 1], [7], [5, FAR], [-FAR, 0, FAR], []])
def test_every_id_has_its_row_and_others_none(ids: list[int]) -> None:
    n = len(ids)
    items = Items(
        ids=np.array(ids, np.int64),
        vectors=np.ones((n, 1), np.float32),
        version="v",
        topic_offsets=np.zeros(n + 1, np.int64),
        topic_ids=np.zeros(0, np.int64),
        topic_confidences=np.zeros(0, np.float32),
        created_at=np.zeros(n, np.int64),
    )
    limits = np.iinfo(np.int64)
    asked = [*ids, *(i + 1 for i in ids), *range(-12, 25), FAR + 1, limits.min, limits.max]
    expected = [ids.index(i) if i in ids else -1 for i in asked]
    assert items.rows_of(asked).tolist() == expected
    assert items.rows_of([]).tolist() == []
