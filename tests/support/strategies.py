"""Generated values: hypothesis strategies that several tests share."""

from __future__ import annotations

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.binary()
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["$bytes", "$$bytes", "$", "$$", "$ref", "a", ""])
        | st.text(st.characters(exclude_categories=["Cs"])),
        inner,
        max_size=3,
    ),
    max_leaves=12,
)  # fmt: skip
"""JSON values, among them objects that look like the JSON form of bytes."""
