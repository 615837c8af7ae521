"""The measures against independent ways of getting the same numbers."""
import copy, warnings
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ggr_nb.masks import apply_masks_, counts, density, sparse_modules, sparse_parameters
from ggr_nb.sparse import sparse_storage_
from ggr_nb.train.compact import compact
from ggr_nb.train.measure import (connected, emptiness, exploration, flops, forward_flops, gradient_flow, gradients, jaccard,
                            parameters, positions, survival)
from ggr_nb.train.models import MODELS, digits_net, mlp, resnet18

SIZE = {'lenet': (1, 28, 28), 'mlp': (1, 8, 8), 'digits_net': (1, 8, 8)}
seeds = st.integers(0, 10**6)


def draw(model, d, seed):
    g = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=g) < d for n, p in sparse_parameters(model).items()}


# FLOPs

@pytest.mark.parametrize('name', sorted(MODELS))
def test_dense_flops_are_those_that_torch_counts(name):
    size = SIZE.get(name, (3, 32, 32))
    with torch.device('meta'): net = MODELS[name](width=.25, input_size=size).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(): net(torch.empty(1, *size, device='meta'))
    assert flops(net, size).dense == counter.get_total_flops()


@given(seeds, st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_sparse_flops_add_up_layer_by_layer(seed, d):
    net = digits_net(width=.5); masks = draw(net, d, seed); f, u = flops(net, (1, 8, 8), masks), positions(net, (1, 8, 8))
    assert f.sparse == sum(s for _, s in f.layers.values()) == forward_flops(u, counts(masks)) <= f.dense
    assert f.sparse == sum(2*u[n]*int(m.sum()) for n, m in masks.items())
    assert flops(net, (1, 8, 8)).sparse == f.dense


def test_transposed_reused_and_wrapped_layers():
    up = nn.Sequential(nn.ConvTranspose2d(2, 5, 3, stride=2, bias=False))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(): up(torch.zeros(1, 2, 6, 6))
    assert flops(up, (2, 6, 6)).dense == counter.get_total_flops()
    layer = nn.Linear(4, 4)
    assert positions(nn.Sequential(layer, nn.ReLU(), layer), (4,)) == {'0.weight': 2}
    net = mlp(); assert flops(torch.compile(net), (1, 8, 8)) == flops(nn.DataParallel(net), (1, 8, 8)) == flops(net, (1, 8, 8))


class Tied(nn.Module):
    "A language model: its head multiplies by the words' own table."
    def __init__(self):
        super().__init__(); self.words, self.block = nn.Embedding(50, 16), nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.head = nn.Linear(16, 50, bias=False); self.head.weight = self.words.weight
    def forward(self, ids): return self.head(self.block(self.words(ids)))


class Windows(nn.Module):
    "Four windows of an image are four rows of a batch."
    def __init__(self): super().__init__(); self.part, self.head = nn.Linear(16, 8), nn.Linear(32, 3)
    def forward(self, x): return self.head(self.part(x.view(len(x) * 4, 16)).view(len(x), -1))


class Conv1D(nn.Module):
    "GPT-2's linear layer: [in, out]."
    def __init__(self, nf, nx): super().__init__(); self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))
    def forward(self, x): return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Cells(nn.Module):
    def __init__(self): super().__init__(); self.cell = nn.GRUCell(6, 10)
    def forward(self, x):
        h = None
        for t in range(x.shape[1]): h = self.cell(x[:, t], h)
        return h


class Crossed(nn.Module):
    def __init__(self, **kw): super().__init__(); self.attention = nn.MultiheadAttention(16, 4, batch_first=True, **kw)
    def forward(self, q, k): return self.attention(q, key=k, value=k, need_weights=False)[0]


