"""Everything that needs a graphics card, in one command and at most nine minutes:

    PYTHONPATH=. python benchmarks/gpu.py                    agreement, speed, evidence; --minutes 9
    PYTHONPATH=. python benchmarks/gpu.py sparse             any parts by name
    python benchmarks/gpu.py pack FOLDER                     CIFAR-100 as lossless WebP mosaics, in parts below 48 MB
    python benchmarks/gpu.py unpack FOLDER [FOLDER ...]      … and back, bit for bit, into data/
    python benchmarks/gpu.py collect FOLDER                  what another machine wrote with --out, into this checkout

agreement  images, masks, top-k, every method's five updates, gradients, stop and resume, one job of a sweep, sparse
           storage against masks: equal on CPU and card where that is promised, within a tolerance where not
speed      ResNet-18, MobileNetV2, VGG16 (58.8 M): float32, TF32, bf16, channels-last, compiled; masked against dense; an
           update's, a batch's share; the trainer itself; runs side by side; a profile; the selection kernels
evidence   cells of Table 1 with the paper's recipe, in the order of what they decide, several at once if that is faster.
           A run that the time cuts off is packed (`paused`) and continued by the next call; finished ones are appended
           to results/paper.jsonl, which `ggr_table` reads
sparse     the table of benchmarks/sparse.py on the card, CSR through cuSPARSE against dense float32, TF32 and bf16:
           the three products, whole steps, an update, memory
vgg16      VGG16 at 3 % of its weights on the part of Tiny-ImageNet, ten epochs, and the dense network beside it; the
           masks go to results/vgg16.json, for benchmarks/deploy.py

--only ITEM,ITEM measures some items of a part again; --together N trains so many runs at once, not as many as was best.
--commit HASH names the commit of a checkout that came without its history.
Each result is written to benchmarks/gpu.json as soon as it exists; what the time does not allow is named as skipped.
--out FOLDER writes everything there; --toy is the same at a size that a CPU does in a minute (tests/test_gpu_benchmark.py).
"""
import argparse, base64, importlib.util, io, json, lzma, os, platform, shutil, signal, subprocess, sys, tempfile, time, zlib
from contextlib import nullcontext
from dataclasses import asdict, replace
from hashlib import md5
from pathlib import Path

START, HERE = time.monotonic(), Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

import numpy as np, torch
from torch import nn
from torch.nn.functional import cross_entropy

from ggr_nb.methods import METHODS
from ggr_nb.paper.sweep import Job, Results, run_job
from ggr_nb.sparse import KERNELS, sparse_storage_
from ggr_nb.sparsify import Sparsifier
from ggr_nb.topk import StreamingTopK
from ggr_nb.train.data import Data, digits, tiny_imagenet
from ggr_nb.train.models import MODELS
from ggr_nb.train.runs import RECIPES, commit
from ggr_nb.train.training import Stopped, fit

found = importlib.util.spec_from_file_location('benchmark_sparse', HERE/'sparse.py')   # not as `sparse`: SciPy looks for that
storage = importlib.util.module_from_spec(found); found.loader.exec_module(storage)
NETS, Block, mlp = storage.NETS, storage.Block, storage.mlp

GOALS = dict(images_per_second=20_000, masked_over_dense=1.01, update_share=.005, batch_share=.03)
EPOCH = 390                                      # steps of CIFAR-100 at batch 128


class Book:
    "The file of results: one entry per part and card, written after every item; and the clock."
    def __init__(self, path, device, minutes, of=None, only=()):
        self.commit, self.only = of or commit(), only
        self.path, self.device, self.end = Path(path), torch.device(device), START + 60 * minutes
        self.all = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.part, self.until = None, self.end

    def open(self, part, seconds, command):
        "Begin a part that may take so many seconds; with `only`, what else it has found stays."
        self.part, self.until = part, min(self.end, time.monotonic() + seconds)
        now = dict(machine=machine(self.device), command=command, commit=self.commit, results={}, skipped=[])
        self.all[part] = self.all[part] if self.only and part in self.all else now

    def left(self): return self.until - time.monotonic()

    def do(self, name, work, need=5.):
        "One item, if there is time; its error is a result too."
        entry = self.all[self.part]
        if self.only and name not in self.only: return None
        if self.only: entry.setdefault('again', {})[name] = dict(commit=self.commit, machine=machine(self.device))
        if self.left() < need: entry['skipped'].append(name); self.write(); return None
        began = time.monotonic()
        try: found = work()
        except Exception as e: found = dict(error=f'{type(e).__name__}: {e}'[:600])
        entry['results'][name] = found
        entry.setdefault('seconds', {})[name] = round(time.monotonic() - began, 1)
        self.write(); print(f'{self.part}: {name}: {json.dumps(found)[:300]}', flush=True)
        return found

    def write(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix('.part'); part.write_text(json.dumps(self.all, indent=1) + '\n')
        os.replace(part, self.path)


def machine(device):
    card = torch.cuda.get_device_name(device) if device.type == 'cuda' else None
    return dict(card=card, cuda=torch.version.cuda, torch=str(torch.__version__), python=platform.python_version(),
                processor=platform.processor() or platform.machine(), cores=os.cpu_count())


def wait(device):
    if device.type == 'cuda': torch.cuda.synchronize(device)


def empty(device):
    if device.type == 'cuda': torch.cuda.empty_cache()


# --- agreement ------------------------------------------------------------------------------------------------------

def coarse(shape, gen, unit=64):
    "Random numbers of few bits: sums and products of a few of them are exact, whatever the order."
    return (torch.randn(shape, generator=gen) * unit).round() / unit


def bytes_data(n=2000, size=32, classes=100):
    "Images of random bytes, disturbed as CIFAR's are."
    gen = torch.Generator().manual_seed(0)
    x, y = torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=gen), torch.randint(classes, (n,), generator=gen)
    return Data('random bytes', (x, y), (x[:200], y[:200]), classes, (.5,) * 3, (.25,) * 3, pad=4, flip=True, rotate=15.)


def agree_pictures(device, size):
    data, same = bytes_data(), True
    for options in (dict(epoch=3), dict(epoch=4, channels_last=True)):
        pairs = zip(*(data.batches('train', 128, seed=1, device=d, **options) for d in ('cpu', device)), range(4))
        same &= all(torch.equal(x, a.cpu()) and torch.equal(y, b.cpu()) for (x, y), (a, b), _ in pairs)
    return dict(promised=True, equal=same, what='8 batches of 128, shifted, mirrored and turned, as float32')


