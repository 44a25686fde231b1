"""What the tests share. ANYFP8_LIBRARY names the library under test (CTest sets it), PYTHONPATH the package."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def pytest_report_header(config):
    """What is not installed is said, since its tests skip."""
    found = []
    for name in ("numpy", "ml_dtypes", "safetensors", "hypothesis", "torch", "transformers"):
        try:
            found.append(f"{name} {__import__(name).__version__}")
        except ImportError:
            found.append(f"{name} MISSING, its tests skip")
    return [f"python {sys.version.split()[0]}, " + ", ".join(found)]


@pytest.fixture
def model_dir():
    """The small FP8 model of the tree."""
    return ROOT / "models" / "kjv-qwen3-fp8"


@pytest.fixture
def reference_models():
    """The models in every dialect, with reference.json each: ANYFP8_REFERENCE_MODELS names their folder."""
    folder = os.environ.get("ANYFP8_REFERENCE_MODELS")
    if not folder:
        pytest.skip("ANYFP8_REFERENCE_MODELS does not name the folder of the reference models")
    return Path(folder)


@pytest.fixture
def random():
    return np.random.default_rng(7)


def error_bound(x, weight, bias=None, eps=2.0**-24):
    """What a sum of k products in f32, of exact factors, may be off: [m, n]."""
    magnitude = np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64).T
    if bias is not None:
        magnitude = magnitude + np.abs(bias)
    return (x.shape[1] + 4) * eps * magnitude


def expect_product(y, x, weight, bias=None, out_eps=0.0):
    """y is x · weightᵀ + bias, up to the error bound and one rounding of relative out_eps."""
    exact = x.astype(np.float64) @ weight.astype(np.float64).T + (0 if bias is None else bias)
    allowed = error_bound(x, weight, bias) + out_eps * np.abs(exact) + 1e-30
    wrong = np.abs(y.astype(np.float64) - exact) > allowed
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} values are off, first at {np.argwhere(wrong)[0]}"
