"""Every notebook under nbs/ is one test: it runs from top to bottom through nbdev's own runner, in this process.

Beyond running, the outputs it stores must be those that it makes: the words exactly, the numbers within what another
processor or PyTorch may change (`close`), a picture by its alternative text. A cell that prints what a training ends in
says `#| trained`: on another processor a rounding may grow through all its steps, so its words are compared and its numbers
are not (what is claimed of them is asserted, in the cell or behind it). A cell that prints times, or the machine it runs
on, says `#| volatile`: of it only the kind of output is compared.

Its exercises are tried on the way (exercises.py): the folded solutions must pass the readers' checks, wrong answers must not.
"""
import ast, builtins, importlib, io, os, pkgutil, random, re, signal, sys, warnings
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path

import matplotlib, nbdev.test, numpy as np, pytest, torch
from bs4 import BeautifulSoup
from execnb.nbio import read_nb
from execnb.shell import CaptureShell, InteractiveShell
from matplotlib import pyplot as plt
from nbdev.config import get_config
from nbdev.process import NBProcessor

import exercises, ggr_nb

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb')
                   if not any(part.startswith(('.', '_')) for part in p.relative_to(ROOT / 'nbs').parts))
LIMIT = 1200  # seconds; a notebook that hangs is a failure, not a hung suite


class Recorder(CaptureShell):
    "nbdev's shell, which also keeps what each cell that ran has shown, {cell id: outputs}, and tries the exercises."
    ran, faults = {}, []
    asked, solved = {}, {}      # {cell id: what it asks}, {cell id of its folded solution: the same}

    def run_all(self, nb, **kwargs):
        Recorder.ran, Recorder.faults, self.before = {}, [], {}
        return super().run_all(nb, **kwargs)

    def cell(self, cell, **kwargs):
        cell.outputs = []
        if home := counted() and exported().get(cell.id): self.compile = AtHome(self.compile, *home)
        try: super().cell(cell, **kwargs)
        finally: self.compile = getattr(self.compile, 'compiler', self.compile)
        Recorder.ran[cell.id] = cell.outputs
        if cell.id in self.asked: self.before[cell.id] = dict(self.user_ns)
        if cell.id in self.solved:
            with unseen(): Recorder.faults += self.solved[cell.id].trial(self.before, self.user_ns)


class AtHome:
    "Compiles an exported cell under the file and the lines that it has in the library: `make coverage` counts it there."
    def __init__(self, compiler, file, line): self.compiler, self.file, self.line = compiler, file, line
    def __getattr__(self, name): return getattr(self.compiler, name)
    def __call__(self, tree, name, *rest): return self.compiler(ast.increment_lineno(tree, self.line - 1), self.file, *rest)


def counted(): return 'coverage' in sys.modules and sys.modules['coverage'].Coverage.current()


@cache
def exported():
    "{id of an exported cell: (file, first line)} of the library."
    found = {}
    for file in (ROOT / 'ggr_nb').rglob('*.py'):
        for i, line in enumerate(file.read_text(encoding='utf-8').splitlines(), 2):
            if mark := re.fullmatch(r'# %% \S+\.ipynb #(\S+)', line): found[mark[1]] = str(file), i
    return found


def registries():
    "Every dict that a module of the library holds, `METHODS` for one: a notebook registers its own functions under the same names."
    for _, name, _ in pkgutil.walk_packages(ggr_nb.__path__, 'ggr_nb.'): importlib.import_module(name)
    modules = [m for name, m in list(sys.modules.items()) if name.split('.')[0] == 'ggr_nb']
    return {id(v): v for m in modules for k, v in vars(m).items() if type(v) is dict and not k.startswith('__')}.values()


@contextmanager
def untouched():
    "Give the process back as it was found: a notebook must not see what another one left behind."
    before = [(d, dict(d)) for d in registries()]
    place, path, environment, main = os.getcwd(), list(sys.path), dict(os.environ), sys.modules['__main__']
    hooks = sys.displayhook, sys.excepthook
    names, instance, rc = set(vars(builtins)), InteractiveShell._instance, matplotlib.rcParams.copy()
    backend, states = matplotlib.get_backend(), (random.getstate(), np.random.get_state(), torch.get_rng_state())
    threads, dtype, grad = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with warnings.catch_warnings(): yield
    finally:
        for now, then in before: now.clear(); now.update(then)
        os.chdir(place)
        sys.path[:], sys.modules['__main__'] = path, main
        sys.displayhook, sys.excepthook = hooks
        os.environ.clear(); os.environ.update(environment)
        for name in set(vars(builtins)) - names: delattr(builtins, name)
        InteractiveShell._instance = instance
        plt.close('all'); plt.switch_backend(backend); matplotlib.rcParams.update(rc)
        random.setstate(states[0]); np.random.set_state(states[1]); torch.set_rng_state(states[2])
        torch.set_num_threads(threads); torch.set_default_dtype(dtype); torch.set_grad_enabled(grad)
        torch.use_deterministic_algorithms(deterministic)