def agree_topk(device, size):
    gen = torch.Generator().manual_seed(2)
    layers = {f'layer{n}': coarse((n,), gen) for n in (7, 1000, size['large'], 33, size['large'] // 3)}
    found = []
    for d in ('cpu', device):
        top = StreamingTopK(size['large'] // 50, key=torch.abs)
        for name, g in layers.items(): top.update(name, g.to(d))
        found.append((top.counts(), float(top.threshold)))
    return dict(promised=True, equal=found[0] == found[1], threshold=found[0][1], ties='scores are multiples of 1/64')


def small_net():
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Flatten(), nn.Linear(512, 300), nn.Linear(300, 100))


def five_updates(method, device):
    "Masks and weights after five updates, with gradients of few bits: no step rounds, so both devices have the same numbers."
    net, gen = small_net(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in net.parameters(): p.copy_(coarse(p.shape, gen))
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=2**-4, momentum=.5)
    sparsifier = Sparsifier(net, optimizer, method, density=.1, init='uniform', every=2, until=1000, fraction=.3)
    for _ in range(11):
        for p in net.parameters(): p.grad = coarse(p.shape, gen).to(device)
        optimizer.step()
    masks = {n: m.cpu() for n, m in sparsifier.masks.items()}
    return masks, {n: p.detach().cpu() for n, p in net.named_parameters()}, sparsifier.updates


STORED = 'static', 'set', 'rigl', 'dsr', 'ggr', 'ggr-dead-first', 'srigl'
MEANS = 'snfs', 'rigl-sg', 'rigl-sm'             # their quotas are shares of a mean, whose last bit depends on the order


def agree_updates(method, device):
    (a, w, updates), (b, v, _) = five_updates(method, 'cpu'), five_updates(method, device)
    moved = sum(int((a[n] ^ b[n]).sum()) for n in a)
    quota = max(abs(int(a[n].sum()) - int(b[n].sum())) for n in a)
    equal = not moved and all(torch.equal(w[n], v[n]) for n in w)
    return dict(promised=method not in MEANS, equal=equal, updates=updates, places_that_differ=moved, largest_difference_of_counts=quota)


def agree_gradient(device, size):
    "Relative error of the gradient against float64: of this processor's float32, of the card's, and what TF32 and bf16 make of it."
    data = bytes_data()
    x, y = next(data.batches('train', size['batch'], device='cpu'))
    def gradient(d, dtype=torch.float32, amp=False, tf32=False):
        torch.manual_seed(0); net = MODELS['resnet18'](num_classes=100, width=size['width']).to(d, dtype)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        with cast(torch.device(d), amp): out = net(x.to(d, dtype))
        cross_entropy(out if dtype == torch.float64 else out.float(), y.to(d)).backward()
        return torch.cat([p.grad.flatten().double().cpu() for p in net.parameters()])
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        exact = gradient('cpu', torch.float64)
        ways = {'float32 of the processor': ('cpu',), 'float32': (device,), 'tf32': (device, torch.float32, False, True), 'bf16': (device, torch.float32, True)}
        error = {k: float((gradient(*way) - exact).norm() / exact.norm()) for k, way in ways.items()}
    finally: torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept
    return dict(promised=True, equal=error['float32'] < 3 * error['float32 of the processor'], relative_error=error, tolerance='three times the processor')


def digits_run(device, **options):
    recipe = replace(RECIPES['digits'].scaled(3), every=5)
    return fit('digits_net', digits(), 'ggr', .1, recipe=recipe, device=str(device), progress=False, amp=False, compile=False, benchmark=False, tf32=False, **options)


def agree_resume(device, size):
    "Two uninterrupted runs and one that was stopped in the middle: are they one?"
    stop = lambda t: t.asked.append(2) if t.position == 30 else None
    before, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    try:
        width = .25 if size['toy'] else 1
        a, b = digits_run(device, width=width), digits_run(device, width=width)
        with tempfile.TemporaryDirectory() as folder:
            try: digits_run(device, width=width, out=Path(folder)/'run', each_step=stop)
            except Stopped: pass
            c = digits_run(device, width=width, out=Path(folder)/'run', resume=True)
    finally: torch.backends.cudnn.deterministic = before
    far = lambda r: max(float((r.state[n].double() - t.double()).abs().max()) for n, t in a.state.items())
    repeats = not far(b)
    return dict(promised=repeats, equal=not far(c), repeats_itself=repeats, far=dict(repeated=far(b), resumed=far(c)))


def agree_job(device, size):
    "A job of a sweep runs to its last line."
    job = Job('digits', 'digits_net', 'ggr', .1, 'erk', 0, epochs=2, width=.25 if size['toy'] else None, batch=64, updates=4)
    there, here = run_job(job, device=str(device)), run_job(job, device='cpu')
    equal = there.keys() == here.keys() and sum(there['counts'].values()) == sum(here['counts'].values()) and there['counts_start'] == here['counts_start']
    return dict(promised=True, equal=equal, accuracy=dict(device=there['accuracy'], cpu=here['accuracy']))


def agree_storage(method, device):
    "Ten updates of an MLP in float64: masks of sparse storage on the card, of the masked engine there, and of the CPU's."
    x, y = digits().train
    x, y = x[:64].double().flatten(1) / 255, y[:64]
    def masks(storage, where):
        net = mlp('64-300-100-10').double().to(where); how = dict(density=.1, init='erk', seed=0)
        if storage == 'sparse': sparse_storage_(net, method=method, **how)
        optimizer = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9)
        sparsifier = Sparsifier(net, optimizer, method, every=2, until=1000, fraction=.3, **how)
        for _ in range(21):
            optimizer.zero_grad(); cross_entropy(net(x.to(where)), y.to(where)).backward(); optimizer.step()
        return [m.cpu() for m in sparsifier.masks.values()]
    here = masks('masked', 'cpu')
    other = {f'{s}, {w}': sum(int((a ^ b).sum()) for a, b in zip(here, masks(s, d), strict=True))
             for s, w, d in (('masked', 'card', device), ('sparse', 'card', device), ('sparse', 'cpu', 'cpu'))
             if s == 'masked' or torch.device(d).type in KERNELS}
    return dict(promised=True, equal=not any(other.values()), places_that_differ=other)


def agree_scaler(device):
    "Does growth see unscaled gradients when a fused optimiser unscales them itself? Shares of active places that differ from the unfused."
    x, y = (t[:64].to(device) for t in digits().train)
    def masks(method, fused):
        torch.manual_seed(0); net = mlp('64-300-100-10').to(device)
        optimizer, scaler = torch.optim.SGD(net.parameters(), lr=.1, fused=fused), torch.amp.GradScaler(device.type)
        sparsifier = Sparsifier(net, optimizer, method, density=.1, every=2, until=1000, fraction=.3)
        for _ in range(9):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.float16): out = net(x.flatten(1).float() / 255)
            scaler.scale(cross_entropy(out.float(), y)).backward(); scaler.step(optimizer); scaler.update()
        return sparsifier.masks
    share = lambda a, b: sum(int((a[n] & ~b[n]).sum()) for n in a) / sum(int(a[n].sum()) for n in a)
    shares = {m: share(masks(m, True), masks(m, False)) for m in ('rigl', 'ggr', 'rigl-sg', 'deepr')}
    return dict(promised=True, equal=max(shares.values()) < .01, shares=shares, tolerance=.01)


