"""Explorers without a browser: what is packed comes back, pages are complete in themselves, names do not clash, nothing is heavy."""
import base64, html, io, json, re, subprocess, sys, zlib
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

import ggr_nb.show.explore as explore
from ggr_nb.show.explorer import Explorer
from ggr_nb.show.panels import bars, curves, frame, intern, masks, pack, ticks, unpack
from ggr_nb.show.script import runtime, stylesheet

NAMES = sorted(n for n in explore.__all__ if n.endswith('_explorer'))
STATES = dict(criteria_explorer=28, density_explorer=21, dsr_ggr_explorer=42, evolution_explorer=68, growth_explorer=15,
              init_explorer=16, schedule_explorer=16, step_explorer=20, topk_explorer=12)


@pytest.fixture(scope='module')
def made():
    "{name: (explorer, its page)}: built once."
    found = {n: getattr(explore, n)() for n in NAMES}
    return {n: (e, e.static()) for n, e in found.items()}


def restore(pool, v):
    if isinstance(v, dict): return restore(pool, pool[v['$']]) if '$' in v else {k: restore(pool, x) for k, x in v.items()}
    return [restore(pool, x) for x in v] if isinstance(v, list) else v


def carried(page):
    "The states that a page holds, as its script will see them."
    data = json.loads(zlib.decompress(base64.b64decode(re.search(r'<script type="text/ggr">([^<]*)<', page)[1])))
    return restore(data['pool'], data['states']), data['sizes']


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
    assert plain in e.static() and titled not in e.static() and e._repr_png_() == e.png()
    assert e.static().count(f'<b>{e.title}</b>') == 1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 999))
def test_packing_round_trips(bits, shape, seed):
    values = torch.randint(0, 2 ** bits, shape, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(unpack(pack(values, bits), tuple(shape), bits), values.to(torch.uint8))


json_like = st.recursive(st.none() | st.integers(-99, 99) | st.text(max_size=40), lambda c: st.lists(c, max_size=5)
                         | st.dictionaries(st.text('abc', min_size=1, max_size=3), c, max_size=4), max_leaves=30)


@settings(max_examples=100, deadline=None)
@given(st.lists(json_like, max_size=6))
def test_interning_round_trips(tree):
    pool, small = intern(tree + tree)
    assert restore(pool, small) == tree + tree


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_inside_and_are_few(lo, width):
    found = ticks(lo, lo + width)
    assert 1 <= len(found) <= 8 and found == sorted(set(found))
    assert all(lo - width * 1e-2 <= t <= lo + width * 1.01 for t in found)


def test_twenty_masks_are_thirteen_kilobytes():
    states = [torch.rand(64, 64) < .1 for _ in range(20)]
    e = Explorer(lambda update: ({'layer': states[update]}, ''), dict(update=range(20)), kind='masks', title='masks')
    assert sum(len(pack(m)) for m in states) < 14_000
    assert len(re.search(r'text/ggr">([^<]*)<', e.static())[1]) < 14_000
    for state, mask in zip(carried(e.static())[0], states):
        cells = state['panels'][0]['items'][0]
        assert torch.equal(unpack(cells['cells'], (cells['h'], cells['w'])).bool(), mask)


def test_equal_frames_are_stored_once():
    from matplotlib.figure import Figure
    def draw(a, b):
        fig = Figure(figsize=(4, 2)); fig.add_subplot().plot([0, a])
        return fig
    few = Explorer(draw, dict(a=[1, 2], b=[0]), title='frames')
    many = Explorer(draw, dict(a=[1, 2], b=[*range(10)]), title='frames')
    assert len(many.states) == 20 and len(many.payload()[0]) < len(few.payload()[0]) + 4_000
    assert Image.open(io.BytesIO(many.png(a=2))).mode == 'P'


def test_svg_frames_are_pictures_with_a_png_to_fall_back_on():
    from matplotlib.figure import Figure
    def draw(a):
        fig = Figure(figsize=(3, 2)); fig.add_subplot().plot([0, a])
        return fig
    e = Explorer(draw, dict(a=[1, 2]), format='svg', title='drawing')
    assert e.states[0].panels[0]['src'].startswith('data:image/svg+xml') and e.png()[:4] == b'\x89PNG'
    assert '<img alt="drawing. " src="data:image/png' in e.static()


@pytest.mark.parametrize('name', NAMES)
def test_explorer(made, name):
    "Right number of states, the page holds them all, light enough, with a picture for those without scripts."
    e, page = made[name]
    assert len(e.states) == STATES[name] and len(page.encode()) < 60_000
    states, sizes = carried(page)
    assert len(states) == len(e.states) and sizes == [len(v) for v in e.knobs.values()]
    assert [s['note'] for s in states] == [s.note for s in e.states] and all(s['note'] for s in states)
    assert len({json.dumps(s['panels']) for s in states}) > len(states) / 2, 'turning the knobs changes little'
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
    with pytest.raises(ValueError, match='use more bits'): pack(torch.tensor([4]), 2)


def test_live_without_ipywidgets_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ipywidgets', None)
    with pytest.raises(ImportError, match='pip install ipywidgets'):
        Explorer(lambda a: {'y': ([0], [a])}, dict(a=[1]), kind='curves').live()


@pytest.mark.parametrize('name', ['step_explorer', 'init_explorer'])
def test_live_moves_the_picture(made, name):
    e, _ = made[name]
    box = e.live()
    knobs, picture, note = box.children[0].children, box.children[1], box.children[2]
    assert [k.description for k in knobs] == [n.replace('_', ' ') for n in e.knobs]
    for knob in knobs:
        before, values = picture.value, [v for _, v in knob.options]
        knob.value = next(v for v in values[::-1] if v != knob.value)
        assert picture.value != before and note.value


def test_drawing_is_pure():
    "Drawn twice, in another order, with the generator elsewhere: the same."
    e, f = explore.step_explorer(), explore.step_explorer()
    torch.manual_seed(1); first = e.payload()
    explore.small_state.cache_clear(); explore.rehearse.cache_clear(); explore.paint_step.cache_clear()
    torch.manual_seed(2); assert f.payload() == first


def test_style_is_dark_where_the_page_is():
    sheet = stylesheet(['#0072b2'], '#one')
    for where in ('[data-theme=dark] ', '.quarto-dark ', '[data-jp-theme-light=false] ', '@media(prefers-color-scheme:dark)'):
        assert where in sheet
    assert sheet.count('{') == sheet.count('}')


def test_script_is_small_and_asks_for_nothing():
    script = runtime()
    assert len(script) < 12_000
    for word in ('fetch(', 'import(', 'XMLHttpRequest', 'eval(', 'http', 'localStorage', 'cookie'): assert word not in script
