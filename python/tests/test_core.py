"""The package with numpy alone."""

import gc
import os
import subprocess
import sys
import threading

import anyfp8
import numpy as np
import pytest
from conftest import ROOT, expect_product


def f32_layer(random, n=70, k=160, scheme="channel", **options):
    weight = anyfp8.quantize(random.standard_normal((n, k), np.float32), scheme)
    return weight, anyfp8.Linear(weight, dtype="f32", **options)


def test_devices_begin_with_this_cpu():
    first = anyfp8.devices()[0]
    assert (first.name, first.kind, first.present) == ("cpu", "cpu", True)
    assert first.info["cores"] >= 1
    ampere = anyfp8.Device("sm_86")
    assert ampere.compute_capability == (8, 6) and not ampere.present
    with pytest.raises(ValueError, match="toaster"):
        anyfp8.Device("toaster")
    assert {kernel["name"] for kernel in anyfp8.kernels()} >= {"cpu_reference", "cuda_mma_w8a16"}


@pytest.mark.parametrize("scheme", ["tensor", "channel", "block", "mxfp8"])
@pytest.mark.parametrize("m", [0, 1, 5, 33])
def test_layers_compute_every_scheme(random, scheme, m):
    weight, layer = f32_layer(random, scheme=scheme)
    x = random.standard_normal((m, 160), np.float32)
    expect_product(layer(x), x, weight.dequantize())


def test_rows_may_be_anywhere(random):
    weight, layer = f32_layer(random)
    wide = random.standard_normal((6, 200), np.float32)
    x = wide[:, 10:170]  # rows 200 apart
    out = np.full((6, 100), 7, np.float32)
    y = layer(x, out=out[:, :70])
    expect_product(y, x, weight.dequantize())
    assert (out[:, 70:] == 7).all()
    assert np.array_equal(layer(x.reshape(2, 3, 160)).reshape(6, 70), y)
    assert np.array_equal(layer(np.asfortranarray(x)), y)  # copied, as it has no rows
    assert layer(x[0]).shape == (70,)


def test_wrong_arrays_are_refused_in_words(random):
    weight, layer = f32_layer(random)
    with pytest.raises(ValueError, match="float64"):
        layer(np.zeros((1, 160)))
    with pytest.raises(ValueError, match="160"):
        layer(np.zeros((1, 161), np.float32))
    with pytest.raises(ValueError, match=r"out is \[2, 70\]"):
        layer(np.zeros((1, 160), np.float32), out=np.zeros((2, 70), np.float32))
    with pytest.raises(TypeError, match="list"):
        anyfp8.quantize([[1.0]])
    with pytest.raises(ValueError, match="contiguous"):
        anyfp8.quantize(np.zeros((4, 8), np.float32)[:, ::2])
    with pytest.raises(ValueError, match="banana"):
        anyfp8.quantize(np.zeros((4, 8), np.float32), "banana")
    with pytest.raises(ValueError, match="float8_e3m4|no element type"):
        anyfp8.Linear(weight, dtype="float8_e3m4")
    with pytest.raises(ValueError, match="no_such_kernel"):
        anyfp8.Linear(weight, force="no_such_kernel")


def test_borrowed_arrays_are_used_where_they_are():
    data = np.array([[0x38, 0x38, 0x38, 0x38], [0x40, 0xB8, 0x40, 0xB8]], np.uint8)  # ones; 2 -1 2 -1
    scale = np.array([0.5, 3], np.float32)
    weight = anyfp8.Weight.from_arrays(data, scale, np.array([10, 20], np.float32), dtype="e4m3")
    assert weight.data.__array_interface__["data"][0] == data.__array_interface__["data"][0]
    assert weight.group == (1, 0) and weight.bias_dtype == "f32" and np.array_equal(weight.bias, [10, 20])
    layer = anyfp8.Linear(weight, dtype="f32")
    del weight, scale
    gc.collect()
    # Small integers times powers of two and 3: every product and sum is exact in fp32.
    x = np.array([[1, 2, 3, 4], [-1, 0, 0, 5]], np.float32)
    assert np.array_equal(layer(x), [[15, 26], [12, -1]])
    with pytest.raises(ValueError, match="read-only"):
        layer.weight().data[0, 0] = 1


