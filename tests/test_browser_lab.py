"""Explorers in a real browser: on a page from a file, and in JupyterLab with a kernel behind it."""
import json, os, re, subprocess, sys, time
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest

import ggr_nb.show.explore as explore
from ggr_nb.show.explorer import Explorer

PAGE = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>two</title><body>'


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
    assert figures[2].find_element('css selector', '.say').text == step.states[after].note
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

CELLS = ['from ggr_nb.show.explore import schedule_explorer\nexplorer = schedule_explorer()', 'explorer', 'explorer.live()',
         'from ggr_nb.show.dashboard import Dashboard\nboard = Dashboard(epochs=500)\nboard.live()']


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


def drive(browser):
    "The dashboard: start with the keyboard, watch the picture move, stop."
    from selenium.webdriver.common.keys import Keys
    start, stop = browser.find_elements('css selector', '.jupyter-widgets button.jupyter-button')[-2:]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", start)
    start.send_keys(Keys.ENTER)
    text = "return document.body.textContent.match(/(running|stopped|failed|finished): [^%]*%/)?.[0] || ''"
    picture = "return [...document.querySelectorAll('.jp-OutputArea .jupyter-widgets img')].at(-1)?.src"
    first = wait(lambda: 'running' in browser.execute_script(text) and browser.execute_script(picture), what='the first report')
    wait(lambda: browser.execute_script(picture) != first, what='the second report')
    stop.send_keys(Keys.ENTER)
    wait(lambda: 'stopped' in browser.execute_script(text), what='the stop')


def test_jupyterlab(lab, browser):
    "Open a notebook, run all, move both the page's slider and the widget's with the keyboard: both pictures change; nothing is stored that a page cannot show."
    from selenium.webdriver.common.keys import Keys
    address, folder = lab
    browser.get(f'{address}/lab/tree/explorer.ipynb')
    ready = """const c = window.jupyterapp?.shell.currentWidget?.sessionContext; return !!c?.isReady && c.session?.kernel?.connectionStatus == 'connected'"""
    wait(lambda: shown(browser, '.jp-Notebook .jp-CodeCell') and browser.execute_script(ready), what='opening the notebook')
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    figure = wait(lambda: shown(browser, '.jp-OutputArea figure.ggrx.on'), what='the explorer')[0]
    handle = wait(lambda: browser.find_elements('css selector', '.jupyter-widgets .noUi-handle'), what='the widget')[0]
    picture = lambda: browser.execute_script("return document.querySelector('.jupyter-widgets img')?.src")
    old = wait(picture, what='the picture')
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
    idle = "return document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status == 'idle'"
    wait(lambda: browser.execute_script(idle), what='the end of the run')
    handle.send_keys(Keys.ARROW_RIGHT)
    wait(lambda: picture() != old, what='the change of the picture')
    before = look(browser, figure)
    figure.find_element('css selector', 'input[type=range]').send_keys(Keys.ARROW_RIGHT)
    assert look(browser, figure) != before
    drive(browser)
    browser.execute_script("return window.jupyterapp.commands.execute('docmanager:save')")
    saved = wait(lambda: [o for c in nbformat.read(folder / 'explorer.ipynb', 4).cells for o in c.outputs if 'ggrx' in o.get('data', {}).get('text/html', '')], what='saving')
    assert set(saved[0]['data']) == {'text/html', 'image/png', 'text/plain'}
