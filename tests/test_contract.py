"""The contract: in anyone's loop, inactive weights are zero and a resumed run is the uninterrupted one; or it is said by name.

The matrix takes every optimiser with every method, each in one of the loops and resumed at one of its steps in one of the
orders, drawn for each pair; CONTRACT=all takes every loop and four steps.
"""
import copy, gc, io, itertools, math, os, pickle, random, warnings, weakref
from collections import Counter, namedtuple
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np, pytest, torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.functional import cross_entropy

from conftest import quiet, same
from ggr_nb.beyond.snip import snip_masks
from ggr_nb.init import random_masks
from ggr_nb.masks import matrices, sparse_parameters
from ggr_nb.drop import drop_dead_first, drop_local
from ggr_nb.grow import hybrid, pick_random
from ggr_nb.methods import METHODS, full_masks, no_allocation
from ggr_nb.sparse import sparse_storage_
from ggr_nb.sparsify import SCALINGS, Sparsifier, _spelled, check_norms_stay, norm_axes

O, WHOLE = torch.optim, os.environ.get('CONTRACT') == 'all'
X, Y = torch.randn(16, 12, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4
core = pytest.mark.core

# ---- the matrix -----------------------------------------------------------------------------------------------

OPTIMIZERS = dict(
    Adadelta=dict(lr=.5, weight_decay=1e-3), Adafactor=dict(lr=.02), Adagrad=dict(lr=.05, initial_accumulator_value=.1, weight_decay=1e-3),
    Adam=dict(lr=1e-2, amsgrad=True, weight_decay=1e-3), AdamW=dict(lr=1e-2), Adamax=dict(lr=1e-2, weight_decay=1e-3), ASGD=dict(lr=.05, t0=4),
    Muon=dict(lr=.02), NAdam=dict(lr=1e-2, decoupled_weight_decay=True, weight_decay=1e-3), RAdam=dict(lr=1e-2),
    RMSprop=dict(lr=1e-3, momentum=.9, centered=True), Rprop=dict(lr=.01), SGD=dict(lr=.05, momentum=.9, nesterov=True, weight_decay=1e-3))
REFUSED = {'LBFGS': 'many gradients in one step', 'SparseAdam': 'sparse gradients'}
BORN = {('Rprop', 'step_size'): .01, ('Adagrad', 'sum'): .1, ('Adamax', 'exp_inf'): 1e-8}          # what state begins with, where that is not 0
WITHOUT_MOMENTUM = {'Adadelta', 'Adafactor', 'Adagrad', 'ASGD', 'Rprop'}
FUSED = {'SGD', 'Adam', 'AdamW', 'Adagrad'}
LOOPS, EVERY, STEPS = ('plain', 'accumulate', 'clip', 'scaler', 'fused'), 3, 14
ORDERS = [o for o in itertools.permutations(('model', 'optimizer', 'make', 'sparsifier')) if o.index('make') < o.index('sparsifier')]


def net(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 10, bias), nn.ReLU(), nn.Linear(10, 8, bias), nn.ReLU(), nn.Linear(8, 4, bias))


def sparse(model, optimizer=None, method='rigl', **more):
    "What a user has after the two lines."
    if optimizer is None: optimizer = O.SGD(model.parameters(), lr=.05, momentum=.9)
    return model, optimizer, quiet(Sparsifier, model, optimizer, method, **dict(density=.3, every=2, until=99, fraction=.3) | more)


def loss_of(model, i=0): return cross_entropy(model(X + .1 * (i % 7)), Y)


def step(model, optimizer, i=0, *_):
    optimizer.zero_grad(); loss_of(model, i).backward(); optimizer.step()


def astray(s): return [n for n, l in s.layers.items() if l.weight.detach()[~l.bool_mask].any()]


def everything(*parts): return copy.deepcopy([p.state_dict() for p in parts])


class Loop:
    "A user's loop of one of the kinds; `parts` are what is saved."
    def __init__(self, optimizer, method, kind, seed=1):
        self.kind, self.method = kind, method
        self.model = net(bias=optimizer != 'Muon')
        fused = dict(fused=True) if kind == 'fused' and optimizer in FUSED else {}
        self.optimizer = getattr(O, optimizer)(self.model.parameters(), **OPTIMIZERS[optimizer] | fused)
        self.scaler = torch.amp.GradScaler('cpu', init_scale=2.**6, growth_interval=4, enabled=kind in ('scaler', 'fused'))
        self.seed, self.made = seed, None

    def make(self):
        self.made = quiet(Sparsifier, self.model, self.optimizer, self.method, density=.3, every=EVERY, until=STEPS - 3, fraction=.3,
                          grad_batches=2, seed=self.seed)
        return self

    @property
    def parts(self): return dict(model=self.model, optimizer=self.optimizer, sparsifier=self.made, scaler=self.scaler)

    def step(self, i):
        self.optimizer.zero_grad()
        pieces = 2 if self.kind == 'accumulate' else 1
        for x, y in zip((X + .1 * (i % 7)).chunk(pieces), Y.chunk(pieces)):
            self.scaler.scale(cross_entropy(self.model(x), y) / pieces).backward()
        if self.kind in ('scaler', 'fused') and i in (2, 6): self.model[0].weight.grad[0, 0] = float('inf')    # skipped
        if self.kind == 'clip' or self.kind == 'scaler' and i % 2:
            self.scaler.unscale_(self.optimizer); self.made.mask_gradients()
            nn.utils.clip_grad_norm_(self.model.parameters(), .5)
        quiet(self.scaler.step, self.optimizer); self.scaler.update()

    def zeros(self, name):
        "Nothing where no weight is: by its own look, not by the library's."
        assert astray(self.made) == []
        if self.method == 'snfs': return                          # its momentum is dense, by definition
        for layer in self.made.layers.values():
            for k, t in self.optimizer.state[layer.weight].items():
                if torch.is_tensor(t) and t.shape == layer.weight.shape:
                    assert (t[~layer.bool_mask] == torch.tensor(BORN.get((name, k), 0.))).all(), (layer.name, k)


def uninterrupted_is_resumed(optimizer, method, kind):
    if METHODS[method].reads_momenta and optimizer in WITHOUT_MOMENTUM:
        with pytest.raises(ValueError, match='reads the momentum'): Loop(optimizer, method, kind).make()
        return
    whole, saved, luck = Loop(optimizer, method, kind).make(), {}, random.Random(optimizer + method + kind)
    stops = luck.sample(range(STEPS), 1 if not WHOLE else 4)
    total = sum(whole.made.counts().values())
    for i in range(STEPS):
        if i in stops: saved[i] = {k: copy.deepcopy(p.state_dict()) for k, p in whole.parts.items()}
        whole.step(i)
        whole.zeros(optimizer); whole.made.check()
        assert sum(whole.made.counts().values()) == total or method == 'gmp'
    skipped = 2 if kind in ('scaler', 'fused') else 0
    assert whole.made.steps == STEPS - skipped
    assert bool(whole.made.updates) == whole.made.method.dynamic
    for stop in stops:
        again, order = Loop(optimizer, method, kind, seed=5), luck.choice(ORDERS)
        with torch.no_grad(): [p.normal_() for p in again.model.parameters()]
        for what in order:
            if what == 'make': again.make()
            else: again.parts[what].load_state_dict(copy.deepcopy(saved[stop][what]))
        again.scaler.load_state_dict(saved[stop]['scaler'])
        for i in range(stop, STEPS): again.step(i)
        for k, p in whole.parts.items(): assert same(p.state_dict(), again.parts[k].state_dict()), (k, stop, order)


@core
def test_the_matrix_knows_every_optimiser_of_torch():
    classes = {n for n, c in vars(O).items() if isinstance(c, type) and issubclass(c, O.Optimizer) and c is not O.Optimizer}
    assert classes == set(OPTIMIZERS) | set(REFUSED)


@pytest.mark.parametrize('optimizer', [pytest.param(o, marks=core if o in ('SGD', 'Adam') else ()) for o in OPTIMIZERS])
def test_every_method_and_loop_is_exact_and_resumes_in_any_order(optimizer):
    for j, method in enumerate(METHODS):
        mine = LOOPS if WHOLE else [LOOPS[(j + list(OPTIMIZERS).index(optimizer)) % len(LOOPS)]]
        for kind in mine: uninterrupted_is_resumed(optimizer, method, kind)


@core
@pytest.mark.parametrize('name', REFUSED)
def test_optimisers_that_cannot_be_are_refused_before_anything_changes(name):
    model = net(); opt = getattr(O, name)(model.parameters()); before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=REFUSED[name]): Sparsifier(model, opt, 'static')
    assert same(before, model.state_dict())


# ---- 1: the optimiser moves inactive weights -------------------------------------------------------------------

class Noisy(O.SGD):
    "Adds noise to every weight, as Langevin dynamics do."
    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for g in self.param_groups: [p.add_(.01 * torch.randn_like(p)) for p in g['params']]
        return loss


class Centralised(O.SGD):
    "Subtracts the mean of each unit's gradient."
    def step(self, closure=None):
        for g in self.param_groups:
            for p in g['params']:
                if p.ndim > 1: p.grad -= p.grad.mean(1, keepdim=True)
        return super().step(closure)


class Yogi(O.Optimizer):
    "Written by hand; its state does not begin at zero."
    def __init__(self, params, lr=.01): super().__init__(params, dict(lr=lr, betas=(.9, .99)))

    def step(self, closure=None):
        with torch.no_grad():
            for g in self.param_groups:
                for p in g['params']:
                    if not self.state[p]: self.state[p].update(exp_avg=torch.full_like(p, 1e-3), exp_avg_sq=torch.full_like(p, 1e-6))
                    m, v, sq = *self.state[p].values(), p.grad**2
                    m.mul_(.9).add_(p.grad, alpha=.1); v.sub_((v - sq).sign() * sq, alpha=.01)
                    p.sub_(g['lr'] * m / (v.abs().sqrt() + 1e-3))


class Turned(O.Optimizer):
    "Keeps its momentum in other coordinates, as SOAP does."
    def __init__(self, params, lr=.02): super().__init__(params, dict(lr=lr))

    def step(self, closure=None):
        with torch.no_grad():
            for p in (p for g in self.param_groups for p in g['params']):
                if p.ndim < 2: continue
                turn = torch.linalg.qr(torch.arange(len(p)**2.).view(len(p), -1).sin())[0]
                m = self.state[p].setdefault('momentum', torch.zeros_like(p)).mul_(.9).add_(turn @ p.grad)
                p.sub_(turn.T @ m, alpha=.02)


MOVERS = dict(noise=Noisy, mean=Centralised, nonzero=Yogi, turned=Turned, Muon=lambda p: O.Muon(p, lr=.02))


@core
@pytest.mark.parametrize('kind', MOVERS)
@pytest.mark.parametrize('method', ['static', 'ggr', 'deepr', 'snfs'])
def test_an_optimiser_that_moves_inactive_weights_is_masked_and_named_once(kind, method):
    model = net(bias=False); opt = MOVERS[kind](model.parameters(), **(dict(lr=.05, momentum=.9) if kind in ('noise', 'mean') else {}))
    if method == 'snfs' and kind in ('turned', 'nonzero'): method = 'set'
    s = sparse(model, opt, method)[2]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        for i in range(9): step(model, opt, i); assert astray(s) == [], i
    told = [str(w.message) for w in said if 'moves inactive weights' in str(w.message)]
    assert len(told) == (method != 'snfs') and all(type(opt).__name__ in t for t in told)
    s.check()


@core
def test_noise_that_begins_late_is_found_soon_without_any_update():
    class Late(O.SGD):
        def step(self, closure=None):
            super().step(closure)
            if len(calls) > 20: [p.data.add_(.01) for p in self.param_groups[0]['params']]
            calls.append(1)
    calls, model = [], net(); opt = Late(model.parameters(), lr=.01); s = sparse(model, opt, 'static')[2]
    with pytest.warns(UserWarning, match='moves inactive weights'):
        for i in range(120): step(model, opt, i)
    assert astray(s) == []


