"""What transformers renders, and which parts of it are the assistant's, for tests/templates.rs.

    python make_shapes.py own.json                    # templates of our own, in the tree as tests/golden/shapes.json
    python make_shapes.py all.json FOLDER [FOLDER ..] # every *.jinja of these folders: RANKINE_SHAPES=all.json cargo test ..

Needs transformers 5.23 and jinja2 3.1. A folder such as trl's `chat_templates` has templates of many models, and beside `x.jinja`
the same with marks, `x_training.jinja`. Their texts are not in this tree: they are other projects' work.
"""

import datetime
import json
import re
import sys
from pathlib import Path

from transformers.utils import chat_template_utils as utils

SPECIAL = re.compile(
    r"<\|[^|<>\s'\"{}]+\|>|<｜[^｜<>'\"{}]+｜>|<(?:start|end)_of_turn>|\[/?[A-Z_]{3,}\]|</?s>|<\|?(?:turn|tool_call|channel)\|?>|<seed:[^<>\s]+>|\[\|[a-z_]+\|\]"
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "statute",
            "description": "Finds an act",
            "parameters": {
                "type": "object",
                "properties": {
                    "year": {"type": "integer", "description": "Its year"},
                    "words": {"type": "array", "items": {"type": "string"}, "description": "Words <of> its title"},
                    "court": {"type": "string", "enum": ["high", "low"]},
                },
                "required": ["year"],
            },
        },
    }
]
ARGUMENTS = {"year": 1890, "words": ["Sherman's", "act é"], "court": "high"}


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 1, 1)


def call(arguments):
    return {"id": "abcdef123", "type": "function", "function": {"name": "statute", "arguments": arguments}}


def turns(assistant):
    return [
        {"role": "user", "content": "Which act?"},
        {"role": "assistant", **assistant},
        {"role": "tool", "content": "The Sherman Act", "name": "statute", "tool_call_id": "abcdef123"},
        {"role": "assistant", "content": "It is the Sherman Act."},
    ]


