"""What transformers computes from changed configs: python make_configs.py OUT [FAMILY ..], in the folder of this file.

For each family of `archs`, every key of its config class, of older published configs and some of other classes is removed, null, and set to other
values, with the weights as they are. OUT/cases.json has the list `changes` and for each family [number of the change, outcome].

A change is ["v5", {key: value}] of `model/config.json`, or "v4" of `config_v4.json`; keys that are removed are listed under "-". An outcome is
[loss, mark], "=" where they are those of the unchanged config, or a word: "refused", "shapes" (the weights do not fit), "more" (there are more
weights) and "not finite". `loss` is the mean cross-entropy of the next token over two rows of tokens, `mark` the sum of all logits times
cos(1 + 0.37 k), k their running number, divided by the number of tokens: a change of any logit moves it.
"""

import copy
import json
import logging
import math
import shutil
import sys
import tempfile
import warnings
from dataclasses import fields
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

ROOT = Path(__file__).parent / "archs"
LENGTHS = [24, 9]
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "granite", "olmo2", "smollm3", "phi3", "phi3_longrope", "mixtral",
            "qwen3_moe", "deepseek_v2", "deepseek_v3", "falcon_7b", "falcon_new", "gpt_oss", "gemma4_dense", "gemma4_moe", "gemma4_small"]
# Of no family: they say nothing about logits, and are tried in one value each.
NEUTRAL = {"architectures": ["SomethingElse"], "transformers_version": "4.31.0", "use_cache": False, "initializer_range": 0.5, "bos_token_id": 5,
           "eos_token_id": [3, 4], "pad_token_id": 9, "torch_dtype": "float16", "dtype": "bfloat16", "output_hidden_states": True, "return_dict": False,
           "id2label": {"0": "a"}, "label2id": {"a": 0}, "problem_type": "regression", "_name_or_path": "somewhere", "_attn_implementation_autoset": True,
           "unsloth_version": "2025.1", "auto_map": {"AutoConfig": "configuration_x.XConfig"}, "task_specific_params": None, "quantization_config": None,
           "max_length": 20, "do_sample": True, "temperature": 0.5, "repetition_penalty": 2.0, "tie_last_hidden_states": False, "chunk_size_feed_forward": 2,
           "is_decoder": True, "is_encoder_decoder": False, "add_cross_attention": True, "torchscript": True, "pruned_heads": {"0": [1]},
           "attn_implementation": "eager", "pretraining_tp": 2}
RATES = [0.0, 0.1, 1]
ACTIVATIONS = ["silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_python", "quick_gelu", "relu", "relu2", "tanh", "sigmoid", "linear", "SiLU"]
KINDS = [["full_attention", "sliding_attention"], ["sliding_attention", "full_attention"], ["full_attention"] * 2, ["sliding_attention"] * 2,
         ["attention", "sliding_attention"], ["chunked_attention", "full_attention"], ["full_attention"], ["full_attention"] * 3, [], ["linear_attention", "full_attention"]]