def agreement(book, size):
    for name, check in dict(pictures=agree_pictures, topk=agree_topk, gradient=agree_gradient, job=agree_job, resume=agree_resume).items():
        book.do(name, lambda: check(book.device, size))
    for method in METHODS: book.do(f'updates of {method}', lambda: agree_updates(method, book.device), need=2)
    for method in STORED:
        book.do(f'storage of {method}', lambda: agree_storage(method, book.device), need=2)
    if book.device.type in ('cpu', 'cuda'): book.do('a scaler and a fused optimiser', lambda: agree_scaler(book.device))
    found = book.all['agreement']['results']
    book.all['agreement']['broken'] = [n for n, r in found.items() if 'error' in r or r['promised'] and not r['equal']]
    book.write(); print('agreement: broken promises:', book.all['agreement']['broken'] or 'none', flush=True)


# --- speed ----------------------------------------------------------------------------------------------------------

def cast(device, amp):
    "bf16 autocast where the device has it."
    return torch.autocast(device.type, torch.bfloat16) if amp and device.type in ('cuda', 'cpu') else nullcontext()


WAYS = {'float32': {}, 'tf32': dict(tf32=True), 'bf16': dict(amp=True), 'channels-last': dict(last=True, tf32=True),
        'bf16 channels-last': dict(amp=True, last=True), 'bf16 channels-last compiled': dict(amp=True, last=True, compile=True),
        'bf16 channels-last compiled graphs': dict(amp=True, last=True, compile='reduce-overhead')}
BEST = 'bf16 channels-last'
FAST = 'bf16 channels-last compiled graphs'        # what the trainer does with a long run on a card


class Steps:
    "A training step on one batch, called like a function."
    def __init__(self, model, device, batch, width=1., method=None, density=.03, amp=False, last=False, compile=False, tf32=False):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32 or amp
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(0)
        self.device, self.amp, side = device, amp, 64 if model == 'vgg16_tiny' else 32
        form = torch.channels_last if last else torch.contiguous_format
        self.model = MODELS[model](num_classes=100, width=width, input_size=(3, side, side)).to(device, memory_format=form)
        self.x = torch.randn(batch, 3, side, side).to(device, memory_format=form)
        self.y = torch.randint(100, (batch,)).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=.9, weight_decay=5e-4, fused=device.type in ('cuda', 'cpu'))
        options = dict(density=density, init='erk', every=10**6, until=10**9)
        self.sparsifier = Sparsifier(self.model, self.optimizer, method, **options) if method else None
        mode = compile if isinstance(compile, str) else None
        self.net = torch.compile(self.model, dynamic=False, mode=mode) if compile else self.model

    def __call__(self):
        self.optimizer.zero_grad(set_to_none=True)
        with cast(self.device, self.amp): out = self.net(self.x)
        cross_entropy(out.float(), self.y).backward()
        self.optimizer.step()


def in_turns(contenders, device, seconds, rounds=5):
    "Best seconds per call of each; they take turns, after a warm-up of five calls each."
    best = {}
    for n, f in contenders.items():
        for _ in range(5): f()
        wait(device); began = time.perf_counter(); f(); f(); wait(device)
        best[n] = (time.perf_counter() - began) / 2
    calls = {n: max(1, int(seconds / rounds / len(contenders) / t)) for n, t in best.items()}
    for _ in range(rounds):
        for n, f in contenders.items():
            wait(device); began = time.perf_counter()
            for _ in range(calls[n]): f()
            wait(device); best[n] = min(best[n], (time.perf_counter() - began) / calls[n])
    return best


def speed_ways(device, size, model, width, ways):
    "Images per second of each way; compiling is timed by itself."
    found = {}
    for way in ways:
        try:
            began = time.perf_counter(); step = Steps(model, device, size['batch'], width * size['width'], **WAYS[way])
            step(); wait(device); first = time.perf_counter() - began
            t = in_turns({way: step}, device, size['seconds'], 3)[way]
            found[way] = dict(images_per_second=round(size['batch'] / t, 1), ms=round(1e3 * t, 3), first_step_s=round(first, 1))
        except Exception as e: found[way] = dict(error=f'{type(e).__name__}: {e}'[:300])
        step = None; empty(device)
    if device.type == 'cuda': found['peak GB'] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    return found


def speed_masks(device, size):
    "A masked step over a dense one, taken in turns."
    make = lambda method: Steps('resnet18', device, size['batch'], size['width'], method, **WAYS[size['way']])
    t = in_turns({'dense': make(None), 'ggr': make('ggr'), 'deepr': make('deepr')}, device, 4 * size['seconds'], 8)
    return dict(ms={n: round(1e3 * s, 3) for n, s in t.items()}, masked_over_dense=round(t['ggr'] / t['dense'], 4), goal=GOALS['masked_over_dense'])


