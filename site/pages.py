"""Notebooks as pages: a page is a list of parts in reading order, and is written as Markdown, for Sphinx or to be read as it is.

Nothing is executed: a page shows what its notebook stores, and of an exported symbol what its code says.
"""
import ast, base64, configparser, dataclasses, hashlib, html, importlib, inspect, io, os, re, sys, textwrap
from dataclasses import dataclass, field
from pathlib import Path

import nbformat, yaml
from fastcore.docments import docments
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / 'nbs'


# --- names and addresses -------------------------------------------------------------------------------------------

def settings():
    "What settings.ini says, the public home of the project among it, if it has one."
    parser = configparser.ConfigParser(delimiters=['='], interpolation=None)
    parser.read(ROOT / 'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


def page_name(path):
    "The page of a notebook, as nbdev names it: nbs/train/01_first.ipynb -> train/first."
    path = Path(path)
    return (path.parent / re.sub(r'^\d+[a-zA-Z0-9]*_', '', path.stem.lower())).as_posix()


def notebooks():
    "{page name: notebook}, in file order, hidden files and folders left out."
    found = sorted(p for p in NBS.rglob('*.ipynb') if not any(part.startswith(('.', '_')) for part in p.relative_to(NBS).parts))
    return {page_name(p.relative_to(NBS)): p for p in found}


def quarto_yml(): return yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))


def sidebar(names):
    "[(section or None, [page name])] of `_quarto.yml`; pages it does not know come last, ones that do not exist are left out."
    groups = []
    for item in quarto_yml()['website']['sidebar']['contents']:
        files = item.get('contents', [item.get('href')])
        if isinstance(files, str): files = sorted(p.relative_to(NBS).as_posix() for p in NBS.glob(files))   # Quarto's globs
        groups.append((item.get('section'), [n for n in map(page_name, files) if n in names]))
    listed = {n for _, items in groups for n in items}
    return [g for g in groups + [('More', [n for n in names if n not in listed])] if g[1]]


def home(path):
    "Where a file of the repository can be read, or '' where the project has no public home."
    url, branch = settings().get('git_url', ''), settings()['branch']
    return url and f'{url}/blob/{branch}/{path}'


LINK = re.compile(r'(?<=\]\()([^)\s]+)(?=[)\s])')

def local(url, page):
    "An address as seen from `page`: a notebook is its page, a file outside nbs/ is in the repository."
    if re.match(r'[a-z][a-z+.-]*:|#', url): return url
    target, mark, anchor = url.partition('#')
    inside = os.path.normpath(Path(page).parent / target)
    if inside.startswith('../'): return home(inside.removeprefix('../')) or url
    if target.endswith('.ipynb'): target = '../' * page.count('/') + page_name(inside) + '.html'
    return target + mark + anchor


PIECES = re.compile(r'(^```.*?^```\s*?$|^#+ .*$|\[[^\]\n]*\]\([^)\n]*\)|`[^`\n]+`|\$[^$]+\$)', re.M | re.S)

def relink(text, page, symbols):
    "Links lead to pages, names of exported symbols to their cards, a number stays with its per cent; code and mathematics are left alone."
    def piece(i, p):
        if i % 2 and p.startswith(('```', '$')): return p
        if i % 2 and p.startswith('`'):
            name = re.fullmatch(r'`([A-Za-z_][\w.]*)(?:\(\))?`', p)
            found = name and symbols.get(name[1], symbols.get(name[1].split('.')[0] if '.' in name[1] else ''))
            target = found and (page if page in found else found[0] if len(found) == 1 else '')
            if not target: return p
            anchor = name[1] if name[1] in symbols else name[1].split('.')[0]
            return f"[{p}]({'' if target == page else '../' * page.count('/') + target + '.html'}#{anchor.lower()})"
        return re.sub(r'(?<=\d) %', '\N{NO-BREAK SPACE}%', LINK.sub(lambda m: local(m[1], page), p))
    return ''.join(piece(i, p) for i, p in enumerate(PIECES.split(text)))


# --- what a cell says -----------------------------------------------------------------------------------------------

@dataclass
class Part:
    kind: str                                    # text | code | card
    source: str
    fold: str = ''                               # summary of the fold, '' for none
    open: bool = False                           # is the fold open at first?
    outputs: list = field(default_factory=list)  # (kind, content): text | html | picture | markdown


