"""Pretrained models to fine-tune: ``hf`` (transformers), pi0, pi0.5 and OpenVLA-OFT.

All have nano's interface: ``context(images, state, text)`` runs the model up to its head, ``head``
maps that to a chunk, and ``visual_layout()`` says where Spatial Forcing finds the visual tokens.
"""