def speed_updates(device, size):
    "Seconds of an update, over an epoch of 390 steps."
    found = {}
    for method in ('set', 'rigl', 'dsr', 'snfs', 'ggr'):
        step = Steps('resnet18', device, size['batch'], size['width'], method, **WAYS[size['way']])
        for _ in range(3): step()
        def update(s=step.sparsifier): s.update(); s.history.clear()
        t = in_turns(dict(step=step, update=update), device, size['seconds'], 3)
        found[method] = dict(ms=round(1e3 * t['update'], 3), in_steps=round(t['update'] / t['step'], 2), share=round(t['update'] / (EPOCH * t['step']), 5))
    return found | dict(goal=GOALS['update_share'])


def speed_batches(device, size):
    "Making a batch of disturbed images, over a step; eight batches a call, for they are made together."
    data, stream = bytes_data(size['images']), iter(())
    def eight():
        nonlocal stream
        for _ in range(8):
            if next(stream, None) is None: stream = data.batches('train', size['batch'], device=device, channels_last=True); next(stream)
    t = in_turns(dict(step=Steps('resnet18', device, size['batch'], size['width'], **WAYS[size['way']]), batch=eight), device, 2 * size['seconds'], 3)
    t['batch'] /= 8
    return dict(ms={n: round(1e3 * s, 3) for n, s in t.items()}, share=round(t['batch'] / t['step'], 4), goal=GOALS['batch_share'])


def speed_trainer(device, size):
    "`fit` itself, second of two epochs: images, updates, accounts and evaluation included."
    data, recipe = bytes_data(size['images']), replace(RECIPES['cifar100'].scaled(2), batch=size['batch'], every=EPOCH // 2)
    run = fit('resnet18', data, 'ggr', .03, recipe=recipe, device=str(device), width=size['width'], progress=False, compile=size['compile'])
    seconds = run.history[1]['seconds'] - run.history[0]['seconds']
    return dict(images_per_second=round(len(data.train[1]) // size['batch'] * size['batch'] / seconds, 1), switches=run.config['switches'], goal=GOALS['images_per_second'])


def child_steps(ask):
    "In a process of its own: steps per second between two signals, both files."
    device, folder = torch.device(ask['device']), Path(ask['folder'])
    step = Steps('resnet18', device, ask['batch'], ask['width'], 'ggr', **WAYS[ask['way']])
    for _ in range(5): step()
    wait(device); (folder/f'ready{ask["rank"]}').touch()
    while not (folder/'go').exists(): time.sleep(.01)
    began, n = time.perf_counter(), 0
    while (time.perf_counter() - began) < ask['seconds']: step(); n += 1
    wait(device); print(json.dumps(n / (time.perf_counter() - began)))


def speed_side_by_side(device, size, book):
    "Images per second of one, two, … processes together."
    found = {}
    for k in size['together']:
        if book.left() < 40 and not size['toy']: found[f'{k}'] = 'skipped'; continue
        with tempfile.TemporaryDirectory() as folder:
            ask = dict(device=str(device), folder=folder, batch=size['batch'], width=size['width'], seconds=size['seconds'] * 2, way=size['way'])
            team = [start('steps', ask | dict(rank=r), stdout=subprocess.PIPE, text=True) for r in range(k)]
            ready = lambda: all((Path(folder)/f'ready{r}').exists() for r in range(k))
            while not ready() and all(p.poll() is None for p in team) and book.left() > 0: time.sleep(.05)
            (Path(folder)/'go').touch()
            rates = [json.loads(p.communicate(timeout=60)[0]) for p in team]
        found[f'{k}'] = round(size['batch'] * sum(rates), 1)
    return found


def speed_profile(device, size):
    "Where the time of the best eager way goes: kernels on the card, and how much of the wall they fill."
    step = Steps('resnet18', device, size['batch'], size['width'], 'ggr', **WAYS[BEST])
    for _ in range(5): step()
    wait(device)
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CUDA if device.type == 'cuda' else kinds.CPU]) as p:
        began = time.perf_counter()
        for _ in range(10): step()
        wait(device); wall = time.perf_counter() - began
    spent = lambda r: getattr(r, 'self_device_time_total' if device.type == 'cuda' else 'self_cpu_time_total')
    rows = sorted(p.key_averages(), key=spent, reverse=True); total = sum(map(spent, rows))
    busy = round(total / 1e6 / wall, 3)
    return dict(busy=busy, limit='the host: launches' if busy < .85 else 'the card: kernels', launches_per_step=sum(r.count for r in rows) / 10,
                shares={r.key[:70]: round(spent(r) / total, 3) for r in rows[:12]})


def speed_update_profile(device, size):
    "Where the time of a GGR update goes: kernels on the card, launches, and moments at which the host waits."
    step = Steps('resnet18', device, size['batch'], size['width'], 'ggr', **WAYS[BEST])
    for _ in range(3): step()
    step.sparsifier.update(); wait(device)
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA] if device.type == 'cuda' else [kinds.CPU]) as p:
        began = time.perf_counter(); step.sparsifier.update(); wait(device); wall = time.perf_counter() - began
    rows = p.key_averages()
    card = lambda r: getattr(r, 'self_device_time_total', 0) / 1e3
    most = lambda key: {r.key[:60]: [round(key(r), 2), r.count] for r in sorted(rows, key=key, reverse=True)[:12]}
    return dict(wall_ms=round(1e3 * wall, 2), card_ms=round(sum(map(card, rows)), 2), on_the_card=most(card), of_the_host=most(lambda r: r.self_cpu_time_total / 1e3),
                waits={r.key: r.count for r in rows if 'Synchronize' in r.key or 'MemcpyAsync' in r.key or 'LaunchKernel' in r.key})


