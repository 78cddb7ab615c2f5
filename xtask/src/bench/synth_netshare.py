# Times the training of NetShare's own torch code, from a checkout that the user has: PASSES BATCH CHECKOUT FOLDER.
# Random flows of the sizes of the netflow example. What only reports (progress, TensorBoard) is left out.
import importlib
import importlib.machinery
import inspect
import os
import sys
import types

import numpy as np
import torch

torch.set_num_threads(1)
torch.manual_seed(1)
passes, batch, checkout, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
FLOWS, LENGTH = 10 * batch, 2


class Writer:
    def __init__(self, *_, **__):
        pass

    def add_scalar(self, *_, **__):
        pass


def module(name, **members):
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    made.__dict__.update(members)
    sys.modules[name] = made
    return made


module("torch.utils.tensorboard", SummaryWriter=Writer)
module("tqdm", tqdm=lambda x, *_, **__: x)
# The packages without what their own beginnings import (Ray, gensim, ...), which training does not use.
for name in ("netshare", "netshare.utils", "netshare.models", "netshare.models.doppelganger_torch"):
    module(name, __path__=[os.path.join(checkout, *name.split("."))])
outputs = importlib.import_module("netshare.utils.output")
for name in ("Output", "OutputType", "Normalization"):
    setattr(sys.modules["netshare.utils"], name, getattr(outputs, name))
code = importlib.import_module("netshare.models.doppelganger_torch.doppelganger")

DISCRETE, CONTINUOUS = outputs.OutputType.DISCRETE, outputs.OutputType.CONTINUOUS
SIGMOID, TANH = outputs.Normalization.ZERO_ONE, outputs.Normalization.MINUSONE_ONE
attributes = [outputs.Output(DISCRETE, 2) for _ in range(64)]
attributes += [outputs.Output(CONTINUOUS, 10, TANH) for _ in range(3)]
attributes += [outputs.Output(CONTINUOUS, 1, SIGMOID)]
record = [outputs.Output(CONTINUOUS, 1, SIGMOID) for _ in range(4)]
record += [outputs.Output(DISCRETE, 2), outputs.Output(DISCRETE, 2, is_gen_flag=True)]
settings = dict(
    device="cpu", ddp=False, ddp_local_rank=0, master_process=False, ddp_world_size=1,
    checkpoint_dir=folder, sample_dir=folder, time_path=os.path.join(folder, "time.txt"),
    batch_size=batch, real_attribute_mask=[True] * len(attributes), max_sequence_len=LENGTH, sample_len=1,
    data_feature_outputs=record, data_attribute_outputs=attributes, vis_freq=10**9, vis_num_sample=1,
    d_rounds=5, g_rounds=1, d_gp_coe=10.0, num_packing=1, use_attr_discriminator=True, attr_d_gp_coe=10.0,
    g_attr_d_coe=1.0, epoch_checkpoint_freq=10**9, attribute_latent_dim=5, feature_latent_dim=5,
    g_lr=1e-4, g_beta1=0.5, d_lr=1e-4, d_beta1=0.5, attr_d_lr=1e-4, attr_d_beta1=0.5, adam_eps=1e-8,
    adam_amsgrad=False, generator_attribute_num_units=512, generator_attribute_num_layers=5,
    generator_feature_num_units=100, generator_feature_num_layers=1, use_adaptive_rolling=False,
    discriminator_num_layers=5, discriminator_num_units=512, attr_discriminator_num_layers=5,
    attr_discriminator_num_units=512, restore=False, pretrain_dir=None,
)
# Versions of the code take more or fewer of them.
known = inspect.signature(code.DoppelGANger.__init__).parameters
model = code.DoppelGANger(**{k: v for k, v in settings.items() if k in known})
width = lambda all_outputs: sum(o.dim for o in all_outputs)
model.train(
    passes,
    np.random.rand(FLOWS, LENGTH, width(record)).astype("float32"),
    np.random.rand(FLOWS, width(attributes)).astype("float32"),
    np.ones((FLOWS, LENGTH), dtype="float32"),
)
