"""Against ml_dtypes and safetensors: every code of every FP8 type, random shapes and types."""

import anyfp8
import numpy as np
import pytest
from conftest import expect_product

ml_dtypes = pytest.importorskip("ml_dtypes")
hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

E4M3, E5M2, BF16 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.bfloat16
relaxed = settings(deadline=None, max_examples=60)


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_every_code_has_its_value(dtype):
    codes = np.arange(256, dtype=np.uint8)
    values = codes.view(dtype).astype(np.float32)
    finite = codes[np.isfinite(values)].reshape(1, -1)
    weight = anyfp8.Weight.from_arrays(finite.view(dtype), 1.0)
    expected = finite.view(dtype).astype(np.float32)
    assert np.array_equal(weight.dequantize(), expected)
    assert np.array_equal(np.signbit(weight.dequantize()), np.signbit(expected))
    for code in codes[~np.isfinite(values)]:
        with pytest.raises(ValueError):
            anyfp8.Weight.from_arrays(np.full((1, 4), code, np.uint8).view(dtype), 1.0)


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_every_code_is_multiplied_exactly(dtype):
    """One code a row times 1: the product is the code's value, in the kernel that runs here."""
    values = np.arange(256, dtype=np.uint8).view(dtype)
    values = np.ascontiguousarray(values[np.isfinite(values.astype(np.float32))].reshape(-1, 1))
    layer = anyfp8.Linear(anyfp8.Weight.from_arrays(values, 1.0), dtype="f32")
    assert np.array_equal(layer(np.ones((1, 1), np.float32))[0], values[:, 0].astype(np.float32))


def test_quantising_rounds_as_ml_dtypes_does(random):
    wide = random.standard_normal((64, 96)).astype(np.float32)
    weight = anyfp8.quantize(wide, "channel")
    # The product with the rounded 1/448, as torch on a GPU computes it.
    scale = np.maximum(np.abs(wide).max(1, keepdims=True) * (np.float32(1) / np.float32(448)), np.float32(1e-12))
    expected = np.clip(wide / scale, -448, 448).astype(E4M3)
    assert np.array_equal(weight.scale, scale)
    assert np.array_equal(weight.data, expected.view(np.uint8))


@relaxed
@given(
    n=st.integers(1, 80),
    k=st.integers(1, 200),
    m=st.integers(0, 20),
    scheme=st.sampled_from(["tensor", "channel", "block"]),
    dtype=st.sampled_from([np.float32, np.float16, BF16]),
    wide=st.sampled_from([np.float32, np.float16, BF16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_layers_are_right(n, k, m, scheme, dtype, wide, seed):
    random = np.random.default_rng(seed)
    weight = anyfp8.quantize(random.standard_normal((n, k)).astype(wide), scheme)
    bias = random.standard_normal(n).astype(np.float32)
    with_bias = anyfp8.Weight.from_arrays(weight.data, weight.scale, bias, dtype="e4m3", group=weight.group)
    layer = anyfp8.Linear(with_bias, dtype=dtype)
    x = random.standard_normal((m, k)).astype(dtype)
    y = layer(x)
    assert y.dtype == x.dtype and y.shape == (m, n)
    out_eps = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[np.dtype(dtype).name]
    expect_product(y.astype(np.float32), x.astype(np.float32), weight.dequantize(), bias, out_eps)


def test_bf16_may_be_codes(random):
    layer = anyfp8.Linear(anyfp8.quantize(random.standard_normal((32, 64), np.float32)))
    x = random.standard_normal((2, 64)).astype(BF16)
    assert np.array_equal(layer(x.view(np.uint16)), layer(x).view(np.uint16))


@pytest.mark.parametrize("codes", ["ml_dtypes", "uint8"])
def test_mx_scales_are_powers_of_two(codes):
    data = np.full((2, 64), 0x38, np.uint8).view(E4M3)
    scale = np.array([[127, 128], [126, 120]], np.uint8)
    if codes == "ml_dtypes":
        scale = scale.view(ml_dtypes.float8_e8m0fnu)
    weight = anyfp8.Weight.from_arrays(data, scale, group="mxfp8", scale_dtype="e8m0")
    assert np.array_equal(weight.dequantize()[:, ::32], [[1, 2], [0.5, 2.0**-7]])


def test_files_of_safetensors_are_read(random, tmp_path):
    numpy_file = pytest.importorskip("safetensors.numpy")
    weight = anyfp8.quantize(random.standard_normal((48, 64), np.float32))
    tensors = {
        "a.weight": weight.data.view(E4M3),
        "a.weight_scale": weight.scale,
        "b.weight": random.standard_normal((4, 6)).astype(BF16),
        "i": np.arange(3, dtype=np.int64),
    }
    path = tmp_path / "model.safetensors"
    numpy_file.save_file(tensors, path)
    checkpoint = anyfp8.open_checkpoint(path)
    assert np.array_equal(checkpoint.tensor("i"), np.arange(3))
    assert np.array_equal(checkpoint.tensor("b.weight").view(BF16), tensors["b.weight"])
    loaded = checkpoint.weight("a")
    assert np.array_equal(loaded.data, weight.data) and np.array_equal(loaded.scale, weight.scale)
    assert loaded.group == (1, 0)
