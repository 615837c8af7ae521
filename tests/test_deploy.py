"""Deployed networks say what the originals said, and their file is small, exact and refuses damage."""
import copy, json, struct, zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from ggr_nb.masks import sparse_parameters
from ggr_nb.sparse import sparse_storage_
from ggr_nb.train.deploy import (Conv2dRows, LinearRows, dense_layers, deploy, entropy, forms, load_deployed, pack_places,
                                 save_deployed, unpack_places)
from ggr_nb.train.models import mlp, resnet18, vgg16_tiny


class Block(nn.Module):
    "Attention and two linear layers, around residuals."
    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.up, self.down = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.norm = nn.LayerNorm(16)
    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.down(torch.relu(self.up(x)))


NETS = {'mlp': (lambda: mlp((12, 20, 16, 5)), (3, 12)), 'vgg16_tiny': (lambda: vgg16_tiny(5, width=.06), (2, 3, 64, 64)),
        'resnet18': (lambda: resnet18(5, width=.125), (2, 3, 32, 32)), 'block': (Block, (2, 7, 16))}


def case(kind, density=.2):
    torch.manual_seed(0); make, size = NETS[kind]; net = make().eval()
    g = torch.Generator().manual_seed(1)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.running_mean.normal_(0, .1, generator=g); m.running_var.uniform_(.5, 2, generator=g)
    masks = {n: torch.rand(p.shape, generator=g) < density for n, p in sparse_parameters(net).items()}
    return make, net, masks, torch.randn(size, generator=g)


def all_sparse(net): return {n: 'sparse' for n, m in net.named_modules() if 'sparse' in forms(m)}


@pytest.mark.parametrize('kind', NETS)
@pytest.mark.parametrize('one', [False, True])
@torch.no_grad()
def test_outputs_stay(kind, one):
    make, net, masks, x = case(kind)
    if one: x = x[:1]
    small, table = deploy(net, masks, x, choose=all_sparse(net))
    for n, p in sparse_parameters(net).items(): p.mul_(masks[n])
    got, want = small(x), net(x)
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()
    assert all(row['chosen'] == 'sparse' for row in table) and table
    assert any(isinstance(m, (LinearRows, Conv2dRows)) for m in small.modules())


def norms(net): return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())


@pytest.mark.parametrize('kind', ['vgg16_tiny', 'resnet18'])
@torch.no_grad()
def test_norms_stand_in_the_weights_before_them(kind):
    "What was zero stays zero, and the given network keeps its norms."
    _, net, masks, x = case(kind); before = norms(net)
    small, _ = deploy(net, masks, x, choose={})
    assert before == norms(net) > 0 == norms(small)
    active = sum(int(p.count_nonzero()) for p in small.parameters() if p.ndim > 1)
    assert 0 < active <= sum(int(m.sum()) for m in masks.values())


class Odd(nn.Module):
    "A convolution and a norm that may not be made one, by the way they are used."
    def __init__(self, way):
        super().__init__(); self.way = way
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        if way == 'own statistics': self.norm = nn.BatchNorm2d(3, track_running_stats=False)
        if way == 'hooked': self.conv.register_forward_hook(lambda m, x, y: y.relu())
    def forward(self, x):
        y = self.conv(x)
        if self.way == 'read twice': return self.norm(y) + y
        if self.way == 'asked twice': return self.norm(y) + self.norm(self.other(x))
        if self.way == 'layer twice': return self.norm(self.conv(y))
        if self.way == 'written over': return self.norm(y.relu_())
        return self.norm(y)


@pytest.mark.parametrize('way', ['read twice', 'asked twice', 'layer twice', 'written over', 'own statistics', 'hooked'])
@torch.no_grad()
def test_a_norm_that_cannot_be_folded_stays(way):
    torch.manual_seed(0); net = Odd(way).eval(); x = torch.randn(2, 3, 8, 8)
    if way != 'own statistics': net.norm.running_mean.normal_(); net.norm.running_var.uniform_(.5, 2); net.norm.bias.normal_()
    small, _ = deploy(net, None, x, choose={})
    assert (small(x) - net(x)).abs().max() <= 1e-4 * net(x).abs().max() and norms(small) == 1


