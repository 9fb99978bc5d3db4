"""What a person or a cluster starts."""

import os

# Waiting threads of OpenMP spin by default, which on shared cores made training 5 times slower (13 against 67 samples/s
# of the demo's pretraining on 2 cores under load). It must be set before torch loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
