from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import EncodeError, RecordDamaged
from pipeline.records.flow_codec import (
    CONFIDENCE_MAX_ERROR,
    declared_error,
    decode,
    decode_confidence,
    decode_mask,
    encode,
    encode_confidence,
    encode_mask,
    finite_only,
    shape_of,
    step_exponent,
)

SIZES = st.tuples(st.integers(1, 37), st.integers(1, 41))


def motion(height: int, width: int, magnitude: float, seed: int = 0, noise: float = 0.1) -> np.ndarray:
    """A smooth field with a moving square in it, float32 [2,H,W], up to about `magnitude` px."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    angle = generator.uniform(0, 2 * math.pi)
    field = np.stack([np.sin(3 * x + angle) * (1 - y), np.cos(2 * y - angle) + 0.3 * x])
    field[:, height // 4 : height // 2, width // 3 :] -= 1.5
    field += noise * generator.standard_normal(field.shape)
    return (field * (magnitude / 2)).astype(np.float32)


def largest_difference(a: np.ndarray, b: np.ndarray) -> Fraction:
    """Exact: float64 holds every float32, and the two may not cancel in float32."""
    return Fraction(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()))


@given(
    SIZES,
    st.floats(-6, 37),
    st.sampled_from([Fraction(1, 64), Fraction(1, 50), Fraction(1, 1000), Fraction(1, 3), Fraction(2), 0.01]),
    st.integers(0, 9),
)
@example((1, 1), 0.0, Fraction(1, 64), 0)
@example((1, 1), 37.0, Fraction(1, 1000), 0)
@example((3, 1), 3.0103, Fraction(1, 64), 1)
def test_no_component_is_ever_further_off_than_declared(
    size: tuple[int, int], decades: float, bound: Fraction | float, seed: int
) -> None:
    field = motion(*size, 10.0**decades, seed)
    encoded = encode(field, bound)
    again = decode(encoded.payload)
    assert (again.dtype, again.shape) == (np.float32, field.shape)
    error = largest_difference(again, field)
    assert error <= bound
    assert float(error) == pytest.approx(encoded.max_error)
    assert shape_of(encoded.payload) == size
    assert declared_error(encoded.payload) == float(bound)


@pytest.mark.parametrize(
    ("low", "high"), [(1023.9, 1024.1), (32767.0, 32769.0), (6.7108e7, 6.7109e7), (1e12, 1e12), (3e38, 3.4e38)]
)
def test_where_a_word_ends_a_wider_one_begins_and_nothing_wraps(low: float, high: float) -> None:
    """Steps of 1/32 px: 16 bits end at 1024 px, 32 bits at 67 million px; then the float32 values are stored."""
    for sign in (1, -1):
        field = (sign * np.linspace(low, high, 2 * 9 * 11).reshape(2, 9, 11)).astype(np.float32)
        assert largest_difference(decode(encode(field).payload), field) <= Fraction(1, 64)
    both = np.stack([np.full((4, 5), -high), np.full((4, 5), high)]).astype(np.float32)
    both[:, ::2] *= -1  # neighbours as far apart as can be
    assert largest_difference(decode(encode(both).payload), both) <= Fraction(1, 64)


def test_multiples_of_the_step_come_back_exactly() -> None:
    field = (np.arange(-3000, 3000).reshape(2, 60, 50) / 32).astype(np.float32)
    encoded = encode(field)
    assert encoded.max_error == 0
    np.testing.assert_array_equal(decode(encoded.payload), field)


def test_the_step_is_the_largest_power_of_two_that_the_bound_allows() -> None:
    assert [step_exponent(bound) for bound in (Fraction(1, 64), 1 / 64, 1 / 63.9, 1 / 64.1, 1, 0.4)] == [
        -5, -5, -5, -6, 1, -1,
    ]  # fmt: skip
    just_below = Fraction(1, 64) - Fraction(1, 10**30)  # float() rounds it up to 1/64
    assert step_exponent(just_below) == -6
    for bound in (0, -1, math.nan, math.inf, 1e-30):
        with pytest.raises(ValueError, match="max_error_px"):
            encode(motion(4, 4, 1), bound)


def test_the_same_field_gives_the_same_bytes_however_it_lies_in_memory() -> None:
    field = motion(45, 67, 20)
    payload = encode(field).payload
    assert encode(field.copy()).payload == payload
    assert encode(np.asfortranarray(field)).payload == payload
    wide = np.zeros((2, 90, 134), np.float32)
    wide[:, ::2, ::2] = field
    assert encode(wide[:, ::2, ::2]).payload == payload


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_and_named(value: float) -> None:
    field = motion(6, 7, 1)
    field[1, 2, 3] = field[0, 5, 5] = value
    with pytest.raises(EncodeError, match=rf"\[2,6,7\] has 2 values .* the first {value} at x=5, y=5 of component x"):
        encode(field)
    known, mask = finite_only(field)
    assert not mask[2, 3]
    assert not mask[5, 5]
    assert mask.sum() == 40
    assert (known[:, 2, 3] == 0).all()
    np.testing.assert_array_equal(known[:, mask], field[:, mask])
    encode(known)


@pytest.mark.parametrize(
    "field",
    [np.zeros((2, 3, 4)), np.zeros((3, 3, 4), np.float32), np.zeros((2, 0, 4), np.float32), np.zeros(4, np.float32)],
)
def test_only_flow_fields_are_taken(field: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"a flow field is float32 \[2,H,W\]"):
        encode(field)
    with pytest.raises(ValueError, match="codec 'none'"):
        encode(motion(4, 4, 1), codec="none")


def test_smooth_motion_takes_a_tenth_of_float16() -> None:
    field = motion(270, 480, 20, noise=0)
    assert len(encode(field).payload) * 10 < field.astype(np.float16).nbytes


def test_a_payload_that_has_changed_anywhere_is_refused() -> None:
    payload = encode(motion(9, 10, 5)).payload
    for place in range(0, len(payload), 7):
        damaged = bytearray(payload)
        damaged[place] ^= 0x10
        with pytest.raises(RecordDamaged):
            decode(bytes(damaged))
    for end in (0, 3, 29, 40, len(payload) - 1):
        with pytest.raises(RecordDamaged):
            decode(payload[:end])
    with pytest.raises(RecordDamaged, match="flow stands where validity belongs"):
        decode_mask(payload)


@given(SIZES, st.integers(0, 9))
def test_validity_comes_back_as_it_was(size: tuple[int, int], seed: int) -> None:
    mask = np.random.default_rng(seed).random(size) < (0.5, 0, 1, 0.9)[seed % 4]
    again = decode_mask(encode_mask(mask).payload)
    assert again.dtype == np.bool_
    np.testing.assert_array_equal(again, mask)


def test_validity_of_large_areas_is_small() -> None:
    mask = np.ones((1080, 1920), np.bool_)
    mask[300:700, 500:900] = False
    assert len(encode_mask(mask).payload) < 300


@given(SIZES, st.integers(0, 9))
def test_confidence_keeps_its_declared_error(size: tuple[int, int], seed: int) -> None:
    confidence = np.random.default_rng(seed).random(size).astype(np.float32)
    confidence.flat[0] = seed % 2
    encoded = encode_confidence(confidence)
    again = decode_confidence(encoded.payload)
    assert again.dtype == np.float32
    assert largest_difference(again, confidence) <= CONFIDENCE_MAX_ERROR
    assert again.flat[0] == seed % 2, "0 and 1 are exact"
    assert 0 <= again.min() <= again.max() <= 1


@pytest.mark.parametrize("value", [1.001, -0.001, math.nan])
def test_confidence_outside_its_range_is_refused(value: float) -> None:
    confidence = np.full((3, 4), 0.5, np.float32)
    confidence[1, 1] = value
    with pytest.raises(EncodeError, match=r"must be 0\.\.1"):
        encode_confidence(confidence)
