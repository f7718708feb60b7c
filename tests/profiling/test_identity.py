import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from profiling.identity import LINEAGES, Clusters, trace_lineage

# Item i has the vector at angle i degrees; its row is its id.
ANGLES = np.radians(np.arange(360))
VECTORS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1).astype(np.float32)
THRESHOLD = float(np.cos(np.radians(20.5)))  # medoids up to 20 degrees apart


def clusters(users, *, rows=True, ids=()):
    """From a list per user of clusters, each {item: importance}; the first item is the medoid."""
    flat = [c for user in users for c in user]
    medoids = np.array([next(iter(c)) for c in flat], np.int64)
    return Clusters(
        user_offsets=np.r_[0, np.cumsum([len(u) for u in users])].astype(np.int64),
        member_offsets=np.r_[0, np.cumsum([len(c) for c in flat])].astype(np.int64),
        members=np.array([i for c in flat for i in c], np.int64),
        weights=np.array([w for c in flat for w in c.values()], np.float64),
        medoids=medoids,
        medoid_rows=medoids if rows else np.full(len(medoids), -1, np.int64),
        ids=np.array(ids, np.int64),
    )


def trace(new, old, ids, n_born, **options):
    """[(id, lineage, from)] of one user's new clusters, and the user's n_born."""
    lineage = trace_lineage(
        clusters([new]),
        clusters([old], ids=ids, **options),
        np.array([n_born]),
        VECTORS,
        THRESHOLD,
    )
    rows = zip(
        lineage.ids.tolist(),
        lineage.names().to_pylist(),
        lineage.sources().to_pylist(),
        strict=True,
    )
    return list(rows), int(lineage.n_born[0])


def test_first_version_is_born_with_ids_from_one():
    rows, n_born = trace([{10: 1.0}, {90: 1.0}], [], [], 0)
    assert rows == [(1, "born", []), (2, "born", [])]
    assert n_born == 2


def test_continues_where_most_importance_is_shared_not_most_items():
    new = [{10: 5.0, 11: 1.0, 12: 1.0}]
    rows, n_born = trace(new, [{11: 1.0, 12: 1.0}, {10: 1.0}], [4, 9], 9)
    # 5 against 1 + 1; all of the other old cluster went here too.
    assert rows == [(9, "merged", [4, 9])]
    assert n_born == 9


def test_split_goes_on_where_the_larger_share_is():
    new = [{10: 1.0}, {11: 2.0, 300: 9.0}, {200: 1.0}]
    rows, n_born = trace(new, [{10: 1.0, 11: 1.0}], [3], 7)
    assert rows == [(8, "split", [3]), (3, "continued", [3]), (9, "born", [])]
    assert n_born == 9


def test_equal_shares_go_to_the_smaller_medoid():
    rows, _ = trace([{90: 1.0}, {10: 1.0}], [{10: 1.0, 90: 1.0}], [1], 1)
    assert rows == [(2, "split", [1]), (1, "continued", [1])]


def test_equal_claims_go_to_the_smaller_old_id():
    rows, _ = trace([{10: 1.0, 90: 1.0}], [{90: 1.0}, {10: 1.0}], [2, 5], 5)
    assert rows == [(2, "merged", [2, 5])]


def test_a_shrunken_cluster_that_lost_members_only_continues():
    rows, _ = trace([{10: 1.0}], [{10: 1.0, 200: 1.0}, {300: 1.0}], [1, 2], 2)
    assert rows == [(1, "continued", [1])]


def test_nearest_medoid_carries_on_where_nothing_is_shared():
    rows, _ = trace([{100: 1.0}, {200: 1.0}], [{85: 1.0}, {110: 1.0}, {221: 1.0}], [1, 2, 3], 3)
    # 100 is 15 degrees from 85 and 10 from 110; 200 is 21 from 221, beyond the threshold.
    assert rows == [(2, "continued", [2]), (4, "born", [])]


def test_a_shared_item_goes_before_any_cosine():
    rows, _ = trace([{100: 1.0}, {200: 0.01, 101: 0.01}], [{100: 1.0, 101: 1.0}], [1], 1)
    assert rows == [(1, "continued", [1]), (2, "split", [1])]
    rows, _ = trace([{99: 1.0}, {200: 0.01, 101: 0.01}], [{100: 1.0, 101: 1.0}], [1], 1)
    assert rows == [(2, "split", [1]), (1, "continued", [1])]


