"""Explorers without a browser: what is packed comes back, pages are complete in themselves, names do not clash, nothing is heavy."""
import base64, html, io, json, re, shutil, subprocess, sys, zlib
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

import ggr_nb.show.explore as explore
from ggr_nb.show import Explorer
from ggr_nb.show.explorer import asset, runtime, stylesheet
from ggr_nb.show.panels import bars, curves, grid_classes, grids, themed_svg, panel_figure
from ggr_nb.show.plots import COLOURS, ticks

NAMES = sorted(n for n in explore.__all__ if n.endswith('_explorer'))
STATES = dict(criteria_explorer=28, density_explorer=21, dsr_ggr_explorer=42, evolution_explorer=68, growth_explorer=15,
              init_explorer=16, schedule_explorer=16, step_explorer=20, topk_explorer=12)


@pytest.fixture(scope='module')
def made():
    "{name: (explorer, its page)}: built once."
    found = {n: getattr(explore, n)() for n in NAMES}
    return {n: (e, e.static()) for n, e in found.items()}


def carried(page):
    "The states that a page holds, as its script will see them: [(note, panels)], and the sizes of the knobs."
    data = json.loads(zlib.decompress(base64.b64decode(re.search(r'<script type="text/ggr">([^<]*)<', page)[1])))
    return [(note, [data['panels'][i] for i in panels]) for note, panels in data['states']], data['sizes']


class Tags(HTMLParser):
    "Every tag with its attributes, the knobs where the script will put them; scripts and styles are text, as to a browser."
    def __init__(self, page):
        super().__init__(); self.found = []
        self.feed(re.sub('<script type="text/knobs">(.*?)</script>', r'\1', page, flags=re.S))
    def handle_starttag(self, tag, attrs): self.found.append((tag, dict(attrs)))


def test_a_page_without_scripts_says_the_title_once():
    "The heading is text, and the picture below it is the one without a heading."
    e = explore.schedule_explorer()
    plain, titled = (base64.b64encode(e.png(titled=t)).decode() for t in (False, True))
    shown = e._repr_mimebundle_()
    assert plain in e.static() and titled not in e.static() and shown['image/png'] == titled
    assert set(shown) == {'text/plain', 'text/html', 'image/png'} and e.static().count(f'<b>{e.title}</b>') == 1


@pytest.mark.parametrize('name', NAMES)
def test_a_picture_names_the_positions_of_its_knobs(made, name):
    "A picture that stands in for knobs says where they stand, at the start and elsewhere."
    e, _ = made[name]
    for setting in ({}, {n: v[-1] for n, v in e.knobs.items()}):
        said = ' '.join(t.get_text() for t in e.figure(**setting).texts)
        for knob, value in e.setting(**setting).items():
            text = f'{value:g}' if isinstance(value, float) else str(value)
            assert f'{knob.replace("_", " ")} {text}' in said, said


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 36), st.lists(st.integers(1, 9), min_size=2, max_size=3), st.integers(0, 999))
def test_masks_come_back(classes, shape, seed):
    values = torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))
    item = grids({'m': values}, classes={str(i): '#000' for i in range(classes)})['items'][0]
    assert grid_classes(item).tolist() == values.reshape(shape[0], -1).tolist()


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_inside_and_are_few(lo, width):
    found = ticks(lo, lo + width)
    assert 1 <= len(found) <= 8 and found == sorted(set(found))
    assert all(lo - width * 1e-2 <= t <= lo + width * 1.01 for t in found)


def test_twenty_masks_are_ten_kilobytes():
    states = [torch.rand(64, 64) < .1 for _ in range(20)]
    e = Explorer(lambda update: ({'layer': states[update]}, ''), dict(update=range(20)), kind='masks', title='masks')
    assert len(re.search(r'text/ggr">([^<]*)<', e.static())[1]) < 10_500
    for (_, panels), mask in zip(carried(e.static())[0], states):
        assert grid_classes(panels[0]['items'][0]).tolist() == mask.int().tolist()


