"""What is said in the conversations: fresh ASCII text that nothing can compress or remember."""

from __future__ import annotations

import base64
import random


class Texts:
    """A source of texts; the same seed gives the same ones."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def one(self, size: int) -> str:
        """Returns a text of `size` characters, which are as many bytes."""
        return base64.b64encode(self._random.randbytes(size * 3 // 4 + 3))[:size].decode()

    def some(self, count: int, size: int) -> list[str]:
        """Returns `count` of them."""
        return [self.one(size) for _ in range(count)]