def test_a_layer_keeps_what_its_weight_borrowed(random):
    """On the CPU the bias stays where it was, and so does a 16-bit weight."""

    def make(dtype):
        data = random.standard_normal((64, 32)).astype(dtype)
        bias = random.standard_normal(64).astype(np.float32)
        layer = anyfp8.Linear(anyfp8.Weight.from_arrays(data, bias=bias), dtype="f32")
        return data.copy(), bias.copy(), layer

    for dtype in (np.float32, np.float16):
        data, bias, layer = make(dtype)
        gc.collect()
        np.full((4096, 64), np.nan, np.float32)  # whoever freed it too early finds this there
        x = random.standard_normal((2, 32), np.float32)
        expect_product(layer(x), x, data, bias)


def test_wrong_weights_are_refused_in_words():
    data, scale = np.full((4, 8), 0x38, np.uint8), np.ones(4, np.float32)
    with pytest.raises(ValueError, match="say what its codes are"):
        anyfp8.Weight.from_arrays(data, scale)
    with pytest.raises(ValueError, match="group"):
        anyfp8.Weight.from_arrays(data, np.ones((2, 1), np.float32), dtype="e4m3")
    with pytest.raises(ValueError, match="needs"):
        anyfp8.Weight.from_arrays(data, scale, dtype="e4m3", group="block")
    with pytest.raises(ValueError, match="`scale` is NULL"):
        anyfp8.Weight.from_arrays(data, dtype="e4m3")
    with pytest.raises(ValueError, match="bias"):
        anyfp8.Weight.from_arrays(data, scale, np.ones(5, np.float32), dtype="e4m3")
    data[2, 3] = 0x7F
    with pytest.raises(ValueError, match="NaN"):
        anyfp8.Weight.from_arrays(data, scale, dtype="e4m3")


@pytest.mark.parametrize("scheme", ["tensor", "channel", "block", "mxfp8"])
def test_layers_give_their_weight_back(random, scheme):
    weight, layer = f32_layer(random, 200, 192, scheme)
    back = layer.weight()
    assert np.array_equal(back.data, weight.data) and np.array_equal(back.scale, weight.scale)
    assert back.to_dict() == weight.to_dict()
    assert np.array_equal(layer.dequantize(3, 7), weight.dequantize(3, 7))
    again = anyfp8.Weight.from_arrays(
        back.data, back.scale, dtype=back.dtype, group=back.group, scale_dtype=back.scale_dtype
    )
    assert again.to_dict()["weight"] == weight.to_dict()["weight"]


def test_merged_weights_equal_their_parts(random):
    parts = [anyfp8.quantize(random.standard_normal((n, 64), np.float32), "tensor") for n in (32, 48)]
    merged = anyfp8.merge(parts)
    assert (merged.n, merged.k) == (80, 64)
    assert np.array_equal(merged.dequantize(), np.concatenate([part.dequantize() for part in parts]))


def test_weights_are_updated_in_place(random):
    weight, layer = f32_layer(random)
    other = anyfp8.quantize(random.standard_normal((70, 160), np.float32), "channel")
    layer.update_weights(other)
    x = random.standard_normal((2, 160), np.float32)
    expect_product(layer(x), x, other.dequantize())
    with pytest.raises(ValueError, match="only the values may change"):
        layer.update_weights(anyfp8.quantize(np.ones((70, 160), np.float32), "tensor"))


