// The schemas of all operators; autograd and fake kernels are registered in hagan3d/ops.
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

  // each on a slab: first sample, samples, first plane, planes, first row, rows of the small tensor
  m.def("upsample_spread(Tensor x, Tensor(a!) out, int[] where) -> ()");
  m.def("upsample_gather(Tensor spread, Tensor(a!) x, int[] where) -> ()");
  m.def("upsample_join(Tensor products, Tensor? bias, Tensor(a!) y, int[] where, int trim) -> ()");
  m.def("upsample_split(Tensor y, Tensor(a!) out, int[] where, int trim) -> ()");
}
