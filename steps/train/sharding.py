"""How a model is spread over the workers: whole on each (DDP), or a part on each (FSDP2), with states that look alike.

A state in storage always holds whole tensors, so a training may go on with another strategy or number of workers.
"""

from __future__ import annotations

from typing import Any, Literal

from steps.common.language_model.light_transformers import light_transformers

Strategy = Literal["ddp", "fsdp"]


def worker_device() -> Any:
    """The device that Ray Train gave this worker."""
    import ray.train.torch

    return ray.train.torch.get_device()


def shard(model: Any) -> Any:
    """Shards a model's weights over all workers in place, block by block, so that one block is whole at a time.

    On GPUs blocks compute in bfloat16; weights, gradients and moments stay float32 (FSDP2, `fully_shard`).
    """
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    device = next(model.parameters()).device
    mesh = torch.distributed.device_mesh.init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy()
    if device.type == "cuda":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    units = [*model.model.layers, model]
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=policy)
        if device.type == "cpu":
            # gloo cannot average: gradients are summed, then divided.
            unit.set_force_sum_reduction_for_comms(True)
            unit.set_gradient_divide_factor(float(mesh.size()))
    return model


def whole(tensor: Any) -> Any:
    """A tensor with the parts of all workers, on the CPU. With a sharded one, every worker must ask."""
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().cpu()


def like(weight: Any, tensor: Any) -> Any:
    """This worker's part of a whole tensor, if the weight that it belongs to is sharded; on the weight's device."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    tensor = tensor.to(weight.device)
    if not isinstance(weight, DTensor):
        return tensor
    return distribute_tensor(tensor, weight.device_mesh, weight.placements)


def unsharded(model: Any) -> Any:
    """A plain model on the CPU with the weights of a sharded one. Every worker must ask."""
    import torch

    weights = {name: whole(weight) for name, weight in model.state_dict().items()}
    with torch.device("meta"):
        plain = light_transformers().LlamaForCausalLM(model.config)
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    return plain
