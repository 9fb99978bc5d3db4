import mmap

import numpy as np
import torch

from arcticseg.data.memory import Pool, allocate


def test_memory_goes_to_the_next_tensor_when_nothing_refers_to_it() -> None:
    pool = Pool()
    first = pool.empty((3, 4, 5), torch.float32)
    assert first.shape == (3, 4, 5)
    assert first.dtype == torch.float32
    assert first.is_contiguous()
    address = first.data_ptr()
    view = first[1]
    del first
    assert pool.empty((3, 4, 5), torch.float32).data_ptr() != address
    del view
    later = [pool.empty((60,), torch.float32) for _ in range(2)]
    assert address in [tensor.data_ptr() for tensor in later]
    assert later[0].data_ptr() != later[1].data_ptr()


def test_memory_that_a_gradient_needs_keeps_its_content() -> None:
    pool, weight = Pool(), torch.ones(1, requires_grad=True)
    x = pool.empty((1000,), torch.float32).fill_(3.0)
    loss = (x * weight).sum()
    del x
    pool.empty((1000,), torch.float32).fill_(7.0)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.item() == 3000


def test_sizes_do_not_mix_and_nothing_is_a_size() -> None:
    pool = Pool()
    assert pool.empty((0, 3), torch.bool).shape == (0, 3)
    small, large = pool.empty((10,), torch.uint8), pool.empty((10_000_000,), torch.uint8)
    small.fill_(1), large.fill_(2)
    assert small.sum() == 10
    assert int(large.sum(dtype=torch.int64)) == 20_000_000


def test_allocated_memory_is_there_and_empty() -> None:
    memory = allocate(3 * mmap.PAGESIZE + 5)
    assert len(memory) == 3 * mmap.PAGESIZE + 5
    assert not np.frombuffer(memory, np.uint8).any()
