"""Optimizer steps of transformers + PEFT on the rows of a run of rankine, padded batch by batch: see peer.md.

The rows and their labels are read from rankine's token cache, and come in the order in which rankine visits them in its first epoch, so
that both train the same rows at each step. With --group-by-length they are ordered as transformers' Trainer does with that option. One
configuration a process; prints one JSON line.
"""

import time

STARTED = time.perf_counter()

import argparse
import json
import resource
import struct
from pathlib import Path

MAGIC = b"RKTOKEN\x05"
HEADER, ENTRY = struct.Struct("<8s32s32sQQ32s"), struct.Struct("<QIIQIIII")
BROKEN = 2**32 - 1
MASK = 2**64 - 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a model's folder")
    parser.add_argument("--adapter", type=Path, required=True, help="the fresh adapter to start from")
    parser.add_argument("--rows", type=Path, required=True, help="rankine's token cache of the data file, *.tokens")
    parser.add_argument("--sequence-len", type=int, default=256, help="longer rows are left out")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--group-by-length", action="store_true")
    parser.add_argument("--seed", type=int, default=42, help="training.seed of the recipe")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    return parser.parse_args()


def read_rows(path, sequence_len):
    """Ids and, for each, whether it is trained, of every row that rankine keeps; the layout is that of src/data/corpus/token_cache.rs."""
    content = path.read_bytes()
    magic, _, _, rows, records, _ = HEADER.unpack_from(content)
    if magic != MAGIC:
        raise SystemExit(f"{path} is not a token cache of this version")
    kept = []
    for row in range(rows):
        start, length, trained, *_ = ENTRY.unpack_from(content, HEADER.size + records + row * ENTRY.size)
        if trained in (0, BROKEN) or length > sequence_len:
            continue
        start += HEADER.size
        ids = struct.unpack_from(f"<{length}I", content, start)
        bits = content[start + 4 * length : start + 4 * length + (length + 7) // 8]
        kept.append((ids, [bits[token // 8] >> (token % 8) & 1 == 1 for token in range(length)]))
    return kept


def mix(key):
    """SplitMix64, src/keyed_random.rs."""
    z = (key + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def order_of_rankine(seed, rows):
    """The first epoch's, src/data/corpus/shuffle.rs."""
    key = mix(mix(seed))
    return sorted(range(rows), key=lambda row: mix(key ^ row))


def order_by_length(seed, rows, batch):
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    lengths = [len(ids) for ids, _ in rows]
    return get_length_grouped_indices(lengths, batch, generator=torch.Generator().manual_seed(seed))


def padded(rows):
    """Ids, attention mask and labels; the loss shifts the labels."""
    import torch

    length = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for index, (tokens, trained) in enumerate(rows):
        ids[index, : len(tokens)] = torch.tensor(tokens)
        mask[index, : len(tokens)] = 1
        labels[index, : len(tokens)] = torch.tensor([token if is_trained else -100 for token, is_trained in zip(tokens, trained)])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def main():
    args = arguments()
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(args.threads)
    rows = read_rows(args.rows, args.sequence_len)
    order = order_by_length(args.seed, rows, args.batch) if args.group_by_length else order_of_rankine(args.seed, len(rows))
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="sdpa")
    model.config.use_cache = False
    model = peft.PeftModel.from_pretrained(model, args.adapter, is_trainable=True)
    model.train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=args.learning_rate, eps=1e-8, weight_decay=0.01)

    steps, first = [], None
    for step in range(args.warmup + args.steps):
        places = [(step * args.batch + place) % len(rows) for place in range(args.batch)]
        chosen = [rows[order[place]] for place in places]
        began = time.perf_counter()
        batch = padded(chosen)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = loss.item()
        seconds = time.perf_counter() - began
        first = first or time.perf_counter() - STARTED
        tokens, trained = sum(len(ids) for ids, _ in chosen), int((batch["labels"][:, 1:] != -100).sum())
        steps.append({"seconds": seconds, "loss": loss, "tokens": tokens, "trained": trained, "padded": batch["input_ids"].numel()})
    measured = steps[args.warmup :]
    total = {key: sum(step[key] for step in measured) for key in ["seconds", "tokens", "trained", "padded"]}
    result = {
        # Of whole steps together: batches differ in length.
        "tokens_per_second": total["tokens"] / total["seconds"],
        "trained_tokens_per_second": total["trained"] / total["seconds"],
        "padding_share": 1 - total["tokens"] / total["padded"],
        "rows": len(rows),
        "tokens": [step["tokens"] for step in steps],
        "losses": [step["loss"] for step in steps],
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "process_start_to_first_step_seconds": first,
        "versions": {"torch": torch.__version__, "peft": peft.__version__},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