@core
def test_state_in_other_coordinates_is_left_alone_and_said():
    model = net(bias=False); opt = Turned(model.parameters()); s = sparse(model, opt, 'rigl')[2]
    with pytest.warns(UserWarning, match='keeps .*momentum'): step(model, opt)
    seen = []
    s_states = lambda: {n: opt.state[l.weight]['momentum'].clone() for n, l in s.layers.items()}
    opt.register_step_pre_hook(lambda *a: seen.append(s_states()))      # after the sparsifier's own hook
    for i in range(1, 4):
        before = s_states(); quiet(step, model, opt, i)
        assert same(before, seen[-1]), 'an update wrote into a state it cannot read'
    assert s.updates == 1


@core
def test_a_step_that_calls_its_parents_step_counts_once():
    O.SGD([nn.Parameter(torch.zeros(1))])                 # from now on the parent's step calls hooks, too
    model = net(); opt = Noisy(model.parameters(), lr=.05); s = sparse(model, opt, 'rigl')[2]
    for i in range(6): quiet(step, model, opt, i)
    assert (s.steps, s.updates) == (6, 2)
    def broken(): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): opt.step(broken)
    quiet(step, model, opt); assert s.steps == 7 and s.updates == 3 and astray(s) == []


def lookahead(write, every=3):
    "The loop of Lookahead: slow weights from before the two lines, so they are dense."
    def run(model, opt, s, steps):
        for i in range(steps):
            step(model, opt, i)
            if i % every == every - 1:
                for p, q in zip(model.parameters(), run.slow): q += .5 * (p.detach() - q); write(p, q)
    return run


def by_copy(p, q):
    with torch.no_grad(): p.copy_(q)
def by_data(p, q): p.data.copy_(q)
def by_swap(p, q): p.data = q.clone()


def true_density(s):
    return sum(int(l.weight.count_nonzero()) for l in s.layers.values()) / sum(l.size for l in s.layers.values())


@core
@pytest.mark.parametrize('method', ['static', 'ggr'])
@pytest.mark.parametrize('write', [by_copy, by_data, by_swap])
def test_weights_written_outside_the_step_are_masked_and_said(write, method):
    model = net(); slow = [p.detach().clone() for p in model.parameters()]
    run = lookahead(write); run.slow = slow
    _, opt, s = sparse(model, method=method, every=4)
    with pytest.warns(UserWarning, match='outside the optimiser'): run(model, opt, s, 60)
    seen = []
    model[0].register_forward_pre_hook(lambda *_: seen.append(true_density(s)))
    run(model, opt, s, 12); loss_of(model)
    assert max(seen) <= s.density + 1e-9


@core
def test_the_second_pass_of_sam_sees_a_sparse_network():
    model, opt, s = sparse(net(), method='ggr')
    seen = []
    model[0].register_forward_pre_hook(lambda *_: seen.append(true_density(s)))
    for i in range(8):
        opt.zero_grad(); quiet(loss_of, model, i).backward()
        with torch.no_grad(): moves = [.05 * p.grad / p.grad.norm().clamp(min=1e-6) for p in model.parameters()]
        old = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad(): [p.add_(e) for p, e in zip(model.parameters(), moves)]
        opt.zero_grad(); quiet(loss_of, model, i).backward()
        for p, o in zip(model.parameters(), old): p.data = o
        quiet(opt.step)
    assert s.steps == 8 and astray(s) == []
    assert max(seen) <= s.density + 1e-9


@core
def test_an_optimiser_whose_step_nobody_calls_is_noticed():
    class Sam(O.Optimizer):
        "Two halves; its own `step` is never called."
        def __init__(self, params, base): super().__init__(params, {}); self.second = base(self.param_groups, lr=.05).step
    model = net(); opt = Sam(model.parameters(), O.SGD); s = sparse(model, opt, 'rigl')[2]
    with pytest.warns(UserWarning, match='Sam.step has not been called'):
        for i in range(3): opt.zero_grad(); loss_of(model, i).backward(); opt.second()
    loss_of(model); assert astray(s) == []


@core
def test_a_callback_that_writes_weights():
    model, opt, s = sparse(net())
    with pytest.warns(UserWarning, match='outside the optimiser'):
        for i in range(8):
            step(model, opt, i)
            with torch.no_grad(): model[2].weight.clamp_(min=.01)
    loss_of(model); assert astray(s) == []


# ---- 2, 3: weights and state that arrive later, or earlier ------------------------------------------------------

@core
def test_dense_weights_loaded_later_are_masked_at_once_and_said():
    model, opt, s = sparse(net())
    for i in range(5): step(model, opt, i)
    model.load_state_dict(net().state_dict()); assert astray(s) == []
    with pytest.warns(UserWarning, match='weights were loaded'): step(model, opt)
    model[0].load_state_dict(net()[0].state_dict()); assert astray(s) == []         # of a part
    model.load_state_dict(net().state_dict(), assign=False); assert astray(s) == []


@core
def test_weights_that_replace_the_parameters_are_noticed():
    model, opt, s = sparse(net()); step(model, opt)
    with pytest.raises(RuntimeError, match='assign'): model.load_state_dict(net().state_dict(), assign=True)


@core
def test_another_optimiser_or_other_memory_is_noticed_at_the_next_forward_pass():
    model, opt, s = sparse(net())
    for i in range(5): step(model, opt, i)
    other = O.Adam(model.parameters(), lr=.01)                             # a second stage of training, without a word to the sparsifier
    with pytest.warns(UserWarning, match='make a new sparsifier for it'):
        for i in range(3): step(model, other, i)
    loss_of(model); assert astray(s) == []
    model, opt, s = sparse(net(), method='static')
    for i in range(5): step(model, opt, i)
    model[2].weight.data = torch.randn_like(model[2].weight)
    with pytest.warns(UserWarning, match='outside the optimiser'): step(model, opt)
    assert astray(s) == []


def new_parameter(model): model[2].weight = nn.Parameter(torch.randn_like(model[2].weight))
def new_layer(model): model[2] = nn.Linear(model[2].in_features, model[2].out_features)


@core
@pytest.mark.parametrize('change', [new_parameter, new_layer])
def test_weights_that_are_replaced_by_hand_are_noticed(change):
    "Otherwise the new ones are dense, and `density` speaks of the old."
    model, opt, s = sparse(net(), every=4); step(model, opt); change(model)
    with pytest.raises(RuntimeError, match=r"other tensors in place of \['2\."): s.check()
    with pytest.raises(RuntimeError, match=r"other tensors in place of \['2\."):
        for i in range(4): step(model, opt, i)


@core
@pytest.mark.parametrize('norm', [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings('ignore:.torch.nn.utils.weight_norm. is deprecated')
def test_a_norm_of_no_weights_is_refused_before_anything_changes(norm):
    torch.manual_seed(0); model = nn.Sequential(norm(nn.Linear(12, 12)), nn.Linear(12, 4)); opt = O.SGD(model.parameters(), .1)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match='weight_norm divides by the norm of each output'): Sparsifier(model, opt, 'static', density=.05, init='uniform')
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    s = Sparsifier(model, opt, 'rigl', density=.5, every=1, until=99, seed=1)
    name, = (n for n in s.masks if n.endswith(('weight_v', 'original1')))
    gone = s.layers[name].mask.clone(); gone[3] = 0; s.layers[name].set_mask(gone); s._mask_weights()      # as an update may leave it
    with pytest.raises(ValueError, match='have none'):
        for i in range(3): step(model, opt, i)


@core
@pytest.mark.parametrize('name', ['SGD', 'Adam', 'Rprop', 'Adagrad'])
def test_state_of_a_dense_run_loaded_later_is_masked_at_once(name):
    make = lambda m: getattr(O, name)(m.parameters(), **OPTIMIZERS[name])
    other = net(); dense = make(other)
    for i in range(5): step(other, dense, i)
    loop = Loop(name, 'rigl', 'plain').make(); loop.step(0)
    loop.optimizer.load_state_dict(dense.state_dict())
    loop.zeros(name)
    for i in range(1, 6): loop.step(i); loop.zeros(name)


@core
@pytest.mark.parametrize('name', ['SGD', 'Adam', 'Rprop'])
def test_rollback_of_model_and_sparsifier_alone_stays_exact(name):
    loop = Loop(name, 'ggr', 'plain').make()
    for i in range(4): loop.step(i)
    kept = everything(loop.model, loop.made)
    for i in range(4, 9): loop.step(i)
    for part, state in zip((loop.model, loop.made), kept): part.load_state_dict(state)
    loop.zeros(name)
    for i in range(4, 9): loop.step(i); loop.zeros(name)


# ---- 4: copies ---------------------------------------------------------------------------------------------------

COPIES = dict(deepcopy=copy.deepcopy, pickle=lambda x: pickle.loads(pickle.dumps(x)),
              torch_save=lambda x: (lambda f: (torch.save(x, f), f.seek(0), torch.load(f, weights_only=False))[2])(io.BytesIO()))


@core
@pytest.mark.parametrize('how', COPIES)
@pytest.mark.parametrize('method', ['ggr', 'snfs', 'deepr', 'gmp'])
def test_a_copy_goes_on_as_the_original_and_alone(how, method):
    one = sparse(net(), method=method)
    for i in range(5): step(*one[:2], i)
    two = COPIES[how](one); kept = everything(*one)
    for i in range(5, 10): step(*two[:2], i)
    assert same(kept, everything(*one)), 'the copy moved the original'
    for i in range(5, 10): step(*one[:2], i)
    assert same(everything(*one), everything(*two)) and two[2].steps == 10 and astray(two[2]) == []


@core
def test_copies_of_the_model_alone_are_ordinary_models():
    model, opt, s = sparse(net()); step(model, opt)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.load_state_dict(net().state_dict()); twin(X)
        assert all(p.count_nonzero() == p.numel() for n, p in twin.named_parameters() if 'weight' in n)
    assert astray(s) == []


@core
def test_averaged_models_are_masked_in_one_line():
    model, opt, s = sparse(net(), method='set')
    ema = O.swa_utils.AveragedModel(model, multi_avg_fn=O.swa_utils.get_ema_multi_avg_fn(.9))
    for i in range(9): step(model, opt, i); ema.update_parameters(model)
    of = dict(ema.module.named_parameters())
    assert any(of[n][~m].any() for n, m in s.masks.items()), 'the average remembers dropped weights'
    with torch.no_grad():
        for n, m in s.masks.items(): of[n].mul_(m)
    assert not any(of[n][~m].any() for n, m in s.masks.items()) and astray(s) == []


# ---- 5: layers -----------------------------------------------------------------------------------------------------

class Conv1D(nn.Module):
    "GPT-2's linear layer: the weight is transposed."
    def __init__(self, n_in, n_out): super().__init__(); self.weight, self.bias = nn.Parameter(torch.randn(n_in, n_out) * .2), nn.Parameter(torch.zeros(n_out))
    def forward(self, x): return x @ self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, **kw): super().__init__(); self.a = nn.MultiheadAttention(12, 2, batch_first=True, **kw)
    def forward(self, x): return self.a(x[:, None], x[:, None], x[:, None])[0][:, 0]


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM): super().__init__(); self.r = kind(4, 12, num_layers=2, batch_first=True)
    def forward(self, x): return self.r(x.view(-1, 3, 4))[0][:, -1]


class Twice(nn.Module):
    def __init__(self): super().__init__(); self.b = nn.Bilinear(12, 12, 12)
    def forward(self, x): return self.b(x, x)


class Cell(nn.Module):
    def __init__(self): super().__init__(); self.c = nn.GRUCell(12, 12)
    def forward(self, x): return self.c(x)


def pruned():
    layer = nn.Linear(12, 12); prune.random_unstructured(layer, 'weight', .5); return layer


KINDS = dict(
    conv1d=(lambda: Conv1D(12, 12), 'weight'), attention=(Attention, 'a.in_proj_weight'), keys=(lambda: Attention(kdim=12, vdim=12), 'a.in_proj_weight'),
    lstm=(Recurrent, 'r.weight_hh_l1'), gru=(lambda: Recurrent(nn.GRU), 'r.weight_ih_l0'), cell=(Cell, 'c.weight_ih'), bilinear=(Twice, 'b.weight'),
    weight_norm=(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(12, 12)), 'parametrizations.weight.original1'),
    spectral_norm=(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(12, 12)), 'parametrizations.weight.original'),
    pruned=(pruned, 'weight_orig'))


