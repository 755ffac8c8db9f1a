"""Encoders by transformers and PEFT: python make_encoders.py OUT, in the folder of this file.

Each family of CASES is made small with drawn weights and saved as OUT/NAME/model, with an adapter on it, B not zero, as PEFT saves it
(OUT/NAME/adapter, task FEATURE_EXTRACTION). OUT/NAME/golden.safetensors has, for each of the rows of golden.json, the hidden rows after the last
norm, without and with the adapter (`hidden.R`, `lora.hidden.R`); the gradients of the adapter at the first step (`grad.K`) and its numbers after 20
(`final.K`). golden.json has the pairs, the pooling, and loss and gradient norm of 20 steps of InfoNCE: AdamW, lr 1e-3, weight decay 0.01, norm
clipped to 1, cosine with 3 warm-up steps. Every text runs alone, without padding. The tokenizer is that of archs/llama.

Each case of SCORED is a model for classification on such an encoder, of OUT/ENCODER/model or made here, with the adapter and the head that PEFT
saves (tasks SEQ_CLS and TOKEN_CLS): OUT/scored/NAME has `logits.R` of the rows of the first batch before the first step, and the rest as above.
A row of texts is [tokens, first token of the second type, label], of words [tokens, class or -100 of each], of pairs [chosen, rejected].

Made with torch 2 (CPU, one thread), transformers 5, PEFT 0.21.
"""

import json
import shutil
import sys
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, get_scheduler
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

torch.set_num_threads(1)
ROOT = Path(__file__).parent / "archs"
VOCABULARY = 304
SIZES = dict(vocab_size=VOCABULARY, hidden_size=32, num_attention_heads=4, intermediate_size=40)
BERT = SIZES | dict(num_hidden_layers=2, max_position_embeddings=24, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
LAYER = ["query", "key", "value", "attention.output.dense", "intermediate.dense"]
# Name: family, its keys, modules with an adapter, pooling.
CASES = {
    "bert": ("bert", BERT | dict(pad_token_id=0), LAYER, "mean"),
    "roberta": ("roberta", BERT | dict(pad_token_id=1, type_vocab_size=1, layer_norm_eps=1e-5), LAYER, "cls"),
    "xlm_roberta": ("xlm-roberta", BERT | dict(pad_token_id=2, hidden_act="gelu_new"), LAYER, "lasttoken"),
    "modernbert": ("modernbert", SIZES | dict(num_hidden_layers=4, max_position_embeddings=64, local_attention=6, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1,
                                              sep_token_id=2), ["Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"], "mean"),
}
# Name: base, modules with an adapter, problem, labels, modules saved beside the classifier.
SCORED = {
    "bert_texts": ("bert_scored", LAYER, "single_label_classification", 3, []),
    "bert_words": ("bert_scored", LAYER, "token_classification", 3, []),
    "bert_pooler": ("bert", LAYER, "single_label_classification", 2, ["pooler"]),
    "roberta_texts": ("roberta", LAYER, "multi_label_classification", 3, []),
    "xlm_roberta_reward": ("xlm_roberta", LAYER, "reward", 1, []),
    "modernbert_texts": ("modernbert_scored", CASES["modernbert"][2], "regression", 2, []),
    "modernbert_words": ("modernbert_scored", CASES["modernbert"][2], "token_classification", 3, []),
}
# Encoders with what stands before scores: family, its keys.
BASES = {
    "bert_scored": ("bert", CASES["bert"][1] | dict(num_labels=3)),
    "modernbert_scored": ("modernbert", CASES["modernbert"][1] | dict(num_labels=3, classifier_pooling="mean", classifier_bias=True, norm_bias=True)),
}
LENGTHS = [3, 7, 12, 16]


def row(length, seed):
    return [3 + (7 + 31 * i + 13 * i * i + 17 * seed) % (VOCABULARY - 3) for i in range(length)]


PAIRS = [[[row(LENGTHS[(i + batch) % 4], 10 * batch + i), row(LENGTHS[(i + 2 * batch + 1) % 4], 100 + 10 * batch + i)] for i in range(4)] for batch in range(2)]


def hidden(model, ids):
    ids = torch.tensor([ids])
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]


