"""Two real processes under torchrun: they follow one process, agree on every mask, die and go on."""
import os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest, torch

sys.path.insert(0, str(Path(__file__).parent))
from _ddp_worker import net, settings
from conftest import untimed
from ggr_nb.train.training import Run, fit

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
                                reason='this torch has no gloo')


def torchrun(folder, how, processes=2):
    "Start the worker on `processes` processes and wait."
    env = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=f'{HERE.parent}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    return subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(processes),
                           str(HERE/'_ddp_worker.py'), str(folder), how], capture_output=True, text=True, timeout=900, env=env)


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('ddp')


@pytest.fixture(scope='module')
def ended(folder):
    "Two trainings that did not reach their end: one process killed, and the launcher asked to stop."
    def end(how, step): return torchrun(folder, f'{how}:{step}'), sorted(p.name for p in (folder/how).iterdir())
    with ThreadPoolExecutor() as both:         # launchers wait most of the time
        begun = {how: both.submit(end, how, step) for how, step in (('kill', 29), ('term', 17))}
        return {how: b.result() for how, b in begun.items()}


@pytest.fixture(scope='module')
def two(folder, ended):
    "Uninterrupted runs on two processes, and the two others resumed."
    done = torchrun(folder, 'whole:kill,term')
    assert done.returncode == 0, done.stderr[-3000:]
    return done, {m: Run.load(folder/m/'run.pt') for m in ('ggr', 'dsr', 'kill', 'term')}


@pytest.mark.parametrize('method', ['ggr', 'dsr'])
def test_two_processes_follow_one(two, method):
    run, one = two[1][method], fit(net(), 'digits', **settings(method))
    assert run.hardware['processes'] == 2 and one.hardware['processes'] == 1
    assert len(one.updates) == 5 and sum(l['grown'] for u in one.updates for l in u['layers'].values()) > 100
    assert [{**u, 'threshold': None} for u in run.updates] == [{**u, 'threshold': None} for u in one.updates]
    for name, mask in one.masks.items(): assert torch.equal(mask, run.masks[name]), name
    for name, value in one.state.items(): torch.testing.assert_close(run.state[name], value, rtol=2e-3, atol=2e-4)
    for a, b in zip(run.history, one.history):
        assert a['accuracy'] == pytest.approx(b['accuracy'], abs=.6) and a['loss'] == pytest.approx(b['loss'], rel=1e-3)
        assert a['counts'] == b['counts'] and a['exploration'] == b['exploration']


def test_uneven_batch_is_refused(two): assert 'batch 65' in two[0].stdout and 'multiple of 2' in two[0].stdout


def test_masks_that_differ_are_noticed_at_the_first_step(two):
    said = two[0].stdout      # of both, and they may speak at the same time
    assert said.count('apart:') == said.count('step 0: the masks of the processes differ') == 2


def test_the_command_speaks_once(two, folder):
    assert two[0].stdout.count('Written to') == 1 and Run.load(folder/'command/run.pt').hardware['processes'] == 2


def test_killed_and_asked_to_stop(ended):
    for done, files in ended.values():
        assert done.returncode != 0 and 'checkpoint.pt' in files and 'run.pt' not in files, (files, done.stderr[-2000:])
    assert 'Stopped in epoch 1 of 3, after step 17 of 22' in ended['term'][0].stderr


@pytest.mark.parametrize('how', ['kill', 'term'])
def test_resumed_is_uninterrupted(two, how):
    whole, again = two[1]['ggr'], two[1][how]
    assert untimed(again) == untimed(whole) and again.updates == whole.updates
    assert all(torch.equal(again.masks[n], m) for n, m in whole.masks.items())
    assert all(torch.equal(again.state[n], v) for n, v in whole.state.items())
