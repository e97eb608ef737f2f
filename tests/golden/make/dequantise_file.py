"""Is every tensor of a GGUF file dequantised by cyclora as by the package gguf? A check to run by hand (numpy, gguf):

  cc -O2 -Isrc -o /tmp/dequantise tests/golden/make/dequantise.c src/base/dtype.c -lm
  python tests/golden/make/dequantise_file.py FILE.gguf /tmp/dequantise

Bit for bit; prints how many tensors of each type were equal.
"""
import subprocess
import sys
from collections import Counter

import gguf
import numpy as np

equal, wrong = Counter(), []
for t in gguf.GGUFReader(sys.argv[1]).tensors:
    ours = subprocess.run([sys.argv[2], t.tensor_type.name.lower(), str(t.n_elements)], input=t.data.tobytes(), capture_output=True, check=True).stdout
    theirs = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
    if np.array_equal(np.frombuffer(ours, np.uint32), theirs.reshape(-1).view(np.uint32)):
        equal[t.tensor_type.name] += 1
    else:
        wrong.append(t.name)
print("equal:", dict(equal), "different:", wrong)
sys.exit(bool(wrong))
