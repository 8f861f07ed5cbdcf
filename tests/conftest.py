"""One thread: the tests' tensors are small, and two threads of one process wait for each other when the machine is busy."""

import torch

torch.set_num_threads(1)