@core
@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_layer_is_really_sparse(kind):
    torch.manual_seed(0); layer, name = KINDS[kind][0](), KINDS[kind][1]
    model = nn.Sequential(layer, nn.Linear(12, 4)); opt = O.Adam(model.parameters(), lr=.01)
    with warnings.catch_warnings():
        warnings.simplefilter('error')                                 # nothing stays dense: nothing to say
        s = Sparsifier(model, opt, 'rigl', density=.3, every=2, until=99, exclude=None)
    assert f'0.{name}' in s.layers and s.dense_share < .1
    for i in range(6): step(model, opt, i); s.check()
    real = [p for p, _ in matrices(model).values()]
    assert sum(int(p.count_nonzero()) for p in real) <= sum(s.counts().values()) + sum(s.stays_dense.values())
    assert s.density < .31
    if kind in ('weight_norm', 'spectral_norm', 'pruned'):
        assert (layer.weight[~s.masks[f'0.{name}']] == 0).all(), 'the weight that is used is sparse, too'


@core
def test_what_is_left_out_is_named():
    class Own(nn.Module):
        def __init__(self): super().__init__(); self.experts = nn.Parameter(torch.randn(3, 12, 12)); self.head = nn.Linear(12, 4)
        def forward(self, x): return self.head(torch.einsum('bi,eij->bj', x, self.experts))
    model = Own(); opt = O.SGD(model.parameters(), .1)
    with pytest.warns(UserWarning, match=r'90% of the matrix weights stay dense: experts') as said: s = Sparsifier(model, opt, 'static')
    assert 'include=' in str(said[0].message) and 'experts' in s._repr_html_() and '90.0% of all matrix weights stay dense' in repr(s)
    s.remove()
    with warnings.catch_warnings(): warnings.simplefilter('error'); s = Sparsifier(model, opt, 'static', include=['experts', 'head.*'])
    assert s.dense_share == 0


class Standardised(nn.Conv2d):
    "As in NFNets and BiT: the weight that is used is made of all entries, so zeros are filled again."
    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return torch.conv2d(x, w / w.std((1, 2, 3), keepdim=True), self.bias)


class Padded(nn.Conv2d):
    "Somebody's own layer that uses its weight as it is."
    def forward(self, x): return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


@core
@pytest.mark.parametrize('kind,sparse', [(Standardised, False), (Padded, True)])
def test_a_layer_that_fills_its_zeros_again_stays_dense_and_is_named(kind, sparse):
    model = nn.Sequential(kind(3, 8, 3), nn.Flatten(), nn.LazyLinear(4)); model(torch.randn(1, 3, 6, 6)); before = model[0].weight.detach().clone()
    s = quiet(Sparsifier, model, O.SGD(model.parameters(), .1), 'static')
    assert ('0.weight' in s.layers) == sparse and ('0.weight' in s.stays_dense) != sparse and torch.equal(before, model[0].weight) != sparse


PRODUCTS = dict(at=lambda x, w: x @ w.t(), matmul=lambda x, w: torch.matmul(x, w.t()), mm=lambda x, w: torch.mm(x, w.t()),
                addmm=lambda x, w: torch.addmm(torch.zeros(len(w)), x, w.t()), einsum=lambda x, w: torch.einsum('bi,oi->bo', x, w),
                named=lambda x, w: nn.functional.linear(x, weight=w), tensordot=lambda x, w: torch.tensordot(x, w, ([1], [1])))


@core
@pytest.mark.parametrize('product', PRODUCTS)
@pytest.mark.parametrize('fills', [True, False])
def test_whatever_product_a_layer_of_ones_own_uses(product, fills):
    class Own(nn.Linear):
        def forward(self, x): return PRODUCTS[product](x, self.weight - self.weight.mean() if fills else 2 * self.weight)
    model = nn.Sequential(Own(12, 9), nn.ReLU(), nn.Linear(9, 4))
    s = quiet(Sparsifier, model, O.SGD(model.parameters(), .1), 'static'); assert ('0.weight' in s.layers) != fills


@core
def test_a_layer_that_came_later_is_named():
    model, opt, s = sparse(net()); assert s.dense_share == 0
    model.append(nn.Linear(4, 4)); assert '5.weight' in s.stays_dense and 'stay dense' in repr(s)


@core
def test_after_writes_from_outside_each_layer_is_masked_whoever_calls_it():
    model, opt, s = sparse(net())
    for i in range(3):
        step(model, opt, i)
        with torch.no_grad(): model[0].weight.add_(.1)
    assert quiet(step, model, opt, 3) is None and s._mask_before_forward
    with torch.no_grad(): model[0].weight.add_(.1)
    layer = model[0]; y = layer(X)                                   # not through the model
    assert not layer.weight.detach()[~s.masks['0.weight']].any() and torch.equal(y, nn.functional.linear(X, layer.weight, layer.bias))
    other = copy.deepcopy((model, opt, s)); other[0][0].weight.data.add_(.1); other[0][0](X)
    assert not other[0][0].weight.detach()[~other[2].masks['0.weight']].any()


@core
def test_functional_calls_borrow_the_model():
    model, opt, s = sparse(net()); lent = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    torch.func.functional_call(model, lent, (X,))
    for i in range(5): step(model, opt, i); torch.func.functional_call(model, lent, (X,))
    assert s.updates == 2 and astray(s) == []


@core
def test_include_and_exclude_are_what_they_say():
    model = net(); every = list(sparse_parameters(model))
    assert list(sparse_parameters(model, exclude=every[0])) == every[1:] and list(sparse_parameters(model, include=every[:2], exclude=every[1])) == every[:1]
    s = quiet(Sparsifier, model, O.SGD(model.parameters(), .1), 'static', density=.7, exclude=every[0])
    assert list(s.layers) == every[1:] and list(s.stays_dense) == every[:1] and (model.get_parameter(every[0]) != 0).all()


@core
def test_a_tied_embedding_stays_dense_and_is_named():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__(); self.wte, self.up, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.wte.weight
        def forward(self, x): return self.head(self.up(self.wte(x)))
    model = Tied(); opt = O.SGD(model.parameters(), .1)
    with pytest.warns(UserWarning, match='stay dense: wte.weight'): s = Sparsifier(model, opt, 'static')
    assert list(s.layers) == ['up.weight']


@core
def test_lazy_layers_and_complex_weights_are_refused():
    model = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(ValueError, match='0.weight has no shape yet'): Sparsifier(model, O.SGD([nn.Parameter(torch.zeros(1))], .1), 'static')
    with pytest.raises(ValueError, match='^weight has no shape yet'): sparse_parameters(nn.LazyLinear(4))
    model = nn.Sequential(nn.Linear(4, 4, dtype=torch.cfloat), nn.Linear(4, 4)); opt = O.SGD(model.parameters(), .1)
    with pytest.raises(ValueError, match='complex'): Sparsifier(model, opt, 'static', include='*weight')
    quiet(Sparsifier, model, opt, 'static'); assert model[0].weight.count_nonzero() == 16


@core
def test_sparse_gradients_are_refused_by_name():
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 4)); opt = O.SGD(model.parameters(), .1)
    quiet(Sparsifier, model, opt, 'rigl', include='*weight', every=1, until=9)
    cross_entropy(model(Y), Y).backward()
    with pytest.raises(ValueError, match='0.weight has a sparse gradient'): opt.step()


