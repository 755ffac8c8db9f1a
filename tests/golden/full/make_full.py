"""20 AdamW steps of all weights with torch and transformers: python make_full.py ../archs

Decay 0.1 on matrices, none on norms and biases; learning rate 1e-3, cosine with 3 warm-up steps; gradients clipped at 1.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

torch.set_num_threads(1)
for family in ["llama", "mistral", "qwen2", "qwen3", "qwen3_5", "granite4_h"]:
    folder = Path(sys.argv[1]) / family
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager")
    # Else torch leaves out the gradient of the padding token's row, be it the token that ends a turn.
    model.get_input_embeddings().padding_idx = None
    data = load_file(folder / "golden.safetensors")
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    scheduler = get_cosine_schedule_with_warmup(optimizer, 3, 20)
    curve = []
    for step in range(20):
        batch = {key: data[f"train.{key}"][step % 4] for key in ["input_ids", "attention_mask", "labels"]}
        loss = model(**batch).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        curve.append({"step": step, "loss": loss.item(), "grad_norm": norm.item(), "lr": scheduler.get_last_lr()[0]})
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    Path(f"{family}.json").write_text(json.dumps(curve, indent=1) + "\n")
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_file(weights, f"{family}.safetensors")
    print(family, curve[0], curve[-1])