@dataclass
class Page:
    name: str          # masks, train/data, …
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


def outputs(cell, kinds=('html', 'picture', 'markdown', 'text')):
    "[(kind, content)] of what a cell stores, each in the first of `kinds` that it has; a picture is (bytes, suffix, alternative text, size)."
    shown = []
    for o in cell.get('outputs') or []:
        data, meta = o.get('data', {}), o.get('metadata', {}).get('image/png', {})
        words = joined(data.get('text/plain'))
        forms = dict(html=joined(data.get('text/html')), markdown=joined(data.get('text/markdown') or data.get('text/latex')), text=words)
        if o['output_type'] == 'stream': forms = dict(text=joined(o['text']) if o['name'] == 'stdout' else '')
        if 'image/svg+xml' in data: forms['picture'] = joined(data['image/svg+xml']).encode(), 'svg', words, None
        elif 'image/png' in data:
            raw = base64.b64decode(joined(data['image/png']))
            with Image.open(io.BytesIO(raw)) as image: size, own = image.size, image.info.get('Description')
            alt = meta.get('alt') or own or re.sub(r'^(\[\w+\]|Figure:) ?', '', words)
            width = meta.get('width', size[0])
            forms['picture'] = raw, 'png', alt, [width, meta.get('height', round(width * size[1] / size[0]))]   # the ratio keeps its place before it is loaded
        kind = next((k for k in kinds if forms.get(k)), None)
        if kind and (kind == 'picture' or forms[kind].strip()):
            if kind == 'text' and shown and shown[-1][0] == 'text': forms['text'] = shown.pop()[1] + '\n' + forms['text']
            shown.append((kind, forms[kind] if kind == 'picture' else forms[kind].rstrip()))
    return shown


def definitions(code):
    "[(name, node)] of the public functions and classes that a cell defines; of a patched method `Class.method`."
    for node in ast.parse(code).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'): continue
        patched = any('patch' in ast.unparse(d) for d in node.decorator_list)
        yield (f'{ast.unparse(node.args.args[0].annotation)}.{node.name}' if patched else node.name), node


def only_imports(code): return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(code).body)


def card(name, node, code, module):
    "What there is to know of a symbol before its code: name, docstring, a row for each documented parameter."
    symbol = module
    for part in name.split('.'): symbol = getattr(symbol, part)
    line = node.end_lineno == node.lineno and code.splitlines()[node.lineno - 1].partition('  # ')[2] or ''
    try: source = home(f'{Path(module.__file__).relative_to(ROOT).as_posix()}#L{inspect.getsourcelines(symbol)[1]}')
    except (OSError, TypeError): source = ''
    link = f'<a class="source" href="{html.escape(source)}">source</a>' if source else ''
    body = '\n\n'.join(filter(None, (line.strip() or inspect.cleandoc(ast.get_docstring(node) or ''), '' if line else table(symbol))))
    return f'<!-- symbol {name.lower()} -->\n\n### `{name}`\n' + (f'\n<div class="api">{link}\n\n{body}\n\n</div>\n' if body else '')


def table(symbol):
    "The documented parameters of a function or class, as Markdown."
    try: params, kinds = docments(symbol, full=True, returns=True), inspect.signature(symbol).parameters
    except (TypeError, ValueError): return ''     # a property, an exception: nothing to give it
    made = {f.name: f.default_factory() for f in getattr(symbol, '__dataclass_fields__', {}).values() if f.default_factory is not dataclasses.MISSING}
    rows = [[f'`{n}`' if n != 'return' else '*returns*', anno(p.get('anno')), default(made.get(n, p.get('default'))) if n != 'return' else '',
             ' '.join((p.get('docment') or '').split()).replace('|', '\\|')] for n, p in params.items()
            if n not in ('self', 'cls') and (p.get('docment') or n in kinds and kinds[n].kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD))]
    if not any(row[3] for row in rows): return ''   # the source beside it says as much
    keep = [i for i in range(4) if i in (0, 3) or any(row[i] for row in rows)]
    return '\n'.join('| ' + ' | '.join(row[i] for i in keep) + ' |' for row in (['', 'type', 'default', ''], ['---'] * 4, *rows))


