"What the benchmarks share: where they ran, contenders that take turns, the memory of a process."
import os, time
from pathlib import Path

import torch


def machine(**more):
    "The processor, and what else a time depends on."
    from ggr_nb.train.runs import hardware
    return dict(cpu=hardware('cpu')['device'], threads=torch.get_num_threads(), torch=str(torch.__version__), **more)


def load(): return os.getloadavg()[0]


def alternate(variants, rounds=7, of=min, clock=time.perf_counter, calls=1):
    "`of` the seconds a call of every variant, which take turns; a first round warms up."
    seconds = {n: [] for n in variants}
    for r in range(rounds + 1):
        for name, f in variants.items():
            start = clock()
            for _ in range(calls): f()
            if r: seconds[name].append((clock() - start) / calls)
    return {n: of(s) for n, s in seconds.items()}


def peak_above():
    "Begin to watch the memory of this process: what is returned says by how many bytes its peak has risen above now."
    status = lambda key: int(next(l for l in open('/proc/self/status') if l.startswith(key)).split()[1]) * 1024
    try: Path('/proc/self/clear_refs').write_text('5')       # forget the peak so far
    except OSError: pass
    before = status('VmRSS')
    return lambda: status('VmHWM') - before
