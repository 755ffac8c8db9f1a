"""Adapters as people have them, and what PEFT computes with them: python make_adapters.py ARCHS OUT.json

ARCHS is `tests/golden/archs`. Numbers of tensors follow from their names (see `numbers`), so that the file holds configs, keys and logits
only; `tests/adapters.rs` makes the same tensors. Each case is loaded by PEFT as it is; where PEFT passes over tensors with a warning, or
raises, `peft` says so, and the logits are those of the same numbers under the names that PEFT writes (`plain`).

Adapters with their files are in `cases` beside OUT.json; their logits are those of PEFT on llama.

Made with torch 2 (CPU), transformers 5.23, PEFT 0.21.2.
"""

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

ARCHS, OUT = Path(sys.argv[1]), Path(sys.argv[2])
TOKENS = [298, 84, 104, 101, 32, 116, 101, 114, 109, 32, 49, 303]
COLUMNS = list(range(3, 304, 19))
PLACES = [5, 11]
R, ALPHA = 4, 8
LAYERS, WIDTH, INNER, KV, VOCABULARY = 2, 32, 48, 16, 304
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (KV, WIDTH), "self_attn.v_proj": (KV, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER),
}
QV = ["self_attn.q_proj", "self_attn.v_proj"]
ALL = list(SHAPES)
LEAVES = [name.split(".")[1] for name in ALL]


def numbers(name, count, scale=0.25):
    """uniform in (-scale, scale): FNV-1a of the name, then SplitMix64 of every place; exact in f32."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return (unit - np.float32(0.5)) * np.float32(2 * scale)


# Keys of LoraConfig by the release that brought them, with their defaults.
BY_RELEASE = [
    ("0.2.0", {"base_model_name_or_path": "base", "bias": "none", "enable_lora": None, "fan_in_fan_out": False, "inference_mode": True, "lora_alpha": ALPHA, "lora_dropout": 0.05, "merge_weights": False, "modules_to_save": None, "peft_type": "LORA", "r": R, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}),
    ("0.3.0", {"enable_lora": ..., "merge_weights": ..., "init_lora_weights": True}),
    ("0.4.0", {"layers_pattern": None, "layers_to_transform": None, "revision": None}),
    ("0.5.0", {"auto_mapping": None}),
    ("0.6.0", {"alpha_pattern": {}, "rank_pattern": {}}),
    ("0.7.1", {"loftq_config": {}, "megatron_config": None, "megatron_core": "megatron.core"}),
    ("0.8.2", {"use_rslora": False}),
    ("0.9.0", {"use_dora": False}),
    ("0.11.1", {"layer_replication": None}),
    ("0.14.0", {"eva_config": None, "exclude_modules": None, "lora_bias": False}),
    ("0.15.2", {"corda_config": None, "trainable_token_indices": None}),
    ("0.17.1", {"qalora_group_size": 16, "target_parameters": None, "use_qalora": False}),
    ("0.18.0", {"alora_invocation_tokens": None, "arrow_config": None, "ensure_weight_tying": False, "peft_version": "0.18.0"}),
    ("0.19.0", {"use_bdlora": None, "lora_ga_config": None, "peft_version": "0.19.0"}),
    ("0.21.2", {"kasa_config": None, "monteclora_config": None, "velora_config": None, "peft_version": "0.21.2"}),
]


def config(release="0.21.2", **changes):
    keys = {}
    for name, added in BY_RELEASE:
        keys.update(added)
        if name == release:
            break
    keys = {key: value for key, value in keys.items() if value is not ...}
    keys.update(changes)
    return dict(sorted((key, value) for key, value in keys.items() if value is not ...))


def layered(modules=QV, rank=R, layers=range(LAYERS), prefix="model.layers.", ranks={}, vector=None):
    """[name without `base_model.model.`, shape] of the matrices of modules in layers."""
    tensors = []
    for layer in layers:
        for module in modules:
            out, inp = SHAPES[module]
            name = f"{prefix}{layer}.{module}"
            r = ranks.get(module, rank)
            tensors += [(f"{name}.lora_A.weight", (r, inp)), (f"{name}.lora_B.weight", (out, r))]
            if vector:
                tensors.append((f"{name}.{vector}", (out,)))
    return tensors


def peft_keys(tensors):
    return [(f"base_model.model.{name}", name, shape) for name, shape in tensors]


def keyed(change, tensors=None):
    """Tensors under changed keys, of the numbers of their own names."""
    return [(change(f"base_model.model.{name}"), name, shape) for name, shape in (tensors or layered())]


def named(adapter):
    def change(key):
        for end in (".weight", ".bias"):
            if key.endswith(end):
                return key.removesuffix(end) + f".{adapter}{end}"
        return f"{key}.{adapter}"
    return change


CASES = []


def case(name, config, tensors=None, base="llama", refused=None, plain=None):
    """`refused` are words of the refusal; `plain` is (config, tensors) of what the numbers mean, where PEFT does not load them."""
    tensors = peft_keys(layered()) if tensors is None else tensors
    CASES.append({"name": name, "base": base, "config": config, "tensors": tensors, "refused": refused, "plain": plain})


def unloaded(name, config_, tensors, base="llama", own=None):
    """PEFT only warns: the same numbers by PEFT's own names."""
    case(name, config_, tensors, base, plain=(own or config_, [(f"base_model.model.{source}", source, shape) for _, source, shape in tensors]))


