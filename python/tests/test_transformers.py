"""Checkpoints of every FP8 dialect through plain transformers: the reference text, at one byte a parameter.

ANYFP8_REFERENCE_MODELS names the folder of the reference models; without it the model of the tree is used alone.
"""

import functools
import gc
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import anyfp8
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import anyfp8.transformers  # noqa: E402
from anyfp8.torch import Fp8Linear, resident_bytes  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from transformers.quantizers import auto  # noqa: E402

DIALECTS = ["block", "channel", "fbgemm", "tensor-static"]
# The reference is fp32. With 16-bit activations logits move, by up to 0.66 in bf16 and 0.08 in fp16 (AVX-512 BF16, all
# four dialects), so that a token whose lead in fp32 is smaller than this says nothing, nor does what follows it. That
# is part of the sixth prompt; in the others no lead is below 0.73.
UNDECIDED = {torch.float32: 0.0, torch.bfloat16: 0.5, torch.float16: 0.1}
GPUS = [device for device in anyfp8.devices() if device.kind == "cuda"]
OLD_GPU = bool(GPUS) and GPUS[0].compute_capability < (8, 0)  # no bf16
needs_gpu = pytest.mark.skipif(
    not GPUS or not torch.cuda.is_available(), reason="no GPU that both anyfp8 and torch can use"
)


@pytest.fixture(autouse=True)
def enabled():
    # Layers this small are done before other threads have woken up.
    torch.set_num_threads(1)
    anyfp8.set_num_threads(1)
    anyfp8.transformers.enable()
    yield
    anyfp8.transformers.disable()


def load(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(folder, **options)


def load_on_gpu(folder, **options):
    """Straight to the GPU where accelerate is installed, which transformers wants for that; else by way of the host."""
    if importlib.util.find_spec("accelerate"):
        return load(folder, device_map="cuda", **options)
    if OLD_GPU and options["dtype"] is torch.bfloat16:
        options["dtype"] = torch.float16
    return load(folder, **options).to("cuda")


def reference(reference_models, dialect):
    folder = Path(reference_models) / f"kjv-qwen3-{dialect}"
    return folder, json.loads((folder / "reference.json").read_text())["prompts"]


@functools.cache
def leads(folder):
    """Of each prompt's reference tokens, by how much its logit leads in fp32 on the CPU."""
    model, found = load(folder, dtype=torch.float32), []
    expected = anyfp8.open_checkpoint(folder / "reference.safetensors")
    for i, prompt in enumerate(json.loads((folder / "reference.json").read_text())["prompts"]):
        ids = torch.from_numpy(expected.tensor(f"ids.{i}").copy()).reshape(1, -1).long()
        with torch.no_grad():
            best = model(ids).logits[0, prompt["prompt_tokens"] - 1 : -1].topk(2).values
        found.append((best[:, 0] - best[:, 1]).tolist())
    return found


def expect_text(model, folder, prompts, **options):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = anyfp8.open_checkpoint(folder / "reference.safetensors")
    for i, prompt in enumerate(prompts):
        ids = tokenizer(prompt["text"], return_tensors="pt").input_ids.to(model.device)
        assert ids.shape[1] == prompt["prompt_tokens"]
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=96, min_new_tokens=96, do_sample=False, **options
        )
        decided = next((j for j, lead in enumerate(leads(folder)[i]) if lead < UNDECIDED[model.dtype]), 96)
        got, want = out[0].cpu().numpy(), expected.tensor(f"ids.{i}")
        assert (got[: ids.shape[1] + decided] == want[: ids.shape[1] + decided]).all(), prompt["text"]
        if decided == 96:
            assert tokenizer.decode(got[ids.shape[1] :], skip_special_tokens=True) == prompt["completion"]


def fp8_layers(model):
    return [module for module in model.modules() if isinstance(module, Fp8Linear)]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_dialect_says_the_reference_text_on_the_cpu(reference_models, dialect, dtype):
    folder, prompts = reference(reference_models, dialect)
    model = load(folder, dtype=dtype)
    assert len(fp8_layers(model)) == 56
    assert all(layer.dtype == dtype for layer in fp8_layers(model))
    expect_text(model, folder, prompts)


