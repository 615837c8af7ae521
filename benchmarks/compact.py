"""Does `compact` keep the outputs of models that nobody here has built? torchvision's and timm's, from their configurations.

    python benchmarks/compact.py [NAME ...]        (needs timm; half an hour on one core)

Each model gets random masks of density .1 with three neurons in ten dead, random biases and norms, and BatchNorm statistics
of one batch, so that dead channels send constants and live ones signals. In float64 where the model allows it. Written to
benchmarks/compact.json after each model: parameters before and after, the largest difference of outputs on new images as a
share of the largest output, and the outcome: 'works', or the sentence with which the model was refused.
"""
import json, os, sys, time, warnings
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ggr_nb.masks import sparse_parameters
from ggr_nb.train.compact import compact

# name -> side of the images
TRIED = {f'torchvision:{n}': side for side, names in {
    64: '''resnet18 resnet50 resnext50_32x4d densenet121 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0
        efficientnet_v2_s regnet_x_400mf regnet_y_400mf shufflenet_v2_x0_5 mnasnet0_5 googlenet squeezenet1_0 squeezenet1_1 alexnet
        convnext_tiny swin_t swin_v2_t vit''', 96: 'inception_v3', 224: 'maxvit_t'}.items() for n in names.split()}
TRIED |= {f'timm:{n}': side for side, names in {
    64: '''resnet18 resnet26d resnet50 resnetblur18 resnetv2_50 seresnet18 ecaresnet26t skresnet18 resnest14d res2net50_14w_8s
        legacy_seresnet18 dla34 dla46_c dpn48b hrnet_w18_small densenet121 vovnet39a ese_vovnet19b_dw efficientnet_lite0
        efficientnet_b0 tf_efficientnet_b0 mixnet_s mnasnet_small mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small
        fbnetc_100 spnasnet_100 ghostnet_050 ghostnetv2_100 tinynet_e lcnet_035 hardcorenas_a regnetx_002 regnety_002 repvgg_a0
        mobileone_s0 tresnet_m selecsls42 cspresnet50 darknet53 nf_resnet26 rexnet_100 xception41 gernet_s convmixer_768_32
        poolformer_s12 convnext_atto edgenext_xx_small starnet_s1 hgnetv2_b0''',
    224: '''vit_tiny_patch16_224 deit_tiny_patch16_224 pit_ti_224 mixer_s16_224 gmlp_ti16_224 resmlp_12_224 xcit_nano_12_p16_224
        levit_128s visformer_tiny coat_lite_tiny pvt_v2_b0 twins_svt_small swin_tiny_patch4_window7_224 mvitv2_tiny
        efficientformer_l1 efficientvit_b0 efficientvit_m0''', 240: 'crossvit_tiny_240', 256: 'mobilevit_xxs mobilevitv2_050'}.items() for n in names.split()}


def build(name):
    "The model in ten classes, with random weights."
    library, kind = name.split(':'); torch.manual_seed(0)
    if library == 'timm':
        import timm
        return timm.create_model(kind, num_classes=10)
    from torchvision import models
    if kind == 'vit': return models.VisionTransformer(64, 16, 2, 4, 64, 128, num_classes=10)
    more = dict(googlenet=dict(init_weights=False, aux_logits=False), inception_v3=dict(init_weights=False, aux_logits=False))
    return models.get_model(kind, weights=None, num_classes=10, **more.get(kind, {}))


def prepared(model, side, seed=0):
    "(the model, masked and lively, in float64 if it can; its masks)"
    g = torch.Generator().manual_seed(seed); torch.manual_seed(seed)
    masks = {n: torch.rand(p.shape, generator=g) < .1 for n, p in sparse_parameters(model).items()}
    for m in list(masks.values())[:-1]: m[torch.rand(len(m), generator=g) < .3] = False
    for n, p in model.named_parameters():
        if n in masks: p.data *= 10**.5 * masks[n]
        elif p.ndim == 1: p.data += .3 * torch.randn(p.shape, generator=g)
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm): m.momentum = None
    with torch.no_grad(): model.train()(torch.randn(2, 3, side, side))
    model.eval().double()
    try:
        with torch.no_grad(): model(torch.zeros(2, 3, side, side, dtype=torch.float64))
    except RuntimeError: model.float()                      # a number of another precision is written into its code
    return model, masks


def tried(name):
    "What became of the model."
    side = TRIED[name]; model, masks = prepared(build(name), side); dtype = next(model.parameters()).dtype
    count = lambda m: sum(p.numel() for p in m.parameters())
    said = dict(outcome='works', side=side, dtype=str(dtype).split('.')[1], parameters=count(model))
    try: small = compact(model, masks, torch.randn(1, 3, side, side, dtype=dtype))
    except ValueError as e: return said | dict(outcome=str(e))
    torch.manual_seed(1); x = torch.randn(3, 3, side, side, dtype=dtype)
    with torch.no_grad(): a, b = tree_leaves(model(x)), tree_leaves(small(x))
    return said | dict(left=count(small), error=max(((p - q).abs().max() / p.abs().max()).item() for p, q in zip(a, b, strict=True)))


def main():
    warnings.filterwarnings('ignore'); torch.set_num_threads(1)
    file = Path(__file__).with_suffix('.json'); done = json.loads(file.read_text()) if file.exists() else {}
    for name in sys.argv[1:] or TRIED:
        start = time.time(); done[name] = tried(name)
        print(f'{name:40} {time.time() - start:4.0f} s  {done[name]}', flush=True)
        file.write_text(json.dumps({n: done[n] for n in TRIED if n in done}, indent=1, ensure_ascii=False) + '\n')


if __name__ == '__main__': main()
