// The schemas of all operators; autograd and fake kernels are registered in hagan3d/ops.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(hagan3d, m) {
  m.def(
      "select_subvolume(Tensor x, Tensor start, int length, int axis, int halo, bool adjoint, ScalarType dtype, "
      "float scale) -> Tensor");
}
