// What tch leaves out about tensors: where gradients go, CUDA's flash attention, opening libtorch's CUDA half.
#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>

#include <ATen/ATen.h>

#include "guarded.h"

namespace {

at::Tensor& read(void* tensor) {
  return *static_cast<at::Tensor*>(tensor);
}

void* give(const at::Tensor& tensor) {
  return new at::Tensor(tensor);
}

} // namespace

extern "C" {

// Makes `gradient` the place where autograd adds the gradient of `parameter`; null takes the gradient away.
char* sealign_set_gradient(void* parameter, void* gradient) {
  return guarded([&] {
    auto& grad = read(parameter).mutable_grad();
    grad = gradient == nullptr ? at::Tensor() : read(gradient);
  });
}

// query, key, value -> out, log-sum-exp
char* sealign_flash_forward(void* const* inputs, int causal, void** outputs) {
  return guarded([&] {
    auto found = at::_scaled_dot_product_flash_attention(read(inputs[0]), read(inputs[1]), read(inputs[2]), 0.0, causal != 0);
    outputs[0] = give(std::get<0>(found));
    outputs[1] = give(std::get<1>(found));
  });
}

// gradient of out, query, key, value, out, log-sum-exp -> gradients of query, key, value
char* sealign_flash_backward(void* const* inputs, int causal, void** outputs) {
  return guarded([&] {
    const auto& query = read(inputs[1]);
    const auto& key = read(inputs[2]);
    // Random state is for dropout, which there is none of; the kernel looks at its type.
    const auto random = at::zeros({2}, query.options().dtype(at::kUInt64));
    const auto offset = at::zeros({}, query.options().dtype(at::kUInt64));
    auto found = at::_scaled_dot_product_flash_attention_backward(
        read(inputs[0]), query, key, read(inputs[3]), read(inputs[4]), read(inputs[5]), at::Tensor(), at::Tensor(),
        query.size(2), key.size(2), 0.0, causal != 0, random, offset);
    outputs[0] = give(std::get<0>(found));
    outputs[1] = give(std::get<1>(found));
    outputs[2] = give(std::get<2>(found));
  });
}

char* sealign_open_library(const char* path) {
  return guarded([&] {
    if (dlopen(path, RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
  });
}

void sealign_free_text(char* message) {
  std::free(message);
}

} // extern "C"
