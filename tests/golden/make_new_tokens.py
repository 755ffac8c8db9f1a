"""Reference numbers of adapters with new tokens: `python tests/golden/make_new_tokens.py` (transformers, PEFT, torch).

For a base whose head is a table of its own (llama) and one whose head is the embedding (qwen2): two tokens are added, one of which starts as the
mean of all rows and one as the row of another token. `start` are the logits of the resized base, `adapter` those with an adapter that PEFT saved,
whose folder has the tokenizer too. `python tests/golden/make_new_tokens.py check BASE ADAPTER MERGED` loads an adapter of a run as its card says and
prints how far its logits are from those of the merged model.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
NEW = ["<|note|>", "<|turn|>"]


def rows(table, new, copied):
    """Mean of all old rows for the first new one, a copy for the second."""
    old = table[: new[0]].double()
    table[new[0]] = old.mean(0).float()
    table[new[1]] = table[copied]


def save(adapted, tokenizer, folder, family, save_embedding_layers):
    """An adapter's folder without a place of this machine."""
    adapted.save_pretrained(folder, save_embedding_layers=save_embedding_layers)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = family
    config["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)


def make(family):
    base = HERE / "archs" / family / "model"
    out = HERE / "new_tokens" / family
    shutil.rmtree(out, ignore_errors=True)
    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in NEW])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    new = [tokenizer.convert_tokens_to_ids(token) for token in NEW]
    copied = tokenizer.encode("term", add_special_tokens=False)[0]
    tables = {"embed_tokens": model.get_input_embeddings().weight.data, "lm_head": model.get_output_embeddings().weight.data}
    tied = tables["embed_tokens"].data_ptr() == tables["lm_head"].data_ptr()
    rows(tables["embed_tokens"], new, copied)
    if not tied:
        rows(tables["lm_head"], new, copied)
    text = "the term<|note|> of law <|turn|>and a term"
    ids = tokenizer.encode(text, add_special_tokens=False)
    asked = torch.tensor([ids])
    with torch.no_grad():
        start = model(asked).logits[0].clone()
    known = [tokenizer.encode("law", add_special_tokens=False)[0]]
    tokens = known + new if tied else {"embed_tokens": known + new, "lm_head": new}
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM", trainable_token_indices=tokens)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)
        logits = adapted(asked).logits[0]
    adapter = out / "adapter"
    save(adapted, tokenizer, adapter, family, False)
    if tied:
        # As `save_pretrained` does it by itself where the vocabulary is not that of the base.
        save(adapted, tokenizer, out / "adapter_with_tables", family, "auto")
    save_file({"start": start, "adapter": logits.contiguous()}, out / "golden.safetensors")
    facts = {"text": text, "ids": ids, "new": dict(zip(NEW, new)), "copied": tokenizer.convert_ids_to_tokens(copied), "rows": len(tokenizer), "tied": tied}
    (out / "golden.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    # As a user does it, on rows that are drawn.
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    fresh.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    loaded = PeftModel.from_pretrained(fresh, adapter)
    with torch.no_grad():
        print(family, "loaded again", (loaded(asked).logits[0] - logits).abs().max().item(), "moved", (start - logits).abs().max().item())


def check(base, adapter, merged):
    """The lines of a card."""
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    other = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    model.resize_token_embeddings(other.config.get_text_config().vocab_size, mean_resizing=False)
    model = PeftModel.from_pretrained(model, adapter)
    added = [token for token in tokenizer.get_added_vocab()]
    ids = torch.tensor([tokenizer.encode("the term of law " + " ".join(added), add_special_tokens=False)])
    assert ids.tolist()[0] == AutoTokenizer.from_pretrained(merged).encode("the term of law " + " ".join(added), add_special_tokens=False)
    with torch.no_grad():
        print("adapter on the resized base against merged:", (model(ids).logits - other(ids).logits).abs().max().item())
        print("tokens", len(tokenizer), "rows", other.get_input_embeddings().weight.shape[0], "added", added[-3:], "generation", other.generation_config.eos_token_id)


if sys.argv[1:2] == ["check"]:
    check(*sys.argv[2:])
else:
    make("llama")
    make("qwen2")
