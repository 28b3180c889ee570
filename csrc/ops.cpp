// Schemas of all operators; autograd formulas and fake kernels are registered in hagan3d/ops.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(hagan3d, m) {
  m.def(
      "select_subvolume(Tensor x, Tensor start, int length, int axis, int halo, bool adjoint, ScalarType dtype, "
      "float scale) -> Tensor");

  m.def("ggd_nll(Tensor error, Tensor log_scale, Tensor log_shape, Tensor? weight) -> Tensor");
  m.def(
      "ggd_nll_backward(Tensor grad, Tensor error, Tensor log_scale, Tensor log_shape, Tensor? weight) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "ggd_nll_mean(Tensor error, Tensor log_scale, Tensor log_shape, Tensor? weight, Tensor factor, "
      "bool with_gradients) -> (Tensor, Tensor, Tensor, Tensor)");

  m.def("ggd_scale_(Tensor(a!) grad_error, Tensor(b!) grad_scale, Tensor(c!) grad_shape, Tensor factor) -> ()");

  m.def("ggd_sigma(Tensor log_scale, Tensor log_shape, bool log) -> Tensor");
  m.def("ggd_sigma_backward(Tensor grad, Tensor log_scale, Tensor log_shape, bool log) -> (Tensor, Tensor)");
  m.def("ggd_sigma_mean(Tensor log_scale, Tensor log_shape) -> Tensor");
  m.def("ggd_guide(Tensor value, Tensor log_scale, Tensor log_shape, Tensor mean, float limit) -> Tensor");
  m.def(
      "ggd_guide_backward(Tensor grad, Tensor value, Tensor log_scale, Tensor log_shape, Tensor mean, float limit) "
      "-> (Tensor, Tensor, Tensor, Tensor)");

  m.def("rms_norm(Tensor x, Tensor weight, Tensor bias, bool relu, float eps) -> Tensor");
  m.def(
      "rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, bool relu, float eps) "
      "-> (Tensor, Tensor, Tensor)");

  // `slab_bytes`: target size of the working set of a thread
  m.def("winograd_upsample(Tensor x, Tensor folded, Tensor? bias, int trim, int slab_bytes) -> Tensor");
  m.def("winograd_upsample_x(Tensor grad, Tensor folded, int trim, int slab_bytes) -> Tensor");
  m.def("winograd_upsample_weight(Tensor grad, Tensor x, int trim, int slab_bytes) -> Tensor");
  m.def("winograd_upsample_both(Tensor grad, Tensor x, Tensor folded, int trim, int slab_bytes) -> (Tensor, Tensor)");
}
