"""Makes medical-preferences.parquet and medical-labels.parquet of medical-glossary.parquet (pyarrow).

    python datasets/make_preferences.py

A row of preferences is a question of the glossary with its own answer (chosen) and with that of another term of the same
part of speech (rejected). A row with a label is a question with one of the two. Drawn with a fixed seed.
"""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent
ROWS = 1200
TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def write(name, columns, schema):
    table = pa.table(columns, schema=pa.schema(schema))
    pq.write_table(table, FOLDER / name, compression="zstd", compression_level=19)
    print(name, table.num_rows, (FOLDER / name).stat().st_size)


def main():
    random.seed(23)
    glossary = pq.read_table(FOLDER / "medical-glossary.parquet").to_pylist()
    by_kind = {}
    for row in glossary:
        by_kind.setdefault(row["part_of_speech"], []).append(row)
    prompts, chosen, rejected = [], [], []
    for row in random.sample([row for row in glossary if len(by_kind[row["part_of_speech"]]) > 1], ROWS):
        other = random.choice([other for other in by_kind[row["part_of_speech"]] if other["definition"] != row["definition"]])
        prompts.append(row["messages"][:1])
        chosen.append(row["messages"][1:])
        rejected.append(other["messages"][1:])
    write(
        "medical-preferences.parquet",
        {"prompt": prompts, "chosen": chosen, "rejected": rejected},
        [("prompt", TURNS), ("chosen", TURNS), ("rejected", TURNS)],
    )
    labels = [random.random() < 0.5 for _ in prompts]
    write(
        "medical-labels.parquet",
        {
            "prompt": prompts,
            "completion": [good if label else bad for good, bad, label in zip(chosen, rejected, labels)],
            "label": labels,
        },
        [("prompt", TURNS), ("completion", TURNS), ("label", pa.bool_())],
    )


main()