@core
@pytest.mark.parametrize('conv', [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
@pytest.mark.parametrize('groups', [1, 2])
def test_transposed_convolutions_keep_their_signal(conv, groups):
    torch.manual_seed(0)
    layer = conv(32, 64, 3, padding=1, groups=groups, bias=False); dense = copy.deepcopy(layer)
    model = nn.Sequential(layer, nn.Flatten()); s = sparse(model, method='static', density=.1, scaling='unit')[2]
    d = {'1d': 1, '2d': 2, '3d': 3}[conv.__name__[-2:]]
    x = torch.randn(4, 32, *[7] * d)
    assert .8 < float(layer(x).std() / dense(x).std()) < 1.25


@core
@pytest.mark.parametrize('groups', [1, 2])
def test_each_output_of_a_transposed_convolution_is_scaled_by_its_own_inputs(groups):
    "Masks that leave the outputs different numbers of inputs: the other axis would give other factors."
    layer = nn.ConvTranspose2d(8, 4, 3, groups=groups, bias=False); before = layer.weight.detach().clone()
    mask = torch.zeros_like(before); per = 4 // groups; full = 8 // groups * 9
    for unit in range(4):                                   # unit of all groups -> its weights [inputs of the group, 3, 3]
        rows, column = slice(unit // per * (8 // groups), (unit // per + 1) * (8 // groups)), unit % per
        mine = torch.zeros(full); mine[:(unit + 1) * full // 5] = 1
        mask[rows, column] = mine.view(-1, 3, 3)
    s = sparse(nn.Sequential(layer), method='static', density=.5, scaling='unit', masks={'0.weight': mask})[2]
    for unit in range(4):
        rows, column = slice(unit // per * (8 // groups), (unit // per + 1) * (8 // groups)), unit % per
        on, active = mask[rows, column] > 0, (unit + 1) * full // 5
        torch.testing.assert_close(layer.weight[rows, column][on] / before[rows, column][on], torch.full((active,), (full / active)**.5))


# ---- 6: frozen layers and layers absent from a batch ----------------------------------------------------------------

@core
@pytest.mark.parametrize('method', METHODS)
def test_frozen_layers_are_untouched(method):
    model = net(); model[2].weight.requires_grad_(False); before = model[2].weight.clone()
    _, opt, s = sparse(model, O.Adam([p for p in model.parameters() if p.requires_grad], lr=.01), method)
    for i in range(7): step(model, opt, i)
    assert torch.equal(before, model[2].weight) and '2.weight' not in s.layers and '2.weight' in s.stays_dense


@core
@pytest.mark.parametrize('to_none', [True, False])
@pytest.mark.parametrize('method', METHODS)
def test_layers_frozen_later_are_neither_dropped_nor_grown(method, to_none):
    model, opt, s = sparse(net(), method=method)
    for i in range(5): step(model, opt, i)
    model[2].weight.requires_grad_(False); kept = s.masks['2.weight']
    for i in range(5, 11): opt.zero_grad(set_to_none=to_none); loss_of(model, i).backward(); opt.step()
    assert torch.equal(kept, s.masks['2.weight']) and astray(s) == []
    if method not in ('gmp', 'dsr') and s.method.dynamic: assert not same(kept, s.masks['0.weight'])


class Sometimes(nn.Module):
    "A layer that takes no part in some batches."
    def __init__(self): super().__init__(); torch.manual_seed(0); self.a, self.b, self.c = nn.Linear(12, 10), nn.Linear(10, 10), nn.Linear(10, 4); self.on = True
    def forward(self, x): x = self.a(x).relu(); return self.c(self.b(x).relu() if self.on else x)


@core
@pytest.mark.parametrize('method', METHODS)
def test_layers_absent_from_a_batch_are_neither_dropped_nor_grown(method):
    model, opt, s = sparse(Sometimes(), method=method)
    for i in range(5): step(model, opt, i)
    model.on = False; kept = s.masks['b.weight']
    for i in range(5, 11): step(model, opt, i)
    assert torch.equal(kept, s.masks['b.weight'])
    model.on = True; total = sum(s.counts().values())
    for i in range(11, 17): step(model, opt, i); s.check() if method != 'snfs' else None
    assert sum(s.counts().values()) == total or method == 'gmp'
    if s.method.dynamic and method not in ('dsr', 'deepr', 'deepr-global'): assert not torch.equal(kept, s.masks['b.weight'])


@core
@pytest.mark.parametrize('until', [11, 12, 13])
def test_a_layer_that_pruning_did_not_reach_is_told_at_its_last_update(until):
    "Updates at every second step; the last two come without the layer."
    model = Sometimes(); opt = O.SGD(model.parameters(), .1)
    s = Sparsifier(model, opt, 'gmp', density=.2, every=2, until=until)
    last = max(range(2, until, 2))
    for i in range(last): model.on = i < last - 2; step(model, opt, i)
    with pytest.warns(UserWarning, match=r"the last update of 'gmp' has left layers above their budgets.*\{'b.weight'"): step(model, opt, last)
    counts = s.counts(); assert counts['b.weight'] > s.targets['b.weight'] and counts['a.weight'] == s.targets['a.weight']
    model = Sometimes(); opt = O.SGD(model.parameters(), .1); s = Sparsifier(model, opt, 'gmp', density=.2, every=2, until=until)
    with warnings.catch_warnings(record=True) as told:
        for i in range(14): step(model, opt, i)
    assert s.counts() == s.targets and not [w for w in told if 'budgets' in str(w.message)]


# ---- 7, 8: scalers and newborn state ---------------------------------------------------------------------------------

@core
@pytest.mark.parametrize('method', ['ggr', 'deepr', 'rigl-sg', 'mest'])
@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('grad_batches', [1, 2])
def test_scaled_gradients_choose_the_same_masks(method, fused, grad_batches):
    from functools import partial
    from ggr_nb.drop import drop_local
    mest = replace(METHODS['rigl'], name='mest', drop=partial(drop_local, criterion='mest'))
    def masks(scale):
        model = net().double(); opt = O.SGD(model.parameters(), .05, momentum=.9, fused=fused)
        s = sparse(model, opt, mest if method == 'mest' else METHODS[method], grad_batches=1 if method == 'deepr' else grad_batches)[2]
        if method == 'deepr': s.method = replace(s.method, l1=.5)      # so that a lost pull would be seen
        scaler = torch.amp.GradScaler('cpu', init_scale=scale, enabled=scale > 0)
        for i in range(9):
            opt.zero_grad(); scaler.scale(cross_entropy(model(X.double() + .1 * i), Y)).backward()
            scaler.step(opt); scaler.update()
        return s.masks
    assert same(masks(0), masks(2.**16))


@core
@pytest.mark.parametrize('name', ['Rprop', 'Adagrad', 'Adam', 'RMSprop'])
def test_newborn_weights_begin_with_the_optimisers_own_state(name):
    loop, seen = Loop(name, 'set', 'plain').make(), []
    fresh = lambda k: BORN.get((name, k), 0.)
    before = loop.made.masks
    loop.optimizer.register_step_pre_hook(lambda *a: seen.append({n: (~before[n] & m, {k: t.clone() for k, t in loop.made._states(l).items()})
                                                                  for (n, m), l in zip(loop.made.masks.items(), loop.made.layers.values())}))
    for i in range(EVERY + 1): loop.step(i)
    assert sum(int(new.sum()) for new, _ in seen[-1].values()) > 10
    for new, states in seen[-1].values():
        for k, t in states.items(): assert (t[new] == torch.tensor(fresh(k))).all(), k


# ---- 9: memory -----------------------------------------------------------------------------------------------------------

@core
@pytest.mark.parametrize('way', ['plain', 'copied', 'moved', 'removed'])
def test_nothing_is_kept_alive(way):
    def use():
        model, opt, s = sparse(net())
        for i in range(3): step(model, opt, i)
        if way == 'copied': step(*copy.deepcopy((model, opt, s))[:2])
        if way == 'moved':
            for i in range(4):
                with torch.no_grad(): model[0].weight.fill_(.1)
                quiet(step, model, opt, i)
        if way == 'removed': s.remove()
        return [weakref.ref(x) for x in (model, opt, s, model[0].weight)]
    refs = use(); gc.collect()
    assert [r() for r in refs] == [None] * 4


@core
def test_memory_stays_and_a_model_outlives_its_sparsifier():
    model, opt, s = sparse(net()); before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match='has a Sparsifier already'): sparse(model, opt, density=.1)
    assert same(before, model.state_dict())
    s.remove(); ref = weakref.ref(s); del s; gc.collect()
    assert ref() is None
    step(model, opt); assert sparse(model, opt)[2].steps == 0           # another one may follow


# ---- 11: checkpoints ------------------------------------------------------------------------------------------------------

@core
def test_a_kept_state_does_not_change_and_is_plain():
    model, opt, s = sparse(net(), method='deepr')
    for i in range(4): step(model, opt, i)
    state = s.state_dict(); kept = copy.deepcopy(state)
    for i in range(4): step(model, opt, i)
    assert same(state, kept) and state.keys() == s.state_dict().keys()
    file = io.BytesIO(); torch.save(state, file); file.seek(0)
    assert same(torch.load(file, weights_only=True), kept)


@core
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('method', ['ggr', 'dsr', 'deepr', 'gmp', 'snfs'])
def test_distributed_checkpoint_loads_at_any_time(method, tmp_path):
    import torch.distributed.checkpoint as dcp
    make = lambda seed: sparse(net(), method=method, grad_batches=1 if method == 'deepr' else 2, seed=seed)
    whole, again = make(1), make(2)
    for i in range(5): step(*whole[:2], i)
    dcp.save({'s': whole[2].state_dict(), 'model': whole[0].state_dict()}, checkpoint_id=tmp_path)
    for i in range(2): step(*again[:2], i)
    state = {'s': again[2].state_dict(), 'model': again[0].state_dict()}
    dcp.load(state, checkpoint_id=tmp_path)
    again[0].load_state_dict(state['model']); again[1].load_state_dict(copy.deepcopy(whole[1].state_dict()))
    again[2].load_state_dict(state['s'])
    for i in range(5, 9): step(*whole[:2], i); step(*again[:2], i)
    assert same(everything(*whole), everything(*again))


@core
@pytest.mark.parametrize('change', [dict(density=.2), dict(every=3), dict(until=50), dict(fraction=.2), dict(schedule='constant'), dict(grad_batches=2),
                                    dict(skip_update=True), dict(new_value=1e-3), dict(method='set')])
def test_the_state_of_other_settings_is_refused_and_nothing_changes(change):
    one = sparse(net()); step(*one[:2]); other = sparse(net(), **change); step(*other[:2])
    before = everything(*other)
    with pytest.raises(ValueError, match='|'.join([*change, 'active was', 'saved by'])): other[2].load_state_dict(one[2].state_dict())
    assert same(before, everything(*other))


@core
def test_the_state_of_another_model_is_refused_and_nothing_changes():
    wide = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(8, 10), nn.ReLU(), nn.Linear(4, 8))
    one, other = sparse(wide), sparse(net()); before = everything(*other)
    with pytest.raises(ValueError, match='masks do not fit'): other[2].load_state_dict(one[2].state_dict())
    assert same(before, everything(*other))
    one = sparse(net(), seed=3); step(*one[:2]); broken = one[2].state_dict(); broken['masks']['4.weight'] = broken['masks']['4.weight'][:2]
    with pytest.raises(ValueError, match='masks do not fit'): other[2].load_state_dict(broken)
    assert same(before, everything(*other)), 'half of a state was taken'


# ---- 12: names -----------------------------------------------------------------------------------------------------------------

@core
@pytest.mark.parametrize('wrap', [nn.DataParallel, lambda m: torch.compile(m, backend='eager')])
def test_wrapped_parts_have_the_names_of_the_bare_model(wrap):
    def masks(where):
        model = nn.Sequential(nn.Sequential(nn.Linear(12, 10), nn.ReLU()), nn.Linear(10, 4))
        if where == 'part': model[0] = wrap(model[0])
        if where == 'whole': model = wrap(model)
        if where == 'both': model[0] = wrap(model[0]); model = wrap(model)
        return sparse(model, method='static')[2].masks
    assert same(masks(''), masks('part')) and same(masks(''), masks('whole')) and same(masks(''), masks('both'))


@core
def test_names_do_not_collide():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__(); self.module, self.w = nn.Module(), nn.Linear(4, 4); self.module.w = nn.Linear(4, 4)
    s = sparse(Odd(), method='static', init='uniform')[2]
    assert list(s.layers) == ['module.w.weight', 'w.weight'] and not same(*s.masks.values())


@core
def test_a_compiled_model_is_watched():
    torch._dynamo.reset()
    inner = net(); model = torch.compile(inner, backend='eager'); _, opt, s = sparse(model)
    for i in range(4):
        quiet(step, model, opt, i)
        with torch.no_grad(): inner[2].weight.fill_(.1)
    loss_of(model); assert astray(s) == []


# ---- 13: settings ----------------------------------------------------------------------------------------------------------------

@core
@pytest.mark.parametrize('bad,said', [
    (dict(every=12.5), 'every is 12.5'), (dict(every=0), 'every is 0'), (dict(until=None), 'until=None'), (dict(until=9.), 'until is 9.0'),
    (dict(method='gmp', every=9, until=9), 'density is never reached'), (dict(grad_batches=3), 'grad_batches=3'), (dict(fraction=1.5), '1.5'),
    (dict(schedule='no'), 'no'), (dict(method='rigle'), "did you mean.*rigl"), (dict(include='nothing'), 'no weight matches'),
    (dict(density=0.), 'density|reached|0'), (dict(init='x'), 'unknown initial density'), (dict(masks={}), 'masks do not fit')])
def test_settings_that_cannot_work_are_refused_before_anything_changes(bad, said):
    model = net(); before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=said): sparse(model, **bad)
    assert same(before, model.state_dict())


@core
def test_a_schedule_without_updates_is_said():
    model = net()
    with pytest.warns(UserWarning, match='will never move'): Sparsifier(model, O.SGD(model.parameters(), .1), 'rigl', every=9, until=9)


@core
def test_a_method_is_what_it_does_not_its_name():
    model, opt, s = sparse(net(), method=replace(METHODS['static'], name='dense')); assert s.density < .31
    from functools import partial
    from ggr_nb.drop import drop_local
    own = replace(METHODS['set'], name='own', drop=partial(drop_local, criterion=lambda w, g, gen: -w.abs()))
    model, opt, s = sparse(net(), method=own)
    for i in range(5): step(model, opt, i)
    assert s.updates == 2


@core
def test_momentum_that_cannot_be_found_is_said():
    class Hidden(O.Optimizer):
        def __init__(self, params): super().__init__(params, dict(lr=.1, momentum=.9))
        def step(self, closure=None):
            for p in self.param_groups[0]['params']: self.state[p]['mine'] = 0; p.data.sub_(.1 * p.grad)
    model = net(); opt = Hidden(model.parameters()); sparse(model, opt, 'snfs')
    with pytest.raises(ValueError, match='Hidden.*momentum'):
        for i in range(4): step(model, opt, i)


# ---- 14: small ones ----------------------------------------------------------------------------------------------------------------

@core
@pytest.mark.parametrize('method', ['rigl', 'ggr', 'chase', 'gse'])
def test_ties_are_broken_at_random(method):
    model, opt, s = sparse(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), method=method, density=.2, every=1)
    for _ in range(2):
        opt.zero_grad(); before = s.masks
        for p in model.parameters(): p.grad = torch.zeros_like(p)
        opt.step()
    for n, m in s.masks.items():
        rows = (m & ~before[n]).nonzero()[:, 0].float()
        assert len(rows) > 50 and 20 < rows.mean() < 44, 'growth without gradients prefers some rows'
    again = sparse(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), method=method, density=.2, every=1)
    assert s.seed == again[2].seed


@core
def test_snip_moves_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 4)); before = copy.deepcopy(model.state_dict())
    for train in (True, False):
        model.train(train); masks = snip_masks(model, X, Y, 30)
        assert same(before, model.state_dict()) and model.training == train and sum(int(m.sum()) for m in masks.values()) == 30
    assert all(p.grad is None for p in model.parameters())


# ---- 10: processes ----------------------------------------------------------------------------------------------------------------------

