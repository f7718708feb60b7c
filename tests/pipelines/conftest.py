"""What makes many small nights bearable: Beam looks into a class of DoFns once, not some 400 times.

For every transform Beam asks each method of its DoFn for state and timers, several times over: a
third of a night of 40 users. The answer depends on the class alone, and no DoFn of ours has any.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from apache_beam.transforms import userstate


@pytest.fixture(scope="session", autouse=True)
def classes_of_dofns_looked_into_once() -> Iterator[None]:
    look, found = userstate.get_dofn_specs, dict[type, Any]()

    def specs(dofn: Any) -> Any:
        if type(dofn) not in found:
            found[type(dofn)] = look(dofn)
        return found[type(dofn)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(userstate, "get_dofn_specs", specs)
        yield
