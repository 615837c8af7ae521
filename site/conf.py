"""How Sphinx turns the staged notebooks into the site; called by build.py."""
import re
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
from pages import quarto_yml, settings  # noqa: E402

config = settings()
project = html_title = html_short_title = quarto_yml()['website']['title']
author, release, copyright = config['author'], config['version'], config['copyright']
language = 'en'

extensions = ['myst_parser']
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_dmath_double_inline = True
myst_all_links_external = True       # pages.py has already made every link relative; the tests follow each of them
suppress_warnings = ['misc.highlighting_failure', 'myst.header']

html_theme = 'furo'
html_static_path = [str(here / 'static'), str(here / 'katex')]
html_css_files = ['styles.css']
html_js_files = [('page.js', {'defer': 'defer'})]
html_favicon = str(here / 'static' / 'mark.svg')
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_use_index = False
pygments_style, pygments_dark_style = 'a11y-light', 'github-dark'
html_theme_options = dict(
    light_logo='mark.svg', dark_logo='mark.svg', navigation_with_keys=True,
    light_css_variables={
        'font-stack': 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif',
        'font-stack--monospace': 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace',
        'font-stack--headings': 'Charter, "Bitstream Charter", "Iowan Old Style", Palatino, "DejaVu Serif", Georgia, serif',
        'color-foreground-primary': '#1f2933', 'color-foreground-secondary': '#52606d', 'color-foreground-muted': '#66727f',
        'color-background-primary': '#ffffff', 'color-background-secondary': '#f7f8fa', 'color-background-border': '#e4e7eb',
        'color-brand-primary': '#1f2933', 'color-brand-content': '#0a5c91', 'color-brand-visited': '#0a5c91',
        'color-sidebar-background': '#f7f8fa', 'color-api-background': '#f4f7fa', 'color-inline-code-background': '#f0f3f6',
        'color-mark': '#d55e00', 'color-code': '#f7f8fa', 'color-output-rule': '#cbd2d9', 'color-export-rule': '#a9bccd'},
    dark_css_variables={
        'color-foreground-primary': '#dde3ea', 'color-foreground-secondary': '#a3b0bd', 'color-foreground-muted': '#92a0ae',
        'color-background-primary': '#14181d', 'color-background-secondary': '#191e24', 'color-background-border': '#2b333c',
        'color-brand-primary': '#e6ebf0', 'color-brand-content': '#7cc0f0', 'color-brand-visited': '#7cc0f0',
        'color-sidebar-background': '#191e24', 'color-api-background': '#1b232b', 'color-inline-code-background': '#232b33',
        'color-mark': '#ff9a4d', 'color-code': '#191e24', 'color-output-rule': '#3b4651', 'color-export-rule': '#4a6076'})


def math_inline(self, node):
    self.body.append(f'<span class="math">{self.encode(node.astext())}</span>')
    from docutils import nodes
    raise nodes.SkipNode


def math_block(self, node):
    tex = node.astext().strip()
    if (r'\\' in tex or '&' in tex) and r'\begin' not in tex: tex = r'\begin{aligned}' + tex + r'\end{aligned}'
    self.body.append(f'<div class="math">{self.encode(tex)}</div>')
    from docutils import nodes
    raise nodes.SkipNode


def only_where_needed(app, pagename, template, context, doctree):
    "KaTeX is loaded by pages with mathematics alone."
    if 'class="math"' in (context.get('body') or ''):
        app.add_css_file('katex.min.css')
        app.add_js_file('katex.min.js', defer='defer', priority=400)


def headings_have_levels(app, pagename, template, context, doctree):
    "Furo's captions in the sidebar are headings by role; a heading needs a level, or a screen reader cannot place it."
    tree = context.get('furo_navigation_tree')
    if tree: context['furo_navigation_tree'] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def anchors(app, doctree):
    "A documented symbol is found under its own name, as nbdev links to it: masks.html#sparse_parameters."
    from docutils import nodes
    waiting, own = None, {}
    for node in list(doctree.findall(lambda n: isinstance(n, (nodes.raw, nodes.section)))):
        found = isinstance(node, nodes.raw) and re.fullmatch(r'<!-- symbol (\S+) -->', node.astext().strip())
        if found: waiting = found[1]; node.parent.remove(node)
        elif isinstance(node, nodes.section) and waiting: own[waiting], waiting = node, None
    for node in doctree.findall(nodes.section):
        node['ids'] = [i for i in node['ids'] if i not in own] or [node['ids'][0] + '-section']
    for name, node in own.items(): node['ids'] = [name]


def setup(app):
    app.connect('doctree-read', anchors, priority=1)
    app.add_html_math_renderer('katex', (math_inline, None), (math_block, None))
    app.config.html_math_renderer = 'katex'
    app.connect('html-page-context', only_where_needed)
    app.connect('html-page-context', headings_have_levels, priority=900)
