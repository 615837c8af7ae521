"""Sparse storage: the same masks and weights as masked storage, for any method, model and loop; exact resumption; clear refusals."""
import copy, io, math, os, pickle, warnings

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from conftest import quiet
from ggr_nb.methods import METHODS
from ggr_nb.sparse import Outer, SparseLinear, csr, dense_storage_, sparse_storage_, unit_of
from ggr_nb.sparsify import Sparsifier

pytestmark = [pytest.mark.core, pytest.mark.filterwarnings('ignore:.* of these weights are active')]
ABLE = sorted(set(METHODS) - {'dense', 'gmp', 'snfs'})
X, Y = torch.randn(16, 12, dtype=torch.double, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4


def mlp(): return nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8, bias=False), nn.ReLU(), nn.Linear(8, 4)).double()


class Block(nn.Module):
    "A small transformer: attention by hand, so that all its linear layers are nn.Linear."
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o, self.up, self.down, self.head = (nn.Linear(a, b) for a, b in ((12, 12),) * 4 + ((12, 24), (24, 12), (12, 4)))
        self.double()

    def forward(self, x):
        x = x.view(4, 4, 12)
        x = x + self.o(torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x))
        return self.head(x + self.down(self.up(x).relu())).flatten(0, 1)


def mixed():
    "Convolutions keep masks, linear layers are stored sparsely: one budget, one vote."
    return nn.Sequential(nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 6, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 4)).double()


OPTIMIZERS = {'sgd': lambda p: torch.optim.SGD(p, lr=.05, momentum=.9, weight_decay=1e-3), 'adam': lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
              'rprop': lambda p: torch.optim.Rprop(p, lr=.01), 'adagrad': lambda p: torch.optim.Adagrad(p, lr=.05, initial_accumulator_value=.1)}
HOW = dict(density=.3, init='erk', seed=1)


def built(make, method, sparse, optimizer='sgd', **more):
    torch.manual_seed(0); model = make()
    if sparse: sparse_storage_(model, method=method, **HOW)
    opt = OPTIMIZERS[optimizer](model.parameters())
    return model, opt, Sparsifier(model, opt, method, **(dict(every=2, until=41, fraction=.3) | HOW | more))


ALIVE = {}

def step(model, opt, sparsifier, i, parts=1, clip=None):
    "Outputs and losses of the step before are alive, as in the plainest loop of all."
    opt.zero_grad(); alive = []
    for a, b in zip((X + .1 * (i % 7)).chunk(parts), Y.chunk(parts)):
        out = model(a); loss = cross_entropy(out, b) / parts
        loss.backward(); alive.append((out, loss))
    if clip: nn.utils.clip_grad_norm_(model.parameters(), clip)
    opt.step(); ALIVE[id(model)] = alive


def places(sparsifier): return {n: l.places for n, l in sparsifier.layers.items()}
def dense(model): return dense_storage_(copy.deepcopy(model)).state_dict()


def same_run(make, method, optimizer='sgd', steps=20, parts=1, **more):
    a, b = built(make, method, True, optimizer, **more), built(make, method, False, optimizer, **more)
    for i in range(steps):
        for run in (a, b): step(*run, i, parts)
        p, q = places(a[2]), places(b[2])
        assert p.keys() == q.keys() and all(torch.equal(p[n], q[n]) for n in p), (method, i)
    u, v = dense(a[0]), b[0].state_dict()
    assert max(float((u[k] - v[k]).abs().max()) for k in v) < 1e-10
    assert a[2].counts() == b[2].counts() and a[2].history == b[2].history or all(
        x['layers'] == y['layers'] and x['k'] == y['k'] for x, y in zip(a[2].history, b[2].history))


@pytest.mark.parametrize('method', ABLE)
@pytest.mark.parametrize('make', [Block, mixed], ids=lambda f: f.__name__)          # mlp: below
def test_the_masks_are_those_of_masked_storage(make, method): same_run(make, method)


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('method', ['set', 'ggr', 'dsr'])
def test_every_elementwise_optimiser(method, optimizer): same_run(mlp, method, optimizer)


