"""Slides of a notebook: one HTML file that needs nothing else. A slide begins at every text; arrow keys turn them.

    python site/slides.py [nbs/hour.ipynb] [--out _slides/hour.html]
"""
import argparse, re
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbformat.v4 import new_notebook
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parent.parent

STYLE = """
body { margin: 0; font: 26px/1.45 system-ui, sans-serif; color: #1f2933; background: #fff }
section { display: none; box-sizing: border-box; min-height: 100vh; padding: 4vh 7vw 9vh; max-width: 1500px; margin: auto }
section.here { display: flex; flex-direction: column; justify-content: safe center }
h1, h2, h3 { font-family: Georgia, serif; line-height: 1.2; margin: 0 0 .5em } h1 { font-size: 2.1em } h2 { font-size: 1.6em }
pre { font: 17px/1.4 ui-monospace, monospace; margin: .3em 0; overflow-x: auto } .highlight { background: #f3f5f8; padding: .5em 1em; border-radius: 6px }
.output_area pre { color: #5b6673; border-left: 3px solid #d9dee4; padding-left: 1em } img { max-width: 100%; height: auto; zoom: 1.25 }
.prompt, .anchor-link { display: none } blockquote { margin: 0; color: #5b6673; font-size: 1.1em } a { color: #0b5a9c }
table { border-collapse: collapse } td, th { padding: .2em .8em; border-bottom: 1px solid #d9dee4; text-align: left }
nav { position: fixed; right: 1.2em; bottom: .6em; font-size: 15px; color: #5b6673 }
@media print { section { display: block; break-after: page } nav { display: none } }
"""
SCRIPT = """
const slides = [...document.querySelectorAll('section')], page = document.querySelector('nav');
const fit = s => {   // all of it on the screen, smaller if it must be
  for (let z = 1; ; z -= .05) { s.style.zoom = z; s.style.maxWidth = 1500 / z + 'px'; if (z < .5 || s.scrollHeight * z <= innerHeight + 1) return } };
const show = n => { n = Math.max(0, Math.min(slides.length - 1, n)); slides.forEach((s, i) => s.classList.toggle('here', i === n));
  fit(slides[n]); location.replace('#' + (n + 1)); page.textContent = `${n + 1} / ${slides.length}`; scrollTo(0, 0) };
const now = () => (parseInt(location.hash.slice(1)) || 1) - 1;
addEventListener('keydown', e => { const by = {ArrowRight: 1, PageDown: 1, ' ': 1, ArrowLeft: -1, PageUp: -1}[e.key];
  if (by) { e.preventDefault(); show(now() + by) } else if (e.key === 'Home') show(0); else if (e.key === 'End') show(slides.length - 1) });
page.onclick = () => show(now() + 1); onresize = () => show(now()); show(now());
"""


def slides(notebook):
    "Cells in groups, one for each slide: a text begins one, so does a picture's cell after the first code."
    groups = []
    for cell in notebook.cells:
        hidden = re.match(r'#\| *(hide|code-fold)', cell.source)
        if hidden and hidden[1] == 'hide': continue
        cell.source = '' if hidden else re.sub(r'^(#\|.*\n)+', '', cell.source)   # of a folded cell, its output only
        parts = re.split(r'^(?=## )', cell.source, flags=re.M) if cell.cell_type == 'markdown' else [cell.source]
        for i, part in enumerate(p for p in parts if p.strip() or cell.get('outputs')):
            if cell.cell_type == 'markdown' or not groups or len(groups[-1]) > 1: groups.append([])
            groups[-1].append(nbformat.from_dict({**cell, 'source': part, 'id': f'{cell.id}-{i}'}))
            if pictures := [o for o in cell.get('outputs', []) if part and 'image/png' in o.get('data', {})]:
                groups[-1][-1].outputs = [o for o in cell.outputs if o not in pictures]
                groups.append([nbformat.from_dict({**cell, 'source': '', 'outputs': pictures, 'id': f'{cell.id}-p'})])
    return groups


def deck(path):
    "The notebook at `path` as one page of HTML."
    notebook = nbformat.read(path, as_version=4)
    exporter = HTMLExporter(template_name='basic')
    bodies = [exporter.from_notebook_node(new_notebook(cells=cells))[0] for cells in slides(notebook)]
    bodies = [re.sub(r'<a href="[^"]*\.ipynb[^"]*">(.*?)</a>', r'\1', b) for b in bodies]   # no pages beside it
    bodies = [re.sub(r'<div class="highlight[^"]*"><pre><span></span>\s*</pre></div>', '', b) for b in bodies]   # folded code
    title = re.search(r'^# (.*)', notebook.cells[0].source, re.M)[1]
    code = HtmlFormatter().get_style_defs('.highlight')
    sections = '\n'.join(f'<section>{b}</section>' for b in bodies)
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f'<title>{title}</title><style>{code}{STYLE}</style><body>{sections}<nav></nav><script>{SCRIPT}</script></body></html>')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('notebook', type=Path, nargs='?', default=ROOT / 'nbs' / 'hour.ipynb')
    parser.add_argument('--out', type=Path)
    given = parser.parse_args()
    out = given.out or ROOT / '_slides' / f'{given.notebook.stem}.html'
    out.parent.mkdir(parents=True, exist_ok=True); out.write_text(deck(given.notebook), encoding='utf-8')
    print(f'{out}: open it in a browser; arrow keys turn the slides')


if __name__ == '__main__': main()
