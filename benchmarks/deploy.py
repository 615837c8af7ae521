"""Inference of a deployed VGG16 (58.8 M, 3 % of its weights) against dense, alternating in one run, written to deploy.json.

    python benchmarks/deploy.py [--threads N] [--rounds N]

The masks are those of ERK, drawn at random: shapes and counts are as in training, and no channel is dead that training would have killed.
"""
import json, os, platform, statistics, sys, tempfile, time, warnings
from pathlib import Path

import torch

from ggr_nb.density import budgets, erk
from ggr_nb.init import random_masks
from ggr_nb.masks import sparse_parameters
from ggr_nb.train.deploy import deploy, entropy, save_deployed
from ggr_nb.train.models import vgg16_tiny

warnings.filterwarnings('ignore')


def machine():
    cpu = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), platform.processor())
    return dict(cpu=cpu, threads=torch.get_num_threads(), torch=torch.__version__, load=os.getloadavg()[0])


def network():
    "The network with its masks multiplied in."
    torch.manual_seed(0); net = vgg16_tiny(200).eval()
    shapes = {n: tuple(p.shape) for n, p in sparse_parameters(net).items()}
    masks = random_masks(shapes, budgets(shapes, erk(shapes, .03)))
    for n, p in sparse_parameters(net).items(): p.data *= masks[n]
    return net, masks


def variants(net, masks, x):
    "{name: () -> outputs}, and the table of choices."
    from copy import deepcopy
    last, half = deepcopy(net).to(memory_format=torch.channels_last), deepcopy(net).bfloat16()
    both = deepcopy(last).bfloat16(); xl = x.to(memory_format=torch.channels_last)
    small, table = deploy(net, masks, x)
    return {'dense': lambda: net(x), 'channels last': lambda: last(xl), 'bfloat16': lambda: half(x.bfloat16()),
            'bfloat16, channels last': lambda: both(xl.bfloat16()), 'deployed': lambda: small(x)}, table, small


@torch.no_grad()
def main(rounds=9):
    net, masks = network()
    out = dict(machine=machine(), masks='random, ERK, density 0.03', batches=[])
    for batch in (1, 64):
        x = torch.randn(batch, 3, 64, 64)
        forms, table, small = variants(net, masks, x)
        times = {n: [] for n in forms}
        for r in range(rounds + 1):
            for name, f in forms.items():
                start = time.perf_counter(); f()
                if r: times[name].append(time.perf_counter() - start)
        error = float((small(x) - net(x)).abs().max() / net(x).abs().max())
        took = {n: dict(min=min(t), median=statistics.median(t)) for n, t in times.items()}
        out['batches'].append(dict(batch=batch, seconds=took, error=error, layers=table))
        print(batch, {n: round(1e3 * t['min'], 1) for n, t in took.items()}, f'error {error:.1g}', flush=True)
    with tempfile.TemporaryDirectory() as folder: size = save_deployed(Path(folder) / 'x', small)
    active, places = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
    least = sum(entropy(m.numel(), int(m.sum())) for m in masks.values())
    others = sum(t.numel() * t.element_size() for n, t in net.state_dict().items() if n not in masks)
    out['file'] = dict(bytes=size, least=least + 4 * active + others, dense=4 * places + others)
    out['machine']['load_after'] = os.getloadavg()[0]
    (Path(__file__).parent / 'deploy.json').write_text(json.dumps(out, indent=1) + '\n')
    print(out['file'], out['machine'])


if __name__ == '__main__':
    args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    if '--threads' in args: torch.set_num_threads(int(args['--threads']))
    main(int(args.get('--rounds', 9)))