def test_micro_batches_and_averaged_gradients():
    same_run(mlp, 'ggr', parts=4)
    same_run(mlp, 'rigl', every=4, grad_batches=3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_products_equal_the_dense_ones(rows, columns, data):
    n = data.draw(st.integers(1, rows * columns)); batch = data.draw(st.integers(1, 5))
    gen = torch.Generator().manual_seed(n)
    where = torch.randperm(rows * columns, generator=gen)[:n].sort().values
    layer = SparseLinear(columns, rows, where, torch.randn(n, dtype=torch.double, generator=gen), torch.randn(rows, dtype=torch.double, generator=gen))
    twin, x = layer.to_dense(), torch.randn(batch, columns, dtype=torch.double, generator=gen, requires_grad=True)
    assert torch.equal(layer.places, where)
    z = x.detach().clone().requires_grad_()
    a, b = layer(x), twin(z); weight = torch.randn(a.shape, dtype=torch.double, generator=gen)
    (a * weight).sum().backward(); (b * weight).sum().backward()
    torch.testing.assert_close(a, b); torch.testing.assert_close(x.grad, z.grad)
    torch.testing.assert_close(layer.values.grad, twin.weight.grad.view(-1)[where]); torch.testing.assert_close(layer.bias.grad, twin.bias.grad)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_the_streamed_gradient_is_the_dense_one(rows, columns, batch, seed):
    gen = torch.Generator().manual_seed(seed)
    x, dy = torch.randn(batch, columns, generator=gen).double(), torch.randn(batch, rows, generator=gen).double()
    whole, outer = dy.t() @ x, Outer(x, dy)
    some = torch.randperm(rows * columns, generator=gen)[:5]
    torch.testing.assert_close(outer.at(some), whole.view(-1)[some])
    for first in range(rows): torch.testing.assert_close(outer.magnitudes(first, rows), whole[first:].reshape(-1).abs())


def test_a_layer_that_was_never_dense_has_hes_variance_for_the_inputs_of_each_unit():
    where = torch.cat([torch.arange(100), 20000 + torch.arange(10000)])
    layer = SparseLinear.drawn(nn.Linear(20000, 2, device='meta'), where, torch.Generator().manual_seed(0))
    for unit, n in enumerate((100, 10000)): assert math.isclose(float(layer.values.detach()[layer.rows == unit].std()), (2 / n)**.5, rel_tol=.2)


def test_another_pattern_keeps_the_values_that_both_have():
    model, _, s = built(mlp, 'set', True); layer, module = s.layers['0.weight'], model[0]
    old, values = layer.places, module.values.detach().clone(); free = torch.tensor(sorted({*range(layer.size)} - {*old.tolist()}))
    new = torch.cat([old[::2], free[:5]]).sort().values
    layer.restore(new); weight = dict(zip(old.tolist(), values.tolist()))
    assert torch.equal(module.places, new) and module.values.tolist() == [weight.get(i, 0.) for i in new.tolist()]


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize('method', ['ggr', 'deepr', 'dsr'])
def test_a_resumed_run_is_the_uninterrupted_one(method, order):
    whole = built(mixed, method, True, 'adam', grad_batches=2)
    for i in range(9): step(*whole, i)
    buffer = io.BytesIO(); torch.save([part.state_dict() for part in whole], buffer); buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    for i in range(9, 20): step(*whole, i)
    again = built(mixed, method, True, 'adam', grad_batches=2)
    with torch.no_grad(): [p.normal_() for p in again[0].parameters()]
    for i in order: again[i].load_state_dict(saved[i])
    for i in range(9, 20): step(*again, i)
    assert all(torch.equal(a, b) for a, b in zip(places(whole[2]).values(), places(again[2]).values()))
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), again[0].parameters()))


def test_autocast_computes_in_the_values_type_and_scaling_changes_no_mask():
    torch.manual_seed(0)
    layer = SparseLinear(12, 8, torch.arange(0, 96, 5), torch.randn(20))
    with torch.autocast('cpu', torch.bfloat16): y = layer(X.bfloat16())
    assert y.dtype == torch.float32
    plain, scaled = built(mlp, 'ggr', True), built(mlp, 'ggr', True)
    scaler = torch.amp.GradScaler('cpu', init_scale=2.**12)
    for i in range(9):
        step(*plain, i)
        scaled[1].zero_grad(); scaler.scale(cross_entropy(scaled[0](X + .1 * (i % 7)), Y)).backward(); scaler.step(scaled[1]); scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(places(plain[2]).values(), places(scaled[2]).values()))


def test_clipping_changes_no_vote_between_storages():
    a, b = built(mixed, 'ggr', True), built(mixed, 'ggr', True)
    for run, clip in ((a, None), (b, 1e9)):
        for i in range(9): step(*run, i, clip=clip)
    assert all(torch.equal(p, q) for p, q in zip(places(a[2]).values(), places(b[2]).values()))


def test_state_of_the_optimiser_is_as_small_as_the_values():
    model, opt, s = built(mlp, 'ggr', True, 'adam')
    for i in range(9): step(model, opt, s, i)
    for m in model:
        if isinstance(m, SparseLinear): assert all(t.shape == m.values.shape for k, t in opt.state[m.values].items() if k != 'step')
    assert s.updates == 4 and len({tuple(u['layers'][n]['count'] for n in u['layers']) for u in s.history}) > 1   # counts wander


def test_copies_train_on_by_themselves():
    run = built(mixed, 'ggr', True)
    for i in range(5): step(*run, i)
    twin = copy.deepcopy(run)
    for i in range(5, 12): step(*run, i); step(*twin, i)
    assert twin[2].optimizer is twin[1] and all(torch.equal(a, b) for a, b in zip(run[0].parameters(), twin[0].parameters()))


