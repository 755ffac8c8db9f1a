#!/usr/bin/env python3
"""American spelling in code, messages and pages.  american.py ROOT"""
import os, re, sys
WORDS = [('okenis', 'okeniz'), ('uantis', 'uantiz'), ('ormalis', 'ormaliz'), ('nitialis', 'nitializ'), ('NITIALISATION', 'NITIALIZATION'), ('ecognis', 'ecogniz'), ('andomis', 'andomiz'),
         ('pecialis', 'pecializ'), ('emoris', 'emoriz'), ('eighbour', 'eighbor'), ('abelled', 'abeled'), ('onoured', 'onored'), ('entred', 'entered_'), ('olour', 'olor'), ('icence', 'icense')]
PATTERNS = [(re.compile(a), b) for a, b in WORDS if a != 'entred'] + [(re.compile(r'\bcentred\b'), 'centered')]
KEEP = [re.compile(p) for p in (r'const KEYS: \[&str; 2\] = .*', r'deviation_with_cpu_quantiser', r'LICENCES?\b', r'.*old_key_of_a_lock.*')]
def convert(line):
    kept = {}
    for i, keep in enumerate(KEEP):
        for m in keep.findall(line):
            kept[f'\0{i}.{len(kept)}\0'] = m
            line = line.replace(m, f'\0{i}.{len(kept)-1}\0')
    for pattern, new in PATTERNS: line = pattern.sub(new, line)
    for mark, text in kept.items(): line = line.replace(mark, text)
    return line
root = sys.argv[1]
for folder in ('src', 'tests', 'benches', 'fuzz', 'docs', 'recipes', 'schema', 'datasets', 'README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'Cargo.toml', '.ci'):
    top = os.path.join(root, folder)
    paths = [top] if os.path.isfile(top) else [os.path.join(w, n) for w, _, ns in os.walk(top) for n in ns]
    for path in paths:
        if 'golden' in path or not path.endswith(('.rs', '.md', '.yaml', '.toml', '.json', 'run', '.snap', '.html', '.css', '.sh', '.py', '.jinja')): continue
        try: text = open(path, encoding='utf-8').read()
        except UnicodeDecodeError: continue
        new = '\n'.join(map(convert, text.split('\n')))
        if new != text: open(path, 'w', encoding='utf-8').write(new)
        name = convert(os.path.basename(path))
        if name != os.path.basename(path): os.rename(path, os.path.join(os.path.dirname(path), name))
