"""Table VI's number for nnU-Net's 3d_lowres, from nnU-Net's own network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.complexity import count_complexity


def test_the_papers_3d_lowres_is_a_plan_of_its_coarse_input_with_three_classes() -> None:
    pytest.importorskip(
        "dynamic_network_architectures", reason="pip install -r requirements-nnunet.txt"
    )
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    with torch.device("meta"):
        network = PlainConvUNet(
            input_channels=1,
            n_stages=6,
            features_per_stage=(32, 64, 128, 256, 320, 320),
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=((1, 1, 1), *((2, 2, 2),) * 4, (1, 2, 2)),
            n_conv_per_stage=2,
            num_classes=3,
            n_conv_per_stage_decoder=2,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )
    counted = count_complexity(network, [(64, 224, 224)])
    assert f"{counted.parameters / 1e7:.2f}" == "3.08"
    assert counted.gmacs == "734.24"
