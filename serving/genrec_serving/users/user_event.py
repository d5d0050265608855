"""One event, as clients append it and stores keep it."""

from __future__ import annotations

import msgspec

from genrec_model.features.vocabulary import ItemId


class UserEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Something that a user did.

    Args:
        event_id: chosen by the client; an event is kept once, however often it is appended.
        item_id: may be an item that the model does not know yet.
        action: of the data set.
        timestamp: unix seconds.
        value: rating or spend; kept for training, not used.
    """

    event_id: str
    item_id: ItemId
    action: str
    timestamp: int
    value: float | None = None
