#!/usr/bin/env python3
"""Writes an FP8 checkpoint of random weights in the shape of a published model, to measure speed with.

make_random_model.py --like qwen3-0.6b OUT [--scheme block|channel|tensor|mxfp8] [--layers N] [--vocab N] [--seed N]

OUT becomes a directory with config.json, generation_config.json, tokenizer.json and model.safetensors. Its text
is noise, its numbers are of usual size, and nothing ends a generation early. Needs Python alone; memory stays
below 100 MB. The same arguments give the same bytes.
"""
import argparse
import json
import math
import random
import struct
import sys
from array import array
from pathlib import Path
from statistics import NormalDist

# What the models' own config.json say. All three share lm_head with the embedding.
MODELS = {
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024,
        "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "attention_bias": False,
    },
    "llama3.2-1b": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "attention_bias": False, "mlp_bias": False,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192},
    },
    "qwen2.5-0.5b": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896,
        "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "head_dim": 64, "vocab_size": 151936, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
    },
}  # fmt: skip

# How a config.json announces each scheme.
DIALECTS = {
    "block": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
              "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]},
    "tensor": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
               "modules_to_not_convert": ["lm_head"]},
    "channel": {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
                "config_groups": {"group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True,
                                "dynamic": False},
                    "input_activations": {"num_bits": 8, "type": "float", "strategy": "token",
                                          "symmetric": True, "dynamic": True}}}},
    "mxfp8": {"quant_method": "mxfp8", "modules_to_not_convert": ["lm_head"]},
}  # fmt: skip

SPECIAL_TOKEN = "<|endoftext|>"  # id 256, after one token for each byte
CHUNK_BYTES = 8 << 20
DTYPE_BYTES = {"F8_E4M3": 1, "U8": 1, "BF16": 2, "F32": 4}


def e4m3_values():
    """The finite, non-negative values by code."""
    return [(m * 2.0**-9 if e == 0 else (8 + m) * 2.0 ** (e - 10)) for e in range(16) for m in range(8)][:-1]


def normal_codes():
    """A table from a uniform byte to the e4m3 code of a normal value, and the deviation of those values."""
    values = e4m3_values()
    largest = NormalDist().inv_cdf(255.5 / 256)
    codes, squares = bytearray(), 0.0
    for byte in range(256):
        x = NormalDist().inv_cdf((byte + 0.5) / 256) / largest * values[-1]
        code = min(range(len(values)), key=lambda c: abs(values[c] - abs(x)))
        codes.append(code | (0x80 if x < 0 else 0))
        squares += values[code] ** 2
    return bytes(codes), math.sqrt(squares / 256)


