"""torch's process group: how many ranks there are where no variable says it."""

from __future__ import annotations

import sys


def process_group() -> tuple[int, int] | None:
    """(rank, size) of the process group, where torch is in use and has one; imports nothing, never raises."""
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            return None
        return distributed.get_rank(), distributed.get_world_size()
    except Exception:  # noqa: BLE001 - half imported, or another module of this name
        return None