@pytest.mark.parametrize('method, said', [('gmp', 'begins dense'), ('dense', 'begins dense'), ('snfs', 'momentum of inactive places')])
def test_what_cannot_be_is_refused_by_name(method, said):
    model = mlp(); sparse_storage_(model, .3)
    with pytest.raises(ValueError, match=said): Sparsifier(model, OPTIMIZERS['sgd'](model.parameters()), method, density=.3, every=2, until=9)


def test_bad_input_is_refused():
    model = mlp(); sparse_storage_(model, .3, seed=1)
    with pytest.raises(ValueError, match='same density'): Sparsifier(model, OPTIMIZERS['sgd'](model.parameters()), 'ggr', density=.2, every=2, until=9)
    with pytest.raises(ValueError, match='not linear layers'): sparse_storage_(mlp(), .3, layers=['7'])
    with pytest.raises(ValueError, match='no linear layer'): sparse_storage_(nn.Sequential(nn.Conv2d(3, 8, 3)), .3)
    with pytest.raises(ValueError, match='32 bits'): csr(4, 2**31, torch.tensor([1]))
    crow, col = csr(2, 2**30, torch.tensor([0, 2**31 - 1]))               # 2³¹ places: positions are int64
    assert crow.tolist() == [0, 1, 2] and col.tolist() == [0, 2**30 - 1]


def test_full_density_is_a_dense_layer():
    layer = SparseLinear.from_linear(linear := nn.Linear(5, 3).double(), torch.arange(15))
    torch.testing.assert_close(layer(X[:, :5]), linear(X[:, :5]))


def _rank(rank, folder, port):
    os.environ |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE='2')
    warnings.filterwarnings('ignore'); torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    model, opt, s = built(mixed, 'ggr', True)
    net = nn.parallel.DistributedDataParallel(model)
    for i in range(9):
        opt.zero_grad(); cross_entropy(net(X[rank * 8:rank * 8 + 8] + .1 * (i % 7)), Y[rank * 8:rank * 8 + 8]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e3); opt.step()
    torch.manual_seed(rank); alone = sparse_storage_(mlp(), **HOW)       # no sparsifier, and other values in each process
    net, opt = nn.parallel.DistributedDataParallel(alone), torch.optim.SGD(alone.parameters(), .1)
    for i in range(3): opt.zero_grad(); cross_entropy(net(X[rank * 8:rank * 8 + 8] + i), Y[rank * 8:rank * 8 + 8]).backward(); opt.step()
    said = []
    for make, more in ((lambda: sparse_storage_(mlp(), density=.3, init='erk', seed=rank), {}), (lambda: sparse_storage_(mlp(), **HOW), dict(find_unused_parameters=True)),
                       (lambda: nn.Sequential(sparse_storage_(mlp(), **HOW)), {})):
        try: nn.parallel.DistributedDataParallel(make(), **more)(X); said.append('')
        except RuntimeError as e: said.append(str(e))
    torch.save([places(s), dense(model), dense(alone), said], f'{folder}/{rank}.pt')
    torch.distributed.destroy_process_group()


def test_two_processes_train_the_network_of_one(tmp_path):
    import socket
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    torch.multiprocessing.start_processes(_rank, (str(tmp_path), port), nprocs=2, start_method='forkserver')
    one = built(mixed, 'ggr', True)
    for i in range(9): step(*one, i, clip=1e3)
    torch.manual_seed(0); alone = sparse_storage_(mlp(), **HOW); opt = torch.optim.SGD(alone.parameters(), .1)
    for i in range(3): opt.zero_grad(); cross_entropy(alone(X + i), Y).backward(); opt.step()
    for rank in (0, 1):
        where, weights, without, said = torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        for k, v in dense(alone).items(): torch.testing.assert_close(without[k], v)
        for text, why in zip(said, ('differ from process to process', 'find_unused_parameters', 'give DDP the very model')): assert why in text
        assert all(torch.equal(p, where[n]) for n, p in places(one[2]).items())
        for k, v in dense(one[0]).items(): torch.testing.assert_close(weights[k], v)


def test_a_density_too_high_to_pay_and_a_device_without_kernels(monkeypatch):
    with pytest.warns(UserWarning, match='slower than dense from about 15%'): sparse_storage_(mlp(), density=.5)
    with warnings.catch_warnings():
        warnings.simplefilter('error'); sparse_storage_(mlp(), density=.14)
    monkeypatch.setattr('ggr_nb.sparse.KERNELS', ('cuda',)); model = mlp()
    with pytest.raises(ValueError, match="0 is on 'cpu'"): sparse_storage_(model, density=.1)
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize('set_to_none', [True, False])
@pytest.mark.parametrize('how', ['frozen', 'unused'])
def test_what_has_no_gradient_is_neither_dropped_nor_grown(how, set_to_none):
    model, opt, sparsifier = built(mlp, 'ggr', True)
    used = lambda: model if how == 'frozen' else nn.Sequential(model[0], nn.ReLU(), nn.Linear(10, 4, bias=False).double())
    step(model, opt, sparsifier, 0); step(model, opt, sparsifier, 1)      # the third is an update
    before = places(sparsifier)
    assert sparsifier.due()
    if how == 'frozen': model[2].values.requires_grad_(False)
    opt.zero_grad(set_to_none=set_to_none); cross_entropy(used()(X), Y).backward(); opt.step()
    still = ('2.weight',) if how == 'frozen' else ('2.weight', '4.weight')
    assert all(torch.equal(sparsifier.layers[n].places, before[n]) for n in still) and sparsifier.updates == 1
    assert not torch.equal(sparsifier.layers['0.weight'].places, before['0.weight'])


