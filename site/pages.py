"""Notebooks as pages: nbdev's own processors, then the few steps that Sphinx needs where Quarto would do them itself.

A page is a list of parts in reading order. `stage` writes it as a notebook for myst-nb, `markdown` as plain Markdown.
"""
import ast, base64, hashlib, html, inspect, os, re, struct, sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import nbformat, yaml
from execnb.nbio import NbCell, read_nb
from fastcore.docments import docments
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults
from nbdev.showdoc import BasicMarkdownRenderer
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / 'nbs'


# --- names and addresses -------------------------------------------------------------------------------------------

def page_name(path):
    "The page of a notebook, as nbdev names it: nbs/tutorials/01_first.ipynb -> tutorials/first."
    path = Path(path)
    stem = re.sub(r'^\d+[a-zA-Z0-9]*_', '', path.stem.lower())
    return (path.parent / stem).as_posix().removeprefix('./')


def notebooks():
    "{page name: notebook}, in file order, hidden files and folders left out."
    found = sorted(p for p in NBS.rglob('*.ipynb')
                   if not any(part.startswith(('.', '_')) for part in p.relative_to(NBS).parts))
    return {page_name(p.relative_to(NBS)): p for p in found}


def quarto_yml(): return yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))


def sidebar(names):
    "[(section or None, [page name])] of `_quarto.yml`; pages it does not know come last, ones that do not exist are left out."
    groups, seen = [], set()
    def add(section, items):
        if isinstance(items, str): items = sorted(p.relative_to(NBS).as_posix() for p in NBS.glob(items))   # Quarto's globs
        pages = [page_name(i['href'] if isinstance(i, dict) else i) for i in items]
        pages = [p for p in pages if p in names and p not in seen]
        seen.update(pages)
        if pages: groups.append((section, pages))
    for item in quarto_yml()['website']['sidebar']['contents']:
        if isinstance(item, dict) and 'section' in item: add(item['section'], item['contents'])
        else: add(None, [item])
    add('More', [n + '.ipynb' for n in names if n not in seen])
    return groups


LINK = re.compile(r'(?<=\]\()([^)\s]+)(?=[)\s])')

def local(url, page):
    "An address as seen from `page`: nbdev's absolute links to this site and links to notebooks become relative pages."
    cfg = get_config()
    home = f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip('/') + '/'
    up = '../' * page.count('/')
    if url.startswith(home): return up + url.removeprefix(home)
    if re.match(r'[a-z][a-z+.-]*:', url): return url
    target, mark, anchor = url.partition('#')
    if target.endswith('.ipynb'):
        inside = os.path.normpath(Path(page).parent / target)
        target = up + page_name(inside) + '.html'
    elif re.fullmatch(r'[\w/.-]*\.html', target): target = re.sub(r'(^|/)\d+[a-zA-Z0-9]*_(?=[^/]*$)', r'\1', target)
    return target + mark + anchor


def relink(text, page):
    "The same for every link of a piece of Markdown, and a number stays with its per cent; code and mathematics are left alone."
    parts = re.split(r'(^```.*?^```\s*?$|`[^`\n]+`|\$[^$]+\$)', text, flags=re.M | re.S)
    return ''.join(p if i % 2 else re.sub(r'(?<=\d) %', '\N{NO-BREAK SPACE}%', LINK.sub(lambda m: local(m[1], page), p)) for i, p in enumerate(parts))


# --- nbdev's part ---------------------------------------------------------------------------------------------------