# Releases.
for release, _ in BY_RELEASE:
    case(f"PEFT {release}", config(release))

# Writers.
unsloth = r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:k_proj|v_proj|q_proj|out_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))"
case("Unsloth", config("0.18.0", target_modules=unsloth, auto_mapping={"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama", "unsloth_fixed": True}), peft_keys(layered(ALL)))
case("LLaMA-Factory", config("0.15.2", target_modules=LEAVES[::-1], lora_dropout=0), peft_keys(layered(ALL)))
case("LLaMA-Factory, a wrapper's expression", config("0.15.2", target_modules=r"^(?!.*(?:visual|vision_tower)).*(?:q_proj|v_proj).*"))
case("Axolotl", config("0.17.1", target_modules=LEAVES, lora_alpha=16), peft_keys(layered(ALL)))
case("ms-swift, an expression", config("0.14.0", target_modules=r"^(language_model|model)(?=\.).*\.(q_proj|v_proj)$"))
case("torchtune", {"base_model_name_or_path": "base", "lora_alpha": ALPHA, "peft_type": "LORA", "r": R, "target_modules": ["q_proj", "v_proj"]})
case("alpaca-lora", config("0.2.0", enable_lora=None, merge_weights=False, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]), peft_keys(layered(ALL[:4])))
case("TRL, task of nothing", config("0.17.1", task_type=None))
case("mergekit-extract-lora", config("0.14.0", target_modules=LEAVES + ["lm_head"], lora_dropout=0.0, rank_pattern={"lm_head": 2}), peft_keys(layered(ALL) + [("lm_head.lora_A.weight", (2, WIDTH)), ("lm_head.lora_B.weight", (VOCABULARY, 2))]))
case("Accelerate, a raw state dict", config("0.18.0"), keyed(named("default")))
unloaded("FSDP, a raw state dict", config("0.18.0"), keyed(lambda key: "_fsdp_wrapped_module." + named("default")(key).replace(".self_attn", "._fsdp_wrapped_module.self_attn")))
unloaded("DeepSpeed, a raw state dict", config("0.18.0"), keyed(lambda key: "module." + named("default")(key)))