# What a value is changed to, by the key's name; numbers that are not here are halved, doubled and set to 0.
VALUES = {
    "hidden_act": ACTIVATIONS, "hidden_activation": ACTIVATIONS, "activation": ACTIVATIONS, "activation_function": ACTIVATIONS,
    "vocab_size": [300, 310], "hidden_size": [16, 64, "32", 32.0], "num_hidden_layers": [1, 3, 0], "num_attention_heads": [2, 8, 3, 0], "num_key_value_heads": [1, 4, 3, 0],
    "num_kv_heads": [1, 2, 4, 3], "head_dim": [4, 6, 7, 8, 10, 12, 16, 256], "intermediate_size": [20, 64], "max_position_embeddings": [8, 16, 64, 4096, 0],
    "rms_norm_eps": [1e-12, 1e-6, 1e-5, 0.1, 0, 0.0, -0.01, 1], "layer_norm_epsilon": [1e-12, 1e-6, 1e-5, 0.1, 0.0], "layer_norm_eps": [0.1], "norm_eps": [0.1], "rms_norm_epsilon": [0.1],
    "attention_bias": [True, False, 1], "mlp_bias": [True, False], "bias": [True, False], "qkv_bias": [True, False], "use_bias": [True, False], "tie_word_embeddings": [True, False, 1],
    "attention_dropout": RATES, "resid_pdrop": RATES, "embd_pdrop": RATES, "hidden_dropout": RATES, "attn_pdrop": RATES, "layerdrop": RATES, "router_jitter_noise": RATES,
    "router_aux_loss_coef": [0.0, 0.5], "output_router_logits": [True], "aux_loss_alpha": [0.5], "seq_aux": [True], "ffn_dropout": RATES, "dropout": RATES,
    "sliding_window": [1, 2, 3, 7, 4096, 0, False, 3.0], "use_sliding_window": [True, False, 1], "max_window_layers": [0, 1, 2, 28], "layer_types": KINDS,
    "sliding_window_pattern": [1, 2, 3, 6], "_sliding_window_pattern": [1, 2], "sliding_window_type": ["interleaved"], "interleaved_sliding_window": [3], "window_size": [3],
    "attention_window": [3], "attention_chunk_size": [4], "cache_implementation": ["hybrid"],
    "rope_theta": [10000, 10000.0, 500.0, 25000.5, 1e6], "rope_local_base_freq": [500.0, 10000.0], "partial_rotary_factor": [1.0, 0.5, 0.25, 0.3, 0.0], "rotary_pct": [0.5], "rope_ratio": [2.0],
    "rotary_emb_base": [500], "rotary_dim": [4], "rope_interleave": [True, False], "use_rope": [False], "rotary": [False], "position_embedding_type": ["nope", "relative_key"],
    "rope_interleaved": [True], "no_rope_layers": [[1, 1], [0, 0], [0, 1], [1], [1, 0, 1], []], "no_rope_layer_interval": [1, 2, 4, 0],
    "original_max_position_embeddings": [4, 8, 16, 32, 64, 128],
    "query_pre_attn_scalar": [8, 12, 144, 256, 0.5], "attn_logit_softcapping": [2.0, 5.0, 50.0, 0.0, 1], "final_logit_softcapping": [2.0, 3.0, 30.0, 0.0],
    "use_bidirectional_attention": [True, False, "vision", "all"], "is_causal": [False, True], "use_qk_norm": [False, True], "qk_layernorm": [False, True], "qk_norm": [False, True],
    "attention_multiplier": [1.0, 0.25, 0.0625, 0.015625, 0.0], "embedding_multiplier": [1.0, 12.0, 0.0], "logits_scaling": [1.0, 8.0, 0.5], "residual_multiplier": [1.0, 0.22, 0.0],
    "logit_scale": [0.5], "scale_emb": [2.0], "scale_depth": [1.4], "dim_model_base": [16], "clip_qkv": [0.01], "logit_scaling": [0.5], "attn_scale": [2.0],
    "num_experts": [2, 4, 8], "num_local_experts": [2, 4, 8], "n_routed_experts": [2, 8], "num_experts_per_tok": [1, 2, 3, 4, 5, 8], "norm_topk_prob": [True, False], "moe_intermediate_size": [10, 40],
    "decoder_sparse_step": [1, 2, 3, 0], "mlp_only_layers": [[], [0], [1], [0, 1], [5]], "n_shared_experts": [1, 2], "first_k_dense_replace": [0, 1, 2, 5], "moe_layer_freq": [1, 2], "n_group": [1, 2, 4, 3],
    "topk_group": [1, 2, 3], "topk_method": ["greedy", "group_limited_greedy", "noaux_tc", "random"], "scoring_func": ["softmax", "sigmoid"], "routed_scaling_factor": [1.0, 2.5, 16.0, 0.0],
    "q_lora_rank": [8, 16, 1536], "kv_lora_rank": [8, 512], "qk_nope_head_dim": [4, 8, 128], "qk_rope_head_dim": [4, 8, 64], "v_head_dim": [6, 8, 128], "qk_head_dim": [64],
    "num_nextn_predict_layers": [0, 1], "num_mtp_layers": [0, 1], "ep_size": [2], "use_mla": [False], "swiglu_alpha": [1.0, 1.702], "swiglu_limit": [0.05, 1.0, 7.0], "experts_per_token": [1],
    "shared_expert_intermediate_size": [16], "alibi": [True, False], "parallel_attn": [True, False], "new_decoder_architecture": [True, False], "multi_query": [True, False],
    "num_ln_in_parallel_attn": [1, 2], "ffn_hidden_size": [64, 128, 256], "n_head_kv": [1], "n_embed": [32, 64], "n_layer": [1], "n_head": [2], "attention_softmax_in_fp32": [False],
    "per_layer_config": [{}, {"0": {"sliding_window": 2}}, {"1": {"skip": ["attention"]}}, {"0": {"rms_norm_eps": 0.1}}], "mlp_layer_types": [["dense", "dense"], ["sparse", "sparse"], ["dense", "sparse"]],
    "block_types": [["attention"]], "hidden_size_per_layer_input": [4], "laurel_rank": [4], "num_kv_shared_layers": [1], "altup_num_inputs": [2], "cross_attention_layers": [[1]],
    "temperature_tuning": [True], "attn_temperature_tuning": [True], "use_parallel_residual": [False], "mup_enabled": [True], "head_bias": [True], "lm_head_bias": [True],
    "encoder_layers": [1], "long_factor": [[1.0] * 4], "rope_scaling_factor": [2.0], "rope_scaling_type": ["linear"], "model_type": ["llama", "LLaMA", "ministral", "nothing"],
}
TYPES = ["default", "linear", "dynamic", "yarn", "llama3", "longrope", "su", "ntk", "proportional", "mrope", "spiral"]


