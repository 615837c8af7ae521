"""Every path that trains or measures, on a device that is not there: see pretend_device.py.

First the pretended device itself, then the method (equal to the CPU's run, bit for bit), then how often it makes the
host wait, then training, measures and the sweep."""
import io
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pretend_device import DEVICE, pretended
from ggr_nb.methods import METHODS
from ggr_nb.sparsify import Sparsifier

ALL = list(METHODS)
KINDS = ['static', 'set', 'dsr', 'snfs', 'deepr', 'gmp', 'chase', 'gse', 'ggr', 'srigl']     # one of each kind of rule


# --- the pretended device -------------------------------------------------------------------------------------------

def test_it_has_the_errors_of_a_card():
    with pretended():
        there, here = torch.arange(6.).to(DEVICE), torch.arange(6.)
        assert there.device == DEVICE and torch.equal((there * 2).cpu(), here * 2)
        with torch.no_grad(): assert torch.equal(there[here > 2].cpu(), here[3:])            # indices may be here
        assert torch.equal((there * torch.tensor(2.)).cpu(), here * 2)                       # and scalars
        for mixed in (lambda: there + here, lambda: here + there, lambda: there.index_fill(0, here[:1].long(), 0),
                      lambda: there.masked_fill(here > 2, 0), lambda: torch.cat([there, here]), lambda: torch.equal(there, here),
                      lambda: here.mul_(there), lambda: torch.tensor(1.).add_(there[0]), lambda: torch.where(here > 2, there, there),
                      lambda: torch._foreach_mul_([there], [here]), lambda: there.index_put_((here[:2].long(),), here[:2])):
            with pytest.raises(RuntimeError, match='same device'): mixed()
        with pytest.raises(RuntimeError, match='generator'): torch.randn(3, generator=torch.Generator(), device=DEVICE)
        with pytest.raises(TypeError): there.numpy()


def test_a_model_moves_there_and_back_with_its_parameters_and_its_numbers():
    net = network(); before = deepcopy(net.state_dict()); same = [id(p) for p in net.parameters()]
    with pretended():
        net.to(DEVICE)
        assert [id(p) for p in net.parameters()] == same and all(isinstance(p, nn.Parameter) for p in net.parameters())
        assert {t.device for t in net.state_dict().values()} == {DEVICE}
        net.to(memory_format=torch.channels_last)
        copy = deepcopy(net)
        saved = through_a_file(net.state_dict())
        net.to('cpu')
        assert {p.device for p in copy.parameters()} == {DEVICE}
        p = next(iter(net.parameters())); p.data = torch.ones_like(p); q = p.to(DEVICE); q.data = q.detach() * 2
        assert q.here.mean() == 2 and p.mean() == 1
        p.data = before['0.weight'].to(DEVICE); assert p.device == DEVICE and net[0].weight is p
        net.to('cpu')
    assert [id(p) for p in net.parameters()] == same
    for state in (net.state_dict(), saved): assert all(torch.equal(before[n], t) for n, t in state.items())


def test_it_notes_where_the_host_waits():
    with pretended() as log:
        x = torch.zeros(5, device=DEVICE)
        x += 1; x = x.sqrt().topk(2).values; x.to(DEVICE); torch.arange(3, device=DEVICE)
        assert not log.waits
        for wait in (x.sum().item, x.tolist, x.cpu, x.nonzero, lambda: bool(x.any()), lambda: x[x > 0], lambda: torch.tensor([1.], device=DEVICE),
                     lambda: torch.zeros(2).to(DEVICE), lambda: x.copy_(torch.ones(2)), lambda: x[torch.tensor([0])], x.unique, lambda: torch.equal(x, x)):
            log.clear(); wait()
            assert log.total() == 1, (wait, log.waits)
        assert list(log.waits)[0].startswith('equal at tests/test_device.py:')
        log.clear(); torch.zeros(2).to(DEVICE, non_blocking=True)
        assert not log.waits


# --- the method -----------------------------------------------------------------------------------------------------

def network():
    "A convolution, a depthwise one, BatchNorm, two linear layers."
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 20), nn.ReLU(), nn.Linear(20, 10))


def through_a_file(state):
    "What a checkpoint brings back: everything on the CPU."
    file = io.BytesIO(); torch.save(state, file); file.seek(0)
    return torch.load(file, map_location='cpu', weights_only=True)


