"""``openvla_oft``: OpenVLA-OFT (arXiv 2502.19645), the paper's main model, on transformers' own
Llama, DINOv2 and SigLIP.
"""
