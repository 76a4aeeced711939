// A refittable TensorRT 8.5 or 8.6 plan as one would build it by hand, without trtmut: what `trtmut adopt` is tried on.
//
//   build LIBRARIES MODEL PLAN [NAME:MIN:OPT:MAX]...
//
// LIBRARIES is the folder of libnvinfer.so.8 and libnvonnxparser.so.8. Each dynamic input has its least, best and greatest shape,
// as in input_ids:1x9:2x16:3x32. Prints what TensorRT says that is worse than a warning, and the size of the plan.
//
//   g++ -O2 -std=c++17 build.cpp -o build -ldl
//
// TensorRT's headers are not needed: the few calls are made by their slots in the virtual tables of 8.5 and 8.6.

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <dlfcn.h>

namespace {

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

// A handle points to its implementation, whose first word is the table of virtual functions. Slot 1 of its own table deletes it.
struct Handle {
    void** own_table;
    void* implementation;
};

enum Slot : size_t {
    kCreateBuilderConfig = 9, // VBuilder
    kCreateNetworkV2 = 11,
    kCreateOptimizationProfile = 12,
    kBuildSerializedNetwork = 17,
    kClearFlag = 14, // VBuilderConfig
    kSetFlag = 15,
    kAddOptimizationProfile = 29,
    kSetDimensions = 2, // VOptimizationProfile
    kData = 2,          // VHostMemory
    kSize = 3,
    kParseFromFile = 1, // IParser, a plain class
    kGetNbErrors = 6,
    kGetError = 7,
    kDeleteParser = 10,
    kDesc = 1, // IParserError, a plain class
};
enum : int32_t { kREFIT = 5, kTF32 = 7 }; // BuilderFlag

template <class R, class... A> R call_of(void* self, Slot slot, A... arguments) {
    void** table = *static_cast<void***>(self);
    return reinterpret_cast<R (*)(void*, A...)>(table[slot])(self, arguments...);
}
template <class R, class... A> R call(Handle* handle, Slot slot, A... arguments) {
    return call_of<R, A...>(handle->implementation, slot, arguments...);
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

// nvinfer1::Dims32.
struct Dims {
    int32_t rank = 0;
    int32_t extents[8] = {};
};

Dims read_shape(const std::string& text) {
    Dims shape;
    std::stringstream parts(text);
    for (std::string part; std::getline(parts, part, 'x');) {
        if (shape.rank == 8) fail("`" + text + "` has more than 8 axes");
        char* end = nullptr;
        shape.extents[shape.rank++] = static_cast<int32_t>(std::strtol(part.c_str(), &end, 10));
        if (part.empty() || *end != '\0') fail("`" + text + "` is no shape like 1x9");
    }
    return shape;
}

struct Range {
    std::string input;
    Dims ends[3];
};

Range read_range(const std::string& text) {
    Range range;
    std::string rest = text;
    for (int i = 2; i >= 0; i--) {
        size_t colon = rest.rfind(':');
        if (colon == std::string::npos) fail("`" + text + "` is not NAME:MIN:OPT:MAX");
        range.ends[i] = read_shape(rest.substr(colon + 1));
        rest.resize(colon);
    }
    range.input = rest;
    return range;
}

template <class F> F symbol(void* library, const char* name) {
    void* address = dlsym(library, name);
    if (address == nullptr) fail(std::string("the library has no ") + name);
    return reinterpret_cast<F>(address);
}

void* opened(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (library == nullptr) fail(dlerror());
    return library;
}

Handle* made(void* handle, const char* what) {
    if (handle == nullptr) fail(std::string(what) + " returned nothing");
    return static_cast<Handle*>(handle);
}

void build(const std::string& folder, const std::string& model, const std::string& plan_path, const std::vector<Range>& ranges) {
    void* library = opened(folder + "/libnvinfer.so.8");
    void* parsers = opened(folder + "/libnvonnxparser.so.8");
    int32_t version = symbol<int32_t (*)()>(library, "getInferLibVersion")();
    if (version < 8500 || version > 8699) fail("the library is version " + std::to_string(version) + ", not 8.5 or 8.6");

    static Logger logger;
    auto create_builder = symbol<void* (*)(Logger*, int32_t)>(library, "createInferBuilder_INTERNAL");
    auto create_parser = symbol<void* (*)(Handle*, Logger*, int32_t)>(parsers, "createNvOnnxParser_INTERNAL");
    Handle* builder = made(create_builder(&logger, version), "createInferBuilder");
    Handle* network = made(call<void*>(builder, kCreateNetworkV2, uint32_t{1}), "createNetworkV2"); // the batch is explicit
    void* parser = create_parser(network, &logger, symbol<int32_t (*)()>(parsers, "getNvOnnxParserVersion")());
    if (parser == nullptr) fail("createNvOnnxParser returned nothing");
    if (!call_of<bool>(parser, kParseFromFile, model.c_str(), int32_t{2})) {
        std::string what = model + " cannot be parsed";
        for (int i = 0; i < call_of<int>(parser, kGetNbErrors); i++)
            what += std::string("; ") + call_of<const char*>(call_of<void*>(parser, kGetError, i), kDesc);
        fail(what);
    }

    Handle* config = made(call<void*>(builder, kCreateBuilderConfig), "createBuilderConfig");
    call<void>(config, kSetFlag, int32_t{kREFIT});
    // As torch computes, and as the outputs are compared with.
    call<void>(config, kClearFlag, int32_t{kTF32});
    if (!ranges.empty()) {
        Handle* profile = made(call<void*>(builder, kCreateOptimizationProfile), "createOptimizationProfile");
        for (const Range& range : ranges) {
            for (int32_t end = 0; end < 3; end++) {
                if (!call<bool>(profile, kSetDimensions, range.input.c_str(), end, range.ends[end]))
                    fail("the profile does not take the shapes of `" + range.input + "`");
            }
        }
        if (call<int32_t>(config, kAddOptimizationProfile, profile) < 0) fail("addOptimizationProfile failed");
    }
    Handle* plan = made(call<void*>(builder, kBuildSerializedNetwork, network, config), "buildSerializedNetwork");
    auto size = call<size_t>(plan, kSize);
    std::FILE* file = std::fopen(plan_path.c_str(), "wb");
    if (file == nullptr) fail(plan_path + ": " + std::strerror(errno));
    bool written = std::fwrite(call<void*>(plan, kData), 1, size, file) == size;
    if (std::fclose(file) != 0 || !written) fail(plan_path + " could not be written");
    std::printf("%s %zu bytes, TensorRT %d\n", plan_path.c_str(), size, version);

    // The network's weights are the parser's, so it goes after the build.
    destroy(plan);
    destroy(config);
    reinterpret_cast<void (*)(void*)>((*static_cast<void***>(parser))[kDeleteParser])(parser);
    destroy(network);
    destroy(builder);
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 4) {
        std::fprintf(stderr, "usage: build LIBRARIES MODEL PLAN [NAME:MIN:OPT:MAX]...\n");
        return 2;
    }
    try {
        std::vector<Range> ranges;
        for (int i = 4; i < argc; i++) ranges.push_back(read_range(argv[i]));
        build(argv[1], argv[2], argv[3], ranges);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "build: %s\n", e.what());
        return 1;
    }
    return 0;
}