def anno(x):
    "A type as short as it can be said."
    if x is None or x in (inspect.Parameter.empty, type(None)): return ''
    name = x if isinstance(x, str) else str(x) if hasattr(x, '__args__') else getattr(x, '__name__', str(x))
    name = {'store_true': 'flag', 'store_false': 'flag'}.get(name, name)      # how fastcore says that an option takes no value
    return '`' + name.replace('typing.', '').replace('|', '¦') + '`'


def default(x):
    if x is inspect.Parameter.empty: return ''
    text = getattr(x, '__name__', None) or repr(x)
    return '`' + (text if len(text) < 40 else '…').replace('|', '¦').replace('`', '') + '`'


# --- pages ----------------------------------------------------------------------------------------------------------

def page(name, path):
    "Everything a page holds; links in it are still those of the notebook."
    parts, module, title, promise = [], None, path.stem, ''
    for c in nbformat.read(path, as_version=4).cells:
        if c.cell_type == 'markdown':
            head = title == path.stem and re.match(r'# ([^\n]+)\n\s*((?:>[^\n]*\n?)*)(.*)', c.source + '\n', re.S)
            if head: title, promise = head[1], ' '.join(line.lstrip('> ') for line in head[2].splitlines())
            if text := (head[3] if head else c.source).strip(): parts.append(Part('text', text))
        if c.cell_type != 'code': continue
        said, code = directives(c.source)
        if 'default_exp' in said: module = importlib.import_module(f"ggr_nb.{said['default_exp']}")
        exported = {'export', 'exports'} & said.keys()
        if exported: parts += [Part('card', card(n, node, code, module)) for n, node in definitions(code)]
        if {'hide', 'export', 'default_exp'} & said.keys() or said.get('include') == 'false': continue
        shown = [] if said.get('output') == 'false' else outputs(c)
        if said.get('echo') == 'false' or 'hide_input' in said: code = ''
        fold = said.get('code-fold', '') in ('true', 'show') and said.get('code-summary', 'Code')
        if exported: fold = module.__name__ + ' · imports' * only_imports(code)
        if code or shown: parts.append(Part('code', code, fold or '', bool(exported) and not only_imports(code) or said.get('code-fold') == 'show', shown))
    return Page(name, path, title, promise, parts, {})


def site():
    "{page name: page} with links that lead somewhere and pictures as files."
    if str(ROOT) not in sys.path: sys.path.insert(0, str(ROOT))
    found = {name: page(name, path) for name, path in notebooks().items()}
    symbols = {}
    for name, p in found.items():
        for part in p.parts:
            if part.kind == 'card': symbols.setdefault(re.search(r'^### `([^`]+)`', part.source, re.M)[1], []).append(name)
    for name, p in found.items():
        p.promise, heading = relink(p.promise, name, symbols), p.title
        for part in p.parts:
            if part.kind == 'text': heading = (re.findall(r'^#+\s+(.+)$', part.source, re.M) or [heading])[-1]
            if part.kind != 'code': part.source = relink(part.source, name, symbols)
            for i, (kind, x) in enumerate(part.outputs):
                if kind == 'markdown': part.outputs[i] = kind, relink(x, name, symbols)
                if kind == 'html': part.outputs[i] = kind, re.sub(r'<t[dh][ >][^<]*', lambda m: re.sub(r'(?<=\d) %', '\N{NO-BREAK SPACE}%', m[0]), x)
                if kind == 'picture': part.outputs[i] = kind, picture(p, x, heading)
    return found


def picture(page, found, heading):
    "A stored picture as a file beside the page, with its alternative text and its size."
    raw, suffix, alt, size = found
    file = f"{page.name.replace('/', '-')}-{hashlib.sha1(raw).hexdigest()[:8]}.{suffix}"
    page.figures[file] = raw
    alt, size = html.escape(alt or f'Figure in the section “{heading}”'), ' width="{}" height="{}"'.format(*size) if size else ''
    return f'<img src="{"../" * page.name.count("/")}figures/{file}" alt="{alt}"{size} loading="lazy">'