@pytest.mark.parametrize('kind', ['mlp', 'vgg16_tiny'])
@torch.no_grad()
def test_what_is_made_for_the_kernels_follows_the_values(kind):
    "Whatever is loaded or converted after the first answer; a copy holds nothing of it."
    _, net, masks, x = case(kind); _, other, _, _ = case(kind)
    for p in other.parameters(): p.mul_(1.5)
    small, changed = (deploy(n, masks, x, choose=all_sparse(net))[0] for n in (net, other))
    before = small(x); assert not torch.allclose(before, changed(x))
    small.load_state_dict(changed.state_dict()); assert torch.equal(small(x), changed(x))
    assert torch.equal(copy.deepcopy(small)(x), small(x)) and small.double()(x.double()).dtype == torch.float64
    assert torch.allclose(small(x.double()).float(), changed(x), atol=1e-4)


@torch.no_grad()
def test_a_norm_behind_a_linear_layer_is_folded():
    torch.manual_seed(0); net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    net[1].running_mean.normal_(); net[1].running_var.uniform_(.5, 2); x = torch.randn(5, 6)
    small, _ = deploy(net, None, x, choose={})
    assert torch.allclose(small(x), net(x), atol=1e-5) and norms(small) == 0


@pytest.mark.parametrize('kind', NETS)
@torch.no_grad()
def test_a_file_gives_back_every_bit(kind, tmp_path):
    make, net, masks, x = case(kind)
    names = all_sparse(net)
    mixed = {n: ('sparse', 'dense', 'channels last')[i % 3] for i, n in enumerate(names)}
    mixed = {n: f if f in forms(net.get_submodule(n)) else 'dense' for n, f in mixed.items()}
    small, _ = deploy(net, masks, x, choose=mixed)
    size = save_deployed(tmp_path / 'net', small)
    assert size == (tmp_path / 'net').stat().st_size
    again = load_deployed(tmp_path / 'net', make())
    assert torch.equal(again(x), small(x)) and not again.training
    a, b = again.state_dict(), small.state_dict()
    assert list(a) == list(b) and all(torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


@pytest.mark.parametrize('density', [.003, .01, .03, .2, .5])
def test_a_file_is_hardly_larger_than_its_information(density, tmp_path):
    torch.manual_seed(0); net = nn.Sequential(nn.Linear(1000, 1000, bias=False))
    masks = {'0.weight': torch.rand(1000, 1000) < density}
    small, _ = deploy(net, masks, torch.randn(2, 1000), choose={'0': 'sparse'})
    rows = small.get_submodule('0'); active = len(rows.values)
    least = entropy(rows.shape[0] * rows.shape[1], active) + 4 * active
    assert active > .95 * masks['0.weight'].sum() and least < save_deployed(tmp_path / 'net', small) < 1.15 * least


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_places_are_packed_without_loss(case):
    size, places = case; places = np.array(sorted(places), dtype=np.int64)
    assert np.array_equal(unpack_places(*pack_places(places, size), size), places)


@pytest.mark.parametrize('places', [[], [0], [254], [255], [256], [509], [510], [511], [70_000], [65_535, 131_071, 131_072]])
def test_long_gaps_go_on(places):
    size = 200_000; places = np.array(places, dtype=np.int64)
    assert np.array_equal(unpack_places(*pack_places(places, size), size), places)


def saved(tmp_path):
    make, net, masks, x = case('mlp')
    save_deployed(tmp_path / 'net', deploy(net, masks, x, choose=all_sparse(net))[0])
    return tmp_path / 'net', make


def test_damage_is_refused(tmp_path):
    file, make = saved(tmp_path); good = file.read_bytes()
    for i in range(0, len(good), 41):
        bad = bytearray(good); bad[i] ^= 4; file.write_bytes(bad)
        with pytest.raises(ValueError, match='damaged|no deployed network'): load_deployed(file, make())
    for n in (0, 10, 21, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:n])
        with pytest.raises(ValueError, match='damaged|no deployed network'): load_deployed(file, make())


def forged(file, change):
    "A file whose header lies and whose checksum is right."
    raw = file.read_bytes(); end = 16 + struct.unpack('<Q', raw[8:16])[0]; head = json.loads(raw[16:end])
    change(head); head = json.dumps(head).encode()
    raw = raw[:8] + struct.pack('<Q', len(head)) + head + raw[end:-4]
    file.write_bytes(raw + struct.pack('<I', zlib.crc32(raw)))