@contextmanager
def unseen():
    "What is tried in between draws no random number of the notebook's, shows nothing and leaves no figure."
    states, figures = (random.getstate(), np.random.get_state(), torch.get_rng_state()), set(plt.get_fignums())
    try:
        with redirect_stdout(io.StringIO()): yield
    finally:
        random.setstate(states[0]); np.random.set_state(states[1]); torch.set_rng_state(states[2])
        for number in set(plt.get_fignums()) - figures: plt.close(number)


@contextmanager
def time_limit(seconds):
    def stop(*_): raise TimeoutError(f'stopped after {seconds} s')
    before = signal.signal(signal.SIGALRM, stop); signal.alarm(seconds)
    try: yield
    finally: signal.alarm(0); signal.signal(signal.SIGALRM, before)


NUMBER = re.compile(r'(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?:\s?%)?')
RICH = 'text/html', 'image/svg+xml', 'image/png', 'text/markdown', 'text/latex', 'text/plain'   # what a page shows, the best first


def read(outputs):
    "[(kind, words)] that a reader gets of one cell's outputs; of a picture its alternative text. Warnings on stderr do not count."
    found = []
    for o in outputs or []:
        data, meta = o.get('data', {}), o.get('metadata', {}).get('image/png', {})
        kind = o.get('name') or next((k for k in RICH if k in data), o['output_type'])
        text = ''.join(o.get('text') or data.get(kind if kind.startswith('text') else 'text/plain') or o.get('evalue') or '')
        if kind == 'stderr' or kind == 'stdout' and not text.strip() or re.match(r' *\d+%\|', text): continue   # progress is noise
        if kind == 'text/html':
            soup = BeautifulSoup(text, 'html.parser')
            for e in soup(['script', 'style']): e.decompose()
            text = ' '.join([soup.get_text(' '), *(e[a] for a in ('alt', 'aria-label', 'title') for e in soup.find_all(attrs={a: True}))])
        if kind == 'image/png': text = meta.get('alt') or text
        text = re.sub(r' at 0x[0-9a-f]+', '', text)
        if found and found[-1][0] == kind == 'stdout': text = found.pop()[1] + text
        found.append((kind.replace('image/svg+xml', 'image/png'), text))
    return found


def close(then, now):
    """Are two written numbers what different processors may make of one? A count is a count; a share or a measured number may be off by
    half a per cent, or by one in the last digit written. (With a processor's vector units switched off, 10 of 752 outputs change at all.)"""
    a, b = (float(re.sub('[,%\\s]', '', x).replace('−', '-')) for x in (then, now))
    mantissa, _, power = then.rstrip('% ').partition('e')
    if '.' not in mantissa and not power and '%' not in then: return a == b
    return abs(a - b) <= max(.005 * max(abs(a), abs(b)), 1.01 * 10. ** (int(power or 0) - len(mantissa.partition('.')[2])))


def difference(then, now, trained=False):
    "What a reader would notice between two texts: other words, or numbers that are not `close`; '' for nothing."
    words, numbers = zip(*((NUMBER.sub(' # ', t).split(), NUMBER.findall(t)) for t in (then, now)))
    if words[0] != words[1]: return f'{then!r} is stored, running it says {now!r}'
    if trained: return ''
    return '; '.join(f'{a} is stored, running it says {b}' for a, b in zip(*numbers) if not close(a, b))


def shown(notebook):
    "The cells whose outputs a reader sees: {cell id: cell}, of a notebook as `read_nb` gives it."
    cells = NBProcessor(nb=notebook, rm_directives=False).nb.cells
    return {c.id: c for c in cells if c.cell_type == 'code' and 'hide' not in c.directives_
            and c.directives_.get('include:') != ['false'] and c.directives_.get('output:') != ['false']}


def notebook_code(path): return '\n'.join(c.source for c in read_nb(path).cells if c.cell_type == 'code')


def test_there_are_notebooks():
    assert NOTEBOOKS, 'nbs/ holds no notebook'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / 'nbs').with_suffix('').as_posix())
