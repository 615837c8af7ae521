"Long lists of runs: real processes, some of them killed. None may be lost, none counted twice."
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import forked
from ggr_nb.paper.sweep import Pool, RayPool, Results, report, sweep

sys.path.insert(0, str(Path(__file__).parent))


class Task(NamedTuple):
    "A job that leaves a trace of every attempt in a folder"
    n: int
    folder: str
    seconds: float = .05
    gate: str = ''     # a file: the task cannot end before it is there

    @property
    def key(self): return f'task/{self.n}'


def work(task, **place):
    "Note who works on it, take a while, return a record"
    with open(Path(task.folder)/'attempts', 'a') as f: f.write(f'{task.n} {os.getpid()}\n')
    report(n=task.n)
    time.sleep(task.seconds)
    while task.gate and not Path(task.gate).exists(): time.sleep(.02)
    if task.n < 0: raise ValueError(f'task {task.n} cannot be done')
    return dict(key=task.key, square=task.n ** 2, pid=os.getpid(), **place)


def wait_for(condition, seconds=900):
    "Until it is true; a machine that never gets there has failed"
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(.02)


def attempts(folder):
    path = Path(folder)/'attempts'
    return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


def write_many(path, name, n):
    for i in range(n): Results(path).append(dict(key=f'{name}/{i}', text='x' * 5000))


def write_for_ever(path, name):
    i = 0
    while True: Results(path).append(dict(key=f'{name}/{i}', text='x' * 200_000)); i += 1


pytestmark = pytest.mark.usefixtures('quick')


# --- the file
def test_processes_append_at_the_same_time(tmp_path):
    path = tmp_path/'r.jsonl'
    team = [forked.Process(target=write_many, args=(path, name, 60)) for name in 'abc']
    for p in team: p.start()
    for p in team: p.join()
    assert [p.exitcode for p in team] == [0, 0, 0]
    assert set(Results(path).load()) == {f'{name}/{i}' for name in 'abc' for i in range(60)}
    for line in path.read_text().splitlines(): json.loads(line)


def test_a_writer_killed_while_it_writes(tmp_path):
    path = tmp_path/'r.jsonl'
    for attempt in range(3):
        p = forked.Process(target=write_for_ever, args=(path, str(attempt)))
        p.start()
        wait_for(lambda: path.exists() and f'"{attempt}/5"' in path.read_text())
        os.kill(p.pid, signal.SIGKILL); p.join()
        before = set(Results(path).load())
        Results(path).append(dict(key=f'after/{attempt}'))      # the lock of the dead is free, the end is repaired
        after = set(Results(path).load())
        assert {f'{attempt}/{i}' for i in range(6)} <= before <= after and f'after/{attempt}' in after
    for line in path.read_text().splitlines(): json.loads(line)


# --- the pool
def test_all_jobs_once(tmp_path):
    tasks = [Task(n, str(tmp_path)) for n in range(8)]
    outcomes = list(Pool(work, workers=2).run(tasks))
    assert sorted(o.result['square'] for o in outcomes) == [n ** 2 for n in range(8)]
    assert Counter(n for n, _ in attempts(tmp_path)) == Counter(range(8))
    assert len({pid for _, pid in attempts(tmp_path)}) == 2


def test_places_and_news(tmp_path):
    pool, heard = Pool(work, places=[dict(device='cuda:0'), dict(device='cuda:1')]), {}
    outcomes = list(pool.run([Task(n, str(tmp_path)) for n in range(4)], listen=lambda news: heard.update(news)))
    assert {o.result['device'] for o in outcomes} == {'cuda:0', 'cuda:1'}
    assert heard == {n: dict(n=n) for n in range(4)}


def test_more_workers_than_jobs_and_no_jobs(tmp_path):
    assert len(list(Pool(work, workers=5).run([Task(1, str(tmp_path))]))) == 1
    assert list(Pool(work, workers=2).run([])) == []


def test_no_process_is_left_behind(tmp_path):
    "Whoever stops asking for results stops the workers, busy or not."
    pool = Pool(work, workers=2)
    running = pool.run([Task(0, str(tmp_path)), Task(1, str(tmp_path), 60), Task(2, str(tmp_path), 60)])
    assert attempts(tmp_path) == []                                   # a generator: nothing starts before it is asked
    next(running)
    pids = [w.process.pid for w in pool.team]
    running.close()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError): os.kill(pid, 0)