@needs_gpu
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("policy", ["accuracy", "speed"])
def test_every_dialect_says_the_reference_text_on_the_gpu(reference_models, dialect, policy):
    """ANYFP8_CUDA_CC=8.0 and 7.5 run it as on those cards; below 8.0 activations become float16 by themselves."""
    folder, prompts = reference(reference_models, dialect)
    anyfp8.transformers.enable(policy=policy)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    model = load_on_gpu(folder, dtype=torch.bfloat16)
    layers = fp8_layers(model)
    assert len(layers) == 56 and all(layer.device.type == "cuda" for layer in layers)
    assert all(layer.dtype == (torch.float16 if OLD_GPU else torch.bfloat16) for layer in layers)

    parameters = sum(layer.in_features * layer.out_features for layer in layers)
    held = resident_bytes(model)
    rest = sum(tensor.numel() * tensor.element_size() for tensor in {*model.parameters(), *model.buffers()})
    allocated = torch.cuda.memory_allocated() - before
    per_parameter = (held + max(0, allocated - rest)) / parameters
    print(
        f"\n{dialect} {policy} on sm_{GPUS[0].info['compute_capability']}: {per_parameter:.4f} bytes per FP8 parameter "
        f"({parameters} of them; library {held}, torch {allocated}, of which other tensors {rest})"
    )
    # torch rounds each of its tensors up to 512 bytes: 35 small norms count for nothing against real layers.
    slack = 512 * len(list(model.parameters()))
    assert held + max(0, allocated - rest - slack) <= 1.07 * parameters
    expect_text(model, folder, prompts)


def test_logits_are_those_of_the_reference(reference_models):
    folder, _ = reference(reference_models, "block")
    expected = anyfp8.open_checkpoint(folder / "reference.safetensors")
    model = load(folder, dtype=torch.float32)
    for i in (0, 1):
        logits = torch.from_numpy(expected.tensor(f"logits.{i}").copy())
        ids = torch.from_numpy(expected.tensor(f"ids.{i}").copy()).reshape(1, -1)[:, : logits.shape[0]].long()
        with torch.no_grad():
            got = model(ids).logits[0]
        assert (got - logits).abs().max() < 2e-3 * logits.abs().max()


def test_the_model_of_the_tree_loads_without_dequantising(model_dir):
    model = load(model_dir, dtype=torch.float32)
    layers = fp8_layers(model)
    parameters = sum(layer.in_features * layer.out_features for layer in layers)
    assert len(layers) == 56 and resident_bytes(model) <= 1.07 * parameters
    assert not [name for name, parameter in model.named_parameters() if "proj" in name]
    checkpoint = anyfp8.open_checkpoint(model_dir)
    up = model.model.layers[3].mlp.up_proj
    same = checkpoint.tensor("model.layers.3.mlp.up_proj.weight")
    assert (up.weight.view(torch.uint8).numpy() == same).all()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    ids = tokenizer("Ge1:1 In the beginning God", return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(out[0]).startswith("Ge1:1 In the beginning God created the heaven and the earth")


PEAK = """
import sys, anyfp8.transformers, anyfp8.torch, torch, transformers.models.qwen3.modeling_qwen3
from transformers import AutoModelForCausalLM

def kilobytes(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

anyfp8.transformers.enable()
before = kilobytes("VmRSS")
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
held = anyfp8.torch.resident_bytes(model) + sum(p.numel() * p.element_size() for p in model.parameters())
print(held, 1024 * (kilobytes("VmHWM") - before))
"""


def test_loading_needs_no_second_copy(tmp_path):
    """126 million FP8 parameters: the most memory on the way is what the model holds in the end, and a little."""
    make = [sys.executable, ROOT / "tools" / "make_random_model.py", "--like", "qwen3-0.6b", tmp_path / "model"]
    subprocess.run([*make, "--layers", "8", "--vocab", "4096"], check=True, capture_output=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "model"], env=environment, check=True, capture_output=True, text=True
    )
    held, peak = map(int, result.stdout.split())
    assert held > 120e6 and peak <= 1.1 * held + 16e6, (held, peak)


