"""What every test shares: the project's root, one thread, no window, a still generator, a browser, a server."""
import multiprocessing, os, re, shutil, signal, subprocess, threading, warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'agg')
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile('any load', deadline=None, suppress_health_check=[HealthCheck.too_slow])   # a busy machine is no failure
settings.load_profile('any load')
ROOT = Path(__file__).resolve().parent.parent
BESIDE = ROOT.parent / 'shared' / 'data'           # data sets may lie beside a checkout; the library knows nothing of it
if BESIDE.exists(): os.environ.setdefault('GGR_DATA', str(BESIDE))
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)   # a suite in the background
if hasattr(signal, 'SIGHUP') and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN: signal.signal(signal.SIGHUP, signal.SIG_DFL)   # under nohup


CORE = {'test_core', 'test_connect', 'test_properties', 'test_notebooks'}   # with `-m core` nothing else is even read


def pytest_ignore_collect(collection_path, config):
    if config.option.markexpr == 'core' and collection_path.name.startswith('test_') and collection_path.stem not in CORE | {'test_contract'}: return True


def pytest_configure(config):
    "A worker takes a file at a time; the core is a few files, one of them as long as the others together: there, a test at a time."
    if config.option.markexpr == 'core' and getattr(config.option, 'dist', '') == 'loadfile':
        config.option.dist, config.option.maxschedchunk = 'load', 1


# the longest first, so that both workers end together
LONGEST = ('test_notebooks', 'test_site', 'test_train', 'test_gpu_benchmark', 'test_cli', 'test_contract', 'test_core', 'test_distributed', 'test_device',
           'test_sweep', 'test_experiments', 'test_faults', 'test_package')


def pytest_collection_modifyitems(items):
    "The order; and `-m core`: the method itself, its notebooks (those with a number, and what lies beyond) and their properties."
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        notebook = item.path.stem == 'test_notebooks' and not re.search(r'\[(\d\d_|beyond/)', item.name)
        if item.path.stem in CORE and not notebook: item.add_marker('core')


@pytest.fixture(scope='session')
def root() -> Path:
    "The folder that holds settings.ini."
    return ROOT


# Processes of one that has imported everything already: each starts at once, where a new interpreter would import for seconds.
forked = multiprocessing.get_context('forkserver')
forked.set_forkserver_preload(['hypothesis', 'pytest', 'torchvision', 'sklearn.datasets', 'scipy.stats', 'ggr_nb.paper.commands', 'ggr_nb.train.deploy'])


@pytest.fixture
def quick(monkeypatch):
    "The library's workers are `forked`. (As it starts them itself, test_cli and the drivers of test_sweep have them.)"
    monkeypatch.setattr(multiprocessing, 'get_context', lambda kind=None: forked)


@pytest.fixture(autouse=True)
def seeded():
    "The global generator is at the same place for every test, whatever ran before and in whatever order."
    torch.manual_seed(0)


def same(a, b):
    "Are two states, nested as they may be, equal to the last bit?"
    if torch.is_tensor(a): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    return a == b


def quiet(make, *args, **kw):
    "make(…), whatever it warns of."
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); return make(*args, **kw)


def untimed(run):
    "The history of a run without its clock."
    return [{k: v for k, v in h.items() if k != 'seconds'} for h in run.history]


BROWSERS = []

@pytest.fixture(scope='module', autouse=True)
def at_rest():
    "A page left open goes on drawing and takes a third of a core from the tests of other files."
    yield
    from contextlib import suppress
    for chromium in BROWSERS:
        with suppress(Exception): chromium.get('about:blank')          # it may be gone


@pytest.fixture(scope='session')
def browser():
    "A headless Chromium that logs its console and every request; tests that need it skip where there is none."
    chrome = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    driver = shutil.which('chromedriver')
    if not (chrome and driver): pytest.skip('no Chromium with its chromedriver here: apt-get install chromium chromium-driver')
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = chrome
    for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--window-size=1280,1000',
                 '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chromium.set_page_load_timeout(300)
    BROWSERS.append(chromium)
    yield chromium
    BROWSERS.remove(chromium); chromium.quit()


@pytest.fixture(scope='session')
def axe(tmp_path_factory):
    "axe(browser, *left_out) -> the critical and serious violations that axe-core finds on the open page, without these rules. It is fetched with npm; where that cannot be, tests skip and say so."
    folder, npm = tmp_path_factory.mktemp('axe'), shutil.which('npm')
    if not npm: pytest.skip('no npm here to fetch axe-core with: apt-get install npm')
    fetch = [npm, 'install', '--silent', '--no-audit', '--no-fund', '--prefix', folder, 'axe-core@4']
    try: run = subprocess.run(fetch, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired: pytest.skip('npm found no registry within two minutes: axe-core was not fetched')
    script = folder / 'node_modules' / 'axe-core' / 'axe.min.js'
    if run.returncode or not script.exists(): pytest.skip(f'npm could not fetch axe-core: {run.stderr.strip()[-200:] or run.returncode}')
    script, ask = script.read_text(encoding='utf-8'), """const [done, rules] = [arguments[arguments.length - 1], {}];
        for (const rule of arguments[0]) rules[rule] = {enabled: false};
        axe.run(document, {resultTypes: ['violations'], rules}).then(r => done(r.violations.filter(v => ['critical', 'serious'].includes(v.impact))
          .flatMap(v => v.nodes.map(n => `${v.impact} ${v.id}: ${n.html.slice(0, 140)}`))), e => done(['axe failed: ' + e]))"""
    def violations(browser, *left_out):
        browser.set_script_timeout(120)
        if not browser.execute_script('return !!window.axe'): browser.execute_script(script)
        return browser.execute_async_script(ask, left_out)
    return violations


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_): pass


@pytest.fixture(scope='session')
def serve():
    "serve(folder) -> address of a server on this machine that ends with the tests."
    servers = []
    def start(folder):
        server = ThreadingHTTPServer(('127.0.0.1', 0), partial(_Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f'http://127.0.0.1:{server.server_port}'
    yield start
    for server in servers: server.shutdown(); server.server_close()
