"""Everything that needs a graphics card, in one command and at most nine minutes:

    python benchmarks/gpu.py                                 agreement, speed, evidence; --minutes 9
    python benchmarks/gpu.py sparse                          any parts by name
    python benchmarks/gpu.py pack FOLDER|FILE                CIFAR-100 as lossless WebP mosaics, or a file in pieces: parts below 28 MB
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

--only ITEM,ITEM measures some items of a part; --together N trains so many runs at once, not as many as was best.
--commit HASH names the commit of a checkout that came without its history.
Each result is joined with benchmarks/gpu.json as soon as it exists, item by item: nothing that was measured is lost, and
what has never been measured is named as skipped. Ctrl-C and SIGTERM end a call as the clock does: unfinished runs are packed.
--out FOLDER writes what this call finds there, and nothing else; --toy is the same at a size that a CPU does in a minute
(tests/test_gpu_benchmark.py).
"""
import argparse, json, lzma, os, platform, re, shutil, signal, subprocess, sys, tempfile, time
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

START, HERE = time.monotonic(), Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from carry import masks_to_text, pack, unpack
from ggr_nb.methods import METHODS
from ggr_nb.paper.sweep import Job, Results, run_job
from ggr_nb.sparse import KERNELS, sparse_storage_
from ggr_nb.sparsify import Sparsifier
from ggr_nb.topk import StreamingTopK
from ggr_nb.train.data import Data, digits, tiny_imagenet
from ggr_nb.train.models import MODELS
from ggr_nb.train.runs import RECIPES, commit
from ggr_nb.train.training import Stopped, fit
from turns import NETS, Block, mlp

GOALS = dict(images_per_second=20_000, masked_over_dense=1.01, update_share=.005, batch_share=.03)
EPOCH = 390                                      # steps of CIFAR-100 at batch 128


def joined(old, new):
    "An entry of the file and what a later call found, item by item: nothing that was measured is lost, `again` names what is younger."
    of = {k: new[k] for k in ('command', 'commit', 'machine')}
    again = old.get('again', {}) | dict.fromkeys(new['results'], of) | new.get('again', {})
    entry = old | dict(results=old['results'] | new['results'], seconds=old.get('seconds', {}) | new.get('seconds', {}))
    entry['failed'] = {n: why for n, why in old.get('failed', {}).items() if n not in new['results']} | new.get('failed', {})
    entry['skipped'] = [n for n in dict.fromkeys(old['skipped'] + new['skipped']) if n not in entry['results']]
    if 'open' in new:                                # evidence: runs, not items
        done = {d['key']: d for d in old.get('done', []) + new['done']}
        entry |= new | dict(done=list(done.values()), paused={k: v for k, v in (old.get('paused', {}) | new['paused']).items() if k not in done})
    elif entry['results'] and all(again.get(n) == of for n in entry['results']): entry |= of; again = {}
    entry |= dict(again=again, refused=new.get('refused'))
    return {k: v for k, v in entry.items() if v or k not in ('again', 'failed', 'refused', 'seconds')}


def with_found(entries, found):
    "The entries of a file and those of a call, one for each part and card; the runs of `evidence` may go from card to card."
    entries = dict(entries)
    for part, new in found.items():
        part, card = part.split(' on ')[0], new['machine']['card']
        here = part == 'evidence' or part not in entries or entries[part]['machine']['card'] == card
        name = part if here else f'{part} on {card or "the processor"}'
        entries[name] = JUDGES.get(part, lambda e: e)(joined(entries[name], new) if name in entries else new)
    return entries


def read(path): return json.loads(path.read_text()) if path.exists() else {}