class RandomModel:
    def __init__(self, config, scheme, seed):
        self.config, self.scheme, self.random = config, scheme, random.Random(seed)
        self.codes, self.deviation = normal_codes()
        self.tensors = []  # (name, dtype, shape, function from a number of elements to their bytes)
        self.add_all()

    def add(self, name, dtype, shape, make):
        self.tensors.append((name, dtype, shape, make))

    def add_all(self):
        c = self.config
        hidden, ffn = c["hidden_size"], c["intermediate_size"]
        q_size, kv_size = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
        qkv_bias = c["model_type"] == "qwen2"
        self.add("model.embed_tokens.weight", "BF16", [c["vocab_size"], hidden], self.small_bf16)
        for layer in range(c["num_hidden_layers"]):
            path = f"model.layers.{layer}."
            self.add_norm(path + "input_layernorm", hidden)
            self.add_linear(path + "self_attn.q_proj", q_size, hidden, qkv_bias)
            self.add_linear(path + "self_attn.k_proj", kv_size, hidden, qkv_bias)
            self.add_linear(path + "self_attn.v_proj", kv_size, hidden, qkv_bias)
            self.add_linear(path + "self_attn.o_proj", hidden, q_size)
            if c["model_type"] == "qwen3":
                self.add_norm(path + "self_attn.q_norm", c["head_dim"])
                self.add_norm(path + "self_attn.k_norm", c["head_dim"])
            self.add_norm(path + "post_attention_layernorm", hidden)
            self.add_linear(path + "mlp.gate_proj", ffn, hidden)
            self.add_linear(path + "mlp.up_proj", ffn, hidden)
            self.add_linear(path + "mlp.down_proj", hidden, ffn)
        self.add_norm("model.norm", hidden)

    def add_norm(self, name, size):
        self.add(name + ".weight", "BF16", [size], lambda count: b"\x80\x3f" * count)  # 1.0

    def add_linear(self, name, n, k, bias=False):
        self.add(name + ".weight", "F8_E4M3", [n, k], lambda count: self.random.randbytes(count).translate(self.codes))
        # An input of unit size then gives an output of unit size.
        scale = 1 / (math.sqrt(k) * self.deviation)
        blocks = [-(-n // 128), -(-k // 128)]
        if self.scheme == "block":
            self.add(name + ".weight_scale_inv", "F32", blocks, lambda count: self.scales(scale, count))
        elif self.scheme == "tensor":
            self.add(name + ".weight_scale", "F32", [1], lambda count: self.scales(scale, count))
        elif self.scheme == "channel":
            self.add(name + ".weight_scale", "F32", [n, 1], lambda count: self.scales(scale, count))
        else:
            self.add(name + ".weight_scale_inv", "U8", [n, k // 32], lambda count: self.e8m0_scales(scale, count))
        if bias:
            self.add(name + ".bias", "BF16", [n], self.small_bf16)

    def scales(self, scale, count):
        values = array("f", (scale * self.random.uniform(0.75, 1.25) for _ in range(count)))
        if sys.byteorder == "big":
            values.byteswap()
        return values.tobytes()

    def e8m0_scales(self, scale, count):
        nearest = 127 + round(math.log2(scale))  # and, for one in eight each, its neighbours
        table = bytes(nearest + {0: -1, 1: 1}.get(byte % 8, 0) for byte in range(256))
        return self.random.randbytes(count).translate(table)

    def small_bf16(self, count):
        """Magnitudes from 2^-7 to 2^-3: the low byte is a bit of the exponent and the mantissa."""
        data = bytearray(2 * count)
        data[0::2] = self.random.randbytes(count)
        data[1::2] = self.random.randbytes(count).translate(bytes((0x3C, 0x3D, 0xBC, 0xBD)) * 64)
        return bytes(data)

    def write(self, path):
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for name, dtype, shape, _ in self.tensors:
            begin, end = end, end + math.prod(shape) * DTYPE_BYTES[dtype]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, dtype, shape, make in self.tensors:
                left = math.prod(shape)
                while left > 0:
                    count = min(left, CHUNK_BYTES // DTYPE_BYTES[dtype])
                    file.write(make(count))
                    left -= count


def config_json(config, scheme):
    common = {"dtype": "bfloat16", "hidden_act": "silu", "tie_word_embeddings": True, "use_cache": True,
              "attention_dropout": 0.0, "initializer_range": 0.02}  # fmt: skip
    return {**config, **common, "quantization_config": DIALECTS[scheme]}


def tokenizer_json():
    """Byte-level BPE without merges: a text has as many tokens as bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {**{byte: chr(byte) for byte in printable}, **{byte: chr(0x100 + i) for i, byte in enumerate(others)}}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 256, "content": SPECIAL_TOKEN, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {letters[byte]: byte for byte in range(256)}, "merges": []},
    }  # fmt: skip


def make_random_model(like, out, scheme="block", layers=None, vocab=None, seed=0):
    config = dict(MODELS[like])
    config["num_hidden_layers"] = layers or config["num_hidden_layers"]
    config["vocab_size"] = vocab or config["vocab_size"]
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "config.json": config_json(config, scheme),
        "generation_config.json": {"do_sample": False},  # no eos_token_id: a generation has the length asked for
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": SPECIAL_TOKEN},
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    RandomModel(config, scheme, seed).write(out / "model.safetensors")


def at_least(smallest):
    def number(text):
        if int(text) < smallest:
            raise argparse.ArgumentTypeError(f"{text} is below {smallest}")
        return int(text)

    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to write")
    parser.add_argument("--like", choices=MODELS, required=True)
    parser.add_argument("--scheme", choices=DIALECTS, default="block")
    parser.add_argument("--layers", type=at_least(1), help="the model's own number if absent")
    parser.add_argument("--vocab", type=at_least(257), help="the model's own number if absent; 257 are tokens")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
            parser.error(f"{arguments.out} exists and is not an empty directory; remove it or name another")
        make_random_model(**vars(arguments))
    except OSError as error:
        print(f"make_random_model: cannot write {arguments.out}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
