#include "anyfp8/kernels/plugin.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <system_error>
#include <vector>

#include "anyfp8/base/log.h"
#include "anyfp8/base/text.h"
#include "anyfp8/kernels/kernel_list.h"
#include "anyfp8/kernels/select.h"

namespace anyfp8 {
namespace {

struct CloseLibrary {
  void operator()(void* handle) const { dlclose(handle); }
};
using Library = std::unique_ptr<void, CloseLibrary>;

// The list of the process. A plugin adds a version and leaves the older ones, whose spans are in use.
struct KernelList {
  std::mutex mutex;
  std::deque<std::vector<const Kernel*>> versions;
  std::vector<Library> plugins;
  bool environment_loaded = false;
};

KernelList& kernel_list() {
  // Never destroyed: a kernel may still run while the process ends.
  static KernelList* const list = [] {
    auto* built_in = new KernelList;
#define ANYFP8_KERNEL(name) &name,
    built_in->versions.push_back({
#include "anyfp8/kernels/kernel_list.inc"
    });
#undef ANYFP8_KERNEL
    return built_in;
  }();
  return *list;
}

std::vector<const Kernel*>::const_iterator find_name(const std::vector<const Kernel*>& kernels,
                                                     std::string_view name) {
  return std::find_if(kernels.begin(), kernels.end(),
                      [&](const Kernel* kernel) { return kernel->name == name; });
}

Verdict is_complete(const Kernel& kernel) {
  ANYFP8_NEED(!kernel.name.empty(), "its kernel has no name");
  const auto is_name_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  };
  ANYFP8_NEED(std::all_of(kernel.name.begin(), kernel.name.end(), is_name_letter),
              "its kernel's name '{}' has other characters than a-z, 0-9 and _", kernel.name);
  ANYFP8_NEED(kernel.supports != nullptr, "its kernel {} has no supports()", kernel.name);
  ANYFP8_NEED(kernel.tokens != nullptr, "its kernel {} has no tokens()", kernel.name);
  ANYFP8_NEED(kernel.apply != nullptr, "its kernel {} has no apply()", kernel.name);
  ANYFP8_NEED(!kernel.weight_dtypes.empty() && !kernel.in_dtypes.empty() && !kernel.out_dtypes.empty(),
              "its kernel {} lists no dtype for weights, x or y, so it could never run", kernel.name);
  return Verdict::yes();
}

// Where in the list the plugin wants its kernel.
std::vector<const Kernel*>::const_iterator place(const std::vector<const Kernel*>& kernels,
                                                 const KernelPlugin& plugin) {
  if (plugin.before != nullptr && plugin.after != nullptr) {
    throw fail(ErrorCode::kInvalidArgument, "it asks to stand before {} and after {}; name one of them",
               plugin.before, plugin.after);
  }
  const char* neighbour = plugin.before != nullptr ? plugin.before : plugin.after;
  if (neighbour == nullptr) return kernels.begin();
  const auto found = find_name(kernels, neighbour);
  if (found == kernels.end()) {
    throw fail(ErrorCode::kInvalidArgument,
               "it asks to stand {} '{}', which does not exist; the kernels are {}",
               plugin.before != nullptr ? "before" : "after", neighbour, kernel_names(kernels));
  }
  return plugin.before != nullptr ? found : found + 1;
}

void load(KernelList& list, const std::filesystem::path& path) {
  std::error_code error;
  const bool exists = std::filesystem::exists(path, error);
  if (error) throw Error(ErrorCode::kIo, error.message());
  if (!exists) throw Error(ErrorCode::kNotFound, "the file does not exist");
  // An absolute path, since dlopen searches the system for a bare file name. Nothing is ever unmapped, not
  // even what is refused: C++ libraries that a plugin brings along do not bear to be unloaded.
  constexpr int kFlags = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE;
  Library library(dlopen(std::filesystem::absolute(path).c_str(), kFlags));
  if (library == nullptr) throw Error(ErrorCode::kIo, dlerror());
  for (const Library& loaded : list.plugins) {
    if (loaded == library) return;  // the same handle for the same file
  }
  const auto entry = reinterpret_cast<const KernelPlugin* (*)()>(dlsym(library.get(), kPluginSymbol));
  if (entry == nullptr) {
    throw fail(ErrorCode::kNotFound, "it does not export {}; see examples/kernel_plugin", kPluginSymbol);
  }
  const KernelPlugin* plugin = entry();
  if (plugin == nullptr) {
    throw fail(ErrorCode::kInvalidArgument, "{}() returned null, not a KernelPlugin", kPluginSymbol);
  }
  // The version first: with another one nothing behind it means what it says.
  if (plugin->abi_version != kPluginAbiVersion) {
    throw fail(ErrorCode::kUnsupported, "it has plugin ABI version {}, this library {}; build it again",
               plugin->abi_version, kPluginAbiVersion);
  }
  if (plugin->kernel_bytes != sizeof(Kernel)) {
    throw fail(ErrorCode::kUnsupported,
               "its Kernel has {} bytes, this library's {}; build it again with this library's headers",
               plugin->kernel_bytes, sizeof(Kernel));
  }
  if (plugin->kernel == nullptr) throw Error(ErrorCode::kInvalidArgument, "its KernelPlugin has no kernel");
  const Kernel& kernel = *plugin->kernel;
  if (Verdict complete = is_complete(kernel); !complete) {
    throw Error(ErrorCode::kInvalidArgument, complete.reason());
  }
  const std::vector<const Kernel*>& kernels = list.versions.back();
  if (find_name(kernels, kernel.name) != kernels.end()) {
    throw fail(ErrorCode::kInvalidArgument, "a kernel named {} exists already; names must be unique",
               kernel.name);
  }
  const auto position = place(kernels, *plugin) - kernels.begin();
  std::vector<const Kernel*> next = kernels;
  next.insert(next.begin() + position, &kernel);
  list.plugins.push_back(std::move(library));
  list.versions.push_back(std::move(next));
  log_message(LogLevel::kInfo, fmt::format("plugin {}: kernel {}", path.string(), kernel.name));
}

void load_named(KernelList& list, const std::filesystem::path& path) try {
  load(list, path);
} catch (Error& error) {
  throw error.in(fmt::format("plugin {}", path.string()));
}

// Until every plugin of ANYFP8_PLUGIN is in, each use tries again and fails again: a wish of the user is
// never dropped in silence.
void load_environment(KernelList& list) {
  if (list.environment_loaded) return;
  const char* value = std::getenv("ANYFP8_PLUGIN");
  std::string_view rest = value == nullptr ? "" : value;
  while (!rest.empty()) {
    const size_t colon = rest.find(':');
    const std::string_view path = rest.substr(0, colon);
    if (!path.empty()) load_named(list, path);
    rest = colon == std::string_view::npos ? std::string_view{} : rest.substr(colon + 1);
  }
  list.environment_loaded = true;
}

}  // namespace

std::span<const Kernel* const> all_kernels() {
  KernelList& list = kernel_list();
  const std::lock_guard lock(list.mutex);
  load_environment(list);
  return list.versions.back();
}

void load_plugin(const std::filesystem::path& path) {
  KernelList& list = kernel_list();
  const std::lock_guard lock(list.mutex);
  load_environment(list);
  load_named(list, path);
}

}  // namespace anyfp8
