"""KuaiRec's cut as a universe: 1,411 users, each with 83 videos whose watch ratio is known.

Embeddings are of captions and categories alone. Vectors from co-watching would leak the outcomes:
who watched what is what the replay is to find out. A video is text (cover, caption and hashtags as
character pairs, weighted by rarity: Chinese has no spaces) and its categories on three levels, each
of the two parts of length 1; a truncated SVD makes vectors of it.

KuaiRec: Gao et al., CIKM 2022 (arXiv 2202.10842), CC BY-SA 4.0; not part of this repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from pipelines.importers.files import ReadFile, plain, read_file, require_columns
from pipelines.importers.scalars import text_to_ints
from pipelines.lab.inputs import items_of
from pipelines.lab.universe import Universe
from profiling.hashing import uniforms
from profiling.items import Items
from profiling.options import check_options, option
from profiling.schema import floats, group_offsets, ints

CAPTIONS, OUTCOMES = "kuairec_caption_category.csv", "random.txt"
_TEXTS = ("manual_cover_text", "caption", "topic_tag")
_LEVELS = tuple(f"{level}_level_category_id" for level in ("first", "second", "third"))
_UNKNOWN = ("", "UNKNOWN", "[]", "-124")


@dataclass(frozen=True)
class KuaiRecOptions:
    """How KuaiRec becomes a universe."""

    watched: float = option(
        1.0, "watch ratio from which an outcome is 1, else 0: the video was seen to its end", low=0
    )
    start: int = option(15, "seeded random videos that each user has seen at first", low=1)
    seed: int = option(0, "of these videos and of the SVD", low=0)
    width: int = option(64, "numbers of a video's vector (ours)", low=2, high=1024)

    def __post_init__(self) -> None:
        check_options(self)


def kuairec_universe(source: Path, options: KuaiRecOptions) -> Universe:
    """The universe of the files in `source`.

    Raises:
        ValueError: A file is missing or cannot be read.
    """
    outcomes = _outcomes(source / OUTCOMES, options.watched)
    return Universe.of(_items(source / CAPTIONS, options), outcomes, _start(outcomes, options))


def _outcomes(path: Path, watched: float) -> pa.Table:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the folder of KuaiRec's cut")
    names = ["user_id", "item_id", "ratio"]
    types = dict(zip(names, (pa.int64(), pa.int64(), pa.float64()), strict=True))
    try:
        read = pcsv.read_csv(
            path,
            read_options=pcsv.ReadOptions(column_names=names),
            convert_options=pcsv.ConvertOptions(column_types=types),
        )
    except pa.ArrowException as error:
        raise ValueError(
            f"{path}: must be lines of user,video,watch ratio: {str(error).splitlines()[0]}"
        ) from None
    values = (floats(read, "ratio") >= watched).astype(np.float64)
    return read.select(names[:2]).append_column("value", pa.array(values))


def _start(outcomes: pa.Table, options: KuaiRecOptions) -> pa.Table:
    """The `start` videos of each user with the smallest hashes."""
    users, items = ints(outcomes, "user_id"), ints(outcomes, "item_id")
    order = np.lexsort((uniforms(options.seed, "kuairec start", users, items), users))
    bounds = group_offsets(users[order])
    places = np.arange(len(order)) - np.repeat(bounds[:-1], np.diff(bounds))
    return outcomes.select(["user_id", "item_id"]).take(order[places < options.start])


def _items(path: Path, options: KuaiRecOptions) -> Items:
    columns = ("video_id", *_TEXTS, *_LEVELS)
    read = read_file(path, columns)
    require_columns(read, columns, "It is to be KuaiRec's table of captions and categories.")
    rows = pa.concat_tables([read.rows, _broken_lines(read)], promote_options="default")
    ids, _ = text_to_ints(plain(rows["video_id"]))
    rows = rows.filter(ids.is_valid())
    vectors = caption_vectors(rows, width=options.width, seed=options.seed)
    return items_of(np.asarray(ids.drop_null(), np.int64), vectors, str(path))


def _broken_lines(read: ReadFile) -> pa.Table:
    """Captions with a line break in them come in two pieces: the first has the id."""
    pieces = [text.partition(",") for _, text in read.malformed]
    whole = [(video, text) for video, _, text in pieces if video.isdigit()]
    return pa.table(
        {
            "video_id": pa.array([video for video, _ in whole], pa.string()),
            "caption": pa.array([text for _, text in whole], pa.string()),
        }
    )


def caption_vectors(rows: pa.Table, *, width: int, seed: int) -> np.ndarray:
    """(n, width) float32 of the texts and categories of n videos.

    Args:
        rows: KuaiRec's columns of texts and category ids, as text.
        width: d; with less to tell than that the last columns are zero.
        seed: Of the randomised SVD (Halko, Martinsson and Tropp 2011).
    """
    texts = [[_known(t) for t in rows[name].to_pylist()] for name in _TEXTS]
    joined = [" ".join(parts).strip() for parts in zip(*texts, strict=True)]
    pairs = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    features = [pairs.fit_transform(joined)]
    names = [_categories(rows, level) for level in _LEVELS]
    columns = sorted({n for level in names for n in level if n})
    place = {name: i for i, name in enumerate(columns)}
    cells = [(i, place[n]) for level in names for i, n in enumerate(level) if n]
    where = np.array(cells, np.int64).reshape(-1, 2).T
    one_hot = sp.csr_matrix((np.ones(len(cells)), where), (rows.num_rows, max(len(columns), 1)))
    features.append(normalize(one_hot))
    matrix = sp.hstack(features).tocsr()
    with threadpool_limits(limits=1):  # threads would add in another order
        left, sizes, _ = randomized_svd(
            matrix, min(width, *matrix.shape), n_iter=7, random_state=seed
        )
    vectors = np.zeros((rows.num_rows, width), np.float32)
    vectors[:, : len(sizes)] = left * sizes
    vectors[~vectors.any(axis=1), 0] = 1.0  # nothing is known of it
    return vectors


def _known(text: str | None) -> str:
    return "" if text is None or text.strip() in _UNKNOWN else text.strip("[]")


def _categories(rows: pa.Table, level: str) -> list[str]:
    """Each video's category on a level, '' where there is none; ids are the level's own."""
    names = pc.binary_join_element_wise(level, pc.fill_null(rows[level], ""), " ").to_pylist()
    return ["" if name.rpartition(" ")[2] in _UNKNOWN else name for name in names]
