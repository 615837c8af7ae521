"""Ratios of the core operations against the honest alternative, in one run, written to core.json.

    python benchmarks/core.py [topk] [removal] [masking] [--quick]

topk      global top-k over the real gradients of VGG16 (138 M weights): streaming against concatenate-and-sort,
          and against a per-layer top-k without the filter; every variant in a fresh process for its peak memory.
removal   ranking only the active weights against sorting the whole layer.
masking   a masked training step against a dense one; the mask against the optimiser's own update; bool masks.
"""
import json, platform, statistics, subprocess, sys, tempfile, time
from functools import partial
from pathlib import Path

import torch

import turns
from turns import machine, peak_above

HERE = Path(__file__).parent
SEEDS = {'density': (0.1, 0.01), 'fraction': 0.1}
alternate = partial(turns.alternate, of=statistics.median)


# ---- global top-k ----------------------------------------------------------------------------------------------

def concatenate(grads, free, k):
    "The naive way: one long tensor of all candidates, one topk, then count by layer."
    scores = torch.cat([g.flatten().abs()[free[n].flatten()] for n, g in grads.items()])
    ends = torch.tensor([int(free[n].sum()) for n in grads]).cumsum(0)
    where = scores.topk(k).indices
    return torch.bucketize(where, ends, right=True).bincount(minlength=len(grads)).tolist()


def per_layer(grads, free, k):
    "Top-k of every layer, merged; without a filter."
    values, layers = torch.empty(0), torch.empty(0, dtype=torch.int32)
    for i, (n, g) in enumerate(grads.items()):
        s = g.flatten().abs()[free[n].flatten()]
        top = s.topk(min(k, len(s))).values
        values, layers = torch.cat([values, top]), torch.cat([layers, torch.full((len(top),), i, dtype=torch.int32)])
        keep = values.topk(min(k, len(values))).indices
        values, layers = values[keep], layers[keep]
    return layers.bincount(minlength=len(grads)).tolist()


def streaming(grads, free, k):
    from ggr_nb.topk import StreamingTopK
    top = StreamingTopK(k, key=torch.abs)
    for n, g in grads.items(): top.update(n, g, where=free[n])
    return list(top.counts().values())


WAYS = {'concatenate': concatenate, 'per layer': per_layer, 'streaming': streaming}


def one_way(way, path, repeats):
    "In a process of its own: peak extra memory of the first call, median time of the others."
    data = torch.load(path, mmap=False)
    grads, free, k = data['grads'], data['free'], data['k']
    WAYS[way]({n: g[:64] for n, g in list(grads.items())[-1:]}, {n: f[:64] for n, f in list(free.items())[-1:]}, 5)  # warm up
    peak = peak_above(); counts = WAYS[way](grads, free, k); extra = peak()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter(); WAYS[way](grads, free, k); seconds.append(time.perf_counter() - start)
    print(json.dumps(dict(seconds=statistics.median(seconds), extra_bytes=extra, counts=counts)))


def real_gradients(quick):
    "Gradients of VGG16 for one batch of random images, by layer."
    from torchvision.models import vgg11, vgg16
    from ggr_nb.masks import sparse_parameters
    torch.manual_seed(0)
    model = vgg11(num_classes=10) if quick else vgg16()
    x, y = torch.randn(2, 3, 224, 224), torch.tensor([1, 2])
    torch.nn.functional.cross_entropy(model(x), y).backward()
    return {n: p.grad for n, p in sparse_parameters(model).items()}


def bench_topk(quick):
    grads, rows = real_gradients(quick), []
    for density in SEEDS['density']:
        free = {n: torch.rand(g.shape) >= density for n, g in grads.items()}
        active = sum(g.numel() for g in grads.values()) * density
        with tempfile.NamedTemporaryFile(suffix='.pt') as f:
            torch.save(dict(grads=grads, free=free, k=round(SEEDS['fraction'] * active)), f.name)
            got = {way: json.loads(subprocess.run([sys.executable, __file__, '--way', way, f.name, '1' if quick else '3'],
                   check=True, capture_output=True, text=True).stdout.splitlines()[-1]) for way in WAYS}
        counts = {tuple(v.pop('counts')) for v in got.values()}
        assert len(counts) == 1, f'the ways disagree: {counts}'
        rows.append(dict(weights=sum(g.numel() for g in grads.values()), density=density, k=round(SEEDS['fraction'] * active), ways=got,
                         faster=got['concatenate']['seconds'] / got['streaming']['seconds'],
                         memory=got['streaming']['extra_bytes'] / got['concatenate']['extra_bytes']))
        print(json.dumps(rows[-1], indent=1), flush=True)
    return rows


