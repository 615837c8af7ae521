"""Gradient flow, lottery tickets and SNIP on a LeNet-5 for 8 × 8 digits (nbs/studies/gradient_flow.ipynb,
nbs/studies/lottery_tickets.ipynb, nbs/beyond/snip.ipynb).

    python experiments/flow.py                 all of it, some minutes on one core; stop and go on at will
    python experiments/flow.py --quick         does everything run?
    python experiments/flow.py --part train    one part

Parts: train (gradient norm along training and around every update), lottery (pruned solution, ticket, scratch),
snip (masks chosen before training against random ones), time (pruned solution and ticket in longer trainings).
Results: results/flow.jsonl.
"""
import torch
from torch.nn.functional import cross_entropy

from common import accuracy, digits, grid, recipe, run_all, seeded, train, with_norm
from ggr_nb.init import random_masks
from ggr_nb.masks import counts
from ggr_nb.train.measure import gradient_flow
from ggr_nb.train.models import lenet
from ggr_nb.beyond.snip import snip_masks
from ggr_nb.sparsify import Sparsifier

SEEDS, DATA = range(5), digits()


def network(norm=False):
    "LeNet-5 for 8 × 8 images; with BatchNorm behind every layer but the last if asked for."
    net = lenet(input_size=(1, 8, 8))
    return with_norm(net) if norm else net

def split(name, n=None): return next(iter(DATA.batches(name, n or len(getattr(DATA, name)[1]), augment=False)))

class Meter:
    "An optimiser, its sparsifier, and the squared gradient norm on held-out images: every epoch, and around every update."
    def __init__(self, net, r, method, seed, norm=False, **options):
        steps = DATA.steps('train', r.batch)
        self.net, self.norm, self.every, self.flow, self.jumps, self.before = net, norm, steps, [], [], None
        self.x, self.y = split('test')
        self.opt = torch.optim.SGD(net.parameters(), lr=r.lr, momentum=r.momentum, weight_decay=r.weight_decay, fused=True)
        self.opt.register_step_pre_hook(self.look)
        self.sparsifier = Sparsifier(net, self.opt, method, every=r.every or steps, until=round(r.update_until * steps),
                                     fraction=r.fraction, seed=seed, **options)
        self.opt.register_step_pre_hook(self.compare)

    def now(self, masks): return gradient_flow(self.net, self.x, self.y, masks, batch_stats=self.norm)

    def look(self, *_):
        "Before the sparsifier acts."
        s = self.sparsifier
        if s.steps % self.every == 0: self.flow.append(self.now(s.masks))
        self.before = (s.masks, self.now(s.masks)) if s.due() else None

    def compare(self, *_):
        "After it has acted, before the weights move: all of it, and without the grown weights."
        if self.before is None: return
        (old, was), new = self.before, self.sparsifier.masks
        kept = {n: m & old[n] for n, m in new.items()}
        self.jumps.append([self.sparsifier.steps, was, self.now(kept), self.now(new)])

def fitted(net, r, method, seed, norm=False, order=None, **options):
    "Train; the meter and what it saw."
    meter = Meter(net, r, method, seed, norm, **options)
    train(net, meter.opt, DATA, r, seed if order is None else order)
    return meter, dict(accuracy=accuracy(net, DATA), flow=meter.flow + [meter.now(meter.sparsifier.masks)], jumps=meter.jumps)

def dynamics(seed, method, density, scale, norm, lr, epochs=30):
    net = seeded(lambda: network(norm), seed)
    return fitted(net, recipe(lr, epochs), method, seed, norm, density=density, scaling=scale)[1]


def vector(state): return torch.cat([t.flatten() for t in state.values()])

@torch.no_grad()
def line(net, a, b, points=21):
    "Training loss on the straight line from a to b."
    (x, y), mix = split('train'), lambda t: {n: (1 - t) * a[n] + t * b[n] for n in a}
    return [float(cross_entropy(torch.func.functional_call(net, mix(i / (points - 1)), (x,)), y)) for i in range(points)]

@torch.no_grad()
def answers(net, state): return torch.func.functional_call(net.eval(), state, (split('test')[0],)).softmax(1)

def copy(net): return {n: p.detach().clone() for n, p in net.named_parameters()}