def write(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part'); part.write_text(json.dumps(entries, indent=1) + '\n')
    os.replace(part, path)


class Book:
    "What a call finds, joined with the file of results after every item; and the clock."
    def __init__(self, path, device, minutes, of=None, only=()):
        self.commit, self.only = of or commit(), only
        self.path, self.device, self.end = Path(path), torch.device(device), START + 60 * minutes
        self.before, self.found, self.until = read(self.path), {}, self.end

    def known(self, part):
        "What has been measured of a part on this card, here and before."
        entries = with_found(with_found(read(HERE/'gpu.json'), self.before), self.found)
        return next((e for n, e in entries.items() if n.split(' on ')[0] == part
                     and (part == 'evidence' or e['machine']['card'] == machine(self.device)['card'])), dict(results={}))

    def open(self, part, seconds, command):
        "Begin a part that may take so many seconds."
        self.before, self.found = with_found(self.before, self.found), {}
        self.part, self.until = part, min(self.end, time.monotonic() + seconds)
        self.entry = dict(machine=machine(self.device), command=command, commit=self.commit, results={}, skipped=[])

    def left(self): return self.until - time.monotonic()

    def write(self):
        self.found[self.part] = self.entry
        write(self.path, with_found(self.before, self.found))

    def refuse(self, why):
        "Nothing of this part can be measured now."
        self.entry['refused'] = why; self.write(); print(self.part, 'skipped:', why, flush=True)

    def measure(self, items):
        "(name, work, seconds it takes at least) one after the other while there is time; those never measured are named as skipped."
        items = [(name, work, *need) for name, work, *need in items if not self.only or name in self.only]
        took, self.entry['skipped'] = self.known(self.part).get('seconds', {}), [name for name, *_ in items]
        self.write()
        for name, work, *need in items:
            if self.left() >= max(need + [took.get(name, 5.)]): self.do(name, work)
        if self.entry['skipped']: print(f'{self.part}: no time for', *self.entry['skipped'], sep='\n  ', flush=True)

    def do(self, name, work):
        "One item; its error is noted beside what it may have found before."
        entry, began = self.entry, time.monotonic()
        try: found = entry['results'][name] = work()
        except Exception as e: found = entry.setdefault('failed', {})[name] = f'{type(e).__name__}: {e}'[:600]
        entry['skipped'].remove(name); entry.setdefault('seconds', {})[name] = round(time.monotonic() - began, 1)
        self.write(); print(f'{self.part}: {name}: {json.dumps(found)[:300]}', flush=True)


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
    device = book.device
    checks = dict(pictures=agree_pictures, topk=agree_topk, gradient=agree_gradient, job=agree_job, resume=agree_resume)
    items = [(name, partial(check, device, size)) for name, check in checks.items()]
    items += [(f'updates of {m}', partial(agree_updates, m, device), 2) for m in METHODS]
    items += [(f'storage of {m}', partial(agree_storage, m, device), 2) for m in STORED]
    return items + [('a scaler and a fused optimiser', partial(agree_scaler, device))] * (device.type in ('cpu', 'cuda'))


def broken(entry):
    "The entry with the names of the promises that do not hold."
    return entry | dict(broken=[n for n, r in entry['results'].items() if r['promised'] and not r['equal']] + list(entry.get('failed', {})))


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
    "Images per second of each way, and its peak memory; compiling is timed by itself."
    found = {}
    for way in ways:
        try:
            if device.type == 'cuda': torch.cuda.reset_peak_memory_stats(device)
            began = time.perf_counter(); step = Steps(model, device, size['batch'], width * size['width'], **WAYS[way])
            step(); wait(device); first = time.perf_counter() - began
            t = in_turns({way: step}, device, size['seconds'], 3)[way]
            found[way] = dict(images_per_second=round(size['batch'] / t, 1), ms=round(1e3 * t, 3), first_step_s=round(first, 1))
            if device.type == 'cuda': found[way]['peak GB'] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
        except Exception as e: found[way] = dict(error=f'{type(e).__name__}: {e}'[:300])
        step = None; empty(device)
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
    "`fit` itself, second of two epochs, from the end of one record to the end of the next: batches, updates and evaluation included."
    data, ends = bytes_data(size['images']), []
    data = replace(data, test=tuple(t[:size['images'] // 5] for t in data.train))
    steps = data.steps('train', size['batch'])
    recipe = replace(RECIPES['cifar100'].scaled(2), batch=size['batch'], every=steps // 2, update_until=2)
    run = fit('resnet18', data, 'ggr', .03, recipe=recipe, device=str(device), width=size['width'], progress=False, compile=size['compile'],
              each_epoch=lambda record, training: ends.append((time.monotonic(), training.sparsifier.updates, record['seconds'])))
    (began, before, trained), (ended, after, all_trained) = ends
    rate = lambda seconds: round(steps * size['batch'] / seconds, 1)
    return dict(images_per_second=rate(ended - began), without_evaluation=rate(all_trained - trained), updates=after - before,
                test_images=data.sizes['test'], switches=run.config['switches'], goal=GOALS['images_per_second'])


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
    "Images per second of one, two, … processes together, each training in the `way` named."
    found = dict(way=size['way'])
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
    item = lambda name, f, *more, need=5.: (name, partial(f, device, size, *more), need)
    eager, compiled = [w for w in WAYS if 'compiled' not in w], [w for w in WAYS if 'compiled' in w]
    found = [item('resnet18', speed_ways, 'resnet18', 1., eager)]
    if size['compile']: found += [item('resnet18 compiled', speed_ways, 'resnet18', 1., compiled, need=45)]
    return found + [item('masks', speed_masks), item('trainer', speed_trainer), item('batches', speed_batches), item('updates', speed_updates),
                    item('profile of an update', speed_update_profile), item('side by side', speed_side_by_side, book),
                    item('profile', speed_profile), item('selection', speed_selection),
                    *(item(n, speed_ways, n, 1., ['tf32', 'bf16', BEST]) for n in ('vgg16_tiny', 'mobilenet_v2'))]


def speeds(ways):
    "{way: images per second} of those that worked."
    return {way: r['images_per_second'] for way, r in ways.items() if isinstance(r, dict) and 'images_per_second' in r}


def verdicts(entry):
    "The entry with its goals, and whether they were met."
    found = entry['results']
    best = max((r for n in ('resnet18', 'resnet18 compiled') for r in speeds(found.get(n, {})).values()), default=None)
    share = lambda part, key: (found.get(part) or {}).get(key)
    values = dict(images_per_second=best, masked_over_dense=share('masks', 'masked_over_dense'),
                  update_share=(share('updates', 'ggr') or {}).get('share'), batch_share=share('batches', 'share'))
    met = lambda k, v: None if v is None else v >= GOALS[k] if k == 'images_per_second' else v <= GOALS[k]
    return entry | dict(goals={k: dict(goal=GOALS[k], found=v, met=met(k, v)) for k, v in values.items()})


JUDGES = dict(agreement=broken, speed=verdicts)


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


REFUSED = 65                                     # exit status of a job whose folder holds something else


def child_cell(ask):
    "In a process of its own: one job to its end, or to a checkpoint."
    if ask['threads']: torch.set_num_threads(ask['threads'])
    job = Job(**ask['job'])
    try: record = run_job(job, ask['runs'], ask['device'], **ask['how'])
    except Stopped as e: print(e); sys.exit(130)
    except ValueError as e:
        if not str(e).startswith(str(Path(ask['runs'])/job.key)): raise
        print(e, file=sys.stderr); sys.exit(REFUSED)
    Results(ask['results']).append(record)


def paused_name(key): return re.sub(r'[^\w.-]', '-', key) + '.xz'


def pack_run(job, runs, paused, limit=15 << 20):
    "The checkpoint of an unfinished run as one small file: nearly all of a sparse network's numbers are zeros."
    checkpoint = Path(runs)/job.key/'checkpoint.pt'
    if not checkpoint.exists(): return 'no checkpoint'
    packed = lzma.compress(checkpoint.read_bytes(), preset=0)
    if len(packed) > limit: return f'{len(packed) >> 20} MB packed, not kept'
    paused.mkdir(parents=True, exist_ok=True); (paused/paused_name(job.key)).write_bytes(packed)
    return f'{len(packed) / 2**20:.1f} MB'


def unpack_run(job, runs, paused):
    "The other way, if there is one and no younger checkpoint."
    place = Path(runs)/job.key/'checkpoint.pt'
    for folder in paused:
        if (file := folder/paused_name(job.key)).exists() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True); place.write_bytes(lzma.decompress(file.read_bytes()))
            return True
    return False


def rates(book, way):
    "{runs side by side: images per second}, as measured on this card in the way in which the trainer trains there."
    found = book.known('speed')['results'].get('side by side') or {}
    return {int(k): v for k, v in found.items() if k.isdigit() and isinstance(v, float)} if found.get('way') == way else {}


def how_many(rates):
    "Runs side by side that fill the card; two if it was not measured."
    best = 1 if rates else 2
    for k in sorted(rates):
        if rates[k] > 1.05 * rates.get(best, 0): best = k
    return best


def fits(job, rate, together, left):
    "Is there time for all of it? Asked of dense networks, whose checkpoints are too large to be carried away."
    if job.method != 'dense' or job.data != 'cifar100': return True
    return rate is not None and left > 1.2 * 100 * EPOCH * 128 * together / rate


class Team:
    "Jobs in processes of their own; what becomes of them goes into the book."
    def __init__(self, book, size, files):
        self.book, self.size, self.files, self.kept = book, size, files, files['paused']
        self.entry, self.at_work, self.tried = book.entry, {}, set()

    def start(self, job):
        "A job that failed, and all once two have, are not compiled."
        unpack_run(job, self.files['runs'], self.kept)
        if job.key in self.tried or len(self.tried) > 1: self.entry['how'][job.key] = how = dict(compile=False)
        else: how = {}
        ask = dict(job=asdict(job), runs=str(self.files['runs']), device=str(self.book.device), results=str(self.files['write']),
                   how=how, threads=self.size['threads'])
        log = Path(self.files['runs'])/(paused_name(job.key) + '.log'); log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, 'w') as f: self.at_work[job.key] = job, start('cell', ask, stderr=f), time.monotonic(), log

    def ended(self):
        "Jobs whose process has ended: written down, and those to be tried again given back."
        again = []
        for key, (job, process, began, log) in list(self.at_work.items()):
            if process.poll() is None: continue
            del self.at_work[key]; self.entry['open'] -= 1
            if not process.returncode:
                self.entry['done'].append(dict(key=key, seconds=round(time.monotonic() - began)))
                for folder in self.kept: (folder/paused_name(job.key)).unlink(missing_ok=True)
            elif process.returncode != REFUSED and key not in self.tried:
                self.tried.add(key); again.append(job); self.entry['open'] += 1
            else:
                said = log.read_text().strip().splitlines()[-1:]
                self.entry['failed'][key] = f'exit status {process.returncode}: {"".join(said)[:500]}'
            self.book.write(); print('evidence:', key, self.entry['failed'].get(key, 'once more' if job in again else 'done'), flush=True)
        return again

    def stop(self):
        "Ask all to save and stop, and pack what they have; one that had just ended well is done."
        for _, process, *_ in self.at_work.values(): process.send_signal(signal.SIGTERM)
        for _, process, *_ in self.at_work.values():
            try: process.wait(self.size['farewell'])
            except subprocess.TimeoutExpired: process.kill(); process.wait()
        unfinished = {k: job for k, (job, process, *_) in self.at_work.items() if process.returncode}
        self.at_work = {k: v for k, v in self.at_work.items() if k not in unfinished}; self.ended()
        before = self.book.known('evidence').get('paused', {})
        for key, job in unfinished.items():
            lines = Path(self.files['runs'])/key/'history.jsonl'
            curve = [round(json.loads(l)['accuracy'], 2) for l in lines.read_text().splitlines()] if lines.exists() else []
            curve = curve or before.get(key, {}).get('accuracy', [])
            self.entry['paused'][key] = dict(packed=pack_run(job, self.files['runs'], self.kept[0]), accuracy=curve)
        self.book.write()


def evidence(book, size, files):
    "Keep the card busy with the first jobs that are not done; at the end, or when asked, stop them in good order and pack them."
    jobs, measured = list(size['cells']()), rates(book, size['way'])
    together = size['runs'] or how_many(measured)
    have = {k for f in files['read'] for k in Results(f).load()}
    todo, stop_at = [j for j in jobs if j.key not in have], book.until - size['farewell']
    book.entry |= dict(together=together, how={}, done=[], paused={}, failed={}, open=len(todo))
    team = Team(book, size, files); book.write()
    due = lambda: next((j for j in todo if fits(j, measured.get(together), together, stop_at - time.monotonic())), None)
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while (team.at_work or due()) and time.monotonic() < stop_at:
            while len(team.at_work) < together and (job := due()): todo.remove(job); team.start(job)
            todo[:0] = team.ended()
            broke = [k for k, why in book.entry['failed'].items() if not why.startswith(f'exit status {REFUSED}:')]
            if len(broke) > 2 and not book.entry['done']: todo.clear()      # it is not the jobs
            time.sleep(.2)
    finally:
        for s in handlers: signal.signal(s, signal.SIG_IGN)             # asked once is enough
        team.stop()
        for s, handler in handlers.items(): signal.signal(s, handler)
        print('evidence:', json.dumps({k: book.entry[k] for k in ('done', 'paused', 'failed', 'open')})[:2000], flush=True)


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
    def on_images(measure, net, density, *more):
        x, y = torch.randn(128, int(net.split('-')[0])).to(device), torch.randint(10, (128,)).to(device)
        return measure(lambda: mlp(net), x, y, density, device, *more)
    d, layers, shape = (512, 6, (8, 256)) if not toy else (64, 1, (2, 8))
    def on_tokens(density):
        x, y = torch.randn(*shape, d).to(device), torch.randint(d, (shape[0] * shape[1],)).to(device)
        blocks = lambda: (torch.manual_seed(0), nn.Sequential(*[Block(d) for _ in range(layers)]))[1]
        return steps(blocks, x, y, density, device, seconds)
    items = [(f'step of {net} at {p}', partial(on_images, steps, net, p, seconds))
             for net, densities in (NETS if not toy else {'96-64-10': (.1,)}).items() for p in densities]
    items += [(f'step of {layers} blocks at {p}', partial(on_tokens, p)) for p in (.05, .02)]
    for net, density in (('8192-8192-100', .03),) if not toy else (('96-64-10', .1),):
        items += [(f'update of {net} at {density}', partial(update, net, density, device, 128, seconds))]
    for out, inputs, rows in ((8192, 8192, 128), (4000, 3072, 128), (2048, 512, 2048)) if not toy else ((64, 96, 16),):
        items += [(f'{inputs} -> {out}, {rows} rows, density {p}', partial(products, device, out, inputs, rows, p, seconds / 2)) for p in (.01, .03, .1)]
    return items


# --- VGG16, to be deployed --------------------------------------------------------------------------------------------

def vgg16(book, size, file):
    "Train it with GGR and dense; the masks lie in `file`, with the accuracy and all that the run depends on."
    epochs = size['epochs']
    def train(method, density):
        data = size['tiny']()
        recipe = replace(RECIPES['tiny_imagenet'].scaled(epochs), batch=min(128, size['batch']))
        run = fit('vgg16_tiny', data, method, density, recipe=recipe, device=str(book.device), width=size['width'], progress=False, compile=False)
        record = json.loads(run.to_json())
        if method == 'ggr': file.write_text(json.dumps(record | dict(masks=masks_to_text(run.masks))) + '\n')
        return {k: record[k] for k in ('accuracy', 'seconds', 'config')} | dict(curve=[round(h['accuracy'], 2) for h in run.history])
    return [('ggr, density 0.03', lambda: train('ggr', .03)), ('dense', lambda: train('dense', 1.))]


# --- from another machine --------------------------------------------------------------------------------------------

def collect(folder):
    "Results, lines and paused runs that were written with --out, into this checkout; nothing is there twice, what is finished is not kept."
    folder, book, kept = Path(folder), HERE/'gpu.json', HERE/'gpu_paused'
    if (folder/'gpu.json').exists(): write(book, with_found(read(book), read(folder/'gpu.json')))
    if (folder/'vgg16.json').exists(): shutil.copy(folder/'vgg16.json', ROOT/'results')
    table = Results(ROOT/'results/paper.jsonl'); have, new = table.load(), Results(folder/'paper.jsonl').load()
    for key, record in new.items():
        if key not in have: table.append(record)
    finished = set(map(paused_name, table.load()))
    packed = [f for f in (folder/'paused').glob('*.xz') if f.name not in finished]
    for file in packed: kept.mkdir(exist_ok=True); shutil.copy(file, kept)
    for name in finished: (kept/name).unlink(missing_ok=True)
    print(f'{len(set(new) - set(have))} new runs of {len(new)}, {len(packed)} packed')


# --- the command ----------------------------------------------------------------------------------------------------

FULL = dict(toy=False, batch=128, width=1., large=11_000_000, images=50_000, seconds=1., together=(1, 2, 3), compile=True, way=FAST, cells=cells,
            runs=None, farewell=25, threads=None, tiny=tiny_imagenet, epochs=10)
TOY = dict(toy=True, batch=8, width=.0625, large=30_000, images=64, seconds=.05, together=(2,), compile=False, way=BEST, cells=toy_cells,
           runs=2, farewell=4, threads=1, tiny=lambda: bytes_data(64, 64, 10), epochs=1)
PARTS = dict(agreement=75, speed=170, sparse=100, vgg16=120, evidence=3600)         # seconds at most
NEEDS = dict(evidence=('cifar100', '.cifar'), vgg16=('tiny_imagenet', '.tiny'))     # data, and the folder of its parts


def names(part, size):
    "The items of a part, measured or not."
    book = SimpleNamespace(device=torch.device('cuda'), commit=None)
    return [] if part == 'evidence' else [name for name, *_ in globals()[part](book, size, *[None] * (part == 'vgg16'))]


def data_is_there(part, size, folder=None):
    "Unpack the data of a part first if only its parts are here; say why not, otherwise."
    if size['toy'] or part not in NEEDS: return None
    from ggr_nb.train import data
    name, own = NEEDS[part]; there = lambda: getattr(data, name)()
    try: there(); return None
    except FileNotFoundError as e: missing = str(e)
    try: unpack([folder or ROOT/own], ROOT/'data'); there(); return None
    except Exception as e: return f'{missing}\n{e}'


def main(words=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('parts', nargs='*', default=['agreement', 'speed', 'evidence'])
    p.add_argument('--minutes', type=float, default=9.); p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--toy', action='store_true'); p.add_argument('--out'); p.add_argument('--commit')
    p.add_argument('--only'); p.add_argument('--together', type=int); p.add_argument('--mosaics')
    a = p.parse_args(words)
    if a.parts[0] in ('steps', 'cell'): return dict(steps=child_steps, cell=child_cell)[a.parts[0]](json.loads(a.parts[1]))
    if a.parts[0] == 'pack':
        target = a.mosaics or ROOT/('.tiny' if Path(a.parts[1]).is_file() else '.cifar')
        return print(pack(a.parts[1], target), 'parts in', target)
    if a.parts[0] == 'unpack': return print(*unpack(a.parts[1:], ROOT/'data'))
    if a.parts[0] == 'collect': return collect(a.parts[1])
    size = TOY if a.toy else FULL
    items, only = {part: names(part, size) for part in PARTS}, tuple(filter(None, (a.only or '').split(',')))
    for unknown in sorted(set(a.parts) - set(PARTS)):
        has = [f'{n} --only {unknown!r}' for n, its in items.items() if unknown in its]
        p.error(f'no part {unknown}: ' + (f'it is an item: give {has[0]}' if has else f'there are {", ".join(PARTS)}'))
    for unknown in only:
        if not any(unknown in items[part] for part in a.parts): p.error(f'no item {unknown} in {", ".join(a.parts)}: there are {", ".join(n for part in a.parts for n in items[part])}')
    if a.toy and not a.out: p.error('--toy measures nothing that should be kept: give --out')
    if a.commit: os.environ['GGR_COMMIT'] = a.commit                                    # for every process
    out = Path(a.out).resolve() if a.out else None
    book = Book(out/'gpu.json' if out else HERE/'gpu.json', a.device, a.minutes, a.commit, only)
    if a.together: size = size | dict(runs=a.together)
    lines = out/'paper.jsonl' if out else ROOT/'results/paper.jsonl'
    files = dict(write=lines, read={lines, ROOT/'results/paper.jsonl'}, runs=(out or ROOT)/'runs/gpu',
                 paused=[out/'paused', HERE/'gpu_paused'] if out else [HERE/'gpu_paused'])
    if out and not a.toy: files['runs'] = Path(tempfile.mkdtemp())      # --out holds what is to be kept, no more
    command = 'python benchmarks/gpu.py ' + ' '.join(sys.argv[1:] if words is None else words)
    for part in [n for n in PARTS if n in a.parts]:
        book.open(part, PARTS[part], command)
        if why := 'no time left' if book.left() < 2 else data_is_there(part, size, a.mosaics): book.refuse(why); continue
        try:
            if part == 'evidence': evidence(book, size, files)
            else: book.measure(globals()[part](book, size, *[lines.parent/'vgg16.json'] * (part == 'vgg16')))
        except Exception as e: book.refuse(f'{type(e).__name__}: {e}')
        for what in {'broken', 'goals'} & (found := book.known(part)).keys(): print(f'{part}: {what}:', json.dumps(found[what]), flush=True)
    print(f'{time.monotonic() - START:.0f} s; written to {book.path}', flush=True)


if __name__ == '__main__': main()