def test_distributed_checkpoint_takes_layers_of_constant_count_and_names_the_others(tmp_path):
    import torch.distributed.checkpoint as dcp
    for method in ('set', 'ggr'):
        whole, again = built(mlp, method, True), built(mlp, method, True)
        for i in range(5): step(*whole, i)
        all_of = lambda run: {'model': run[0].state_dict(), 'sparsifier': run[2].state_dict()}
        dcp.save(all_of(whole), checkpoint_id=tmp_path / method)
        state = all_of(again)
        if method == 'ggr':
            with pytest.raises(dcp.CheckpointException, match='(?i)size mismatch'): dcp.load(state, checkpoint_id=tmp_path / method)
            continue
        dcp.load(state, checkpoint_id=tmp_path / method)
        again[0].load_state_dict(state['model']); again[2].load_state_dict(state['sparsifier'])
        again[1].load_state_dict(copy.deepcopy(whole[1].state_dict()))
        for i in range(5, 9): step(*whole, i); step(*again, i)
        assert all(torch.equal(a, b) for a, b in zip(dense(whole[0]).values(), dense(again[0]).values()))


def test_the_benchmark_runs(monkeypatch):
    import importlib.util
    from pathlib import Path
    folder = Path(__file__).parent.parent / 'benchmarks'
    monkeypatch.syspath_prepend(folder)
    spec = importlib.util.spec_from_file_location('bench_sparse', folder / 'sparse.py')
    bench = importlib.util.module_from_spec(spec); spec.loader.exec_module(bench)
    found = bench.main(['--quick', 'steps', 'shares', 'update', 'blocks'])
    assert found['steps'][0]['faster'] > 0 and abs(sum(found['shares']['shares'].values()) - 1) < 1e-9
    assert len(found['blocks']) == 4 and found['update'][0]['ratio'] > 0


def test_a_layer_whose_active_weights_have_no_gradient_takes_its_unit_from_the_others():
    "Under a GradScaler the batch shows gradients × 65,536; without an active gradient the layer cannot tell."
    def trained(stored, scaled):
        torch.manual_seed(0); net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)).double()
        masks = {n: torch.rand(p.shape) < .3 for n, p in net.named_parameters() if p.ndim == 2}
        masks['0.weight'][:] = False; masks['0.weight'][0] = True; masks['2.weight'][:, 0] = False       # into a unit that nobody reads
        counts = {n: int(m.sum()) for n, m in masks.items()}
        if stored: sparse_storage_(net, masks=masks)
        opt = torch.optim.SGD(net.parameters(), .01)
        how = dict(init={n: float(m.double().mean()) for n, m in masks.items()}) if stored else dict(masks=masks)
        s = Sparsifier(net, opt, 'ggr', density=sum(counts.values()) / sum(m.numel() for m in masks.values()), every=2, until=99, fraction=.5, **how)
        scaler = torch.amp.GradScaler('cpu', init_scale=2.**16, enabled=scaled)
        for i in range(3):
            opt.zero_grad(); scaler.scale(cross_entropy(net(X[:, :12].double() + i), Y)).backward(); scaler.step(opt); scaler.update()
        return places(s)
    want = trained(False, False)
    for found in (trained(True, False), trained(True, True)): assert all(torch.equal(want[n], found[n]) for n in want)


def test_the_state_of_a_layer_of_another_shape_is_refused():
    def made(i, h, o):
        model = nn.Sequential(nn.Linear(i, h), nn.ReLU(), nn.Linear(h, o)); sparse_storage_(model, density=.1, init='uniform')
        return model, Sparsifier(model, torch.optim.SGD(model.parameters(), .1), 'ggr', density=.1, init='uniform', every=2, until=9)
    (a, s), (b, t) = made(20, 40, 10), made(40, 20, 20)
    for n, l in s.layers.items(): assert l.count == t.layers[n].count                      # the counts alone would not tell
    with pytest.raises(ValueError, match='of another model'): t.load_state_dict(s.state_dict())
    wide, narrow = (sparse_storage_(nn.Sequential(nn.Linear(n, 30)), density=.1) for n in (2000, 20)); before = copy.deepcopy(narrow.state_dict())
    with pytest.raises(ValueError, match='a pattern of another layer'): narrow.load_state_dict(wide.state_dict())
    assert all(torch.equal(before[n], v) for n, v in narrow.state_dict().items())


