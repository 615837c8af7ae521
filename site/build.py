"""Build the documentation site into _docs/ with Sphinx, from the notebooks as they are stored.

    python site/build.py [--out DIR]
"""
import argparse, shutil, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import pages  # noqa: E402
from pages import NBS, ROOT  # noqa: E402


def toctree(site):
    "The sidebar of `_quarto.yml` as Sphinx wants it, for the end of the index page."
    blocks = []
    for section, items in pages.sidebar(site):
        lines = [f"{site[i].title.split(':')[0]} <{i}>" for i in items if i != 'index']
        if lines: blocks.append('\n'.join(['```{toctree}', ':hidden:', *([f':caption: {section}'] if section else []), '', *lines, '```']))
    return '\n\n'.join(blocks)


def llms(site):
    "llms.txt: what there is to read, for readers who are machines."
    lines = [f"# {pages.settings()['title']}", '', f"> {pages.settings()['description']}", '']
    for section, items in pages.sidebar(site):
        lines += [f"## {section or 'Start here'}", ''] + [f'- [{site[i].title}]({i}.md): {site[i].promise}' for i in items] + ['']
    return '\n'.join(lines)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def build(out):
    "(number of pages, number of warnings): the pages, and beside each its Markdown and its notebook."
    from sphinx.application import Sphinx
    site = pages.site()
    files = {p.relative_to(NBS): p.read_bytes() for p in (NBS / 'images').rglob('*') if p.is_file()}
    for p in site.values(): files |= {Path('figures', name): raw for name, raw in p.figures.items()}
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        for name, p in site.items(): write(work / 'source' / f'{name}.md', pages.staged(p) + ('\n' + toctree(site) if name == 'index' else ''))
        for name, raw in files.items(): write(work / 'source' / name, raw)
        app = Sphinx(work / 'source', HERE, work / 'html', work / 'doctrees', 'html', status=None, warning=sys.stderr, freshenv=True)
        app.build()
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(work / 'html', out, ignore=shutil.ignore_patterns('.buildinfo', 'objects.inv'))
    for name, p in site.items(): files |= {f'{name}.md': pages.markdown(p), Path('notebooks') / p.path.relative_to(NBS): p.path.read_bytes()}
    for name, content in (files | {'llms.txt': llms(site)}).items(): write(out / name, content)
    return len(site), app.statuscode or app._warncount


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=ROOT / '_docs', help='where the site goes (default: _docs)')
    args, start = parser.parse_args(), time.time()
    number, warnings = build(args.out.resolve())
    print(f'{number} pages in {args.out}, {time.time() - start:.0f} s' + (f', {warnings} warnings' if warnings else ''))
    sys.exit(bool(warnings))