class Loop:
    "A plain training loop that can be saved, and continued on a device."
    def __init__(self, method, device, optimizer='sgd', wrap=None, **options):
        self.net, self.device, self.step = network().to(device), device, 0
        if wrap: self.net = wrap(self.net)
        make = dict(sgd=lambda p: torch.optim.SGD(p, lr=.05, momentum=.9, weight_decay=1e-3), adam=lambda p: torch.optim.AdamW(p, lr=1e-2))
        self.optimizer = make[optimizer](self.net.parameters())
        self.sparsifier = Sparsifier(self.net, self.optimizer, method, **dict(density=.2, every=4, until=100) | options)

    def go(self, steps, watch=None):
        for _ in range(steps):
            gen = torch.Generator().manual_seed(self.step)
            x, y = torch.randn(16, 1, 8, 8, generator=gen).to(self.device), torch.randint(10, (16,), generator=gen).to(self.device)
            if watch: watch.clear()
            self.optimizer.zero_grad(); cross_entropy(self.net(x), y).backward()
            self.optimizer.step(); self.step += 1
            if watch: yield dict(watch.waits)

    def run(self, steps): list(self.go(steps)); return self

    PARTS = 'net', 'optimizer', 'sparsifier'
    def save(self): return through_a_file({p: getattr(self, p).state_dict() for p in self.PARTS} | dict(step=self.step))
    def load(self, state):
        for p in self.PARTS: getattr(self, p).load_state_dict(state[p])
        self.step = state['step']; return self

    def seen(self):
        "Everything, on the CPU."
        masks = {f'mask of {n}': m.cpu() for n, m in self.sparsifier.masks.items()}
        momenta = {f'{k} {n}': v.cpu() for n, p in self.net.named_parameters() for k, v in self.optimizer.state[p].items() if torch.is_tensor(v)}
        return masks | momenta | {n: t.cpu() for n, t in self.net.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    different = [n for n in a if not torch.equal(a[n], b[n])]
    assert not different, different


OPTIONS = dict(averaged=dict(grad_batches=3), replacing=dict(skip_update=True, new_value=1e-10), rescaled=dict(scaling='unit', init='uniform'),
               adam=dict(optimizer='adam'), excluded=dict(exclude='0.weight'))


def on_both(method, **options):
    here = Loop(method, 'cpu', **options).run(10).seen()
    with pretended(): there = Loop(method, DEVICE, **options).run(10).seen()
    assert_same(here, there)


@pytest.mark.parametrize('method', ALL)
def test_every_method_does_there_what_it_does_here(method): on_both(method)


@pytest.mark.parametrize('options', OPTIONS)
def test_every_option_too(options): on_both('ggr', **OPTIONS[options])


@pytest.mark.parametrize('method', KINDS)
def test_a_checkpoint_is_continued_there(method):
    "Saved on the device or here, continued on the device or here: the uninterrupted run."
    whole = Loop(method, 'cpu').run(10).seen()
    saved_here = Loop(method, 'cpu').run(5).save()
    with pretended():
        saved_there = Loop(method, DEVICE).run(5).save()
        for saved in (saved_here, saved_there): assert_same(whole, Loop(method, DEVICE).load(saved).run(5).seen())
    assert_same(whole, Loop(method, 'cpu').load(saved_there).run(5).seen())


@pytest.mark.parametrize('method', ['ggr', 'rigl', 'snfs'])
def test_a_checkpoint_between_two_averaged_batches(method):
    "Steps 1 to 4 average the gradients of 2 to 4: at step 3 two are kept."
    options = dict(grad_batches=3)
    whole = Loop(method, 'cpu', **options).run(10).seen()
    with pretended():
        saved = Loop(method, DEVICE, **options).run(3).save()
        assert_same(whole, Loop(method, DEVICE, **options).load(saved).run(7).seen())


def moved(loop, device):
    "The model and the optimiser's state, in the middle of a training, on another device."
    loop.net.to(device); loop.device = device
    for p, state in loop.optimizer.state.items():
        for k, v in state.items():
            if torch.is_tensor(v) and v.ndim: state[k] = v.to(device)
    return loop


@pytest.mark.parametrize('method', KINDS)
def test_a_model_that_moves_takes_all_along(method):
    "After construction, in the middle, and back: with what a method remembers and what is averaged."
    options = dict(grad_batches=1 if METHODS[method].every else 3)
    whole = Loop(method, 'cpu', **options).run(10).seen()
    with pretended():
        assert_same(whole, moved(Loop(method, 'cpu', **options), DEVICE).run(10).seen())
        loop = moved(Loop(method, 'cpu', **options).run(3), DEVICE).run(3)
        assert_same(whole, moved(loop, 'cpu').run(4).seen())


class Split(nn.Sequential):
    "The same names; the first layers here, the others on the device."
    def __init__(self, net, cut=5):
        super().__init__(*net[:cut], *net[cut:].to(DEVICE)); self.cut = cut
    def forward(self, x):
        for n, layer in enumerate(self): x = layer(x.to(DEVICE) if n == self.cut else x)
        return x.cpu()


@pytest.mark.parametrize('order', ['split, then sparse', 'sparse, then split'])
@pytest.mark.parametrize('method', KINDS)
def test_a_model_on_two_devices(method, order):
    "Masks live where their weights live, the vote is over both, and the run is that of one device."
    whole = Loop(method, 'cpu').run(10).seen()
    with pretended():
        loop = Loop(method, 'cpu', wrap=Split if order == 'split, then sparse' else None)
        if order == 'sparse, then split': loop.net = Split(loop.net)
        loop.run(10)
        weights = loop.sparsifier.weights
        assert {p.device.type for p in weights.values()} == {'cpu', DEVICE.type}
        assert all(m.device == weights[n].device for n, m in loop.sparsifier.masks.items())
        assert_same(whole, loop.seen())


# --- how often the host waits ---------------------------------------------------------------------------------------

# per layer and update: where a layer's weights are, whether its gradient is sound, how many of its places pass the
# threshold, and a number that some rules need (a mean, how many signs have flipped); and beside these per update
PER_LAYER, PER_UPDATE = {'srigl': 14, 'rigl-connect': 5, 'ggr-connect': 5}, 10     # these ask more: level by level, which units


@pytest.mark.parametrize('method, layout', [(m, 'contiguous_format') for m in ALL] + [(m, 'channels_last') for m in KINDS])
def test_waits_of_a_step(method, layout):
    "An ordinary step never waits for the device; an update a few times per layer, in any layout."
    with pretended() as log:
        loop = Loop(method, DEVICE, wrap=lambda net: net.to(memory_format=getattr(torch, layout)), skip_update=False).run(2)
        waits = list(loop.go(7, log))
        layers = len(loop.sparsifier.weights)
    update = [s % loop.sparsifier.every == 0 and METHODS[method].dynamic for s in range(2, 9)]
    for due, found in zip(update, waits):
        assert due or not found, f'an ordinary step waits: {found}'
        assert sum(found.values()) <= PER_LAYER.get(method, 4) * layers + PER_UPDATE, f'{sum(found.values())} waits for {layers} layers: {found}'
    if METHODS[method].dynamic: assert any(found for due, found in zip(update, waits) if due)     # the log does see something


@pytest.mark.parametrize('method', ['ggr', 'snfs'])
def test_a_continued_run_does_not_wait_either(method):
    "What a checkpoint has written into the weights must not be looked for in every step that follows."
    saved = Loop(method, 'cpu').run(5).save()
    with pretended() as log:
        loop = Loop(method, DEVICE).load(saved).run(4)
        waits = list(loop.go(3, log))
    assert waits[0] and not any(waits[1:3]) or not any(waits[:3]), waits


def test_weights_that_are_written_to_and_moved_before_their_masks_come():
    saved = Loop('ggr', 'cpu').run(6).save()
    with pretended():
        loop = Loop('ggr', 'cpu', seed=3); loop.net.load_state_dict(saved['net'])
        with torch.no_grad(): [p.mul_(.5) for p in loop.net.parameters()]
        loop.net.to(DEVICE)
        with pytest.warns(UserWarning, match='written to after they were loaded'): loop.sparsifier.load_state_dict(saved['sparsifier'])
        for n, w in loop.sparsifier.weights.items(): assert torch.equal(w.cpu() != 0, saved['net'][n] != 0)


@pytest.mark.parametrize('method', [None, 'ggr', 'snfs', 'deepr'])
def test_a_compiled_model_is_compiled_once(method):
    "Hooks and updates leave the graph alone, before and after a checkpoint."
    torch._dynamo.reset()
    graphs = []
    def backend(graph, inputs): graphs.append(graph); return graph.forward
    loop = Loop(method or 'dense', 'cpu')
    if method is None: loop.sparsifier.remove()
    loop.net = torch.compile(loop.net, backend=backend, dynamic=False)
    for _ in range(2):
        loop.run(9)
        saved = {p: deepcopy(getattr(loop, p).state_dict()) for p in ('optimizer', 'sparsifier')}
        for p in saved: getattr(loop, p).load_state_dict(saved[p])
    assert len(graphs) == 1


def test_waits_do_not_grow_with_the_layer():
    "A large layer is looked at in chunks; the number of waits stays that of a small one, but for its chunks."
    def waits(size):
        with pretended() as log:
            net = nn.Sequential(nn.Linear(64, size), nn.Linear(size, 10)).to(DEVICE)
            optimizer = torch.optim.SGD(net.parameters(), lr=.1)
            sparsifier = Sparsifier(net, optimizer, 'ggr', density=.05, every=1, until=9)
            for _ in range(2):
                optimizer.zero_grad(); net(torch.ones(2, 64, device=DEVICE)).square().sum().backward(); log.clear(); optimizer.step()
            return log.total()
    assert waits(20_000) <= waits(200) + 4


@pytest.mark.parametrize('method', ['ggr', 'set', 'snfs'])
def test_averaging_gradients_waits_once_a_batch(method):
    "Whether a gradient is finite is asked before it joins the average, from which it could not be taken again."
    with pretended() as log:
        loop = Loop(method, DEVICE, grad_batches=4, every=6).run(2)     # the first steps look whether the optimiser is sound
        waits = list(loop.go(4, log))
    assert [sum(w.values()) for w in waits] == [0, 1, 1, 1], waits


def test_a_scaled_step_adds_no_wait():
    "With a GradScaler the scaler's own wait is the only one of an ordinary step."
    def step(sparse, log):
        net, scaler = network().to(DEVICE), torch.amp.GradScaler(DEVICE.type)
        optimizer = torch.optim.SGD(net.parameters(), lr=.1)
        if sparse: Sparsifier(net, optimizer, 'ggr', density=.2, every=100, until=1000)
        for _ in range(4):                       # the first steps look whether the optimiser is sound
            optimizer.zero_grad()
            scaler.scale(cross_entropy(net(torch.ones(4, 1, 8, 8, device=DEVICE)), torch.zeros(4, dtype=torch.int64, device=DEVICE))).backward()
            log.clear(); scaler.step(optimizer); scaler.update()
        return log.total()
    with pretended() as log: assert step(True, log) == step(False, log)


# --- training, measures, jobs -----------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def data():
    from ggr_nb.train.data import digits
    return digits().part(train=320, test=100)


def recipe(**changes):
    from dataclasses import replace
    from ggr_nb.train.runs import RECIPES
    return replace(RECIPES['digits'].scaled(2), batch=32, every=4, update_until=1.6, **changes)


def fitted(data, device, method='ggr', model='digits_net', **options):
    from ggr_nb.train.training import fit
    return fit(model, data, method, .1, recipe=recipe(), device=device, width=.25, progress=False,
               **dict(channels_last=False, amp=False, fused=False) | options)


def numbers(run):
    "What a run has found out, without the clock."
    return [{k: v for k, v in h.items() if k != 'seconds'} for h in run.history]


def assert_same_runs(a, b):
    assert numbers(a) == numbers(b)
    assert_same(a.masks, b.masks); assert_same(a.state, b.state); assert_same(a.masks_start, b.masks_start)


@pytest.mark.parametrize('method', ['dense', 'set', 'dsr', 'snfs', 'deepr', 'gmp', 'ggr'])
def test_fit_trains_there(data, method):
    "Training, evaluation, gradient flow, exploration; what is left over lies on the CPU."
    here = fitted(data, 'cpu', method)
    with pretended(): there = fitted(data, DEVICE.type, method)
    assert_same_runs(here, there)
    assert {t.device.type for t in (*there.masks.values(), *there.masks_start.values(), *there.state.values())} == {'cpu'}


def test_fit_with_channels_last_and_averaged_gradients(data):
    options = dict(channels_last=True, grad_batches=3)
    here = fitted(data, 'cpu', **options)
    with pretended(): assert_same_runs(here, fitted(data, DEVICE.type, **options))


@pytest.mark.parametrize('method', ['ggr', 'deepr'])
def test_a_stopped_fit_goes_on_there(data, method, tmp_path):
    "Stopped between two averaged gradients, continued from its file."
    from ggr_nb.train.training import Stopped
    options = dict(grad_batches=3) if method == 'ggr' else {}
    whole = fitted(data, 'cpu', method, **options)
    def stop(training):
        if training.position == 11: training.asked.append(2)
    with pretended():
        with pytest.raises(Stopped): fitted(data, DEVICE.type, method, out=tmp_path/'run', each_step=stop, **options)
        assert_same_runs(whole, fitted(data, DEVICE.type, method, out=tmp_path/'run', resume=True, **options))


def test_a_training_step_does_not_wait(data):
    "No loss is read, no seed is sent, nothing is copied in a step; an epoch's table and its end may."
    seen, log = [], None
    def each_step(training): seen.append((training.position, dict(log.waits))); log.clear()
    with pretended() as log: fitted(data, DEVICE.type, 'static', each_step=each_step)
    steps = data.steps('train', 32)
    assert steps == 10
    first = {1, 2, steps + 1}       # opens an epoch, or looks whether the optimiser is sound
    assert all(not waits for position, waits in seen if position not in first), seen
    assert any(waits for _, waits in seen)      # and the log does see the others


def model_and_masks(device):
    loop = Loop('ggr', device, init='uniform', density=.05).run(10)
    return loop.net, loop.sparsifier.masks


def measures(device, where):
    from ggr_nb.train import measure as m
    net, masks = model_and_masks(device)
    masks = {n: t.to(where) for n, t in masks.items()}
    start = {n: t.to(where) for n, t in Loop('ggr', device, init='uniform', density=.05).sparsifier.masks.items()}
    x, y = torch.linspace(-1, 1, 256).reshape(4, 1, 8, 8).to(device), torch.arange(4).to(device)
    alive = m.connected(net, masks, (1, 8, 8))
    return dict(parameters=m.parameters(net, masks), flops=m.flops(net, (1, 8, 8), masks), emptiness=m.emptiness(masks, net),
                propagated=m.emptiness(masks, net, (1, 8, 8)), alive={n: t.cpu().tolist() for n, t in alive.items()},
                exploration=m.exploration([start, masks]), jaccard=m.jaccard(start, masks), survival=m.survival(start, masks),
                flow=m.gradient_flow(net, x, y, masks))


@pytest.mark.parametrize('where', ['cpu', DEVICE.type])
def test_measures_take_a_model_there_and_masks_from_anywhere(where):
    here = measures('cpu', 'cpu')
    with pretended(): assert measures(DEVICE, where) == here


@pytest.mark.parametrize('where', ['cpu', DEVICE.type])
def test_compact_takes_a_model_there_and_masks_from_anywhere(where):
    from ggr_nb.train.compact import compact
    x = torch.linspace(-1, 1, 256).reshape(4, 1, 8, 8)
    net, masks = model_and_masks('cpu')
    small = compact(net, masks, x)
    with pretended():
        net, masks = model_and_masks(DEVICE)
        there = compact(net, {n: t.to(where) for n, t in masks.items()}, x.to(DEVICE))
        assert {p.device for p in there.parameters()} == {DEVICE}
        shapes = lambda m: {n: tuple(p.shape) for n, p in m.named_parameters()}
        assert shapes(there) == shapes(small)
        with torch.no_grad(): assert torch.allclose(there(x.to(DEVICE)).cpu(), small(x), atol=1e-6)


JOB = dict(data='digits', model='digits_net', method='ggr', density=.1, init='erk', seed=0, epochs=2, width=.25, batch=128, updates=3)
CLOCKS = 'seconds', 'hardware', 'commit'


def without_clocks(record):
    config = {k: v for k, v in record['config'].items() if k != 'switches'}
    return {k: v for k, v in record.items() if k not in CLOCKS} | dict(config=config)


def test_a_job_runs_there_to_its_last_line():
    "`run_job` measures after training: masks on the CPU, the network where it was trained."
    from ggr_nb.paper.sweep import Job, run_job
    here = run_job(Job(**JOB), device='cpu')
    with pretended(): there = run_job(Job(**JOB), device=DEVICE.type)
    assert without_clocks(there) == without_clocks(here) and there['counts'] != there['counts_start']


def pretended_job(job, **place):
    "What a worker of a sweep does, on the pretended device (workers are processes of their own)."
    from ggr_nb.paper.sweep import run_job
    torch.set_num_threads(1)
    with pretended(): return run_job(job, **place)


def test_a_sweep_runs_there(tmp_path):
    "Worker processes, their places, the file of results and its table's records."
    from ggr_nb.paper.sweep import Job
    from ggr_nb.paper.sweep import Pool, Results, sweep
    jobs = [Job(**JOB | dict(method=m)) for m in ('ggr', 'static')]
    pool = Pool(pretended_job, places=[dict(device=DEVICE.type, out=str(tmp_path/'runs'))])
    errors = sweep(jobs, Results(tmp_path/'results.jsonl'), pool, progress=False)
    assert not errors, next(iter(errors.values()))
    found = Results(tmp_path/'results.jsonl').load()
    assert found.keys() == {j.key for j in jobs}
    for record in found.values(): assert record['config']['switches']['device'] == DEVICE.type and record['emptiness_propagated']
