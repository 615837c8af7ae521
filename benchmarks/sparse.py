"""Sparse storage against dense and masked training, alternating in one run, written to sparse.json.

    python benchmarks/sparse.py [steps] [shares] [update] [memory] [blocks] [width] [--quick] [--threads N]

steps    whole training steps (SGD with momentum, batch 128): dense, masked, sparse (and SparseLab, where installed)
shares   what a sparse step is made of: the three products, the refresh of the transposed values, the optimiser
update   one GGR update of a layer against the dense backward product of that layer
memory   peak resident memory of training beyond PyTorch's own, each storage in a process of its own
blocks   the linear layers of a GPT-like stack (d 512, 256 tokens × 8)
width    memory and time of a step against the width of the net, to where dense ends and past it
"""
import json, os, platform, statistics, subprocess, sys, time, warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ggr_nb.sparse import SparseLinear, sparse_storage_
from ggr_nb.sparsify import Sparsifier

warnings.filterwarnings('ignore')
HERE = Path(__file__).parent
NETS = {'3072-4000-1000-4000-10': (.02,), '3072-8192-8192-100': (.03, .01)}


def machine():
    cpu = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), platform.processor())
    return dict(cpu=cpu, threads=torch.get_num_threads(), torch=torch.__version__, load=os.getloadavg()[0])


def mlp(name):
    torch.manual_seed(0); sizes, layers = [*map(int, name.split('-'))], []
    for a, b in zip(sizes, sizes[1:]): layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def training(kind, model, density, x, y, method='ggr', every=10**6):
    "(one step, its sparsifier) of a model trained in one of the storages."
    how = dict(density=density, init='erk', seed=0)
    if kind == 'sparse': sparse_storage_(model, method=method, **how)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=.9, weight_decay=5e-4)
    sparsifier = None if kind == 'dense' else Sparsifier(model, optimizer, method, every=every, until=2 * every, **how)
    def step(): optimizer.zero_grad(); cross_entropy(model(x).flatten(0, -2), y).backward(); optimizer.step()
    return step, sparsifier


def alternate(variants, repeats=7):
    "Least seconds of every variant, run in turns."
    best = dict.fromkeys(variants, float('inf'))
    for r in range(repeats + 1):
        for name, f in variants.items():
            start = time.perf_counter(); f()
            if r: best[name] = min(best[name], time.perf_counter() - start)
    return best


def bench_steps(quick):
    rows = []
    for net, densities in ({'64-96-64-10': (.03,)} if quick else NETS).items():
        for density in densities:
            x, y = torch.randn(128, int(net.split('-')[0])), torch.randint(int(net.split('-')[-1]), (128,))
            seconds = alternate({k: training(k, mlp(net), density, x, y)[0] for k in ('dense', 'masked', 'sparse')}, 2 if quick else 7)
            rows.append(dict(net=net, density=density, batch=128, **seconds, faster=seconds['dense'] / seconds['sparse']))
            print(json.dumps(rows[-1]), flush=True)
    return rows


def bench_shares(quick):
    rows, columns, density, batch = (96, 64, .1, 16) if quick else (8192, 8192, .03, 128)
    n = round(rows * columns * density)
    layer = SparseLinear(columns, rows, torch.randperm(rows * columns)[:n].sort().values, torch.randn(n))
    x, dy, values = torch.randn(batch, columns), torch.randn(batch, rows), layer.values.detach()
    turned = layer.transposed(values)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3, momentum=.9); layer.values.grad = torch.randn(n); optimizer.step()
    seconds = alternate({'forward': lambda: layer.matrix(values) @ x.t(), 'input gradient': lambda: turned @ dy.t(),
                         'weight gradient': lambda: layer.sampled(x, dy), 'refresh': lambda: values.index_select(0, layer.turn), 'optimiser': optimizer.step})
    return dict(rows=rows, columns=columns, density=density, seconds=seconds, shares={k: s / sum(seconds.values()) for k, s in seconds.items()})


