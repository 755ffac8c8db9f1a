"""Adapters of experts, by PEFT: python make_experts.py archs SCRIPTS

SCRIPTS is the folder of the reference scripts (`make_fixtures.py`, `common.py`) that made those of mixtral and qwen3_moe. Stacked parameters of the
other families with experts, and modules of single experts where a checkpoint has them.
"""

import sys
from pathlib import Path

import torch

root = Path(sys.argv[1])
sys.path.insert(0, sys.argv[2])
from common import derive_seed, save_tensors, write_json  # noqa: E402
from make_fixtures import adapter_case, load_golden, per_expert_case, stored_batches  # noqa: E402

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
STACKED = ["gpt_oss", "granitemoe"]
for name, attention, experts in [("gpt_oss", "q_proj", "mlp.experts"), ("deepseek_v2", "q_proj", "mlp.experts"), ("deepseek_v3", "q_b_proj", "mlp.experts"),
                                 ("granitemoe", "q_proj", "block_sparse_moe.experts")]:
    golden = load_golden(root / name / "golden.safetensors")
    batch, batches = stored_batches(golden)
    model, out = root / name / "model", root / name / "variants" / "target_parameters"
    kwargs = dict(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=[attention],
                  target_parameters=[f"{experts}.gate_up_proj", f"{experts}.down_proj"], task_type="CAUSAL_LM")
    tensors, info = adapter_case(model, out / "adapter", kwargs, batch, batches, derive_seed(1, name, "tp"), golden["logits"],
                                 noise=False, final=False)
    save_tensors(out / "golden.safetensors", tensors)
    write_json(out / "golden.json", {"variant": "target_parameters", "base": name} | info)
    print(name, info["reload_max_diff"], info["merged_max_diff"], info["adapter_effect"])
    if name not in STACKED:
        per_expert_case(name, "", model, batch, golden["logits"], 1, root)