def test_models_are_saved_and_loaded_again(model_dir, tmp_path):
    model = load(model_dir, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    before, after = anyfp8.open_checkpoint(model_dir), anyfp8.open_checkpoint(tmp_path)
    assert after.format == before.format
    name = "model.layers.0.self_attn.q_proj.weight"
    assert after.tensors[name]["dtype"] == "F8_E4M3"
    assert (after.tensor(name) == before.tensor(name)).all()
    again = load(tmp_path, dtype=torch.float32)
    ids = torch.arange(12).reshape(1, -1)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)


def test_disable_gives_the_names_back():
    ours = auto.AUTO_QUANTIZER_MAPPING["fp8"]
    assert "modelopt" in auto.AUTO_QUANTIZER_MAPPING
    anyfp8.transformers.disable()
    assert auto.AUTO_QUANTIZER_MAPPING["fp8"] is not ours
    assert auto.AUTO_QUANTIZER_MAPPING["fp8"].__module__.startswith("transformers.")
    assert "modelopt" not in auto.AUTO_QUANTIZER_MAPPING


def test_other_kinds_of_quantisation_stay_with_transformers():
    int4 = {"weights": {"type": "int", "num_bits": 4}, "targets": ["Linear"]}
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": int4}}
    try:
        made = auto.AutoQuantizationConfig.from_dict(config)
    except ImportError:  # transformers wants the package compressed-tensors: it was asked
        return
    assert type(made).__module__.startswith("transformers.")


def copied(folder, to, change):
    """A checkpoint whose config is changed."""
    for name in os.listdir(folder):
        (to / name).write_bytes((folder / name).read_bytes())
    config = json.loads((to / "config.json").read_text())
    change(config)
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_layers_the_model_does_not_have_are_refused(model_dir, tmp_path):
    def without_the_last(config):
        config["num_hidden_layers"] = 7
        config.pop("layer_types", None)

    folder = copied(model_dir, tmp_path, without_the_last)
    with pytest.raises(NotImplementedError, match=r"model\.layers\.7\..* is FP8 in the file"):
        load(folder, dtype=torch.float32)


def test_other_shapes_are_refused(model_dir, tmp_path):
    folder = copied(model_dir, tmp_path, lambda config: config.update(intermediate_size=512))
    with pytest.raises(ValueError, match=r"mlp\.\w+_proj is \["):
        load(folder, dtype=torch.float32)


REQUANTISED = {
    "mxfp8": ("mxfp8", {"quant_method": "mxfp8", "modules_to_not_convert": ["lm_head"]}),
    "modelopt": ("tensor", {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}),
}