def test_sweep_skips_repeats_and_collects_errors(tmp_path):
    results = Results(tmp_path/'r.jsonl')
    results.append(dict(key='task/1', square='from before'))
    tasks = [Task(n, str(tmp_path)) for n in (0, 1, 2, -3, 2, 0)]
    errors = sweep(tasks, results, Pool(work, workers=2), progress=False)
    assert list(errors) == ['task/-3'] and 'cannot be done' in errors['task/-3']
    assert {k: r['square'] for k, r in results.load().items()} == {'task/0': 0, 'task/1': 'from before', 'task/2': 4}
    assert Counter(n for n, _ in attempts(tmp_path)) == {0: 1, 2: 1, -3: 1}
    assert sweep(tasks[:3], results, Pool(work), progress=False) == {} and len(attempts(tmp_path)) == 3


def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    "The worker that is killed is in the middle of its job: the job cannot end before."
    results, killed, gate = Results(tmp_path/'r.jsonl'), [], tmp_path/'gate'
    pool = Pool(work, workers=2)

    def kill_one(record):
        if killed: return
        wait_for(lambda: any(n > 0 for n, _ in attempts(tmp_path)))
        victim = next(pid for n, pid in attempts(tmp_path) if n > 0)
        os.kill(victim, signal.SIGKILL); killed.append(victim); gate.touch()

    tasks = [Task(0, str(tmp_path))] + [Task(n, str(tmp_path), .05, str(gate)) for n in range(1, 6)]
    assert sweep(tasks, results, pool, after=kill_one, progress=False) == {}
    lines = [json.loads(line) for line in results.path.read_text().splitlines()]
    assert sorted(r['key'] for r in lines) == [t.key for t in tasks]                  # none lost, none twice
    tries = Counter(n for n, _ in attempts(tmp_path))
    assert len(killed) == 1 and sum(tries.values()) == 7 and sum(pool.deaths.values()) == 1
    assert killed[0] not in {r['pid'] for r in lines if r['key'] != 'task/0'}


def test_a_job_that_kills_its_workers_is_given_up():
    outcomes = list(Pool(os._exit, workers=2, tries=2).run([3, 4]))
    assert sorted(o.error for o in outcomes) == ['worker ended with 3, 2 times', 'worker ended with 4, 2 times']


DRIVER = '''
import sys
sys.path.insert(0, {here!r})
from test_sweep import Task, work
from ggr_nb.paper.sweep import Pool, Results, sweep
if __name__ == '__main__':
    sweep([Task(n, {folder!r}, .3) for n in range(6)], Results({file!r}), Pool(work, workers=2), progress=False)
'''


def test_the_parent_is_killed_and_started_again(tmp_path):
    "Its workers end with it, and the second run does what the first had not finished."
    file = tmp_path/'r.jsonl'
    script = tmp_path/'driver.py'
    script.write_text(DRIVER.format(here=str(Path(__file__).parent), folder=str(tmp_path), file=str(file)))
    here = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    first = subprocess.Popen([sys.executable, script], env=here)
    wait_for(lambda: len(Results(file).load()) >= 2)
    first.kill(); first.wait()
    done = set(Results(file).load())
    assert 2 <= len(done) < 6
    workers = {pid for _, pid in attempts(tmp_path)}
    wait_for(lambda: not any(Path(f'/proc/{pid}').exists() for pid in workers))
    subprocess.run([sys.executable, script], check=True, env=here)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(r['key'] for r in lines) == [f'task/{n}' for n in range(6)]
    again = Counter(n for n, _ in attempts(tmp_path))
    assert all(again[int(k[5:])] == 1 for k in done)                                  # what was in the file was not repeated


def test_workers_end_when_the_owner_is_interrupted(tmp_path):
    "Busy ones too, and even if they do not listen."
    pool, pids = Pool(stubborn, workers=2), []
    def interrupt(news):
        if len(pids) == 2: raise KeyboardInterrupt
        pids[:] = sorted({pid for _, pid in attempts(tmp_path)})
    with pytest.raises(KeyboardInterrupt): list(pool.run([Task(n, str(tmp_path), 600) for n in range(2)], listen=interrupt))
    assert len(pids) == 2 and pool.team == []
    for pid in pids:
        with pytest.raises(ProcessLookupError): os.kill(pid, 0)


def stubborn(task, **place):
    "Tells news for ever, and ends by a signal only"
    with open(Path(task.folder)/'attempts', 'a') as f: f.write(f'{task.n} {os.getpid()}\n')
    while True: report(n=task.n); time.sleep(.05)


