"""Compares a GGUF base as rankine computes it with transformers on the unpacked weights, and leaves the answers as JSON for peer_gguf.mjs.

    rankine teach --base MODEL.gguf --prompts prompts.parquet --chat --max-tokens 200 --logprobs 512 --out answers.parquet
    python benches/peer_gguf.py MODEL.gguf answers.parquet answers.json [--ids]

Needs `pip install transformers torch pyarrow gguf`. Prompts are asked in the model's chat template; what is compared are the
log-probabilities of the tokens that the rows carry. With --ids nothing is computed: for answers of an adapter.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(model, answers, out, *options):
    torch.set_num_threads(1)
    folder = {"pretrained_model_name_or_path": Path(model).parent, "gguf_file": Path(model).name}
    tokenizer = AutoTokenizer.from_pretrained(**folder)
    peer = None if options else AutoModelForCausalLM.from_pretrained(**folder, dtype=torch.float32).eval()
    worst, places, written = 0.0, 0, []
    for row in pq.read_table(answers).to_pylist():
        prompt = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": row["prompt"]}]
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False)
        whole, ours = list(ids) + row["teacher_targets"], np.array(row["teacher_logprobs"], dtype=np.float64)
        places += len(ours)
        written.append({"prompt": list(ids), "targets": row["teacher_targets"], "ids": row["teacher_ids"], "logprobs": row["teacher_logprobs"]})
        if peer:
            with torch.no_grad():
                logits = peer(torch.tensor([whole])).logits[0, len(ids) - 1 : -1].double()
            theirs = logits.log_softmax(1).numpy()
            worst = max(worst, np.abs(np.take_along_axis(theirs, np.array(row["teacher_ids"]), axis=1) - ours).max())
    Path(out).write_text(json.dumps(written))
    if peer:
        print(f"transformers on the unpacked weights: log-probabilities at {places} places at most {worst:.2e} apart")
        sys.exit(worst > 5e-5)


if __name__ == "__main__":
    main(*sys.argv[1:])
