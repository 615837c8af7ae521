"""What the experiments share: one plain training loop, and a file of results that grows by one line per run.

Every experiment is a list of jobs. A job is a dict of settings; together with nothing else it decides the run,
so a file that already holds a job's line is never asked to do it again: stop whenever you like, start again.
"""
import argparse, json, sys, time
from dataclasses import replace
from functools import cache, partial
from itertools import product

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy
from tqdm.auto import tqdm

from ggr_nb.train.data import cifar100, digits
from ggr_nb.masks import generator
from ggr_nb.train.runs import RECIPES, commit, hardware, versions
from ggr_nb.sparsify import Sparsifier
from ggr_nb.paper.demo import cores
from ggr_nb.paper.sweep import Pool, Results, run_job, sweep

# the long recipe of the reduced reproduction, for `Job`
REDUCED = dict(epochs=5, width=.25, stem=4, batch=128, updates=10, fraction=.3, augment=False)


def recipe(lr, epochs=30, **changes): return replace(RECIPES['digits'].scaled(epochs), lr=lr, **changes)

def seeded(make, seed):
    "A model whose initial weights depend on the seed alone."
    with torch.random.fork_rng():
        torch.manual_seed(generator(seed, 'model').initial_seed())
        return make()

def with_norm(net):
    "The same network, a BatchNorm behind every layer but the last."
    layers = []
    for m in net:
        layers.append(m)
        if isinstance(m, nn.Conv2d): layers.append(nn.BatchNorm2d(m.out_channels))
        if isinstance(m, nn.Linear) and m.out_features != 10: layers.append(nn.BatchNorm1d(m.out_features))
    return nn.Sequential(*layers)

def equip(net, method, recipe, data, **options):
    "The recipe's optimiser, and the sparsifier that listens to it."
    steps = data.steps('train', recipe.batch)
    opt = torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=recipe.momentum,
                          weight_decay=recipe.weight_decay, fused=True)
    until, every = round(recipe.update_until * steps), recipe.every or steps
    return opt, Sparsifier(net, opt, method, every=every, until=until, fraction=recipe.fraction, **options)

def train(net, opt, data, recipe, seed, augment=False):
    "Train by the recipe; what happens to the masks is the sparsifier's business."
    net.train(); steps = data.steps('train', recipe.batch)
    for epoch in range(recipe.epochs):
        for step, (x, y) in enumerate(data.batches('train', recipe.batch, epoch, seed, augment=augment)):
            for group in opt.param_groups: group['lr'] = recipe.rate(epoch + step / steps)
            loss = cross_entropy(net(x), y)
            opt.zero_grad(); loss.backward(); opt.step()
    return loss.item()

def resplit(data, seed, share=.2):
    """The same pictures, dealt anew by the seed: (data that trains and tests, the same with validation pictures to test on).

    The split is drawn with everything else, so the spread over seeds holds the luck of a small test set as well.
    """
    x, y = (torch.cat(t) for t in zip(data.train, data.test))
    order = torch.randperm(len(y), generator=generator(seed, 'split')); n = round(share * len(y))
    valid, test, rest = ((x[i], y[i]) for i in order.split([n, n, len(y) - 2 * n]))
    return replace(data, train=rest, test=test), replace(data, train=rest, test=valid)

@cache
def small_cifar(classes=10, pool=2):
    "The first classes of CIFAR-100, averaged down to 16×16; mirrored in training, neither shifted nor turned."
    data = cifar100(rotate=0.)
    some = lambda x, y: (avg_pool2d(x[y < classes].float(), pool).round().byte(), y[y < classes])
    return replace(data, train=some(*data.train), test=some(*data.test), classes=classes, names=data.names[:classes], pad=0)

@torch.no_grad()
def accuracy(net, data, batch=1000):
    "Test accuracy in percent."
    net.eval()
    right = sum(int((net(x).argmax(1) == y).sum()) for x, y in data.batches('test', batch))
    return 100 * right / len(data.test[1])

def first_gradient(net, data, seed, batch=256):
    "Standard deviation of the logits and {layer: dense gradient} of the first training batch; the net stays as it is."
    x, y = next(data.batches('train', batch, 0, seed, augment=False))
    kept = {n: b.clone() for n, b in net.named_buffers()}
    out = net.train()(x); named = {n: p for n, p in net.named_parameters() if p.ndim >= 2}
    grads = torch.autograd.grad(cross_entropy(out, y), list(named.values()))
    for n, b in net.named_buffers(): b.copy_(kept[n])
    return float(out.detach().std(0).mean()), dict(zip(named, grads))

def grid(part, **axes):
    "Every combination, the last axis innermost."
    return (dict(zip(axes, v), part=part) for v in product(*axes.values()))

def run_all(jobs, work, default):
    "Do the jobs that the results file does not hold yet, one after the other."
    p = argparse.ArgumentParser()
    p.add_argument('--out', default=default, help='results file, one JSON line per run')
    p.add_argument('--quick', action='store_true', help='three epochs of the first job of each part: does everything run?')
    p.add_argument('--part', default=None, help='only the jobs of this part')
    args = p.parse_args()
    torch.set_num_threads(1)
    todo = [j for j in jobs if args.part in (None, j['part'])]
    if args.quick:
        first = {}
        for j in todo: first.setdefault(j['part'], dict(j, epochs=3))      # in fewer the masks of gradual pruning would never move
        todo = first.values()
    file = Results(args.out + '.quick' * args.quick); done = file.load()
    command = ' '.join(['python', *sys.argv])
    where = dict(versions=versions(), hardware=hardware(torch.device('cpu'), 1), commit=commit(), command=command)
    for job in tqdm([j for j in todo if name(j) not in done], mininterval=10):
        began = time.process_time()
        found = work(**{k: v for k, v in job.items() if k != 'part'})
        file.append(dict(key=name(job), config=job, **found, seconds=round(time.process_time() - began, 2), **where))

def name(job): return json.dumps(job, sort_keys=True)

def run_cells(jobs, file):
    "The same for jobs of the library's sweep, a process on each core."
    work = partial(run_job, device='cpu', threads=1)
    print(sweep(jobs, Results(file), Pool(work, cores())) or 'done')
