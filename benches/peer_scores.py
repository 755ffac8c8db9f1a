"""Compares the scores of `rankine classify` with those of the same adapter in PEFT (transformers, peft, pyarrow).

    rankine classify ADAPTER FILE --out scores.parquet
    python benches/peer_scores.py BASE ADAPTER FILE scores.parquet

FILE is a Parquet file with a column `text`, or `tokens` for an adapter of words. Rows go through PEFT in padded batches, so that the
place at which a text is scored is that of transformers. Prints the largest difference.
"""

import json
import sys

import pyarrow.parquet as pq
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

BATCH = 8


def main(base, adapter, data, ours):
    torch.set_num_threads(1)
    labels = json.load(open(f"{adapter}/labels.json"))
    labels["id2label"] = {int(id): name for id, name in labels["id2label"].items()}
    task = json.load(open(f"{adapter}/adapter_config.json"))["task_type"]
    kind = AutoModelForTokenClassification if task == "TOKEN_CLS" else AutoModelForSequenceClassification
    model = PeftModel.from_pretrained(kind.from_pretrained(base, dtype=torch.float32, **labels), adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows, scores = pq.read_table(data).to_pylist(), pq.read_table(ours)["scores"].to_pylist()
    largest = 0.0
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        texts = [" ".join(row["tokens"]) if task == "TOKEN_CLS" else row["text"] for row in part]
        encoded = tokenizer(texts, return_offsets_mapping=True)
        width = max(map(len, encoded["input_ids"]))
        pad = labels["pad_token_id"] if labels["pad_token_id"] is not None else 0
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in encoded["input_ids"]])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in encoded["input_ids"]])
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits
        for index, row in enumerate(part):
            theirs = logits[index]
            if task == "TOKEN_CLS":
                theirs = theirs[first_tokens(row["tokens"], encoded["offset_mapping"][index])].flatten()
            found = torch.tensor(scores[start + index])
            largest = max(largest, (theirs - found).abs().max().item())
    print(f"{len(rows)} rows, {labels['num_labels']} scores each: largest difference {largest:.2e}")
    sys.exit(largest > 5e-5)


def first_tokens(words, offsets):
    """The first token of each word that is no other word's."""
    places, start, token = [], 0, 0
    for word in words:
        while token < len(offsets) and (offsets[token][1] <= start or offsets[token][0] == offsets[token][1]):
            token += 1
        if token < len(offsets) and offsets[token][0] < start + len(word):
            places.append(token)
            token += 1
        start += len(word) + 1
    return places


main(*sys.argv[1:])