@pytest.mark.parametrize('lie', ['shape', 'name', 'bytes', 'dtype', 'code', 'module', 'fewer'])
def test_a_lying_header_is_refused(lie, tmp_path):
    file, make = saved(tmp_path)
    def change(head):
        note = head['tensors']['fc1.values']
        if lie == 'shape': note['shape'] = [10**9, 10**9]
        if lie == 'name': head['tensors']['other.values'] = head['tensors'].pop('fc1.values')
        if lie == 'bytes': note['bytes'][1] += 10**12
        if lie == 'dtype': note['dtype'] = 'load'
        if lie == 'code': note['code'] = 'pickle'
        if lie == 'module': head['modules']['gone'] = head['modules']['fc1']
        if lie == 'fewer': note['shape'][0] -= 1
    forged(file, change)
    with pytest.raises(ValueError, match='net (is damaged|holds)'): load_deployed(file, make())


def test_another_architecture_is_refused(tmp_path):
    file, _ = saved(tmp_path)
    with pytest.raises(ValueError, match='architecture'): load_deployed(file, mlp((3, 4, 5)))


def test_what_cannot_be_chosen_is_said():
    make, net, masks, x = case('mlp')
    with pytest.raises(ValueError, match='fc9'): deploy(net, masks, x, choose={'fc9': 'sparse'})
    with pytest.raises(ValueError, match='it can be dense, sparse'): deploy(net, masks, x, choose={'fc1': 'quick'})
    with pytest.raises(ValueError, match="give {layer: form}"): deploy(net, masks, x, choose='sparse')


@torch.no_grad()
def test_a_form_that_is_wrong_is_not_taken(monkeypatch):
    make, net, masks, x = case('mlp')
    right = LinearRows.forward
    monkeypatch.setattr(LinearRows, 'forward', lambda self, x: right(self, x) * 1.01)
    small, table = deploy(net, masks, x, choose=all_sparse(net))
    assert {row['chosen'] for row in table} == {'dense'}


def test_the_fastest_is_taken_and_ties_are_dense(monkeypatch):
    make, net, masks, x = case('mlp')
    for sparse, chosen in ((.5, 'sparse'), (.97, 'dense'), (2., 'dense')):
        monkeypatch.setattr('ggr_nb.train.deploy.seconds', lambda m, x: sparse if isinstance(m, LinearRows) else 1.)
        assert {row['chosen'] for row in deploy(net, masks, x)[1]} == {chosen}


