// Collectives for the trainer: Gloo through libtorch's c10d, NCCL through its C interface.
#include <dlfcn.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "guarded.h"

#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace {

struct Group {
  virtual ~Group() = default;
  virtual void all_reduce(at::Tensor& tensor) = 0;
  virtual void broadcast(at::Tensor& tensor, int root) = 0;
  virtual void all_gather(at::Tensor& output, at::Tensor& input) = 0;
  virtual void reduce_scatter(at::Tensor& output, at::Tensor& input) = 0;
};

struct GlooGroup : Group {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;

  GlooGroup(const char* host, int port, const char* device, int rank, int size, std::chrono::milliseconds timeout) {
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(port);
    options.isServer = rank == 0;
    options.numWorkers = size;
    options.timeout = timeout;
    store = c10::make_intrusive<c10d::TCPStore>(host, options);
    auto group = c10d::ProcessGroupGloo::Options::create(timeout);
    const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
    if (interface != nullptr) {
      group->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(interface));
    } else if (device[0] != '\0') {
      group->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(device));
    } else {
      group->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    }
    gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, group);
  }

  void all_reduce(at::Tensor& tensor) override {
    std::vector<at::Tensor> tensors{tensor};
    gloo->allreduce(tensors)->wait();
  }
  void broadcast(at::Tensor& tensor, int root) override {
    std::vector<at::Tensor> tensors{tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    gloo->broadcast(tensors, options)->wait();
  }
  void all_gather(at::Tensor& output, at::Tensor& input) override {
    gloo->_allgather_base(output, input)->wait();
  }
  void reduce_scatter(at::Tensor& output, at::Tensor& input) override {
    gloo->_reduce_scatter_base(output, input)->wait();
  }
};

// The few declarations of nccl.h that are used; their values have been stable since NCCL 2.10.
struct NcclId {
  char bytes[128];
};
using NcclComm = void*;

int nccl_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return 7;
    case at::kDouble: return 8;
    case at::kBFloat16: return 9;
    case at::kHalf: return 6;
    case at::kLong: return 4;
    case at::kByte: return 1;
    default: throw std::runtime_error("NCCL has no type for this tensor");
  }
}

struct Nccl {
  void* library;
  int (*get_version)(int*);
  int (*get_unique_id)(NcclId*);
  int (*comm_init_rank)(NcclComm*, int, NcclId, int);
  int (*comm_abort)(NcclComm);
  int (*all_reduce)(const void*, void*, size_t, int, int, NcclComm, void*);
  int (*broadcast)(const void*, void*, size_t, int, int, NcclComm, void*);
  int (*all_gather)(const void*, void*, size_t, int, NcclComm, void*);
  int (*reduce_scatter)(const void*, void*, size_t, int, int, NcclComm, void*);
  const char* (*error_string)(int);

  explicit Nccl(const char* path) {
    library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (library == nullptr) throw std::runtime_error(dlerror());
    load("ncclGetVersion", get_version);
    load("ncclGetUniqueId", get_unique_id);
    load("ncclCommInitRank", comm_init_rank);
    load("ncclCommAbort", comm_abort);
    load("ncclAllReduce", all_reduce);
    load("ncclBroadcast", broadcast);
    load("ncclAllGather", all_gather);
    load("ncclReduceScatter", reduce_scatter);
    load("ncclGetErrorString", error_string);
  }
  template <typename F> void load(const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(library, name));
    if (function == nullptr) throw std::runtime_error(std::string("the NCCL library has no function ") + name);
  }
  void check(int result) const {
    if (result != 0) throw std::runtime_error(std::string("NCCL: ") + error_string(result));
  }
};

// Work is put on the device's current stream, so it is in order with the computation and needs no waiting.
struct NcclGroup : Group {
  Nccl nccl;
  NcclComm comm = nullptr;

  NcclGroup(const char* path, Group& bootstrap, int rank, int size, int device) : nccl(path) {
    // A communicator belongs to the device that is current when it is made.
    c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(c10::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
    auto id_tensor = at::zeros({static_cast<int64_t>(sizeof(NcclId))}, at::kByte);
    NcclId id;
    if (rank == 0) {
      nccl.check(nccl.get_unique_id(&id));
      std::memcpy(id_tensor.data_ptr(), &id, sizeof id);
    }
    bootstrap.broadcast(id_tensor, 0);
    std::memcpy(&id, id_tensor.data_ptr(), sizeof id);
    nccl.check(nccl.comm_init_rank(&comm, size, id, rank));
  }
  ~NcclGroup() override {
    if (comm != nullptr) nccl.comm_abort(comm);
  }
  static void* stream(const at::Tensor& tensor) {
    c10::impl::VirtualGuardImpl guard(tensor.device().type());
    return guard.getStreamNativeHandle(guard.getStream(tensor.device()));
  }
  void all_reduce(at::Tensor& tensor) override {
    nccl.check(nccl.all_reduce(
        tensor.data_ptr(), tensor.data_ptr(), tensor.numel(), nccl_type(tensor), 0, comm, stream(tensor)));
  }
  void broadcast(at::Tensor& tensor, int root) override {
    nccl.check(nccl.broadcast(
        tensor.data_ptr(), tensor.data_ptr(), tensor.numel(), nccl_type(tensor), root, comm, stream(tensor)));
  }
  void all_gather(at::Tensor& output, at::Tensor& input) override {
    nccl.check(nccl.all_gather(
        input.data_ptr(), output.data_ptr(), input.numel(), nccl_type(input), comm, stream(input)));
  }
  void reduce_scatter(at::Tensor& output, at::Tensor& input) override {
    nccl.check(nccl.reduce_scatter(
        input.data_ptr(), output.data_ptr(), output.numel(), nccl_type(input), 0, comm, stream(input)));
  }
};

at::Tensor& contiguous(void* tensor) {
  auto& found = *static_cast<at::Tensor*>(tensor);
  if (!found.is_contiguous()) throw std::runtime_error("collectives need contiguous tensors");
  return found;
}

} // namespace

extern "C" {

char* sealign_gloo_open(
    const char* host, int port, const char* device, int rank, int size, long timeout_ms, void** out) {
  return guarded([&] {
    *out = static_cast<Group*>(
        new GlooGroup(host, port, device, rank, size, std::chrono::milliseconds(timeout_ms)));
  });
}

char* sealign_nccl_open(const char* path, void* bootstrap, int rank, int size, int device, void** out) {
  return guarded([&] {
    *out = static_cast<Group*>(new NcclGroup(path, *static_cast<Group*>(bootstrap), rank, size, device));
  });
}

void sealign_group_close(void* group) {
  try {
    delete static_cast<Group*>(group);
  } catch (...) {
  }
}

char* sealign_all_reduce(void* group, void* tensor) {
  return guarded([&] { static_cast<Group*>(group)->all_reduce(contiguous(tensor)); });
}

char* sealign_broadcast(void* group, void* tensor, int root) {
  return guarded([&] { static_cast<Group*>(group)->broadcast(contiguous(tensor), root); });
}

char* sealign_all_gather(void* group, void* output, void* input) {
  return guarded([&] { static_cast<Group*>(group)->all_gather(contiguous(output), contiguous(input)); });
}

char* sealign_reduce_scatter(void* group, void* output, void* input) {
  return guarded([&] { static_cast<Group*>(group)->reduce_scatter(contiguous(output), contiguous(input)); });
}

} // extern "C"
