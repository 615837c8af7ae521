"""The guides: what they ask to be copied can be copied, the glossary is in order, the slides need nothing else.

That every guide runs, and shows what it stores, is tested with all notebooks.
"""
import ast, re, subprocess, sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from execnb.nbio import NbCell, read_nb
from selenium.webdriver.common.keys import Keys

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'site'))
import glossary  # noqa: E402

FRAMEWORKS = {'lightning': 'Sparse', 'hugging_face': 'Sparse'}


def code(path): return '\n\n'.join(c.source for c in read_nb(path).cells if c.cell_type == 'code')


@pytest.mark.parametrize('name,cls', FRAMEWORKS.items())
def test_a_class_to_copy_is_short_and_stands_alone(root, name, cls):
    "A dozen lines or so, whole in one cell, without names from cells that a reader would not copy but imports and settings."
    tree = ast.parse(code(root / 'nbs' / 'guides' / f'{name}.ipynb'))
    found = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls)
    assert found.end_lineno - found.lineno + 1 <= 20, f'{name}: {cls} has become long'
    imported = {a.asname or a.name.split('.')[0] for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    own = {a.arg for n in ast.walk(found) if isinstance(n, ast.arguments) for a in [*n.args, *n.kwonlyargs, *filter(None, [n.vararg, n.kwarg])]}
    made = {n.id for n in ast.walk(found) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    used = {n.id for n in ast.walk(found) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    assert used <= imported | own | made | {'super', 'getattr', 'None'}, f'{name}: {cls} uses {used - imported - own - made}'


def test_guides_use_the_public_interface(root):
    for path in (root / 'nbs' / 'guides').glob('*.ipynb'):
        if path.stem in ('trust', 'gpu'): continue   # they put the package on trial
        private = re.findall(r'(?:sparsifier|snap|layer|optimizer|run|pool)\._\w+', code(path))
        assert not private, f'{path.name} asks {private}'


def test_the_path_of_the_index_says_how_long_a_page_takes(root):
    "Every page of the path, in its order, with minutes that fit its words, its code and its exercises, and what it needs."
    text = '\n'.join(c.source for c in read_nb(root / 'nbs' / 'index.ipynb').cells)
    table, total = re.search(r'## The path, page by page\n(.*?)\nTogether (\w+) hours', text, re.S).groups()
    rows = re.findall(r'^\| \[([^\]]+)\]\((\w+)\.ipynb\) \| (\d+) \| ([^|]+) \| [^|]+\? ?[^|]*\|$', table, re.M)
    path = ['hour', *sorted(p.stem for p in (root / 'nbs').glob('[0-9]*.ipynb'))]
    assert [stem for _, stem, _, _ in rows] == path
    for i, (title, stem, minutes, needs) in enumerate(rows):
        cells = read_nb(root / 'nbs' / f'{stem}.ipynb').cells
        prose = '\n'.join(c.source for c in cells if c.cell_type == 'markdown')
        lines = sum(len([l for l in c.source.splitlines() if l.strip()]) for c in cells if c.cell_type == 'code')
        likely = len(prose.split()) / 150 + lines / 12 + 5 * len(re.findall(r'^\*\*\d\.', prose, re.M))
        assert .6 < int(minutes) / likely < 1.5, f'{stem}: {minutes} minutes are said, {likely:.0f} are likely'
        later = [t for t, *_ in rows[i:] if t in needs]
        assert not later, f'{title} needs {later}, which come later'
    assert {'ten': 10}[total] == round(sum(int(r[2]) for r in rows) / 60)


def test_every_misconception_has_its_cell_and_every_question_its_answer(root):
    "A cure leads to a section, not to a page; that sections are there is tested on the built pages."
    text = read_nb(root / 'nbs' / 'guides' / 'teaching.ipynb').cells[0].source
    cures = re.findall(r'^\| "[^|]+" \| ([^|]+) \|$', text, re.M)
    assert len(cures) >= 8 and all('.ipynb#' in c or c.startswith('the same section') for c in cures)
    questions = re.findall(r'^\d\. .*\?.*|^\d\. (?:Change|The network).*', text.partition('## Questions')[2], re.M)
    assert len(questions) == 7 and all(q.endswith('.)*') for q in questions)


def test_glossary_is_in_order_and_explains(root):
    text = '\n\n'.join(c.source for c in read_nb(root / 'nbs' / 'guides' / 'glossary.ipynb').cells)
    entries = re.findall(r'^### (.+)\n\n(.+)', text, re.M)
    words = [w.lower() for w, _ in entries]
    assert len(entries) >= 30 and words == sorted(words), 'the glossary is not in alphabetical order'
    for word, meaning in entries: assert len(meaning) > 20 and meaning.rstrip().endswith(('.', ')')), f'{word}: {meaning}'


@pytest.mark.parametrize('path', glossary.pages(), ids=lambda p: p.stem)
def test_terms_are_links_at_their_first_use(path):
    "Each once a page, a dozen or so at most, to an entry that there is."
    cells = read_nb(path).cells
    assert [c.source for c in cells] == glossary.linked(cells, path), f'{path.name}: run python site/glossary.py'
    found = [a for c in cells for a in re.findall(r'glossary\.ipynb#([\w-]+)', c.source)]
    entries = re.findall(r'^### (.+)', read_nb(glossary.GLOSSARY).cells[0].source, re.M)
    assert len(found) == len(set(found)) <= 15 and set(found) <= set(map(glossary.slug, entries))


def test_a_link_stands_at_the_first_use_in_prose(tmp_path):
    "Not in a heading, a table, code, a formula or another link; once; none on the page that builds the term."
    def linked(text, page='06_grow'): return glossary.linked([NbCell(0, dict(cell_type='markdown', source=text))], glossary.NBS / f'{page}.ipynb')[0]
    to = 'guides/glossary.ipynb#'
    assert linked('Two masks, and the masks.') == f'Two [masks]({to}mask), and the masks.'
    for text in ('# The masks', '| masks |', '> masks', '`masks`', '[masks](x.ipynb)', '$masks$', '```\nmasks\n```', 'a vectorised path', 'set aside'):
        assert linked(text) == text
    assert linked('## Budgets\n\nA budget. | A vote') == f'## Budgets\n\nA [budget]({to}budget). | A [vote]({to}vote)'
    assert linked('The drop fraction') == f'The [drop fraction]({to}drop-fraction)' and linked('The drop fraction', '07_schedule') == 'The drop fraction'
    once = linked('Free places of ERK, by RigL')
    assert once == f'[Free places]({to}free-place) of [ERK]({to}er-erk), by [RigL]({to}rigl)' and linked(once) == once


@pytest.fixture(scope='module')
def deck(root, tmp_path_factory):
    out = tmp_path_factory.mktemp('slides') / 'hour.html'
    run = subprocess.run([sys.executable, 'site/slides.py', '--out', str(out)], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return out


def test_slides_hold_the_hour_and_need_nothing_else(root, deck):
    soup = BeautifulSoup(deck.read_text(encoding='utf-8'), 'html.parser')
    slides, cells = soup.find_all('section'), read_nb(root / 'nbs' / 'hour.ipynb').cells
    titles = [t for c in cells if c.cell_type == 'markdown' for t in re.findall(r'^## (.*)', c.source, re.M)]
    assert [h.get_text().rstrip('¶') for s in slides for h in s.find_all('h2')] == titles
    stored = sum('image/png' in o.get('data', {}) for c in cells for o in c.get('outputs', []))
    images = soup.find_all('img')
    assert len(images) == stored > 8 and all(i['src'].startswith('data:') for i in images)
    assert not soup.find_all(src=re.compile('^http')) and not soup.find_all('link', href=True)
    assert not soup.find_all('a', href=re.compile(r'\.ipynb')), 'a slide links to a page that is not beside it'


def test_arrow_keys_turn_the_slides(deck, browser):
    browser.get(deck.as_uri())
    def here(): return browser.execute_script('return [...document.querySelectorAll("section")].findIndex(s => s.offsetHeight)')
    body = browser.find_element('tag name', 'body')
    seen = [here()]
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.HOME, Keys.ARROW_LEFT): body.send_keys(key); seen.append(here())
    assert seen == [0, 1, 2, 1, 0, 0]
    tall = browser.execute_script('return slides.map((s, i) => { show(i); return s.getBoundingClientRect().height / innerHeight })')
    assert max(tall) < 1.01, f'slide {tall.index(max(tall)) + 1} is taller than the screen'
    assert not [e for e in browser.get_log('browser') if e['level'] == 'SEVERE']