class Tied(nn.Module):
    def __init__(self): super().__init__(); self.a, self.b, self.c = (nn.Linear(12, 12) for _ in range(3)); self.b.weight = self.a.weight
    def forward(self, x): return self.c(self.b(self.a(x).relu()))

class Twice(Tied):
    def __init__(self): super().__init__(); self.b = self.a


@pytest.mark.parametrize('make', [Tied, Twice])
def test_one_weight_in_two_places_is_refused_before_anything_changes(make):
    model = make(); before = dict(model.named_modules())
    with pytest.raises(ValueError, match='a.weight and b.weight are one weight'): sparse_storage_(model, density=.2)
    assert dict(model.named_modules()) == before
    sparse_storage_(model, density=.2, layers=['c']); assert type(model.c) is SparseLinear and model.a.weight is model.b.weight


class Twice(nn.Module):
    "One layer used twice in a forward pass."
    def __init__(self): super().__init__(); self.inner, self.head = nn.Linear(12, 12), nn.Linear(12, 4); self.double()
    def forward(self, x): return self.head(self.inner(self.inner(x).relu()).relu())


@pytest.mark.parametrize('method', ['rigl', 'ggr'])
def test_a_layer_used_twice_shows_growth_both_uses(method): same_run(Twice, method, steps=12)


@pytest.mark.parametrize('set_to_none', [True, False])
def test_a_batch_that_is_thrown_away_is_not_seen_by_growth(set_to_none):
    runs = built(mlp, 'ggr', True), built(mlp, 'ggr', False)
    for i in range(12):
        for model, opt, _ in runs:
            model(X.flip(1) * (math.nan if i % 4 == 2 else 3)).sum().backward(); opt.zero_grad(set_to_none)
            for x, y in zip(X.chunk(2), Y.chunk(2)): cross_entropy(model(x + i), y).backward()
            opt.step()
    p, q = (places(run[2]) for run in runs)
    assert all(torch.equal(p[n], q[n]) for n in p) and runs[0][2].updates == 5


def looks(model, i, when): # gradients of something else, between the batches of a step: a saliency map, a penalty
    if when(i): torch.autograd.grad(model(x := (X * 30 + i).requires_grad_()).square().sum(), x)


def by_hand(model, i):
    "The gradient is asked for, and set."
    weights = list(model.parameters())
    for w, g in zip(weights, torch.autograd.grad(cross_entropy(model(X + i), Y), weights)): w.grad = g


def by_parts(model, i):
    for part, (x, y) in enumerate(zip(X.chunk(2), Y.chunk(2))):
        looks(model, i, lambda i: i % 2 == part)
        cross_entropy(model(x + i), y).backward()
        looks(model, i, lambda i: i % 3 == part)


def by_checkpoints(model, i):
    "Each half of the network in a backward pass of its own, within the backward pass."
    half = len(model) // 2
    inner = lambda x: torch.utils.checkpoint.checkpoint(model[:half], x, use_reentrant=True)
    cross_entropy(model[half:](inner((X + i).requires_grad_())), Y).backward()


def by_copies(model, i): copy.deepcopy(model)(X * 30).sum().backward(); cross_entropy(model(X + i), Y).backward()


@pytest.mark.parametrize('loop', [by_hand, by_parts, by_checkpoints, by_copies])
def test_growth_sees_what_the_gradient_is_made_of(loop):
    runs = built(mlp, 'ggr', True), built(mlp, 'ggr', False)
    for i in range(12):
        for model, opt, _ in runs: opt.zero_grad(); loop(model, i); opt.step()
        p, q = (places(run[2]) for run in runs)
        assert all(torch.equal(p[n], q[n]) for n in p), i
    assert runs[0][2].updates == 5 and all(sum(l['grown'] for l in run[2].history[-1]['layers'].values()) for run in runs)


def test_a_step_goes_on_in_a_copy_or_another_process():
    runs = built(mlp, 'ggr', True), built(mlp, 'ggr', False)
    for model, opt, s in runs:
        for i in range(2): step(model, opt, s, i)                       # the coming step is an update
    buffer = io.BytesIO(); torch.save(runs[0], buffer); buffer.seek(0)
    a, b = copy.deepcopy(runs[0]), torch.load(buffer, weights_only=False)
    for run in (a, b, *runs): step(*run, 2)
    for run in (a, b): assert all(torch.equal(p, places(run[2])[n]) for n, p in places(runs[1][2]).items()) and run[2].updates == 1


