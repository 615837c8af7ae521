"What the benchmarks share: where they ran, contenders that take turns, the memory of a process, networks."
import os, time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

NETS = {'3072-4000-1000-4000-10': (.02,), '3072-8192-8192-100': (.03, .01)}


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


def mlp(name):
    torch.manual_seed(0); sizes, layers = [*map(int, name.split('-'))], []
    for a, b in zip(sizes, sizes[1:]): layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    "A transformer block as GPT has it."
    def __init__(self, d):
        super().__init__()
        self.one, self.two = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out, self.up, self.down = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x): # [batch, tokens, d]
        q, k, v = (t.unflatten(-1, (-1, 64)).transpose(1, 2) for t in self.qkv(self.one(x)).chunk(3, -1))
        x = x + self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.two(x))))
