"""CBOR that is written by hand is what cbor2 writes; and the strict reader."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histstore.log.cbor import SHORT, UNDEFINED, array_head, load, load_sequence, uint_sizes
from histstore.values.frozen import OpenDict

COUNTS = st.one_of(st.integers(0, 70_000), st.integers(0, 2**64 - 1))


@given(st.integers(0, 70_000))
def test_the_head_of_an_array_is_what_cbor2_writes(count: int) -> None:
    """The head, and one byte for each zero in it."""
    assert array_head(count) + bytes(count) == cbor2.dumps([0] * count)


@pytest.mark.parametrize("count", [*range(30), 255, 256, 65_535, 65_536])
def test_the_head_of_an_array_at_each_step_of_its_length(count: int) -> None:
    assert array_head(count) + bytes(count) == cbor2.dumps([0] * count)
    assert (len(array_head(count)) == 1) == (count < SHORT)


@given(COUNTS)
def test_the_head_of_an_array_is_that_of_a_number_of_another_type(count: int) -> None:
    """So far as no array in memory is: a head is a number with other bits at its front."""
    head = bytearray(cbor2.dumps(count))
    head[0] |= 0x80
    assert array_head(count) == head


@given(st.lists(COUNTS))
def test_sizes_of_encoded_numbers(numbers: list[int]) -> None:
    """What cbor2 needs for each; for those of five bits, which need one byte or two, more than anything has."""
    for number, size in zip(numbers, uint_sizes(numbers), strict=True):
        assert size == (len(cbor2.dumps(number)) if not 16 <= number < 32 else 1 << 64)


def test_undefined_is_what_cbor2_writes() -> None:
    assert cbor2.dumps(cbor2.undefined) == UNDEFINED


@given(st.lists(st.lists(st.integers(-9, 1000) | st.text() | st.dictionaries(st.text(), st.integers())), max_size=5))
def test_a_sequence_is_read_in_one_pass(parts: list[list[Any]]) -> None:
    """With or without something before each part and after the last one; each dict is an open one."""
    encoded = [b"".join(map(cbor2.dumps, part)) for part in parts]
    found = load_sequence(encoded)
    assert found == [item for part in parts for item in part]
    assert all(type(item) is OpenDict for item in found if isinstance(item, dict))
    separated = load_sequence(encoded, UNDEFINED)
    assert separated == [cbor2.undefined, *(item for part in parts for item in [*part, cbor2.undefined])]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0\x60",
        b"\xd9\xd9\xf7\x01",
        b"\xd8\x63\x01",
        b"\xa2\x01\x01\x01\x02",
        b"\x9f\x01",
        b"\x1c",
    ],
    ids=lambda data: data.hex(),
)
def test_what_is_refused(data: bytes) -> None:
    """Nothing, tags, a key twice, an open end, a reserved head: ValueError, nothing else."""
    with pytest.raises(ValueError, match="CBOR") as caught:
        load(data)
    assert type(caught.value) is ValueError