@pytest.mark.parametrize('penalty', [lambda w: w.sum(), lambda w: (w * w).sum(), lambda w: w.abs().sum(), lambda w: w.to_dense().norm()])
def test_the_weight_has_a_gradient(penalty):
    a, b = (built(mlp, 'static', sparse)[0] for sparse in (True, False))
    for model in (a, b): (model(X).square().sum() + penalty(model[0].weight)).backward()
    mask = a[0].weight.to_dense() != 0
    torch.testing.assert_close(a[0].values.grad, b[0].weight.grad[mask])


@pytest.mark.parametrize('used', [lambda x, layer: nn.functional.linear(x, layer.weight, layer.bias), lambda x, layer: (layer.weight @ x.t()).t() + layer.bias])
def test_a_weight_that_is_used_outside_its_layer_learns_and_is_said_not_to_move(used):
    class Model(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = nn.Linear(12, 10).double(), nn.Linear(10, 4).double()
        def forward(self, x): return self.b(used(x, self.a).relu())
    model, opt, sparsifier = built(Model, 'ggr', True); before, values = places(sparsifier), model.a.values.detach().clone()
    with pytest.warns(UserWarning, match='a.weight: its weights have a gradient that did not come through the layer'):
        for i in range(6): step(model, opt, sparsifier, i)
    after = places(sparsifier); moved = {n: not torch.equal(before[n], after[n]) for n in before}
    assert moved == {'a.weight': False, 'b.weight': True} and not torch.equal(values, model.a.values)


@pytest.mark.parametrize('penalty', ['l2', 'l1', 'both'])
def test_a_penalty_in_the_loss_changes_no_unit_of_the_vote(penalty):
    "What it adds at active places is none of the batches' gradient; free places hold zeros and get nothing of it."
    runs = built(mlp, 'ggr', True), built(mlp, 'ggr', False); shown = []
    for model, opt, s in runs:
        for i in range(2): step(model, opt, s, i)
        weights = [l.weight for l in s.layers.values()]
        more = sum((w * w).sum() for w in weights) * (penalty != 'l1') + sum(w.abs().sum() for w in weights) * (penalty != 'l2')
        opt.zero_grad(); (cross_entropy(model(X), Y) + .05 * more).backward()
        shown.append({n: g.at((~s.masks[n]).flatten().nonzero().flatten()) for n, g in quiet(s._gradients).items()})
    for n in shown[0]: torch.testing.assert_close(shown[0][n], shown[1][n])
    model, opt, s = runs[0]
    with pytest.warns(UserWarning, match='is not a multiple of what the batches gave'): s.layers['0.weight']._told = False; opt.step()


@pytest.mark.parametrize('l2,l1', [(0, 0), (.3, 0), (0, .3), (.3, .3)])
def test_the_unit_of_a_gradient_is_found_beside_penalties(l2, l1):
    mine, w = torch.randn(2, 40, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    factor, exact = unit_of(.37 * mine + l2 * w + l1 * w.sign(), mine, w)
    assert exact == (not l1 and not l2) and abs(factor - .37) < 1e-9 and not unit_of(mine.clamp(-.1, .1), mine, w)[1]


def test_another_gradient_than_that_of_the_batches_is_said():
    model, opt, sparsifier = built(mlp, 'ggr', True)
    with pytest.warns(UserWarning, match='is not a multiple of what the batches gave'):
        for i in range(6):
            opt.zero_grad(); cross_entropy(model(X), Y).backward()
            nn.utils.clip_grad_value_(model.parameters(), 1e-3); opt.step()


def averages(model):
    yield torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(.9))
    copied = copy.deepcopy(model)
    def update():
        with torch.no_grad():
            for a, b in zip(copied.parameters(), model.parameters()): a.lerp_(b, .1)
    copied.update_parameters = lambda _: update(); yield copied


@pytest.mark.parametrize('method', ['static', 'rigl'])                  # rigl: the number of weights stays, the places move
@pytest.mark.parametrize('kind', [0, 1], ids=['buffers-too', 'parameters'])
def test_an_average_of_places_that_moved_is_refused(method, kind):
    model, opt, sparsifier = built(mlp, method, True); average = list(averages(model))[kind]
    for i in range(5): step(model, opt, sparsifier, i); average.update_parameters(model)
    if method == 'rigl':
        with pytest.raises(RuntimeError, match='values of different weights are mixed'): average(X)
        late = list(averages(model))[kind]; model = model.eval(); late.update_parameters(model); late(X)    # made after the updates
        twin = copy.deepcopy((model, opt, sparsifier))
        for i in range(4): step(*twin, i)                                # a copy that is trained is none
        twin[0](X)
    else: assert average(X).isfinite().all()


def test_evaluation_of_torchs_encoder_takes_the_way_of_training():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 2, 24, dropout=0., batch_first=True), 1).eval()
    sparse_storage_(model, density=.1); twin = dense_storage_(copy.deepcopy(model))
    x, pad = torch.randn(2, 5, 12), torch.arange(5).expand(2, 5) > 3
    with torch.no_grad(): torch.testing.assert_close(model(x, src_key_padding_mask=pad)[:, :4], twin(x, src_key_padding_mask=pad)[:, :4])
    assert model.layers[0].linear1.weight.shape == (24, 12) and model.layers[0].linear1.weight.dtype == torch.float32