class Card(BasicMarkdownRenderer):
    "What `show_doc` says of a symbol: its name, the docstring and one row for each documented parameter."
    def _repr_markdown_(self):
        lookup, name = NbdevLookup(), self.nm
        source = lookup.code(self.fn)
        link = f'<a class="source" href="{html.escape(source)}">source</a>' if source else ''
        body = '\n\n'.join(filter(None, (self.said(), self.table())))
        head = f'<!-- symbol {name.lower()} -->\n\n### `{name}`\n'
        return head + (f'\n<div class="api">{link}\n\n{body}\n\n</div>\n' if body else '')

    def said(self):
        "The docstring if the symbol has one of its own; of a function in one line the remark at its end."
        if line := one_line(self.sym): return line[1]
        return self.docs if getattr(self.sym, '__doc__', None) else ''

    def table(self):
        if one_line(self.sym): return ''
        try: params = docments(self.sym, full=True, returns=True)
        except Exception: return ''
        rest = [n for n, p in inspect.signature(self.sym).parameters.items() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        rows = [(n, p) for n, p in params.items() if n not in ('self', 'cls') and (p.get('docment') or n not in ('return', *rest))]
        if not any(p.get('docment') for _, p in rows): return ''   # the source beside it says as much
        table = [['*returns*' if n == 'return' else f'`{n}`', said(p.get('anno')), '' if n == 'return' else default(p.get('default')),
                  cell(p.get('docment'))] for n, p in rows]
        heads = ['', 'type', 'default', '']
        keep = [i for i in range(4) if i in (0, 3) or any(row[i] for row in table)]
        line = lambda row: '| ' + ' | '.join(row[i] for i in keep) + ' |'
        return '\n'.join([line(heads), '|---' * len(keep) + '|', *map(line, table)])


def one_line(symbol):
    "Of a function written in one line the match of (its code, the remark at its end)."
    try: text = inspect.getsource(symbol).strip()
    except (OSError, TypeError): return None
    return re.fullmatch(r'def .*\S\s+# (.*)', text)

def missing(x): return getattr(x, '__name__', '') == '_empty'

def said(anno):
    "A type as short as it can be said."
    if anno is None or missing(anno) or anno is type(None): return ''
    name = anno if isinstance(anno, str) else anno.__name__ if isinstance(anno, type) and not hasattr(anno, '__args__') else str(anno)
    return '`' + name.replace('typing.', '').replace('|', '¦') + '`'

def default(value):
    if missing(value): return ''
    text = getattr(value, '__name__', None) or repr(value)
    return '`' + (text if len(text) < 40 else '…').replace('|', '¦').replace('`', '') + '`'

def cell(text): return ' '.join((text or '').split()).replace('|', '\\|')


@contextmanager
def as_docs():
    "Run nbdev as its docs build does: inside nbs/, exports switched off, our card for `show_doc`."
    place, before = os.getcwd(), os.environ.get('IN_TEST')
    os.chdir(ROOT); cfg = get_config(); sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]
    os.environ['IN_TEST'] = '1'; cfg.d['renderer'] = 'pages.Card'
    try: yield
    finally:
        cfg.d.pop('renderer', None); del sys.path[:2]; os.chdir(place)
        os.environ.pop('IN_TEST') if before is None else os.environ.update(IN_TEST=before)


def read(path):
    "A notebook whose first text is title and promise alone: nbdev makes them the page's head and drops what else stands in their cell."
    nb = read_nb(path)
    at = next((i for i, c in enumerate(nb.cells) if c.cell_type == 'markdown'), None)
    found = at is not None and re.match(r'\s*(# [^\n]+)\n\s*((?:>[^\n]*\n?)*)(.*)', nb.cells[at].source + '\n', re.S)
    if found and found[3].strip():
        promise = ' '.join(line.lstrip('> ') for line in found[2].splitlines())
        rest = NbCell(0, dict(nb.cells[at], source=found[3].strip(), id=nb.cells[at].id + '-rest'))
        nb.cells[at].set_source(found[1] + (f'\n\n> {promise}' if promise else ''))
        nb.cells.insert(at + 1, rest)
    for i, c in enumerate(nb.cells):
        c.idx_ = i
        if c.cell_type == 'code' and stays_as_stored(c.source): c.set_source('#| eval: false\n' + c.source)
    return nb


def stays_as_stored(source):
    "Does a cell show what it stored? nbdev would run its imports out of context when other code stands beside them."
    said, code = directives(source)
    return not (said.keys() & {'export', 'exports', 'exporti', 'hide', 'default_exp', 'eval'} or only_imports(code) or 'show_doc(' in code)


def processed(path):
    "The notebook as nbdev hands it to its docs: hidden cells gone, symbols documented, backticks linked."
    with as_docs():
        os.chdir(path.parent)
        run = NBProcessor(nb=read(path), procs=FilterDefaults().procs())
        run.process()
    return run.nb


# --- parts ----------------------------------------------------------------------------------------------------------

