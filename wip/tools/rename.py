#!/usr/bin/env python3
"""Renames items of the crate by their module path, with every reference that resolves to them.

    rename.py ROOT MAP      MAP: lines `module::path Old New` (the module `crate` is the root)
"""
import os, re, sys
from collections import defaultdict

TOKEN = re.compile(r'''
    (?P<comment>//[^\n]*|/\*.*?\*/)
  | (?P<raw>b?r(?P<h>\#*)".*?"(?P=h))
  | (?P<string>b?"(?:\\.|[^"\\])*")
  | (?P<char>b?'(?:\\u\{[0-9a-fA-F_]+\}|\\x..|\\.|[^\\'\n])')
  | (?P<life>'[A-Za-z_][A-Za-z0-9_]*)
  | (?P<ident>(?:r\#)?[A-Za-z_][A-Za-z0-9_]*)
  | (?P<path>::)
  | (?P<num>\d[\w.]*)
  | (?P<other>\S)
''', re.X | re.S)

class Tok:
    __slots__ = ('kind', 'text', 'start', 'end', 'module')
    def __init__(self, kind, text, start, end):
        self.kind, self.text, self.start, self.end, self.module = kind, text, start, end, None

ITEM = {'struct', 'enum', 'union', 'trait', 'type', 'fn', 'const', 'static', 'mod', 'macro_rules'}

class Module:
    def __init__(self, path, parent, file):
        self.path, self.parent, self.file = path, parent, file
        self.items, self.uses, self.globs, self.children = {}, {}, [], {}

