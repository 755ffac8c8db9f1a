#!/usr/bin/env python3
"""What llama.cpp's own converter writes for the models of ../archs, without the tokenizer: keys, and tensors with their shapes.

    make.py LLAMA_CPP [FAMILY ..]     # a checkout with convert_hf_to_gguf.py; needs torch, transformers, gguf's dependencies

`smollm3` is ../archs/smollm3 with its two layers repeated to five, because llama.cpp knows no other layers without a rotation than every
fourth one; `qwen3_moe` has the experts of its second layer in its first one too, which llama.cpp does not let be dense.
"""

import json
import sys
import tempfile
from pathlib import Path

LLAMA_CPP = Path(sys.argv[1])
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py")]

import gguf  # noqa: E402
import torch  # noqa: E402
from conversion import ModelBase, get_model_class  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

HERE = Path(__file__).resolve().parent
ALL = "llama mistral qwen2 qwen3 gemma gemma2 gemma3_text granite olmo2 smollm3 phi3 phi3_longrope mixtral qwen3_moe".split()


def deeper(model, folder, layers=5):
    """A copy with its two layers repeated."""
    config = json.loads((model / "config.json").read_text())
    config |= {"num_hidden_layers": layers, "layer_types": ["full_attention"] * layers, "no_rope_layers": [1, 1, 1, 0, 1]}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(model / "model.safetensors")
    for layer in range(2, layers):
        source = f"model.layers.{layer % 2}."
        weights |= {k.replace(source, f"model.layers.{layer}."): v.clone() for k, v in weights.items() if k.startswith(source)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def routed(model, folder):
    """A copy with experts in every layer."""
    config = json.loads((model / "config.json").read_text()) | {"mlp_only_layers": []}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {k: v for k, v in load_file(model / "model.safetensors").items() if not k.startswith("model.layers.0.mlp.")}
    weights |= {k.replace(".1.mlp.", ".0.mlp.", 1): v.clone() for k, v in weights.items() if k.startswith("model.layers.1.mlp.")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


CHANGED = {"smollm3": deeper, "qwen3_moe": routed}


def convert(model, path):
    converter = get_model_class(ModelBase.load_hparams(model, False)["architectures"][0])
    converter.set_vocab = lambda self: None
    with torch.inference_mode():
        converter(model, gguf.LlamaFileType.ALL_F32, path, eager=True).write()


def plain(value):
    """A number as f32 has it, in as many digits as tell it."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


def main():
    for family in sys.argv[2:] or ALL:
        with tempfile.TemporaryDirectory() as temporary:
            temporary = Path(temporary)
            model = HERE.parent / "archs" / family / "model"
            model = CHANGED[family](model, temporary) if family in CHANGED else model
            convert(model, temporary / "out.gguf")
            reader = gguf.GGUFReader(temporary / "out.gguf")
            other = ("GGUF.", "general.", "tokenizer.")
            keys = {k: plain(f.contents()) for k, f in sorted(reader.fields.items()) if not k.startswith(other)}
            shapes = {t.name: [int(size) for size in reversed(t.shape)] for t in sorted(reader.tensors, key=lambda t: t.name)}
            architecture = reader.fields["general.architecture"].contents()
            text = json.dumps({"architecture": architecture, "keys": keys, "tensors": shapes}, indent=1)
            (HERE / f"{family}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