@dataclass
class Part:
    kind: str                                    # text | code | card
    source: str
    fold: str = ''                               # summary of the fold, '' for none
    open: bool = False                           # is the fold open at first?
    outputs: list = field(default_factory=list)  # (kind, content): text | html | picture | markdown


@dataclass
class Page:
    name: str          # masks, tutorials/first, …
    path: Path         # the notebook
    title: str
    promise: str       # its one-line description
    parts: list
    figures: dict      # {file name: bytes}


def joined(x): return x if isinstance(x, str) else ''.join(x or [])

def directives(source):
    "(what `#|` lines say, the code without them)"
    lines, said = source.splitlines(), {}
    while lines and (re.match(r'\s*#\s*\|', lines[0]) or not lines[0].strip()):
        found = re.match(r'\s*#\s*\|\s*([\w-]+):?\s*(.*)', lines.pop(0))
        if found: said[found[1]] = found[2].strip().strip('"\'')
    return said, '\n'.join(lines).rstrip()


def png_size(data): return struct.unpack('>II', data[16:24])

def png_text(data):
    "The `Description` that a PNG carries, if it does."
    at = 8
    while at < len(data):
        size, kind = struct.unpack('>I4s', data[at:at + 8])
        if kind == b'iTXt' and data[at + 8:].startswith(b'Description\0\0'):
            return data[at + 8:at + 8 + size].split(b'\0', 5)[-1].decode('utf-8', 'replace')
        at += 12 + size
    return ''


def picture(output, page, figures, heading):
    "A stored PNG or SVG as a file beside the page, with its alternative text and its size."
    data, meta = output.data, output.get('metadata', {}).get('image/png', {})
    plain = joined(data.get('text/plain'))
    if 'image/svg+xml' in data: raw, kind, size = joined(data['image/svg+xml']).encode(), 'svg', ''
    else:
        raw, kind = base64.b64decode(joined(data['image/png'])), 'png'
        w, h = (meta[k] if k in meta else v for k, v in zip(('width', 'height'), png_size(raw)))
        size = f' width="{w}" height="{h}"'
    alt = meta.get('alt') or (png_text(raw) if kind == 'png' else '')
    alt = alt or (plain.removeprefix('[figure] ') if plain.startswith('[figure] ') else f'Figure in the section “{heading}”')
    name = f"{page.replace('/', '-')}-{hashlib.sha1(raw).hexdigest()[:8]}.{kind}"
    figures[name] = raw
    address = '../' * page.count('/') + 'figures/' + name
    return 'picture', f'<img src="{address}" alt="{html.escape(alt)}"{size} loading="lazy">'


def outputs(cell, page, figures, heading):
    "What a cell shows, each in the richest form that a page can bear; progress and warnings on stderr are left out."
    shown = []
    for o in cell.get('outputs') or []:
        data = o.get('data', {})
        if o.output_type == 'stream':
            if o.name == 'stdout' and joined(o.text).strip(): shown.append(('text', joined(o.text).rstrip()))
        elif o.output_type == 'error':
            shown.append(('text', f"{o.ename}: {o.evalue}"))
        elif 'text/html' in data: shown.append(('html', joined(data['text/html'])))
        elif 'image/svg+xml' in data or 'image/png' in data: shown.append(picture(o, page, figures, heading))
        elif 'text/markdown' in data: shown.append(('markdown', relink(joined(data['text/markdown']), page)))
        elif 'text/latex' in data: shown.append(('markdown', joined(data['text/latex'])))
        elif 'text/plain' in data: shown.append(('text', joined(data['text/plain'])))
    merged = []
    for kind, content in shown:
        if merged and kind == 'text' == merged[-1][0]: merged[-1] = ('text', merged[-1][1] + '\n' + content)
        else: merged.append((kind, content))
    return merged


def unlinked(card):
    "A card without nbdev's links on its own name and on its parameters, which only share a name with something else."
    return re.sub(r'^(### |\| )\[(`[^`]+`)\]\([^)]*\)', r'\1\2', card, flags=re.M)


def only_imports(code):
    try: body = ast.parse(code).body
    except SyntaxError: return False
    return bool(body) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)


def module(path):
    "What a notebook exports to: ggr_nb.masks."
    found = next((re.match(r'#\|\s*default_exp\s+(\S+)', joined(c.source)) for c in read_nb(path).cells if 'default_exp' in joined(c.source)), None)
    return f'{get_config().lib_name}.{found[1]}' if found else ''