class Crate:
    def __init__(self, root):
        self.root = root
        self.modules = {}      # path tuple -> Module
        self.files = {}        # file -> tokens
        self.variants = {}     # file -> starts of the names of enum variants
        self.load(os.path.join(root, 'src/lib.rs'), ('crate',), None)
        for folder in ('tests', 'benches', 'examples', 'fuzz'):
            base = os.path.join(root, folder)
            for where, _, names in os.walk(base):
                for name in sorted(names):
                    if name.endswith('.rs') and 'golden' not in where:
                        path = os.path.join(where, name)
                        rel = os.path.relpath(path, root)
                        if path in self.files: continue
                        if where == base or name == 'main.rs':
                            self.load(path, ('ext', rel), None)
        main = os.path.join(root, 'src/main.rs')
        if os.path.exists(main): self.load(main, ('ext', 'main'), None)

    def load(self, file, path, parent):
        text = open(file, encoding='utf-8').read()
        toks = []
        for m in TOKEN.finditer(text):
            kind = m.lastgroup if m.lastgroup != 'h' else 'raw'
            for k in ('comment', 'raw', 'string', 'char', 'life', 'ident', 'path', 'num', 'other'):
                if m.group(k) is not None: kind = k; break
            toks.append(Tok(kind, m.group(0), m.start(), m.end()))
        self.files[file] = (text, toks)
        self.variants[file] = variants(toks)
        self.module_of(file, toks, path, parent)

    def module_of(self, file, toks, path, parent):
        module = Module(path, parent, file)
        self.modules[path] = module
        if parent: parent.children[path[-1]] = module
        self.scan(file, toks, 0, len(toks), module)

    def scan(self, file, toks, i, end, module):
        depth = 0
        while i < end:
            t = toks[i]
            t.module = module
            if t.kind == 'ident':
                if t.text == 'mod' and i + 2 < end and toks[i+1].kind == 'ident':
                    name = toks[i+1].text
                    toks[i+1].module = module
                    if toks[i+2].text == ';':
                        self.child(file, toks, i, name, module); i += 3; continue
                    if toks[i+2].text == '{':
                        close = match(toks, i + 2)
                        child = Module(module.path + (name,), module, file)
                        self.modules[child.path] = child
                        module.children[name] = child
                        toks[i+2].module = module
                        self.scan(file, toks, i + 3, close, child)
                        i = close; continue
                elif t.text == 'use' and (i == 0 or toks[i-1].text in ';}{]),' or toks[i-1].text in ('pub', ')', 'crate') or toks[i-1].kind == 'comment'):
                    j = i + 1
                    while toks[j].text != ';': j += 1
                    for k in range(i, j + 1): toks[k].module = module
                    self.use_tree(toks, i + 1, j, [], module)
                    i = j + 1; continue
                elif t.text in ITEM and depth == 0 and i + 1 < end and toks[i+1].kind == 'ident' and not (t.text in ('const', 'type') and False):
                    name = toks[i+1].text
                    if name not in ('fn', 'unsafe', 'async', 'extern'):
                        module.items[name] = toks[i+1]
            if t.text == '{': depth += 1
            elif t.text == '}': depth -= 1
            i += 1

    def child(self, file, toks, i, name, module):
        base = os.path.dirname(file)
        stem = os.path.basename(file)
        folder = base if stem in ('mod.rs', 'lib.rs', 'main.rs') or (module.path[0] == 'ext' and os.path.dirname(file) in (os.path.join(self.root, d) for d in ('tests', 'benches'))) else os.path.join(base, stem[:-3])
        # a #[path] attribute
        k = i - 1
        while k >= 0 and toks[k].text in ('pub', ')', 'crate', 'super', '(', 'in'): k -= 1
        attr = None
        if k >= 0 and toks[k].text == ']':
            j = k
            while toks[j].text != '#': j -= 1
            words = [t.text for t in toks[j:k]]
            if 'path' in words: attr = next(t.text.strip('"') for t in toks[j:k] if t.kind == 'string')
        options = [os.path.join(base, attr)] if attr else [os.path.join(folder, name + '.rs'), os.path.join(folder, name, 'mod.rs'), os.path.join(base, name + '.rs'), os.path.join(base, name, 'mod.rs')]
        for option in options:
            option = os.path.normpath(option)
            if os.path.exists(option):
                if option in self.files: return
                self.load(option, module.path + (name,), module)
                return

    def use_tree(self, toks, i, j, prefix, module):
        """Reads toks[i:j] as one or more comma separated trees."""
        while i < j:
            segs = list(prefix)
            while i < j:
                t = toks[i]
                if t.kind == 'ident':
                    if t.text == 'as':
                        module.uses.setdefault(toks[i+1].text, []).append((segs, toks[i+1])); i += 2; segs = None
                        break
                    segs = segs + [(t.text, t)]; i += 1
                elif t.kind == 'path': i += 1
                elif t.text == '{':
                    close = match(toks, i)
                    self.use_tree(toks, i + 1, close, segs, module); i = close + 1; segs = None; break
                elif t.text == '*':
                    module.globs.append(segs); segs = None; i += 1; break
                elif t.text == ',': break
                else: i += 1
            if segs is not None and len(segs) > len(prefix):
                name = segs[-1][0]
                if name == 'self':
                    segs = segs[:-1]; name = segs[-1][0]
                module.uses.setdefault(name, []).append((segs, segs[-1][1]))
            while i < j and toks[i].text != ',': i += 1
            i += 1

    def lookup(self, module, name, want='item', seen=None):
        """What `name` is in a module: ('mod', Module), ('item', Module, name) or None; of both, the one that is wanted."""
        seen = seen or frozenset()
        if (module.path, name, want) in seen: return None
        seen = seen | {(module.path, name, want)}
        found = []
        if name in module.children: found.append(('mod', module.children[name]))
        if name in module.items: found.append(('item', module, name))
        if len({f[0] for f in found}) < 2:
            for segs, _ in module.uses.get(name, ()):
                target = self.resolve(module, [s for s, _ in segs], want, seen)
                if target: found.append(target)
            if not found:
                for segs in module.globs:
                    target = self.resolve(module, [s for s, _ in segs], 'mod', seen)
                    if target and target[0] == 'mod':
                        deeper = self.lookup(target[1], name, want, seen)
                        if deeper: found.append(deeper)
        for f in found:
            if f[0] == want: return f
        return found[0] if found else None

    def resolve(self, module, segs, want='item', seen=None):
        cur = None
        root = ('mod', self.modules[('crate',)])
        first = segs[0] if segs else None
        last_want = lambda k: want if k == len(segs) - 1 else 'mod'
        if first == 'crate':
            cur = root if module.path[0] == 'crate' else ('mod', self.modules[module.path[:2]])
        elif first == 'rankine': cur = root
        elif first == 'self': cur = ('mod', module)
        elif first == 'super': cur = ('mod', module.parent) if module.parent else None
        else: cur = self.lookup(module, first, last_want(0), seen)
        i = 1
        while cur and i < len(segs):
            if cur[0] != 'mod': return None
            if segs[i] == 'super': cur = ('mod', cur[1].parent) if cur[1].parent else None
            elif segs[i] == 'self': pass
            else: cur = self.lookup(cur[1], segs[i], last_want(i), seen)
            i += 1
        return cur