# --- two at once, and a full disk
def test_two_sweeps_on_one_file(tmp_path):
    results, gate = Results(tmp_path/'r.jsonl'), tmp_path/'gate'
    first = forked.Process(target=hold_for, args=(results.path, gate)); first.start()
    wait_for(lambda: (tmp_path/'held').exists())
    with pytest.raises(BlockingIOError, match=f'in use by process {first.pid} since'): sweep([], results, Pool(work), progress=False)
    results.append(dict(key='x'))                                                     # one line more is no sweep
    first.kill(); first.join()                                                        # the lock of the dead is free
    assert sweep([], results, Pool(work), progress=False) == {} and list(results.load()) == ['x']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['held', 'r.jsonl']          # nothing is left behind


def hold_for(path, gate):
    with Results(path).held():
        (path.parent/'held').touch()
        while not gate.exists(): time.sleep(.02)


class Known:
    "A pool whose results are known"
    def run(self, jobs, listen=None):
        from ggr_nb.paper.sweep import Outcome
        for j in jobs: yield Outcome(j, dict(key=j.key, text='x' * 1000))


def fill_up(path, said):
    "A sweep on a disk with room for four results"
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4500, 4500))
    try: sweep([Task(n, '') for n in range(9)], Results(path), Known(), progress=False)
    except OSError as e: said.send((e.errno, str(e)))


def test_a_full_disk_costs_one_result(tmp_path):
    path = tmp_path/'r.jsonl'
    here, there = forked.Pipe()
    p = forked.Process(target=fill_up, args=(path, there)); p.start(); there.close()
    number, text = here.recv(); p.join()
    assert number == errno.EFBIG and 'task/4 was not written' in text and 'all others are untouched' in text
    assert path.read_bytes().endswith(b'}\n') and list(Results(path).load()) == [f'task/{n}' for n in range(4)]
    assert sweep([Task(n, '') for n in range(9)], Results(path), Known(), progress=False) == {} and len(Results(path).load()) == 9


@pytest.mark.parametrize('place', ['/dev/null/r.jsonl', '/proc/r.jsonl'])
def test_a_file_that_cannot_be_written_is_refused_before_the_first_run(tmp_path, place):
    with pytest.raises(OSError, match='choose another file'): sweep([Task(1, str(tmp_path))], Results(place), Pool(work), progress=False)
    assert attempts(tmp_path) == []


@pytest.mark.parametrize('workers', [0, -1, 10**9, 1.5])
def test_a_pool_has_workers(workers):
    with pytest.raises(ValueError, match='workers is'): Pool(work, workers)


# --- Ray
def test_ray_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(ImportError, match=r'ggr_nb\[cluster\]'): RayPool(math.sqrt)


@pytest.mark.parametrize('wrong, said', [(Exception('The current node timed out during startup. This could …'), 'within its 30 seconds.*without --ray'),
                                         (ConnectionError('no such cluster'), 'no such cluster')])
def test_a_ray_that_does_not_start_is_one_line(monkeypatch, wrong, said):
    class Ray(type(sys)):
        def is_initialized(self): return False
        def init(self, address, **options): raise wrong
    monkeypatch.setitem(sys.modules, 'ray', Ray('ray'))
    with pytest.raises(OSError, match=said): RayPool(math.sqrt)


def test_ray_with_a_killed_worker(tmp_path):
    ray = pytest.importorskip('ray', reason='Ray is not installed (extra "cluster"): the cluster test is skipped')
    try:
        try: pool = RayPool(partial(work, note='ray'), cpus=1, num_cpus=2, include_dashboard=False,
                            runtime_env=dict(env_vars=dict(PYTHONPATH=os.pathsep.join(sys.path))))
        except TimeoutError as e: pytest.skip(str(e))             # Ray's own limit, on a machine that is too busy for it
        results, killed, gate = Results(tmp_path/'r.jsonl'), [], tmp_path/'gate'

        def kill_one(record):
            if killed: return
            wait_for(lambda: any(n > 0 for n, _ in attempts(tmp_path)))               # until a gated task is under way
            killed.append(next(pid for n, pid in attempts(tmp_path) if n > 0))
            os.kill(killed[0], signal.SIGKILL); gate.touch()

        tasks = [Task(0, str(tmp_path))] + [Task(n, str(tmp_path), .05, str(gate)) for n in range(1, 6)] + [Task(-1, str(tmp_path))]
        errors = sweep(tasks, results, pool, after=kill_one, progress=False)
    finally: ray.shutdown()
    assert list(errors) == ['task/-1'] and 'cannot be done' in errors['task/-1']
    lines = [json.loads(line) for line in results.path.read_text().splitlines()]
    assert sorted(r['key'] for r in lines) == [f'task/{n}' for n in range(6)]         # none lost, none twice
    assert {r['note'] for r in lines} == {'ray'}
    tries = Counter(n for n, _ in attempts(tmp_path))
    assert len(killed) == 1 and max(tries.values()) == 2