def test_other_vectors_leave_shared_items_only():
    rows, _ = trace([{100: 1.0}, {200: 1.0}], [{101: 1.0}, {200: 1.0}], [1, 2], 2, rows=False)
    assert rows == [(3, "born", []), (2, "continued", [2])]


def twin(new, old, ids, n_born):
    """The module's four rules, read out plainly, for one user."""
    medoid = [next(iter(c)) for c in new]
    share = [[sum(w for i, w in n.items() if i in o) for o in old] for n in new]
    claims = []
    for n in range(len(new)):
        if any(share[n]):
            claims.append((max(range(len(old)), key=lambda o: (share[n][o], -o)), None))
            continue
        cosines = [float(VECTORS[medoid[n]].astype(float) @ VECTORS[next(iter(o))]) for o in old]
        near = [o for o in range(len(old)) if cosines[o] >= THRESHOLD]
        best = max(near, key=lambda o: (round(cosines[o], 9), -o), default=None)
        claims.append((best, None if best is None else round(cosines[best], 9)))

    def strength(n, o):
        return (1, share[n][o], -medoid[n]) if share[n][o] else (0, claims[n][1], -medoid[n])

    rows = []
    for n, (claim, _) in enumerate(claims):
        rivals = [m for m in range(len(new)) if claims[m][0] == claim]
        keeps = claim is not None and max(rivals, key=lambda m: strength(m, claim)) == n
        went = [
            o
            for o in range(len(old))
            if any(share[m][o] for m in range(len(new)))
            and max(range(len(new)), key=lambda m: (share[m][o], -medoid[m])) == n
        ]
        sources = sorted({ids[o] for o in went} | ({ids[claim]} if claim is not None else set()))
        if not keeps:
            n_born += 1
        lineage = "merged" if len(sources) > 1 else "continued" if keeps else "split"
        lineage = "born" if claim is None else lineage
        rows.append((ids[claim] if keeps else n_born, lineage, sources))
    return rows, n_born


@st.composite
def partitions(draw):
    """Disjoint clusters of items; weights are multiples of 1/4, so that sums have no rounding."""
    items = draw(st.lists(st.integers(0, 359), unique=True, max_size=16))
    labels = [draw(st.integers(0, 4)) for _ in items]
    groups = {}
    for item, label in sorted(zip(items, labels, strict=True)):
        groups.setdefault(label, {})[item] = draw(st.integers(1, 12)) / 4
    return list(groups.values())


@settings(max_examples=150, deadline=None)
@given(new=partitions(), old=partitions(), moved=st.booleans())
def test_rules_by_their_plain_twin(new, old, moved):
    if moved and old:  # more often than chance: the old items in other groups
        items = sorted(i for c in old for i in c)
        new = [dict.fromkeys(items[k::3], 1.0 + k) for k in range(3) if items[k::3]]
    ids = [2 * k + 1 for k in range(len(old))]
    rows, n_born = trace(new, old, ids, 2 * len(old))
    assert (rows, n_born) == twin(new, old, ids, 2 * len(old))
    used = [row[0] for row in rows]
    assert len(set(used)) == len(used)
    assert all(row[0] in ids or row[0] > 2 * len(old) for row in rows)


@settings(max_examples=30, deadline=None)
@given(users=st.lists(st.tuples(partitions(), partitions()), min_size=1, max_size=4))
def test_users_do_not_touch_each_other(users):
    new, old = zip(*users, strict=True)
    ids = [k + 1 for o in old for k in range(len(o))]
    n_born = np.array([len(o) for o in old])
    together = trace_lineage(clusters(new), clusters(old, ids=ids), n_born, VECTORS, THRESHOLD)
    rows = []
    for n, o in users:
        rows += trace(n, o, [k + 1 for k in range(len(o))], len(o))[0]
    assert together.ids.tolist() == [r[0] for r in rows]
    assert [LINEAGES[c] for c in together.codes] == [r[1] for r in rows]
    assert together.sources().to_pylist() == [r[2] for r in rows]