def variants(toks):
    found = set()
    code = [t for t in toks if t.kind != 'comment']
    for i, t in enumerate(code):
        if t.text != 'enum' or code[i + 1].kind != 'ident': continue
        j = i + 2
        while code[j].text not in '{;': j += 1
        if code[j].text == ';': continue
        depth, at_start, j = 1, True, j + 1
        while depth:
            c = code[j]
            if c.text in '([{' and c.kind == 'other':
                # an attribute before a variant
                depth += 1
            elif c.text in ')]}' and c.kind == 'other':
                depth -= 1
                if depth == 1 and c.text == ']' : at_start = at_start
            elif depth == 1 and c.text == ',': at_start = True
            elif depth == 1 and at_start and c.kind == 'ident': found.add(c.start); at_start = False
            j += 1
    return found

def followers(toks, tok):
    i = toks.index(tok)
    if i + 2 < len(toks) and toks[i+1].kind == 'path' and toks[i+2].text == '{':
        return [t.text for t in toks[i + 3:match(toks, i + 2)]]
    return []

def match(toks, i):
    depth = 0
    for k in range(i, len(toks)):
        if toks[k].text == '{' and toks[k].kind == 'other': depth += 1
        elif toks[k].text == '}' and toks[k].kind == 'other':
            depth -= 1
            if depth == 0: return k
    raise SystemExit('unbalanced')

