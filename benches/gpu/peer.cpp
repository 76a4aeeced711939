// A refit of a TensorRT 8.5 or 8.6 plan as one would write it by hand: the peer that trtmut's refit is timed against.
//
//   peer LIBRARY PLAN CHANGED REST [STARTED]
//
// LIBRARY is libnvinfer.so.8 or its folder. CHANGED and REST are safetensors files whose tensors have the engine's own names,
// layout and types, so that nothing has to be mapped or converted: what changes, and everything else, of which TensorRT asks for
// what it computes together with what changes. PLAN is replaced. STARTED is CLOCK_MONOTONIC in nanoseconds when the process was
// started; without it, times count from main(). Prints one line: names and milliseconds.
//
//   g++ -O2 -std=c++17 peer.cpp -o peer -ldl -lpthread
//
// TensorRT's headers are not needed: the few calls are made by their slots in the virtual tables of 8.5 and 8.6.

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }
[[noreturn]] void fail_errno(const std::string& what) { fail(what + ": " + std::strerror(errno)); }

// --- TensorRT ---

struct Weights {
    int32_t type;
    const void* values;
    int64_t count;
};

// A handle points to its implementation, whose first word is the table of virtual functions. Slot 1 of its own table deletes it.
struct Handle {
    void** own_table;
    void* implementation;
};

enum Slot : size_t {
    kDeserializeCudaEngine = 2, // VRuntime
    kSerialize = 10,            // VCudaEngine
    kIsRefittable = 15,
    kRefitCudaEngine = 3, // VRefitter
    kSetNamedWeights = 12,
    kGetMissingWeights = 13,
    kGetAllWeights = 14,
    kSetMaxThreads = 16,
    kData = 2, // VHostMemory
    kSize = 3,
};

template <class R, class... A> R call(Handle* handle, Slot slot, A... arguments) {
    void* self = handle->implementation;
    void** table = *static_cast<void***>(self);
    return reinterpret_cast<R (*)(void*, A...)>(table[slot])(self, arguments...);
}

void destroy(Handle* handle) { reinterpret_cast<void (*)(Handle*)>(handle->own_table[1])(handle); }

// nvinfer1::ILogger.
class Logger {
public:
    virtual void log(int32_t severity, const char* text) noexcept {
        if (severity <= 1) std::fprintf(stderr, "TensorRT: %s\n", text);
    }
    virtual ~Logger() = default;
};

// --- files ---

// A file in memory, read only.
struct Mapped {
    const uint8_t* data = nullptr;
    size_t size = 0;

    explicit Mapped(const std::string& path) {
        int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (file < 0) fail_errno(path);
        struct stat info {};
        if (fstat(file, &info) != 0) fail_errno(path);
        size = static_cast<size_t>(info.st_size);
        if (size == 0) fail(path + " is empty");
        void* at = mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
        if (at == MAP_FAILED) fail_errno(path);
        close(file);
        data = static_cast<const uint8_t*>(at);
    }
    Mapped(const Mapped&) = delete;
    Mapped& operator=(const Mapped&) = delete;
    ~Mapped() { munmap(const_cast<uint8_t*>(data), size); }
};

struct Tensor {
    std::string dtype;
    int64_t count = 1;
    size_t begin = 0, end = 0;
};

// The header of a safetensors file: JSON of one known form.
class Header {
public:
    Header(const char* text, size_t size) : at_(text), end_(text + size) {}

    std::map<std::string, Tensor> read() {
        std::map<std::string, Tensor> tensors;
        each([&](const std::string& name) {
            if (name == "__metadata__") {
                each([&](const std::string&) { string(); });
                return;
            }
            Tensor tensor;
            each([&](const std::string& key) {
                if (key == "dtype") {
                    tensor.dtype = string();
                } else if (key == "shape") {
                    for (int64_t extent : numbers()) tensor.count *= extent;
                } else if (key == "data_offsets") {
                    auto offsets = numbers();
                    if (offsets.size() != 2) fail("data_offsets are not two numbers");
                    tensor.begin = static_cast<size_t>(offsets[0]);
                    tensor.end = static_cast<size_t>(offsets[1]);
                } else {
                    fail("unknown key `" + key + "`");
                }
            });
            tensors.emplace(name, tensor);
        });
        return tensors;
    }

private:
    const char* at_;
    const char* end_;

