"""Training goes on from an earlier model: what both know is taken over, by id."""

from __future__ import annotations

import numpy as np

from profiling.items import Items
from profiling.schema import IntArray
from retrieval.model.inputs import places_of
from retrieval.model.towers import Floats, ModelConfig, Params
from retrieval.model.trained import TrainedModel

_BY_ITEM = ("item_id", "past_id", "item_bias", "early_bias")


def warm_params(
    fresh: dict[str, Floats],
    model: ModelConfig,
    items: Items,
    topic_ids: IntArray,
    before: TrainedModel,
) -> Params:
    """The parameters of `before`; items and topics that it did not know keep the fresh ones.

    Raises:
        ValueError: `before` has another shape, or learned from other item vectors.
    """
    if before.config != model:
        raise ValueError(
            f"the model to start from has the options {before.config}, this training {model}: "
            "train without a warm start, or with its options"
        )
    if (before.content_width, before.embedding_version) != (items.width, items.version):
        raise ValueError(
            f"the model to start from reads item vectors {before.embedding_version!r} of width "
            f"{before.content_width}, ITEMS has {items.version!r} of width {items.width}: train "
            "without a warm start"
        )
    params = dict(fresh)
    for name, array in fresh.items():
        if name in _BY_ITEM:
            places = places_of(before.item_ids, items.ids)
        elif name == "topic_id":
            places = places_of(before.topic_ids, topic_ids)
        else:
            params[name] = np.array(before.params[name])
            continue
        known = places >= 0
        params[name] = array.copy()
        params[name][known] = before.params[name][places[known]]
    return params
