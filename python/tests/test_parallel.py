"""anyfp8.parallel: shards in this process; ranks by mpirun, and on two GPUs as torchrun starts them."""

import os
import random as random_numbers
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import anyfp8
from anyfp8.parallel import (
    ColumnParallelLinear,
    Comm,
    RowParallelLinear,
    shard,
    shard_merged,
    shard_qkv,
    shard_range,
    token_range,
)

RANK = Path(__file__).with_name("parallel_rank.py")


def weight(random, n, k, scheme="block"):
    return anyfp8.quantize(random.standard_normal((n, k)).astype(np.float32), scheme)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_are_the_weight_in_parts(random, size):
    whole = weight(random, 300, 517)
    columns = [shard(whole, "column", rank, size).dequantize() for rank in range(size)]
    rows = [shard(whole, "row", rank, size).dequantize() for rank in range(size)]
    assert np.array_equal(np.concatenate(columns), whole.dequantize())
    assert np.array_equal(np.concatenate(rows, axis=1), whole.dequantize())
    assert [len(each) for each in columns] == [end - begin for begin, end in (shard_range(300, r, size) for r in range(size))]


def test_fused_weights_are_split_part_by_part(random):
    gate, up = weight(random, 192, 64), weight(random, 192, 64)
    fused = anyfp8.merge([gate, up])
    for rank in range(3):
        begin, end = shard_range(192, rank, 3)
        expected = np.concatenate([gate.dequantize()[begin:end], up.dequantize()[begin:end]])
        assert np.array_equal(shard_merged(fused, [192, 192], rank, 3).dequantize(), expected)
    # Four heads with two kv heads, of 8 each: on four ranks each kv head is on two.
    qkv = weight(random, (4 + 2 * 2) * 8, 64, "channel")
    parts = [shard_qkv(qkv, 4, 2, 8, rank, 4).dequantize() for rank in range(4)]
    everything = qkv.dequantize()
    assert np.array_equal(parts[1][:8], everything[8:16]), "q of rank 1"
    assert np.array_equal(parts[1][8:], parts[0][8:]), "ranks 0 and 1 have the same k and v"
    assert np.array_equal(parts[3][8:16], everything[40:48]), "k of rank 3"


def test_a_shard_outlives_its_weight(random):
    def half():
        data = random.standard_normal((64, 64)).astype(np.float32)
        whole = anyfp8.Weight.from_arrays(data, bias=np.arange(64, dtype=np.float32))
        return shard(whole, "column", 1, 2), data[32:].copy()

    part, expected = half()
    assert np.array_equal(part.dequantize(), expected)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda w: shard(w, "diagonal", 0, 2), "column"),
        (lambda w: shard(w, "row", 2, 2), "rank"),
        (lambda w: shard(w, "row", 0, 1000), "ranks"),
        (lambda w: shard_merged(w, [3], 0, 2), "add up"),
        (lambda w: token_range(4, 5, 2), "rank 5 of 2"),
    ],
)
def test_what_cannot_be_shared_is_refused(random, call, words):
    with pytest.raises(ValueError, match=words):
        call(weight(random, 64, 64))


def test_one_rank_is_the_layer_itself(random, monkeypatch):
    monkeypatch.setenv("ANYFP8_LAUNCH", "none")
    comm = Comm()
    assert (comm.rank, comm.size, comm.engine, comm.device) == (0, 1, "self", "cpu")
    whole, x = weight(random, 96, 64), random.standard_normal((3, 64)).astype(np.float32)
    expected = anyfp8.Linear(whole, dtype="f32")(x)
    for kind in (ColumnParallelLinear, RowParallelLinear):
        layer = kind(comm, whole, dtype="f32")
        assert np.array_equal(layer(x), expected)
        assert layer.resident_bytes > 0 and "m" in layer.explain()
    with pytest.raises(ValueError, match=r"x is f32 \[3, 63\]"):
        layer(x[:, 1:].copy())
    del comm
    assert np.array_equal(layer(x), expected), "the layer keeps the Comm"


def run_ranks(commands, environments):
    """Their outputs; an assertion with what one said that failed."""
    ranks = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command, environment in zip(commands, environments)
    ]
    try:
        outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, output in zip(ranks, outputs):
        assert rank.returncode == 0, output
    return outputs


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_on_cpus(size):
    mpirun = shutil.which("mpirun")
    module = Path(os.environ["ANYFP8_LIBRARY"]).parent / "libanyfp8_mpi.so"
    if mpirun is None or not module.is_file():
        pytest.skip("mpirun or libanyfp8_mpi.so is missing: Debian's openmpi-bin and libopenmpi-dev have what is needed")
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    command = [mpirun, "--oversubscribe", "-n", str(size), sys.executable, str(RANK), "cpu"]
    (output,) = run_ranks([command], [os.environ | allowed])
    assert output.count("passed") == size, output


@pytest.mark.parametrize("kind", ["cuda", "group"])
def test_ranks_on_gpus(kind):
    torch = pytest.importorskip("torch")
    gpus = [device for device in anyfp8.devices() if device.kind == "cuda"]
    if len(gpus) < 2 or torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs, torch and a build with CUDA; this library sees {len(gpus)}")
    port = random_numbers.randrange(20000, 40000)
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    launched |= {"NCCL_NVLS_ENABLE": os.environ.get("NCCL_NVLS_ENABLE", "0")}
    environments = [os.environ | launched | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    run_ranks([[sys.executable, str(RANK), kind]] * 2, environments)