def page(name, path):
    "Everything a page holds."
    nb, parts, figures, heading = processed(path), [], {}, ''
    front = getattr(nb, 'frontmatter_', {}) or {}
    title = front.get('title') or path.stem
    heading, exports = title, module(path)
    for c in nb.cells:
        source = joined(c.source)
        if c.cell_type == 'raw' or source.startswith('<!-- WARNING'): continue
        if c.cell_type == 'markdown':
            found = re.findall(r'^#+\s+(.+)$', source, re.M)
            heading = found[-1] if found else heading
            parts.append(Part('text', relink(source, name)))
            continue
        said, code = directives(source)
        shown = outputs(c, name, figures, heading)
        if said.get('include') == 'false': continue
        if code.startswith('show_doc('):
            parts += [Part('card', unlinked(text)) for kind, text in shown if kind == 'markdown']
            continue
        if said.get('echo') == 'false': code = ''
        if said.get('output') == 'false': shown = []
        if not code and not shown: continue
        fold = said.get('code-fold', 'false')
        label = said.get('code-summary', 'Code') if fold in ('true', 'show') else ''
        if label == 'Exported source': label = exports
        if label == exports != '' and only_imports(code): label, fold = f'{exports} · imports', 'true'
        parts.append(Part('code', code, label, fold == 'show', shown))
    description = relink(' '.join(str(front.get('description', '')).split()), name)
    return Page(name, path, title, description, cards_first(parts, exports), figures)


def cards_first(parts, exports):
    "The cards of an exported cell before its code, in the order of the code: nbdev leaves one before it, and the others behind."
    def belongs(p): return p.kind == 'card' or p.fold == exports != ''
    runs = [(mine, list(run)) for mine, run in groupby(parts, belongs)]
    return [p for mine, run in runs for p in (ordered(run) if mine else run)]

def ordered(run):
    "Each code after the cards of what it defines; a card of something that no code here defines stays where it is."
    cards = {symbol(p): p for p in run if p.kind == 'card'}
    own = [[cards.pop(n) for n in defined(p.source) if n in cards] if p.kind == 'code' else [] for p in run]
    left = list(cards.values())
    return [q for p, before in zip(run, own) if p.kind == 'code' or p in left for q in (*before, p)]

