"""The documentation site, built anew and read in a real browser.

Without Chromium the pages are still built and their links, anchors, pictures and sizes checked; the rest skips and says so.
"""
import json, os, re, shutil, subprocess, sys
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'site'))
import pages  # noqa: E402

NOTEBOOKS = pages.notebooks()
NAMES = list(NOTEBOOKS)
LIMIT = 1_000_000  # bytes of a page with its own pictures


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The folder of the built site."
    out = tmp_path_factory.mktemp('site') / 'docs'
    run = subprocess.run([sys.executable, 'site/build.py', '--out', str(out)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, f'the site does not build without warnings:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}'
    return out


@pytest.fixture(scope='session')
def soups(site):
    "{page: parsed HTML} of every page there is, the search page too; without the colours of code, which are four of five tags."
    colour = re.compile('<span class="[a-z0-9]{1,3}">(.*?)</span>', re.S)
    return {p.relative_to(site).as_posix(): BeautifulSoup(colour.sub(r'\1', p.read_text(encoding='utf-8')), 'html.parser')
            for p in sorted(site.rglob('*.html')) if '_static' not in p.parts}


def moves(soup): return any('range' in str(x) for x in soup.select('.shown'))


@pytest.fixture(scope='session')
def each_kind(soups):
    "The pages that axe-core looks at, which takes it seconds: one at least for each kind of element within its kind of parent, and all with something to move."
    kind = lambda e: (e.name, *sorted(e.get('class', [])))
    kinds = {n: {(kind(e.parent), kind(e)) for e in soups[f'{n}.html'].body.find_all(True)} for n in NAMES}
    seen, chosen = set(), set()
    for n in sorted(NAMES, key=lambda n: (moves(soups[f'{n}.html']), len(kinds[n])), reverse=True):
        if moves(soups[f'{n}.html']) or kinds[n] - seen: chosen.add(n); seen |= kinds[n]
    return chosen


@pytest.fixture(scope='session')
def address(site, serve): return serve(site)


# --- the files ------------------------------------------------------------------------------------------------------

def test_every_notebook_is_a_page_in_three_forms(site):
    contents = (site / 'llms.txt').read_text(encoding='utf-8')
    for name, notebook in pages.notebooks().items():
        assert (site / f'{name}.html').exists(), f'{name} has no page'
        assert (site / f'{name}.md').read_text(encoding='utf-8').startswith('# '), f'{name}.md has no title'
        assert (site / 'notebooks' / notebook.relative_to(pages.NBS)).read_bytes() == notebook.read_bytes()
        assert f']({name}.md)' in contents, f'llms.txt does not list {name}'


def test_sidebar_and_title_come_from_quarto_yml(soups):
    soup = soups['index.html']
    assert soup.select_one('.sidebar-brand-text').text == pages.quarto_yml()['website']['title']
    listed = [a['href'].removesuffix('.html') for a in soup.select('.sidebar-tree a.reference')]
    assert listed == [n for _, names in pages.sidebar(NAMES) for n in names if n != 'index']


def test_nothing_comes_from_elsewhere(site, soups):
    "No page, style or script names a resource on another host."
    for name, soup in soups.items():
        for tag, attribute in (('script', 'src'), ('img', 'src'), ('iframe', 'src'), ('source', 'src'), ('link', 'href')):
            for element in soup.find_all(tag, attrs={attribute: True}):
                if tag == 'link' and element.get('rel') and element['rel'][0] in ('canonical', 'search', 'next', 'prev', 'author', 'index'): continue
                assert not re.match(r'(https?:)?//', element[attribute]), f'{name} loads {element[attribute]}'
    for style in site.rglob('*.css'):
        found = re.findall(r'(?:@import|url\()\s*["\']?(?:https?:)?//[^)"\']+', style.read_text(encoding='utf-8'))
        assert not found, f'{style.name} loads {found}'


def test_links_and_anchors_resolve(site, soups):
    ids = {name: {e['id'] for e in soup.find_all(id=True)} | {e['name'] for e in soup.find_all('a', attrs={'name': True})} for name, soup in soups.items()}
    broken = []
    for name, soup in soups.items():
        for link in soup.find_all('a', href=True):
            url = urlsplit(urljoin(f'/{name}', link['href']))
            if url.scheme or url.netloc: continue
            path, anchor = unquote(url.path).lstrip('/'), unquote(url.fragment)
            if path.endswith('/') or not path: path += 'index.html'
            if not (site / path).is_file(): broken.append(f'{name} -> {link["href"]}')
            elif anchor and path in ids and anchor not in ids[path]: broken.append(f'{name} -> {link["href"]} (no such anchor)')
    assert not broken, '\n'.join(sorted(set(broken)))


def test_ids_are_unique(soups):
    for name, soup in soups.items():
        ids = [e['id'] for e in soup.select('article [id]')]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        assert not twice, f'{name}: {twice}'


def test_pictures_say_what_they_show(soups):
    for name, soup in soups.items():
        for image in soup.select('article img'):
            assert len(image.get('alt', '').strip()) > 10, f'{name}: {image.get("src")} has no alternative text'


def test_links_have_words(soups):
    for name, soup in soups.items():
        for link in soup.select('article a[href]'):
            assert link.get_text(strip=True) or link.get('aria-label') or link.select('img[alt]'), f'{name}: a link to {link["href"]} without a name'


def test_pictures_keep_their_place(site, soups):
    "The stated size has the file's ratio: what a link leads to stays where it is while pictures above it are loaded."
    for name, soup in soups.items():
        for image in soup.select('article img[src$=".png"][width]'):
            width, height = Image.open(site / Path(name).parent / unquote(image['src'])).size
            assert float(image['height']) / float(image['width']) == pytest.approx(height / width, abs=.02), f'{name}: {image["src"]}'


def test_cards_speak_of_types_and_defaults(soups):
    "What Python calls its own objects is nobody's reading."
    for name, soup in soups.items():
        for cell in soup.select('.api td'): assert not re.search(r'<function|<factory>|<class|0x[0-9a-f]{6}', cell.text), f'{name}: {cell.text}'
    assert 'flag' in {cell.text for cell in soups['paper/commands.html'].select('.api td')}


def test_a_wide_figure_says_its_conclusion_in_words(soups):
    "A phone cuts the title in the picture off; the words above it are those that the picture's text begins with."
    for name, soup in soups.items():
        for figure in soup.select('figure.wide'):
            said = figure.figcaption.text
            assert len(said) > 5 and said in figure.img['alt'], f'{name}: {said}'


def test_pages_are_small(site, soups):
    for name, soup in soups.items():
        files = [site / name] + [site / Path(name).parent / unquote(i['src']) for i in soup.select('article img[src]') if ':' not in i['src']]
        size = sum(f.stat().st_size for f in set(files))
        assert size <= LIMIT, f'{name}: {size / 1e6:.2f} MB with its pictures'


def test_taught_functions_show_signature_and_source(soups):
    "A public symbol has a heading, an anchor as nbdev links to it, its parameters' comments and its source."
    soup = soups['masks.html']
    assert soup.find(id='sparse_parameters') and any('sparse_parameters' in h.text for h in soup.select('h3'))
    assert any('any model' in row.text for row in soup.select('.api td'))
    assert any('def sparse_parameters' in d.text for d in soup.select('details.exported[open]'))


@pytest.mark.parametrize('name', NAMES)
def test_cards_come_before_their_code_and_say_nothing_empty(name, soups):
    "What a function is for, then its code; never Python's own words about functions in general."
    article = soups[f'{name}.html'].select_one('article')
    for noise in ('Call self as a function', 'Return repr(self)', 'Initialize self'): assert noise not in article.text
    for box in article.select('.api'): assert box.get_text(strip=True).removeprefix('source'), 'a card that says nothing'
    cards, late = {}, []      # of names that only one card has
    for place, e in enumerate(article.find_all(['h3', 'details'])):
        if e.name == 'h3' and e.code: short = e.code.text.split('.')[-1]; cards[short] = None if short in cards else place
        elif 'exported' in e.get('class', []): cards.update({f'def {n}': place for n in re.findall(r'^(?:def|class) (\w+)', e.text, re.M)})
    late = [n for n, place in cards.items() if place is not None and f'def {n}' in cards and place > cards[f'def {n}']]
    assert not late, f'below their code: {late}'


@pytest.mark.parametrize('name', NAMES)
def test_everything_shown_is_on_the_page(name, soups):
    "Each text, picture and explorer that the notebook stores and does not hide; the output of a solution is in its fold."
    article, cells = soups[f'{name}.html'].select_one('article'), json.loads(NOTEBOOKS[name].read_text(encoding='utf-8'))['cells']
    words = ' '.join(article.text.split())
    pictures = explorers = 0
    for cell in (c for c in cells if c['cell_type'] == 'code'):
        said, code = pages.directives(pages.joined(cell['source']))
        if 'hide' in said or said.get('include') == 'false' or said.get('output') == 'false': continue
        for o in cell['outputs']:
            data, text = o.get('data', {}), pages.joined(o.get('text')) if o.get('name') == 'stdout' else ''
            if 'text/html' in data: explorers += 'class="ggrx"' in pages.joined(data['text/html'])
            elif 'image/png' in data or 'image/svg+xml' in data: pictures += 1
            elif 'text/markdown' not in data and 'text/latex' not in data: text = text or pages.joined(data.get('text/plain'))
            missing = [line for line in text.splitlines() if ' '.join(line.split()) not in words]
            assert not missing, f'not on the page: {missing[:3]}'
    assert len(article.select('figure.picture img')) == pictures and len(article.select('figure.ggrx')) == explorers
    for fold in article.select('details.fold'):
        after, shown = fold.find_next_sibling(), fold.select('figure, .shown, .highlight-output')
        if not fold.summary.text.startswith('Solution'): assert not shown, f'a figure or table is hidden with its code: {fold.summary.text}'
        else: assert not (after and 'highlight-output' in after.get('class', [])), 'the answer stands below its fold'


def test_tables_are_tables(soups):
    "Markdown that a cell shows is Markdown on its page: no row of dashes between bars is left as text."
    for name, soup in soups.items():
        left = [t for t in soup.select_one('article').find_all(string=re.compile(r'\|\s*:?-{2,}|\|[—–]+\|')) if not t.find_parent(['pre', 'code', 'script'])]
        assert not left, f'{name}: {left[0][:120]}'
    assert soups['studies/reproduction.html'].select('article table')


def test_hidden_cells_stay_hidden_and_solutions_are_folded(soups):
    text = ''.join(soup.select_one('article').text for name, soup in soups.items() if name != 'search.html')
    for word in ('nbdev_export()', 'default_exp', '#| '): assert word not in text, word
    assert soups['masks.html'].select('details.fold:not([open])'), 'the solutions of the exercises are not folded'


# --- what settings.ini says -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('url', ['https://github.com/a/b', 'https://example.org/a/b', ''])
def test_buttons_to_the_public_home_come_from_the_settings(url, monkeypatch):
    "Colab where the source lies on GitHub, the source where it lies anywhere, nothing where the settings name no home."
    monkeypatch.setattr(pages, 'settings', lambda: dict(git_url=url, branch='main'))
    page = pages.page('train/data', pages.NBS / 'train' / 'data.ipynb')
    said = pages.tools(page) + ''.join(p.source for p in page.parts if p.kind == 'card')
    assert ('colab.research.google.com/github/a/b/blob/main/nbs/train/data.ipynb' in said) == ('github' in url)
    assert (f'{url}/blob/main/ggr_nb/train/data.py#L' in said) == bool(url) == ('class="source"' in said)
    assert 'href=""' not in said and len(re.findall('<a href', pages.tools(page))) == 3 + ('github' in url)


def test_links_lead_from_folder_to_folder():
    for url, page, found in (('../paper/demo.ipynb#who', 'train/data', '../paper/demo.html#who'), ('01_density.ipynb', 'masks', 'density.html'),
                             ('../01_density.ipynb', 'train/data', '../density.html'), ('models.ipynb', 'train/data', '../train/models.html'),
                             ('images/a.svg', 'index', 'images/a.svg'), ('#here', 'train/data', '#here'), ('https://x.org/a.ipynb', 'masks', 'https://x.org/a.ipynb')):
        assert pages.local(url, page) == found
    assert pages.local('../../benchmarks/core.py', 'train/data') == pages.home('benchmarks/core.py')


def test_names_of_symbols_lead_to_their_cards():
    symbols = {'counts': ['masks', 'train/data'], 'Sparsifier': ['sparsify'], 'pick': ['train/machine']}
    text = 'A `Sparsifier`, its `Sparsifier.counts`, `pick()`, `counts`, `[x] pick`, $pick$, [`pick`](a.html), 5 % of `nothing`.'
    assert pages.relink(text, 'train/data', symbols) == (
        'A [`Sparsifier`](../sparsify.html#sparsifier), its [`Sparsifier.counts`](../sparsify.html#sparsifier), [`pick()`](../train/machine.html#pick), '
        '[`counts`](#counts), `[x] pick`, $pick$, [`pick`](a.html), 5\N{NO-BREAK SPACE}% of `nothing`.')
    assert pages.relink('`counts`', 'drop', symbols) == '`counts`', 'two modules have one: no guess'


def test_long_sentences_are_folded_and_rows_are_not():
    note, row = 'Paired over seeds, Student’s t, ' * 5, 'static  ' * 20
    assert max(map(len, pages.folded(note).split('\n'))) <= 98 and pages.folded(note).split() == note.split() and pages.folded(row) == row


# --- Quarto ---------------------------------------------------------------------------------------------------------

QUARTO = """#!{python}
import os, shutil, sys
from pathlib import Path
if sys.argv[1] == 'render':
    if not os.path.isdir('{seen}'): shutil.copytree('.', '{seen}')
    Path('_docs').mkdir(exist_ok=True)
    for page in Path().glob('*.ipynb'): Path('_docs', page.stem + '.html').write_text('made by quarto')
"""

def test_quarto_stays_possible(tmp_path):
    "`nbdev_docs` hands Quarto a whole project: every file that the settings name, title and address at each notebook's head, our sidebar."
    copy, seen, command = tmp_path / 'copy', tmp_path / 'seen', tmp_path / 'bin' / 'quarto'
    for part in ('settings.ini', '_quarto.yml', 'README.md', 'nbs/index.ipynb', 'nbs/00_masks.ipynb', 'nbs/train/runs.ipynb'):
        (copy / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / part, copy / part)
    for part in ('ggr_nb', 'nbs/images'): shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns('__pycache__'))
    (copy / 'nbs' / '_quarto.yml').symlink_to('../_quarto.yml')
    command.parent.mkdir()
    command.write_text(QUARTO.format(python=sys.executable, seen=seen))
    command.chmod(0o755)
    os.utime(copy / 'README.md', (2e9, 2e9))     # newer than the index: nbdev leaves it alone
    environment = os.environ | dict(PATH=f"{command.parent}:{os.environ['PATH']}", PYTHONPATH=str(copy))
    code = 'from nbdev.quarto import nbdev_docs as f; f(n_workers=0)'
    run = subprocess.run([sys.executable, '-c', code], cwd=copy, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, f'{run.stdout[-2000:]}\n{run.stderr[-4000:]}'
    said = pages.yaml.safe_load((seen / '_quarto.yml').read_text(encoding='utf-8'))
    assert said['website'] == pages.quarto_yml()['website']
    assert all((seen / f).is_file() for f in said['metadata-files'])
    for name in ('index', '00_masks', 'train/runs'):
        head = json.loads((seen / f'{name}.ipynb').read_text(encoding='utf-8'))['cells'][0]
        front = pages.yaml.safe_load(pages.joined(head['source']).strip().strip('-'))
        assert head['cell_type'] == 'raw' and front['title'] and front['output-file'] == Path(pages.page_name(f'{name}.ipynb')).name + '.html'
    assert (copy / '_docs' / 'index.html').read_text() == 'made by quarto'
    assert (copy / 'README.md').read_bytes() == (ROOT / 'README.md').read_bytes()


# --- the browser ----------------------------------------------------------------------------------------------------

def read(browser, address, name):
    "Open a page; give the complaints of its console and the requests that failed or left this machine."
    browser.get_log('browser'); browser.get_log('performance')
    browser.get(f'{address}/{name}')
    problems = [e['message'] for e in browser.get_log('browser') if e['level'] in ('SEVERE', 'WARNING')]
    for entry in browser.get_log('performance'):
        message = json.loads(entry['message'])['message']
        what, params = message['method'], message['params']
        if what == 'Network.requestWillBeSent':
            url = params['request']['url']
            if not url.startswith((address, 'data:', 'blob:', 'about:', 'chrome')): problems.append(f'asks for {url}')
        elif what == 'Network.responseReceived' and params['response']['status'] >= 400:
            problems.append(f"{params['response']['status']} {params['response']['url']}")
        elif what == 'Network.loadingFailed' and not params.get('canceled'):
            problems.append(f"failed: {params.get('errorText')}")
    return problems


@pytest.fixture
def window(browser):
    "The browser as it comes: wide, light."
    yield browser
    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})