def _process(rank, folder):
    dist = torch.distributed
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    torch.set_num_threads(1)
    out = []
    def run(seed, method='static', **kw):
        model = net(); opt = O.SGD(model.parameters(), .1); s = sparse(model, opt, method, seed=seed, **kw)[2]
        for i in range(5): step(model, opt, i + rank * (kw.get('process_group', 0) is None))
        return s
    try: run(rank); out.append('silent')
    except RuntimeError as e: out.append(str(e))
    out.append(repr(run(rank, 'ggr', process_group=None)))
    own = [dist.new_group([r]) for r in range(2)][rank]
    out.append(repr(run(rank, 'ggr', process_group=own)))
    out.append(repr(run(3, 'ggr')))
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    model = net(); fully_shard(model, mesh=init_device_mesh('cpu', (2,))); opt = O.SGD(model.parameters(), .1)
    before = [p.to_local().clone() for p in model.parameters()]
    try: Sparsifier(model, opt, 'static'); out.append('silent')
    except ValueError as e: out.append(str(e))
    out.append(str(all(map(torch.equal, before, [p.to_local() for p in model.parameters()]))))
    torch.save(out, f'{folder}/{rank}')
    dist.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason='this torch has no gloo')
def test_processes_agree_or_are_told(tmp_path):
    torch.multiprocessing.start_processes(_process, (str(tmp_path),), nprocs=2, start_method='forkserver')
    for rank in range(2):
        apart, alone, own, together, sharded, untouched = torch.load(tmp_path/str(rank))
        assert 'step 0: the masks of the processes differ' in apart and 'process_group=None' in apart
        assert all('2 updates in 5 steps' in r for r in (alone, own, together)) and 'sharded' in sharded and untouched == 'True'


# ---- foreign models ---------------------------------------------------------------------------------------------------------------------

TIMM = dict(resnet18=64, vit_tiny_patch16_224=0, convnext_atto=64, mobilenetv3_small_050=64, efficientnet_lite0=64, mixer_s32_224=0, regnetx_002=64,
            densenet121=64, ghostnet_050=64, edgenext_xx_small=64, deit_tiny_distilled_patch16_224=0)


def language(kind):
    import transformers as t
    small = dict(vocab_size=50)
    return dict(
        gpt2=lambda: t.GPT2LMHeadModel(t.GPT2Config(**small, n_positions=16, n_embd=32, n_layer=2, n_head=2)),
        bert=lambda: t.BertForMaskedLM(t.BertConfig(**small, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)),
        llama=lambda: t.LlamaForCausalLM(t.LlamaConfig(**small, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)),
        t5=lambda: t.T5ForConditionalGeneration(t.T5Config(**small, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0)))[kind]()


def one_update(model, loss):
    opt = O.AdamW(model.parameters(), lr=1e-3)
    s = quiet(Sparsifier, model, opt, 'ggr', density=.1, every=1, until=9)
    for _ in range(2): opt.zero_grad(); loss().backward(); opt.step()
    s.check()
    ids = {id(l.weight): l for l in s.layers.values()}
    real = sum(int(p.count_nonzero()) for n, p in ((n, p) for n, p in model.named_parameters() if id(p) in ids))
    assert s.updates == 1 and real <= sum(s.counts().values()) == round(.1 * sum(l.size for l in s.layers.values()))
    named = set(s.stays_dense) | set(s.layers)
    assert len(named) == len({id(p) for p in model.parameters() if p.ndim > 1}), 'a matrix is neither sparse nor named'
    return s


@pytest.mark.parametrize('name', TIMM)
def test_models_of_timm(name):
    timm = pytest.importorskip('timm'); size = TIMM[name]
    model = timm.create_model(name, num_classes=4, **(dict(img_size=64) if not size else {}))
    x = torch.randn(2, 3, 64, 64)
    def loss():
        out = model(x); return cross_entropy(out[0] if isinstance(out, tuple) else out, Y[:2])
    assert one_update(model, loss).dense_share < .1


@pytest.mark.parametrize('kind', ['gpt2', 'bert', 'llama', 't5'])
def test_models_of_transformers(kind):
    pytest.importorskip('transformers'); model = language(kind); ids = torch.randint(50, (2, 8))
    s = one_update(model, lambda: model(input_ids=ids, labels=ids).loss)
    assert any('embed' in n or 'wte' in n or 'shared' in n for n in s.stays_dense)


# ---- what a breaker found ---------------------------------------------------------------------------------------

@core
@pytest.mark.parametrize('order', [(1, 2), (2, 1)])
def test_weights_written_by_hand_before_the_sparsifier_is_loaded_stay(order):
    model, opt, s = sparse(net())
    for i in range(9): step(model, opt, i)
    state = copy.deepcopy([model.state_dict(), opt.state_dict(), s.state_dict()])
    fresh = sparse(net())
    with torch.no_grad():
        for n, p in fresh[0].named_parameters(): p.copy_(state[0][n])
    for k in order: fresh[k].load_state_dict(state[k])
    for i in range(9, 14): step(model, opt, i); step(*fresh[:2], i)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), fresh[0].state_dict().values()))


@core
@pytest.mark.parametrize('wrong', [dict(scaling='units'), dict(scaling='dense'), dict(density=2.), dict(fraction=3.), dict(init='erkk'), dict(exclude='nothing')])
def test_what_is_refused_leaves_model_and_optimiser_as_they_were(wrong):
    model = net(); opt = O.SGD(model.parameters(), .1); before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError): Sparsifier(model, opt, 'rigl', **dict(density=.3, every=2, until=99) | wrong)
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    for i in range(3): step(model, opt, i)
    assert all(bool((p != 0).all()) for p in model.parameters()) and not opt._optimizer_step_pre_hooks
    quiet(Sparsifier, model, opt, 'rigl', density=.3, every=2, until=99)                 # and a second attempt is no other's business


class Counting(O.Optimizer):
    "Adam as others write it: one counter for a group, a tensor; a state that begins with 1 and decays; one that mixes places."
    def __init__(self, params, lr=.01): super().__init__(params, dict(lr=lr, count=torch.zeros(())))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group['count'] += 1
            for p in group['params']:
                if p.grad is None: continue
                state = self.state[p]
                if not state: state |= dict(square=torch.ones_like(p), turned=torch.zeros_like(p))
                state['square'].mul_(.9).addcmul_(p.grad, p.grad, value=.1)
                state['turned'].mul_(.9).add_(p.grad.roll(1, 0), alpha=.1)
                p.sub_(group['lr'] * (1 - .5**float(group['count'])) * p.grad / state['square'].sqrt() * (1 + state['turned'].roll(-1, 0)))


def made_by_timm(name):
    return lambda params: pytest.importorskip('timm.optim').create_optimizer_v2(list(params), opt=name, lr=.01)


@core
@pytest.mark.parametrize('order', ['mos', 'mso', 'oms', 'osm', 'smo', 'som'])
@pytest.mark.parametrize('make', [Counting, *map(made_by_timm, ('lamb', 'rmsproptf', 'adabelief', 'adamuon'))],
                         ids=['counting', 'lamb', 'rmsproptf', 'adabelief', 'adamuon'])
def test_optimisers_of_others_resume_to_the_bit(make, order):
    "Whatever an inactive place holds by their own rule stays, and looking at that rule counts no step."
    def parts(): model = net(bias=False); return sparse(model, make(model.parameters()), 'ggr')
    run, fresh = parts(), parts()
    for i in range(5): quiet(step, *run[:2], i)
    state = copy.deepcopy([part.state_dict() for part in run])
    for k in order: fresh['mos'.index(k)].load_state_dict(copy.deepcopy(state['mos'.index(k)]))
    for i in range(5, 11): quiet(step, *run[:2], i); quiet(step, *fresh[:2], i)
    assert same(*(everything(*parts) for parts in (run, fresh)))


@core
@pytest.mark.parametrize('scaling', SCALINGS)
def test_every_scaling_is_taken_and_one_keeps_the_values(scaling):
    model = net(); before = {n: p.detach().clone() for n, p in model.named_parameters()}
    s = sparse(model, method='static', scaling=scaling)[2]
    same = all(torch.equal(w.detach(), before[n] * s.masks[n]) for n, w in s.weights.items())
    assert same == (scaling == 'keep')


@core
@pytest.mark.parametrize('order', ['mos', 'mso', 'oms', 'osm', 'smo', 'som'])
def test_torchs_own_checkpoints_load_in_any_order(order):
    "They make an optimiser's state by a step without a rate and without a gradient: no step of the training."
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    def adam(): model = net(); return sparse(model, O.AdamW(model.parameters(), lr=.01))
    model, opt, s = adam(); get_optimizer_state_dict(model, opt); assert s.steps == 0
    for i in range(9): step(model, opt, i)
    state = copy.deepcopy(dict(m=model.state_dict(), o=get_optimizer_state_dict(model, opt), s=s.state_dict()))
    fresh = adam()
    for part in order:
        if part == 'o': set_optimizer_state_dict(fresh[0], fresh[1], state['o'])
        else: fresh['mos'.index(part)].load_state_dict(state[part])
    assert fresh[2].steps == s.steps == 9
    for i in range(9, 14): step(model, opt, i); step(*fresh[:2], i)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), fresh[0].state_dict().values())) and astray(fresh[2]) == []


def parts_of(method='ggr', optimizer=None, seed=1, make=net):
    model = make(); return sparse(model, optimizer and optimizer(model.parameters()), method, seed=seed)

def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(),
                         nn.Flatten(), nn.Linear(96, 4))


def in_shards(model, state):
    for name in {n.split('.')[0] for n in state}: model.load_state_dict({n: t for n, t in state.items() if n.split('.')[0] == name}, strict=False)

def whole(model, state): model.load_state_dict(state)
def and_a_bias(model, state): whole(model, state); model.load_state_dict({n: t for n, t in state.items() if n.endswith('bias')}, strict=False)
def after_another(model, state): whole(model, {n: torch.randn_like(t) for n, t in state.items()}); whole(model, state)
def by_hand(model, state):
    with torch.no_grad(): [p.copy_(state[n]) for n, p in model.named_parameters()]
def twice(model, state): whole(model, state); whole(model, state)
def of_itself(model, state): whole(model, state); model.load_state_dict(model.state_dict(keep_vars=True))


@core
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(('load', 'order'), [
    *itertools.product((whole, in_shards, and_a_bias, after_another, twice), ('mos', 'mso', 'oms', 'osm', 'smo', 'som')),
    *itertools.product((of_itself,), ('mos', 'mso', 'oms')), (by_hand, 'mos')])     # these two look at what the masks have left
def test_however_the_weights_are_loaded_none_is_lost(load, order):
    run, again = parts_of(), parts_of(seed=2)
    for i in range(7): step(*run[:2], i)
    state = everything(*run)
    for k in order:
        if k == 'm': load(again[0], copy.deepcopy(state[0]))
        else: again['mos'.index(k)].load_state_dict(copy.deepcopy(state['mos'.index(k)]))
    assert same(everything(*run), everything(*again))
    for i in range(7, 12): step(*run[:2], i); step(*again[:2], i)
    assert same(everything(*run), everything(*again))


BETWEEN = dict(layout=lambda m: m.to(memory_format=torch.channels_last), double=lambda m: m.double(), half=lambda m: m.to(torch.bfloat16),
               clamp=lambda m: [p.data.clamp_(-9, 9) for p in m.parameters()], look=lambda m: m.eval()(X.to(m[-1].weight.dtype)),
               copy=lambda m: copy.deepcopy(m), share=lambda m: m.share_memory())


@core
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('what', BETWEEN)
def test_what_happens_between_the_loads_loses_no_weight(what):
    "Another layout, dtype or number of threads adds a sum up to other last digits."
    run, again = parts_of(make=conv_net), parts_of(make=conv_net, seed=2)
    for i in range(7): step(*run[:2], i)
    state = everything(*run); again[0].load_state_dict(state[0]); BETWEEN[what](again[0]); again[2].load_state_dict(state[2])
    for n, p in again[0].state_dict().items(): assert torch.equal(p, state[0][n].to(p.dtype)), n