def test_checkpoints_are_read(model_dir, random):
    checkpoint = anyfp8.open_checkpoint(model_dir)
    assert checkpoint.format == "hf_fp8" and not checkpoint.inspection["errors"]
    assert checkpoint.tensor("model.norm.weight").shape == (256,)
    weight = checkpoint.weight("model.layers.0.mlp.up_proj")
    assert (weight.n, weight.k, weight.group) == (768, 256, (128, 128))
    norm = checkpoint.tensor("model.norm.weight")
    del checkpoint
    gc.collect()
    assert np.isfinite(weight.dequantize(767)).all() and norm.any()  # the file stays mapped
    layer = anyfp8.Linear(weight, dtype="f32")
    x = random.standard_normal((3, 256), np.float32)
    expect_product(layer(x), x, weight.dequantize())
    assert layer.resident_bytes <= 1.07 * weight.n * weight.k


def test_missing_files_and_tensors_are_named(model_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such"):
        anyfp8.open_checkpoint(tmp_path / "no_such")
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match="model.safetensors"):
        anyfp8.open_checkpoint(tmp_path)
    checkpoint = anyfp8.open_checkpoint(model_dir)
    with pytest.raises(ValueError, match="mlp.up_prj"):
        checkpoint.weight("model.layers.0.mlp.up_prj")
    with pytest.raises(ValueError, match="model.nrm.weight"):
        checkpoint.tensor("model.nrm.weight")


def test_plans_are_for_any_hardware(model_dir):
    plan = anyfp8.plan(model_dir, "sm_80")
    assert len(plan) == 56 and not plan.device.present
    chosen = plan["model.layers.3.mlp.up_proj"]
    assert chosen.kernel_for(1) == "cuda_mma_w8a16" and chosen.layout == "k64_shuffled"
    assert all(entry["reason"] for entry in chosen.rejected)
    described = plan.to_dict()
    assert described["format"] == "hf_fp8" and len(described["layers"]) == 56
    assert "model.layers.*.mlp.up_proj (8)" in repr(plan) and "cuda_mma_w8a16" in plan._repr_html_()
    assert anyfp8.plan(model_dir, force="cpu_reference")["model.layers.0.mlp.up_proj"].ranges_text() == "cpu_reference"


def test_selection_needs_no_weight():
    selection = anyfp8.init_fp8_linear_kernel(4096, 4096, "sm_75", group="block", dtype="f16")
    assert selection.kernel_for(1) == "cuda_mma_w8a16"
    assert "cuda_mma_w8a16" in selection.explain()
    with pytest.raises(NotImplementedError):
        anyfp8.init_fp8_linear_kernel(4096, 4096, "sm_70")
    with pytest.raises(ValueError, match="policy"):
        anyfp8.init_fp8_linear_kernel(64, 64, policy="haste")
    with pytest.raises(ValueError, match="-1"):
        selection.kernel_for(-1)


def test_threads_have_their_own_workspace(random):
    weight, layer = f32_layer(random, 256, 256)
    x = random.standard_normal((64, 256), np.float32)
    expected, wrong = layer(x), []

    def work():
        wrong.extend(i for i in range(20) if not np.array_equal(layer(x), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_example_runs(model_dir):
    program = [sys.executable, ROOT / "examples" / "numpy_layer.py"]
    for arguments in ([], [model_dir], [model_dir, "model.layers.1.mlp.down_proj"]):
        result = subprocess.run([*program, *arguments], capture_output=True, text=True)
        assert result.returncode == 0 and "bytes a parameter" in result.stdout, result.stderr


def test_a_missing_library_is_said(tmp_path):
    def import_with(library):
        environment = {**os.environ, "ANYFP8_LIBRARY": str(library)}
        return subprocess.run([sys.executable, "-c", "import anyfp8"], env=environment, capture_output=True, text=True)

    result = import_with(tmp_path / "libanyfp8.so")
    assert result.returncode != 0 and "OSError" in result.stderr and "does not exist" in result.stderr
    (tmp_path / "other.so").write_bytes(b"no library")
    assert import_with(tmp_path / "other.so").returncode != 0
