"""Make README.md from nbs/index.ipynb.

    python site/readme.py            write it
    python site/readme.py --check    say whether it is up to date
"""
import os, re, sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pages import LINK, NBS, ROOT, directives, fence, outputs  # noqa: E402


def relink(text):
    "Addresses that are right in nbs/ as they are from the top of the repository."
    def move(found): return found[1] if re.match(r'[a-z][a-z+.-]*:|#|/', found[1]) else os.path.normpath('nbs/' + found[1])
    return ''.join(p if i % 2 else LINK.sub(move, p) for i, p in enumerate(re.split(r'(^```.*?^```\s*?$)', text, flags=re.M | re.S)))


def files():
    "{path from the top: bytes}: README.md and the pictures it shows."
    parts, pictures = ['<!-- Made from nbs/index.ipynb by site/readme.py: edit the notebook. -->'], {}
    for cell in nbformat.read(NBS / 'index.ipynb', as_version=4).cells:
        if cell.cell_type == 'markdown': parts.append(relink(cell.source)); continue
        said, code = directives(cell.source)
        if {'hide', 'default_exp'} & said.keys() or said.get('include') == 'false': continue
        if said.get('echo') != 'false': parts.append(fence(code, 'python'))
        for kind, x in outputs(cell, ('markdown', 'picture', 'text')):
            if kind == 'picture':
                name = f'nbs/images/readme-{len(pictures) + 1}.png'
                pictures[name], x = x[0], f"![{x[2].replace(']', '')}]({name})"
            parts.append(fence(x, 'text') if kind == 'text' else relink(x) if kind == 'markdown' else x)
    return {'README.md': ('\n\n'.join(p.strip() for p in parts if p.strip()) + '\n').encode()} | pictures


def stale():
    "The files that are not what the notebook makes of them."
    return [p for p, content in files().items() if not (ROOT / p).exists() or (ROOT / p).read_bytes() != content]


if __name__ == '__main__':
    if '--check' in sys.argv:
        for path in stale(): print(f'{path} is not what nbs/index.ipynb makes: run `python site/readme.py`')
        sys.exit(bool(stale()))
    for path, content in files().items(): (ROOT / path).write_bytes(content)
