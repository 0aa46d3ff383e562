"""Key tuples that `log` may take as they are: their calls skip every check of names."""

from __future__ import annotations

from runwire._values import ROW_KEYS_MAX, is_long

NAMES_MAX = 100_000  # remembered: sets of a thousand names that change with each call would fill memory


class KnownKeys(dict[tuple[str, ...], tuple[str, ...]]):
    """Each stands for its equals, so that the journal knows it by identity."""

    def __init__(self) -> None:
        """None yet."""
        super().__init__()
        self._names = 0

    def remember(self, keys: tuple[str, ...]) -> None:
        """These keys were logged flat, with plain numbers; kept when they fit into one row."""
        if len(keys) > ROW_KEYS_MAX or is_long(keys):
            return
        self._names += len(keys)
        if self._names > NAMES_MAX:
            self.clear()
            self._names = len(keys)
        self[keys] = keys