norm = nn.utils.parametrizations.weight_norm
OTHERS = {
    'encoder': (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2), (7, 16)),
    'sequence first': (lambda: nn.TransformerEncoderLayer(16, 4, 32), torch.zeros(7, 1, 16)),
    'decoder': (lambda: nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), (torch.zeros(1, 7, 16), torch.zeros(1, 7, 16))),
    'crossed': (lambda: Crossed(), (torch.zeros(1, 7, 16), torch.zeros(1, 3, 16))),
    'other sizes': (lambda: Crossed(kdim=12, vdim=12), (torch.zeros(1, 7, 16), torch.zeros(1, 3, 12))),
    'by name': (lambda: Crossed(), dict(q=torch.zeros(1, 7, 16), k=torch.zeros(1, 7, 16))),
    'lstm': (lambda: nn.LSTM(6, 10, 2, batch_first=True, bidirectional=True), (9, 6)),
    'projected': (lambda: nn.LSTM(6, 10, proj_size=4, batch_first=True), (9, 6)),
    'gru': (lambda: nn.GRU(6, 10, batch_first=True), (9, 6)), 'rnn': (lambda: nn.RNN(6, 10), torch.zeros(9, 1, 6)),
    'cells': (Cells, (9, 6)), 'tied': (Tied, torch.zeros(1, 11, dtype=torch.long)), 'windows': (Windows, (64,)),
    'gpt2': (lambda: nn.Sequential(Conv1D(24, 16), nn.GELU(), Conv1D(16, 24)), (5, 16)),
    'normalised': (lambda: nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), norm(nn.Conv2d(4, 2, 3))), (3, 8, 8)),
}


@pytest.mark.parametrize('name', OTHERS)
def test_products_with_weights_are_counted_in_any_kind_of_layer(name):
    make, example = OTHERS[name]; counter = FlopCounterMode(display=False)
    with torch.device('meta'): net = make().eval()
    args = list(example.values()) if isinstance(example, dict) else [example] if torch.is_tensor(example) else list(example)
    if not torch.is_tensor(args[0]): args = [torch.zeros(1, *example)]
    args = [t.to('meta') for t in args]
    with counter, torch.no_grad(): net(*args)                       # of a product of activations (bmm) nothing is counted
    by_op = {str(op): n for op, n in counter.get_flop_counts()['Global'].items()}
    products = sum(n for op, n in by_op.items() if op in ('aten.mm', 'aten.addmm', 'aten.convolution'))
    given = {'q': args[0], 'k': args[1]} if isinstance(example, dict) else tuple(args) if len(args) > 1 else args[0]
    assert flops(net, given).dense == products > 0
    plain = make(); masks = {n: torch.rand(p.shape) < .3 for n, p in sparse_parameters(plain).items()}; f = flops(plain, example, masks)
    assert f.dense == products and f.sparse < f.dense and f.sparse == sum(s for _, s in f.layers.values())

def _products(net, args, kwargs):
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(): net(*args, **kwargs)
    return sum(n for op, n in counter.get_flop_counts()['Global'].items() if str(op) in ('aten.mm', 'aten.addmm', 'aten.convolution'))


@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'swin_tiny_patch4_window7_224', 'mixer_s32_224', 'convnext_atto'])
def test_flops_of_models_of_timm(name):
    "Swin folds its windows into the batch."
    with torch.device('meta'): net = pytest.importorskip('timm').create_model(name).eval(); image = torch.zeros(1, 3, 224, 224)
    assert flops(net, (3, 224, 224)).dense == _products(net, [image], {})


@pytest.mark.parametrize('kind', ['GPT2LMHead', 'Bert'])
def test_flops_of_models_of_transformers(kind):
    transformers = pytest.importorskip('transformers'); small = dict(vocab_size=60, num_hidden_layers=2, num_attention_heads=4, hidden_size=32)
    config = getattr(transformers, f'{kind.removesuffix("LMHead")}Config')(**small, bos_token_id=1, eos_token_id=2)
    net = getattr(transformers, f'{kind}Model')(config).eval(); words = dict(input_ids=torch.randint(60, (1, 9)))
    assert flops(net, words).dense == _products(net, [], words) > 100_000