def lottery(seed, density, lr, epochs=30):
    "Prune gradually; train the ticket (same first weights) and scratch nets (other first weights) with the same masks."
    r, first, y = recipe(lr, epochs), seeded(network, seed), split('test')[1]
    start = copy(first); meter, found = fitted(first, r, 'gmp', seed, density=density)
    masks, ends, runs, starts = meter.sparsifier.masks, {'pruned': copy(first)}, {'pruned': found}, {}
    again = seeded(network, seed)
    runs['pruned 2'] = fitted(again, r, 'gmp', seed, order=seed + 100, density=density)[1]; ends['pruned 2'] = copy(again)
    plans = {'ticket': (seed, 'keep', seed), 'ticket 2': (seed, 'keep', seed + 100), 'scratch': (seed + 1000, 'keep', seed),
             'scratch 2': (seed + 2000, 'keep', seed + 100), 'scratch unit': (seed + 1000, 'unit', seed)}
    for name, (init, scale, order) in plans.items():
        net = seeded(network, init)
        meter = Meter(net, r, 'static', seed, masks=masks, scaling=scale); starts[name] = copy(net)
        train(net, meter.opt, DATA, r, order); ends[name] = copy(net)
        runs[name] = dict(accuracy=accuracy(net, DATA), flow=meter.flow + [meter.now(masks)])
    goal, said = ends['pruned'], {n: answers(first, s) for n, s in ends.items()}
    far = lambda a, b: float((vector(a) - vector(b)).norm())
    pairs = [('pruned', n) for n in plans] + [('pruned', 'pruned 2'), ('ticket', 'ticket 2'), ('scratch', 'scratch 2')]
    correct = lambda p: 100 * float((p.argmax(1) == y).float().mean())
    return dict(runs=runs, size=float(vector(goal).norm()), counts=counts(masks), begin={n: far(s, goal) for n, s in starts.items()},
        from_start={n: line(first, starts[n], goal) for n in starts}, pairs=[dict(a=a, b=b, line=line(first, ends[a], ends[b]),
            distance=far(ends[a], ends[b]), disagree=100 * float((said[a].argmax(1) != said[b].argmax(1)).float().mean()),
            gain=correct(said[a] + said[b]) - (correct(said[a]) + correct(said[b])) / 2) for a, b in pairs])


def in_time(seed, density, lr, epochs):
    "Prune; train the ticket; and let the pruned network go on with its masks for as long again."
    r, net, ticket = recipe(lr, epochs), seeded(network, seed), seeded(network, seed)
    meter, pruned = fitted(net, r, 'gmp', seed, density=density)
    masks = meter.sparsifier.masks; meter.sparsifier.remove()         # another one takes over `net`
    again, won = (fitted(n, r, 'static', seed, masks=masks)[1] for n in (net, ticket))
    return dict(zip(('pruned', 'ticket', 'continued'), (f['accuracy'] for f in (pruned, won, again))))


def snip(seed, masks, density, lr, epochs=30, scale='unit'):
    "Static training from masks chosen before it."
    net, other, r = seeded(network, seed), seeded(network, seed + 1000), recipe(lr, epochs)
    if masks in ('erk', 'uniform'): given = dict(init=masks)
    else:
        found = snip_masks(net, *split('train', 256), round(density * sum(p.numel() for p in net.parameters() if p.ndim > 1)))
        shapes = {n: tuple(m.shape) for n, m in found.items()}
        given = dict(masks=random_masks(shapes, counts(found), seed) if masks == 'snip counts' else found)
    if masks == 'snip, new weights': net = other
    meter, seen = fitted(net, r, 'static', seed, density=density, scaling=scale, **given)
    return seen | dict(counts=counts(meter.sparsifier.masks),
                       empty={n: int((~m.flatten(1).any(1)).sum()) for n, m in meter.sparsifier.masks.items()})


def cells(part, **axes): return grid(part, kind=[part], **axes)      # `work` has one function for each kind

def jobs():
    "Every run, seeds innermost."
    dynamic = dict(density=[.05], scale=['keep', 'unit'], lr=[.05], method=['static', 'set', 'rigl', 'ggr'])
    yield from cells('train', norm=[False], **dynamic, seed=SEEDS)
    yield from cells('lottery', density=[.05], lr=[.05], seed=SEEDS)
    yield from cells('snip', density=[.05, .02], lr=[.05], masks=['snip', 'snip counts', 'erk', 'uniform'], seed=SEEDS)
    yield from cells('snip', density=[.05, .02], lr=[.05], masks=['snip', 'snip, new weights'], scale=['keep'], seed=SEEDS)
    yield from cells('snip', density=[.05, .02], lr=[.05], masks=['snip, new weights'], seed=SEEDS)
    yield from cells('lottery', density=[.02], lr=[.05], seed=SEEDS)
    yield from cells('train', norm=[True], **dynamic, seed=SEEDS)
    yield from cells('time', density=[.05], lr=[.05], epochs=[30, 90], seed=SEEDS)

def work(kind, **job): return dict(train=dynamics, lottery=lottery, snip=snip, time=in_time)[kind](**job)


if __name__ == '__main__': run_all(jobs(), work, 'results/flow.jsonl')