def speed_selection(device, size):
    "Three ways to the k-th largest of n numbers, as an update needs them."
    found = {}
    for n in (size['large'] // 10, size['large']):
        x = torch.randn(n).to(device); k = n // 100
        ways = dict(kthvalue=lambda: x.kthvalue(n - k + 1), topk=lambda: x.topk(k), sort=lambda: x.sort(), nonzero=lambda: (x > 2.3).nonzero())
        found[f'{n}'] = {w: round(1e3 * t, 3) for w, t in in_turns(ways, device, size['seconds'] / 2, 3).items()}
    return found | dict(unit='ms')


def speed(book, size):
    device = book.device
    eager, compiled = [w for w in WAYS if 'compiled' not in w], [w for w in WAYS if 'compiled' in w]
    book.do('resnet18', lambda: speed_ways(device, size, 'resnet18', 1., eager))
    book.do('masks', lambda: speed_masks(device, size))
    book.do('updates', lambda: speed_updates(device, size))
    book.do('batches', lambda: speed_batches(device, size))
    book.do('trainer', lambda: speed_trainer(device, size))
    book.do('side by side', lambda: speed_side_by_side(device, size, book))
    if size['compile']: book.do('resnet18 compiled', lambda: speed_ways(device, size, 'resnet18', 1., compiled), need=45)
    book.do('profile', lambda: speed_profile(device, size))
    book.do('profile of an update', lambda: speed_update_profile(device, size))
    book.do('selection', lambda: speed_selection(device, size))
    book.do('vgg16_tiny', lambda: speed_ways(device, size, 'vgg16_tiny', 1., ['tf32', 'bf16', BEST]))
    book.do('mobilenet_v2', lambda: speed_ways(device, size, 'mobilenet_v2', 1., ['tf32', 'bf16', BEST]))
    verdicts(book)


def verdicts(book):
    "The goals, and whether they were met."
    found = book.all['speed']['results']
    best = max((r['images_per_second'] for n in ('resnet18', 'resnet18 compiled') for r in found.get(n, {}).values()
                if isinstance(r, dict) and 'images_per_second' in r), default=None)
    share = lambda part, key: (found.get(part) or {}).get(key)
    values = dict(images_per_second=best, masked_over_dense=share('masks', 'masked_over_dense'),
                  update_share=(share('updates', 'ggr') or {}).get('share'), batch_share=share('batches', 'share'))
    met = lambda k, v: None if v is None else v >= GOALS[k] if k == 'images_per_second' else v <= GOALS[k]
    book.all['speed']['goals'] = {k: dict(goal=GOALS[k], found=v, met=met(k, v)) for k, v in values.items()}
    book.write(); print('speed:', json.dumps(book.all['speed']['goals']), flush=True)


# --- evidence -------------------------------------------------------------------------------------------------------

def cells():
    "What to train, in the order of what it decides; then the half-width arms of two studies."
    cell = lambda m, d, init, seed, **k: Job('cifar100', 'resnet18', m, d, init, seed, **k)
    for seed in range(3):
        for density, init in ((.01, 'uniform'), (.03, 'uniform'), (.01, 'erk'), (.03, 'erk')):
            yield from (cell(m, density, init, seed) for m in ('ggr', 'rigl', 'set', 'dsr'))
            if (density, init) == (.01, 'uniform'): yield cell('dense', 1., 'dense', seed)
    for seed in range(3):
        arms = 'ggr', 'ggr-dead-first', 'rigl', 'static', 'rigl-sg', 'set'
        yield from (cell(m, .01, init, seed, width=.5) for init in ('uniform', 'erk') for m in arms)


def toy_cells():
    return [Job('digits', 'digits_net', m, .1, 'erk', 0, epochs=3, width=.25, batch=64) for m in ('ggr', 'static', 'dense')]


def start(what, ask, **how):
    "This file again, in a process of its own."
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
    return subprocess.Popen([sys.executable, __file__, what, json.dumps(ask)], env=env, cwd=ROOT, **how)


def child_cell(ask):
    "In a process of its own: one job to its end, or to a checkpoint."
    torch.backends.cudnn.benchmark = True
    if ask['threads']: torch.set_num_threads(ask['threads'])
    try: record = run_job(Job(**ask['job']), ask['runs'], ask['device'], **ask['how'])
    except Stopped as e: print(e); sys.exit(130)
    Results(ask['results']).append(record | dict(commit=ask.get('commit') or record['commit']))


def paused_name(job): return job.key.replace('/', '-').replace(',', '-') + '.xz'


def pack_run(job, runs, paused, limit=15 << 20):
    "The checkpoint of an unfinished run as one small file: nearly all of a sparse network's numbers are zeros."
    checkpoint = Path(runs)/job.key/'checkpoint.pt'
    if not checkpoint.exists(): return 'no checkpoint'
    packed = lzma.compress(checkpoint.read_bytes(), preset=0)
    if len(packed) > limit: return f'{len(packed) >> 20} MB packed, not kept'
    paused.mkdir(parents=True, exist_ok=True); (paused/paused_name(job)).write_bytes(packed)
    return f'{len(packed) / 2**20:.1f} MB'


def unpack_run(job, runs, paused):
    "The other way, if there is one and no younger checkpoint."
    place = Path(runs)/job.key/'checkpoint.pt'
    for folder in paused:
        if (file := folder/paused_name(job)).exists() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True); place.write_bytes(lzma.decompress(file.read_bytes()))
            return True
    return False


def how_many(book):
    "Runs side by side that fill the card, as measured; two if it was not."
    found = book.all.get('speed', {}).get('results', {}).get('side by side') or {}
    rates = {int(k): v for k, v in found.items() if isinstance(v, float)}
    best = 1 if rates else 2
    for k in sorted(rates):
        if rates[k] > 1.05 * rates.get(best, 0): best = k
    return best


def compile_pays(book, runs):
    "Does compiling save more in a run of 39,000 steps than it costs, as measured on this card?"
    results = book.all.get('speed', {}).get('results', {})
    plain, fast = (results.get('resnet18') or {}).get(BEST, {}), (results.get('resnet18 compiled') or {}).get(FAST, {})
    if 'ms' not in plain or 'ms' not in fast: return False
    return 100 * EPOCH * (plain['ms'] - fast['ms']) / 1e3 > 2 * fast['first_step_s'] * runs


def fits(job, book, together, left):
    "Is there time for all of it? Asked of dense networks, whose checkpoints are too large to be carried away."
    rate = (book.all.get('speed', {}).get('results', {}).get('side by side') or {}).get(str(together))
    if job.method != 'dense' or job.data != 'cifar100' or not isinstance(rate, float): return True
    return left > 1.2 * 100 * EPOCH * 128 * together / rate