def test_layers_stored_sparsely_measure_as_masked_ones_do():
    torch.manual_seed(0); plain = mlp((64, 300, 10)); masks = draw(plain, .05, 0)
    apply_masks_(sparse_parameters(plain), masks); stored = sparse_storage_(copy.deepcopy(plain), masks=masks)
    for of in (None, masks): assert flops(stored, (1, 8, 8), of) == flops(plain, (1, 8, 8), masks)
    assert parameters(stored) == parameters(stored, masks) == parameters(plain, masks)
    for n, m in connected(stored, masks, (1, 8, 8)).items(): assert torch.equal(m, connected(plain, masks, (1, 8, 8))[n])
    assert sparse_modules(stored), 'the model itself is left as it was'


class Product(nn.Module):
    "A weight in a module of somebody's own: nobody can know how often it is used."
    def __init__(self): super().__init__(); self.w, self.head = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 2)
    def forward(self, x): return self.head(x @ self.w)


def test_weights_that_are_not_counted_are_named():
    net = Product(); masks = {n: torch.ones(p.shape, dtype=torch.bool) for n, p in net.named_parameters() if p.ndim > 1}
    with pytest.warns(UserWarning, match=r'no FLOPs are counted for w: '): f = flops(net, (8,), masks)
    assert f.layers.keys() == {'head.weight'}
    with warnings.catch_warnings(): warnings.simplefilter('error'); flops(net, (8,)); flops(Tied(), torch.zeros(1, 3, dtype=torch.long))


@pytest.mark.parametrize('shape', ['abc', 3, None, (3, 'a'), (3.5, 8), (0, 8, 8), (True, 8, 8), {3, 8}], ids=str)
@pytest.mark.parametrize('measure', [flops, positions, lambda net, s: connected(net, draw(net, .5, 0), s)], ids=['flops', 'positions', 'connected'])
def test_a_shape_of_another_kind_is_refused_in_one_line(measure, shape):
    with pytest.raises(ValueError, match='whole number') as e: measure(digits_net(), shape)
    assert '\n' not in str(e.value)


def test_masks_of_another_model_are_refused_by_name():
    net = mlp(); masks = {'other.weight': torch.ones(2, 2)}
    for measure in (lambda: parameters(net, masks), lambda: flops(net, (1, 8, 8), masks), lambda: connected(net, masks, (1, 8, 8))):
        with pytest.raises(ValueError, match=r"like 'other.weight', did you mean 'fc3.weight'\? There are: fc1.weight"): measure()


def test_positions_of_grouped_shared_and_strided_layers():
    conv = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), conv, conv, nn.Flatten(), nn.Linear(16, 5))
    assert positions(net, (3, 8, 8)) == {'0.weight': 64, '1.weight': 16 + 4, '4.weight': 1}
    assert net.training and not any(m._forward_hooks for m in net.modules())


def test_counting_leaves_no_trace():
    net = resnet18(width=.1); net.layer1.eval(); modes = [m.training for m in net.modules()]; state = {k: v.clone() for k, v in net.state_dict().items()}
    positions(net, (3, 32, 32))
    with pytest.raises(RuntimeError): positions(net, (5, 32, 32))
    assert [m.training for m in net.modules()] == modes and not any(m._forward_hooks for m in net.modules())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_a_layer_that_nobody_calls_is_not_connected_and_its_mask_is_still_boolean():
    class Idle(nn.Module):
        def __init__(self): super().__init__(); self.a, self.idle, self.b = (nn.Linear(3, 3, bias=False) for _ in range(3))
        def forward(self, x): return self.b(self.a(x))
    for dtype in (torch.bool, torch.float32, torch.int64):
        masks = {n: torch.ones(3, 3, dtype=dtype) for n in ('a.weight', 'idle.weight', 'b.weight')}
        found = connected(Idle(), masks, (3,))
        assert {m.dtype for m in found.values()} == {torch.bool} and {n: int(m.sum()) for n, m in found.items()} == {'a.weight': 9, 'idle.weight': 0, 'b.weight': 9}


