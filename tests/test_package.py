"""The package: built as sdist and as wheel, installed into empty environments, imported and called there.

The environments see the libraries of this one, so that nothing is downloaded, but not this checkout.
"""
import json, os, re, shutil, subprocess, sys, sysconfig, tarfile, zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {'torchvision', 'matplotlib', 'ipywidgets', 'sklearn', 'scipy', 'PIL', 'IPython', 'pandas'}
COMMANDS = {'ggr_demo', 'ggr_train', 'ggr_sweep', 'ggr_table', 'ggr_plot'}
BUILD = 'import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))'


def run(*command, cwd, **environment):
    "What a command prints; what it said goes into the message if it fails."
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')} | environment
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}'
    return done.stdout


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "{'sdist': file, 'wheel': file}, made from a copy of the checkout."
    top = tmp_path_factory.mktemp('build')
    shutil.copytree(ROOT / 'ggr_nb', top / 'copy' / 'ggr_nb', ignore=shutil.ignore_patterns('__pycache__'))
    for p in ROOT.iterdir():
        if p.is_file() and not p.name.startswith('.'): shutil.copy(p, top / 'copy')
    made = {kind: run(sys.executable, '-c', BUILD, f'build_{kind}', top, cwd=top / 'copy').split()[-1] for kind in ('sdist', 'wheel')}
    return {kind: top / name for kind, name in made.items()}


@pytest.fixture(scope='module', params=['sdist', 'wheel'])
def installed(request, built, tmp_path_factory):
    "The `bin` of an environment that holds the package alone; other libraries come from this one."
    top = tmp_path_factory.mktemp(request.param)
    run(sys.executable, '-m', 'venv', '--without-pip', 'env', cwd=top)
    site, = (top / 'env').glob('[Ll]ib/**/site-packages')
    (site / 'outer.pth').write_text('\n'.join(sorted({sysconfig.get_path(p) for p in ('purelib', 'platlib')})))
    run(sys.executable, '-m', 'pip', '--python', top / 'env', 'install', '--quiet', '--no-index', '--no-deps', '--no-build-isolation',
        '--ignore-installed', built[request.param], cwd=top)
    return top / 'env' / ('Scripts' if os.name == 'nt' else 'bin')


def test_both_hold_every_file_of_the_package(built):
    want = {p.relative_to(ROOT).as_posix() for p in (ROOT / 'ggr_nb').rglob('*') if p.is_file() and '__pycache__' not in p.parts}
    with tarfile.open(built['sdist']) as t: sdist = {n.partition('/')[2] for n in t.getnames()}
    with zipfile.ZipFile(built['wheel']) as z: wheel = set(z.namelist())
    assert 'ggr_nb/py.typed' in want
    assert not want - sdist and not want - wheel, f'left out: sdist {sorted(want - sdist)}, wheel {sorted(want - wheel)}'
    assert {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE'} <= sdist
    assert not [n for n in wheel if not re.match(r'ggr_nb(-[\d.]+\.dist-info)?/', n)], 'the wheel holds more than the package'


def test_what_most_people_need_is_light(installed, tmp_path):
    "`from ggr_nb import …` works where it is installed, and brings none of the libraries for pictures, data and knobs."
    code = ('import sys, ggr_nb; from ggr_nb import METHODS, Method, Sparsifier; print(ggr_nb.__file__, *{m.split(".")[0] for m in sys.modules})\n'
            'from ggr_nb import fit; assert callable(fit)')
    file, *modules = run(installed / 'python', '-c', code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(installed.parent), f'this is not what was installed: {file}'
    assert not HEAVY & set(modules), f'imported without need: {HEAVY & set(modules)}'


def test_a_network_trains_where_it_is_installed(installed, tmp_path):
    code = '''
import torch; from ggr_nb import Sparsifier
net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9)
sparsifier = Sparsifier(net, optimizer, method='ggr', density=.1, every=2, until=20)
for i in range(10):
    optimizer.zero_grad(); net(torch.randn(8, 64)).square().mean().backward(); optimizer.step()
print(sum(sparsifier.counts().values()), sum(int(p.count_nonzero()) for p in net.parameters() if p.ndim > 1))
'''
    count, nonzero = map(int, run(installed / 'python', '-c', code, cwd=tmp_path).split())
    assert count == round(.1 * 64 * 74) >= nonzero > 0


def test_commands_answer_where_it_is_installed(installed, tmp_path):
    assert {p.name for p in installed.glob('ggr_*')} == COMMANDS
    assert 'usage: ggr_demo' in run(installed / 'ggr_demo', '--help', cwd=tmp_path)
    assert not list(tmp_path.iterdir()), 'asking for help wrote files'


def test_metadata(installed, tmp_path):
    code = 'from importlib.metadata import metadata as m; print(*m("ggr_nb").get_all("Classifier"), sep="\\n"); print(m("ggr_nb")["Requires-Python"])'
    *classifiers, python = run(installed / 'python', '-c', code, cwd=tmp_path).splitlines()
    assert 'Typing :: Typed' in classifiers and len(classifiers) >= 6 and python == '>=3.10'


def test_every_mutant_still_fits_and_was_killed():
    "The list of mistakes cannot rot, and the last result is of this list."
    import importlib.util
    spec = importlib.util.spec_from_file_location('mutants', ROOT / 'tests' / 'mutants.py')
    mutants = importlib.util.module_from_spec(spec); spec.loader.exec_module(mutants)
    assert len(mutants.MUTANTS) >= 60 and not mutants.not_once()
    result = json.loads(mutants.RESULT.read_text(encoding='utf-8'))['mutants']
    assert sorted((m['module'], m['mistake']) for m in result) == sorted((m, mistake) for m, _, _, mistake in mutants.MUTANTS)
    assert len({(m['module'], m['mistake']) for m in result}) == len(result), 'two mutants have one name'
    assert not [m for m in result if '::' not in m['killed by']]