def defined(code):
    try: return [n.name for n in ast.parse(code).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    except SyntaxError: return []

def symbol(card): return re.search(r'^### `([^`]+)`', card.source, re.M)[1].split('.')[-1]


SYMBOL = re.compile(r'\[(`[^`]+`)\]\(([^)#\s]*)#([^)\s]+)\)')

def settle(site):
    "Links of nbdev to symbols without a heading of their own lead to their class, or are no links (private helpers)."
    symbols = {v[0].rsplit('/', 1)[-1].split('#')[-1] for v in NbdevLookup().syms.values() if isinstance(v, tuple) and '#' in v[0]}
    cards = {n: set(re.findall(r'<!-- symbol (\S+) -->', '\n'.join(p.source for p in page.parts))) for n, page in site.items()}
    def fix(found, page):
        label, target, anchor = found.groups()
        name = os.path.normpath(Path(page).parent / target).removesuffix('.html') if target else page
        if name not in cards or anchor not in symbols or anchor in cards[name]: return found[0]
        parent = anchor.rpartition('.')[0]
        return f'[{label}]({target}#{parent})' if parent in cards[name] else label
    for name, page in site.items():
        for p in page.parts:
            if p.kind != 'code': p.source = SYMBOL.sub(lambda m: fix(m, name), p.source)
            p.outputs = [(k, SYMBOL.sub(lambda m: fix(m, name), x) if k == 'markdown' else x) for k, x in p.outputs]


# --- what is written ------------------------------------------------------------------------------------------------

def tools(page):
    "The row of links under the title."
    cfg, here = get_config(), page.path.relative_to(NBS).as_posix()
    up, esc = '../' * page.name.count('/'), html.escape
    colab = f'https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/{here}'
    rows = [(colab, 'Open in Colab', ''),
            (f'http://localhost:8888/lab/tree/{here}', 'Open in JupyterLab', ' title="works while `make lab` is running" rel="nofollow"'),
            (f'{up}notebooks/{here}', 'Download', ' download'),
            (f'{up}{page.name}.md', 'Markdown', '')]
    links = ''.join(f'<a href="{esc(url)}"{extra}>{text}</a>' for url, text, extra in rows)
    return f'<nav class="tools" aria-label="This notebook">{links}</nav>'


def fence(code, language):
    ticks = '`' * max(3, 1 + max((len(t) for t in re.findall(r'`+', code)), default=0))
    return f'{ticks}{language}\n{code}\n{ticks}'


def wrapped(kind, x):
    if kind == 'html': return f'<div class="shown">{x}</div>'
    if kind != 'picture': return x
    width = re.search(r' width="(\d+)"', x)
    return f'<figure class="picture{" wide" if width and int(width[1]) > 620 else ""}">{x}</figure>'

def shown_cell(source, outs):
    "A cell that shows `outs`; one without source of its own gets a word that is not shown, since myst-nb drops empty cells with all they show."
    form = dict(text='text/plain', html='text/html', picture='text/html', markdown='text/markdown')
    outs = [new_output('display_data', data={form[k]: wrapped(k, x)}) for k, x in outs]
    return new_code_cell(source or '...', outputs=outs, metadata={} if source else {'tags': ['remove-input']})

def folded(p):
    "A fold with its code and what the code shows: the answer of an exercise stays with the solution."
    kind = 'exported' if p.open or p.fold.endswith(' · imports') else 'fold'
    inside = [fence(p.source, 'python')] + [fence(x, 'text') if k == 'text' else wrapped(k, x) for k, x in p.outputs]
    return '\n\n'.join([f'<details class="{kind}"{" open" if p.open else ""}><summary>{html.escape(p.fold)}</summary>', *inside, '</details>'])


def stage(page, extra=''):
    "The page as a notebook for myst-nb."
    cells = [new_markdown_cell(f'# {page.title}')]
    if page.promise: cells.append(new_markdown_cell(f'<div class="promise">\n\n{page.promise}\n\n</div>'))
    cells.append(new_markdown_cell(tools(page)))
    for p in page.parts:
        if p.kind != 'code': cells.append(new_markdown_cell(p.source)); continue
        cells.append(new_markdown_cell(folded(p)) if p.fold and p.source else shown_cell(p.source, p.outputs))
    if extra: cells.append(new_markdown_cell(extra))
    kernel = dict(name='python3', display_name='python3', language='python')
    for i, c in enumerate(cells): c['id'] = f'c{i}'
    return new_notebook(cells=cells, metadata=dict(kernelspec=kernel, language_info=dict(name='python', pygments_lexer='python')))


TAG = re.compile(r'<!-- symbol \S+ -->|<a class="source".*?</a>|</?(?:a|div|p|details|summary|figure|nav|span|br)\b[^>]*>')

def plain_html(text):
    "What is left of HTML for those who read text."
    text = re.sub(r'<(script|style|svg)\b.*?</\1>', '', text, flags=re.S)
    text = re.sub(r'</(t[dh])>\s*<t[dh][^>]*>', ' | ', text)
    text = html.unescape(re.sub(r'<[^>]+>', ' ', re.sub(r'</tr>', '\n', text)))
    return '\n'.join(' '.join(line.split()) for line in text.splitlines() if line.strip())


def markdown(page):
    "The page as plain Markdown."
    out = [f'# {page.title}'] + ([f'> {page.promise}'] if page.promise else [])
    for p in page.parts:
        if p.kind != 'code':
            out.append(re.sub(r'\n{3,}', '\n\n', TAG.sub('', p.source)).strip() if p.kind == 'card' else p.source)
            continue
        if p.source: out.append(('*' + p.fold + ':*\n\n' if p.fold and not p.open and not p.fold.endswith(' · imports') else '') + fence(p.source, 'python'))
        for kind, x in p.outputs:
            if kind == 'picture':
                out.append('![{}]({})'.format(*(html.unescape(re.search(f'{a}="([^"]*)"', x)[1]) for a in ('alt', 'src'))))
            elif kind == 'markdown': out.append(x)
            else: out.append(fence(plain_html(x) if kind == 'html' else x, 'text'))
    return '\n\n'.join(o for o in out if o.strip()) + '\n'
