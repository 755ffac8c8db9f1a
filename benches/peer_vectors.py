"""Compares the vectors of `rankine embed` with those of the same folder in sentence-transformers and in transformers + PEFT.

    rankine embed FILE --adapter ADAPTER --out vectors.parquet
    python benches/peer_vectors.py BASE ADAPTER vectors.parquet

ADAPTER may be `-`: then BASE is compared without one. Prints the largest difference of a number of a vector of length 1.
"""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

BATCH = 8


def pooled(hidden, mask, pooling):
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "lasttoken":
        return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def pooling_of(folder):
    path = Path(folder, "1_Pooling", "config.json")
    found = json.loads(path.read_text()) if path.exists() else {}
    if "pooling_mode" in found:
        return found["pooling_mode"]
    return next((mode for mode in ("cls", "lasttoken") if found.get(f"pooling_mode_{mode}_token", found.get(f"pooling_mode_{mode}"))), "mean")


def by_auto_model(base, adapter, texts):
    model = AutoModel.from_pretrained(base, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    pooling, vectors = pooling_of(adapter or base), []
    for start in range(0, len(texts), BATCH):
        encoded = tokenizer(texts[start : start + BATCH], padding=True, return_tensors="pt")
        encoded.pop("token_type_ids", None)
        with torch.no_grad():
            hidden = model(**encoded).last_hidden_state
        vectors.append(torch.nn.functional.normalize(pooled(hidden, encoded["attention_mask"], pooling), dim=1))
    return torch.cat(vectors)


def main(base, adapter, ours):
    torch.set_num_threads(1)
    adapter = None if adapter == "-" else adapter
    table = pq.read_table(ours)
    texts, vectors = table.column(0).to_pylist(), torch.tensor(table["embedding"].to_pylist())
    worst = 0.0
    ways = {
        "transformers": lambda: by_auto_model(base, adapter, texts),
        "sentence-transformers": lambda: torch.tensor(SentenceTransformer(adapter or base, device="cpu", model_kwargs={"dtype": torch.float32}).encode(texts, batch_size=BATCH)),
    }
    for name, way in ways.items():
        theirs = torch.nn.functional.normalize(way(), dim=1)
        largest = (theirs - vectors).abs().max().item()
        worst = max(worst, largest)
        print(f"{name}: {len(texts)} texts, vectors of {vectors.shape[1]}: largest difference {largest:.2e}")
    sys.exit(worst > 5e-5)


if __name__ == "__main__":
    main(*sys.argv[1:])
