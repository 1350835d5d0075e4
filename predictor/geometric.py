"""What is used of torch_geometric, imported without the warning that it meets in new versions of torch."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="`torch.jit.script", category=Warning)
    from torch_geometric.nn import MessagePassing

__all__ = ["MessagePassing"]