    char next() {
        while (at_ < end_ && std::isspace(static_cast<unsigned char>(*at_))) at_++;
        if (at_ == end_) fail("the safetensors header ends early");
        return *at_;
    }
    void expect(char c) {
        if (next() != c) fail(std::string("the safetensors header has no `") + c + "` where one must be");
        at_++;
    }
    bool skip(char c) {
        bool there = next() == c;
        if (there) at_++;
        return there;
    }
    std::string string() {
        expect('"');
        std::string text;
        while (at_ < end_ && *at_ != '"') {
            if (*at_ == '\\' && ++at_ < end_ && *at_ == 'u') fail("names with \\u are not read");
            if (at_ < end_) text += *at_++;
        }
        expect('"');
        return text;
    }
    std::vector<int64_t> numbers() {
        std::vector<int64_t> all;
        expect('[');
        if (skip(']')) return all;
        do {
            next();
            int64_t n = 0;
            if (!std::isdigit(static_cast<unsigned char>(*at_))) fail("the safetensors header has no number where one must be");
            while (at_ < end_ && std::isdigit(static_cast<unsigned char>(*at_))) n = n * 10 + (*at_++ - '0');
            all.push_back(n);
        } while (skip(','));
        expect(']');
        return all;
    }
    template <class F> void each(F member) {
        expect('{');
        if (skip('}')) return;
        do {
            std::string key = string();
            expect(':');
            member(key);
        } while (skip(','));
        expect('}');
    }
};

// nvinfer1::DataType and bytes of an element; -1 for what 8.x cannot take.
std::pair<int32_t, size_t> type_of(const std::string& dtype) {
    if (dtype == "F32") return {0, 4};
    if (dtype == "F16") return {1, 2};
    if (dtype == "I8") return {2, 1};
    if (dtype == "I32") return {3, 4};
    return {-1, 0};
}

// A safetensors file whose tensors a refitter can be given. It has to outlive the refit.
class File {
public:
    explicit File(const std::string& path) : path_(path), file_(path) {
        uint64_t header_size = 0;
        if (file_.size < sizeof header_size) fail(path + " is no safetensors file");
        std::memcpy(&header_size, file_.data, sizeof header_size);
        if (header_size > file_.size - sizeof header_size) fail(path + " is cut short");
        data_ = file_.data + sizeof header_size + header_size;
        size_ = file_.size - sizeof header_size - header_size;
        tensors_ = Header(reinterpret_cast<const char*>(file_.data) + sizeof header_size, header_size).read();
    }

    const std::map<std::string, Tensor>& tensors() const { return tensors_; }

    void give(Handle* refitter, const std::string& name, const Tensor& tensor) const {
        auto [type, width] = type_of(tensor.dtype);
        if (type < 0) fail("TensorRT takes no " + tensor.dtype + " for `" + name + "`");
        size_t bytes = width * static_cast<size_t>(tensor.count);
        if (tensor.begin > tensor.end || tensor.end > size_ || tensor.end - tensor.begin != bytes)
            fail("`" + name + "` of " + path_ + " does not have the bytes that its shape says");
        Weights weights{type, data_ + tensor.begin, tensor.count};
        if (!call<bool>(refitter, kSetNamedWeights, name.c_str(), weights)) fail("setNamedWeights refused `" + name + "`");
    }

private:
    std::string path_;
    Mapped file_;
    const uint8_t* data_;
    size_t size_;
    std::map<std::string, Tensor> tensors_;
};