def test_compiling_is_done_once_however_the_counts_move():
    import torch._dynamo.utils as seen
    seen.counters.clear(); model, opt, sparsifier = built(mlp, 'ggr', True); compiled = torch.compile(model, backend='eager')
    for i in range(5): step(compiled, opt, sparsifier, i)
    once = dict(seen.counters['frames']); before = sparsifier.counts()
    for i in range(5, 16): step(compiled, opt, sparsifier, i)
    assert sparsifier.counts() != before and dict(seen.counters['frames']) == once


def test_static_masks_need_no_batches():
    model, opt, sparsifier = built(mlp, 'static', True, every=4, grad_batches=3)
    for i in range(9): step(model, opt, sparsifier, i)
    assert sparsifier.updates == 0


@pytest.mark.parametrize('export', [lambda m, x: torch.export.export(m, (x,)), torch.jit.trace], ids=['export', 'trace'])
def test_an_exported_form_is_refused_and_the_way_to_it_said(export):
    model = sparse_storage_(mlp(), density=.1).eval()
    with pytest.raises(RuntimeError, match='no exported form: export dense_storage_ of a copy'): export(model, X)
    done = export(dense_storage_(copy.deepcopy(model)), X)
    torch.testing.assert_close((done.module() if isinstance(done, torch.export.ExportedProgram) else done)(X), model(X))


def test_a_second_derivative_is_refused():
    model = sparse_storage_(mlp(), density=.1); (g,) = torch.autograd.grad(model(X).square().sum(), model[0].values, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'): g.sum().backward()


# ---- as a dense layer would be treated

def stored(method='rigl', optimizer='sgd'):
    torch.manual_seed(0); return built(mlp, method, True, optimizer)

def trained(parts, first, last):
    for i in range(first, last): step(*parts, i)
    return parts


def test_a_parameter_that_replaces_the_values_is_refused():
    model, opt, s = trained(stored(), 0, 3); state = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match='assign=True'): model.load_state_dict(state, assign=True)


@pytest.mark.parametrize('how', ['masks', 'density'])
def test_frozen_stays_frozen_there_and_back(how):
    model = mlp(); model[0].weight.requires_grad_(how == 'density'); model[0].bias.requires_grad_(False); model[2].eval()
    masks = {n: torch.rand(p.shape) < .1 for n, p in model.named_parameters() if p.ndim > 1}
    quiet(sparse_storage_, model, **(dict(masks=masks) if how == 'masks' else dict(density=.1)))
    frozen = lambda w: (getattr(model[0], w).requires_grad, model[0].bias.requires_grad, model[2].training)
    assert frozen('values') == (how == 'density', False, False) and model[2].values.requires_grad
    dense_storage_(model); assert frozen('weight') == (how == 'density', False, False) and model[2].weight.requires_grad


def test_hooks_that_are_left_behind_are_told():
    model = mlp(); model[2].register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match='had hooks'): sparse_storage_(model, density=.1)


@pytest.mark.parametrize('method', ['rigl', 'ggr'])
@pytest.mark.parametrize('optimizer', ['sgd', 'adam'])
def test_weights_loaded_without_the_optimisers_state_begin_anew(method, optimizer):
    parts = model, opt, s = trained(stored(method, optimizer), 0, 5); best = copy.deepcopy(model.state_dict()); trained(parts, 5, 12)
    model.load_state_dict(best)
    with pytest.warns(UserWarning, match='without the state of the optimiser, which begins anew'): step(*parts, 12)
    for l in s.layers.values(): assert all(t.shape == l.weight.shape for t in opt.state[l.weight].values() if t.ndim)
    trained(parts, 13, 20); assert sum(s.counts().values()) == sum(s.targets.values())


@pytest.mark.parametrize('order', ['alone', 'whole'])
def test_an_optimiser_that_has_stepped_before_its_sparsifier_keeps_no_state_of_other_places(order):
    first = model, opt, s = trained(stored(), 0, 6); states = [copy.deepcopy(p.state_dict()) for p in first]
    model, opt, s = trained(stored(), 0, 3); s.remove()
    if order == 'whole': opt.load_state_dict(states[1])
    parts = model, opt, Sparsifier(model, opt, 'rigl', init=s.densities(), every=2, until=41, fraction=.3)
    model.load_state_dict(states[0])
    if order == 'alone':
        with pytest.warns(UserWarning, match='without the state of the optimiser, which begins anew'): step(*parts, 6)
        return
    parts[2].load_state_dict(states[2])
    trained(parts, 6, 12); trained(first, 6, 12)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), first[0].state_dict().values()))


