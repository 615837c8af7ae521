"""Every notebook under nbs/ is one test: it runs from top to bottom through nbdev's own runner, in this process.

Beyond running, the outputs it stores must be of the kinds that it makes: a cell that prints or plots for the
one who runs it does so for the reader of the page, too, and no cell shows what its code no longer makes.
"""
import builtins, importlib, os, pkgutil, random, signal, sys, warnings
from contextlib import contextmanager
from pathlib import Path

import matplotlib, nbdev.test, numpy as np, pytest, torch
from execnb.nbio import read_nb
from execnb.shell import CaptureShell, InteractiveShell
from matplotlib import pyplot as plt
from nbdev.config import get_config
from nbdev.process import NBProcessor

import ggr_nb

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb')
                   if not any(part.startswith(('.', '_')) for part in p.relative_to(ROOT / 'nbs').parts))
LIMIT = 240  # seconds; a notebook that hangs is a failure, not a hung suite


class Recorder(CaptureShell):
    "nbdev's shell, which also keeps what each cell that ran has shown: {cell id: outputs}."
    ran = {}

    def run_all(self, nb, **kwargs):
        Recorder.ran = {}
        return super().run_all(nb, **kwargs)

    def cell(self, cell, **kwargs):
        cell.outputs = []
        super().cell(cell, **kwargs)
        Recorder.ran[cell.id] = cell.outputs


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
def time_limit(seconds):
    def stop(*_): raise TimeoutError(f'stopped after {seconds} s')
    before = signal.signal(signal.SIGALRM, stop); signal.alarm(seconds)
    try: yield
    finally: signal.alarm(0); signal.signal(signal.SIGALRM, before)


def kinds(outputs):
    "What a reader sees of the outputs of one cell; progress and warnings on stderr do not count."
    found = set()
    for o in outputs or []:
        if o['output_type'] == 'stream': found |= {'text'} if o['name'] == 'stdout' and ''.join(o['text']).strip() else set()
        elif o['output_type'] == 'error': found.add('error')
        else: found.add(next((k for k in ('text/html', 'image/svg+xml', 'image/png', 'text/markdown', 'text/latex')
                              if k in o['data']), 'text'))
    return {{'image/svg+xml': 'picture', 'image/png': 'picture'}.get(k, k) for k in found}


def shown(notebook):
    "The cells whose outputs a reader sees: {cell id: cell}, of a notebook as `read_nb` gives it."
    cells = NBProcessor(nb=notebook, rm_directives=False).nb.cells
    return {c.id: c for c in cells if c.cell_type == 'code' and 'hide' not in c.directives_
            and c.directives_.get('include:') != ['false'] and c.directives_.get('output:') != ['false']}


def test_there_are_notebooks():
    assert NOTEBOOKS, 'nbs/ holds no notebook'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / 'nbs').with_suffix('').as_posix())
def test_notebook(path, monkeypatch, capfd):
    "The notebook runs, and what it stores is what it shows."
    monkeypatch.setattr(nbdev.test, 'CaptureShell', Recorder)
    monkeypatch.chdir(ROOT)  # nbdev finds settings.ini from here
    flags = get_config(path=ROOT).tst_flags.split()
    with untouched(), time_limit(LIMIT):
        passed, _ = nbdev.test.test_nb(path, skip_flags=flags, basepath=ROOT)
    if not passed: pytest.fail(capfd.readouterr().err, pytrace=False)
    for name, cell in shown(read_nb(path)).items():
        if name not in Recorder.ran: continue
        now, then = kinds(Recorder.ran[name]), kinds(cell.get('outputs'))
        assert now == then, (f'{path.name}, cell {name}: running it shows {sorted(now) or "nothing"}, the file stores '
                             f'{sorted(then) or "nothing"}. Run the notebook, save it, `nbdev_clean`.\n\n{cell.source}')
