"Long lists of runs: real processes, some of them killed. None may be lost, none counted twice."
import json
import math
import multiprocessing
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

from ggr_nb.paper.sweep import Pool, RayPool, Results, report, sweep

sys.path.insert(0, str(Path(__file__).parent))


class Task(NamedTuple):
    "A job that leaves a trace of every attempt in a folder"
    n: int
    folder: str
    waits: str = ''      # a file: the task is not done before it is there

    @property
    def may_go_on(self): return not self.waits or (Path(self.folder)/self.waits).exists()

    @property
    def key(self): return f'task/{self.n}'


class Meeting(Task):
    "Its first worker waits for the second: both come to work, whoever starts first."
    @property
    def may_go_on(self): return len({pid for _, pid in attempts(self.folder)}) == 2


def work(task, **place):
    "Note who works on it, wait until it may go on, return a record"
    with open(Path(task.folder)/'attempts', 'a') as f: f.write(f'{task.n} {os.getpid()}\n')
    report(n=task.n)
    while not task.may_go_on: time.sleep(.01)
    if task.n < 0: raise ValueError(f'task {task.n} cannot be done')
    return dict(key=task.key, square=task.n ** 2, pid=os.getpid(), **place)


def attempts(folder):
    path = Path(folder)/'attempts'
    return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


def write_many(path, name, n):
    for i in range(n): Results(path).append(dict(key=f'{name}/{i}', text='x' * 5000))


def write_for_ever(path, name):
    i = 0
    while True: Results(path).append(dict(key=f'{name}/{i}', text='x' * 200_000)); i += 1


spawn = multiprocessing.get_context('spawn')


# --- the file
def test_processes_append_at_the_same_time(tmp_path):
    path = tmp_path/'r.jsonl'
    team = [spawn.Process(target=write_many, args=(path, name, 60)) for name in 'abc']
    for p in team: p.start()
    for p in team: p.join(600)
    assert [p.exitcode for p in team] == [0, 0, 0]
    assert set(Results(path).load()) == {f'{name}/{i}' for name in 'abc' for i in range(60)}
    for line in path.read_text().splitlines(): json.loads(line)


def test_a_writer_killed_while_it_writes(tmp_path):
    path = tmp_path/'r.jsonl'
    for attempt in range(3):
        p = spawn.Process(target=write_for_ever, args=(path, str(attempt)))
        p.start()
        wanted = time.monotonic() + 600
        while not (path.exists() and f'"{attempt}/5"' in path.read_text()) and time.monotonic() < wanted: time.sleep(.01)
        os.kill(p.pid, signal.SIGKILL); p.join()
        before = set(Results(path).load())
        Results(path).append(dict(key=f'after/{attempt}'))      # the lock of the dead is free, the end is repaired
        after = set(Results(path).load())
        assert {f'{attempt}/{i}' for i in range(6)} <= before <= after and f'after/{attempt}' in after
    for line in path.read_text().splitlines(): json.loads(line)


# --- the pool
def test_all_jobs_once(tmp_path):
    tasks = [Meeting(n, str(tmp_path)) for n in range(8)]
    outcomes = list(Pool(work, workers=2).run(tasks))
    assert sorted(o.result['square'] for o in outcomes) == [n ** 2 for n in range(8)]
    assert Counter(n for n, _ in attempts(tmp_path)) == Counter(range(8))
    assert len({pid for _, pid in attempts(tmp_path)}) == 2


def test_places_and_news(tmp_path):
    pool, heard = Pool(work, places=[dict(device='cuda:0'), dict(device='cuda:1')]), {}
    pool.listen = heard.update
    outcomes = list(pool.run([Meeting(n, str(tmp_path)) for n in range(4)]))
    assert {o.result['device'] for o in outcomes} == {'cuda:0', 'cuda:1'}
    assert heard == {n: dict(n=n) for n in range(4)} and pool.news == {}


def test_more_workers_than_jobs_and_no_jobs(tmp_path):
    assert len(list(Pool(work, workers=5).run([Task(1, str(tmp_path))]))) == 1
    assert list(Pool(work, workers=2).run([])) == []