def test_notebook(path, monkeypatch, capfd, quick):
    "The notebook runs, what it stores is what it shows, and its exercises take the right answers alone."
    for name in sorted(set(re.findall(r'^\s*(?:import|from) (lightning|transformers|accelerate|timm|ray)\b', notebook_code(path), re.M))):
        pytest.importorskip(name, reason=f'{name} is not installed, which this guide is about: pip install {name}')
    tasks = exercises.of(path)
    Recorder.asked, Recorder.solved = {t.cell: t for t in tasks}, {t.solution: t for t in tasks}
    monkeypatch.setattr(nbdev.test, 'CaptureShell', Recorder)
    monkeypatch.chdir(ROOT)  # nbdev finds settings.ini from here
    flags = get_config(path=ROOT).tst_flags.split()
    with untouched(), time_limit(LIMIT):
        passed, _ = nbdev.test.test_nb(path, skip_flags=flags, basepath=ROOT)
    if not passed: pytest.fail(capfd.readouterr().err, pytrace=False)
    untrue = []
    for name, cell in shown(read_nb(path)).items():
        if name not in Recorder.ran: continue
        then, now = read(cell.get('outputs')), read(Recorder.ran[name])
        kinds = [[kind for kind, _ in x] or ['nothing'] for x in (then, now)]
        wrong = f'{kinds[0]} is stored, running it shows {kinds[1]}' if kinds[0] != kinds[1] else ''
        trained = 'trained' in cell.directives_
        if 'volatile' not in cell.directives_: wrong = wrong or '; '.join(filter(None, (difference(a, b, trained) for (_, a), (_, b) in zip(then, now))))
        if wrong: untrue.append(f'cell {name}: {wrong}\n{cell.source}')
    assert not Recorder.faults, '\n'.join(Recorder.faults)
    assert not untrue, f'{path.name} stores what it does not show. Run it, save it, `nbdev_clean`.\n\n' + '\n\n'.join(untrue)


@pytest.mark.parametrize('path', [p for p in NOTEBOOKS if '## Exercises' in p.read_text(encoding='utf-8')], ids=lambda p: p.stem)
def test_every_exercise_is_tried(path):
    "Each has one reader's cell, and wrong answers in the table."
    texts, tasks = exercises.texts(path), exercises.of(path)
    assert len(texts) == len(tasks) > 0, f'{len(texts)} exercises, but reader\'s cells for {[t.names for t in tasks]}'
    for t in tasks: assert len(t.wrong) > 1, f'{t.names}: give two wrong answers at least in tests/exercises.py'
    assert not set(exercises.WRONG.get(exercises.key(path), {})) - {t.names[0] for t in tasks}, 'a wrong answer to no exercise'


@pytest.mark.parametrize('check, said', [
    ("if x is not None: assert x == 4, 'two and two, added'", ''), ("if x is not None: assert x == 5, 'two and two, added'", 'the solution is refused'),
    ("if x is not None: assert x > 0, 'two and two, added'", "'x = 5' is not refused with a hint"), ("if x is not None: assert x == 4", "is not refused with a hint")])
def test_what_an_exercise_is_told(check, said):
    "A check that refuses its own solution, takes a wrong answer or gives no hint is a fault; what was tried leaves nothing behind."
    task = exercises.Exercise('a', ['x'], check, 'b', ['x = 5', 'x = 3; y = 1'])
    space = {'x': 4}
    faults = task.trial({'a': {'x': None}}, space)
    assert space == {'x': 4} and bool(said) == bool(faults) and said in ' '.join(faults)
    assert 'does not define x' in ' '.join(task.trial({'a': {'x': 4}}, {'x': 4}))


@pytest.mark.parametrize('then, now, same', [
    ('97 %', '97 %', True), ('97 %', '94 %', False), ('97 %', '95 %', False), ('97%', '96%', True), ('21 methods', '20 methods', False), ('1,826 active', '1,826 active', True), ('1,826 active', '1,926 active', False),
    ('0.123', '0.124', True), ('0.123', '0.125', False), ('87.23 %', '87.60 %', True), ('1e-05 at most', '2e-05 at most', True), ('1.00e-05', '1.02e-05', False),
    ('−3.2 points', '−3.3 points', True), ('3.2 points', '-3.2 points', False), ('GGR wins', 'RigL wins', False), ('[1, 2]', '[1, 2, 3]', False),
    ('layer3.weight 12', 'layer4.weight 12', False), ('True', 'False', False), ('a  b', 'a b', True)])
def test_what_counts_as_the_same(then, now, same):
    assert (difference(then, now) == '') == same == (difference(now, then) == '')
    words = NUMBER.sub('#', then).split() == NUMBER.sub('#', now).split()
    assert (difference(then, now, trained=True) == '') == words


def test_a_stored_untruth_is_found():
    "Of two outputs that differ in a number, a word, a kind or the words of a picture, a reader is told."
    text = lambda s: dict(output_type='stream', name='stdout', text=[s])
    picture = lambda alt: dict(output_type='display_data', data={'image/png': 'x', 'text/plain': '<Figure>'}, metadata={'image/png': {'alt': alt}})
    page = lambda s: dict(output_type='display_data', data={'text/html': f'<p title="{s}">{s}</p><script>{s}</script>', 'text/plain': 'x'}, metadata={})
    for form in (text, picture, page):
        (kind, then), = read([form('right in 97 % of 300')])
        for wrong in ('right in 94 % of 300', 'wrong in 97 % of 300', 'right in 97 % of 330'): assert difference(then, read([form(wrong)])[0][1])
        assert not difference(then, read([form('right in 96 % of 300')])[0][1])
    assert [read([form('a')])[0][0] for form in (text, picture, page)] == ['stdout', 'image/png', 'text/html']
    assert read([text('a'), dict(output_type='stream', name='stderr', text='b'), text('c'), text(' ')]) == [('stdout', 'ac')]