def loss_of(model, pairs, pooling):
    def vector(ids):
        rows = hidden(model, ids)
        pooled = {"mean": rows.mean(0), "lasttoken": rows[-1], "cls": rows[0]}[pooling]
        return torch.nn.functional.normalize(pooled, dim=0)

    anchors, positives = (torch.stack([vector(pair[side]) for pair in pairs]) for side in (0, 1))
    return torch.nn.functional.cross_entropy(anchors @ positives.T / 0.05, torch.arange(len(pairs)))


def drawn(model):
    """Draws all weights, so that none is 0 or 1, and rounds them to bfloat16."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        numbers = torch.randn(parameter.shape, generator=generator)
        is_norm = "norm" in name.lower()
        numbers = 1 + 0.1 * numbers if is_norm and name.endswith("weight") else 0.15 * numbers
        parameter.data = numbers.bfloat16().float()


def case(out, name):
    family, keys, targets, pooling = CASES[name]
    folder = out / name
    config = CONFIG_MAPPING[family](**keys)
    config._attn_implementation = "eager"
    # The pooler of BERT's class is of another task.
    more = {} if family == "modernbert" else {"add_pooling_layer": False}
    model = AutoModel.from_config(config, **more).float().eval()
    drawn(model)
    model.bfloat16().save_pretrained(folder / "model")
    # Read back: the buffers of rotations would stay rounded.
    model = AutoModel.from_pretrained(folder / "model", attn_implementation="eager", dtype=torch.float32, **more).eval()
    with_tokenizer(folder / "model")
    tensors = {}
    rows = [row(length, 200 + length) for length in LENGTHS]
    with torch.no_grad():
        for index, ids in enumerate(rows):
            tensors[f"hidden.{index}"] = hidden(model, ids).clone()
    torch.manual_seed(2)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, task_type="FEATURE_EXTRACTION"))
    for key, parameter in adapted.named_parameters():
        if "lora_B" in key:
            parameter.data *= 0.3
    adapted.save_pretrained(folder / "adapter")
    (folder / "adapter/README.md").unlink(missing_ok=True)
    with torch.no_grad():
        for index, ids in enumerate(rows):
            tensors[f"lora.hidden.{index}"] = hidden(adapted, ids).clone()

    trained = {key.replace(".default", ""): parameter for key, parameter in adapted.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    schedule = get_scheduler("cosine", optimizer, 3, 20)
    log = []
    for step in range(20):
        loss = loss_of(adapted, PAIRS[step % 2], pooling)
        loss.backward()
        if step == 0:
            tensors |= {f"grad.{key}": parameter.grad.clone() for key, parameter in trained.items()}
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        log.append({"step": step, "loss": loss.item(), "grad_norm": norm.item(), "lr": schedule.get_last_lr()[0]})
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    tensors |= {f"final.{key}": parameter.detach().clone() for key, parameter in trained.items()}
    saved = load_file(folder / "adapter/adapter_model.safetensors")
    assert saved.keys() == trained.keys(), name
    save_file(tensors, folder / "golden.safetensors")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    lines = ",\n".join(json.dumps(entry) for entry in log)
    (folder / "golden.json").write_text(
        "{\n" + f'"pooling": {json.dumps(pooling)},\n"temperature": 0.05,\n"rows": {json.dumps(rows)},\n"pairs": {json.dumps(PAIRS)},\n"train": [\n{lines}\n],\n"versions": {json.dumps(versions)}\n' + "}\n")
    print(name, log[0]["loss"], log[-1]["loss"], log[0]["grad_norm"], flush=True)


def with_tokenizer(folder):
    for file in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(ROOT / "llama/model" / file, folder / file)


def labeled(problem, labels, batch, i):
    """Makes row i of a batch."""
    ids = row(LENGTHS[(i + batch) % 4], 300 + 10 * batch + i)
    if problem == "reward":
        return [ids, row(LENGTHS[(i + 2 * batch + 1) % 4], 400 + 10 * batch + i)]
    if problem == "token_classification":
        return [ids, [-100 if (place + i) % 3 == 0 else (5 * place + i) % labels for place in range(len(ids))]]
    label = {
        "single_label_classification": [(i + batch) % labels],
        "multi_label_classification": [float((i + label + batch) % 2) for label in range(labels)],
        "regression": [0.5 * i - label + batch for label in range(labels)],
    }[problem]
    # Every other text is a pair.
    return [ids, 1 + len(ids) // 2 if i % 2 else len(ids), label]


def logits_of(model, ids, second, typed):
    ids = torch.tensor([ids])
    types = (torch.arange(ids.shape[1]) >= second).long()[None] if typed else None
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), **({"token_type_ids": types} if typed else {})).logits[0]


def scored_loss(model, problem, rows, typed):
    functional = torch.nn.functional
    if problem == "reward":
        rewards = [[logits_of(model, ids, len(ids), typed)[0] for ids in pair] for pair in rows]
        return torch.stack([-functional.logsigmoid(chosen - rejected) for chosen, rejected in rewards]).mean()
    if problem == "token_classification":
        logits = torch.cat([logits_of(model, ids, len(ids), typed) for ids, _ in rows])
        return functional.cross_entropy(logits, torch.tensor([label for _, labels in rows for label in labels]))
    logits = torch.stack([logits_of(model, ids, second, typed) for ids, second, _ in rows])
    labels = torch.tensor([label for _, _, label in rows])
    if problem == "single_label_classification":
        return functional.cross_entropy(logits, labels[:, 0])
    return functional.mse_loss(logits, labels) if problem == "regression" else functional.binary_cross_entropy_with_logits(logits, labels)


def scored_case(out, name):
    base, targets, problem, labels, saved = SCORED[name]
    words = problem == "token_classification"
    auto = AutoModelForTokenClassification if words else AutoModelForSequenceClassification
    path = out / "scored" / base if base in BASES else out / base / "model"
    if base in BASES and not path.exists():
        family, keys = BASES[base]
        model = AutoModelForSequenceClassification.from_config(CONFIG_MAPPING[family](**keys)).float()
        drawn(model)
        model.bfloat16().save_pretrained(path)
        with_tokenizer(path)
    torch.manual_seed(3)
    model = auto.from_pretrained(path, attn_implementation="eager", dtype=torch.float32, num_labels=labels, ignore_mismatched_sizes=True).eval()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, task_type="TOKEN_CLS" if words else "SEQ_CLS", modules_to_save=saved or None)
    adapted = get_peft_model(model, config)
    for key, parameter in adapted.named_parameters():
        if "lora_B" in key:
            parameter.data *= 0.3
        if "modules_to_save" in key:
            parameter.data = 0.2 * torch.randn(parameter.shape)
    folder = out / "scored" / name
    adapted.save_pretrained(folder / "adapter")
    (folder / "adapter/README.md").unlink(missing_ok=True)
    typed = getattr(model.config, "type_vocab_size", 1) > 1
    batches = [[labeled(problem, labels, batch, i) for i in range(4)] for batch in range(2)]
    tensors = {}
    with torch.no_grad():
        for index, (ids, second, *_) in enumerate(batches[0]):
            tensors[f"logits.{index}"] = logits_of(adapted, ids, second if isinstance(second, int) else len(ids), typed).clone()
    trained = {key.replace(".modules_to_save", "").replace(".default", ""): parameter for key, parameter in adapted.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    schedule = get_scheduler("cosine", optimizer, 3, 20)
    log = []
    for step in range(20):
        loss = scored_loss(adapted, problem, batches[step % 2], typed)
        loss.backward()
        if step == 0:
            tensors |= {f"grad.{key}": parameter.grad.clone() for key, parameter in trained.items()}
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        log.append({"step": step, "loss": loss.item(), "grad_norm": norm.item(), "lr": schedule.get_last_lr()[0]})
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    tensors |= {f"final.{key}": parameter.detach().clone() for key, parameter in trained.items()}
    stored = load_file(folder / "adapter/adapter_model.safetensors")
    assert stored.keys() == trained.keys(), (name, stored.keys() ^ trained.keys())
    save_file(tensors, folder / "golden.safetensors")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    lines = ",\n".join(json.dumps(entry) for entry in log)
    head = f'"base": {json.dumps("scored/" + base if base in BASES else base + "/model")},\n"problem": {json.dumps(problem)},\n"labels": {labels},\n"batches": {json.dumps(batches)},\n'
    (folder / "golden.json").write_text("{\n" + head + f'"train": [\n{lines}\n],\n"versions": {json.dumps(versions)}\n' + "}\n")
    print(name, log[0]["loss"], log[-1]["loss"], log[0]["grad_norm"], sorted(stored)[-4:], flush=True)


for name in sys.argv[2:] or [*CASES, *SCORED]:
    (scored_case if name in SCORED else case)(Path(sys.argv[1]), name)
