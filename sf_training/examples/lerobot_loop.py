"""Spatial Forcing in LeRobot's training loop (``lerobot_train.py``: ``update_policy``).

For ``pi0`` and ``pi05``: layer 12 of 18, 16 x 16 tokens a view. For ``smolvla``: blocks
``text_model.layers``, its width and grid, and ``train_expert_only=False``,
``freeze_vision_encoder=False``: LeRobot's defaults freeze all that Spatial Forcing would train.
"""

import torch

from sf_training.spatial_forcing.alignment import AlignmentConfig
from sf_training.spatial_forcing.drop_in import SpatialForcing
from sf_training.spatial_forcing.vision_targets import open_teacher


def add_spatial_forcing(policy, teacher_weights, *, teacher="da3", layer=12, width=2048, **more):
    """Return the alignment loss of a LeRobot policy.

    Add ``parameters()`` of the result to the optimiser yourself.

    Args:
        teacher_weights: a file, a directory or a hub id.
        layer: number of blocks after which the visual tokens of the policy are read.
        width: channels of these tokens.
    """
    frozen = open_teacher(teacher, teacher_weights, (-1,))
    config = AlignmentConfig(layer=layer)
    return SpatialForcing(policy, frozen, width, config=config, **more)


def images_of(policy, batch):
    """Return images (B, V, 3, H, W) in [0, 1], in the order in which the policy reads them."""
    names = [name for name in policy.config.image_features if name in batch]
    return torch.stack([batch[name] for name in names], 1)


def update_policy(policy, forcing, batch, optimizer, clip=1.0):
    """Do one step of LeRobot's loop; return the sum of both losses."""
    policy.train()
    with forcing.recording():
        loss, _ = policy.forward(batch)
    loss = loss + forcing.loss(images_of(policy, batch))
    loss.backward()
    torch.nn.utils.clip_grad_norm_([*policy.parameters(), *forcing.parameters()], clip)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()