def tools(page):
    "The row of links under the title; Colab opens what lies on GitHub."
    here, up = page.path.relative_to(NBS).as_posix(), '../' * page.name.count('/')
    source = home(f'nbs/{here}')
    colab = source.replace('https://github.com/', 'https://colab.research.google.com/github/') if 'https://github.com/' in source else ''
    rows = [(colab, 'Open in Colab', ''),
            (f'http://localhost:8888/lab/tree/{here}', 'Open in JupyterLab', ' title="works while `make lab` is running" rel="nofollow"'),
            (f'{up}notebooks/{here}', 'Download', ' download'), (f'{up}{page.name}.md', 'Markdown', '')]
    links = ''.join(f'<a href="{html.escape(url)}"{extra}>{text}</a>' for url, text, extra in rows if url)
    return f'<nav class="tools" aria-label="This notebook">{links}</nav>'


def fence(code, language):
    ticks = '`' * max(3, 1 + max((len(t) for t in re.findall(r'`+', code)), default=0))
    return f'{ticks}{language}\n{code.rstrip()}\n{ticks}'


def folded(line):
    "A long sentence in lines of a page's width; a row of a table, which has runs of spaces, as it is."
    return line if '  ' in line.strip() else textwrap.fill(line, 98, break_long_words=False, break_on_hyphens=False, subsequent_indent=re.match(' *', line)[0])


def staged(page):
    "The page for Sphinx."
    def block(kind, x):
        if kind == 'text': return fence('\n'.join(map(folded, x.split('\n'))), 'output')
        if kind == 'html': return fence(f'<div class="shown">{x}</div>', '{raw} html')
        if kind == 'markdown': return x
        width = re.search(r' width="(\d+)"', x)
        if not width or int(width[1]) <= 620: return f'<figure class="picture">{x}</figure>'
        said = re.search(r' alt="(?:Figure: )?([^"]*?)[.]?(?:[.] |")', x)[1]      # a phone cuts the title off, and scrolls
        return f'<figure class="picture wide"><figcaption aria-hidden="true">{said}</figcaption>{x}</figure>'
    out = [f'# {page.title}', f'<div class="promise">\n\n{page.promise}\n\n</div>' if page.promise else '', tools(page)]
    for p in page.parts:
        if p.kind != 'code': out.append(p.source); continue
        code, shown = [fence(p.source, 'python')] * bool(p.source), [block(*o) for o in p.outputs]
        if p.fold.startswith('Solution'): code, shown = code + shown, []   # what a solution says is part of the answer
        kind = 'exported' if p.fold.startswith('ggr_nb.') else 'fold'
        out += [f'<details class="{kind}"{" open" * p.open}><summary>{html.escape(p.fold)}</summary>', *code, '</details>'] if p.fold and code else code
        out += shown
    return '\n\n'.join(filter(None, out)) + '\n'


def markdown(page):
    "The page for those who read text."
    def block(kind, x):
        if kind == 'picture': return '![{}]({})'.format(*(html.unescape(re.search(f'{a}="([^"]*)"', x)[1]) for a in ('alt', 'src')))
        return x if kind == 'markdown' else fence(plain(x) if kind == 'html' else x, 'text')
    out = [f'# {page.title}', f'> {page.promise}' if page.promise else '']
    for p in page.parts:
        if p.kind == 'text': out.append(p.source)
        elif p.kind == 'card': out.append(re.sub(r'\n{3,}', '\n\n', re.sub(r'<!--.*?-->|<a class.*?</a>|</?div[^>]*>', '', p.source)).strip())
        else: out += [f'*{p.fold}:*' * bool(p.fold and not p.fold.startswith('ggr_nb.')), fence(p.source, 'python') * bool(p.source), *(block(*o) for o in p.outputs)]
    return '\n\n'.join(filter(None, out)) + '\n'


def plain(text):
    "What is left of HTML for those who read text."
    text = re.sub(r'</(t[dh])>\s*<t[dh][^>]*>', ' | ', re.sub(r'<(script|style|svg)\b.*?</\1>', '', text, flags=re.S))
    text = html.unescape(re.sub(r'<[^>]+>', ' ', re.sub(r'</tr>', '\n', text)))
    return '\n'.join(' '.join(line.split()) for line in text.splitlines() if line.strip())