def test_a_backward_pass_of_other_places_is_refused():
    model, opt, s = trained(stored(), 0, 2); out = model(X); other = model(X)
    opt.zero_grad(); cross_entropy(out, Y).backward(); s.mask_gradients()          # the update comes here
    with pytest.raises(RuntimeError, match='places of a sparse layer have moved since this forward pass'): cross_entropy(other, Y).backward()


@pytest.mark.parametrize('method', ['static', 'rigl'])
@pytest.mark.parametrize('how', ['deepcopy', 'pickle'])
def test_a_copy_of_a_resumed_run_goes_on_as_it(method, how):
    state = [copy.deepcopy(p.state_dict()) for p in trained(stored(method, 'adam'), 0, 3)]
    parts = stored(method, 'adam')
    for part, s in zip(parts, state): part.load_state_dict(s)
    trained(parts, 3, 4)
    again = copy.deepcopy(parts) if how == 'deepcopy' else pickle.loads(pickle.dumps(parts))
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        trained(again, 4, 9); trained(parts, 4, 9)
    assert all(torch.equal(a, b) for a, b in zip(parts[0].state_dict().values(), again[0].state_dict().values()))


def test_a_layer_unfrozen_before_its_update_keeps_its_places_once():
    model, opt, s = stored(); model[0].values.requires_grad_(False); trained((model, opt, s), 0, 2)
    places = model[0].places; model[0].values.requires_grad_(True)
    with pytest.warns(UserWarning, match='frozen when the last step ended'): step(model, opt, s, 2)
    assert torch.equal(places, model[0].places)
    trained((model, opt, s), 3, 6); assert not torch.equal(places, model[0].places)


def test_a_converted_copy_is_no_average():
    model, opt, s = trained(stored(), 0, 3); kept = copy.deepcopy(model).double(); before = kept(X.double())
    trained((model, opt, s), 3, 9)
    assert torch.equal(before, kept(X.double())) and not torch.equal(kept[0].places, model[0].places)
    with torch.no_grad(): kept[0].values.lerp_(model[0].values.double(), .5)
    with pytest.raises(RuntimeError, match='averaged'): kept(X.double())


def test_another_number_of_weights_is_told():
    model, opt, s = stored(); torch.manual_seed(1); other = quiet(sparse_storage_, mlp(), density=.4); model.load_state_dict(other.state_dict())
    with pytest.warns(UserWarning, match='weights more than before'): step(model, opt, s, 0)


@pytest.mark.parametrize('method', ['static', 'rigl'])
def test_an_optimiser_whose_step_nobody_calls_is_noticed(method):
    model, opt, s = stored(method); opt = torch.optim.SGD(model.parameters(), lr=.05)
    with pytest.warns(UserWarning, match='written to without a SGD.step'):
        for i in range(12): step(model, opt, None, i)
    assert s.steps == 0


@pytest.mark.parametrize('x', [torch.randn(4, 13), torch.randn(6, 4), torch.ones(4, 12, dtype=torch.int64)], ids=['wide', 'narrow', 'integers'])
def test_inputs_that_a_linear_layer_refuses(x):
    layer = quiet(sparse_storage_, nn.Sequential(nn.Linear(12, 3)), density=.2)
    with pytest.raises(RuntimeError, match=r'the layer reads \[..., 12\] real numbers'): layer(x)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_numbers_without_a_kernel_are_refused_by_name(dtype):
    layer = quiet(sparse_storage_, nn.Sequential(nn.Linear(12, 3)), density=.2).to(dtype)
    with pytest.raises(RuntimeError, match='on no CPU'): layer(torch.randn(2, 12).to(dtype))


@pytest.mark.parametrize('method', ['static', 'rigl', 'ggr'])
@pytest.mark.parametrize('optimizer', ['sgd', 'adam'])
def test_weights_that_are_swapped_out_and_in_again_change_nothing(method, optimizer):
    "An average or the best weights are looked at, and the present ones put back: the optimiser's state stays."
    plain, swapped = trained(stored(method, optimizer), 0, 5), trained(stored(method, optimizer), 0, 5); best = copy.deepcopy(swapped[0].state_dict())
    for i in range(5, 12):
        step(*plain, i); now = copy.deepcopy(swapped[0].state_dict())
        with warnings.catch_warnings():
            warnings.simplefilter('error'); swapped[0].load_state_dict(best); swapped[0](X); swapped[0].load_state_dict(now); step(*swapped, i)
    assert all(torch.equal(a, b) for a, b in zip(plain[0].state_dict().values(), swapped[0].state_dict().values()))


def test_a_state_that_is_one_number_is_left_alone():
    parts = model, opt, s = trained(stored('rigl', 'adam'), 0, 5); best = copy.deepcopy(model.state_dict()); trained(parts, 5, 9)
    for l in s.layers.values(): opt.state[l.weight]['mine'] = torch.ones(1)
    model.load_state_dict(best); quiet(step, *parts, 9)
    for l in s.layers.values(): assert opt.state[l.weight]['mine'].shape == (1,) and opt.state[l.weight]['step'] == 1
