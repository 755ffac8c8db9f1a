"""Makes glossary-fields.parquet of the glossaries and the general definitions (pyarrow), and measures two simple classifiers on it
(numpy).

    python datasets/make_fields.py

A row is a definition without its word and without a field that it names itself, and the field that it is from: medical, legal or general. As many of each, in an order drawn
with a fixed seed. The measured classifiers are the largest class, and multinomial naive Bayes of words; both learn from the rows
that `val_set_size: 0.2` would train on in number, not the same ones.
"""

import json
import math
import random
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent
FIELDS = ["medical", "legal", "general"]
EACH = 960


def definitions():
    for field in FIELDS[:2]:
        rows = pq.read_table(FOLDER / f"{field}-glossary.parquet", columns=["definition"]).to_pylist()
        yield field, [row["definition"] for row in rows]
    rows = pq.read_table(FOLDER / "general-definitions.parquet").to_pylist()
    glosses = (row["text"].split(": ", 1)[1] for row in rows)
    # Without the examples, which the other two have in a column of their own.
    yield FIELDS[2], [gloss.split('; "')[0] for gloss in glosses]


def bare(text):
    """A definition without the field in parentheses that some begin with."""
    return re.sub(r"^\([^)]*\) ", "", text)


def main():
    random.seed(29)
    rows = []
    for label, (_, texts) in enumerate(definitions()):
        texts = sorted({bare(text) for text in texts if len(bare(text)) >= 20})
        rows += [(text, label) for text in random.sample(texts, EACH)]
    random.shuffle(rows)
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": FIELDS, "_type": "ClassLabel"},
    }
    schema = pa.schema(
        [("text", pa.string()), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}, schema=schema)
    path = FOLDER / "glossary-fields.parquet"
    pq.write_table(table, path, compression="zstd", compression_level=19)
    print(path.name, table.num_rows, path.stat().st_size)
    baselines(rows)


def baselines(rows):
    held_out = len(rows) // 5
    test, train = rows[:held_out], rows[held_out:]
    majority = Counter(label for _, label in train).most_common(1)[0][0]
    print(f"largest class: {sum(label == majority for _, label in test) / len(test):.3f}")
    words = lambda text: re.findall(r"[a-z]+", text.lower())
    counts = [Counter() for _ in FIELDS]
    for text, label in train:
        counts[label].update(words(text))
    vocabulary = len(set().union(*counts))
    totals = [sum(count.values()) + vocabulary for count in counts]
    score = lambda text, label: sum(math.log((counts[label][word] + 1) / totals[label]) for word in words(text))
    right = sum(max(range(len(FIELDS)), key=lambda label: score(text, label)) == label for text, label in test)
    print(f"naive Bayes of words: {right / len(test):.3f}")


main()
