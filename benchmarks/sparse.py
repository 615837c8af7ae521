"""Sparse storage against dense and masked training, alternating in one run, written to sparse.json.

    python benchmarks/sparse.py [steps] [shares] [update] [memory] [blocks] [width] [--quick] [--threads N]

steps    whole training steps (SGD with momentum, batch 128): dense, masked, sparse (and SparseLab, where installed)
shares   what a sparse step is made of: the three products, the refresh of the transposed values, the optimiser
update   one GGR update of a layer against the dense backward product of that layer
memory   peak resident memory of training beyond PyTorch's own, each storage in a process of its own
blocks   a GPT-like stack (6 blocks, d 512, 256 tokens × 8): the whole step, and its linear layers alone
width    memory and time of a step against the width of the net, to where dense ends and past it
"""
import importlib.util, json, os, subprocess, sys, time, warnings
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from turns import NETS, Block, alternate, load, machine, mlp, peak_above
from ggr_nb.sparse import SparseLinear, sampled_product, sparse_storage_
from ggr_nb.sparsify import Sparsifier

warnings.filterwarnings('ignore')
HERE = Path(__file__).parent


def training(kind, model, density, x, y, method='ggr', every=10**6):
    "One training step of a model in one of the storages; its sparsifier is `step.sparsifier`."
    how = dict(density=density, init='erk', seed=0)
    if kind == 'sparse': sparse_storage_(model, method=method, **how)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=.9, weight_decay=5e-4)
    sparsifier = None if kind == 'dense' else Sparsifier(model, optimizer, method, every=every, until=2 * every, **how)
    def step(): optimizer.zero_grad(); cross_entropy(model(x).flatten(0, -2), y).backward(); optimizer.step()
    step.sparsifier = sparsifier
    return step


def sparselab(model, density, x, y):
    "The same network of SparseLab's layers: an equal share of weights in every layer."
    from sparselab import SparseLinear as Padded
    for i, m in enumerate(model):
        if isinstance(m, nn.Linear): model[i] = Padded(m.in_features, m.out_features, m.bias is not None, sparsity=1 - density)
    return training('dense', model, density, x, y)


def bench_steps(quick):
    rows, kinds = [], ['dense', 'masked', 'sparse']
    if importlib.util.find_spec('sparselab'): kinds.append('sparselab')
    else: print('SparseLab is not installed here (pip install sparselab): its column is left out')
    for net, densities in ({'64-96-64-10': (.03,)} if quick else NETS).items():
        for density in densities:
            x, y = torch.randn(128, int(net.split('-')[0])), torch.randint(int(net.split('-')[-1]), (128,))
            make = lambda k: (sparselab if k == 'sparselab' else partial(training, k))(mlp(net), density, x, y)
            seconds = alternate({k: make(k) for k in kinds}, 2 if quick else 9)
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
                         'weight gradient': lambda: sampled_product(x, dy, layer.crow, layer.col), 'refresh': lambda: values.index_select(0, layer.turn), 'optimiser': optimizer.step})
    return dict(rows=rows, columns=columns, density=density, seconds=seconds, shares={k: s / sum(seconds.values()) for k, s in seconds.items()})


def bench_update(quick):
    rows = []
    for size, density in (('64-96-10', .1),) if quick else (('3072-8192-100', .03), ('3072-8192-100', .01), ('8192-8192-100', .03)):
        columns, units = map(int, size.split('-')[:2])
        x, y, seconds = torch.randn(128, columns), torch.randint(10, (128,)), {'update': [], 'step': [], 'product': []}
        step = training('sparse', mlp(size), density, x, y, every=2)
        step.sparsifier.until, a = 10**9, torch.randn(128, units)
        for _ in range(4 if quick else 24):
            kind = 'update' if step.sparsifier.due() else 'step'
            seconds[kind].append(_seconds(step)); seconds['product'].append(_seconds(lambda: a.t() @ x))
        best = {k: min(s) for k, s in seconds.items()}
        rows.append(dict(net=size, density=density, update=best['update'] - best['step'], dense_product=best['product'],
                         ratio=(best['update'] - best['step']) / best['product']))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def _seconds(f):
    start = time.perf_counter(); f(); return time.perf_counter() - start


def bench_blocks(quick):
    d, layers, tokens, batch, rows = (64, 1, 8, 2, []) if quick else (512, 6, 256, 8, [])
    x, y = torch.randn(batch, tokens, d), torch.randint(d, (batch * tokens,))
    whole = lambda: (torch.manual_seed(0), nn.Sequential(*[Block(d) for _ in range(layers)]))[1]
    linear = lambda: (torch.manual_seed(0), nn.Sequential(*[m for _ in range(layers) for m in (
        nn.Linear(d, 3 * d), nn.Linear(3 * d, d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d))]))[1]
    for density in (.2, .1, .05, .02):
        row = dict(d=d, layers=layers, tokens=tokens, batch=batch, density=density)
        for part, make in (('step', whole), ('linear', linear)):
            seconds = alternate({k: training(k, make(), density, x, y) for k in ('dense', 'masked', 'sparse')}, 1 if quick else 4)
            row[part] = seconds | dict(faster=seconds['dense'] / seconds['sparse'])
        rows.append(row); print(json.dumps(row), flush=True)
    return rows


def peak(kind, net, density):
    "In a process of its own: peak resident bytes beyond what PyTorch takes, construction and one update included."
    x, y = torch.randn(128, int(net.split('-')[0])), torch.randint(10, (128,))
    tiny = training(kind, mlp('16-16-10'), .5, torch.randn(128, 16), y, every=2)     # what is loaded at first use
    for _ in range(4): tiny()
    risen = peak_above()
    with torch.device('meta' if kind == 'sparse' else 'cpu'): model = mlp(net)   # sparse: never dense
    step = training(kind, model, density, x, y, every=2)
    start = time.perf_counter()
    for _ in range(4): step()
    print(json.dumps(dict(bytes=risen(), seconds=(time.perf_counter() - start) / 4)))


def measured_alone(kind, net, density, **environ):
    out = subprocess.run([sys.executable, __file__, '--peak', kind, net, str(density)], capture_output=True, text=True, env=os.environ | environ)
    return json.loads(out.stdout.splitlines()[-1]) if out.returncode == 0 else dict(bytes=None, seconds=None, error=out.stderr.strip().splitlines()[-1][:120])


def bench_memory(quick):
    # glibc keeps freed pieces below 32 MB for the next time; with a fixed threshold it gives them back, and the peak is
    # what was in use. Both are measured.
    net, density = ('64-96-64-10', .1) if quick else ('3072-8192-8192-100', .03)
    found = dict(net=net, density=density) | {k: measured_alone(k, net, density) for k in ('dense', 'masked', 'sparse')}
    found['given_back'] = {k: measured_alone(k, net, density, MALLOC_MMAP_THRESHOLD_='65536') for k in ('dense', 'masked', 'sparse')}
    print(json.dumps(found))
    return found


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
        result['machine'] = machine(load=load())
        if not quick: file.write_text(json.dumps(result, indent=1) + '\n')
    return result


if __name__ == '__main__': main(sys.argv[1:])
