"""Token ids that transformers' AutoTokenizer gives with tokens that only the files beside tokenizer.json name.

    python make.py > cases.json        (transformers 5.23.0, tokenizers 0.23; needs no network)

Each case is a small folder: the tokenizer below with some of its top-level keys (or keys of its model) replaced, and files beside it.
A case that transformers refuses has its error in place of ids.
"""

import json
import string
import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

MARKS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
LETTERS = list(string.ascii_letters + "<>|/_[]#. Ġ") + ["ab", "cd", "Ġa"]
VOCABULARY = {token: index for index, token in enumerate(MARKS + LETTERS)}
NEXT = len(VOCABULARY)
TEXTS = [
    "<s> abc <|im_start|>user cd<|im_end|> </s>",
    "a<pad>b <unk> <tool_call>ab</tool_call> <x><y> xy",
    "  <tool_call>  ab  <PAD>  </s>x</s>",
    "<image>a<sep><cls><mask>b",
]


def token(content, special=True, **flags):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special} | flags


def added(index, content, special=True, **flags):
    return {"id": index} | token(content, special, **flags)


TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [added(0, "<s>"), added(1, "</s>")],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "model": {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": VOCABULARY, "merges": ["a b", "c d", "Ġ a"],
    },
}
LOWER = {"normalizer": {"type": "Lowercase"}}
BEGINS = {
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
}


def object_of(content, **flags):
    """A token as older versions wrote it into tokenizer_config.json."""
    return {"__type": "AddedToken"} | token(content, **flags)


def case(name, config=None, map=None, added=None, tokenizer=None, model=None):
    files = {"tokenizer_config.json": config, "special_tokens_map.json": map, "added_tokens.json": added}
    files = {name: content for name, content in files.items() if content is not None}
    return {"name": name, "tokenizer": tokenizer or {}, "model": model or {}, "files": files}