# emptiness

@given(seeds, st.sampled_from([(1, 6, 4), (2, 6, 4), (4, 8, 4), (6, 6, 6)]), st.sampled_from([(), (3,), (3, 3)]), st.floats(0, .6))
@settings(max_examples=60, deadline=None)
def test_emptiness_against_loops(seed, sizes, kernel, d):
    g, out, in_ = sizes
    conv = [nn.Linear, nn.Conv1d, nn.Conv2d][len(kernel)](in_, out, *([3]*bool(kernel)), **(dict(groups=g) if kernel else {}))
    g = g if kernel else 1; net = nn.Sequential(conv); masks = draw(net, d, seed); m = masks['0.weight'].reshape(out, in_//g, -1)
    rows = {o for o in range(out) if m[o].any()}
    cols = {(o//(out//g))*(in_//g) + i for o, i in product(range(out), range(in_//g)) if m[o, i].any()}
    left = sum(sum(o//(out//g) == k for o in rows) * sum(i//(in_//g) == k for i in cols) for k in range(g)) * m.shape[2]
    e = emptiness(masks, net)
    assert (e.neurons, e.empty_neurons, e.inputs, e.empty_inputs, e.left) == (out, out - len(rows), in_, in_ - len(cols), left)
    assert e.active <= e.left <= e.total
    assert e.active <= emptiness(masks).left <= e.total


# connection

def paths(masks):
    "Connected weights of an MLP by following every path."
    names, found = list(masks), {n: torch.zeros_like(m) for n, m in masks.items()}
    for units in product(*[range(masks[n].shape[1]) for n in names], range(len(masks[names[-1]]))):
        steps = [(n, b, a) for n, a, b in zip(names, units, units[1:])]
        if all(masks[n][b, a] for n, b, a in steps):
            for n, b, a in steps: found[n][b, a] = True
    return found


@given(seeds, st.floats(.1, .7))
@settings(max_examples=40, deadline=None)
def test_connected_is_what_paths_find(seed, d):
    net = mlp((4, 5, 3, 2)); masks = draw(net, d, seed); c, p = connected(net, masks, (4,)), paths(masks)
    assert all(torch.equal(c[n], p[n]) for n in p)


class Odd(nn.Module):
    "Residual, depthwise, strided, padded, average-pooled and flattened: everything but a max-pool."
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.c, self.d, self.n = nn.Conv2d(4, 4, 1), nn.Linear(16, 3), nn.BatchNorm2d(4)
    def forward(self, x):
        x = F.relu(self.n(self.a(x))); x = x + self.c(F.relu6(self.b(x)))
        return self.d(F.avg_pool2d(x, 2).flatten(1))


@given(seeds, st.floats(.05, .4))
@settings(max_examples=15, deadline=None)
def test_connected_weights_are_those_that_a_positive_net_feels(seed, d):
    net = Odd().double().eval(); masks = draw(net, d, seed); c = connected(net, masks, (2, 4, 4))
    for n, p in net.named_parameters(): p.data = torch.rand_like(p)*masks[n] if n in masks else torch.zeros_like(p)
    net.n.weight.data.fill_(1.); x = torch.rand(1, 2, 4, 4, dtype=torch.float64)*.1
    with torch.no_grad():
        before = net(x)
        for n, p in sparse_parameters(net).items():
            flat, felt = p.data.view(-1), c[n].view(-1)
            for k in masks[n].view(-1).nonzero().flatten().tolist():
                old = flat[k].item(); flat[k] = 0.
                assert bool((net(x) != before).any()) == bool(felt[k]) or 0 < old < 1e-9
                flat[k] = old


@pytest.mark.parametrize('name', sorted(set(MODELS) - {'vgg16'}))
def test_unconnected_weights_never_matter_without_constants(name):
    size = SIZE.get(name, (3, 32, 32)); net = MODELS[name](width=.1, input_size=size).eval(); masks = draw(net, .03 if name != "lenet" else .15, 3)
    c = connected(net, masks, size); x = torch.rand(2, *size)
    def output(loose):
        for n, p in sparse_parameters(net).items(): p.data = torch.where(c[n], .5, torch.where(masks[n], loose, 0.))
        with torch.no_grad(): return net(x)
    assert torch.equal(output(9.), output(-4.)) and sum(counts(c).values()) < sum(counts(masks).values())


@given(seeds, st.floats(.02, .3), st.floats(.02, .3))
@settings(max_examples=10, deadline=None)
def test_connection_is_idempotent_and_grows_with_the_masks(seed, d, more):
    net = digits_net(width=.25); masks = draw(net, d, seed); extra = draw(net, more, seed + 1)
    c = connected(net, masks, (1, 8, 8)); both = connected(net, {n: m | extra[n] for n, m in masks.items()}, (1, 8, 8))
    assert all(torch.equal(c[n], a) for n, a in connected(net, c, (1, 8, 8)).items())
    assert all((both[n] | ~c[n]).all() and not (c[n] & ~masks[n]).any() for n in c)


def test_a_kernel_that_only_sees_padding_is_not_connected():
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(), nn.Linear(1, 1)); corner = torch.zeros(1, 1, 3, 3).bool(); corner[..., 0, 0] = True
    assert not connected(net, {'0.weight': corner}, (1, 1, 1))['0.weight'].any()
    assert connected(net, {'0.weight': ~corner}, (1, 1, 1))['0.weight'].int().sum() == 1


def test_max_pooling_connects_its_whole_window():
    net = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 1)); first = nn.Conv2d(1, 1, 1)
    shift = nn.Conv2d(1, 1, 3, padding=1); m = torch.zeros(1, 1, 3, 3).bool(); m[0, 0, 0, 0] = True   # only the last place gets something
    assert connected(nn.Sequential(first, shift, *net), {'0.weight': torch.ones(1, 1, 1, 1).bool(), '1.weight': m}, (1, 2, 2))['0.weight'].all()


def test_what_connection_refuses():
    net = nn.Sequential(nn.Linear(3, 3), nn.Softmax(1))
    with pytest.raises(NotImplementedError, match='softmax'): connected(net, draw(net, .5, 0), (3,))
    with pytest.raises(ValueError, match='nothing.weight'): connected(mlp(), {'nothing.weight': torch.ones(1)}, (1, 8, 8))
    with pytest.raises(NotImplementedError, match='dilation'):
        connected(nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2, dilation=2)), {}, (1, 8, 8))