@torch.no_grad()
def test_sparse_storage_is_deployed():
    torch.manual_seed(0); net = mlp((12, 20, 16, 5)); sparse_storage_(net, density=.3)
    x = torch.randn(3, 12); want = net(x)
    small, _ = deploy(net, None, x, choose=dict(fc1='sparse'))
    assert (small(x) - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize('kind', ['mlp', 'vgg16_tiny'])
@torch.no_grad()
def test_torch_export(kind):
    make, net, masks, x = case(kind); small, _ = deploy(net, masks, x, choose=all_sparse(net))
    program = torch.export.export(dense_layers(small), (x,))
    assert (program.module()(x) - small(x)).abs().max() <= 1e-4 * small(x).abs().max()


@torch.no_grad()
def test_onnx(tmp_path):
    for name in ('onnx', 'onnxscript', 'onnxruntime'): pytest.importorskip(name, reason=f'no {name} here: pip install {name}')
    import onnxruntime
    make, net, masks, x = case('vgg16_tiny'); small, _ = deploy(net, masks, x, choose=all_sparse(net))
    torch.onnx.export(dense_layers(small), (x,), tmp_path / 'net.onnx', dynamo=True)
    session = onnxruntime.InferenceSession(tmp_path / 'net.onnx')
    got = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    assert (got - small(x)).abs().max() <= 1e-4 * small(x).abs().max()


class Block(nn.Module):
    "Like timm's: it answers for its convolution, and cannot be told."
    def __init__(self, i, o, size):
        super().__init__(); self.conv = nn.Conv2d(i, o, size, padding=size // 2, bias=False); self.norm = nn.BatchNorm2d(o)
    @property
    def in_channels(self): return self.conv.in_channels
    def forward(self, x): return nn.functional.silu(self.norm(self.conv(x)))


FOLDED = dict(linear=(lambda: nn.Sequential(nn.Linear(20, 40), nn.Sigmoid(), nn.Linear(40, 5, bias=False)), (4, 20)),
              convolutions=(lambda: nn.Sequential(Block(3, 16, 3), Block(16, 8, 1), nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.Flatten(), nn.Linear(288, 5)), (2, 3, 8, 8)))


@pytest.mark.parametrize('kind', FOLDED)
def test_a_bias_that_folding_made_and_every_layout_come_back_to_the_bit(kind, tmp_path):
    make, shape = FOLDED[kind]; torch.manual_seed(0); net = make().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): nn.init.normal_(m.bias, 0, .3)                  # as after training; fresh ones are zero
    masks = {n: torch.rand(p.shape) < .5 for n, p in net.named_parameters() if p.ndim > 1}
    for m in masks.values(): m[:len(m) // 3] = False                                      # dead units, which leave a constant behind
    x = torch.randn(shape); small, _ = deploy(net, masks, x)
    save_deployed(tmp_path/'net', small); again = load_deployed(tmp_path/'net', net)
    assert torch.equal(again(x), small(x)) and small(x).std() > 0
    assert all(a.stride() == b.stride() for a, b in zip(again.state_dict().values(), small.state_dict().values()))


class Named(nn.Module):
    "A layer that is called `values`, and calls by keyword."
    def __init__(self): super().__init__(); self.values, self.conv, self.head = nn.Linear(16, 32), nn.Conv2d(2, 4, 3), nn.Linear(16, 5)
    def forward(self, x): return self.head(input=self.conv(input=self.values(input=x).relu().view(-1, 2, 4, 4)).relu().flatten(1))


@pytest.mark.parametrize('make', [Named, lambda: nn.Linear(16, 5), lambda: nn.Sequential(nn.Linear(16, 5))], ids=['named', 'a layer', 'sequence'])
def test_any_name_any_call_and_a_model_that_is_one_layer(make, tmp_path):
    torch.manual_seed(0); model, x = make(), torch.randn(6, 16)
    masks = {n: torch.rand(p.shape) < .3 for n, p in sparse_parameters(model).items()}
    net, table = deploy(model, masks, x, choose=all_sparse(model))
    assert {r['chosen'] for r in table} == {'sparse'} and not any(isinstance(m, (nn.Linear, nn.Conv2d)) for m in net.modules())
    save_deployed(tmp_path / 'net', net); again = load_deployed(tmp_path / 'net', model)
    assert torch.equal(net(x), again(x)); torch.testing.assert_close(dense_layers(net)(x), net(x))
    for few in (x[:0], x[:1]): assert net(few).shape == (len(few), 5)


class Twice(nn.Module):
    "One layer in two places."
    def __init__(self): super().__init__(); self.a, self.head = nn.Linear(32, 32), nn.Linear(32, 4); self.b = self.a
    def forward(self, x): return self.head(self.b(self.a(x).relu()).relu())


@pytest.mark.parametrize('chosen', [{}, {'a': 'sparse'}], ids=str)
def test_a_layer_in_two_places_is_written_once_and_comes_back(chosen, tmp_path):
    model, x = Twice(), torch.randn(6, 32)
    masks = {n: torch.rand(p.shape) < .1 for n, p in sparse_parameters(model).items()}
    net, _ = deploy(model, masks, x, choose=chosen); assert net.a is net.b
    save_deployed(tmp_path / 'net', net); again = load_deployed(tmp_path / 'net', model)
    assert again.a is again.b and type(again.a) is type(net.a) and torch.equal(net(x), again(x))
    assert (tmp_path / 'net').stat().st_size < 2000                                     # 1.2 kB, twice the layer 2 kB


@pytest.mark.parametrize('stride', [1, 2])
def test_batches_of_none_and_images_alone(stride):
    conv = nn.Conv2d(3, 4, 3, stride, padding=1); rows = Conv2dRows(conv)
    for x in (torch.randn(0, 3, 7, 8), torch.randn(3, 7, 8)):
        torch.testing.assert_close(rows(x), conv(x)); assert rows(x).shape == conv(x).shape