def test_equal_frames_are_stored_once():
    from matplotlib.figure import Figure
    def draw(a, b):
        fig = Figure(figsize=(4, 2)); fig.add_subplot().plot([0, a])
        return fig
    few = Explorer(draw, dict(a=[1, 2], b=[0]), title='frames')
    many = Explorer(draw, dict(a=[1, 2], b=[*range(10)]), title='frames')
    assert len(many.states) == 20 and len(many.payload()) < len(few.payload()) + 400
    assert Image.open(io.BytesIO(many.png(a=2))).mode == 'P'


@pytest.mark.parametrize('name', NAMES)
def test_explorer(made, name):
    "Right number of states, the page holds them all, light enough, with a picture for those without scripts."
    e, page = made[name]
    assert len(e.states) == STATES[name] and len(page.encode()) < 60_000
    states, sizes = carried(page)
    assert len(states) == len(e.states) and sizes == [len(v) for v in e.knobs.values()]
    assert [note for note, _ in states] == [note for _, note in e.states] and all(note for note, _ in states)
    assert len({json.dumps(panels) for _, panels in states}) > len(states) / 2, 'turning the knobs changes little'
    picture = Image.open(io.BytesIO(base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', page)[1])))
    assert picture.width > 400 and len(picture.convert('RGB').getcolors(1 << 20)) > 4


@pytest.mark.parametrize('name', NAMES)
def test_page_is_complete_in_itself(made, name):
    e, page = made[name]
    assert '://' not in page and '@import' not in page and 'url(' not in page
    tags = Tags(page).found
    assert [a.get('src', '')[:10] for t, a in tags if t in ('img', 'script', 'link') and a.get('src')] == ['data:image']
    assert 'application/vnd.jupyter' not in page and not hasattr(e, '_ipython_display_')
    alone = re.sub(r'<script.*?</script>|<style.*?</style>', '', page, flags=re.S)
    assert all(line.strip() for line in page.splitlines()), 'an empty line would end an HTML block in Markdown'
    assert '<img alt=' in alone and e.title in html.unescape(alone)
    assert '..' not in re.search(r'<img alt="([^"]*)"', alone)[1], 'a sentence ends once'
    assert not re.search('<(input|label|select|option|button|details|output)', alone), 'a dead knob where scripts are stripped'
    assert '<table' not in page, 'Quarto cuts a stored script in two where it spells out a table'


@pytest.mark.parametrize('name', NAMES)
def test_knobs_have_names(made, name):
    "Every input is labelled, every slider says its value and announces it."
    e, page = made[name]
    tags = Tags(page).found
    labels = {a['for'] for t, a in tags if t == 'label' and 'for' in a}
    outputs = {a['for'] for t, a in tags if t == 'output' and a.get('aria-live') == 'polite'}
    sliders = [a['id'] for t, a in tags if t == 'input' and a['type'] == 'range']
    assert set(sliders) <= labels & outputs
    radios = [a for t, a in tags if t == 'input' and a['type'] == 'radio']
    lists = [a for t, a in tags if t == 'select']
    assert len(sliders) + len({a['name'] for a in radios}) + len(lists) == len(e.knobs)
    assert all(a.get('aria-valuetext') for t, a in tags if a.get('type') == 'range')


def test_ids_are_unique_on_a_page_with_everything_twice(made):
    page = ''.join(p for _, p in made.values()) + ''.join(made[n][0].static() for n in ('step_explorer', 'topk_explorer', 'criteria_explorer'))
    ids = [a['id'] for _, a in Tags(page).found if 'id' in a]
    assert len(ids) == len(set(ids)) and len(ids) > 40
    names = [a['name'] for t, a in Tags(page).found if t == 'input' and a['type'] == 'radio' and a['value'] == '0']
    assert len(names) == len(set(names))


def test_another_process_writes_the_same_page_and_needs_no_ipywidgets(made):
    "A notebook run again stores what it stored before; nothing but `.live()` asks for widgets."
    code = 'import sys; sys.modules["ipywidgets"] = None; import ggr_nb.show.dashboard; from ggr_nb.show.explore import schedule_explorer as s; print(s().static())'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    same = lambda page: re.sub(r'(x[0-9a-f]{6})-[0-9]+', r'\1', page.strip())
    assert same(run.stdout) == same(made['schedule_explorer'][1]), run.stderr


def test_stored_explorers_carry_the_script_of_today(root):
    "A notebook keeps the script it was run with; one left behind would draw its page by old rules."
    found = 0
    for path in sorted((root / 'nbs').rglob('*.ipynb')):
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            for page in (''.join(o.get('data', {}).get('text/html', '')) for o in cell.get('outputs', [])):
                if 'class="ggrx"' not in page: continue
                found += 1
                assert runtime() in page, f'{path.name} shows an explorer of an older script: run the notebook again'
    assert found > 15


def test_text_cannot_break_the_page():
    e = Explorer(lambda a: ({'</script><u>': ([0, 1], [0, a])}, '<img src=x>'), {'a': [1, 2], 'b&"': ['<i>', '"']} and {'a': [1, 2]},
                 kind='curves', title='<i>&"', alt='"><script>')
    tags = [t for t, _ in Tags(e.static()).found]
    assert tags.count('script') == 2 and tags.count('img') == 1 and 'u' not in tags and 'i' not in tags


def test_errors_say_what_to_do():
    draw = lambda a: {'y': ([0], [a])}
    with pytest.raises(ValueError, match='use one of'): Explorer(draw, dict(a=[1]), kind='movie')
    with pytest.raises(ValueError, match='at least one value'): Explorer(draw, dict(a=[]), kind='curves')
    with pytest.raises(ValueError, match='fewer positions'): Explorer(draw, dict(a=range(601)), kind='curves')
    with pytest.raises(ValueError, match='was not prepared; choose from'): Explorer(draw, dict(a=[1]), kind='curves', start=dict(a=2))
    with pytest.raises(ValueError, match='2 x but 1 y'): curves({'c': ([0, 1], [0])})
    with pytest.raises(ValueError, match='other names'): bars({'a': dict(x=1), 'b': dict(y=1)})
    with pytest.raises(ValueError, match='give a name and a colour'): grids({'m': torch.tensor([[0, 2]])})
    with pytest.raises(ValueError, match='two units'): curves({'loss': ([0], [0]), 'accuracy (%)': ([0], [0])})
    with pytest.raises(ValueError, match='ylabel is empty'): bars({'a': dict(x=1)}, ylabel='')


def test_live_without_ipywidgets_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ipywidgets', None)
    with pytest.raises(ImportError, match='pip install ipywidgets'):
        Explorer(lambda a: {'y': ([0], [a])}, dict(a=[1]), kind='curves').live()


@pytest.mark.parametrize('name', ['step_explorer', 'init_explorer'])
def test_live_moves_the_picture(made, name):
    "Each control changes the picture and the sentence below it; the picture has no paper of its own, and no ink of ours that a page could not turn."
    e, _ = made[name]
    _, row, picture = e.live().children
    assert [k.description for k in row.children] == [n.replace('_', ' ') for n in e.knobs]
    for knob in row.children:
        before, values = picture.value, [v for _, v in knob.options]
        knob.value = next(v for v in values[::-1] if v != knob.value)
        assert picture.value != before and '<svg' in picture.value
        assert not re.search('#(ffffff|1f2933|5b6673|e8ebef)', picture.value) and 'var(--soft)' in picture.value
    assert len(re.findall(r'<p class="say"[^>]*>([^<]+)<', picture.value)) == 1


def test_a_live_picture_is_light_and_dark():
    "A method's colour is its own on white and lighter at night, in the same picture."
    svg = themed_svg(panel_figure([curves({'rigl': ([0, 1], [0, 1]), 'other': ([0, 1], [1, 0])})]))
    assert f"light-dark({COLOURS['rigl']},#" in svg and COLOURS['rigl'] not in svg.replace(f"light-dark({COLOURS['rigl']}", '')
    assert 'id="figure_1"' not in svg and '<metadata' not in svg and '*{' not in svg.replace('.drawn svg *{', '')


def test_a_displayed_explorer_is_a_widget_where_a_kernel_runs_and_cleaning_takes_it_out(tmp_path, root):
    "In a kernel the bundle holds the widget's view beside slider and picture; our cleaning leaves slider and picture, and nothing else changes."
    client, nbformat = pytest.importorskip('nbclient'), pytest.importorskip('nbformat')
    v4, view = nbformat.v4, 'application/vnd.jupyter.widget-view+json'
    cells = ['from ggr_nb.show import Explorer', 'Explorer(lambda a: ({"y": ([0, 1], [0, a])}, "note"), dict(a=[1, 2]), kind="curves", title="T")',
             'from ggr_nb.show.dashboard import Dashboard; Dashboard()']
    nb = v4.new_notebook(cells=[v4.new_code_cell(c) for c in cells])
    client.NotebookClient(nb, timeout=300, kernel_name='python3', resources=dict(metadata=dict(path=str(root)))).execute()
    for cell in nb.cells[1:]:
        output, = cell.outputs
        assert set(output.data) == {'text/plain', 'text/html', 'image/png', view} and 'ggrx' in output.data['text/html']
    nb.metadata.widgets = {'application/vnd.jupyter.widget-state+json': {}}
    path = tmp_path / 'explorer.ipynb'
    nbformat.write(nb, path)
    subprocess.run([sys.executable, root / 'site' / 'clean.py', path], check=True, cwd=root)
    again = nbformat.read(path, 4)
    for cell, was in zip(again.cells[1:], nb.cells[1:]):
        assert cell.outputs[0].data == {k: v for k, v in was.outputs[0].data.items() if k != view}
    assert 'widgets' not in again.metadata and all(c.execution_count is None for c in again.cells)


def test_drawing_is_pure():
    "Drawn twice, in another order, with the generator elsewhere: the same."
    e, f = explore.step_explorer(), explore.step_explorer()
    torch.manual_seed(1); first = e.payload()
    explore.one_update.cache_clear(); explore.rehearse.cache_clear(); explore.paint_step.cache_clear()
    torch.manual_seed(2); assert f.payload() == first


def test_style_is_dark_where_the_page_is():
    sheet = stylesheet(['#0072b2'], '#one')
    for where in ('[data-theme=dark] ', '.quarto-dark ', '[data-jp-theme-light=false] ', '@media(prefers-color-scheme:dark)'):
        assert where in sheet
    assert sheet.count('{') == sheet.count('}') and '#one{--s0:light-dark(#0072b2,#' in sheet


def test_script_is_small_and_asks_for_nothing():
    script = runtime()
    assert len(script) < 12_500
    for word in ('fetch(', 'import(', 'XMLHttpRequest', 'eval(', 'http', 'localStorage', 'cookie'): assert word not in script


def test_script_is_javascript(tmp_path, root):
    "The file as it lies in the package, and as it travels, are parsed by a JavaScript engine; so would be a mistake."
    node = shutil.which('node')
    if not node: pytest.skip('no Node.js here: apt-get install nodejs')
    check = lambda text: subprocess.run([node, '--check', '-'], input=text, capture_output=True, text=True, cwd=tmp_path)
    whole = (root / 'ggr_nb' / 'show' / 'explorer.js').read_text(encoding='utf-8')
    for text in (whole, runtime(), (root / 'site' / 'static' / 'page.js').read_text(encoding='utf-8')):
        assert not (found := check(text)).returncode, found.stderr
    assert check(whole.replace('const panel =', 'const panel ==')).returncode
    assert len(asset('explorer.js').splitlines()) < len(whole.splitlines())