# gradients

def test_gradient_flow_is_the_norm_of_backward_and_leaves_no_trace():
    net = digits_net(width=.5); x, y = torch.randn(50, 1, 8, 8), torch.randint(10, (50,)); masks = draw(net, .3, 0)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    flow, batch = gradient_flow(net, x, y, masks, chunk=7), gradient_flow(net, x, y, masks, batch_stats=True)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and all(p.grad is None for p in net.parameters()) and net.training
    for mode, got in ((False, flow), (True, batch)):
        net.zero_grad(); F.cross_entropy(net.train(mode)(x), y).backward()
        want = sum((p.grad*masks.get(n, 1)).square().sum().item() for n, p in net.named_parameters())
        assert got == pytest.approx(want, rel=1e-4)
    assert flow < gradient_flow(net, x, y) and flow != pytest.approx(batch, rel=.01)


def test_gradients_have_clean_names_and_need_examples():
    net = mlp((4, 3, 2)); x, y = torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 0])
    assert list(gradients(nn.DataParallel(net), x, y)) == [n for n, _ in net.named_parameters()]
    with torch.no_grad(): assert gradient_flow(net, x, y) > 0      # also inside no_grad
    with pytest.raises(ValueError, match='no examples'): gradients(net, x[:0], y[:0])


