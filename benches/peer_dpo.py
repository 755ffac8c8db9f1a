"""Steps of DPO by TRL + PEFT on a file of preferences, beside rankine's: see peer.md.

    python benches/peer_dpo.py --model DIR --adapter DIR --pairs datasets/medical-preferences.parquet

One configuration a process; prints one JSON line: seconds and loss of each step, and the process's peak memory.
"""

import argparse
import json
import resource
import tempfile
import time

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from torch.utils.data import SequentialSampler
from trl import DPOConfig, DPOTrainer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
parser.add_argument("--adapter", required=True, help="the fresh adapter to start from")
parser.add_argument("--pairs", required=True, help="a Parquet file with prompt, chosen and rejected")
parser.add_argument("--rows", type=int, default=48, help="the first rows of the file")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
torch.set_num_threads(args.threads)


class Clock(TrainerCallback):
    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.began)


class InOrder(DPOTrainer):
    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
model = PeftModel.from_pretrained(model, args.adapter, is_trainable=True)
tokenizer = AutoTokenizer.from_pretrained(args.model)
rows = pq.read_table(args.pairs, columns=["prompt", "chosen", "rejected"]).slice(0, args.rows).to_pylist()
config = DPOConfig(
    output_dir=tempfile.mkdtemp(),
    per_device_train_batch_size=args.batch,
    num_train_epochs=1,
    learning_rate=1e-4,
    lr_scheduler_type="constant",
    beta=0.1,
    max_length=256,
    logging_steps=1,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    bf16=False,
    gradient_checkpointing=False,
)
clock = Clock()
trainer = InOrder(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock])
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": clock.seconds, "losses": losses, "peak_mib": peak}))