def main(root, mapping):
    crate = Crate(root)
    wanted, moves = {}, []
    for line in open(mapping):
        line = line.split('#')[0].split()
        if not line: continue
        path = tuple(line[0].split('::'))
        module = crate.modules.get(path)
        if module and line[1] in module.children:
            wanted[module.children[line[1]].path] = line[2]
            moves.append((module.children[line[1]], line[1], line[2])); continue
        if not module or line[1] not in module.items:
            print('no such item:', *line); continue
        wanted[(path, line[1])] = line[2]
    edits = defaultdict(dict)
    def hit(target, text):
        if not target: return None
        if target[0] == 'item': return wanted.get((target[1].path, target[2])) if target[2] == text else None
        return wanted.get(target[1].path) if target[1].path[-1] == text else None
    for file, (text, toks) in crate.files.items():
        # use trees first
        done = set()
        for module in (m for m in crate.modules.values() if m.file == file):
            for segs, tok in (entry for name in module.uses for entry in module.uses[name]):
                for k in range(1, len(segs) + 1):
                    done.add(segs[k - 1][1].start)
                    if segs[k - 1][0] in ('crate', 'super', 'self', 'rankine'): continue
                    # a tree `x::{self, y}` names the module x
                    want = 'mod' if k < len(segs) or 'self' in followers(toks, segs[k - 1][1]) else 'item'
                    new = hit(crate.resolve(module, [s for s, _ in segs[:k]], want), segs[k - 1][0])
                    if new: edits[file][segs[k - 1][1].start] = (segs[k - 1][1].end, new)
                done.add(tok.start)
            for segs in module.globs:
                for k in range(1, len(segs) + 1):
                    done.add(segs[k - 1][1].start)
                    if segs[k - 1][0] in ('crate', 'super', 'self', 'rankine'): continue
                    new = hit(crate.resolve(module, [s for s, _ in segs[:k]], 'mod'), segs[k - 1][0])
                    if new: edits[file][segs[k - 1][1].start] = (segs[k - 1][1].end, new)
            for name, tok in module.items.items():
                if (module.path, name) in wanted and module.file == file:
                    edits[file][tok.start] = (tok.end, wanted[(module.path, name)]); done.add(tok.start)
        i = 0
        while i < len(toks):
            t = toks[i]
            if t.kind == 'comment':
                comment_edits(crate, t, wanted, edits[file], hit); i += 1; continue
            if t.kind != 'ident' or t.start in done or t.module is None: i += 1; continue
            prev = toks[i-1].text if i else ''
            is_field = prev == '.' and not (i > 1 and toks[i-2].text == '.' and toks[i-2].end == toks[i-1].start)
            if is_field or prev == '::': i += 1; continue
            chain = [t]; j = i
            while j + 2 < len(toks) and toks[j+1].kind == 'path' and toks[j+2].kind == 'ident':
                chain.append(toks[j+2]); j += 2
            if t.start in crate.variants.get(file, ()): i = j + 1; continue
            is_call = j + 1 < len(toks) and toks[j+1].text in '(!'
            for k in range(len(chain), 0, -1):
                if chain[k-1].start in done or chain[k-1].text in ('crate', 'super', 'self', 'rankine', 'Self'): continue
                target = crate.resolve(t.module, [c.text for c in chain[:k]], 'mod' if k < len(chain) or prev == 'mod' else 'item')
                new = hit(target, chain[k-1].text)
                # a module is named by a path or declared
                if new and target[0] == 'mod' and len(chain) == 1 and prev != 'mod': continue
                # a binding of the name of a function is no reference to it
                if new and len(chain) == 1 and new[0].islower() and target[0] == 'item' and not is_call and prev != '&': continue
                if new: edits[file][chain[k-1].start] = (chain[k-1].end, new)
            i = j + 1
    changed = 0
    for file, spots in edits.items():
        text = crate.files[file][0]
        out, last = [], 0
        for start in sorted(spots):
            end, new = spots[start]
            out.append(text[last:start]); out.append(new); last = end
        out.append(text[last:])
        new = ''.join(out)
        new = re.sub(r'\b([A-Z]\w+) as \1\b', r'\1', new)
        if new != text:
            open(file, 'w', encoding='utf-8').write(new); changed += 1
    for module, old, new in moves:
        file = module.file
        folder, stem = os.path.dirname(file), os.path.basename(file)
        if stem == 'mod.rs':
            os.rename(folder, os.path.join(os.path.dirname(folder), new))
        else:
            os.rename(file, os.path.join(folder, new + '.rs'))
            if os.path.isdir(file[:-3]): os.rename(file[:-3], os.path.join(folder, new))
    print('renamed', len(wanted), 'items in', changed, 'files;', sum(map(len, edits.values())), 'places')

LINK = re.compile(r'\[`([A-Za-z_:]+)(\(\))?`\]')
def comment_edits(crate, t, wanted, edits, hit):
    module = t.module
    if module is None: return
    for m in LINK.finditer(t.text):
        segs = m.group(1).split('::')
        for k in range(len(segs), 0, -1):
            new = hit(crate.resolve(module, segs[:k], 'mod' if k < len(segs) else 'item'), segs[k - 1])
            if new:
                start = t.start + m.start(1) + len('::'.join(segs[:k - 1])) + (2 if k > 1 else 0)
                edits[start] = (start + len(segs[k - 1]), new); break

main(*sys.argv[1:3])
