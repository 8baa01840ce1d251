"""``openvla_oft``: OpenVLA-OFT (arXiv 2502.19645) on transformers' Llama, DINOv2 and SigLIP."""