def bench_update(quick):
    size = '64-96-10' if quick else '3072-8192-100'
    x, y = torch.randn(128, int(size.split('-')[0])), torch.randint(10, (128,))
    step, sparsifier = training('sparse', mlp(size), .03, x, y, every=2)
    while not sparsifier.due(): step()
    start = time.perf_counter(); step(); whole = time.perf_counter() - start
    plain = min(_seconds(step) for _ in range(3) if not sparsifier.due())
    a, b = torch.randn(128, int(size.split('-')[1])), x
    product = min(_seconds(lambda: a.t() @ b) for _ in range(5))
    return dict(net=size, update=whole - plain, dense_product=product, ratio=(whole - plain) / product)


def _seconds(f):
    start = time.perf_counter(); f(); return time.perf_counter() - start


def bench_blocks(quick):
    d, tokens, rows = (32, 8, []) if quick else (512, 256 * 8, [])
    x, y = torch.randn(tokens, d), torch.randint(d, (tokens,))
    make = lambda: (torch.manual_seed(0), nn.Sequential(*[m for _ in range(2) for m in (nn.Linear(d, 3 * d), nn.Linear(3 * d, d), nn.Linear(d, 4 * d), nn.ReLU(), nn.Linear(4 * d, d))]))[1]
    for density in (.2, .1, .05, .02):
        seconds = alternate({k: training(k, make(), density, x, y)[0] for k in ('dense', 'sparse')}, 2 if quick else 5)
        rows.append(dict(d=d, tokens=tokens, density=density, **seconds, faster=seconds['dense'] / seconds['sparse']))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def peak(kind, net, density):
    "In a process of its own: peak resident bytes beyond what PyTorch takes, construction and one update included."
    x, y = torch.randn(128, int(net.split('-')[0])), torch.randint(10, (128,))
    tiny, _ = training(kind, mlp('16-16-10'), .5, torch.randn(128, 16), y, every=2)     # what is loaded at first use
    for _ in range(4): tiny()
    try: Path('/proc/self/clear_refs').write_text('5')   # forget the peak so far
    except OSError: pass
    before = _status('VmRSS')
    step, _ = training(kind, mlp(net), density, x, y, every=2)
    start = time.perf_counter()
    for _ in range(4): step()
    print(json.dumps(dict(bytes=_status('VmHWM') - before, seconds=(time.perf_counter() - start) / 4)))


def _status(key): return int(next(l for l in open('/proc/self/status') if l.startswith(key)).split()[1]) * 1024


def measured_alone(kind, net, density):
    out = subprocess.run([sys.executable, __file__, '--peak', kind, net, str(density)], capture_output=True, text=True)
    return json.loads(out.stdout.splitlines()[-1]) if out.returncode == 0 else dict(bytes=None, seconds=None, error=out.stderr.strip().splitlines()[-1][:120])


def bench_memory(quick):
    net, density = ('64-96-64-10', .1) if quick else ('3072-8192-8192-100', .03)
    return dict(net=net, density=density) | {k: measured_alone(k, net, density) for k in ('dense', 'masked', 'sparse')}


def bench_width(quick):
    rows = []
    for width in (64, 128) if quick else (2048, 4096, 8192, 16384, 32768):
        for kind in ('dense', 'sparse'):
            if kind == 'dense' and width > 8192: continue
            rows.append(dict(width=width, kind=kind, density=.01, **measured_alone(kind, f'3072-{width}-{width}-100', .01)))
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main(argv):
    if '--peak' in argv: i = argv.index('--peak'); return peak(argv[i + 1], argv[i + 2], float(argv[i + 3]))
    if '--threads' in argv: torch.set_num_threads(int(argv.pop(argv.index('--threads') + 1)))
    quick, file = '--quick' in argv, HERE / 'sparse.json'
    parts = [a for a in argv if not a.startswith('-')] or ['steps', 'shares', 'update', 'memory', 'blocks', 'width']
    result = json.loads(file.read_text()) if file.exists() and not quick else {}
    for part in parts:
        print('==', part, flush=True)
        result[part] = globals()['bench_' + part](quick)
        result['machine'] = machine()
        if not quick: file.write_text(json.dumps(result, indent=1) + '\n')
    return result


if __name__ == '__main__': main(sys.argv[1:])