def evidence(book, size, files):
    "Keep the card busy with the first jobs that are not done; at the end stop them in good order and pack them."
    jobs, together = list(size['cells']()), size['runs'] or how_many(book)
    have = {k for f in files['read'] for k in Results(f).load()}
    todo = [j for j in jobs if j.key not in have]
    kept, entry = files['paused'], book.all['evidence']
    how = dict(compile=compile_pays(book, together)) if size['how'] else {}
    entry |= dict(together=together, how=how, done=[], paused={}, failed={}, open=len(todo))
    team, stop_at = {}, book.until - size['farewell']
    while (team or any(fits(j, book, together, stop_at - time.monotonic()) for j in todo)) and time.monotonic() < stop_at:
        while len(team) < together:
            job = next((j for j in todo if fits(j, book, together, stop_at - time.monotonic())), None)
            if job is None: break
            todo.remove(job); unpack_run(job, files['runs'], kept)
            ask = dict(job=asdict(job), runs=str(files['runs']), device=str(book.device), results=str(files['write']),
                       how=entry['how'], threads=size['threads'], commit=book.commit)
            team[job.key] = job, start('cell', ask), time.monotonic()
        for key, (job, process, began) in list(team.items()):
            if process.poll() is None: continue
            del team[key]; entry['open'] -= 1
            if process.returncode:
                entry['failed'][key] = f'exit status {process.returncode}'
                if entry['how'].get('compile'): entry['how'] = dict(compile=False); todo.insert(0, job); entry['open'] += 1
                elif len(entry['failed']) > 2 and not entry['done']: todo.clear()       # it is not the jobs
            else:
                entry['done'].append(dict(key=key, seconds=round(time.monotonic() - began)))
                for folder in kept: (folder/paused_name(job)).unlink(missing_ok=True)
            book.write(); print('evidence:', key, entry['failed'].get(key, 'done'), flush=True)
        time.sleep(.2)
    for _, process, _ in team.values(): process.send_signal(signal.SIGTERM)
    for key, (job, process, _) in team.items():
        try: process.wait(size['farewell'])
        except subprocess.TimeoutExpired: process.kill(); process.wait()
        lines = Path(files['runs'])/key/'history.jsonl'
        entry['paused'][key] = dict(packed=pack_run(job, files['runs'], kept[0]),
                                    accuracy=[round(json.loads(l)['accuracy'], 2) for l in lines.read_text().splitlines()] if lines.exists() else [])
    book.write(); print('evidence:', json.dumps({k: entry[k] for k in ('done', 'paused', 'failed', 'open')})[:2000], flush=True)


# --- sparse storage -------------------------------------------------------------------------------------------------

def products(device, out, inputs, rows, density, seconds):
    "The three products of a layer: dense in bf16 (float32 off the card), and CSR in float32; ms each."
    gen = torch.Generator().manual_seed(0)
    mask = torch.rand(out, inputs, generator=gen) < density
    w = (torch.randn(out, inputs, generator=gen) * mask).to(device)
    x, dy = torch.randn(rows, inputs, generator=gen).to(device), torch.randn(rows, out, generator=gen).to(device)
    W, Wt = w.to_sparse_csr(), w.t().contiguous().to_sparse_csr()
    places = torch.sparse_csr_tensor(W.crow_indices(), W.col_indices(), torch.zeros_like(W.values()), W.shape)
    half = torch.bfloat16 if device.type == 'cuda' else torch.float32
    b, u, v = (t.to(half) for t in (w, x, dy))
    xt, dyt = x.t().contiguous(), dy.t().contiguous()
    ways = {'dense forward': lambda: u @ b.t(), 'dense dx': lambda: v @ b, 'dense dW': lambda: v.t() @ u,
            'csr forward': lambda: W @ xt, 'csr dx': lambda: Wt @ dyt, 'csr dW': lambda: torch.sparse.sampled_addmm(places, dyt, x, beta=0.)}
    error = float(((W @ xt).t() - x @ w.t()).norm() / (x @ w.t()).norm())
    t = in_turns(ways, device, seconds, 3)
    total = {k: sum(s for n, s in t.items() if n.startswith(k)) for k in ('dense', 'csr')}
    return dict(ms={n: round(1e3 * s, 4) for n, s in t.items()}, speedup=round(total['dense'] / total['csr'], 3), relative_error=error)


def forms(make, x, y, density, device):
    "{name: a training step}: dense in three precisions, masked in the fastest, sparse in float32."
    def step(storage=None, method=None, amp=False, tf32=False, every=10**6):
        net = make().to(device); how = dict(density=density, init='erk', seed=0)
        if storage: sparse_storage_(net, method=method, **how)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=.9, weight_decay=5e-4, fused=True)
        sparsifier = Sparsifier(net, optimizer, method, every=every, until=10**9, **how) if method else None
        def run():
            torch.backends.cuda.matmul.allow_tf32 = tf32
            optimizer.zero_grad()
            with cast(device, amp): out = net(x)
            cross_entropy(out.flatten(0, -2).float(), y).backward()
            optimizer.step()
        run.sparsifier = sparsifier
        return run
    return {'dense float32': step, 'dense tf32': lambda **k: step(tf32=True, **k), 'dense bf16': lambda **k: step(amp=True, **k),
            'masked bf16': lambda **k: step(method='ggr', amp=True, **k), 'sparse': lambda **k: step('sparse', 'ggr', **k)}


def steps(make, x, y, density, device, seconds):
    "Milliseconds of a step in every form, taken in turns; peak memory of each alone, an update included."
    made = forms(make, x, y, density, device)
    ms = {n: round(1e3 * t, 3) for n, t in in_turns({n: f() for n, f in made.items()}, device, 3 * seconds, 4).items()}
    found = dict(ms=ms, over_float32=round(ms['dense float32'] / ms['sparse'], 3), over_bf16=round(ms['dense bf16'] / ms['sparse'], 3))
    for name in ('dense float32', 'masked bf16', 'sparse') if device.type == 'cuda' else ():
        empty(device); torch.cuda.reset_peak_memory_stats(device); before = torch.cuda.memory_allocated(device)
        run = made[name](every=2)
        for _ in range(4): run()
        found.setdefault('peak MB', {})[name] = round((torch.cuda.max_memory_allocated(device) - before) / 1e6, 1); del run
    return found