def scalings(base, half):
    """Rotations as `rope_scaling` says them, without a base."""
    short, long = [1.0 + 0.1 * i for i in range(half)], [1.5 + 0.7 * i for i in range(half)]
    full = {"factor": 4.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    longs = {"short_factor": short, "long_factor": long}
    yield from ({}, {"rope_type": "default"}, {"type": "default"}, {"factor": 2.0}, {"rope_type": None}, {"type": "linear", "factor": 2.0}, {"rope_type": "linear", "factor": 2.0})
    yield from ({"rope_type": kind} for kind in TYPES)
    yield from ({"rope_type": kind, "factor": 4.0} for kind in TYPES)
    yield from ({"rope_type": kind, **full, **longs} for kind in TYPES)
    yield {"rope_type": "linear", "factor": 0.5}
    yield {"rope_type": "linear", "factor": 4}
    yield {"rope_type": "linear", "factor": None}
    yield {"rope_type": "linear", "factor": 2.0, "extra": 1}
    yield {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}
    yield {"rope_type": "default", "mrope_section": [2, 1, 1]}
    yield {"type": "mrope", "mrope_section": [2, 1, 1]}
    yield {"rope_type": "dynamic", "factor": 4.0, "alpha": 1000.0}
    yield {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 8}
    yield {"type": "dynamic", "factor": 2.0}
    yield {"rope_type": "llama3", **{key: value for key, value in full.items() if key != "original_max_position_embeddings"}}
    yield {"rope_type": "llama3", **full, "factor": 8.0, "low_freq_factor": 2.0}
    for key in full:
        yield {"rope_type": "llama3", **{other: value for other, value in full.items() if other != key}}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    yield yarn
    yield {**yarn, "type": "linear"}
    yield {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    for more in ({"beta_fast": 8, "beta_slow": 2}, {"beta_fast": 0, "beta_slow": None}, {"attention_factor": 1.5}, {"attention_factor": 1}, {"attention_factor": None}, {"mscale": 0.5},
                 {"mscale": 1.0, "mscale_all_dim": 0.5}, {"mscale_all_dim": 0.7}, {"mscale": 0.0, "mscale_all_dim": 0.7}, {"mscale": 0.7, "mscale_all_dim": 0.0}, {"truncate": False}, {"truncate": None},
                 {"factor": 0.5}, {"factor": None}, {"finetuned": True}, {"beta": 3}):
        yield {**yarn, **more}
    longrope = {"rope_type": "longrope", **longs, "original_max_position_embeddings": 16}
    yield longrope
    yield {"type": "longrope", **longs}
    yield {"type": "su", **longs}
    yield {"type": "yarn", **longs}
    for more in ({"factor": 4.0}, {"factor": 0.5}, {"attention_factor": 1.5}, {"short_factor": [1.0] * (half + 1)}, {"long_factor": None}, {"short_mscale": 1.2, "long_mscale": 1.3},
                 {"original_max_position_embeddings": 32}, {"original_max_position_embeddings": 64}):
        yield {**longrope, **more}


def outcome(folder, config):
    """[loss, mark] of the model that a config and the weights of a folder make, or why there is none."""
    (folder / "config.json").write_text(json.dumps(config))
    try:
        torch.manual_seed(0)
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    except Exception as error:  # noqa: BLE001
        return "shapes" if "ignore_mismatched_sizes" in str(error) else "refused"
    if info["missing_keys"] or info["mismatched_keys"]:
        return "shapes"
    if info["unexpected_keys"]:
        return "more"
    model.eval()
    vocabulary = config["vocab_size"] if isinstance(config.get("vocab_size"), int) else model.config.vocab_size
    loss, mark, k, count = 0.0, 0.0, 0, 0
    try:
        for row, length in enumerate(LENGTHS):
            ids = [(7 + 31 * i + 13 * i * i + row) % vocabulary for i in range(length)]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), return_dict=True, use_cache=False).logits[0].double()
            loss += torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum").item()
            weights = torch.cos(1 + 0.37 * torch.arange(k, k + logits.numel(), dtype=torch.float64))
            mark, k, count = mark + (logits.flatten() * weights).sum().item(), k + logits.numel(), count + length - 1
    except Exception:  # noqa: BLE001
        return "refused"
    if not math.isfinite(loss) or not math.isfinite(mark):
        return "not finite"
    return [round(loss / count, 7), round(mark / sum(LENGTHS), 7)]


