"""Make README.md from nbs/index.ipynb, without Quarto.

    python site/readme.py            write it
    python site/readme.py --check    say whether it is up to date
"""
import base64, json, os, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / 'nbs' / 'index.ipynb'
LINK = re.compile(r'(?<=\]\()([^)\s]+)(?=[)\s])')
HIDDEN = re.compile(r'^#\|\s*(hide|include:\s*false|default_exp)', re.M)


def joined(x): return x if isinstance(x, str) else ''.join(x)


def relink(text):
    "Addresses that are right in nbs/ as they are from the top of the repository."
    def move(found):
        url = found[1]
        return url if re.match(r'[a-z][a-z+.-]*:|#|/', url) else os.path.normpath('nbs/' + url)
    parts = re.split(r'(^```.*?^```\s*?$)', text, flags=re.M | re.S)
    return ''.join(p if i % 2 else LINK.sub(move, p) for i, p in enumerate(parts))


def fence(text, language): return f'```{language}\n{text.rstrip()}\n```'


def outputs(cell, pictures):
    "What a cell stores, as Markdown; a picture becomes a file beside the notebook's own."
    for o in cell['outputs']:
        data = o.get('data', {})
        if o['output_type'] == 'stream' and o['name'] == 'stdout': yield fence(joined(o['text']), 'text')
        elif 'text/markdown' in data: yield relink(joined(data['text/markdown']))
        elif 'image/png' in data:
            name = f'nbs/images/readme-{len(pictures) + 1}.png'
            pictures[name] = base64.b64decode(joined(data['image/png']))
            alt = o.get('metadata', {}).get('image/png', {}).get('alt') or joined(data.get('text/plain', '')).removeprefix('[figure] ').removeprefix('[explorer] ')
            yield f"![{alt.replace(']', '')}]({name})"
        elif 'text/plain' in data: yield fence(joined(data['text/plain']), 'text')


def files():
    "{path from the top: bytes}: README.md and the pictures it shows."
    parts, pictures = [], {}
    for cell in json.loads(INDEX.read_text(encoding='utf-8'))['cells']:
        source = joined(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(relink(source)); continue
        if cell['cell_type'] != 'code' or HIDDEN.search(source): continue
        code = '\n'.join(l for l in source.splitlines() if not re.match(r'#\|', l))
        if not re.search(r'^#\|\s*echo:\s*false', source, re.M): parts.append(fence(code, 'python'))
        parts += outputs(cell, pictures)
    note = '<!-- Made from nbs/index.ipynb by site/readme.py: edit the notebook. -->'
    text = '\n\n'.join([note] + [p.strip() for p in parts if p.strip()]) + '\n'
    return {'README.md': text.encode()} | pictures


def stale():
    "The files that are not what the notebook makes of them."
    return [p for p, content in files().items() if not (ROOT / p).exists() or (ROOT / p).read_bytes() != content]


if __name__ == '__main__':
    if '--check' in sys.argv:
        for path in stale(): print(f'{path} is not what nbs/index.ipynb makes: run `python site/readme.py`')
        sys.exit(bool(stale()))
    for path, content in files().items(): (ROOT / path).write_bytes(content)
