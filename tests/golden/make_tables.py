"""Adapters of the embedding and the head, by PEFT: python make_tables.py archs SCRIPTS

SCRIPTS is the folder of the reference scripts (`make_fixtures.py`, `common.py`) that made the other variants. Rows of tokens on llama, whose head is
its own, and on qwen2, whose head is its embedding; on qwen2 and gemma2 also whole tables and low-rank matrices of both, which untie them.
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
    """The helpers' own, moved from where PEFT starts: A of an embedding is zero there, and tables and rows are the base's."""
    model = plain_wrap(model, lora_config, seed, randomise_b)
    gen = torch.Generator().manual_seed(seed + 2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if any(part in name for part in ("lora_embedding_A", "trainable_tokens_delta", "modules_to_save")):
                p.add_(torch.randn(p.shape, generator=gen) * 0.2)
    return model


make_fixtures.wrap = wrap
PLAIN = dict(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], bias="none", task_type="CAUSAL_LM")
BOTH = ["embed_tokens", "lm_head"]


def tokens_of(batches, count):
    """Some tokens that the batches have, and one that none has."""
    seen = sorted(set(torch.cat([batch["input_ids"].flatten() for batch in batches]).tolist()))
    unseen = next(token for token in range(300) if token not in seen)
    return [*seen[2:2 + count], unseen]


CASES = [
    ("llama", "trainable_tokens", lambda tokens: dict(trainable_token_indices=tokens), True),
    ("llama", "trainable_tokens_of_both",
     lambda tokens: dict(trainable_token_indices={"embed_tokens": tokens, "lm_head": tokens[1:3]}), True),
    ("qwen2", "trainable_tokens", lambda tokens: dict(trainable_token_indices=tokens), True),
    ("qwen2", "trainable_tokens_of_the_head", lambda tokens: dict(trainable_token_indices={"lm_head": tokens}), False),
    ("qwen2", "modules_to_save", lambda _: dict(modules_to_save=["lm_head"]), False),
    ("qwen2", "embedding_lora", lambda _: dict(target_modules=["q_proj", *BOTH]), False),
    ("gemma2", "modules_to_save", lambda _: dict(modules_to_save=BOTH), False),
    ("gemma2", "embedding_lora", lambda _: dict(target_modules=["q_proj", *BOTH], use_rslora=True), False),
    ("gemma2", "trainable_tokens", lambda tokens: dict(trainable_token_indices=tokens), True),
]
for arch, name, change, merge in CASES:
    golden = load_golden(root / arch / "golden.safetensors")
    batch, batches = stored_batches(golden)
    out = root / arch / "variants" / name
    kwargs = PLAIN | change(tokens_of(batches, 5))
    tensors, info = adapter_case(root / arch / "model", out / "adapter", kwargs, batch, batches, derive_seed(1, arch, name),
                                 golden["logits"], merge=merge, noise=False)
    save_tensors(out / "golden.safetensors", tensors)
    write_json(out / "golden.json", {"variant": name, "base": arch, "seed": 1} | info)
    print(arch, name, info["lora_loss"], info["reload_max_diff"], info.get("merged_max_diff"), info["adapter_effect"],
          info["trainable"][-3:], flush=True)