class Named(nn.Module):
    "Children that are called as wrappers call theirs; one may be compiled."
    def __init__(self, part=lambda m: m): super().__init__(); self.module, self._orig = part(nn.Linear(8, 16)), nn.Linear(16, 4)
    def forward(self, x): return self._orig(self.module(x).relu())


@pytest.mark.parametrize('make', [Named, lambda: torch.compile(Named()), lambda: nn.DataParallel(Named()), lambda: Named(torch.compile)],
                         ids=['plain', 'compiled', 'parallel', 'compiled part'])
def test_names_and_measures_do_not_depend_on_wrappers(make):
    model = make(); names = ['module.weight', 'module.bias', '_orig.weight', '_orig.bias']
    weights = sparse_parameters(model); assert list(weights) == names[::2]
    masks = {n: torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) < .2 for n, p in weights.items()}
    assert list(gradients(model, torch.randn(5, 8), torch.arange(5) % 4)) == names
    plain = Named(); assert all(torch.equal(m, connected(plain, masks, (8,))[n]) for n, m in connected(model, masks, (8,)).items())
    assert flops(model, (8,), masks) == flops(plain, (8,), masks)
    small = compact(model, masks, x := torch.randn(5, 8)); apply_masks_(weights, masks)
    assert sum(p.numel() for p in small.parameters()) < 212 and torch.allclose(small(x), model(x), atol=1e-6)


# sets

bits = st.lists(st.booleans(), min_size=12, max_size=12).map(torch.tensor)


@given(bits, bits, bits)
def test_sets(a, b, c):
    where = lambda m: m.nonzero().flatten()
    assert jaccard(a, b) == jaccard(b, a) == jaccard(where(a), where(b)) == jaccard({'w': a.float()}, {'w': b}) and 0 <= jaccard(a, b) <= 1
    assert survival(a, b) == survival(where(a), where(b)) and survival(a, a | b) == 1
    assert 1 - jaccard(a, c) <= (1 - jaccard(a, b)) + (1 - jaccard(b, c)) + 1e-12
    assert max(density({'w': m}) for m in (a, b)) <= exploration([{'w': a}, {'w': b}]) == exploration([{'w': b}, {'w': a}, {'w': b}]) <= 1


def test_sets_refuse():
    with pytest.raises(ValueError, match='shapes'): jaccard(torch.ones(3).bool(), torch.ones(4).bool())
    with pytest.raises(ValueError, match='different layers'): survival({'a': torch.ones(3)}, {'b': torch.ones(3)})


def test_parameters_with_some_layers_masked():
    net = mlp((4, 3, 2)); p = parameters(net, {'fc1.weight': torch.tensor([[1, 0, 0, 1]]*3)})
    assert (p.total, p.weights, p.active, p.other, p.stored) == (23, 12, 6, 11, 17) and p.density == .5


class Named2(nn.Module):
    "Calls its layers by the names of their parameters, in an order of its own."
    def __init__(self): super().__init__(); self.r, self.a = nn.GRU(6, 16, batch_first=True), nn.MultiheadAttention(16, 4, batch_first=True); self.up = nn.ConvTranspose1d(4, 3, 2)
    def forward(self, x):
        y = self.r(hx=torch.zeros(1, len(x), 16), input=x)[0]
        return self.up(output_size=None, input=self.a(need_weights=False, key=y, value=y, query=y[:, :4])[0])

class Usual2(Named2):
    def forward(self, x): y = self.r(x)[0]; return self.up(self.a(y[:, :4], y, y, need_weights=False)[0])


def test_the_order_of_named_arguments_counts_nothing():
    assert flops(Named2(), (9, 6)) == flops(Usual2(), (9, 6))


class Pair(nn.Linear):
    def forward(self, x): return dict(y=(super().forward(x), x))


def test_layers_that_give_more_than_a_tensor_and_models_without_a_layer():
    assert flops(nn.Sequential(Pair(4, 3)), (4,)).dense == 24