def update(net, density, device, rows, seconds):
    "One GGR update of a sparse net beyond its step, in dense backward products of its first layer."
    columns, units = map(int, net.split('-')[:2])
    x, y = torch.randn(rows, columns).to(device), torch.randint(10, (rows,)).to(device)
    run, times = forms(lambda: mlp(net), x, y, density, device)['sparse'](every=2), dict(update=[], step=[])
    for _ in range(24):
        kind = 'update' if run.sparsifier.due() else 'step'
        wait(device); began = time.perf_counter(); run(); wait(device); times[kind].append(time.perf_counter() - began)
    a = torch.randn(rows, units).to(device)
    product = in_turns(dict(product=lambda: a.t() @ x), device, seconds, 3)['product']
    ms = {k: round(1e3 * min(t), 3) for k, t in times.items()} | dict(product=round(1e3 * product, 4))
    return dict(ms=ms, products=round((ms['update'] - ms['step']) / ms['product'], 1))


def sparse(book, size):
    device, seconds, toy = book.device, size['seconds'], size['toy']
    for net, densities in (NETS if not toy else {'96-64-10': (.1,)}).items():
        x, y = torch.randn(128, int(net.split('-')[0])).to(device), torch.randint(10, (128,)).to(device)
        for density in densities:
            book.do(f'step of {net} at {density}', lambda: steps(lambda: mlp(net), x, y, density, device, seconds))
    d, layers, shape = (512, 6, (8, 256)) if not toy else (64, 1, (2, 8))
    x, y = torch.randn(*shape, d).to(device), torch.randint(d, (shape[0] * shape[1],)).to(device)
    blocks = lambda: (torch.manual_seed(0), nn.Sequential(*[Block(d) for _ in range(layers)]))[1]
    for density in (.05, .02): book.do(f'step of {layers} blocks at {density}', lambda: steps(blocks, x, y, density, device, seconds))
    for net, density in (('8192-8192-100', .03),) if not toy else (('96-64-10', .1),):
        book.do(f'update of {net} at {density}', lambda: update(net, density, device, 128, seconds))
    for shape in ((8192, 8192, 128), (4000, 3072, 128), (2048, 512, 2048)) if not toy else ((64, 96, 16),):
        for density in (.01, .03, .1):
            book.do(f'{shape[1]} -> {shape[0]}, {shape[2]} rows, density {density}', lambda: products(device, *shape, density, seconds / 2))


# --- VGG16, to be deployed --------------------------------------------------------------------------------------------

def packed(masks):
    "{layer: [shape, text]}: a bit a place, compressed."
    bits = lambda m: lzma.compress(np.packbits(m.numpy()).tobytes())
    return {n: [list(m.shape), base64.b85encode(bits(m)).decode()] for n, m in masks.items()}


def unpacked(found):
    "The masks again."
    bits = lambda text: np.unpackbits(np.frombuffer(lzma.decompress(base64.b85decode(text)), np.uint8))
    return {n: torch.from_numpy(bits(text)[:int(np.prod(shape))].astype(bool)).reshape(shape) for n, (shape, text) in found.items()}


def vgg16(book, size, file):
    "Train it with GGR and dense; the masks lie in `file`, with the accuracy and all that the run depends on."
    data, epochs = size['tiny'](), size['epochs']
    def train(method, density):
        recipe = replace(RECIPES['tiny_imagenet'].scaled(epochs), batch=min(128, size['batch']))
        run = fit('vgg16_tiny', data, method, density, recipe=recipe, device=str(book.device), width=size['width'], progress=False, compile=False)
        record = json.loads(run.to_json()) | dict(commit=book.commit)
        if method == 'ggr': file.write_text(json.dumps(record | dict(masks=packed(run.masks))) + '\n')
        return {k: record[k] for k in ('accuracy', 'seconds', 'config')} | dict(curve=[round(h['accuracy'], 2) for h in run.history])
    book.do('ggr, density 0.03', lambda: train('ggr', .03))
    book.do('dense', lambda: train('dense', 1.))


# --- CIFAR-100 as pictures of pictures --------------------------------------------------------------------------------

SIDE, PART = 16, 48 << 20                        # 16 × 16 images a mosaic, parts below 48 MB


def pixels_of(file):
    "The images of one of CIFAR-100's files as [N, 3, 32, 32], and where its pixels begin."
    import pickle
    whole = file.read_bytes(); data = pickle.loads(whole, encoding='latin1')['data']
    begin = whole.find(data.tobytes())
    if begin < 0: raise ValueError(f'{file}: the pixels do not lie there in one piece')
    return whole, begin, data.reshape(len(data), 3, 32, 32)


def mosaic(images):
    "Up to 256 images as one picture [512, 512, 3]; missing ones are black."
    full = np.zeros((SIDE * SIDE, 3, 32, 32), np.uint8); full[:len(images)] = images
    return full.reshape(SIDE, SIDE, 3, 32, 32).transpose(0, 3, 1, 4, 2).reshape(SIDE * 32, SIDE * 32, 3)


def images_of(picture):
    "The way back: [256, 3, 32, 32]."
    return picture.reshape(SIDE, 32, SIDE, 32, 3).transpose(0, 2, 4, 1, 3).reshape(SIDE * SIDE, 3, 32, 32)


def pack(source, target, limit=PART, method=4):
    "cifar-100-python as folders part0, part1, … of WebP files, the rest of each pickle, and a list with sums."
    from PIL import Image
    source, target, entries, size, part = Path(source)/'cifar-100-python', Path(target), [], 0, 0
    def put(name, body, **more):
        nonlocal size, part
        if size + len(body) > limit: size, part = 0, part + 1
        size += len(body); folder = target/f'part{part}'; folder.mkdir(parents=True, exist_ok=True)
        (folder/name).write_bytes(body); entries.append(dict(name=name, part=part, crc=zlib.crc32(body), **more))
    whole_files = {}
    for name in ('meta', 'train', 'test'):
        body = (source/name).read_bytes(); whole_files[name] = dict(md5=md5(body).hexdigest(), size=len(body))
        if name == 'meta': put('meta.xz', lzma.compress(body), of='meta', kind='rest', at=0); continue
        whole, begin, images = pixels_of(source/name)
        put(f'{name}.xz', lzma.compress(whole[:begin] + whole[begin + images.nbytes:]), of=name, kind='rest', at=begin)
        for n in range(0, len(images), SIDE * SIDE):
            some, buffer = images[n:n + SIDE * SIDE], io.BytesIO()
            Image.fromarray(mosaic(some)).save(buffer, 'WEBP', lossless=True, quality=100, method=method)
            put(f'{name}{n // (SIDE * SIDE):03}.webp', buffer.getvalue(), of=name, kind='images', count=len(some))
    for p in range(part + 1): (target/f'part{p}'/'list.json').write_text(json.dumps(dict(files=whole_files, entries=entries)))
    return part + 1