@core
@pytest.mark.filterwarnings('ignore')
def test_a_distributed_checkpoint_that_is_read_into_the_weights_themselves(tmp_path):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    adam = lambda params: O.AdamW(params, lr=.01); run, again = parts_of(optimizer=adam), parts_of(optimizer=adam, seed=2)
    for i in range(7): step(*run[:2], i)
    def states(model, opt, s): m, o = get_state_dict(model, opt); return dict(m=m, o=o, s=s.state_dict())
    dcp.save(states(*run), checkpoint_id=tmp_path); state = states(*again); dcp.load(state, checkpoint_id=tmp_path)
    set_state_dict(*again[:2], model_state_dict=state['m'], optim_state_dict=state['o']); again[2].load_state_dict(state['s'])
    for i in range(7, 12): step(*run[:2], i); step(*again[:2], i)
    assert same(run[0].state_dict(), again[0].state_dict()) and same(run[2].masks, again[2].masks)


@core
def test_a_state_loaded_in_inference_mode_can_be_trained_with():
    run, again = parts_of(), parts_of(seed=2)
    for i in range(5): step(*run[:2], i)
    state = everything(*run); again[1].load_state_dict(state[1])     # (the state of a dense network's optimiser is lost there, too)
    with torch.inference_mode(): again[0].load_state_dict(state[0]); again[2].load_state_dict(state[2])
    for i in range(5, 9): step(*run[:2], i); step(*again[:2], i)
    assert same(everything(*run), everything(*again))


# ---- rules of others, and masks that meet other masks

OWN = dict(
    quotas_too_small=dict(allocate=lambda snap, dropped, free: {n: max(0, q - 1) for n, q in dropped.items()}),
    quotas_too_large=dict(allocate=lambda snap, dropped, free: {n: q + 1 for n, q in dropped.items()}),
    places_too_few=dict(grow=lambda snap, layer, q: pick_random(layer, max(0, q - 1), snap.gen('grow', layer.name))),
    places_active=dict(grow=lambda snap, layer, q: torch.cat([layer.places[:1], pick_random(layer, q, snap.gen('grow', layer.name))[1:]])),
    places_twice=dict(grow=lambda snap, layer, q: pick_random(layer, q, snap.gen('grow', layer.name))[torch.arange(q).clamp(min=1) if q > 1 else []]),
    places_outside=dict(grow=lambda snap, layer, q: layer.size + torch.arange(q)),
    places_float=dict(grow=lambda snap, layer, q: torch.linspace(0, layer.free - 1, q)),
    places_listed=dict(grow=lambda snap, layer, q: list(range(q))),
    quotas_float=dict(allocate=lambda snap, dropped, free: {n: float(q) for n, q in dropped.items()}),
    quotas_of_some=dict(allocate=lambda snap, dropped, free: {next(iter(dropped)): sum(dropped.values())}),
    quotas_without_room=dict(allocate=lambda snap, dropped, free: {n: 10**6 * (n == '0.weight') for n in dropped}),
    dropped_inactive=dict(drop=lambda snap: {n: l.free_places(torch.arange(2)) for n, l in snap.layers.items()}),
    dropped_twice=dict(drop=lambda snap: {n: l.places[[0, 0, 1]] for n, l in snap.layers.items()}),
    dropped_outside=dict(drop=lambda snap: {n: l.size + torch.arange(2) for n, l in snap.layers.items()}),
    dropped_of_some=dict(drop=lambda snap: {'0.weight': snap.layers['0.weight'].places[:2]}),
    dropped_as_a_mask=dict(drop=lambda snap: {n: l.values > 0 for n, l in snap.layers.items()}))


@pytest.mark.parametrize('storage', ['masked', 'sparse'])
@pytest.mark.parametrize('kind', OWN)
def test_a_rule_of_ones_own_cannot_change_the_count(kind, storage):
    "It is refused by the method's name at its first update, and the masks are as they were."
    torch.manual_seed(0); model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
    if storage == 'sparse': sparse_storage_(model, density=.1)
    opt = torch.optim.SGD(model.parameters(), lr=.1)
    s = Sparsifier(model, opt, replace(METHODS['ggr'], name='my rule', **OWN[kind]), density=.1, every=1, until=5, fraction=.5)
    before = s.masks
    with pytest.raises(ValueError, match="'my rule'.*(add up|gave)"):
        for i in range(3): opt.zero_grad(); model(torch.randn(8, 30)).square().mean().backward(); opt.step()
    assert all(torch.equal(m, s.masks[n]) for n, m in before.items())


def test_a_method_may_prune():
    "Nothing given back, or less than was dropped from masks that were fuller than asked."
    for change, least in ((dict(allocate=no_allocation), 0), (dict(allocate=OWN['quotas_too_small']['allocate'], first_masks=full_masks), 1)):
        torch.manual_seed(0); model = nn.Sequential(nn.Linear(30, 20)); opt = torch.optim.SGD(model.parameters(), lr=.1)
        s = Sparsifier(model, opt, replace(METHODS['set'], name='prune', **change), density=.5, every=1, until=5); before = sum(s.counts().values())
        for i in range(2): opt.zero_grad(); model(torch.randn(8, 30)).square().mean().backward(); opt.step()
        assert least <= sum(s.counts().values()) < before


def test_the_newer_sparsifier_holds_the_weights():
    "A second one with an optimiser of its own: the first lets go, it is said, and its masks cut nothing any more."
    model, opt, first = sparse(nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)), method='static', density=.1)
    after = torch.optim.SGD(model.parameters(), lr=.1)
    with pytest.warns(UserWarning, match=r"another Sparsifier held these weights \(\['0.weight'"):
        s = Sparsifier(model, after, 'static', density=.5, masks={n: torch.rand(m.shape) < .5 for n, m in first.masks.items()})
    for i in range(3): after.zero_grad(); model(torch.randn(8, 30)).square().mean().backward(); after.step()
    for n, w in s.weights.items(): assert not w[~s.masks[n]].any() and w[~first.masks[n]].any()
    other = nn.Linear(30, 20); sparse(nn.Sequential(other), method='static')
    with warnings.catch_warnings():
        warnings.simplefilter('error'); sparse(nn.Sequential(nn.Linear(30, 20)), method='static')        # nobody else's


def test_fresh_masks_over_a_sparse_network_are_told():
    make = lambda: nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
    model, _, s = sparse(make(), method='static', density=.1); masks = s.masks; state = {k: v.clone() for k, v in model.state_dict().items()}
    again = make(); again.load_state_dict(state); opt = torch.optim.SGD(again.parameters(), lr=.1)
    with pytest.warns(UserWarning, match=r'sparse already, and new masks cut \d+ of the 80'): Sparsifier(again, opt, 'static', density=.1, seed=9).remove()
    again.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Sparsifier(again, torch.optim.SGD(again.parameters(), lr=.1), 'static', masks={n: p.detach() != 0 for n, p in sparse_parameters(again).items()})
        assert sum(int(p.count_nonzero()) for p in sparse_parameters(again).values()) == 80 == sum(int(m.sum()) for m in masks.values())


def test_scores_are_no_masks():
    model = nn.Sequential(nn.Linear(30, 20)); opt = torch.optim.SGD(model.parameters(), lr=.1)
    with pytest.raises(ValueError, match='other values than 0 and 1'): Sparsifier(model, opt, 'static', masks={'0.weight': torch.rand(20, 30)})
    Sparsifier(model, opt, 'static', masks={'0.weight': (torch.rand(20, 30) < .5).float()})


def test_an_unrelated_exclude_does_not_silence_what_stays_dense():
    class Own(nn.Module):
        def __init__(self): super().__init__(); self.experts, self.head = nn.Parameter(torch.randn(30, 30)), nn.Linear(30, 2)
        def forward(self, x): return self.head(x @ self.experts)
    def told(model, **how): return Sparsifier(model, torch.optim.SGD(model.parameters(), lr=.1), 'static', density=.5, **how)
    with pytest.warns(UserWarning, match='matrix weights stay dense: experts.*takes the place'): told(Own())
    with pytest.warns(UserWarning, match='stay dense: 0.experts'): told(nn.Sequential(Own(), nn.Linear(2, 2)), exclude='1.*')
    with warnings.catch_warnings():
        warnings.simplefilter('error'); told(Own(), include=['experts', 'head*'])
        told(nn.Sequential(Own(), nn.Linear(2, 2)), exclude=['0.experts'])


@pytest.mark.parametrize('wrong, said', [(dict(density=0), 'density is 0; give a number above 0'), (dict(density='0.1'), "is '0.1'"), (dict(fraction='a'), "fraction is 'a'; give a number at least 0, at most 1"),
                                         (dict(masks=[1, 2]), 'masks is a list: give a dict'), (dict(density=torch.tensor(.1)), 'density is tensor'),
                                         (dict(every=None), 'every is None; give a whole number'), (dict(grad_batches=None), 'grad_batches is None; give a whole'),
                                         (dict(init=[1, 2]), r'unknown initial density \[1, 2\]'), (dict(init=lambda *_: None), 'gave None: give a density for each of'),
                                         (dict(init=lambda shapes, *_: dict.fromkeys([*shapes][:1], .1)), 'give a density for each of'),
                                         (dict(include=3), 'include is 3: give a name'), (dict(exclude=[3]), r'exclude is \[3\]: give a name'), (dict(exclude=b'a'), 'exclude is b'),
                                         (dict(schedule=lambda t: None), 'the schedule gives None at progress'), (dict(schedule=lambda t: 99), 'the schedule gives 99 at'),
                                         (dict(schedule=lambda t: float('nan')), 'the schedule gives nan at')])
def test_numbers_and_masks_of_another_kind_are_told(wrong, said):
    model = net(); opt = O.SGD(model.parameters(), .1)
    with pytest.raises(ValueError, match=said): Sparsifier(model, opt, 'rigl', **dict(every=2, until=9) | wrong)
    with pytest.raises(ValueError, match='the model comes first'): Sparsifier(opt, model, 'rigl', every=2, until=9)
    masks = {n: np.ones(p.shape, bool) for n, p in sparse_parameters(model).items()}
    assert Sparsifier(model, opt, 'static', masks=masks).density == 1


def test_a_density_that_is_not_used_is_told():
    model = net(); size = sum(p.numel() for p in sparse_parameters(model).values())
    masks = {n: torch.arange(p.numel()).view(p.shape) % 4 == 0 for n, p in sparse_parameters(model).items()}
    held = sum(int(m.sum()) for m in masks.values())
    make = lambda **how: Sparsifier(model, O.SGD(model.parameters(), .1), 'static', masks=masks, **how)
    with pytest.warns(UserWarning, match=f'density=0.05 is not used: .* {held:,} active weights and not {round(.05 * size):,}'): make(density=.05).remove()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for how in (dict(), dict(density=held / size), dict(density=np.float32(.25))):
            s = make(**how); assert s.density == held / size; s.remove()


@pytest.mark.parametrize('make', [lambda model, **how: Sparsifier(model, O.SGD(model.parameters(), .1), 'static', **how), sparse_storage_], ids=['masked', 'stored'])
def test_a_density_beside_one_for_each_layer_is_told(make):
    shares = dict.fromkeys(sparse_parameters(nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))), .2)
    model = lambda: nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    with pytest.warns(UserWarning, match='density=0.05 is not used: init= gives each layer its own, and 180 of 900'): make(model(), density=.05, init=shares)
    with warnings.catch_warnings():
        warnings.simplefilter('error'); warnings.filterwarnings('ignore', message='.* of these weights are active|Sparse CSR')
        for how in (dict(), dict(density=.2)): make(model(), init=shares, **how)


