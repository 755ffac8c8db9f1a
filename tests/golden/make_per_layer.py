"""Adapters around the layers, by PEFT: python make_per_layer.py archs SCRIPTS

SCRIPTS is the folder of the reference scripts (`make_fixtures.py`, `common.py`) that made those of the families. On gemma4_small an adapter of every linear
map, that from which the layers' own inputs come included, and rows of the embedding, from which they come too; on gemma4_moe stacked experts.
"""

import sys
from pathlib import Path

import torch

root = Path(sys.argv[1])
sys.path.insert(0, sys.argv[2])
from common import derive_seed, save_tensors, write_json  # noqa: E402
import make_fixtures  # noqa: E402
from make_fixtures import adapter_case, load_golden, stored_batches  # noqa: E402

torch.set_num_threads(1)
plain_wrap = make_fixtures.wrap


def wrap(model, lora_config, seed, randomise_b=True):
    """The helpers' own, moved from where PEFT starts: rows are the base's."""
    model = plain_wrap(model, lora_config, seed, randomise_b)
    gen = torch.Generator().manual_seed(seed + 2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "trainable_tokens_delta" in name:
                p.add_(torch.randn(p.shape, generator=gen) * 0.2)
    return model


make_fixtures.wrap = wrap
PLAIN = dict(r=2, lora_alpha=4, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
CASES = [
    ("gemma4_small", "all_linear", lambda _: dict(target_modules="all-linear")),
    ("gemma4_small", "trainable_tokens", lambda tokens: dict(target_modules=["q_proj"], trainable_token_indices=tokens)),
    ("gemma4_moe", "target_parameters", lambda _: dict(target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"])),
]
for arch, name, change in CASES:
    golden = load_golden(root / arch / "golden.safetensors")
    batch, batches = stored_batches(golden)
    out = root / arch / "variants" / name
    tokens = sorted(set(torch.cat([batch["input_ids"].flatten() for batch in batches]).tolist()))[2:7]
    tensors, info = adapter_case(root / arch / "model", out / "adapter", PLAIN | change(tokens), batch, batches, derive_seed(1, arch, name), golden["logits"],
                                 noise=False, final=name != "target_parameters")
    save_tensors(out / "golden.safetensors", tensors)
    write_json(out / "golden.json", {"variant": name, "base": arch, "seed": 1} | info)
    print(arch, name, info["lora_loss"], info["reload_max_diff"], info.get("merged_max_diff"), info["adapter_effect"], info["trainable"][-2:], flush=True)
