"The five commands, run as a terminal would run them: stopped, started again, asked for what does not exist."
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from ggr_nb.paper import commands
from ggr_nb.paper.commands import door
from ggr_nb.paper.demo import demo_jobs, demo_table
from ggr_nb.train.data import cifar100
from ggr_nb.paper.sweep import Job, Pool, Results, run_job, sweep
from ggr_nb.train.machine import Stopped

HERE = dict(os.environ, PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]), OMP_NUM_THREADS='1')
HERE.setdefault('GGR_DATA', str(Path(__file__).parents[2]/'shared'/'data'))    # the commands run in a folder of their own


@pytest.fixture
def start(tmp_path):
    "Start a command; the process"
    def run(name, *arguments):
        script = tmp_path/f'{name}.py'
        script.write_text(f'from ggr_nb.paper.commands import {name}\nif __name__ == "__main__": {name}()\n')
        return subprocess.Popen([sys.executable, script, *map(str, arguments)], cwd=tmp_path, env=HERE, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    return run


@pytest.fixture
def command(start):
    "Run a command to its end: (status, stdout, stderr)"
    def run(*line):
        process = start(*line)
        out, err = process.communicate(timeout=900)
        return process.returncode, out, err
    return run


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    "What a command says, in this process and a folder of its own; how it is started from a terminal is tried with `command`."
    monkeypatch.chdir(tmp_path)
    def run(name, *words): commands.answer(getattr(commands, name), words); return capsys.readouterr().out
    return run


def wait_for(condition, seconds=900):
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit: time.sleep(.05)
    assert condition()


def test_demo_interrupted_and_started_again(start, command, tmp_path):
    arguments = ('--seeds', 1, '--epochs', 2, '--inits', 'erk')
    file = tmp_path/'runs/demo/results.jsonl'
    first = start('ggr_demo', *arguments, '--workers', 1)
    wait_for(lambda: file.exists() and file.read_text().count('\n') >= 2)
    os.killpg(first.pid, signal.SIGINT)                                   # what Ctrl-C does
    out, err = first.communicate(timeout=900)
    assert first.returncode == 130, f'not interrupted: {len(file.read_text().splitlines())} runs done; {err[-2000:]}'
    assert 'the same command goes on' in err and 'Traceback' not in err
    before = file.read_text().splitlines()
    assert 2 <= len(before) < 6
    status, out, err = command('ggr_demo', *arguments, '--workers', 1)
    assert status == 0, err
    after = file.read_text().splitlines()
    assert after[:len(before)] == before
    assert Counter(json.loads(line)['key'] for line in after) == Counter(j.key for j in demo_jobs(seeds=1, epochs=2, inits=['erk']))
    assert out.count(': GGR is ') == 1 and '98 % of 91,' in out
    for name in ('accuracy.png', 'density.png'): assert (file.parent/name).stat().st_size > 5000


def test_demo_refuses_before_the_first_run(said, tmp_path, capsys):
    "(What else is refused is tried in the notebook.)"
    with pytest.raises(SystemExit) as ended: said('ggr_demo', '--inits', 'erk,unifrom')
    err = capsys.readouterr().err
    assert ended.value.code == 1 and "'uniform'" in err and 'Traceback' not in err and not (tmp_path/'runs').exists()


def hold(folder, training):
    "In the second epoch: say who waits, and wait for the gate"
    if training.epoch == 1 and not (folder/'gate').exists():
        (folder/f'waits.{os.getpid()}').touch()
        while not (folder/'gate').exists(): time.sleep(.02)


def test_training_with_a_killed_worker_ends_as_without(tmp_path, quick):
    "The worker is killed in the middle of its second epoch: it cannot be through before the gate opens."
    jobs = [j for j in demo_jobs(seeds=1, epochs=2) if j.method in ('rigl', 'ggr') and j.init == 'erk']
    threads = torch.get_num_threads()
    alone = {j.key: run_job(j, device='cpu', threads=1) for j in jobs}
    torch.set_num_threads(threads)
    results = Results(tmp_path/'r.jsonl')
    pool = Pool(partial(run_job, out=str(tmp_path/'runs'), device='cpu', threads=1, each_step=partial(hold, tmp_path)), workers=2)

    def kill_one():
        wait_for(lambda: list(tmp_path.glob('waits.*')))
        os.kill(int(next(tmp_path.glob('waits.*')).suffix[1:]), signal.SIGKILL); (tmp_path/'gate').touch()

    killer = threading.Thread(target=kill_one); killer.start()
    assert sweep(jobs, results, pool, progress=False) == {}
    killer.join()
    assert sum(pool.deaths.values()) == 1 and len(results.path.read_text().splitlines()) == len(jobs)
    for key, record in results.load().items():
        for what in ('curve', 'counts', 'counts_start', 'emptiness'): assert record[what] == alone[key][what], (key, what)


def test_a_record_is_enough_to_run_it_again():
    record = json.loads(json.dumps(run_job(demo_jobs(seeds=1, epochs=2)[6], device='cpu')))
    again = run_job(Job(**record['job']), device='cpu')
    assert json.loads(json.dumps(again['curve'])) == record['curve'] and again['config'] == record['config']
    assert {'versions', 'hardware', 'commit', 'seconds', 'sizes', 'flops'} <= set(record)


@pytest.mark.parametrize('line, says', [
    (('ggr_sweep', '--methods', 'gggr', '--dry'), "methods: the paper’s grid has no 'gggr', did you mean 'ggr'?"),
    (('ggr_sweep', '--scale', 3, '--dry'), 'at most 1'),
    (('ggr_table', 7), 'choose 1, 2, 3 or 4'),
    (('ggr_table', 1), 'there is no file results/paper.jsonl'),
    (('ggr_sweep', '--width', 0, '--dry'), 'width is 0'),
    (('ggr_demo', '--workers=-1'), 'workers is -1'),
    (('ggr_sweep', '--data', 'tiny_imagenet', '--models', 'resnet18', '--dry'), 'the paper trains no resnet18 on tiny_imagenet'),
    (('ggr_train', '--data', 'mnist'), 'mnist'),
    (('ggr_train', '--model', 'digits_net', '--data', 'digits', '--amp', 'fast'), 'There are: auto, on, off, bf16, fp16'),
    (('ggr_train', '--model', 'digits_net', '--data', 'digits', '--batch_limit', 'few'), 'invalid int value'),
])
def test_wrong_words_are_answered(line, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name, *words = line
    with pytest.raises(SystemExit) as ended: commands.answer(getattr(commands, name), words)
    err = capsys.readouterr().err
    assert ended.value.code in (1, 2) and says in err and 'Traceback' not in err


def test_every_switch_of_a_training_from_the_terminal(command, tmp_path):
    "Words in, a run with these values out, and on stderr only what was asked for: three steps are too few for an update."
    status, out, err = command('ggr_train', '--model', 'digits_net', '--data', 'digits', '--epochs', 2, '--density', .2, '--amp', 'on', '--channels_last', 'off',
                               '--compile', 'off', '--fused', 'off', '--scaling', 'unit', '--exclude', 'conv1*,fc2*', '--grad_batches', 2, '--batch_limit', 3, '--save_every', 5,
                               '--device', 'cpu', '--quiet', '--out', 'here')
    assert (status, err) == (0, "ggr_train: note: until=3 ≤ every=3: the masks of 'ggr' will never move\n") and 'Written to here' in out
    config = json.loads((tmp_path/'here/run.json').read_text())['config']
    assert config['switches'] == dict(device='cpu', amp='bf16', channels_last=False, fused=False, compile=False, tf32=False, benchmark=False)
    assert (config['scaling'], config['exclude'], config['grad_batches'], config['batch_limit']) == ('unit', ['conv1*', 'fc2*'], 2, 3)
    assert config['recipe']['epochs'] == 2 and config['density'] == .2


def test_help_explains_every_parameter_of_a_training(said):
    out = said('ggr_train', '--help')
    for name, word in dict(amp='bf16, fp16', channels_last='on, off, auto', compile='torch.compile', fused='one kernel', scaling='layer, unit', exclude='dense',
                           grad_batches='averaged', batch_limit='trial', save_every='checkpoints').items():
        assert f'--{name}' in out and word in ' '.join(out.split()), name


def test_a_plot_on_a_full_disk_leaves_the_earlier_one(tmp_path, said):
    (tmp_path/'history.jsonl').write_text(''.join(json.dumps(dict(epoch=e, accuracy=50. + e, counts={'a': 5 + e, 'b': 9 - e}, exploration=.1)) + '\n' for e in range(2)))
    said('ggr_plot', str(tmp_path)); before = (tmp_path/'accuracy.png').read_bytes()
    script = tmp_path/'small.py'; script.write_text(f'import resource\nfrom ggr_nb.paper.commands import ggr_plot\nif __name__ == "__main__":\n'
                                                    f'    resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2},) * 2); ggr_plot()\n')
    done = subprocess.run([sys.executable, script, tmp_path], env=HERE, text=True, capture_output=True)
    assert done.returncode == 1 and 'accuracy.png' in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert (tmp_path/'accuracy.png').read_bytes() == before and not list(tmp_path.glob('*.part'))


def test_a_line_that_is_just_being_written_is_left_out_of_the_plot(tmp_path):
    "Whoever draws a run while it trains may read half of a line; half a line in the middle is damage, and named."
    from ggr_nb.paper.commands import read_history
    line = json.dumps(dict(epoch=0, accuracy=50., counts=dict(a=3)))
    (tmp_path/'history.jsonl').write_text(f'{line}\n{line.replace(": 0", ": 1")[:30]}')
    assert [h['epoch'] for h in read_history(tmp_path/'history.jsonl')] == [0]
    (tmp_path/'history.jsonl').write_text(f'{line[:30]}\n{line}\n')
    with pytest.raises(ValueError, match='line 1 is no record'): read_history(tmp_path/'history.jsonl')


def test_a_run_of_the_papers_recipe_counts_in_the_table_like_the_sweeps(tmp_path, monkeypatch, capsys):
    "Its line is the sweep's, to the last entry; what was trained otherwise is no job of the grid."
    from ggr_nb.paper.sweep import Job, run_job, runs_in
    from ggr_nb.train.runs import RECIPES, Run
    from ggr_nb.train.training import fit
    monkeypatch.setitem(RECIPES, 'digits', RECIPES['digits'].scaled(4))
    how = dict(recipe=None, progress=False, compile=False)
    fit('digits_net', 'digits', 'ggr', .1, seed=3, out=tmp_path/'all'/'one', **how)
    fit('digits_net', 'digits', 'dense', 1., out=tmp_path/'all'/'two', **how)
    for n, other in enumerate((dict(width=.5), dict(val=.2), dict(batch_limit=3), dict(exclude='conv1*'), dict(scaling='unit'))):
        fit('digits_net', 'digits', 'ggr', .1, out=tmp_path/'all'/f'other{n}', **how | other)
    found, want = runs_in(tmp_path/'all'), [run_job(Job('digits', 'digits_net', 'ggr', .1, 'erk', 3), compile=False)]
    want += [run_job(Job('digits', 'digits_net', 'dense', 1., 'dense', 0), compile=False)]
    assert found.keys() == {r['key'] for r in want}
    timeless = lambda r: json.loads(json.dumps({k: v for k, v in r.items() if k != 'seconds' and not (k == 'config' and r['job']['method'] == 'dense')}))
    for r in want: assert timeless(found[r['key']]) == timeless(r)
    run = Run.load(tmp_path/'all'/'one')                              # as an older version wrote it
    run.config = {'weights' if k == 'scaling' else k: v for k, v in run.config.items()}
    (tmp_path/'older').mkdir(); run.save(tmp_path/'older'/'run.pt')
    assert timeless(runs_in(tmp_path/'older')[want[0]['key']]) == timeless(want[0])


def test_table_as_text_and_markdown(said):
    out = said('ggr_table', 3, '--results', '')
    assert 'SET+RigL' in out and '64.11' in out
    assert said('ggr_table', 1, '--markdown', '--results', '').count('| SET | published |') == 4


def test_sweep_over_real_images_resumes(said, tmp_path, quick):
    try: cifar100()
    except (FileNotFoundError, OSError) as e: pytest.skip(f'CIFAR-100 is not here: {e}')
    small = ('--data', 'cifar100', '--models', 'resnet18', '--inits', 'uniform', '--sparsities', '0.99', '--seeds', 0, '--epochs', 2,
             '--width', .0625, '--images', 256, '--stem', 4, '--batch', 64, '--updates', 2, '--plain', '--workers', 1)
    assert 'REDUCED' in said('ggr_sweep', '--methods', 'ggr', *small)
    assert '2 runs, 1 of them in results/paper.jsonl' in said('ggr_sweep', '--methods', 'dense,ggr', *small)
    records = Results(tmp_path/'results/paper.jsonl').load()
    assert len(records) == 2 and all(r['reduced'] for r in records.values())
    assert len((tmp_path/'results/paper.jsonl').read_text().splitlines()) == 2
    out = said('ggr_table', 1)
    assert 'REDUCED (epochs=2' in out and out.count(' (1)') == 2


def test_a_verdict_can_go_against_ggr():
    def said(**arms):
        job = dict(init='erk', width=None, density=.02, data='digits', augment=None, validate=None)
        return demo_table([dict(job=job | dict(method=m, seed=s), accuracy=a, sizes={})
                           for m, values in arms.items() for s, a in enumerate(values)])
    against = said(ggr=(80., 81., 82., 81.), set=(97., 97.5, 98., 97.2))
    assert 'GGR is behind SET.' in against.notes and '97.4 ± 0.2¹' in str(against)
    assert 'GGR is too close to call against SET.' in said(ggr=(90., 99., 92., 95.), set=(97., 90., 98., 96.)).notes
    assert 'GGR is too close to call against SET.' in said(ggr=(95.,), set=(20.,)).notes      # one seed is no evidence


# --- how commands end
def shell(line, folder, **env):
    "A line of bash, with the commands of this checkout as functions: (status, stdout, stderr)"
    functions = ''.join(f'{name}() {{ {sys.executable} {folder}/{name}.py "$@"; }}\n' for name in ('ggr_table', 'ggr_demo'))
    for name in ('ggr_table', 'ggr_demo'):
        (folder/f'{name}.py').write_text(f'from ggr_nb.paper.commands import {name}\nif __name__ == "__main__": {name}()\n')
    done = subprocess.run(['bash', '-c', functions + line], cwd=folder, env=HERE | env, capture_output=True, timeout=900)
    return done.returncode, done.stdout.decode(errors='replace'), done.stderr.decode(errors='replace')


def test_a_reader_that_leaves(tmp_path):
    status, out, err = shell("set -o pipefail; ggr_table 1 --results '' | head -1", tmp_path)
    assert status in (0, 141) and out.startswith('Table 1') and err == ''


@pytest.mark.parametrize('encoding, sign, more', [('ascii', '+-', '; ggr_table --help'), ('cp1252', '±', '')])
def test_screens_that_lack_characters(tmp_path, encoding, sign, more):
    status, out, err = shell("ggr_table 1 --results ''" + more, tmp_path, PYTHONIOENCODING=encoding)
    assert status == 0 and err == '' and 'dense' in out and (sign in out or encoding != 'ascii')


def test_no_screen_and_no_home(tmp_path):
    status, out, _ = shell("unset HOME; ggr_table 1 --results '' 2>&-", tmp_path)
    assert status == 0 and 'SET' in out
    status, out, _ = shell("ggr_table 7 2>&-", tmp_path)
    assert status == 1 and out == ''


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='this system has no /dev/full')
@pytest.mark.parametrize('line', ["ggr_table 1 --results ''", 'ggr_table --help'])
def test_a_full_disk_under_the_output(tmp_path, line):
    status, _, err = shell(line + ' > /dev/full', tmp_path)
    assert status == 1 and err.strip() == 'ggr_table: No space left on device'


@pytest.mark.parametrize('error, said', [(lambda: torch.empty(10**14), "can't allocate memory"), (lambda: exec('raise torch.OutOfMemoryError("CUDA out of memory.\\nmore")', dict(torch=torch)), 'CUDA out of memory.'),
    (lambda: exec('raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")'), 'not enough memory')])
def test_no_memory_is_one_line_and_a_bug_keeps_its_traceback(capsys, error, said):
    with pytest.raises(SystemExit) as e, door('ggr_train'): error()
    err = capsys.readouterr().err.strip()
    assert e.value.code == 1 and err.startswith('ggr_train: no memory: ') and said in err and len(err.splitlines()) == 1
    with pytest.raises(RuntimeError, match='shapes'), door('ggr_train'): raise RuntimeError('shapes do not fit')


def test_a_demo_is_terminated_while_another_waits_for_its_file(start, command, tmp_path):
    "SIGTERM to the parent alone: its workers end, what is finished stays; a second one meanwhile is refused; the lock goes."
    file = tmp_path/'runs/demo/results.jsonl'
    first = start('ggr_demo', '--epochs', 3, '--workers', 2)
    wait_for(lambda: file.exists() and file.read_text().count('\n') >= 1)
    workers = [int(p) for p in Path(f'/proc/{first.pid}/task/{first.pid}/children').read_text().split()]
    status, out, err = command('ggr_demo', '--epochs', 3)
    assert status == 1 and f'in use by process {first.pid} since' in err and 'Traceback' not in err
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=900)
    assert first.returncode == 143 and 'stopped. The finished runs are kept' in err and 'Traceback' not in err
    wait_for(lambda: not any(Path(f'/proc/{pid}').exists() for pid in workers))
    assert len(Results(file).load()) >= 1 and not file.with_name('results.jsonl.lock').exists()


