"""Where the papers meet: initial scale, redistribution and gradient in one grid (nbs/studies/where_the_papers_meet.ipynb).

    python experiments/meet.py                 all of it, about a quarter of an hour on one core; stop and go on at will
    python experiments/meet.py --quick         does everything run?
    python experiments/meet.py --part depth    one part

Parts: main (scale × method × density rule × rate at 99 %), rate (more learning rates), sparsity, depth,
swap (whose masks, whose weights?), norm (the same with BatchNorm), trial (the recipe of the first trial, step by
step), longer (the small rate with more time), grid (every sparsity at every depth). Results: results/meet.jsonl.
"""
from common import accuracy, digits, equip, first_gradient, grid, recipe, run_all, seeded, train, with_norm
from ggr_nb.init import random_masks
from ggr_nb.train.models import mlp

METHODS, SEEDS, DATA = ('static', 'set', 'dsr', 'rigl', 'ggr'), range(5), digits()


def network(hidden, scale, norm):
    "An MLP with He's weights for the dense fan-in, or with torch's own; with BatchNorm if asked for."
    net = mlp((64, *hidden, 10), scheme='torch' if scale == 'torch' else 'kaiming_uniform')
    return with_norm(net) if norm else net

def ready(seed, method, init, scale, density, lr, hidden, norm, epochs, masks=None, **changes):
    "Net, optimiser, sparsifier, recipe."
    net, r = seeded(lambda: network(hidden, scale, norm), seed), recipe(lr, epochs, **changes)
    scaling = 'keep' if scale in ('torch', 'dense') else scale      # these two are how it was drawn
    return net, *equip(net, method, r, DATA, density=density, init=init, scaling=scaling, seed=seed, masks=masks), r

def work(seed, method, init, scale, density, lr, hidden=(300, 100), norm=False, epochs=30, found=None, keep='places', **changes):
    "One run. `found`: first let `method` look for masks with that scale, then train them, fixed, with `scale`."
    masks = searched(seed, method, init, found, density, lr, hidden, norm, epochs, keep) if found else None
    net, opt, sparsifier, r = ready(seed, 'static' if found else method, init, scale, density, lr, hidden, norm, epochs, masks, **changes)
    spread, grads = first_gradient(net, DATA, seed)
    start, loss = list(sparsifier.counts().values()), train(net, opt, DATA, r, seed)
    return dict(accuracy=accuracy(net, DATA), loss=loss, logits=spread, sizes=[p.numel() for p in sparsifier.weights.values()],
                gradient=[float(grads[n].norm()) for n in sparsifier.weights],
                counts=[start] + [[l['count'] for l in u['layers'].values()] for u in sparsifier.history])

def searched(seed, method, init, found, density, lr, hidden, norm, epochs, keep):
    "Masks of a finished run; with keep='counts' only how many weights each layer has, at random places."
    net, opt, sparsifier, r = ready(seed, method, init, found, density, lr, hidden, norm, epochs)
    train(net, opt, DATA, r, seed); masks = sparsifier.masks
    if keep == 'places': return masks
    return random_masks({n: tuple(m.shape) for n, m in masks.items()}, sparsifier.counts(), seed + 1000)

def jobs():
    "Every run, seeds innermost so that whole rows are finished first."
    base = dict(init=['uniform'], density=[.01], method=METHODS, scale=['dense', 'unit'], lr=[.01], seed=SEEDS)
    yield from grid('main', **base | dict(lr=[.01, .1], scale=['torch', 'dense', 'layer', 'unit']))
    yield from grid('main', **base | dict(init=['erk']))
    yield from grid('swap', **base | dict(method=['ggr'], found=['dense', 'unit'], keep=['places', 'counts']))
    yield from grid('rate', **base | dict(lr=[.03, .3], method=['rigl', 'ggr'], scale=['torch', 'dense', 'unit']))
    yield from grid('sparsity', **base | dict(density=[.1, .05, .02]))
    depth = dict(density=[.02], hidden=[[300], [300, 100], [300, 100, 100], [300, *[100] * 4]])
    yield from grid('depth', **base | depth | dict(method=['rigl', 'ggr']))
    yield from grid('depth', **base | depth | dict(method=['ggr'], lr=[.1]))
    yield from grid('norm', **base | dict(method=['static', 'rigl', 'ggr'], norm=[True]))
    trial = dict(init=['uniform', 'erk'], scale=['unit'])
    yield from grid('trial', **base | trial | dict(init=['erk'], lr=[.1]))
    yield from grid('trial', **base | trial | dict(lr=[.1], momentum=[0.]))
    yield from grid('longer', **base | dict(method=['ggr'], epochs=[90]))
    shapes = dict(density=[.1, .05, .01], hidden=[[300], [300, 100, 100], [300, *[100] * 4]])
    yield from grid('grid', **base | shapes | dict(method=['rigl', 'ggr'], scale=['unit']))
    yield from grid('grid', **base | shapes | dict(method=['ggr'], scale=['dense']))


if __name__ == '__main__': run_all(jobs(), work, 'results/meet.jsonl')
