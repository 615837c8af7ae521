"""A network of over a billion places trained by GGR on CIFAR-100, beside dense networks of the same number of weights and of the same time
(nbs/10_sparse.ipynb).

    python experiments/billion.py [--epochs 3] [--steps N] [--sizes 3072-65536-16384-100] [--density .001]

Appends one line a run to results/billion.jsonl: accuracy on held-out images after each epoch, seconds, peak resident bytes. Where
CIFAR-100 is absent the digits stand in, on a smaller net. Question: is a wide sparse net better than a narrow dense one when nobody pays
for the zeros?
"""
import argparse, resource, time

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from common import accuracy
from ggr_nb.paper.sweep import Results
from ggr_nb.sparse import SparseLinear, sparse_storage_
from ggr_nb.sparsify import Sparsifier
from ggr_nb.train.data import cifar100, digits
from ggr_nb.train.runs import commit, hardware, versions


def mlp(sizes, device=None):
    with torch.device(device or 'cpu'):
        layers = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def narrow(sizes, weights):
    "The dense net of the same shape with at most so many weights: hidden sizes scaled alike."
    low, high = 0., 1.
    scaled = lambda f: [sizes[0], *(max(1, round(s * f)) for s in sizes[1:-1]), sizes[-1]]
    for _ in range(40):
        middle = (low + high) / 2; s = scaled(middle)
        low, high = (middle, high) if sum(a * b for a, b in zip(s, s[1:])) <= weights else (low, middle)
    return scaled(low)


def train(kind, sizes, data, args, seconds=None):
    torch.manual_seed(0); steps = min(data.steps('train', 128), args.steps or 10**9)
    net, start = mlp(sizes, 'meta' if kind == 'sparse' else None), time.time()
    if kind == 'sparse': sparse_storage_(net, args.density, seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=args.lr, momentum=.9, weight_decay=1e-4)
    if kind == 'sparse': Sparsifier(net, optimizer, 'ggr', density=args.density, seed=0, every=steps // 2, until=steps * args.epochs, fraction=.2)
    curve, spent = [], 0.
    for epoch in range(args.epochs if seconds is None else 10**6):
        begun = time.time()
        for i, (x, y) in enumerate(data.batches('train', 128, epoch=epoch, seed=0)):
            if i == steps or seconds and spent + time.time() - begun > seconds: break
            optimizer.zero_grad(); cross_entropy(net(x), y).backward(); optimizer.step()
        spent += time.time() - begun
        curve.append(round(accuracy(net, data, 500), 2)); print(kind, sizes, curve, f'{spent:.0f} s', flush=True)
        if seconds and spent >= seconds: break
    places = sum(a * b for a, b in zip(sizes, sizes[1:]))
    active = sum(len(m.col) for m in net if isinstance(m, SparseLinear)) or places
    # the sparse net is trained first, so the peak of the process is its own
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if kind == 'sparse' else None
    return dict(key=f'billion/{data.name}/{kind}/{"-".join(map(str, sizes))}/{"same time" if seconds else "same epochs"}', config=vars(args) | dict(kind=kind, sizes=sizes),
                places=places, active=active, curve=curve, accuracy=curve[-1], seconds=spent, total=time.time() - start, peak_bytes=peak,
                versions=versions(), hardware=hardware('cpu'), commit=commit())


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--epochs', type=int, default=3); parser.add_argument('--steps', type=int); parser.add_argument('--lr', type=float, default=.02)
    parser.add_argument('--sizes', default='3072-65536-16384-100'); parser.add_argument('--density', type=float, default=.001)
    args = parser.parse_args(); sizes = [*map(int, args.sizes.split('-'))]
    try: data = cifar100()
    except (FileNotFoundError, ValueError) as e: print(e, '— digits instead'); data, sizes = digits(), [64, 16384, 4096, 10]
    results = Results('results/billion.jsonl')
    big = train('sparse', sizes, data, args); results.append(big); print(big)
    for time_ in (None, big['seconds']):
        run = train('dense', narrow(sizes, big['active']), data, args, time_); results.append(run); print(run)
