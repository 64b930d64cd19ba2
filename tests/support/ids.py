"""Ids of parametrised tests, the same in every process: pytest-xdist refuses workers that collect different ids."""

from __future__ import annotations

import re
from typing import Any


def stable(value: Any) -> str:
    """Return the repr of `value`, with a set in order and without memory addresses."""
    text = f"{{{', '.join(sorted(map(repr, value)))}}}" if isinstance(value, set) else repr(value)
    return re.sub(r" at 0x[0-9a-f]+", "", text)
