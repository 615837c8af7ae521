"""Explorers in a real browser: on a page from a file, and in JupyterLab with a kernel behind it."""
import os, re, subprocess, sys, time

import nbformat
import pytest

import ggr_nb.show.explore as explore
from ggr_nb.show.explorer import Explorer

PAGE = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>two</title><body>'


def look(browser, figure):
    "All that a figure shows."
    return browser.execute_script("""const f = arguments[0]; return [...f.querySelectorAll('.stage svg, .stage img')].map(e => e.outerHTML).join()
        + [...f.querySelectorAll('canvas')].map(c => c.toDataURL()).join() + f.querySelector('.say').textContent""", figure)


def wait(condition, seconds=600, what='it'):
    end = time.time() + seconds
    while time.time() < end:
        found = condition()
        if found: return found
        time.sleep(.1)
    raise AssertionError(f'{what} did not happen within {seconds} seconds')


def emulate(browser, width=1280, dark=False):
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=width, height=1000, deviceScaleFactor=1, mobile=width < 500))
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]})


@pytest.fixture
def window(browser):
    yield browser
    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "A file with a curve explorer, the same once more, one of masks and one of frames."
    from matplotlib.figure import Figure
    def picture(a):
        fig = Figure(figsize=(3, 2)); fig.add_subplot().plot([0, a])
        return fig
    line = explore.schedule_explorer()
    frames = Explorer(picture, dict(a=[1, 2, 3]), title='Frames')
    path = tmp_path_factory.mktemp('page') / 'explorers.html'
    path.write_text(PAGE + ''.join(e.static() for e in (line, line, explore.step_explorer(), frames)), encoding='utf-8')
    return path


def open_page(browser, page, count=4):
    browser.get_log('browser')
    browser.get(page.as_uri())
    wait(lambda: len(browser.find_elements('css selector', 'figure.ggrx.on')) == count, what='mounting')
    return browser.find_elements('css selector', 'figure.ggrx')


def complaints(browser): return [e['message'] for e in browser.get_log('browser') if e['level'] in ('SEVERE', 'WARNING')]


def test_keyboard_turns_one_of_two(page, window):
    "An arrow key on a slider changes its own picture, its value and its note, and nothing in its twin."
    from selenium.webdriver.common.keys import Keys
    figures = open_page(window, page)
    one, twin = look(window, figures[0]), look(window, figures[1])
    assert one == twin
    slider, output = figures[0].find_element('css selector', 'input[type=range]'), figures[0].find_element('css selector', 'output')
    said = output.text
    slider.send_keys(Keys.ARROW_RIGHT)
    assert look(window, figures[0]) != one and look(window, figures[1]) == twin
    assert output.text != said and slider.get_attribute('aria-valuetext') == output.text
    slider.send_keys(Keys.ARROW_LEFT)
    assert look(window, figures[0]) == one
    second = figures[0].find_elements('css selector', 'input[type=range]')[1]
    second.send_keys(Keys.END)
    assert look(window, figures[0]) != one and look(window, figures[1]) == twin
    assert not complaints(window)


def test_buttons_and_frames_follow_the_keyboard(page, window):
    from selenium.webdriver.common.keys import Keys
    figures = open_page(window, page)
    for figure, css in ((figures[2], 'input:checked'), (figures[3], 'input[type=range]')):
        before = look(window, figure)
        figure.find_element('css selector', css).send_keys(Keys.ARROW_RIGHT)
        assert look(window, figure) != before
    step = explore.step_explorer()
    after = step.index(stage='after', method='ggr')
    assert figures[2].find_element('css selector', '.stage').get_attribute('data-state') == str(after)
    assert figures[2].find_element('css selector', '.say').text == step.states[after][1]
    assert not complaints(window)


def test_pointer_reads_numbers_and_the_table_holds_them(page, window):
    from selenium.webdriver import ActionChains
    figure = open_page(window, page)[0]
    drawing = figure.find_element('css selector', '.curves')
    window.execute_script('arguments[0].scrollIntoView({block: "center"})', drawing)
    box = drawing.rect
    tip = figure.find_element('css selector', '.hover')
    for x in range(-int(box['width'] * .4), int(box['width'] * .4), 12):
        ActionChains(window).move_to_element_with_offset(drawing, x, 0).perform()
        if tip.is_displayed(): break
    assert re.search(r'(cosine|linear|constant|inverse): [\d.]+ at epoch \d+', tip.text)
    figure.find_element('css selector', 'summary').click()
    rows = wait(lambda: figure.find_elements('css selector', 'details table tr'), what='the table')
    assert 'cosine' in rows[0].text and len(rows) > 20