SHAPES = {
    "plain": (
        [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Define tort."},
            {"role": "assistant", "content": "A civil wrong."},
            {"role": "user", "content": "And lien?"},
            {"role": "assistant", "content": "A claim."},
        ],
        None,
    ),
    "no system": ([{"role": "user", "content": "Define tort."}, {"role": "assistant", "content": "A civil wrong."}], None),
    "reasoning": (
        [
            {"role": "user", "content": "Define tort."},
            {"role": "assistant", "content": "A civil wrong.", "reasoning_content": "A term of law."},
        ],
        None,
    ),
    "content text": (turns({"content": "Let me look.", "tool_calls": [call(ARGUMENTS)]}), TOOLS),
    "arguments as JSON text": (turns({"content": "", "tool_calls": [call(json.dumps(ARGUMENTS))]}), TOOLS),
    "null content": (turns({"content": None, "tool_calls": [call(ARGUMENTS)]}), TOOLS),
    "empty list of calls": (
        [
            {"role": "user", "content": "Define tort."},
            {"role": "assistant", "content": "A civil wrong.", "tool_calls": []},
        ],
        TOOLS,
    ),
    "content as parts": (
        [
            {"role": "user", "content": [{"type": "text", "text": "Define "}, {"type": "text", "text": "tort."}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A civil wrong."}]},
        ],
        None,
    ),
}

# Written for this file.
OWN = {
    "named ends": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson if c.function.arguments is mapping"
    " else c.function.arguments }}</call>{% endfor %}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
    "{% endfor %}",
    "namespace in a block": "{% set ns = namespace(said=0, calls=[]) %}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{%- generation -%}{% set ns.said = ns.said + 1 %}{% set ns.calls = m.tool_calls %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}|{{ ns.said }}",
    "a name of outside": "{% set last = 'no' %}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    "{% if m.tool_calls %}{% set last = 'call' %}{% endif %}{{ last }}{{ m.content }}</s>{% endgeneration %}{{ last }}"
    "{% else %}<s>{{ m.role }}{% endif %}{% endfor %}",
    "a part of what is outside": "{% set all = messages %}{% for m in all %}{% if m.role == 'assistant' %}{% generation %}"
    "{% for later in all[loop.index:] %}{{ later.role }} {% endfor %}{{ m.role[:3] }}</s>{% endgeneration %}{% endif %}{% endfor %}",
    "a macro that counts": "{% set ns = namespace(n=0) %}{% macro turn(m) %}{% set ns.n = 1 %}{{ m.role }}={{ m.content }}</s>{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{{ ns.n }}{% endfor %}",
    "windows": "{% for m in messages %}\r\n<|im_start|>{{ m.role }}\r\n  {% if m.content %}\r\n{{ m.content }}\r\n{% endif %}\r<|im_end|>"
    "\r\n{% endfor %}\r\n",
    "raw": "{% raw %}{% generation %}{{ x }}{% endraw %}{# {% generation %} #}{{ '{% generation %}' }}{% for m in messages %}{{ m.role }}"
    "{% endfor %}",
}
for index, expression in enumerate(
    [
        "'a-b-c'.partition('-')", "'a-b-c'.rpartition('-')", "'abc'.rpartition('x')", "'a b  c '.split()", "'a b  c '.split(none, 1)",
        "' a b c '.rsplit(none, 1)", "'a,b,c'.rsplit(',', 1)", "'a,b,c'.split(',', maxsplit=1)", "'a,b'.split(sep=',')", "''.split()",
        "''.split(',')", "'unit'.removeprefix('un')", "'unit'.removesuffix('x')", "'-42'.zfill(6)", "'é'.zfill(3)", "'ab'.center(7, '*')",
        "'abc'.center(6)", "'abc'.ljust(5) ~ '|'", "'abc'.rjust(5, '.')", "'Straße'.casefold()", "' \t'.isspace()", "''.isspace()",
        "\"they're BILL's\".title()", "\"they're BILL's\" | title", "'aBc É'.swapcase()", "'abcabc'.count('bc')", "'abcabc'.count('bc', 2)",
        "'abcabc'.index('c')", "'abc'.index('x')", "'abcabc'.rindex('a')", "'éabc'.find('b')", "'abcabc'.find('a', 1)",
        "'abc'.find('', 9)", "'abc'.find('c', -1)", "'abcabc'.rfind('a', 0, 3)", "', '.join(['a', 'b'])", "', '.join([1, 2])",
        "[1, 2] | join(', ')", "'-'.join({'a': 1, 'b': 2})", "'abc'.startswith('b', 1)", "'abc'.startswith(('x', 'a'))",
        "'abc'.endswith('b', 0, 2)", "'a\r\nb\x0bc\n'.splitlines()", "'a\nb\n'.splitlines(true)", "'a\tb'.expandtabs(4)",
        "'12'.isdecimal() ~ '²'.isdigit() ~ '²'.isdecimal() ~ '½'.isnumeric()", "'a_1'.isidentifier() ~ '1a'.isidentifier()",
        "'Ab Cd'.istitle() ~ 'AB'.istitle()", "'a\n'.isprintable()", "'xxaxx'.strip('x') ~ 'xa'.lstrip('x') ~ 'ax'.rstrip('x')",
        "'\x1ca\x1f'.strip()", "'\x1ca ' | trim", "'xax' | trim('x')", "'{}-{n:>4}|{0!r}'.format('a', n=3)", "'{0} {1}'.format(1, 2.0)",
        "'{:.2f} {:05d} {:,}'.format(1.239, 42, 1234567)", "'%s and %s' % ('a', 1)", "'%05.2f' % 3.14159", "'%s' % 'a'",
        "'%d%%' % 7", "'%(a)s' % {'a': 'b'}", "'%s' % [1]", "'a %s' % 'b' ~ 'c'", "'%s' % messages[0].role | upper", "7 % 3",
        "'%s' | format('x')", "'abc'.replace('b', 'x') ~ 'aaa'.replace('a', 'b', 2)", "'abc'.capitalize() ~ 'ABC'.lower() ~ 'a'.upper()",
        "{'a': 1}.get('b')", "{'a': 1}.get('b', 2)", "{'a': 1}.items() | list", "{'a': 1, 'b': 2}.keys() | list",
        "{'a': 1, 'b': 2}.values() | list", "{'a': 1}.copy()", "{'a': 1}.pop('a')", "{'a': 1}.update({'b': 2})",
        "{'a': 1}.setdefault('b', 2)", "[1, 2].append(3)", "[1].insert(0, 2)", "[2, 1].sort()", "[1].extend([2])", "[1, 2, 1].index(1, 1)",
        "[1].index(5)", "[1, 2, 1].count(1)", "[3, 1].copy()", "(1, 2).index(2)", "[1, 2, 3][-2:]", "[1, 2, 3][:-1]", "[1, 2, 3][::-1]",
        "'abc'[::-1] ~ 'abcd'[-3:-1] ~ 'abcd'[1::2]", "[1, 2, 3][-5:2]", "'abc'[-1]", "[1, 2, 3][3:]", "messages[-1].role",
        "messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list", "messages | rejectattr('tool_calls') | list | length",
        "messages | rejectattr('tool_calls', 'defined') | list | length", "messages | map(attribute='role') | unique | list",
        "messages | groupby('role') | map('first') | list", "[3, 1, 2] | sort(reverse=true)", "['b', 'A'] | sort", "[1, 2, 3] | sum",
        "{'b': 1, 'a': 2} | dictsort", "{'b': 1} | items | list", "[1, 2, 3, 4] | batch(3) | list", "[1, 2, 3, 4] | slice(3) | list",
        "'abc' | reverse", "'hello world' | wordcount", "'<b>x</b> &amp; y' | striptags", "1234567 | filesizeformat", "'a b' | urlencode",
        "'hello big world' | truncate(9)", "'a b c d' | wordwrap(3)", "'x\ny' | indent(2)", "'x' | indent(2, true)", "'<a>' | e", "'3.7' | float", "'3' | int + 1",
        "3.7 | round ~ 3.14159 | round(2)", "-3 | abs", "[1, none, 'a', true, 2.0, {'b': 'c'}]", "[1, 'a'] | string", "{'a': none} | tojson",
        "'é\"<' | tojson", "{'b': [1, 2]} | tojson(indent=2)", "none | default('x')", "missing | default('x')", "'' | default('x', true)",
        "messages | length > 1 and 'x' or 'y'", "1 if missing", "1 == 1.0 and 'a' != 'b'", "2 ** 3 ~ 7 // 2 ~ -7 // 2 ~ -7 % 3 ~ 7 / 2", "1 < 2 < 3",
        "'a' 'b'", "'a' in {'a': 1} and 'x' not in ['y']", "'x' is in ['x']", "3 is odd and 4 is even and 6 is divisibleby 3", "none is none",
        "missing is undefined", "true is boolean and 1 is integer and 1.0 is float", "'a' is lower and 'A' is upper", "[] is sequence and {} is mapping",
        "'a' is string and 1 is number", "1 is sameas 1", "range(3) | list", "range(5, 0, -2) | list", "dict(a=1, b=2)", "namespace(a=1).a",
        "cycler('a', 'b').next()", "joiner('-')()", "lipsum is defined", "strftime_now('%Y-%m-%d')", "strftime_now('%d %B %Y, %A %j')",
        "'ab' * 2", "[1] + [2]", "[1] * 2", "(1,) + (2,)", "'a' ~ 1 ~ none ~ true", "1_000 + 0x10", "1e3 | int", "10 | string | length", "'x' | upper | lower",
        "['a', 'b'] | first ~ ['a', 'b'] | last", "[[1, 2], [3]] | map('length') | list", "[1, 2, 3] | select('odd') | list",
        "[1, 2] | map('string') | join", "[0, 1] | reject('equalto', 0) | list", "['a', 'b'] | max ~ [2, 1] | min", "messages[0]['role'] ~ messages[0].missing",
        "messages[0].content.split(' ')[0]", "(messages | last).content[:3]", "messages[1:3] | map(attribute='role') | list", "[true, false, none]",
        "[1.0, 1e-05, 1e16, 123456789.123]", "{'a': \"it's\", 'b': 'x\\ny'}", "'\\u00e9\\x41\\n' | length", "{1: 2}[1]", "(1, 'a')", "(1,)", "()",
        "raise_exception('no')", "missing.attribute", "missing()", "1 / 0", "'a' + 1", "[1, 2, 3] | random in [1, 2, 3]", "'abc'.missing()", "none.x", "messages[99]", "messages[99].x",
        "namespace({'a': 1}).a", "messages[0].items() | list | length", "(messages[0] | items | first)[0]", "{'a': 1}.a ~ {'a': 1}['a']", "'%c' % 'x'", "'%-5s|' % 'a'", "'%x' % 255", "'%r' % 'a'",
    ]
):
    OWN[f"{index:03} {expression}"] = "{{ " + expression + " }}"


def special_tokens(source):
    found = sorted(set(SPECIAL.findall(source)))
    ends = [t for t in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>",
                            "<|end_of_text|>", "<|end_of_sentence|>", "<seed:eos>", "[|endofturn|]", "<turn|>", "</s>") if t in found]
    return {"bos": "<s>", "eos": ends[0] if ends else "</s>", "all": sorted(set(found) | {"<s>", "</s>"})}


def given(messages):
    """As `apply_chat_template` takes them: without the keys whose value is None."""
    return [{k: v for k, v in m.items() if v is not None} for m in messages]


def render(source, messages, tools, special, marked=False):
    try:
        rendered, spans = utils.render_jinja_template(
            [messages], tools=tools, chat_template=source, return_assistant_tokens_mask=marked,
            bos_token=special["bos"], eos_token=special["eos"],
        )
    except Exception as error:
        return {"raises": f"{type(error).__name__}: {error}"[:200]}
    text = rendered[0]
    spans = [[len(text[:a].encode()), len(text[:b].encode())] for a, b in spans[0] if a < b] if marked else None
    return {"text": text, "spans": spans}


def is_marked(source):
    return re.search(r"\{%-?\s*generation\s*-?%\}", re.sub(r"(?s)\{#.*?#\}|\{% raw %\}.*?\{% endraw %\}|\{\{.*?\}\}", "", source)) is not None


def cases(name, source, twin):
    special = special_tokens(source)
    for shape, (messages, tools) in SHAPES.items():
        messages = given(messages)
        expected = render(source, messages, tools, special, is_marked(source))
        if expected.get("spans") is None and "text" in expected and twin is not None:
            marked = render(twin, messages, tools, special, True)
            # The marked form may be another revision: its spans are those of this text only where the texts are one.
            if marked.get("text") == expected["text"]:
                expected["spans"] = marked["spans"]
        yield {"template": name, "shape": shape, "special": special, "source": source, "messages": messages, "tools": tools, **expected}


def main():
    utils.datetime = Fixed
    out, folders = sys.argv[1], sys.argv[2:]
    found = []
    if folders:
        files = [path for folder in folders for path in sorted(Path(folder).glob("*.jinja"))]
        for path in files:
            with open(path, newline="") as file:
                source = file.read()
            twin = path.with_name(f"{path.stem}_training.jinja")
            found += cases(path.stem, source, twin.read_text() if twin.exists() else None)
    else:
        for name, source in OWN.items():
            rows = list(cases(name, source, None))
            # What reads no turn is the same for every shape.
            found += rows[:1] if source.startswith("{{ ") else rows
    # Sources and messages are many times the same: they stand once.
    tables = {"sources": [], "conversations": []}

    def index(table, value):
        if value not in tables[table]:
            tables[table].append(value)
        return tables[table].index(value)

    for case in found:
        case["source"] = index("sources", case["source"])
        case["conversation"] = index("conversations", {"messages": case.pop("messages"), "tools": case.pop("tools")})
    line = lambda value: json.dumps(value, ensure_ascii=False)
    parts = [f"{line(name)}: [\n" + ",\n".join(map(line, values)) + "\n]" for name, values in {**tables, "cases": found}.items()]
    Path(out).write_text("{" + ",\n".join(parts) + "}\n")
    print(len({case["template"] for case in found}), "templates,", len(found), "cases,", sum("raises" in case for case in found), "raise")


main()
