"""Images per second of the batches of `ggr_nb.train.data` against torchvision's DataLoader with per-image PIL transforms.

    python benchmarks/data.py [--rounds 15] [--seconds 0.4] [--threads 2] [--quiet 20] [--device cuda]

All contenders take turns in every round. Disturbances from outside can only make one slower, so each counts with its
best round; the medians stand beside it. The ratio is that of processor time per image (all threads together, no
workers), which other work on the machine hardly touches. Crop (pad 4), mirror and normalise, 32×32, batch 128; CIFAR-100 where it is found, else random bytes
of the same shape. The result goes to benchmarks/data.json.
"""
import argparse, json, os, platform, statistics, time

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # waiting threads make room: they do not spin

from dataclasses import replace
from pathlib import Path

import numpy as np, torch, torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from turns import load, machine
from ggr_nb.train.data import Data, cifar100

BATCH = 128
BASE = 'DataLoader, no workers'


def pictures():
    "CIFAR-100, or random bytes of its shape; not turned."
    try: return replace(cifar100(), rotate=0.)
    except FileNotFoundError:
        x, y = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8), torch.randint(100, (50_000,))
        return Data('random bytes', (x, y), (x[:99], y[:99]), 100, (.5,) * 3, (.25,) * 3, pad=4, flip=True)


class Pictures(Dataset):
    "What torchvision's CIFAR100 does: a PIL image from an array, then a chain of transforms."
    def __init__(self, data, *turn):
        self.x, self.y = data.train[0].permute(0, 2, 3, 1).contiguous().numpy(), data.train[1].tolist()
        self.change = T.Compose([T.RandomCrop(32, data.pad), T.RandomHorizontalFlip(), *turn, T.ToTensor(),
                                 T.Normalize(data.mean, data.std)])

    def __len__(self): return len(self.y)
    def __getitem__(self, i): return self.change(Image.fromarray(self.x[i])), self.y[i]


def endless(make):
    "Batches for ever, a new epoch when one ends."
    epoch = 0
    while True: yield from make(epoch); epoch += 1


def loader(data, workers, *turn):
    "A DataLoader whose workers are kept from epoch to epoch."
    made = DataLoader(Pictures(data, *turn), BATCH, shuffle=True, drop_last=True, num_workers=workers,
                      persistent_workers=workers > 0)
    return endless(lambda epoch: made)


def ours(data, **form): return endless(lambda epoch: data.batches('train', BATCH, epoch, **form))


def rate(batches, seconds, device):
    "Images per second of the clock and of this process's threads, over at least so many seconds."
    def wait(): torch.cuda.synchronize() if device.startswith('cuda') else None
    for _ in range(5): next(batches)
    wait(); count, clock, work = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - clock < seconds:
        for _ in range(5): count += len(next(batches)[1])
        wait()
    return count / (time.perf_counter() - clock), count / (time.process_time() - work)


def busy(seconds=.2):
    "Share of the machine's processor time that is used just now, by anybody."
    def times():
        v = list(map(int, open('/proc/stat').readline().split()[1:]))
        return sum(v[:3]) + sum(v[5:8]), v[3] + v[4]
    (b, i), _, (c, j) = times(), time.sleep(seconds), times()
    return (c - b) / max(1, c - b + j - i)


def quiet(limit):
    "Wait until nobody else uses the machine, at most so many seconds."
    end = time.time() + limit
    while time.time() < end and busy() > .05: pass


def contenders(data, device):
    turned = replace(data, rotate=15.)
    made = {'DataLoader, 2 workers': loader(data, 2), BASE: loader(data, 0),
            f'{BASE}, turned ≤ 15°': loader(data, 0, T.RandomRotation(15))}
    made |= {'batches': ours(data), 'batches, channels last': ours(data, channels_last=True),
             'batches, bfloat16, channels last': ours(data, channels_last=True, dtype=torch.bfloat16),
             'batches, turned ≤ 15°': ours(turned)}
    if device != 'cpu': made |= {f'batches on {device}': ours(data, device=device),
                                 f'batches on {device}, turned ≤ 15°': ours(turned, device=device)}
    return made


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--rounds', type=int, default=15); p.add_argument('--seconds', type=float, default=.4)
    p.add_argument('--quiet', type=float, default=0., help='wait so long for a quiet moment')
    p.add_argument('--threads', type=int, default=2); p.add_argument('--device', default='cpu')
    p.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.json'))
    a = p.parse_args(); torch.set_num_threads(a.threads)
    data = pictures(); made = contenders(data, a.device); rates = {name: [] for name in made}
    for _ in range(a.rounds):
        for name, batches in made.items():
            quiet(a.quiet)
            rates[name].append(rate(batches, a.seconds, a.device if a.device in name else 'cpu'))
        print({name: tuple(map(round, r[-1])) for name, r in rates.items()}, flush=True)
    clock, work = ({n: [r[i] for r in rs] for n, rs in rates.items()} for i in (0, 1))
    note = dict(command='python benchmarks/data.py', pictures=data.name, batch=BATCH, threads=a.threads, base=BASE,
                cpu=machine()['cpu'], load=round(load(), 1), gpu=torch.cuda.get_device_name() if a.device != 'cpu' else None,
                versions=dict(python=platform.python_version(), torch=torch.__version__,
                              torchvision=torchvision.__version__, numpy=np.__version__),
                images_per_second={n: round(max(r)) for n, r in clock.items()},
                median={n: round(statistics.median(r)) for n, r in clock.items()},
                microseconds_of_work={n: round(1e6 / max(r), 2) for n, r in work.items() if '2 workers' not in n},
                ratio={n: round(max(r) / max(work[BASE]), 2) for n, r in work.items() if '2 workers' not in n})
    a.out.write_text(json.dumps(note, indent=1, ensure_ascii=False) + '\n')
    print(json.dumps(note['ratio'], indent=1, ensure_ascii=False))


if __name__ == '__main__': main()