std::string folder_of(const std::string& path) {
    size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

// Beside its place, synced, then renamed: a plan that is served is never half a plan.
void replace(const std::string& path, const void* data, size_t size) {
    std::string beside = path + ".part";
    int file = open(beside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) fail_errno(beside);
    auto from = static_cast<const uint8_t*>(data);
    while (size > 0) {
        ssize_t n = write(file, from, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail_errno(beside);
        from += n;
        size -= static_cast<size_t>(n);
    }
    if (fsync(file) != 0) fail_errno(beside);
    close(file);
    if (rename(beside.c_str(), path.c_str()) != 0) fail_errno(path);
    int folder = open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
        fsync(folder);
        close(folder);
    }
}

// --- the refit ---

int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Prints what each step took.
class Steps {
public:
    explicit Steps(int64_t started) : started_(started), last_(started) {}
    void done(const char* step) {
        int64_t at = now();
        std::snprintf(text_ + std::strlen(text_), sizeof text_ - std::strlen(text_), "%s %.3f ", step, ms(at - last_));
        last_ = at;
    }
    void print(size_t changed, size_t given) const {
        std::printf("%stotal %.3f changed %zu given %zu\n", text_, ms(last_ - started_), changed, given);
    }

private:
    static double ms(int64_t ns) { return static_cast<double>(ns) / 1e6; }
    int64_t started_, last_;
    char text_[512] = "";
};

std::vector<std::string> names(Handle* refitter, Slot slot) {
    auto n = call<int32_t>(refitter, slot, int32_t{0}, static_cast<const char**>(nullptr));
    std::vector<const char*> found(static_cast<size_t>(std::max(n, 0)));
    n = call<int32_t>(refitter, slot, n, found.data());
    std::vector<std::string> all;
    for (int32_t i = 0; i < n; i++) {
        if (found[static_cast<size_t>(i)] != nullptr) all.emplace_back(found[static_cast<size_t>(i)]);
    }
    return all;
}

template <class F> F symbol(void* library, const char* name) {
    void* address = dlsym(library, name);
    if (address == nullptr) fail(std::string("the library has no ") + name);
    return reinterpret_cast<F>(address);
}

Handle* made(void* handle, const char* what) {
    if (handle == nullptr) fail(std::string(what) + " returned nothing");
    return static_cast<Handle*>(handle);
}

void refit(std::string library_path, const std::string& plan_path, const std::string& changed_path, const std::string& rest_path,
           int64_t started) {
    Steps steps(started);
    struct stat info {};
    if (stat(library_path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) library_path += "/libnvinfer.so.8";
    void* library = dlopen(library_path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) fail(dlerror());
    int32_t version = symbol<int32_t (*)()>(library, "getInferLibVersion")();
    if (version < 8500 || version > 8699) fail("the library is version " + std::to_string(version) + ", not 8.5 or 8.6");
    steps.done("load");

    static Logger logger; // TensorRT may still write to it when everything else is gone.
    auto create_runtime = symbol<void* (*)(Logger*, int32_t)>(library, "createInferRuntime_INTERNAL");
    auto create_refitter = symbol<void* (*)(Handle*, Logger*, int32_t)>(library, "createInferRefitter_INTERNAL");
    Handle* runtime = made(create_runtime(&logger, version), "createInferRuntime");
    steps.done("runtime");

    Handle* engine = nullptr;
    {
        Mapped plan(plan_path);
        const void* blob = plan.data;
        engine = made(call<void*>(runtime, kDeserializeCudaEngine, blob, plan.size, static_cast<void*>(nullptr)),
                      "deserializeCudaEngine");
    }
    if (!call<bool>(engine, kIsRefittable)) fail("the engine is not refittable");
    steps.done("deserialize");

    File changed(changed_path), rest(rest_path);
    steps.done("read");

    Handle* refitter = made(create_refitter(engine, &logger, version), "createInferRefitter");
    auto threads = static_cast<int32_t>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u));
    if (!call<bool>(refitter, kSetMaxThreads, threads)) fail("setMaxThreads failed");
    auto listed = names(refitter, kGetAllWeights);
    std::sort(listed.begin(), listed.end());
    for (const auto& [name, tensor] : changed.tensors()) {
        if (!std::binary_search(listed.begin(), listed.end(), name)) fail("`" + name + "` is no weight that the engine lists");
        changed.give(refitter, name, tensor);
    }
    size_t given = changed.tensors().size();
    // What is given may make more be asked for.
    std::vector<std::string> missing;
    while (!(missing = names(refitter, kGetMissingWeights)).empty()) {
        for (const std::string& name : missing) {
            auto found = rest.tensors().find(name);
            if (found == rest.tensors().end()) fail("`" + name + "` is asked for too, and in neither file");
            rest.give(refitter, name, found->second);
            given++;
        }
        if (given > changed.tensors().size() + rest.tensors().size()) fail("`" + missing[0] + "` is asked for again and again");
    }
    steps.done("set");

    if (!call<bool>(refitter, kRefitCudaEngine)) fail("refitCudaEngine failed");
    steps.done("refit");

    Handle* plan = made(call<void*>(engine, kSerialize), "serialize");
    steps.done("serialize");
    replace(plan_path, call<void*>(plan, kData), call<size_t>(plan, kSize));
    steps.done("write");

    for (Handle* handle : {plan, refitter, engine, runtime}) destroy(handle);
    steps.done("close");
    steps.print(changed.tensors().size(), given);
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 5 || argc > 6) {
        std::fprintf(stderr, "usage: peer LIBRARY PLAN CHANGED REST [STARTED]\n");
        return 2;
    }
    try {
        refit(argv[1], argv[2], argv[3], argv[4], argc == 6 ? std::strtoll(argv[5], nullptr, 10) : now());
    } catch (const std::exception& e) {
        std::fprintf(stderr, "peer: %s\n", e.what());
        return 1;
    }
    return 0;
}
