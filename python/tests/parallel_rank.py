"""One rank of test_parallel.py: parallel_rank.py cpu|cuda|group. Raises when something is not what it is to be."""

import os
import sys

import numpy as np

import anyfp8
from anyfp8.parallel import (
    ColumnParallelLinear,
    Comm,
    RowParallelLinear,
    shard,
    shard_merged,
    shard_range,
    token_range,
)

M, K, N = 6, 200, 328


def check_numpy(comm):
    """Collectives and layers on CPUs."""
    rank, size = comm.rank, comm.size
    x = np.full((3, 5), rank + 1, np.float32)
    assert (comm.all_reduce(x) == sum(range(1, size + 1))).all()
    counts = [r + 1 for r in range(size)]
    gathered = comm.all_gather(np.full(rank + 1, rank, np.float32), np.empty(sum(counts), np.float32), counts)
    assert gathered.tolist() == [r for r in range(size) for _ in range(r + 1)]
    part = comm.reduce_scatter(np.arange(sum(counts), dtype=np.float32), np.empty(rank + 1, np.float32), counts)
    begin = sum(counts[:rank])
    assert part.tolist() == [size * i for i in range(begin, begin + rank + 1)]
    word = comm.broadcast(np.full(4, rank, np.float32), size - 1)
    assert (word == size - 1).all()
    comm.barrier()

    random = np.random.default_rng(3)  # the same on every rank
    up = anyfp8.quantize(random.standard_normal((N, K)).astype(np.float32), "block")
    down = anyfp8.quantize(random.standard_normal((K, N)).astype(np.float32), "channel")
    x = random.standard_normal((M, K)).astype(np.float32)
    whole_up, whole_down = anyfp8.Linear(up, dtype="f32"), anyfp8.Linear(down, dtype="f32")
    begin, end = shard_range(N, rank, size)
    first = ColumnParallelLinear(comm, shard(up, "column", rank, size), dtype="f32")
    middle = first(x)
    assert np.array_equal(middle, whole_up(x)[:, begin:end]), "a column has other bits than on one rank"
    gathering = ColumnParallelLinear(comm, shard(up, "column", rank, size), dtype="f32", gather_output=True)
    assert np.array_equal(gathering(x), whole_up(x))
    last = RowParallelLinear(comm, shard(down, "row", rank, size), dtype="f32")
    expected = whole_down(whole_up(x))
    np.testing.assert_allclose(last(middle), expected, rtol=0, atol=1e-5 * np.abs(expected).max())

    tokens = slice(*token_range(M, rank, size))
    first = ColumnParallelLinear(comm, shard(up, "column", rank, size), dtype="f32", sequence_parallel=True)
    last = RowParallelLinear(comm, shard(down, "row", rank, size), dtype="f32", sequence_parallel=True)
    y = last(first(x[tokens], tokens=M))
    np.testing.assert_allclose(y, expected[tokens], rtol=0, atol=1e-5 * np.abs(expected).max())
    last = RowParallelLinear(comm, shard(down, "row", rank, size), dtype="f16")  # summed in f32, rounded once
    expected = anyfp8.Linear(down, dtype="f16")(whole_up(x).astype(np.float16)).astype(np.float32)
    y = last(middle.astype(np.float16)).astype(np.float32)
    np.testing.assert_allclose(y, expected, rtol=2**-10, atol=1e-4 * np.abs(expected).max())
    assert shard_merged(up, [128, 200], rank, size).k == K
    try:
        ColumnParallelLinear(comm, up if rank else down, dtype="f32")
    except ValueError as error:
        assert "rank" in str(error), error
    else:
        raise AssertionError("layers of different k were not refused")


def check_torch(comm):
    """Layers on GPUs, one after the other and in a captured graph."""
    import torch

    rank, size, device = comm.rank, comm.size, comm.device
    x = torch.full((1000,), float(rank + 1), device=device, dtype=torch.bfloat16)
    comm.all_reduce(x)
    assert (x == sum(range(1, size + 1))).all()
    random = np.random.default_rng(3)
    n, k, m = 2816, 1024, 48
    up = anyfp8.quantize((random.standard_normal((n, k)) / 32).astype(np.float32), "block")
    down = anyfp8.quantize((random.standard_normal((k, n)) / 32).astype(np.float32), "channel")
    x = torch.from_numpy(random.standard_normal((m, k)).astype(np.float32)).to(device, torch.bfloat16)
    expected = anyfp8.Linear(down, device)(anyfp8.Linear(up, device)(x)).float()
    first = ColumnParallelLinear(comm, shard(up, "column", rank, size))
    last = RowParallelLinear(comm, shard(down, "row", rank, size))

    def off(y):
        return ((y.float() - expected).norm() / expected.norm()).item()

    assert off(last(first(x))) < 0.01, off(last(first(x)))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = last(first(x))
    for _ in range(3):
        y.zero_()
        graph.replay()
        torch.cuda.synchronize()
        comm.check()
        assert off(y) < 0.01, off(y)
    del graph


def main(kind):
    if kind == "cpu":
        comm = Comm("cpu")
        check_numpy(comm)
    else:
        import torch

        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if kind == "group":
            import torch.distributed as distributed

            distributed.init_process_group("nccl")
            comm = Comm.from_process_group()
            assert comm.engine == "nccl" and comm.size == distributed.get_world_size()
        else:
            comm = Comm("cuda")
        check_torch(comm)
        if kind == "group":
            del comm
            import gc

            gc.collect()
            distributed.destroy_process_group()
    print("passed", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