def combinations(config):
    """Keys that only mean something together."""
    window, kinds = {"use_sliding_window": True, "sliding_window": 3}, {"layer_types": KINDS[0]}
    yield from (window, {**window, "max_window_layers": 0}, {**window, "max_window_layers": 1}, {**window, "max_window_layers": 2}, {**window, **kinds}, {"sliding_window": 3, **kinds},
                {"sliding_window": 3, "layer_types": KINDS[1]}, {"sliding_window": 3, "layer_types": KINDS[2]}, {"sliding_window": None, **kinds}, {**window, "layer_types": None},
                {"sliding_window": 3, "layer_types": None}, {"use_sliding_window": False, "sliding_window": 3, **kinds}, {"use_sliding_window": True, "sliding_window": None, **kinds},
                {"use_sliding_window": True, "-": ["sliding_window"]}, {"use_sliding_window": True, "-": ["sliding_window", "layer_types"], "max_window_layers": 0})
    yield from ({**window, "max_window_layers": 1, "-": ["layer_types"]}, {"sliding_window": 3, "-": ["layer_types"]}, {"sliding_window": 3, "sliding_window_pattern": 2, "-": ["layer_types"]},
                {"sliding_window": 3, "_sliding_window_pattern": 2, "-": ["layer_types"]}, {"-": ["layer_types", "sliding_window"]}, {"-": ["layer_types", "no_rope_layers"]},
                {**window, "-": ["layer_types"], "no_rope_layers": [1, 0]}, {"num_hidden_layers": 1, "-": ["layer_types", "no_rope_layers"]})
    eps = 1.0 / 64
    yield from ({"rms_norm_eps": eps, "layer_norm_eps": 0.1}, {"num_key_value_heads": None, "head_dim": None}, {"-": ["num_key_value_heads", "head_dim"]}, {"-": ["rope_parameters", "max_position_embeddings"]},
                {"original_max_position_embeddings": 16, "max_position_embeddings": 128}, {"hidden_act": "gelu", "hidden_activation": None}, {"hidden_act": "gelu", "-": ["hidden_activation"]},
                {"hidden_act": "relu", "hidden_activation": "gelu_pytorch_tanh"}, {"num_experts": 4, "num_local_experts": 8}, {"num_experts": 8, "num_local_experts": 4}, {"n_routed_experts": 4, "num_experts": 8},
                {"n_group": 2, "topk_group": 1, "topk_method": "group_limited_greedy"}, {"n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy", "norm_topk_prob": True},
                {"n_group": None, "topk_group": None}, {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 3}, {"parallel_attn": False, "new_decoder_architecture": False},
                {"parallel_attn": False, "new_decoder_architecture": True}, {"alibi": True, "parallel_attn": False}, {"num_ln_in_parallel_attn": 1, "new_decoder_architecture": True},
                {"num_ln_in_parallel_attn": 2, "new_decoder_architecture": False})
    for rope in ({"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}, {"rope_type": "dynamic", "factor": 2.0}):
        yield {"rope_parameters": {**rope, "rope_theta": 500.0}, "rope_theta": 77.0}
        yield {"rope_parameters": rope, "rope_theta": 77.0}
        yield {"rope_parameters": rope, "rope_theta": 77.0, "original_max_position_embeddings": 8}
        yield {"rope_parameters": rope, "rope_scaling": {"rope_type": "linear", "factor": 3.0}}
        yield {"rope_parameters": rope, "rope_scaling": None}
        yield {"rope_parameters": rope, "rope_scaling": {}}
        yield {"rope_parameters": rope, "partial_rotary_factor": 0.5}
        yield {"rope_parameters": {**rope, "rope_theta": 500.0}, "max_position_embeddings": 16}
    # transformers does not fill a null `head_dim` of Mixtral before these ask for it.
    if config["model_type"] == "mixtral":
        short, long = [1.0, 1.1, 1.2, 1.3], [1.5, 2.2, 2.9, 3.6]
        for rope in ({"rope_type": "yarn", "factor": 4.0}, {"rope_type": "dynamic", "factor": 4.0}, {"rope_type": "longrope", "short_factor": short, "long_factor": long, "original_max_position_embeddings": 16}):
            yield {"head_dim": 8, "rope_parameters": {"rope_theta": 1e6, **rope}}
            yield {"head_dim": 8, "rope_parameters": {"rope_theta": 1e6, **rope}, "max_position_embeddings": 16}
    sliding, full = {"rope_type": "default", "rope_theta": 500.0}, {"rope_type": "linear", "factor": 2.0, "rope_theta": 900.0}
    yield from ({"rope_parameters": {"sliding_attention": sliding, "full_attention": full}}, {"rope_parameters": {"full_attention": full}}, {"rope_parameters": {"sliding_attention": sliding}},
                {"rope_parameters": {"sliding_attention": sliding, "full_attention": None}}, {"rope_parameters": {"sliding_attention": {"rope_type": "default"}, "full_attention": {"rope_type": "yarn", "factor": 4.0}}},
                {"rope_parameters": {"sliding_attention": full, "full_attention": sliding}}, {"rope_parameters": {"sliding_attention": sliding, "full_attention": full}, "rope_theta": 77.0},
                {"rope_parameters": None, "rope_theta": 77.0, "rope_local_base_freq": 55.0}, {"rope_parameters": None, "rope_theta": 77.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
                {"rope_parameters": None, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 33.0}, "rope_theta": 77.0})


def changes(config, old, names, foreign, half):
    """Every change of a family: (which config, change)."""
    yield "v5", {}
    yield "v4", {}
    for version, base in (("v5", config), ("v4", old)):
        for key in sorted(set(base) | (names if version == "v5" else set())):
            if key in base:
                yield version, {"-": [key]}
            yield version, {key: None}
            if version == "v4" and key in config and key not in ("rope_theta", "sliding_window", "layer_types", "partial_rotary_factor"):
                continue
            value = base.get(key)
            tried = VALUES.get(key)
            if key in ("rope_parameters", "rope_scaling"):
                continue
            if tried is None:
                tried = [NEUTRAL[key]] if key in NEUTRAL else [value * 2, value / 2, 0] if isinstance(value, (int, float)) and not isinstance(value, bool) else [not value] if isinstance(value, bool) else []
            for new in tried:
                if new != value or type(new) is not type(value):
                    yield version, {key: new}
    for key in sorted(foreign):
        for new in VALUES.get(key, [NEUTRAL.get(key)]):
            yield "v5", {key: new}
    for combination in combinations(config):
        yield "v5", combination
    theta = old.get("rope_theta", 10000.0)
    for scaling in scalings(config, half):
        yield "v4", {"rope_scaling": scaling}
        yield "v5", {"rope_parameters": {"rope_theta": theta, **scaling}}
    yield "v5", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    yield "v5", {"rope_scaling": {"type": "yarn", "factor": 4.0}}


def cases(family):
    """Changes of a family and what came of them."""
    config, old = (json.loads((ROOT / family / name).read_text()) for name in ("model/config.json", "config_v4.json"))
    built = AutoConfig.for_model(config["model_type"])
    names = {field.name for field in fields(built)} | {"rope_theta", "rope_scaling", "partial_rotary_factor"} | set(config)
    names -= {"transformers_version", "id2label", "label2id", "problem_type"} & (names - set(config))
    head = config.get("qk_rope_head_dim") or config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    seen, found = set(), []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for file in (ROOT / family / "model").glob("*.safetensors*"):
            shutil.copy(file, folder / file.name)
        for version, change in changes(config, old, names, (set(VALUES) | set(NEUTRAL)) - names, head // 2):
            key = json.dumps([version, change], sort_keys=True)
            if key in seen:
                continue
            seen.add(key)
            changed = copy.deepcopy(config if version == "v5" else old)
            for name in change.get("-", []):
                changed.pop(name, None)
            found.append([[version, change], outcome(folder, changed | {name: value for name, value in change.items() if name != "-"})])
    base = found[0][1]
    return [found[0]] + [[change, "=" if result == base else result] for change, result in found[1:]]


def save(path, families):
    """Every change once, and what came of it by family."""
    texts = {json.dumps(change, sort_keys=True, separators=(",", ":")): None for found in families.values() for change, _ in found}
    numbers = {text: number for number, text in enumerate(texts)}
    rows = {name: [[numbers[json.dumps(change, sort_keys=True, separators=(",", ":"))], result] for change, result in found] for name, found in families.items()}
    lines = ",\n".join(f'"{name}":{json.dumps(row, separators=(",", ":"))}' for name, row in rows.items())
    path.write_text('{"changes":[\n' + ",\n".join(texts) + "\n],\n" + lines + "\n}\n")


def load(path):
    made = json.loads(path.read_text()) if path.exists() else {"changes": []}
    return {name: [[made["changes"][number], result] for number, result in row] for name, row in made.items() if name != "changes"}


def main():
    path = Path(sys.argv[1]) / "cases.json"
    for family in sys.argv[2:] or FAMILIES:
        found = cases(family)
        save(path, load(path) | {family: found})
        print(f"{family}: {len(found)} cases, {sum(isinstance(result, list) or result == '=' for _, result in found)} computed", flush=True)


if __name__ == "__main__":
    main()