def unpack(folders, target):
    "The original files from the parts, bit for bit; a damaged or missing one is named."
    from PIL import Image
    folders = [q for p in map(Path, folders) for q in ([p] if (p/'list.json').exists() else sorted(p.glob('part*')))]
    if not folders: raise FileNotFoundError('no list.json in the folders given: name the folders part0, part1, … or the one that holds them')
    found, target = json.loads((folders[0]/'list.json').read_text()), Path(target)/'cifar-100-python'
    where, rest, images = {f.name: f for d in folders for f in d.iterdir()}, {}, {}
    for e in found['entries']:
        if e['name'] not in where: raise FileNotFoundError(f'{e["name"]} is missing: it belongs to part{e["part"]}')
        body = where[e['name']].read_bytes()
        if zlib.crc32(body) != e['crc']: raise ValueError(f'{where[e["name"]]} is damaged: bring part{e["part"]} again')
        if e['kind'] == 'rest': rest[e['of']] = lzma.decompress(body), e['at']
        else: images.setdefault(e['of'], []).append(images_of(np.asarray(Image.open(io.BytesIO(body)).convert('RGB')))[:e['count']].tobytes())
    target.mkdir(parents=True, exist_ok=True)
    for name, want in found['files'].items():
        other, at = rest[name]; body = other[:at] + b''.join(images.get(name, [])) + other[at:]
        if md5(body).hexdigest() != want['md5']: raise ValueError(f'{name} does not come back as it was: its MD5 sum differs')
        (target/name).write_bytes(body)
    return target


def collect(folder):
    "Results, lines and paused runs that were written with --out, into this checkout; nothing is there twice."
    folder, book = Path(folder), HERE/'gpu.json'
    ours = json.loads(book.read_text()) if book.exists() else {}
    if (folder/'gpu.json').exists(): book.write_text(json.dumps(ours | json.loads((folder/'gpu.json').read_text()), indent=1) + '\n')
    table = Results(ROOT/'results/paper.jsonl'); have, new = table.load(), Results(folder/'paper.jsonl').load()
    for key, record in new.items():
        if key not in have: table.append(record)
    for file in (folder/'paused').glob('*.xz'): (HERE/'gpu_paused').mkdir(exist_ok=True); shutil.copy(file, HERE/'gpu_paused')
    print(f'{len(set(new) - set(have))} new runs of {len(new)}')


# --- the command ----------------------------------------------------------------------------------------------------

FULL = dict(toy=False, batch=128, width=1., large=11_000_000, images=50_000, seconds=1., together=(1, 2, 3), compile=True, way=FAST, cells=cells,
            runs=None, how=True, farewell=25, threads=None, tiny=tiny_imagenet, epochs=10)
TOY = dict(toy=True, batch=8, width=.0625, large=30_000, images=64, seconds=.05, together=(2,), compile=False, way=BEST, cells=toy_cells,
           runs=2, how=False, farewell=4, threads=1, tiny=lambda: bytes_data(64, 64, 10), epochs=1)
PARTS = dict(agreement=75, speed=170, sparse=100, vgg16=120, evidence=3600)         # seconds at most


def data_is_there(size, folders):
    "CIFAR-100, unpacked first if only its parts are here; why not, otherwise."
    if size['toy']: return None
    from ggr_nb.train.data import cifar100
    try: cifar100(); return None
    except FileNotFoundError as e: missing = str(e)
    try: unpack(folders, ROOT/'data'); cifar100(); return None
    except Exception as e: return f'{missing}\n{e}'


def main(words=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('parts', nargs='*', default=['agreement', 'speed', 'evidence'])
    p.add_argument('--minutes', type=float, default=9.); p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--toy', action='store_true'); p.add_argument('--out'); p.add_argument('--commit')
    p.add_argument('--only'); p.add_argument('--together', type=int)
    p.add_argument('--mosaics', default=str(ROOT/'.cifar'))
    a = p.parse_args(words)
    if a.parts[0] in ('steps', 'cell'): return dict(steps=child_steps, cell=child_cell)[a.parts[0]](json.loads(a.parts[1]))
    if a.parts[0] == 'pack': return print(pack(a.parts[1], a.mosaics), 'parts in', a.mosaics)
    if a.parts[0] == 'unpack': return print(unpack(a.parts[1:], ROOT/'data'))
    if a.parts[0] == 'collect': return collect(a.parts[1])
    if unknown := set(a.parts) - set(PARTS): p.error(f'no part {sorted(unknown)}: there are {", ".join(PARTS)}')
    out, size = Path(a.out) if a.out else None, TOY if a.toy else FULL
    only = tuple(filter(None, (a.only or '').split(',')))
    book = Book(out/'gpu.json' if out else HERE/'gpu.json', a.device, a.minutes, a.commit, only)
    if a.together: size = size | dict(runs=a.together)
    lines = out/'paper.jsonl' if out else ROOT/'results/paper.jsonl'
    files = dict(write=lines, read={lines, ROOT/'results/paper.jsonl'}, runs=(out or ROOT)/'runs/gpu',
                 paused=[out/'paused', HERE/'gpu_paused'] if out else [HERE/'gpu_paused'])
    if out and not a.toy: files['runs'] = Path(tempfile.mkdtemp())      # --out holds what is to be kept, no more
    command = 'python benchmarks/gpu.py ' + ' '.join(sys.argv[1:] if words is None else words)
    for part in [n for n in PARTS if n in a.parts]:
        book.open(part, PARTS[part], command)
        why = 'no time left' if book.left() < 2 else data_is_there(size, [a.mosaics]) if part == 'evidence' else None
        if why: book.all[part]['skipped'] = [why]; book.write(); print(part, 'skipped:', why, flush=True); continue
        try: globals()[part](book, size, *dict(evidence=[files], vgg16=[lines.parent/'vgg16.json']).get(part, ()))
        except Exception as e: book.all[part]['error'] = f'{type(e).__name__}: {e}'; book.write(); print(part, e, flush=True)
    print(f'{time.monotonic() - START:.0f} s; written to {book.path}', flush=True)


if __name__ == '__main__': main()
