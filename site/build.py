"""Build the documentation site into _docs/: with Quarto where it is installed, otherwise with Sphinx from the same notebooks.

    python site/build.py [--out DIR] [--sphinx]
"""
import argparse, shutil, subprocess, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import pages  # noqa: E402
from pages import NBS, ROOT  # noqa: E402

HERE = Path(__file__).resolve().parent


def toctree(names, site):
    "The sidebar of `_quarto.yml` as Sphinx wants it, for the end of the index page."
    blocks = []
    for section, items in pages.sidebar(names):
        items = [i for i in items if i != 'index']
        if items: blocks.append('\n'.join(['```{toctree}', ':hidden:', *([f':caption: {section}'] if section else []), '', *(f"{site[i].title.split(':')[0]} <{i}>" for i in items), '```']))
    return '\n\n'.join(blocks)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content, encoding='utf-8')


def llms(site, names):
    "llms.txt: what there is to read, for readers who are machines."
    about = pages.get_config(path=ROOT)
    lines = [f'# {about.title}', '', f'> {about.description}', '']
    for section, items in pages.sidebar(names):
        lines += [f"## {section or 'Start here'}", ''] + [f'- [{site[i].title}]({i}.md): {site[i].promise}' for i in items] + ['']
    return '\n'.join(lines)


def pictures():
    "The files that notebooks refer to."
    return [p for p in (NBS / 'images').rglob('*') if p.is_file()]


def texts(site, names, out):
    "What stands beside the pages, whoever built them: Markdown, notebooks, llms.txt."
    for name, page in site.items():
        write(out / f'{name}.md', pages.markdown(page))
        write(out / 'notebooks' / page.path.relative_to(NBS), page.path.read_bytes())
        for file, data in page.figures.items(): write(out / 'figures' / file, data)
    for p in pictures(): write(out / p.relative_to(NBS), p.read_bytes())
    write(out / 'llms.txt', llms(site, names))


def with_sphinx(site, names, out, work):
    from sphinx.application import Sphinx
    import nbformat
    for p in pictures(): write(work / 'source' / p.relative_to(NBS), p.read_bytes())
    for name, page in site.items():
        target = work / 'source' / f'{name}.ipynb'
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(pages.stage(page, toctree(names, site) if name == 'index' else ''), target)
    app = Sphinx(work / 'source', HERE, work / 'html', work / 'doctrees', 'html', status=None, warning=sys.stderr, freshenv=True)
    app.build()
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(work / 'html', out, ignore=shutil.ignore_patterns('.buildinfo', 'objects.inv'))
    return app.statuscode or app._warncount


def for_quarto(cache, site):
    """What Quarto cannot know: the row of links under a title; and that our HTML needs nothing else. For a notebook that stores HTML
    or widgets it would load require.js and jQuery from a CDN; the same HTML in a raw block of Markdown is taken as it is."""
    import nbformat
    for page in site.values():
        file = cache / page.path.relative_to(NBS)
        notebook = nbformat.read(file, as_version=4)
        notebook.metadata.pop('widgets', None)
        notebook.cells.insert(notebook.cells[0].cell_type == 'raw', nbformat.v4.new_markdown_cell(pages.tools(page)))
        for o in (o for c in notebook.cells if c.cell_type == 'code' for o in c.outputs):
            if 'text/html' in o.get('data', {}): o.data = {'text/markdown': pages.fence(o.data['text/html'], '{=html}')}
        nbformat.write(notebook, file)


def with_quarto(site, out):
    "nbdev's own way, but for the README, which site/readme.py makes, and for the sidebar, which is in `_quarto.yml`."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev import serve_drv
    from nbdev.serve import proc_nbs
    serve_drv.read_nb = pages.read
    refresh_quarto_yml()
    cache = proc_nbs(NBS, n_workers=0, force=True)
    shutil.copytree(HERE / 'quarto', cache, dirs_exist_ok=True)
    for_quarto(cache, site)
    subprocess.run(['quarto', 'render', '--no-cache'], cwd=cache, check=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(Path(cache) / pages.get_config().doc_path.name, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=ROOT / '_docs', help='where the site goes (default: _docs)')
    parser.add_argument('--sphinx', action='store_true', help='use Sphinx even where Quarto is installed')
    args, start = parser.parse_args(), time.time()
    found = pages.notebooks()
    quarto = shutil.which('quarto') and not args.sphinx
    site, problems = {name: pages.page(name, path) for name, path in found.items()}, 0
    pages.settle(site)
    with tempfile.TemporaryDirectory() as work:
        if quarto: with_quarto(site, args.out)
        else: problems = with_sphinx(site, list(found), args.out.resolve(), Path(work))
        texts(site, list(found), args.out)
    print(f"{len(site)} pages in {args.out} with {'Quarto' if quarto else 'Sphinx'}, {time.time() - start:.0f} s"
          + (f', {problems} warnings' if problems else ''))
    return int(bool(problems))


if __name__ == '__main__': sys.exit(main())
