"""experiments/ cannot rot: each script asks for the runs that results/ holds, and the first run of each of its parts does run."""
import json, runpy, shutil, sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / 'experiments'))       # at the end: it holds a coverage.py, and `make coverage` needs the other one
import common
from ggr_nb.paper.sweep import Results
from ggr_nb.train.data import Data

CELLS = 'classifier', 'six_more', 'small'         # jobs of the library's sweep; the others' are dicts
OWN = sorted({p.stem for p in (ROOT / 'experiments').glob('*.py')} - {'common', 'billion', *CELLS})


def asked(name):
    "The keys of an experiment's jobs, and the names of its parts."
    jobs = list(runpy.run_path(str(ROOT / 'experiments' / f'{name}.py'))['jobs']())
    if name in CELLS: return [j.key for j in jobs], []
    return [common.name(j) for j in jobs], list(dict.fromkeys(j['part'] for j in jobs))


def start(name, *args, monkeypatch):
    "What `python experiments/NAME.py ARGS` does."
    path = str(ROOT / 'experiments' / f'{name}.py')
    monkeypatch.setattr(sys, 'argv', [path, *args])
    runpy.run_path(path, run_name='__main__')


@pytest.mark.parametrize('name', [*OWN, *CELLS])
def test_the_recorded_runs_are_those_that_the_experiment_asks_for(name):
    keys = asked(name)[0]
    assert len(set(keys)) == len(keys), 'two jobs are one'
    assert Results(ROOT / f'results/{name}.jsonl').load().keys() == set(keys)


@pytest.fixture
def few_pictures(monkeypatch):
    "Noise in ten classes for CIFAR-100, which is not everywhere and takes its time. An epoch of it is too short for an update."
    x, y = torch.randint(256, (120, 3, 32, 32), dtype=torch.uint8), torch.arange(120) % 10
    data = Data('cifar100', (x[:96], y[:96]), (x[96:], y[96:]), 100, (.5,) * 3, (.25,) * 3, names=[str(i) for i in range(100)])
    monkeypatch.setattr(common, 'cifar100', lambda **_: data)
    common.small_cifar.cache_clear()
    yield
    common.small_cifar.cache_clear()


@pytest.mark.filterwarnings('ignore:until=.*will never move:UserWarning')         # of the few pictures
@pytest.mark.parametrize('name', OWN)
def test_the_first_run_of_each_part_runs(name, tmp_path, monkeypatch, few_pictures):
    start(name, '--quick', '--out', str(tmp_path / 'found'), monkeypatch=monkeypatch)
    found = Results(tmp_path / 'found.quick').load()
    assert [json.loads(key)['part'] for key in found] == asked(name)[1]


@pytest.mark.parametrize('name', CELLS)
def test_what_is_recorded_is_not_done_again(name, tmp_path, monkeypatch, capsys):
    there = tmp_path / 'results' / f'{name}.jsonl'; there.parent.mkdir()
    shutil.copy(ROOT / 'results' / there.name, there)
    monkeypatch.chdir(tmp_path); monkeypatch.setattr(common, 'run_job', len)       # a job that is left fails, at once
    start(name, monkeypatch=monkeypatch)
    assert capsys.readouterr().out == 'done\n' and there.read_bytes() == (ROOT / 'results' / there.name).read_bytes()