def test_ctrl_c_twice(start, tmp_path):
    file = tmp_path/'runs/demo/results.jsonl'
    first = start('ggr_demo', '--epochs', 30, '--workers', 2)
    wait_for(lambda: file.with_name('results.jsonl.lock').exists())
    for _ in range(2): os.killpg(first.pid, signal.SIGINT)
    out, err = first.communicate(timeout=900)
    assert first.returncode in (130, -2) and err.count('Traceback') == 0, err


def test_a_stopped_training_says_by_the_door_where_it_stands(capsys):
    with pytest.raises(SystemExit) as e, door('ggr_train'): raise Stopped('Stopped in epoch 2 of 3. Saved in runs/a.')
    assert e.value.code == 130 and capsys.readouterr().err.strip() == 'ggr_train: Stopped in epoch 2 of 3. Saved in runs/a.'


def test_ctrl_c_while_the_progress_is_made(tmp_path):
    "A bar that is stopped half-built cannot be closed, and complains when it is thrown away: not to the user."
    (tmp_path/'tqdm').mkdir(); (tmp_path/'tqdm/__init__.py').write_text('from .auto import tqdm')
    (tmp_path/'tqdm/auto.py').write_text('import os, signal\nclass tqdm:\n    def __init__(self, *a, **k): print("reached", flush=True); os.kill(os.getpid(), signal.SIGINT); self.made = 1\n'
                                         '    def __del__(self): self.lost\n')
    script = tmp_path/'ggr_demo'; script.write_text('import sys\nfrom ggr_nb.paper.commands import ggr_demo\nif __name__ == "__main__": sys.exit(ggr_demo())\n')
    env = dict(HERE, PYTHONPATH=os.pathsep.join([str(tmp_path), HERE['PYTHONPATH']]))
    done = subprocess.run([sys.executable, script, '--epochs', '1', '--workers', '1'], env=env, cwd=tmp_path, text=True, capture_output=True, start_new_session=True)
    assert done.returncode == 130 and 'reached' in done.stdout and done.stderr.strip().startswith('ggr_demo: stopped') and len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize('name', ['ggr_demo', 'ggr_train', 'ggr_sweep', 'ggr_table', 'ggr_plot'])
def test_ctrl_c_while_a_command_is_loaded(name, tmp_path):
    "The installed script, stopped in the midst of its imports: it ends as by the signal, without a word."
    (tmp_path/'torch.py').write_text('import os, signal, sys\nprint("reached", flush=True)\nos.kill(os.getpid(), signal.SIGINT)\n')
    script = tmp_path/name
    script.write_text(f'import sys\nfrom ggr_nb.paper.commands import {name}\nif __name__ == "__main__": sys.exit({name}())\n')    # as pip writes it
    env = dict(HERE, PYTHONPATH=os.pathsep.join([str(tmp_path), HERE['PYTHONPATH']]))
    done = subprocess.run([sys.executable, script], env=env, text=True, capture_output=True, start_new_session=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, 'reached\n', '')