# Names around keys.
case("key: default", config(), keyed(named("default")))
unloaded("key: another adapter's name", config(), keyed(named("my-sft_v2")))
unloaded("key: _orig_mod in front", config(), keyed(lambda key: "_orig_mod." + key))
unloaded("key: _orig_mod inside", config(), keyed(lambda key: key.replace("base_model.model.", "base_model.model._orig_mod.")))
unloaded("key: _orig_mod in layers", config(), keyed(lambda key: key.replace(".self_attn.", "._orig_mod.self_attn.")))
unloaded("key: module in front", config(), keyed(lambda key: "module." + key))
unloaded("key: base_model.model twice", config(), keyed(lambda key: "base_model.model." + key))
unloaded("key: no prefix", config(), keyed(lambda key: key.removeprefix("base_model.model.")))
unloaded("key: one model too few", config(), keyed(lambda key: key.replace("base_model.model.model.", "base_model.model.")))
unloaded("key: checkpoint wrapper", config(), keyed(lambda key: key.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn.")))
unloaded("key: of the language model of a wrapper, old", config(), keyed(lambda key: key.replace("model.model.model.", "model.model.language_model.model.").replace("base_model.model.model.language", "base_model.model.language")))
unloaded("key: of the language model of a wrapper, new", config(), keyed(lambda key: key.replace("base_model.model.model.", "base_model.model.model.language_model.")))
full = {f"language_model.model.layers.{layer}.self_attn.q_proj": 6 for layer in range(2)}
moved = layered(QV, ranks={"self_attn.q_proj": 6})
own = config("0.14.0", rank_pattern={"q_proj": 6}, alpha_pattern={"q_proj": 3})
unloaded("key: a wrapper's, with patterns by its names", config("0.14.0", rank_pattern=full, alpha_pattern={key: 3 for key in full}), keyed(lambda key: key.replace("base_model.model.model.", "base_model.model.language_model.model."), moved), own=own)
unloaded("key: all at once", config(), keyed(lambda key: "module._orig_mod.base_model.model." + named("default")(key)))
dora = layered(vector="lora_magnitude_vector")
case("DoRA", config(use_dora=True), peft_keys(dora))
case("DoRA, a raw state dict", config(use_dora=True), keyed(lambda key: key + ".default.weight" if key.endswith("vector") else named("default")(key), dora))
case("DoRA, with .weight", config(use_dora=True), keyed(lambda key: key + ".weight" if key.endswith("vector") else key, dora))
bias = layered(vector="lora_B.bias")
case("lora_bias", config(lora_bias=True), peft_keys(bias))
case("lora_bias, a raw state dict", config(lora_bias=True), keyed(named("default"), bias))

# Targets.
for what, pattern in [
    ("look-ahead", r"(?!.*mlp).*\.(q_proj|v_proj)"), ("look-behind", r".*(?<!mlp)\.(q_proj|v_proj)"), (r"\Z", r".*\.(q_proj|v_proj)\Z"),
    ("a named group and a backreference", r"(?P<m>model)\.layers\.\d+\.(?!x(?P=m)).*\.(q_proj|v_proj)"), ("a conditional", r"(model)?(?(1)\.|).*\.(q_proj|v_proj)"),
    ("a comment", r"(?#these).*\.(q_proj|v_proj)"), ("a named group", r"(?P<all>.*)\.(q_proj|v_proj)"), ("an alternative", r".*\.q_proj|.*\.v_proj"),
]:
    case(f"targets: {what}", config(target_modules=pattern))
unloaded("targets: null", config(target_modules=None), peft_keys(layered(["self_attn.k_proj"])), own=config(target_modules=["k_proj"]))
unloaded("targets: none", config(target_modules=[]), peft_keys(layered(["self_attn.k_proj"])), own=config(target_modules=["k_proj"]))
case("targets: all-linear", config(target_modules="all-linear"), peft_keys(layered(ALL)))
case("targets: some names match nothing", config(target_modules=["q_proj", "v_proj", "c_attn", "query_key_value"]))
case("targets: full names", config(target_modules=[f"model.layers.{i}.{m}" for i in range(2) for m in QV]))
case("targets: one layer", config(layers_to_transform=1), peft_keys(layered(layers=[1])))
case("targets: layers and their list", config(layers_to_transform=[0], layers_pattern="layers"), peft_keys(layered(layers=[0])))
case("targets: excluded by look-ahead", config(target_modules=LEAVES, exclude_modules=r"(?=.*mlp).*"), peft_keys(layered(ALL[:4])))
case("targets: the head is saved whole too", config(target_modules=["q_proj", "lm_head"], modules_to_save=["lm_head"]), peft_keys(layered(QV[:1]) + [("lm_head.weight", (VOCABULARY, WIDTH))]))
case("patterns that match nothing", config(rank_pattern={"^q_proj": 9, "v_proj": 3, "vision_model.*": 2}, alpha_pattern={"nothing": 1}), peft_keys(layered(ranks={"self_attn.v_proj": 3})))
case("rsLoRA", config(use_rslora=True))

# How it began.
for start in (True, False, None, "gaussian", "orthogonal", "mica"):
    case(f"start: {start}", config(init_lora_weights=start))
eva = {"rho": 2.0, "tau": 0.99, "use_label_mask": True, "label_mask_value": -100, "whiten": False, "adjust_scaling_factors": True}
case("start: eva", config("0.14.0", init_lora_weights="eva", eva_config=eva, rank_pattern={"model.layers.0.self_attn.q_proj": 6, "model.layers.1.self_attn.q_proj": 6}), peft_keys(moved))
case("start: eva's config alone", config("0.14.0", eva_config=eva))
case("start: corda's config alone", config(corda_config={"cache_file": None, "covariance_file": None, "corda_method": "ipm", "verbose": False, "use_float16_for_covariance": False, "prune_temporary_fields": True}))
case("start: loftq's config alone", config(loftq_config={"loftq_bits": 4, "loftq_iter": 1}))
case("start: pissa, converted", config(r=8, lora_alpha=16, rank_pattern={}, init_lora_weights=True), peft_keys(layered(rank=8)))
for start in ("pissa", "pissa_niter_4", "olora", "corda", "lora_ga"):
    case(f"start: {start}", config(init_lora_weights=start), refused=["`init_lora_weights` is", "takes what A and B begin as out of the base's weights", "path_initial_model_for_weight_conversion"])
case("start: loftq", config(init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 1}), refused=["`init_lora_weights` is", "quantized weights in the place of the base's"])

# Values.
case("fan_in_fan_out", config("0.5.0", fan_in_fan_out=True))
case("bias of a base without", config("0.5.0", bias="all"))
case("bias of lora_only without", config(bias="lora_only"))
case("a runtime_config", config(runtime_config={"ephemeral_gpu_offload": False}))
case("later keys that say nothing", config(later_one=None, later_two=False, later_three={}, peft_version="0.30.0"))
case("a later key that says something", config(later_one=True, peft_version="0.30.0"), refused=["`later_one` is `true`", "a newer PEFT wrote it"])
case("another method", config(peft_type="LOHA"), refused=["`peft_type` is"])
case("KaSA", config(kasa_config={"beta": 1e-4, "gamma": 1e-3}), refused=["`kasa_config` is"])
case("QALoRA", config(use_qalora=True), refused=["`use_qalora` is"])

# Tables.
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
for base, width in (("llama310", 310), ("qwen2_310", 310), ("llama", 304)):
    table = lambda name: (name, (width, WIDTH))
    of_base = lambda key, module: (f"base_model.model.{key}", f"base:{module}.weight", (width, WIDTH))
    head = EMBEDDING if base.startswith("qwen2") else HEAD
    bases = [of_base(f"{EMBEDDING}.weight", EMBEDDING), of_base(f"{HEAD}.weight", head)]
    case(f"tables of the base, {base}", config(), peft_keys(layered()) + bases, base)
    other = [(key, "other table" if head == EMBEDDING else key, shape) for key, _, shape in bases]
    case(f"tables in place of the base's, {base}", config(), peft_keys(layered()) + other, base)
    saved = [(f"base_model.model.{module}.{end}", f"own {module}", (width, WIDTH)) for module in (EMBEDDING, HEAD) for end in ("weight", "modules_to_save.weight")]
    original = [of_base(f"{module}.original_module.weight", module if module == EMBEDDING else head) for module in (EMBEDDING, HEAD)]
    case(f"modules_to_save three times, {base}", config(modules_to_save=["embed_tokens", "lm_head"]), peft_keys(layered()) + saved + original, base)
    case(f"modules_to_save once, {base}", config(modules_to_save=["embed_tokens", "lm_head"]), peft_keys(layered()) + saved[::2], base)
    matrices = peft_keys([(f"{EMBEDDING}.lora_embedding_A", (R, width)), (f"{EMBEDDING}.lora_embedding_B", (WIDTH, R))])
    case(f"matrices over the base's table, {base}", config(target_modules=["q_proj", "v_proj", "embed_tokens"]), peft_keys(layered()) + matrices + [of_base(f"{EMBEDDING}.base_layer.weight", EMBEDDING)], base)
    case(f"matrices over another table, {base}", config(target_modules=["q_proj", "v_proj", "embed_tokens"]), peft_keys(layered()) + matrices + [(f"base_model.model.{EMBEDDING}.base_layer.weight", "other table", (width, WIDTH))], base)
    delta = [(f"base_model.model.{EMBEDDING}.token_adapter.trainable_tokens_delta", "rows of tokens", (2, WIDTH)), of_base(f"{EMBEDDING}.token_adapter.base_layer.weight", EMBEDDING)]
    if head == EMBEDDING:
        delta += [(f"base_model.model.{HEAD}.token_adapter.trainable_tokens_delta", "rows of tokens", (2, WIDTH)), of_base(f"{HEAD}.token_adapter.base_layer.weight", EMBEDDING)]
    else:
        delta += [of_base(f"{HEAD}.weight", HEAD)]
    case(f"rows of tokens with tables, {base}", config(trainable_token_indices=[101, width - 1]), peft_keys(layered()) + delta, base)
resized = [("base_model.model.model.embed_tokens.weight", "a", (310, WIDTH)), ("base_model.model.lm_head.weight", "b", (310, WIDTH))]
numbers_of_both = ["a vocabulary of 310 rows, this base has 304", "resize_token_embeddings(310)"]
case("a resized vocabulary on the base as it was", config(), peft_keys(layered()) + resized, refused=numbers_of_both)
case("a resized vocabulary trained, on the base as it was", config(modules_to_save=["embed_tokens", "lm_head"]), peft_keys(layered()) + resized, refused=numbers_of_both)
matrices = peft_keys([(f"{HEAD}.lora_A.weight", (R, WIDTH)), (f"{HEAD}.lora_B.weight", (310, R))])
case("matrices of a resized head", config(target_modules=["q_proj", "v_proj", "lm_head"]), peft_keys(layered()) + matrices, refused=numbers_of_both)
case("a smaller vocabulary", config(), peft_keys(layered()) + [("base_model.model.lm_head.weight", "b", (304, WIDTH))], "llama310", refused=["a vocabulary of 304 rows, this base has 310"])
raw = [(f"base_model.model.{module}.modules_to_save.default.weight", f"own {module}", (304, WIDTH)) for module in (EMBEDDING, HEAD)]
unloaded_saved = config(modules_to_save=["embed_tokens", "lm_head"])
case("modules_to_save, a raw state dict", unloaded_saved, keyed(named("default")) + raw, plain=(unloaded_saved, peft_keys(layered()) + [(key.replace("modules_to_save.default.", ""), source, shape) for key, source, shape in raw]))

# What is no adapter, or half of one.
case("ZeRO-3", config(), [(key, source, (0,)) for key, source, _ in peft_keys(layered())], refused=["of shape [0]", "ZeRO-3 without gathering", "zero_to_fp32.py"])
case("two adapters", config(), keyed(named("default")) + keyed(named("reference")), refused=["2 adapters, `default`, `reference`"])
case("one tensor twice", config(), keyed(named("default")) + peft_keys(layered()), refused=["are one tensor by their names"])
case("half of its layers", config(), peft_keys(layered(layers=[0])), refused=["is missing"])
case("A without B", config(), peft_keys([tensor for tensor in layered() if "lora_A" in tensor[0]]), refused=["lora_B.weight` is missing"])
case("more than its config says", config(), peft_keys(layered(ALL)), refused=["belongs to no adapter of the config"])
vision = [("base_model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight", "v", (R, WIDTH))]
case("a part that sees", config(target_modules=".*q_proj|.*v_proj"), peft_keys(layered()) + vision, refused=["parts that see or hear"])
biases = [(f"base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias", "bias", (WIDTH,))]
case("biases of the base", config(bias="lora_only"), peft_keys(layered()) + biases, "qwen2", refused=["biases of the base that were trained"])
case("of a wider base", config(), [(key, source, tuple(64 if size == WIDTH else size for size in shape)) for key, source, shape in peft_keys(layered())], refused=["was trained on another base"])
case("a copy that differs", config(modules_to_save=["lm_head"]), peft_keys(layered()) + [("base_model.model.lm_head.weight", "x", (304, WIDTH)), ("base_model.model.lm_head.modules_to_save.weight", "y", (304, WIDTH))], refused=["are to be one and differ"])

MODELS = {}


def model_of(base):
    family, _, resized = base.partition("310")
    model = AutoModelForCausalLM.from_pretrained(ARCHS / family.rstrip("_") / "model", dtype=torch.float32)
    if base.endswith("310"):
        model.resize_token_embeddings(310, mean_resizing=False)
        with torch.no_grad():
            tables = {"model.embed_tokens.weight": model.get_input_embeddings().weight, "lm_head.weight": model.get_output_embeddings().weight}
            for name, table in tables.items():
                if name == "lm_head.weight" and model.config.tie_word_embeddings:
                    continue
                table[304:] = torch.from_numpy(numbers(f"new rows of {name}", 6 * WIDTH).reshape(6, WIDTH))
    return model


def tensor(source, shape, base):
    if source.startswith("base:"):
        return base[source.removeprefix("base:")].clone()
    return torch.from_numpy(numbers(source, int(np.prod(shape))).reshape(shape).copy())


def logits(model):
    with torch.no_grad():
        values = model(input_ids=torch.tensor([TOKENS])).logits[0]
    return [float(f"{value:.9g}") for place in PLACES for value in values[place, COLUMNS].tolist()]


def loaded(base, config, tensors):
    """Logits of PEFT, and what it said."""
    model = model_of(base)
    state = model.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "adapter_config.json").write_text(json.dumps(config))
        save_file({key: tensor(source, shape, state).contiguous() for key, source, shape in tensors}, f"{folder}/adapter_model.safetensors")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(model, folder).eval()
        missing = any("missing adapter keys" in str(one.message).lower() for one in said)
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        again = model.load_adapter(folder, "default")
        known = set(before) | {name for name, _ in model.named_buffers()}
        unexpected = [key for key in again.unexpected_keys if "lora" in key]
    return logits(model), ("warns of missing tensors" if missing else "passes tensors over" if unexpected else "loads")


