#!/usr/bin/env python3
"""Rewraps comments and splits string literals so that no line of Rust is longer than 100 columns."""
import re, sys, textwrap
WIDTH = 100
LIST = re.compile(r'^(\s*)([-*]|\d+\.)\s+')

def width(text):
    return len(text)

def fill(words, first, rest):
    lines, line = [], first
    empty = True
    for word in words:
        if not empty and width(line) + 1 + width(word) > WIDTH:
            lines.append(line.rstrip())
            line, empty = rest, True
        line += ('' if empty else ' ') + word
        empty = False
    lines.append(line.rstrip())
    return lines

def words_of(text):
    # `code spans`, [links](..) stay whole if they are short
    out, depth = [], 0
    for word in text.split():
        if out and out[-1].count('`') % 2 == 1 and width(out[-1]) + width(word) < 70:
            out[-1] += ' ' + word
        else:
            out.append(word)
    return out

def comments(lines):
    out, i = [], 0
    pattern = re.compile(r'^(\s*)(///|//!|//)( ?)(.*)$')
    while i < len(lines):
        m = pattern.match(lines[i])
        if not m:
            out.append(lines[i]); i += 1; continue
        indent, mark = m.group(1), m.group(2)
        block = []
        while i < len(lines):
            n = pattern.match(lines[i])
            if not n or n.group(1) != indent or n.group(2) != mark: break
            block.append(lines[i]); i += 1
        out.extend(comment_block(block, indent, mark))
    return out

def comment_block(block, indent, mark):
    prefix = indent + mark
    texts = [line[len(prefix):] for line in block]
    if all(width(line) <= WIDTH for line in block):
        return block
    out, j, fenced = [], 0, False
    while j < len(texts):
        text = texts[j]
        body = text[1:] if text.startswith(' ') else text
        if body.lstrip().startswith('```'):
            fenced = not fenced
            out.append(block[j]); j += 1; continue
        if fenced or not body.strip() or body.startswith(('    ', '|', '#')) or set(body.strip()) <= set('-= '):
            out.append(block[j]); j += 1; continue
        # a paragraph or a list item
        item = LIST.match(body)
        start = j
        hang = ' ' * len(item.group(0)) if item else re.match(r'\s*', body).group(0)
        para = [body]
        j += 1
        while j < len(texts):
            nxt = texts[j][1:] if texts[j].startswith(' ') else texts[j]
            if not nxt.strip() or LIST.match(nxt) or nxt.lstrip().startswith('```') or nxt.startswith(('|', '#')): break
            if nxt.startswith('    ') and not item: break
            para.append(nxt); j += 1
        if all(width(line) <= WIDTH for line in block[start:j]):
            out.extend(block[start:j]); continue
        lead = item.group(0) if item else hang
        content = ' '.join(p.strip() for p in para)
        if item: content = content[len(item.group(0).strip()):].strip() if content.startswith(item.group(0).strip()) else content
        out.extend(fill(words_of(content), prefix + ' ' + lead, prefix + ' ' + hang))
    return out

def trailing(lines):
    """Moves a comment behind code above it, where the line is too long."""
    out = []
    for line in lines:
        if width(line) > WIDTH and not line.lstrip().startswith('//'):
            spot = code_comment(line)
            if spot is not None and line[:spot].rstrip() and width(line[:spot].rstrip()) <= WIDTH and not line[:spot].rstrip().endswith(('(', )):
                indent = re.match(r'\s*', line).group(0)
                out.append(indent + line[spot:]); out.append(line[:spot].rstrip()); continue
        out.append(line)
    return out

def code_comment(line):
    i, in_string = 0, False
    while i < len(line) - 1:
        c = line[i]
        if in_string:
            if c == '\\': i += 1
            elif c == '"': in_string = False
        elif c == '"': in_string = True
        elif c == "'" and re.match(r"'(\\.|[^\\])'", line[i:]): i += len(re.match(r"'(\\.|[^\\])'", line[i:]).group(0)) - 1
        elif line[i:i+2] == '//': return i
        i += 1
    return None

def split_strings(text):
    """Breaks literals with a backslash at the end of the line. Works on the whole file, to know where literals begin and end."""
    spans, i, n = [], 0, len(text)
    while i < n:
        c = text[i]
        if text.startswith('//', i):
            i = text.find('\n', i); i = n if i < 0 else i; continue
        if text.startswith('/*', i):
            i = text.find('*/', i) + 2; continue
        m = re.compile(r'b?r(#*)"').match(text, i) if c in 'br' and (i == 0 or not (text[i-1].isalnum() or text[i-1] == '_')) else None
        if m:
            close = '"' + m.group(1)
            i = text.find(close, m.end()) + len(close); continue
        if c == "'":
            m = re.compile(r"'(\\u\{[0-9a-fA-F_]+\}|\\x..|\\.|[^\\'\n])'").match(text, i)
            i = m.end() if m else i + 1; continue
        if c == '"':
            j = i + 1
            while j < n and text[j] != '"':
                j += 2 if text[j] == '\\' else 1
            spans.append((i, j)); i = j + 1; continue
        i += 1
    out, last, changed = [], 0, False
    for start, end in spans:
        literal = text[start:end + 1]
        line_start = text.rfind('\n', 0, start) + 1
        lines = literal.split('\n')
        column = start - line_start
        tail = text[end + 1:text.find('\n', end) if text.find('\n', end) >= 0 else n]
        indent = re.match(r'\s*', text[line_start:]).group(0)
        result, did = [], False
        for k, part in enumerate(lines):
            base = column if k == 0 else 0
            extra = width(tail) if k == len(lines) - 1 else 0
            # punctuation behind the literal on the same line
            extra = min(extra, 3)
            cont = indent if k == 0 else re.match(r'\s*', part).group(0)
            if k > 0 and not lines[k-1].endswith('\\'):
                result.append(part); continue
            pieces, cur = [], part
            while base + width(cur) + extra > WIDTH:
                limit = WIDTH - 2 - base
                spot = best_break(cur, limit, len(re.match(r'\s*', cur).group(0)) if k > 0 or pieces else 1)
                if spot is None: break
                pieces.append(cur[:spot + 1] + '\\')
                nextcont = cont if (k > 0 or pieces[:-1]) else indent
                cur = nextcont + ' ' * 0 + cur[spot + 1:]
                base, did = 0, True
            pieces.append(cur)
            result.extend(pieces)
        if did:
            changed = True
            out.append(text[last:start]); out.append('\n'.join(result)); last = end + 1
    out.append(text[last:])
    return ''.join(out), changed

def best_break(cur, limit, minimum):
    """The last space before the limit behind which no space and no line break escape stands, outside of {} of a format."""
    for spot in range(min(limit, len(cur) - 2), minimum, -1):
        if cur[spot] != ' ' or cur[spot + 1] in ' \\': continue
        if spot > 0 and cur[spot - 1] == '\\': continue
        head = cur[:spot]
        opened = head.replace('{{', '').count('{') - head.replace('}}', '').count('}')
        if opened > 0: continue
        return spot
    return None

def main(paths):
    for path in paths:
        before = open(path, encoding='utf-8').read()
        lines = before.split('\n')
        text = '\n'.join(comments(trailing(lines)))
        if any(width(line) > WIDTH for line in text.split('\n')):
            text, _ = split_strings(text)
        if text != before:
            open(path, 'w', encoding='utf-8').write(text)
main(sys.argv[1:])