def test_light_dark_and_narrow(page, window):
    "Dark by the system, by Furo's attribute, light again when the page insists; no wider than a phone."
    emulate(window, 390)
    figure = open_page(window, page)[0]
    paper = lambda: sum(map(int, re.findall(r'\d+', figure.value_of_css_property('background-color'))[:3]))
    assert window.execute_script('return document.documentElement.scrollWidth') <= 390 and paper() > 700
    ink = "return getComputedStyle(arguments[0].querySelector('.stage path[stroke]')).stroke"
    light = window.execute_script(ink, figure)
    window.execute_script("document.body.dataset.theme = 'dark'")
    assert paper() < 150 and window.execute_script(ink, figure) != light
    emulate(window, 390, dark=True)
    window.execute_script("document.body.dataset.theme = 'auto'")
    assert paper() < 150
    window.execute_script("document.body.dataset.theme = 'light'")
    assert paper() > 700


def test_without_scripts_the_first_picture_stays(page, window):
    window.execute_cdp_cmd('Emulation.setScriptExecutionDisabled', dict(value=True))
    try:
        window.get(page.as_uri())
        figure = window.find_elements('css selector', 'figure.ggrx')[0]
        assert figure.find_element('css selector', '.stage img').is_displayed()
        assert not figure.find_elements('css selector', 'input, select') and figure.find_element('css selector', '.say').text
    finally: window.execute_cdp_cmd('Emulation.setScriptExecutionDisabled', dict(value=False))


# --- JupyterLab -----------------------------------------------------------------------------------------------------

CELLS = ['from ggr_nb.show.explore import schedule_explorer, step_explorer\nexplorer = schedule_explorer()', 'explorer', 'step_explorer()',
         'from IPython.display import HTML\nHTML(explorer.static())',
         'from ggr_nb.show.dashboard import Dashboard\nDashboard(epochs=500)']
WIDGET = '.jp-OutputArea .jupyter-widgets.ggrx'


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "The address of a JupyterLab over a folder with one notebook."
    pytest.importorskip('jupyterlab', reason='no JupyterLab here: pip install jupyterlab')
    folder = tmp_path_factory.mktemp('lab')
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS],
        metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python')))
    nbformat.write(notebook, folder / 'explorer.ipynb')
    env = os.environ | {f'JUPYTER_{k}_DIR': str(folder / f'.{k}') for k in ('CONFIG', 'DATA', 'RUNTIME')}
    log = open(folder / 'lab.log', 'w')
    server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', '--port=0', '--IdentityProvider.token=',
        f'--ServerApp.root_dir={folder}', '--expose-app-in-browser', '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate'],
        stdout=log, stderr=subprocess.STDOUT, env=env, cwd=folder)
    try:
        found = wait(lambda: re.search(r'(http://127\.0\.0\.1:\d+)/lab', (folder / 'lab.log').read_text()), what='the start of JupyterLab')
        yield found[1], folder
    finally:
        server.terminate()
        try: server.wait(300)
        except subprocess.TimeoutExpired: server.kill()
        log.close()


def accept(browser):
    "JupyterLab may ask which kernel it should take; the first is right."
    for button in browser.find_elements('css selector', '.jp-Dialog .jp-mod-accept'): button.click()


def shown(browser, css):
    accept(browser)
    return browser.find_elements('css selector', css)


def open_notebook(browser, address, name):
    "A notebook in JupyterLab with its kernel connected."
    browser.get(f'{address}/lab/tree/{name}')
    ready = """const c = window.jupyterapp?.shell.currentWidget?.sessionContext; return !!c?.isReady && c.session?.kernel?.connectionStatus == 'connected'"""
    wait(lambda: shown(browser, '.jp-Notebook .jp-CodeCell') and browser.execute_script(ready), what='opening the notebook')


