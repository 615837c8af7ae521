"""Terms of the glossary become links where a page first uses them.

    python site/glossary.py [NOTEBOOK ...]

One link for each term and page, in running prose alone: headings, tables, promises, code, formulas and other links stay as they
are. A page that builds a term (the one its entry leads to) explains it and needs no link. Links of before are taken away first,
so the script may run as often as one likes; `make export` runs it.
"""
import os, re, sys
from pathlib import Path

from execnb.nbio import read_nb, write_nb

from pages import NBS

GLOSSARY = NBS / 'guides' / 'glossary.ipynb'
FORMS = {'Allocate, quota': 'quotas?', 'Criterion': 'criteri(?:on|a)', 'Density': 'densit(?:y|ies)', 'ER, ERK': 'ERK?',
         'Gradient, dense': 'dense gradients?', 'Mask': r'masks|(?<=[ae] )mask|(?<=\*\*)mask',
         'Path': '(?<!reading )(?<!vectorised )paths?', 'Place': 'places'}
EVERYDAY = {'Dense', 'Drop', 'Grow'}     # every other sentence uses them, in the sense that they have everywhere
PIECES = re.compile(r'(^```.*?^```\s*?$|^#[^\n]*$|\[[^\]\n]*\]\([^)\n]*\)|`[^`\n]+`|\$\$.+?\$\$|\$[^$]+\$|<[^>\n]+>)', re.M | re.S)   # no prose
LINKED = re.compile(r'\[([^\]\n]+)\]\((?:guides/)?glossary\.ipynb#[^)\s]*\)')


def pages():
    "The notebooks whose terms are linked: the hour, the reading path and the guides."
    return [NBS / 'hour.ipynb', *sorted(NBS.glob('[0-9][0-9]_*.ipynb')), *sorted(p for p in GLOSSARY.parent.glob('*.ipynb') if p != GLOSSARY)]


def slug(word): return re.sub(r'[^\w-]', '', word.lower().replace(' ', '-'))


def terms():
    "{term: (pattern, the page that builds it or None)}"
    text = '\n\n'.join(c.source for c in read_nb(GLOSSARY).cells)
    found = {}
    for word, meaning in re.findall(r'^### (.+)\n\n(.+)', text, re.M):
        if word in EVERYDAY: continue
        form = FORMS.get(word, word if word.isupper() else re.escape(word) + 's?')
        if word.isupper() or word == 'ER, ERK': pattern = form
        else: pattern = f'(?i:{form})'
        home = re.search(r'→ \[[^\]]*\]\(([^)]+)\)', meaning)
        found[word] = rf'\b{pattern}\b', home and (GLOSSARY.parent / home[1]).resolve()
    return found


def linked(cells, path):
    "The Markdown of a page, cell by cell, with every term a link at its first use."
    target = os.path.relpath(GLOSSARY, path.parent).replace(os.sep, '/')
    left = {word: pattern for word, (pattern, home) in terms().items() if home != path.resolve()}
    words = sorted(left, key=len, reverse=True)                          # "drop fraction" before "drop"
    any_ = re.compile('|'.join(f'(?P<t{i}>{left[w]})' for i, w in enumerate(words)))

    def link(match):
        word = words[int(match.lastgroup[1:])]
        return f'[{match[0]}]({target}#{slug(word)})' if left.pop(word, None) else match[0]

    def prose(text):
        parts = PIECES.split(LINKED.sub(r'\1', text))                    # prose, piece, prose, …
        for i in range(0, len(parts), 2):
            lines = parts[i].split('\n')
            begun = i and not parts[i - 1].startswith(('#', '```'))      # the first of these lines goes on behind a piece
            row = begun and ''.join(parts[:i]).split('\n')[-1]
            for j, line in enumerate(lines):
                start = (row or '') + line if j == 0 else line
                if not start.lstrip().startswith(('|', '>', '<')): lines[j] = any_.sub(link, line)
            parts[i] = '\n'.join(lines)
        return ''.join(parts)

    return [prose(c.source) if c.cell_type == 'markdown' else c.source for c in cells]


if __name__ == '__main__':
    for path in map(Path, sys.argv[1:] or pages()):
        notebook = read_nb(path)
        sources = linked(notebook.cells, path)
        if sources == [c.source for c in notebook.cells]: continue
        for cell, source in zip(notebook.cells, sources): cell.source = source
        write_nb(notebook, path)
        print(f'{path.relative_to(NBS)}: terms are linked')