def test_warnings_point_at_the_users_line():
    "Said while a sparsifier is made, inside a step, inside a forward pass and while a layer is stored."
    from ggr_nb.sparse import sparse_storage_
    small = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5)); opt = O.SGD(small.parameters(), .1)
    def step(): opt.zero_grad(); small(torch.randn(3, 20)).sum().backward(); opt.step()
    def write():
        with torch.no_grad(): small[0].weight.add_(1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        s = Sparsifier(small, opt, 'ggr', every=9, until=9); step()
        write(); step()
        small.load_state_dict({n: torch.ones_like(p) for n, p in small.state_dict().items()}); step()
        s.remove(); sparse_storage_(small, density=.5)
    assert [os.path.basename(w.filename) for w in told] == len(told) * ["test_contract.py"]
    for kind in ('never move', 'something outside', 'weights were loaded', 'Stored sparsely'): assert any(kind in str(w.message) for w in told), kind


def test_an_optimiser_older_than_the_storage_is_told():
    from ggr_nb.sparse import sparse_storage_
    model = nn.Sequential(nn.Linear(20, 30)); opt = O.SGD(model.parameters(), .1); sparse_storage_(model, density=.1)
    with pytest.raises(ValueError, match='make it after sparse_storage_'): Sparsifier(model, opt, 'static')


def test_a_step_without_any_gradient_moves_nothing():
    for method in ('chase', 'deepr-global', 'ggr', 'rigl'):
        model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 5)); opt = O.SGD(model.parameters(), .1)
        s = Sparsifier(model, opt, method, density=.1, every=1, until=9); before = s.masks
        model(torch.randn(8, 20)).square().mean().backward(); opt.step()
        opt.zero_grad(); opt.step()
        assert same(s.masks, before) and s.steps == 2


def test_an_update_that_empties_a_normalised_output_is_refused_before_it():
    torch.manual_seed(1)
    wrapped = nn.utils.parametrizations.weight_norm(nn.Conv1d(32, 32, 3, groups=32, padding=1))
    model = nn.Sequential(nn.Linear(20, 256), nn.Unflatten(1, (32, 8)), wrapped, nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    opt = O.SGD(model.parameters(), .1, momentum=.9)
    s = Sparsifier(model, opt, 'set', density=.8, exclude=['0.weight', '5.weight'], count_excluded=False, every=10, until=300, fraction=.9, seed=1)
    before = s.masks
    with pytest.raises(ValueError, match='after update 1 some outputs of .* would have no weight but zeros.*Nothing was changed'):
        for _ in range(30): opt.zero_grad(); model(torch.randn(64, 20)).square().mean().backward(); opt.step()
    assert same(s.masks, before) and all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('stored', [False, True])
def test_a_criterion_may_scribble_on_what_it_is_given(stored):
    torch.manual_seed(0); model = nn.Sequential(nn.Linear(20, 40), nn.Linear(40, 5))
    if stored: sparse_storage_(model, density=.2)
    rule = partial(drop_local, criterion=lambda w, g, gen=None: w.abs_().add_(g.abs()))
    opt = O.SGD(model.parameters(), 0.); s = Sparsifier(model, opt, replace(METHODS['ggr'], name='mine', drop=rule), density=.2, every=1, until=3)
    for _ in range(2): opt.zero_grad(); model(torch.randn(8, 20)).square().mean().backward(); opt.step()
    assert s.updates and sum(int((w < 0).sum()) for w in s.weights.values()) > 50


def test_whether_a_layer_fills_its_zeros_is_asked_of_each_kind_of_it():
    class Lin(nn.Linear):
        def __init__(self, a, b, standard): super().__init__(a, b); self.standard = standard
        def forward(self, x): return torch.nn.functional.linear(x, self.weight - self.weight.mean(1, keepdim=True) if self.standard else self.weight, self.bias)
    for first in (False, True):
        model = nn.Sequential(Lin(20, 40, first), nn.ReLU(), Lin(40, 40, not first))
        at = torch.get_rng_state()
        assert list(sparse_parameters(model)) == ['2.weight' if first else '0.weight']
        assert torch.equal(at, torch.get_rng_state())


def test_densities_by_hand_are_shares():
    model = nn.Sequential(nn.Linear(20, 40), nn.Linear(40, 5)); make = lambda d: Sparsifier(model, O.SGD(model.parameters(), .1), 'static', init={'0.weight': d, '1.weight': .1})
    for wrong in (2., 0., -.1, math.nan):
        with pytest.raises(ValueError, match='no shares in'): make(wrong)
    assert make(1.).counts() == {'0.weight': 800, '1.weight': 20}


def test_a_model_that_is_the_layer_is_not_stored_beside_itself():
    layer = nn.Linear(20, 5)
    with pytest.raises(ValueError, match='is itself the layer'): sparse_storage_(layer, density=.1)
    assert not list(layer.children())


@core
@pytest.mark.parametrize('dim', [0, 1, None])
def test_a_norm_along_any_dimension_is_never_of_no_weights(dim):
    torch.manual_seed(0); model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(12, 10), dim=dim), nn.ReLU(), nn.Linear(10, 4))
    name = '0.parametrizations.weight.original1'; masks = {n: torch.ones(p.shape, dtype=torch.bool) for n, p in sparse_parameters(model).items()}
    empty = {0: (3,), 1: (slice(None), 5), None: (slice(0, 9),)}[dim]; masks[name][empty] = False
    make = lambda: quiet(Sparsifier, model, O.SGD(model.parameters(), .1), 'rigl', masks=masks, every=1, until=9)
    if dim is None: make(); return                                  # one norm of all: it is not empty
    with pytest.raises(ValueError, match='weight_norm divides'): make()
    masks[name][empty] = torch.arange(masks[name][empty].numel()) == 0; s = make()
    last = (masks[name] & (torch.zeros_like(masks[name]).index_put_(tuple(torch.as_tensor(i) for i in (empty if dim == 0 else (torch.arange(10), 5))),
                                                                    torch.tensor(True)))).flatten().nonzero().flatten()
    snap = s.snapshot({n: l.source([torch.zeros(l.shape)]) for n, l in s.layers.items()}); none = torch.empty(0, dtype=torch.int64)
    decision = SimpleNamespace(dropped={n: last if n == name else none for n in s.layers}, grown=dict.fromkeys(s.layers, last), values=dict.fromkeys(s.layers, 0.))
    with pytest.raises(ValueError, match='would have no weight but zeros'): check_norms_stay(snap, decision, norm_axes(model))
    decision.values = dict.fromkeys(s.layers, 1.); check_norms_stay(snap, decision, norm_axes(model))


@core
def test_an_optimiser_that_lets_another_step_is_refused_by_name():
    class Sam(O.Optimizer):
        def __init__(self, params, base): super().__init__(params, {}); self.base_optimizer = base(self.param_groups, lr=.05)
        def step(self, closure=None): self.base_optimizer.step()
    model = net(); opt = Sam(model.parameters(), O.SGD)
    with pytest.raises(ValueError, match='give that one, optimizer.base_optimizer, a SGD'): sparse(model, opt)
    s = sparse(model, opt.base_optimizer)[2]
    for i in range(5): step(model, opt, i)
    assert s.steps == 5 and astray(s) == []


WRONG_BIRTHS = dict(
    nan=lambda snap, free, grown: ({n: torch.full((len(p),), torch.nan) for n, p in grown.items()}, {}),
    number=lambda snap, free, grown: (dict.fromkeys(grown, math.inf), {}), alone=lambda snap, free, grown: dict.fromkeys(grown, 0.),
    length=lambda snap, free, grown: ({n: torch.zeros(len(p) + 1) for n, p in grown.items()}, {}), layer=lambda snap, free, grown: ({}, {}))


@core
@pytest.mark.parametrize('wrong', WRONG_BIRTHS)
def test_values_that_cannot_be_written_change_nothing(wrong):
    model, opt, s = sparse(net(), method=replace(METHODS['rigl'], name='mine', birth=WRONG_BIRTHS[wrong]))
    for i in range(2): step(model, opt, i)
    before = everything(model, s)
    with pytest.raises(ValueError, match="'mine': the birth gave"): step(model, opt, 2)
    assert same(before, everything(model, s))


@core
@pytest.mark.parametrize('given', [dict(new_value=math.nan), dict(new_value='x'), dict(new_value=torch.ones(3)), dict(skip_update='no'),
                                   dict(count_excluded=1), dict(process_group=3), dict(masks={'0.weight': None}),
                                   dict(density=None, init={'0.weight': 'a', '2.weight': .1, '4.weight': .1})], ids=str)
def test_settings_of_other_kinds_are_refused_in_one_line(given):
    with pytest.raises(ValueError) as e: sparse(net(), **given)
    assert '\n' not in str(e.value) and next(iter(given)).removesuffix('s') in str(e.value).replace('init gives', 'density init')


@core
@pytest.mark.parametrize('state', [None, {}, [1], dict(method='rigl', seed=0)], ids=str)
def test_what_is_no_state_is_refused(state):
    s = sparse(net())[2]; before = everything(s)
    with pytest.raises(ValueError, match='no state of a sparsifier'): s.load_state_dict(state)
    assert same(before, everything(s))


@core
@pytest.mark.parametrize('density', [.05, .3, .6, .8])
def test_fresh_masks_over_a_sparse_network_are_told_at_any_density(density):
    model, opt, s = sparse(net(), density=density); [step(model, opt, i) for i in range(4)]
    with pytest.warns(UserWarning, match='sparse already'): Sparsifier(model, O.SGD(model.parameters(), .1), 'set', density=density, until=9, every=2, seed=5)


@core
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('scaling', SCALINGS)
@pytest.mark.parametrize('order', ['moSs', 'omSs', 'mSos', 'Smos', 'Soms', 'mSso', 'Ssmo'])
def test_rescaled_weights_resume_in_any_order(scaling, order):
    "S: the sparsifier is made, and rescales what is there; s: its state is loaded."
    run = sparse(net(), method='ggr', scaling=scaling); [step(*run[:2], i) for i in range(5)]; state = everything(*run)
    torch.manual_seed(3); model = nn.Sequential(*(nn.Linear(l.in_features, l.out_features) if isinstance(l, nn.Linear) else nn.ReLU() for l in net()))
    again = [model, O.SGD(model.parameters(), lr=.05, momentum=.9), None]
    for what in order:
        if what == 'S': again[2] = sparse(model, again[1], 'ggr', scaling=scaling)[2]
        else: again['mos'.index(what)].load_state_dict(copy.deepcopy(state['mos'.index(what)]))
    assert same(everything(*run), everything(*again))


@core
@pytest.mark.parametrize('held', [lambda o: [o], lambda o: dict(a=o), lambda o: (o,)], ids=['list', 'dict', 'tuple'])
def test_optimisers_that_step_a_list_of_others_are_refused(held):
    class Several(O.Optimizer):
        def __init__(self, params): super().__init__(params, {}); self.inner = held(O.Adam(params, lr=.01))
    model = net()
    with pytest.raises(ValueError, match='lets another optimiser step'): sparse(model, Several(list(model.parameters())))


@core
def test_the_optimiser_of_lightning_is_listened_to():
    wrapped = pytest.importorskip('lightning.pytorch.core.optimizer').LightningOptimizer
    model = net(); opt = O.SGD(model.parameters(), lr=.05, momentum=.9); s = sparse(model, wrapped(opt))[2]
    for i in range(4): step(model, opt, i)
    assert s.steps == 4 and astray(s) == []


@core
def test_other_parametrisations_are_no_weight_norm():
    class Two(nn.Module):
        def forward(self, a, b): return a.sum(0) * b
        def right_inverse(self, w): return torch.ones(1, *w.shape), w
    model = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4)); nn.utils.parametrize.register_parametrization(model[0], 'weight', Two())
    assert norm_axes(model) == {}; quiet(Sparsifier, model, O.SGD(model.parameters(), .1), 'static', density=.2)


@core
def test_layers_that_begin_at_zero_are_not_sparse_already():
    model = net(); nn.init.zeros_(model[2].weight)
    with warnings.catch_warnings(): warnings.simplefilter('error'); Sparsifier(model, O.SGD(model.parameters(), .1), 'set', density=.3, every=2, until=9)


@core
def test_looks_at_other_weights_are_no_steps_of_another_optimiser():
    model, opt, s = sparse(net()); [step(model, opt, i) for i in range(3)]; now = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for i in range(15):
            with torch.no_grad():
                for n, m in s.masks.items(): model.get_parameter(n).add_(.01 * m)
                model(X)
        for i in range(15): model.load_state_dict(now); model(X)