# ---- removal ---------------------------------------------------------------------------------------------------

def bench_removal(quick):
    from ggr_nb.drop import drop_local
    from ggr_nb.masks import snapshot
    rows = []
    for density in (0.1, 0.03, 0.01):
        w = torch.randn(1024, 4096 if quick else 25088); mask = torch.rand(w.shape) < density; w = w * mask
        snap = snapshot({'fc': w}, {}, {'fc': mask}, fraction=0.1)
        n = int(mask.sum())

        def sort_layer():
            scores = w.abs().masked_fill(~mask, torch.inf).flatten()
            return scores.sort().indices[:round(0.1 * n)]

        def topk_layer():
            return w.abs().masked_fill(~mask, torch.inf).flatten().topk(round(0.1 * n), largest=False).indices

        assert set(sort_layer().tolist()) == set(drop_local(snap)['fc'].tolist())
        s = alternate({'sort the layer': sort_layer, 'topk of the layer': topk_layer, 'active only': lambda: drop_local(snap)}, 3)
        rows.append(dict(weights=w.numel(), density=density, seconds=s, faster=s['sort the layer'] / s['active only']))
        print(json.dumps(rows[-1]), flush=True)
    return rows


# ---- masking ---------------------------------------------------------------------------------------------------

def bench_masking(quick):
    from ggr_nb.train.models import resnet18, vgg16_tiny
    from ggr_nb.sparsify import Sparsifier
    out = {}
    x, y = torch.randn(32 if quick else 128, 3, 32, 32), torch.randint(100, (32 if quick else 128,))
    steps = {}
    for name in ('dense', 'masked', 'masked after each step too'):       # as where an optimiser moves inactive weights
        torch.manual_seed(0); model = resnet18(num_classes=100)
        opt = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=.9, weight_decay=5e-4)
        if name != 'dense': Sparsifier(model, opt, 'static', density=0.03)._mask_after_step = name != 'masked'

        def step(model=model, opt=opt):
            opt.zero_grad(); torch.nn.functional.cross_entropy(model(x), y).backward(); opt.step()
        steps[name] = step
    s = alternate(steps, 3 if quick else 7); out['resnet18 step, batch 128'] = dict(
        seconds=s, ratio=s['masked'] / s['dense'], after_step=s['masked after each step too'] / s['dense'])
    print(json.dumps(out), flush=True)

    model = vgg16_tiny(num_classes=200)
    opt = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=.9, weight_decay=5e-4)
    for p in model.parameters(): p.grad = torch.randn_like(p)
    opt.step(); sp = Sparsifier(model, opt, 'static', density=0.03); bools = list(sp.masks.values())
    grads = [p.grad for p in sp.weights.values()]; sp.remove()

    def by_bool():
        for g, b in zip(grads, bools): g.mul_(b)
    s = alternate({'optimiser update': opt.step, 'foreach mask': sp.mask_gradients, 'bool mask': by_bool}, 3 if quick else 7)
    out['vgg16_tiny mask'] = dict(weights=sum(g.numel() for g in grads), seconds=s, ratio=s['foreach mask'] / s['optimiser update'],
                                  bool_ratio=s['bool mask'] / s['foreach mask'],
                                  bytes_update='5 passes of 4 bytes a weight (read w, g, m; write w, m)',
                                  bytes_mask='3 passes of 4 bytes a weight (read g, mask; write g)')
    print(json.dumps(out['vgg16_tiny mask']), flush=True)
    return out


def main(argv):
    if '--way' in argv: i = argv.index('--way'); return one_way(argv[i + 1], argv[i + 2], int(argv[i + 3]))
    quick, file = '--quick' in argv, HERE / 'core.json'
    parts = [a for a in argv if not a.startswith('-')] or ['topk', 'removal', 'masking']
    result = json.loads(file.read_text()) if file.exists() else {}
    for part in parts:
        print('==', part, flush=True)
        result[part] = dict(machine=machine(python=platform.python_version(), gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None),
                            command=f'python benchmarks/core.py {part}', result=globals()['bench_' + part](quick))
        if not quick: file.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__': main(sys.argv[1:])