def test_no_process_is_left_behind(tmp_path):
    "Whoever stops asking for results stops the workers, busy or not."
    pool = Pool(work, workers=2)
    running = pool.run([Task(0, str(tmp_path)), Task(1, str(tmp_path), 'never'), Task(2, str(tmp_path), 'never')])
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
    results, killed = Results(tmp_path/'r.jsonl'), []
    pool = Pool(work, workers=2)

    def kill_one(record, bar):
        if killed: return
        victim = next(w for w in pool.team if w.job)
        os.kill(victim.process.pid, signal.SIGKILL); killed.append(victim.process.pid)
        (tmp_path/'go').touch()

    tasks = [Task(n, str(tmp_path), 'go' if n else '') for n in range(6)]
    assert sweep(tasks, results, pool, after=kill_one, progress=False) == {}
    assert len(killed) == 1
    lines = [json.loads(line) for line in results.path.read_text().splitlines()]
    assert sorted(r['key'] for r in lines) == [t.key for t in tasks]                  # none lost, none twice
    tries = Counter(n for n, _ in attempts(tmp_path))
    assert sum(tries.values()) in (6, 7) and sum(pool.deaths.values()) == 1
    assert killed[0] not in {pid for r in lines for pid in [r['pid']] if tries[int(r['key'][5:])] == 2}


def test_a_job_that_kills_its_workers_is_given_up():
    outcomes = list(Pool(os._exit, workers=2, tries=2).run([3, 4]))
    assert sorted(o.error for o in outcomes) == ['worker ended with 3, 2 times', 'worker ended with 4, 2 times']


DRIVER = '''
import sys
sys.path.insert(0, {here!r})
from test_sweep import Task, work
from ggr_nb.paper.sweep import Pool, Results, sweep
if __name__ == '__main__':
    sweep([Task(n, {folder!r}, 'go' if n > 1 else '') for n in range(6)], Results({file!r}), Pool(work, workers=2), progress=False)
'''


def test_the_parent_is_killed_and_started_again(tmp_path):
    "Its workers end with it, and the second run does what the first had not finished."
    file = tmp_path/'r.jsonl'
    script = tmp_path/'driver.py'
    script.write_text(DRIVER.format(here=str(Path(__file__).parent), folder=str(tmp_path), file=str(file)))
    here = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    first = subprocess.Popen([sys.executable, script], env=here)
    limit = time.monotonic() + 600
    while len(Results(file).load()) < 2 and time.monotonic() < limit: time.sleep(.02)
    first.kill(); first.wait()
    done = set(Results(file).load())
    assert 2 <= len(done) < 6
    workers = {pid for _, pid in attempts(tmp_path)}
    limit = time.monotonic() + 600
    while any(Path(f'/proc/{pid}').exists() for pid in workers) and time.monotonic() < limit: time.sleep(.05)
    assert not any(Path(f'/proc/{pid}').exists() for pid in workers)
    (tmp_path/'go').touch()
    subprocess.run([sys.executable, script], check=True, timeout=900, env=here)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(r['key'] for r in lines) == [f'task/{n}' for n in range(6)]
    again = Counter(n for n, _ in attempts(tmp_path))
    assert all(again[int(k[5:])] == 1 for k in done)                                  # what was in the file was not repeated


# --- Ray
def test_ray_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(ImportError, match=r'ggr_nb\[cluster\]'): RayPool(math.sqrt)


def test_ray_with_a_killed_worker(tmp_path, monkeypatch):
    ray = pytest.importorskip('ray', reason='Ray is not installed (extra "cluster"): the cluster test is skipped')
    monkeypatch.setenv('RAY_raylet_start_wait_time_s', '240')                         # a busy machine may take a while
    try:
        pool = RayPool(partial(work, note='ray'), cpus=1, num_cpus=2, include_dashboard=False,
                       runtime_env=dict(env_vars=dict(PYTHONPATH=os.pathsep.join(sys.path))))
        results, killed = Results(tmp_path/'r.jsonl'), []

        def kill_one(record, bar):
            if killed: return
            busy, limit = [], time.monotonic() + 600
            while not busy and time.monotonic() < limit:                              # until a task is under way
                time.sleep(.05)
                busy = [pid for n, pid in attempts(tmp_path) if n >= 0 and f'task/{n}' not in results.load()]
            os.kill(busy[-1], signal.SIGKILL); killed.append(busy[-1])
            (tmp_path/'go').touch()

        tasks = [Task(n, str(tmp_path), 'go' if n else '') for n in range(6)] + [Task(-1, str(tmp_path))]
        errors = sweep(tasks, results, pool, after=kill_one, progress=False)
    finally: ray.shutdown()
    assert list(errors) == ['task/-1'] and 'cannot be done' in errors['task/-1']
    lines = [json.loads(line) for line in results.path.read_text().splitlines()]
    assert sorted(r['key'] for r in lines) == [f'task/{n}' for n in range(6)]         # none lost, none twice
    assert {r['note'] for r in lines} == {'ray'}
    tries = Counter(n for n, _ in attempts(tmp_path))
    assert len(killed) == 1 and len({pid for _, pid in attempts(tmp_path)}) >= 2 and max(tries.values()) == 2
