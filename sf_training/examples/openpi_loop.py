"""Spatial Forcing in openpi's PyTorch training loop (``scripts/train_pytorch.py``).

Three places change: after the model is made, at the loss, and where the optimiser is made.
"""

import torch

from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.drop_in import SpatialForcing
from sf_training.spatial_forcing.vision_targets import open_teacher

# openpi's batches of images: observation.images[name] (B, H, W, 3) or (B, 3, H, W) in [-1, 1].


def add_spatial_forcing(model, teacher_weights, *, teacher="da3", layer=12, width=2048, **more):
    """Make the loss for openpi's ``PI0Pytorch``."""
    frozen = open_teacher(teacher, teacher_weights, (-1,))
    config = AlignmentConfig(layer=layer)
    return SpatialForcing(model, frozen, width, config=config, **more)


def images_of(observation):
    """Images (B, V, 3, H, W) in [0, 1] and which cameras are there (B, V), in the model's order."""
    images = torch.stack(list(observation.images.values()), 1)
    if images.shape[-1] == 3:
        images = images.movedim(-1, 2)
    masks = torch.stack(list(observation.image_masks.values()), 1)
    return (images.float() / 2 + 0.5).clamp(0, 1), masks


def training_step(model, forcing, observation, actions, optimizer):
    """One step of openpi's loop; ``optimizer`` holds the projector's parameters, too."""
    with forcing.recording():
        losses = model(observation, actions)
    loss = losses.mean() + forcing.loss(*images_of(observation))
    loss.backward()
    torch.nn.utils.clip_grad_norm_([*model.parameters(), *forcing.parameters()], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()
