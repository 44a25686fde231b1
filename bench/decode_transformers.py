#!/usr/bin/env python3
"""Decode speed at m = 1 through transformers: a model in bf16, and the same layers in FP8 by anyfp8, in one run.

decode_transformers.py --program build-cuda/anyfp8 [--layers 4] [--scheme block] [--how graph|compile] [--json]

The model has the shape of Qwen3-8B (with fewer layers, and a small vocabulary so that lm_head, which stays 16 bit,
does not hide them) and random weights; transformers writes it, `anyfp8 quantize` quantises it. A step is one token
with a static cache, captured in a CUDA graph: of the model as it is ("graph"), or compiled by torch first ("compile").
Rounds of the two models alternate; what counts is the median. Needs torch, transformers and a GPU (without one it
runs steps one by one, to show that it works).
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import anyfp8
import anyfp8.torch
import anyfp8.transformers
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, StaticCache

CONTEXT = 256  # tokens that the cache has room for


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True, help="the anyfp8 program")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=12288)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--scheme", default="block")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--how", nargs="+", default=["graph", "compile"], choices=["graph", "compile"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=100, help="of a round")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def write_models(options, folder):
    """bf16 by transformers, FP8 by the program."""
    torch.manual_seed(1)
    config = Qwen3Config(
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 128,
        num_key_value_heads=max(1, options.hidden // 512),
        head_dim=128,
        vocab_size=options.vocab,
        tie_word_embeddings=False,
        dtype=options.dtype,
    )
    wide = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, options.dtype))
    wide.save_pretrained(folder / "wide")
    del wide
    command = [options.program, "quantize", folder / "wide", folder / "fp8", "--scheme", options.scheme]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Decoder:
    """One token after the other, by a step that can be captured."""

    def __init__(self, model, how, device):
        self.model, self.device = model, device
        self.cache = StaticCache(config=model.config, max_cache_len=CONTEXT)
        self.token = torch.full((1, 1), 7, device=device)
        self.position = torch.full((1,), 16, device=device)
        self.forward = torch.compile(self.logits, fullgraph=True, dynamic=False) if how == "compile" else self.logits
        self.graph = None
        with torch.inference_mode():
            for _ in range(3):
                self.out = self.forward()
            if device == "cuda":
                self._capture()

    def logits(self):
        return self.model(
            input_ids=self.token,
            position_ids=self.position[None],
            cache_position=self.position,
            past_key_values=self.cache,
            use_cache=True,
        ).logits

    def _capture(self):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.forward()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = self.forward()
        self.cache.reset()
        self.graph.replay()  # what is captured is not run

    def microseconds(self, tokens):
        """Of a token, the mean of a round."""
        with torch.inference_mode():
            self.cache.reset()  # each step moves it on by a token, a replayed one too
        if self.graph is None:
            with torch.inference_mode():
                begin = time.perf_counter()
                for _ in range(tokens):
                    self.out = self.forward()
                return (time.perf_counter() - begin) / tokens * 1e6
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(tokens):
            self.graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / tokens * 1e3


def load(folder, options, device):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options.dtype))
    return model.to(device).eval().requires_grad_(False)


def main():
    options = arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        write_models(options, Path(folder))
        wide = load(Path(folder, "wide"), options, device)
        anyfp8.transformers.enable()
        fp8 = load(Path(folder, "fp8"), options, device)
    layers = [module for module in fp8.modules() if isinstance(module, anyfp8.torch.Fp8Linear)]
    parameters = sum(layer.in_features * layer.out_features for layer in layers)
    row = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "layers": options.layers,
        "scheme": options.scheme,
        "dtype": options.dtype,
        "fp8_layers": len(layers),
        "kernel": layers[0].layer.selection.kernel_for(1),
        "bytes_per_fp8_parameter": anyfp8.torch.resident_bytes(fp8) / parameters,
    }
    for how in options.how:
        decoders = [Decoder(model, how, device) for model in (wide, fp8)]
        a, b = (decoder.out.float().flatten() for decoder in decoders)
        rounds = [[decoder.microseconds(options.tokens) for decoder in decoders] for _ in range(options.rounds)]
        wide_us, fp8_us = (statistics.median(column) for column in zip(*rounds))
        row[how] = {
            f"{options.dtype}_us": round(wide_us, 1),
            "fp8_us": round(fp8_us, 1),
            f"{options.dtype}_tokens_per_s": round(1e6 / wide_us),
            "fp8_tokens_per_s": round(1e6 / fp8_us),
            "speedup": round(statistics.median(x / y for x, y in rounds), 3),
            "cosine_of_logits": round(torch.nn.functional.cosine_similarity(a, b, dim=0).item(), 5),
        }
    if options.json:
        print(json.dumps(row))
        return
    for name, value in row.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