@core
@pytest.mark.filterwarnings('ignore')
def test_weights_of_an_earlier_file_do_not_come_back():
    "The later file holds what these masks had left of the earlier one, and zeros where other masks have weights."
    model, opt, s = parts_of(seed=2); first = {n: torch.randn_like(t) for n, t in model.state_dict().items()}; model.load_state_dict(first)
    then = {n: t * s.masks.get(n, torch.ones(1)) for n, t in first.items()}; model.load_state_dict(then); s.load_state_dict(parts_of(seed=5)[2].state_dict())
    for n, w in s.weights.items(): assert torch.equal(w.detach(), then[n] * s.masks[n]) and (s.masks[n] & (then[n] == 0)).any()


# ---- what was silent

USES = dict(evaluate=lambda model, s: model(X), remove=lambda model, s: s.remove())

@core
@pytest.mark.parametrize('use', USES)
def test_a_checkpoint_that_is_used_without_its_masks_is_told(use):
    "The best epoch is loaded at the end, and no step follows in which it would be said."
    model, opt, s = parts_of()
    for i in range(7): step(model, opt, i)
    best = everything(model, opt, s)
    for i in range(7, 20): step(model, opt, i)
    model.load_state_dict(best[0])
    with pytest.warns(UserWarning, match=r'not zero where the masks are .*\.remove\(\) before'): USES[use](model, s)
    again = parts_of(seed=3); again[0].load_state_dict(best[0])
    for part, state in zip(again[1:], best[1:]): part.load_state_dict(state)
    with warnings.catch_warnings(): warnings.simplefilter('error'); USES[use](again[0], again[2])
    bare = parts_of(seed=4); bare[2].remove(); bare[0].load_state_dict(best[0])
    assert same(best[0], bare[0].state_dict())
    whole = nn.DataParallel(net()); s = sparse(whole, seed=3)[2]; whole.module.load_state_dict(best[0])
    with pytest.warns(UserWarning, match='not zero where the masks are'): whole.module(X) if use == 'evaluate' else s.remove()
    fast = torch.compile(net(), backend='eager'); s = sparse(fast, seed=3)[2]; fast._orig_mod.load_state_dict(best[0])
    with pytest.warns(UserWarning, match='not zero where the masks are'): fast(X) if use == 'evaluate' else s.remove()


@core
@pytest.mark.parametrize('order', ['mwos', 'omws', 'mows', 'mdws', 'mfwos'])
def test_weights_written_between_two_loads_keep_what_was_hidden_and_it_is_said(order):
    "m, o, s: a state is loaded; w: the weights are written to; d, f: they are looked at, or used."
    run, again = parts_of(), parts_of(seed=2)
    for i in range(7): step(*run[:2], i)
    state = everything(*run)
    @torch.no_grad()
    def halve(): [p.mul_(.5) for p in again[0].parameters()]
    do = dict(m=lambda: again[0].load_state_dict(state[0]), o=lambda: again[1].load_state_dict(state[1]), w=halve,
              d=lambda: again[0].state_dict(), f=lambda: quiet(again[0], X))
    for what in order[:-1]: do[what]()
    with pytest.warns(UserWarning, match='written to after they were loaded and before the sparsifier'): again[2].load_state_dict(state[2])
    assert again[2].counts() == run[2].counts() and all(torch.equal(w != 0, state[0][n] != 0) for n, w in again[2].weights.items())


@core
def test_signs_of_a_layer_that_rests_are_remembered():
    model = Sometimes(); opt = O.SGD(model.parameters(), lr=.5); s = quiet(Sparsifier, model, opt, 'deepr', density=.3, until=999)
    dropped = dict.fromkeys(s.layers, 0)
    for i in range(60):
        model.on = i % 2 == 0; step(model, opt, i); step(model, opt, i)
        for u in s.history[-2:]: dropped = {n: d + u['layers'][n]['dropped'] for n, d in dropped.items()}
        assert set(s.memory.get('signs', ())) <= set(s.layers)
    assert min(dropped.values()) > 0 and set(s.memory['signs']) == set(s.layers)


FIRST = dict(too_many=(lambda shapes, budgets, seed: random_masks(shapes, {n: 2 * b for n, b in budgets.items()}, seed), 'are planned'),
             none=(lambda shapes, budgets, seed: {n: torch.zeros(s) for n, s in shapes.items()}, 'without any active weight'),
             scores=(lambda shapes, budgets, seed: {n: torch.rand(s) for n, s in shapes.items()}, 'are these scores'))

@core
@pytest.mark.parametrize('kind', FIRST)
def test_first_masks_of_ones_own_keep_to_the_budgets(kind):
    model = net(); before = everything(model)
    with pytest.raises(ValueError, match=FIRST[kind][1]): sparse(model, method=replace(METHODS['set'], name='my rule', first_masks=FIRST[kind][0]))
    assert same(before[0], model.state_dict())


@core
@pytest.mark.parametrize('change', [
    dict(allocate=lambda snap, dropped, free: dict.fromkeys(dropped, 0) if snap.update == 2 else dict(dropped)),
    dict(allocate=OWN['quotas_too_small']['allocate'], first_masks=lambda *a: random_masks(*a)),
    dict(drop=lambda snap: {n: l.places for n, l in snap.layers.items()}, allocate=lambda snap, dropped, free: {
        n: sum(dropped.values()) * (n == '0.weight') for n in dropped})], ids=['at_times', 'first_masks', 'emptied'])
def test_a_rule_of_ones_own_cannot_lose_weights(change):
    model = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 4)); opt = O.SGD(model.parameters(), lr=.1)
    s = Sparsifier(model, opt, replace(METHODS['set'], name='my rule', **change), density=.3, every=1, until=9, fraction=.5)
    before = sum(s.counts().values())
    with pytest.raises(ValueError, match="'my rule'.*(add up|leaves no weight in)"):
        for i in range(5): step(model, opt, i)
    assert sum(s.counts().values()) == before


class Kept(O.Optimizer):
    "Momentum, kept as other people's optimisers do: in one row, or in a list."
    def __init__(self, params, form): super().__init__(params, dict(lr=.05)); self.form = form
    FORMS = dict(plain=torch.zeros_like, row=lambda p: torch.zeros(p.numel()), listed=lambda p: [torch.zeros_like(p)],
                 parameter=lambda p: nn.Parameter(torch.zeros_like(p), requires_grad=False), column=lambda p: torch.zeros(p.numel(), 1))

    @torch.no_grad()
    def step(self):
        for p in (p for g in self.param_groups for p in g['params'] if p.grad is not None):
            if not self.state[p]: self.state[p]['m'] = self.FORMS[self.form](p)
            m = self.state[p]['m']; m = (m[0] if self.form == 'listed' else m).view_as(p)
            m.mul_(.9).add_(p.grad); p.sub_(m, alpha=.05)


@core
def test_state_in_a_row_is_as_in_the_weights_shape():
    found = []
    for form in ('plain', 'row', 'parameter', 'column'):
        model = net(); parts = sparse(model, Kept(model.parameters(), form))
        for i in range(12): step(*parts[:2], i)
        found.append((model.state_dict(), [parts[1].state[w]['m'].flatten() for w in parts[2].weights.values()])); parts[2].check()
        assert all(not m[~l.bool_mask.flatten()].any() for m, l in zip(found[-1][1], parts[2].layers.values()))
    assert all(same(found[0], f) for f in found)
    last = nn.Sequential(nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last); s = sparse(last, Kept(last.parameters(), 'parameter'), every=1)[2]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for i in range(4): last(torch.randn(2, 3, 8, 8)).square().mean().backward(); s.optimizer.step()
    s.check()


@core
def test_state_that_cannot_be_reached_is_named_and_stored_layers_refuse_it():
    model = net(); parts = sparse(model, Kept(model.parameters(), 'listed'))
    with pytest.warns(UserWarning, match=r"Kept keeps \['m'\] in a form that masks do not reach"): step(*parts[:2])
    for i in range(8): step(*parts[:2], i); assert not astray(parts[2])
    for form in ('listed', 'column'):
        model = quiet(sparse_storage_, net(), density=.3); parts = sparse(model, Kept(model.parameters(), form))
        with pytest.raises(ValueError, match='cannot be moved with the weights'): step(*parts[:2])


@core
def test_pruning_whose_last_update_had_no_gradient_at_all_is_told():
    model, opt, s = sparse(net(), method='gmp', density=.1, until=7)
    for i in range(6): step(model, opt, i)
    opt.zero_grad()
    with pytest.warns(UserWarning, match='above their budgets') as said: opt.step()
    assert len(said) == 1 and sum(s.counts().values()) > sum(s.targets.values())


@core
def test_gradients_kept_for_an_update_that_had_none_are_let_go():
    model, opt, s = sparse(net(), method='rigl', every=4, grad_batches=2)
    for i in range(4): step(model, opt, i)
    assert s._batches == 1
    opt.zero_grad(); opt.step()
    assert not s._batches and not s._sums


@core
@pytest.mark.parametrize('other', [dict(method=replace(METHODS['ggr'], grow=hybrid(.9))), dict(method=replace(METHODS['ggr'], drop=drop_dead_first)),
                                   dict(schedule=lambda t: .5)], ids=['grow', 'drop', 'schedule'])
def test_a_state_of_other_rules_under_the_same_name_is_refused(other):
    state, again = parts_of()[2].state_dict(), parts_of(seed=2)[2]
    again.load_state_dict(state)
    mine = sparse(net(), **dict(method='ggr') | other)[2]
    with pytest.raises(ValueError, match='other settings'): mine.load_state_dict(state)
    old = state | dict(settings={k: v for k, v in state['settings'].items() if k not in ('drop', 'allocate', 'grow', 'birth')})
    quiet(parts_of(seed=2)[2].load_state_dict, old)            # a state of before goes on
    with pytest.raises(ValueError, match="schedule was 'linear'"):
        parts_of(seed=2)[2].load_state_dict(old | dict(settings=old['settings'] | dict(schedule='linear')))


@core
def test_rules_are_spelled_alike_in_every_process():
    class Table:
        def __call__(self, snap): return drop_local(snap)
    rules = [partial(drop_local, criterion='magnitude'), partial(drop_local, table={'a': drop_local}, some={'x', 'y'}, t=torch.ones(3)), Table(), Table]
    for rule in rules: assert '0x' not in _spelled(rule) and _spelled(rule) == _spelled(copy.copy(rule))
    assert _spelled(rules[0]) == "drop_local(criterion='magnitude')" and "'x'" not in _spelled(rules[1])


ORDER = namedtuple('Order', 'first second')

def remembering(value):
    return replace(METHODS['set'], name='remembers', drop=lambda snap: ({n: l.places[:1] for n, l in snap.layers.items()}, dict(mine=value)))

@core
@pytest.mark.parametrize('value', [{('a', 0): 1.5, 3: (None, [True])}, np.float64(2.), torch.arange(3), {'t': torch.ones(2, 0)}], ids=['keys', 'number', 'tensor', 'empty'])
def test_what_a_rule_remembers_comes_back(value):
    model, opt, s = sparse(net(), method=remembering(value))
    for i in range(4): step(model, opt, i)
    again = sparse(net(), method=remembering(value))[2]; again.load_state_dict(copy.deepcopy(s.state_dict()))
    assert same(again.memory['mine'], value)


@core
@pytest.mark.parametrize('value', [Counter('aab'), np.arange(3), {1, 2}, lambda: 0, ORDER('a', 'b')], ids=['counter', 'array', 'set', 'function', 'namedtuple'])
def test_what_would_not_come_back_is_refused_at_the_first_update(value):
    model, opt, s = sparse(net(), method=remembering(value)); before = s.masks
    with pytest.raises(TypeError, match='cannot be saved'):
        for i in range(4): step(model, opt, i)
    assert s.steps == 2 and same(before, s.masks)


@core
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('default', ['meta', torch.float64])
def test_another_default_device_or_dtype_changes_nothing(method, default):
    def run(set_default):
        model = net(); optimizer = O.SGD(model.parameters(), lr=.05, momentum=.9)
        try:
            set_default(default)
            parts = sparse(model, optimizer, method)
            for i in range(7): step(*parts[:2], i)
        finally: torch.set_default_device('cpu'); torch.set_default_dtype(torch.float32)
        return parts[2].masks
    assert same(run(lambda d: None), run(torch.set_default_device if default == 'meta' else torch.set_default_dtype))
