"""What transformers takes for keys that a config.json does not name: python make_defaults.py FOLDER writes defaults.json and wrappers.json there.

They lie in src/model/families. defaults.json has, by `model_type`, every key of its config class that says something about a decoder. A `?` at the end
of a key: null stands for none, elsewhere it is no value. `rope_theta` is the class's base of the rotation where the config names none.
wrappers.json has models with a decoder for text beside others: the class of their `text_config` where that does not say one (`fixed`: whatever it
says), their own `tie_word_embeddings`, and the values of a `text_config` that is absent altogether.
"""

import json
import sys
from dataclasses import fields
from pathlib import Path

from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

FAMILIES = ["bert", "cohere2", "deepseek_v2", "deepseek_v3", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text", "gemma4_text", "gemma4_unified_text", "glm4", "gpt2", "gpt_neox", "gpt_oss", "granite",
            "granitemoe", "granitemoehybrid", "hunyuan_v1_dense", "lfm2", "lfm3", "llama", "ministral", "ministral3", "mistral", "mixtral", "modernbert", "nanochat", "nemotron", "olmo2", "olmo3", "olmoe", "phi",
            "phi3", "qwen2", "qwen2_5_vl_text", "qwen2_moe", "qwen2_vl_text", "qwen3", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "roberta", "seed_oss", "smollm3", "stablelm", "starcoder2", "xlm-roberta"]
# Of every model, or of generation and saving: they say nothing about what a decoder computes.
OTHER = {"transformers_version", "architectures", "output_hidden_states", "return_dict", "dtype", "chunk_size_feed_forward", "is_encoder_decoder",
         "id2label", "label2id", "problem_type", "use_cache", "bos_token_id", "eos_token_id", "initializer_range", "rope_parameters", "pretraining_tp",
         "num_mtp_layers", "time_step_limit", "classifier_dropout", "eod_token_id", "initializer_cutoff_factor", "decoder_bias", "classifier_pooling", "classifier_bias",
         "classifier_activation", "deterministic_flash_attn", "sparse_prediction", "sparse_pred_ignore_index", "cls_token_id", "sep_token_id"}
# Those that do not rotate.
PLACED = {"bert", "gpt2", "roberta", "xlm-roberta"}
# Those whose layers may have values of their own.
BY_LAYER = {"gemma4_text", "gemma4_unified_text"}
WRAPPERS = ["deepseek_vl", "deepseek_vl_hybrid", "gemma3", "gemma4", "gemma4_unified", "glmasr", "got_ocr2", "granite_speech", "idefics2", "idefics3", "internvl", "janus", "kimi_k25",
            "lighton_ocr", "llava", "llava_next", "llava_next_video", "llava_onevision", "mistral3", "ovis2", "qwen2_5_vl", "qwen2_audio", "qwen2_vl", "qwen3_5",
            "qwen3_5_moe", "smolvlm", "video_llava", "vipllava", "voxtral"]
# Those that are tied where their text_config says so, too.
EITHER = {"llava", "llava_next_video", "llava_onevision", "qwen2_5_vl", "qwen2_vl"}


def defaults(family):
    config = CONFIG_MAPPING[family]
    of_class = {field.name + ("?" if "None" in str(field.type) or "Optional" in str(field.type) else ""): field.default for field in fields(config) if field.name not in OTHER}
    theta = {} if isinstance(config.default_theta, dict) or family in PLACED else {"rope_theta": config.default_theta}
    layers = {"per_layer_config?": None} if family in BY_LAYER else {}
    # Sizes under their usual names.
    usual = {own: name for name, own in config.attribute_map.items()} if family == "gpt2" else {}
    return dict(sorted({usual.get(key, key): value for key, value in (of_class | theta | layers).items() if not key.startswith("summary_")}.items()))


def wrapper(name):
    config = CONFIG_MAPPING[name]
    text = config.sub_configs_defaults["text_config"]
    absent = {key: value for key, value in text.init_kwargs.items() if key not in OTHER | {"model_type", "rope_parameters"}}
    rope = text.init_kwargs.get("rope_parameters") or {}
    absent |= {key: value for key, value in rope.items() if key == "rope_theta"}
    tied = {field.name: field.default for field in fields(config)}.get("tie_word_embeddings", False)
    return {"text": text.model_type, "fixed": text.config_class is not AutoConfig, "tied": tied, "either": name in EITHER, "absent": absent}


def write(path, made):
    lines = ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in made.items())
    path.write_text("{\n" + lines + "\n}\n")


write(Path(sys.argv[1]) / "defaults.json", {family: defaults(family) for family in FAMILIES})
write(Path(sys.argv[1]) / "wrappers.json", {name: wrapper(name) for name in WRAPPERS})
