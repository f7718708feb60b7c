"""One hash at a time is the hash of arrays."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.hashing import hash64, hash64_of

PARTS = st.lists(st.integers(-(2**63), 2**64 - 1) | st.text(max_size=12), max_size=8)


@settings(max_examples=50, deadline=None)
@given(parts=PARTS)
def test_one_hash_is_that_of_arrays(parts):
    assert hash64_of(*parts) == int(hash64(*parts)[0])