@pytest.fixture(scope='module', params=NAMES)
def opened(request, address, browser):
    "(name, complaints): every page is opened once, for the three tests that look at it."
    return request.param, read(browser, address, f'{request.param}.html')


def test_page_in_browser(opened, window):
    "No complaint, nothing fetched from elsewhere, all mathematics rendered, nothing wider than a phone, dark when asked."
    assert not opened[1], '\n'.join(opened[1])
    left = window.execute_script("return [...document.querySelectorAll('.math:not([data-rendered]), .katex-error')].map(e => e.textContent)")
    assert not left, f'not rendered: {left}'
    bare = window.execute_script(r"""const walk = document.createTreeWalker(document.querySelector('article'), NodeFilter.SHOW_TEXT), found = [];
        while (walk.nextNode()) { const n = walk.currentNode;
          if (!n.parentElement.closest('pre, code, script, style, .katex') && /\$[^$\s][^$]*\$|\\(frac|sum|sqrt)\b/.test(n.textContent)) found.push(n.textContent); }
        return found""")
    assert not bare, f'TeX left as text: {bare}'
    broken = window.execute_script("document.querySelectorAll('img').forEach(i => i.loading = 'eager'); return Promise.all([...document.images].map("
                                   "i => i.decode().then(() => null, () => i.src))).then(x => x.filter(Boolean))")
    assert not broken, f'pictures that do not show: {broken}'
    window.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=390, height=844, deviceScaleFactor=1, mobile=True))
    window.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    wide = window.execute_script("""const article = document.querySelector('article'), found = [];
        for (const e of article.querySelectorAll('*')) {
          if (e.getBoundingClientRect().right <= innerWidth + 1 || e.closest('.katex-mathml, svg *')) continue;
          let box = e.parentElement;
          while (box !== article && !['auto', 'scroll', 'hidden'].includes(getComputedStyle(box).overflowX)) box = box.parentElement;
          if (box === article) found.push(e.outerHTML.slice(0, 120)); }
        return [innerWidth, ...found]""")
    assert wide == [390], f'wider than a phone: {wide}'
    window.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [{'name': 'prefers-color-scheme', 'value': 'dark'}]})
    colours = window.execute_script("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
    paper, ink = (sum(map(float, re.findall(r'[\d.]+', c)[:3])) for c in colours)
    assert paper < 150 < 500 < ink, f'not dark in the dark: {colours}'


THREE_OF_A_COLOUR = """const seen = {}, behind = e => getComputedStyle(e).backgroundColor;
    document.querySelectorAll('details').forEach(d => d.open = true);
    for (const pre of document.querySelectorAll('.highlight pre')) {
      const paper = [behind(pre), behind(pre.parentElement), pre.parentElement.parentElement.className].join();
      for (const e of [...pre.querySelectorAll('span:not([id])')]) {
        const kind = e.className + paper, word = e.textContent.trim().length > 1;      // axe passes over single characters
        if (e.firstElementChild || word && (seen[kind] || 0) < 3) seen[kind] = (seen[kind] || 0) + 1; else e.replaceWith(...e.childNodes); }
      pre.normalize(); }"""

def test_page_is_accessible(opened, each_kind, window, axe):
    """axe-core finds nothing critical and nothing serious, on a wide screen and on a phone, where more has to scroll; folds are open.
    Of the coloured words of code, thousands on a page, three of each colour are looked at; of pages, `each_kind`."""
    if opened[0] not in each_kind: return
    window.execute_script(THREE_OF_A_COLOUR)
    for width, known in ((1280, ()), (390, ('color-contrast',))):                # the colours are the same
        window.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=width, height=900, deviceScaleFactor=1, mobile=False))
        window.execute_async_script("dispatchEvent(new Event('resize')); requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        assert not (found := axe(window, *known)), f'{width} wide\n' + '\n'.join(found)


def test_sliders_change_the_picture(opened, soups, window):
    "Every slider, moved with the keyboard, changes what is seen beside it."
    if not moves(soups[f'{opened[0]}.html']): return
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    window.get_log('browser')
    window.execute_script("document.querySelectorAll('details.fold').forEach(d => d.open = true)")   # some stand in a solution
    look = """const box = arguments[0].closest('.shown');
        return [...box.querySelectorAll('svg, table, img, pre')].map(e => e.outerHTML).join()
            + [...box.querySelectorAll('canvas')].map(c => c.toDataURL()).join()"""
    for slider in window.find_elements(By.CSS_SELECTOR, '.shown input[type=range]'):
        label = slider.get_attribute('aria-label') or window.execute_script('return [...(arguments[0].labels || [])].map(l => l.textContent).join()', slider)
        assert label.strip(), 'a slider without a name'
        window.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
        before, value = window.execute_script(look, slider), slider.get_attribute('value')
        for _ in range(2): slider.send_keys(Keys.ARROW_LEFT if value == slider.get_attribute('max') else Keys.ARROW_RIGHT)
        assert slider.get_attribute('value') != value, f'{label} does not move'
        assert window.execute_script(look, slider) != before, f'{label} changes nothing'
    assert not [e for e in window.get_log('browser') if e['level'] == 'SEVERE']


def test_search_finds(site, address, window):
    "The search page finds a word that a notebook teaches, and leads to where it stands."
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
    assert not read(window, address, 'search.html?q=saturation')
    found = WebDriverWait(window, 300).until(lambda w: w.find_elements(By.CSS_SELECTOR, 'ul.search li a'))
    target = found[0].get_attribute('href').split('?')[0].split('#')[0].removeprefix(address).strip('/')
    assert target.removesuffix('.html') in NAMES
    assert 'satur' in (site / target).read_text(encoding='utf-8').lower()


def test_theme_can_be_switched(site, address, window):
    read(window, address, 'index.html')
    from selenium.webdriver.common.by import By
    seen = set()
    for _ in range(3):
        next(b for b in window.find_elements(By.CSS_SELECTOR, 'button.theme-toggle') if b.is_displayed()).click()
        seen.add(window.execute_script('return getComputedStyle(document.body).backgroundColor'))
    assert len(seen) == 2, f'the theme button shows {seen}'