CASES = [
    case("nothing beside"),
    case("special tokens of the vocabulary by a list", {"eos_token": "</s>", "extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}),
    case("the same under the older name", {"additional_special_tokens": ["<|im_end|>", "<|im_start|>"]}),
    case("both names: the newer one counts", {"extra_special_tokens": ["<x>"], "additional_special_tokens": ["<y>"]}),
    case("an empty newer list gives way", {"extra_special_tokens": [], "additional_special_tokens": ["<y>"]}),
    case("a padding token that nothing has", {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}),
    case("all four, in the order of transformers", {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<y>", "bos_token": "<x>"}),
    case("separator, class and mask too", {"mask_token": "<mask>", "cls_token": "<cls>", "sep_token": "<sep>", "pad_token": "<pad>"}),
    case("tokens of a model's own", {"image_token": "<image>", "pad_token": "<pad>", "boi_token": "<x>", "extra_special_tokens": ["<y>"]}),
    case("extra tokens by name", {"extra_special_tokens": {"image_token": "<image>", "other": "<x>"}, "pad_token": "<pad>"}),
    case("tools", {"extra_special_tokens": ["<tool_call>", "</tool_call>"], "eos_token": "</s>"}),
    case("the map wins over the config", {"eos_token": "</s>", "pad_token": "<x>"}, {"eos_token": "<|im_end|>", "pad_token": "<pad>"}),
    case("the map alone", None, {"bos_token": "<s>", "eos_token": token("<|im_end|>", lstrip=True), "pad_token": "<pad>"}),
    case("the map's list", {"eos_token": "</s>"}, {"additional_special_tokens": ["<|im_start|>", "<x>"]}),
    case("the config's list before the map's", {"additional_special_tokens": ["<y>"]}, {"additional_special_tokens": ["<x>"]}),
    case("a list in both under the newer name", {"extra_special_tokens": ["<y>"]}, {"extra_special_tokens": ["<x>", "<y>", "<image>"]}),
    case("objects in the map's list", None, {"extra_special_tokens": [{"content": "<tool_call>", "lstrip": True, "rstrip": True}, "<x>"]}),
    case(
        "a decoder table hides the map",
        {"eos_token": "</s>", "added_tokens_decoder": {"1": token("</s>")}},
        {"eos_token": "<|im_end|>", "pad_token": "<pad>"},
        {"<x>": NEXT},
    ),
    case(
        "a decoder table with tokens of the vocabulary",
        {"added_tokens_decoder": {"0": token("<s>"), "2": token("<|im_start|>"), "3": token("<|im_end|>")}, "eos_token": "<|im_end|>"},
    ),
    case(
        "a decoder table with new tokens, out of order",
        {"added_tokens_decoder": {str(NEXT + 1): token("<y>"), str(NEXT): token("<x>", False)}},
    ),
    case(
        "flags of a decoder table: blanks",
        {"added_tokens_decoder": {str(NEXT): token("<tool_call>", lstrip=True, rstrip=True), str(NEXT + 1): token("<PAD>", rstrip=True)}},
    ),
    case("flags of a decoder table: single words", {"added_tokens_decoder": {str(NEXT): token("xy", False, single_word=True)}}),
    case(
        "flags of a decoder table: normalized",
        {"added_tokens_decoder": {str(NEXT): token("<PAD>", normalized=True), str(NEXT + 1): token("<image>", normalized=False)}},
        tokenizer=LOWER,
    ),
    case(
        "a decoder table changes what tokenizer.json says",
        {"added_tokens_decoder": {"1": token("</s>", lstrip=True)}, "eos_token": "</s>"},
    ),
    case("a named token becomes special", {"eos_token": "<x>"}, tokenizer={"added_tokens": [added(0, "<s>"), added(NEXT, "<x>", False)]}),
    case(
        "a named token of a decoder table becomes special",
        {"eos_token": "<x>", "added_tokens_decoder": {str(NEXT): token("<x>", False)}},
    ),
    case("added_tokens.json", None, None, {"<x>": NEXT, "<y>": NEXT + 1}),
    case("added_tokens.json, out of order", {"pad_token": "<y>"}, None, {"<y>": NEXT + 1, "<x>": NEXT}),
    case("added_tokens.json of tokens of the vocabulary", {"eos_token": "<|im_end|>"}, None, {"<|im_end|>": 3, "xy": NEXT}),
    case("added_tokens.json with a lower case", {"pad_token": "<PAD>"}, None, {"<PAD>": NEXT, "<image>": NEXT + 1}, tokenizer=LOWER),
    case("added_tokens.json with a gap", None, None, {"<x>": NEXT + 7}),
    case("objects in the config", {"eos_token": object_of("<|im_end|>", lstrip=True), "pad_token": object_of("<pad>", rstrip=True)}),
    case("objects in the config's list", {"extra_special_tokens": [object_of("<tool_call>", lstrip=True), object_of("<x>", special=False)]}),
    case("a padding token of tokenizer.json's own padding", {"eos_token": "</s>"}, tokenizer={
        "padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>"}}),
    case("a post-processor stays", {"bos_token": "<s>", "add_bos_token": True, "add_eos_token": True, "eos_token": "<|im_end|>"}, tokenizer=BEGINS),
    case("no post-processor, whatever the config asks", {"bos_token": "<s>", "add_bos_token": True}),
    case("special tokens are split where the config says so", {"split_special_tokens": True, "extra_special_tokens": ["<x>"]}),
    case("an empty token is passed over", {"pad_token": "", "extra_special_tokens": ["", "<x>"]}),
    case("null is no token", {"pad_token": None, "unk_token": None, "extra_special_tokens": None}, {"pad_token": "<pad>"}),
    case("the same token twice", {"eos_token": "<x>", "pad_token": "<x>", "extra_special_tokens": ["<x>", "<y>", "<y>"]}),
    case("no added tokens in tokenizer.json at all", {"bos_token": "<s>", "eos_token": "</s>"}, tokenizer={"added_tokens": []}),
]


def run(made):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tokenizer = TOKENIZER | made["tokenizer"]
        tokenizer["model"] = TOKENIZER["model"] | made["model"]
        config = {"tokenizer_class": "TokenizersBackend"} | made["files"].get("tokenizer_config.json", {})
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        for name, content in (made["files"] | {"tokenizer_config.json": config}).items():
            (folder / name).write_text(json.dumps(content))
        try:
            opened = AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # noqa: BLE001
            return {"error": f"{type(error).__name__}: {error}"[:200]}
        return {
            "class": type(opened).__name__,
            "size": len(opened),
            "ids": [opened.encode(text, add_special_tokens=False) for text in TEXTS],
            "with_special": [opened.encode(text) for text in TEXTS],
            "decoded": [opened.decode(opened.encode(text), skip_special_tokens=True) for text in TEXTS],
            "named": {key: [getattr(opened, f"{key}_token"), getattr(opened, f"{key}_token_id")] for key in ["bos", "eos", "pad", "unk"]},
        }


def main():
    cases = [made | {"expected": run(made)} for made in CASES]
    for made in cases:
        print(made["name"], "|", json.dumps(made["expected"], ensure_ascii=False)[:230], file=sys.stderr)
    lines = ",\n".join(json.dumps(made, ensure_ascii=False) for made in cases)
    head = f'"texts": {json.dumps(TEXTS)},\n"tokenizer": {json.dumps(TOKENIZER, ensure_ascii=False)}'
    print(f'{{"made_by": "make.py, transformers 5.23.0",\n{head},\n"cases": [\n{lines}\n]}}')


main()
