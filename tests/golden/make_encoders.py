"""Encoders by transformers and PEFT: python make_encoders.py OUT, in the folder of this file.

Each family of CASES is made small with drawn weights and saved as OUT/NAME/model, with an adapter on it, B not zero, as PEFT saves it
(OUT/NAME/adapter, task FEATURE_EXTRACTION). OUT/NAME/golden.safetensors has, for each of the rows of golden.json, the hidden rows after the last
norm, without and with the adapter (`hidden.R`, `lora.hidden.R`); the gradients of the adapter at the first step (`grad.K`) and its numbers after 20
(`final.K`). golden.json has the pairs, the pooling, and loss and gradient norm of 20 steps of InfoNCE: AdamW, lr 1e-3, weight decay 0.01, norm
clipped to 1, cosine with 3 warm-up steps. Every text runs alone, without padding. The tokenizer is that of archs/llama.

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
from transformers import AutoModel, get_scheduler
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
    for file in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(ROOT / "llama/model" / file, folder / "model" / file)
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


for name in sys.argv[2:] or CASES:
    case(Path(sys.argv[1]), name)
