"""Keys by name, within bounds: what came first is forgotten first, and read back when it is named again.

Laws:

1. A name that is here has the key that the store has. What is not here may still be in the store: ask it before a new
   key is given (`Catalog.fetch_names`).
2. After `forget` there are at most `names_max` names of `characters_max` characters together.

The order is that of arrival, not of use: a name in use that is forgotten costs its next batch a part of one query, and
in exchange a name that is found costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping


class Keys(dict[str, int]):
    """Name to key; filled by `learn` alone."""

    def __init__(self, names_max: int, characters_max: int) -> None:
        """Nothing is known."""
        super().__init__()
        self.names_max = names_max
        self.characters_max = characters_max
        self._characters = 0

    def learn(self, keys: Mapping[str, int]) -> None:
        """Remember names that were not here."""
        self.update(keys)
        self._characters += sum(map(len, keys))

    def forget(self) -> None:
        """Where there are too many names or characters, drop the oldest until half of what may be is left."""
        if len(self) <= self.names_max and self._characters <= self.characters_max:
            return
        for name in [*self]:
            if len(self) <= self.names_max // 2 and self._characters <= self.characters_max // 2:
                break
            del self[name]
            self._characters -= len(name)