@pytest.mark.parametrize("method", REQUANTISED)
def test_other_dialects_load_too(model_dir, tmp_path, method):
    """The model of the tree, its layers quantised anew: logits stay near."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    scheme, config = REQUANTISED[method]
    copied(model_dir, tmp_path, lambda old: old.update(quantization_config=config))
    original, tensors = anyfp8.open_checkpoint(model_dir), {}
    for layer in original.layers:
        if layer["weight"]["scale_dtype"]:
            module = layer["module"]
            weight = anyfp8.quantize(original.weight(module).dequantize(), scheme)
            tensors[f"{module}.weight"] = torch.from_numpy(weight.data.copy()).view(torch.float8_e4m3fn)
            scale = torch.from_numpy(weight.scale.copy())
            tensors[f"{module}.weight_scale"] = scale.reshape(()) if scheme == "tensor" else scale
    quantised = {name.rpartition(".")[0] for name in tensors}
    for name, entry in original.tensors.items():
        if name.rpartition(".")[0] not in quantised:
            assert entry["dtype"] == "BF16", name
            tensors[name] = torch.from_numpy(original.tensor(name).copy()).view(torch.bfloat16)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    model, ids = load(tmp_path, dtype=torch.float32), torch.arange(40).reshape(1, -1)
    assert len(fp8_layers(model)) == 56
    with torch.no_grad():
        got, expected = model(ids).logits, load(model_dir, dtype=torch.float32)(ids).logits
    assert torch.nn.functional.cosine_similarity(got, expected, dim=-1).min() > 0.95


def test_the_whole_model_is_one_graph(model_dir):
    model, ids = load(model_dir, dtype=torch.float32), torch.arange(12).reshape(1, -1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(ids, use_cache=False).logits, model(ids, use_cache=False).logits)


@needs_gpu
def test_models_move_between_devices(model_dir):
    model = load(model_dir, dtype=torch.float16)
    ids = torch.arange(12).reshape(1, -1)
    with torch.no_grad():
        here = model(ids).logits.float()
        there = model.to("cuda")(ids.cuda()).logits.float().cpu()
        assert all(layer.device.type == "cuda" for layer in fp8_layers(model))
        back = model.to("cpu")(ids).logits.float()
    assert torch.equal(here, back)
    assert (here - there).abs().max() < 0.05 * here.abs().max()


@needs_gpu
def test_generation_is_compiled(model_dir):
    """A static cache makes generate() compile the model: CUDA graphs around our operator."""
    model = load_on_gpu(model_dir, dtype=torch.float16)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    ids = tokenizer("Ge1:1 In the beginning God", return_tensors="pt").input_ids.cuda()
    plain = model.generate(ids, max_new_tokens=24, do_sample=False)
    compiled = model.generate(ids, max_new_tokens=24, do_sample=False, cache_implementation="static")
    assert torch.equal(plain, compiled)


@needs_gpu
def test_accelerate_sees_what_layers_weigh(model_dir):
    pytest.importorskip("accelerate")
    model = load(model_dir, dtype=torch.float16, device_map="auto")
    assert all(layer.device.type == "cuda" for layer in fp8_layers(model))
    assert not [name for name, _ in model.named_parameters() if "_planned" in name]


def test_the_example_runs(model_dir):
    program = [sys.executable, ROOT / "examples" / "transformers_old_gpu.py", model_dir]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert "God created the heaven and the earth" in result.stdout, result.stderr


def test_convert_takes_the_layers_of_transformers():
    """What transformers loads by itself on a GPU with FP8 units."""
    finegrained = pytest.importorskip("transformers.integrations.finegrained_fp8")
    quantised = anyfp8.quantize(torch.randn(192, 256), "block")
    theirs = finegrained.FP8Linear(256, 192, block_size=(128, 128))
    theirs.weight.data = torch.from_numpy(quantised.data.copy()).view(torch.float8_e4m3fn)
    theirs.weight_scale_inv.data = torch.from_numpy(quantised.scale.copy())
    model = anyfp8.torch.convert(torch.nn.Sequential(theirs), dtype=torch.float32)
    assert type(model[0]) is Fp8Linear
    assert torch.equal(model[0].dequantize(), torch.from_numpy(quantised.dequantize()))


# A static cache counts every token that ever came, and a round longer than its room was an assertion on the card.
def test_the_decode_bench_takes_more_tokens_than_its_cache_holds():
    program = Path(os.environ.get("ANYFP8_LIBRARY", "")).parent.parent / "anyfp8"
    if not program.is_file():
        pytest.skip(f"the anyfp8 program is not beside the library, at {program}")
    bench = [sys.executable, ROOT / "bench" / "decode_transformers.py", "--program", program, "--how", "graph", "--json"]
    small = "--layers 1 --hidden 256 --intermediate 256 --vocab 64 --rounds 4 --tokens 100".split()
    result = subprocess.run([*bench, *small], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout)["graph"]["cosine_of_logits"] > 0.99