def main():
    plain = {base: logits(model_of(base)) for base in ("llama", "llama310", "qwen2", "qwen2_310")}
    cases = []
    for case in CASES:
        entry = {key: case[key] for key in ("name", "base", "config")}
        entry["tensors"] = [[key, "=" if key == f"base_model.model.{source}" else source, list(shape)] for key, source, shape in case["tensors"]]
        if case["refused"]:
            entry["refused"] = case["refused"]
        try:
            values, entry["peft"] = loaded(case["base"], case["config"], case["tensors"])
        except Exception as error:  # noqa: BLE001
            values, entry["peft"] = None, f"raises {type(error).__name__}"
        if not case["refused"]:
            if case["plain"]:
                values, said = loaded(case["base"], *case["plain"])
                assert said == "loads", (case["name"], said)
            assert values is not None, (case["name"], entry["peft"])
            assert case["plain"] or entry["peft"] == "loads", (case["name"], entry["peft"])
            entry["logits"] = values
            assert max(abs(a - b) for a, b in zip(values, plain[case["base"]])) > 1e-3, case["name"]
        cases.append(entry)
        print(case["name"], "|", entry["peft"], flush=True)
    folders = {}
    for folder in sorted((OUT.parent / "cases").iterdir()):
        model = PeftModel.from_pretrained(model_of("llama"), folder).eval()
        folders[folder.name] = logits(model)
    head = {"tokens": TOKENS, "places": PLACES, "columns": COLUMNS, "base_logits": plain, "folders": folders}
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in cases)
    OUT.write_text(json.dumps(head, separators=(",", ":"))[:-1] + ',"cases":[\n' + lines + "\n]}\n")
    print(len(cases), "cases", OUT.stat().st_size, "bytes")


main()