def drive(browser, board):
    "The dashboard: start with the keyboard, watch the picture move, stop."
    from selenium.webdriver.common.keys import Keys
    start, stop = board.find_elements('css selector', 'button.jupyter-button')[-2:]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", start)
    start.send_keys(Keys.ENTER)
    text = lambda: (re.search(r'(running|stopped|failed|finished): [^%]*%', board.get_attribute('textContent')) or [''])[0]
    picture = "return arguments[0].querySelector('svg')?.outerHTML"
    first = wait(lambda: 'running' in text() and browser.execute_script(picture, board), what='the first report')
    wait(lambda: browser.execute_script(picture, board) != first, what='the second report')
    stop.send_keys(Keys.ENTER)
    wait(lambda: 'stopped' in text(), what='the stop')


def test_jupyterlab(lab, browser):
    """Open a notebook and run all: explorers and dashboard stand there as widgets, with no method called. The keyboard moves them, the slider
    of a page works beside them, a dark JupyterLab has no white card; what is saved holds slider and picture as well."""
    from selenium.webdriver.common.keys import Keys
    address, folder = lab
    open_notebook(browser, address, 'explorer.ipynb')
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    sliders, words, board = wait(lambda: boxes if len(boxes := shown(browser, WIDGET)) == 3 else None, what='three sets of widgets')
    idle = "return document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status == 'idle'"
    wait(lambda: browser.execute_script(idle), what='the end of the run')
    picture = lambda box: browser.execute_script("return arguments[0].querySelector('svg')?.outerHTML + arguments[0].querySelector('.say')?.textContent", box)
    for box, css, key in ((sliders, '.noUi-handle', Keys.ARROW_RIGHT), (words, '.widget-toggle-button:not(.mod-active)', Keys.ENTER)):
        before, control = picture(box), box.find_elements('css selector', css)[0]
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", control)
        control.send_keys(key)
        wait(lambda: picture(box) != before, what='the change of the picture')
    figure = browser.find_elements('css selector', '.jp-OutputArea figure.ggrx.on')[0]
    before = look(browser, figure)
    figure.find_element('css selector', 'input[type=range]').send_keys(Keys.ARROW_RIGHT)
    assert look(browser, figure) != before
    drive(browser, board)
    browser.execute_script("return window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    wait(lambda: browser.execute_script("return document.body.dataset.jpThemeLight") == 'false', what='the dark theme')
    lit = """const dark = c => c.match(/\\d+(\\.\\d+)?/g).slice(0, 3).reduce((a, b) => a + +b, 0), found = [];
        for (const e of arguments[0].querySelectorAll('.drawn, .drawn svg *')) { const s = getComputedStyle(e), r = e.getBoundingClientRect();
          for (const c of [s.backgroundColor, s.fill]) if (e.localName != 'text' && /^rgb/.test(c) && !/, 0\\)$/.test(c) && dark(c) > 700 && r.width * r.height > 5000) found.push(e.outerHTML.slice(0, 80)); }
        return [dark(getComputedStyle(arguments[0]).backgroundColor), Math.min(...[...arguments[0].querySelectorAll('.drawn text')].map(t => dark(getComputedStyle(t).fill))), found]"""
    for box in (sliders, words, board):
        paper, ink, white = browser.execute_script(lit, box)
        assert paper < 150 and ink > 400 and not white, f'a white card in the dark: {paper} {ink} {white}'
    browser.execute_script("return window.jupyterapp.commands.execute('docmanager:save')")
    saved = wait(lambda: [o for c in nbformat.read(folder / 'explorer.ipynb', 4).cells for o in c.outputs if 'widget' in ' '.join(o.get('data', {}))], what='saving')
    assert len(saved) == 3 and all({'text/html', 'image/png', 'text/plain'} < set(o['data']) for o in saved)


# --- axe ------------------------------------------------------------------------------------------------------------

def test_axe_finds_what_is_there(browser, axe, tmp_path):
    "The tests with axe would fail: a picture without words and a control without a name are found."
    path = tmp_path / 'bad.html'
    path.write_text(PAGE + '<main><h1>bad</h1><img src="data:,"><input type="range"></main>', encoding='utf-8')
    browser.get(path.as_uri())
    assert {v.split(':')[0] for v in axe(browser)} >= {'critical image-alt', 'critical label'}


def test_explorers_are_accessible(page, window, axe):
    "Explorers of every kind, light and dark, with the table of numbers open: nothing critical, nothing serious."
    for dark in (False, True):
        emulate(window, dark=dark)
        open_page(window, page)
        window.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert not (found := axe(window)), '\n'.join(found)
