"""Networks, in torch and timm."""
